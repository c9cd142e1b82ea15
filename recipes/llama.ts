/**
 * LLaMA (Touvron et al. 2023) on the embedded stories, beside GPT-2 of the same size.
 *
 * The claim in miniature, section 2.2 of the paper: a norm before each sub-layer that only scales (RMSNorm), a gated
 * feed-forward layer (SwiGLU) and rotary positions make a better language model of the same number of parameters, trained
 * on the same tokens in the same order. The baseline is GPT-2: LayerNorm with biases, GELU, learned positions.
 *
 *   node dist/recipes/llama.js [steps] [folder]
 */
import { readFileSync } from "node:fs";
import path from "node:path";
import { writeAtomically } from "../src/base/files.js";
import { train } from "../src/cli/train.js";
import { loadModel } from "../src/models/index.js";
import { countParameters } from "../src/nn/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { lossChart } from "../src/training/index.js";

const [, , steps = "240", out = "runs/llama-stories"] = process.argv;

// 8 layers of 384 with tied embeddings: 15.1M parameters as a LLaMA, 15.2M as a GPT-2, since 3 x 1,024 is 2 x 4 x 384.
const budget = {
  data: "stories",
  vocabSize: 4096,
  layers: 8,
  hidden: 384,
  heads: 6,
  context: 128,
  batch: 8,
  steps: Number(steps),
  learningRate: 1e-3,
  warmup: 20,
  evalEvery: Math.max(1, Math.round(Number(steps) / 6)),
  validation: 0.01,
};

const systems = [
  { label: "LLaMA", folder: path.join(out, "llama"), options: { model: "llama", tieEmbeddings: true } },
  // The baseline reads the text with the same tokens.
  {
    label: "GPT-2",
    folder: path.join(out, "gpt2"),
    options: { model: "gpt2", tokenizer: path.join(out, "llama") },
  },
] as const;

const results = [];
for (const { label, folder, options } of systems) {
  const started = performance.now();
  await train({ ...budget, ...options }, { out: folder });
  const seconds = (performance.now() - started) / 1000;
  const held = readFileSync(path.join(folder, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { step: number; validationLoss?: number })
    .flatMap(({ step, validationLoss }) =>
      validationLoss === undefined ? [] : [{ step, loss: validationLoss }],
    );
  const { model, weights } = await loadModel(createRuntime(), folder);
  results.push({ label, held, seconds, parameters: countParameters(model) });
  weights.dispose();
}

await writeAtomically(path.join(out, "comparison.svg"), [
  lossChart(
    "Held-out loss on equal tokens",
    results.map(({ label, held }) => ({ label, points: held })),
  ),
]);

console.log(`\nheld-out loss after equal numbers of tokens (${budget.batch} x ${budget.context} a step):\n`);
console.log(`step      ${results.map(({ label }) => label.padStart(8)).join("")}`);
for (const [index, { step }] of results[0]!.held.entries())
  console.log(
    `${String(step).padEnd(10)}${results.map(({ held }) => held[index]!.loss.toFixed(4).padStart(8)).join("")}`,
  );
for (const { label, parameters, seconds } of results)
  console.log(`${label}: ${parameters.toLocaleString("en-US")} parameters, ${Math.round(seconds)} s`);
