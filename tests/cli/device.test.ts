import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { createRuntime } from "../../src/runtime/index.js";

const main = fileURLToPath(new URL("../../dist/src/cli/main.js", import.meta.url));
const run = (...args: string[]) =>
  spawnSync(process.execPath, [main, ...args], { encoding: "utf8", env: { ...process.env, NO_COLOR: "1" } });

it("a device that there is not ends a command with one sentence", () => {
  const unknown = run("generate", "--model", "none", "--device", "tpu");
  expect(unknown.status).toBe(1);
  expect(unknown.stderr).toContain('--device must be cpu or cuda, not "tpu"');
  if (createRuntime().devices.includes("cuda")) return;
  const out = mkdtempSync(path.join(os.tmpdir(), "lineage-"));
  for (const command of [["train", "--data", "stories", "--out", out]]) {
    const missing = run(...command, "--device", "cuda");
    expect(missing.status).toBe(1);
    expect(missing.stderr).toMatch(/^error: ONNX Runtime .* has no device cuda here; it has .*cpu/);
  }
  rmSync(out, { recursive: true });
});
