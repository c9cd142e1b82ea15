/**
 * Speed beside others' on the same work, in the same run:
 *
 *   npm run bench                        every subject, beside what is there of PyTorch, transformers.js and llama.cpp
 *   npm run bench -- matmul overhead     these subjects
 *   npm run bench -- --python PATH       a Python that has torch and transformers; default `python3`
 *   npm run bench -- --smoke             seconds instead of minutes: checks that everything runs
 *
 * Each subject is a file of this folder and runs in a process of its own, so that its peak memory is its own as well.
 */
import { spawnSync } from "node:child_process";
import os from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { createRuntime } from "../src/runtime/index.js";

/** Every subject, and whether PyTorch stands beside it. */
const subjects: Readonly<Record<string, { python: boolean }>> = {
  overhead: { python: false },
  matmul: { python: true },
  "gpt2-decoding": { python: true },
  "gpt2-training": { python: true },
  encoders: { python: true },
  translation: { python: true },
  "translation-training": { python: true },
  blocks: { python: false },
  llama: { python: false },
  slots: { python: false },
  adapters: { python: false },
  alignment: { python: true },
  "adapter-training": { python: true },
  evaluation: { python: true },
  cuda: { python: true },
};

const { values: options, positionals } = parseArgs({
  options: { python: { type: "string", default: "python3" }, smoke: { type: "boolean", default: false } },
  allowPositionals: true,
});
const unknown = positionals.filter((name) => !Object.hasOwn(subjects, name));
if (unknown.length > 0) {
  console.error(
    `error: there is no bench ${unknown.join(", ")}; there are ${Object.keys(subjects).join(", ")}`,
  );
  process.exit(1);
}

const runtime = createRuntime();
console.log(
  `${os.cpus()[0]?.model ?? "?"}, ${runtime.threads} threads, ONNX Runtime ${runtime.version}${options.smoke ? ", smoke run" : ""}`,
);
let failed = false;
for (const subject of positionals.length > 0 ? positionals : Object.keys(subjects)) {
  console.log(`\n${subject}`);
  const file = fileURLToPath(new URL(`${subject}.js`, import.meta.url));
  const flags = [
    ...(subjects[subject]!.python ? ["--python", options.python] : []),
    ...(options.smoke ? ["--smoke"] : []),
  ];
  const { status } = spawnSync(process.execPath, [file, ...flags], { stdio: "inherit" });
  failed ||= status !== 0;
}
process.exitCode = failed ? 1 : 0;
