import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { vi } from "vitest";
import { runCommand } from "../../src/cli/program.js";

/** The built command line. */
export const main = fileURLToPath(new URL("../../dist/src/cli/main.js", import.meta.url));

/** The tests read what the command writes: colours, which CI asks for, stay out of it. */
export const environment: NodeJS.ProcessEnv = { ...process.env, NO_COLOR: "1", FORCE_COLOR: undefined };

export interface CommandResult {
  readonly stdout: string;
  readonly stderr: string;
  readonly status: number;
}

/** Runs a command to its end in this process: a process of its own takes a second to start. */
export async function lineage(...args: string[]): Promise<CommandResult> {
  const written = { stdout: "", stderr: "" };
  const spies = (["stdout", "stderr"] as const).map((name) =>
    vi.spyOn(process[name], "write").mockImplementation((text) => {
      written[name] += String(text);
      return true;
    }),
  );
  try {
    const status = await runCommand(args);
    return { ...written, status };
  } finally {
    for (const spy of spies) spy.mockRestore();
  }
}

/** Runs the built command line in a process of its own, for what only a process has: signals, limits, an environment, input. */
export const spawned = (
  args: readonly string[],
  { env, input = "" }: { readonly env?: NodeJS.ProcessEnv; readonly input?: string } = {},
): CommandResult => {
  const { stdout, stderr, status } = spawnSync(process.execPath, [main, ...args], {
    encoding: "utf8",
    env: { ...environment, ...env },
    input,
  });
  return { stdout, stderr, status: status ?? -1 };
};
