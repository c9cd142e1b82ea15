/**
 * Aligning a model of SmolLM2-135M's shape, in float32, against what people use for it in Python and C++, in one run:
 *
 *   npm run build && node dist/bench/alignment.js --python PATH      a Python with torch, transformers and trl 1.12.0
 *   node dist/bench/alignment.js --only rollouts --prompts 16 --tokens 32
 *   node dist/bench/alignment.js --smoke                             seconds: checks that everything runs
 *
 * - Rollouts: completions of prompts, sampled at temperature 1, against transformers' `generate` and llama.cpp's parallel
 *   sequences (npm install --no-save @node-llama-cpp/linux-x64@3.22.1).
 * - A step of DPO with all weights, log-probabilities of the reference known, against trl's trainer.
 * - A round of PPO with a value network of its own, from completions to the updated weights, against trl's trainer. The
 *   reward costs nothing in either.
 *
 * Every measurement runs in a process of its own, one after the other: its peak memory is its own.
 */
import { existsSync, mkdirSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import type { Question, Shape } from "./alignment-own.js";
import { type Answer, Peer, inOwnProcess, median } from "./harness.js";
import { llamaCppFolder } from "./llama-cpp.js";

const { values: options } = parseArgs({
  options: {
    python: { type: "string", default: "python3" },
    threads: { type: "string" },
    prompts: { type: "string" },
    tokens: { type: "string" },
    steps: { type: "string" },
    only: { type: "string" },
    folder: { type: "string", default: "runs/bench-alignment" },
    smoke: { type: "boolean", default: false },
  },
});
const { smoke } = options;
const threads = Number(options.threads ?? process.env["LINEAGE_THREADS"] ?? os.availableParallelism());
const shape: Shape = smoke
  ? {
      ...{ vocabSize: 320, hiddenSize: 64, intermediateSize: 128, numLayers: 2, numHeads: 2 },
      ...{ numKeyValueHeads: 1, contextLength: 256 },
    }
  : {
      ...{ vocabSize: 49_152, hiddenSize: 576, intermediateSize: 1536, numLayers: 30, numHeads: 9 },
      ...{ numKeyValueHeads: 3, contextLength: 2048 },
    };
const sizes = smoke
  ? { prompts: 4, tokens: 8, batch: 2, steps: 1, pair: 8, learned: 2, answer: 4 }
  : { prompts: 64, tokens: 128, batch: 4, steps: 2, pair: 64, learned: 8, answer: 32 };
const steps = Number(options.steps ?? sizes.steps);

/** Ids of a text, the same in every engine; those of padding and of an end are not among them. */
const ids = (length: number, seed: number): number[] =>
  Array.from({ length }, (_, i) => 5 + ((i * 7919 + seed * 31) % 250));
const written = Number(options.tokens ?? sizes.tokens);
const longPrompts = Array.from({ length: Number(options.prompts ?? sizes.prompts) }, (_, index) =>
  // Prompts of 16 to 47 tokens.
  ids(16 + ((index * 13) % 32), index),
);
const common = {
  ...{ shape, threads, steps, epochs: 1, prompts: [], tokens: 0, pairs: [], batch: sizes.batch },
  gguf: path.join(options.folder, `${smoke ? "smoke" : "135m"}-f32.gguf`),
};
const pairs = Array.from({ length: (steps + 1) * sizes.batch }, (_, index) => ({
  prompt: ids(sizes.pair / 2, index),
  chosen: ids(sizes.pair, index + 1000),
  rejected: ids(sizes.pair, index + 2000),
}));
const short = Array.from({ length: sizes.learned }, (_, index) => ids(sizes.answer, index));

const ask = (question: Partial<Question> & Pick<Question, "op">): Promise<Answer | undefined> =>
  inOwnProcess<Answer>("alignment-own.js", { ...common, ...question });

/** The same question to Python, in a process of its own. */
async function askPython(
  question: Partial<Question> & Pick<Question, "op">,
): Promise<(Answer & { missing?: string }) | undefined> {
  const peer = await Peer.start(options.python, "alignment.py", threads);
  if (!peer) return undefined;
  try {
    return await peer.ask({ ...common, ...question });
  } finally {
    peer.stop();
  }
}

/** Prints a measurement; `tokens` are those of one of its steps. */
function report(
  name: string,
  engine: string,
  answer: Answer | undefined,
  tokens: number,
  own?: number,
): number | undefined {
  const missing = (answer as { missing?: string } | undefined)?.missing;
  if (!answer || missing !== undefined || answer.seconds.length === 0) {
    console.log(
      `${name.padEnd(34)}${engine.padEnd(14)}${`not here${missing ? `: ${missing}` : ""}`.padStart(9)}`,
    );
    return undefined;
  }
  const seconds = median(answer.seconds);
  console.log(
    `${name.padEnd(34)}${engine.padEnd(14)}${seconds.toFixed(2).padStart(9)}${(tokens / seconds).toFixed(1).padStart(10)}` +
      `${answer.peakMiB.toFixed(0).padStart(10)}${(own === undefined ? "" : (seconds / own).toFixed(2)).padStart(10)}`,
  );
  return seconds;
}

console.log(
  `${os.cpus()[0]?.model ?? "?"}, ${threads} threads, float32, ${shape.numLayers} layers of ${shape.hiddenSize}${smoke ? "; smoke run" : ""}`,
);
console.log("\nwhat                              engine          seconds   tokens/s  peak MiB  lineage x");
const wanted = (part: string): boolean =>
  options.only === undefined || options.only.split(",").includes(part);

if (wanted("rollouts")) {
  const name = `${longPrompts.length} prompts x ${written} tokens`;
  const tokens = longPrompts.length * written;
  const asked = { op: "rollouts", prompts: longPrompts, tokens: written } as const;
  const own = report(name, "lineage", await ask(asked), tokens);
  if (llamaCppFolder) {
    mkdirSync(options.folder, { recursive: true });
    if (!existsSync(common.gguf)) await ask({ op: "gguf" });
    report("", "llama.cpp", await ask({ ...asked, op: "llama.cpp" }), tokens, own);
  }
  report("", "transformers", await askPython(asked), tokens, own);
}
if (wanted("dpo")) {
  const rows = 2 * sizes.batch;
  const tokens = rows * 1.5 * sizes.pair;
  const name = `DPO step, ${sizes.batch} pairs of ${1.5 * sizes.pair} tokens`;
  const own = report(name, "lineage", await ask({ op: "dpo", pairs }), tokens);
  report("", "trl", await askPython({ op: "dpo", pairs }), tokens, own);
}
if (wanted("ppo")) {
  const tokens = 2 * short.length * sizes.answer;
  const name = `PPO round, ${short.length} of ${sizes.answer} + ${sizes.answer} tokens`;
  const asked = { op: "ppo", prompts: short, tokens: sizes.answer } as const;
  const own = report(name, "lineage", await ask(asked), tokens);
  report("", "trl", await askPython(asked), tokens, own);
}
