import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

/** The built command line. */
export const main = fileURLToPath(new URL("../../dist/src/cli/main.js", import.meta.url));

/** The tests read what the command writes: colours, which CI asks for, stay out of it. */
export const environment: NodeJS.ProcessEnv = { ...process.env, NO_COLOR: "1", FORCE_COLOR: undefined };

/** Runs the command line to its end. */
export const lineage = (...args: string[]) =>
  spawnSync(process.execPath, [main, ...args], { encoding: "utf8", env: environment });
