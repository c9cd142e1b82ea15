/**
 * LLaMA (Touvron et al. 2023) on the embedded stories, beside GPT-2 of the same size.
 *
 * The claim in miniature, section 2.2 of the paper: a norm before each sub-layer that only scales (RMSNorm), a gated
 * feed-forward layer (SwiGLU) and rotary positions make a better language model of the same number of parameters, trained
 * on the same tokens in the same order. The baseline is GPT-2: LayerNorm with biases, GELU, learned positions.
 *
 * The recipe ends where the field's own tools begin: the LLaMA becomes a GGUF, and llama.cpp, where its library is
 * installed, writes the same greedy text from it.
 *
 *   node dist/recipes/llama.js [steps] [folder]
 */
import { readFileSync } from "node:fs";
import path from "node:path";
import { writeAtomically } from "../src/base/files.js";
import { train } from "../src/cli/train.js";
import { Decoder, generate } from "../src/generation/index.js";
import { loadModel, saveGguf } from "../src/models/index.js";
import { countParameters } from "../src/nn/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { lossChart } from "../src/training/index.js";
import { LlamaCppModel, divergence, llamaCppFolder } from "../tests/support/llama-cpp.js";

const [, , steps = "120", out = "runs/llama-stories"] = process.argv;

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

const file = path.join(out, "llama.gguf");
const loaded = await loadModel(createRuntime(), path.join(out, "llama"));
await saveGguf(file, loaded, { format: "F32", name: "lineage stories" });
const prompt = loaded.tokenizer.encode("Once upon a time, there was a");
const newTokens = 60;
using decoder = await Decoder.create(loaded.model, loaded.weights, { batch: 1 });
const own: number[] = [];
for await (const { id } of generate(decoder, [prompt], { temperature: 0, maxNewTokens: newTokens }))
  if (id !== undefined) own.push(id);
console.log(`\n${file}, as lineage writes on:\n${loaded.tokenizer.decode([...prompt, ...own])}`);
if (llamaCppFolder) {
  using other = LlamaCppModel.load(file, { contextLength: budget.context, cache: "float32" });
  const theirs = other.greedy(prompt, newTokens);
  const same = theirs.every((id, index) => id === own[index]);
  console.log(
    `\nllama.cpp from the same file: ${same ? "the same text, token for token" : `another text:\n${loaded.tokenizer.decode([...prompt, ...theirs])}`}`,
  );
  other.reset();
  const rows = other.evaluate([...prompt, ...own], { all: true }).map((row) => row.slice());
  decoder.reset();
  const ownRows = [
    ...(await decoder.prefill([prompt])),
    ...(await decoder.extend(0, own)).map((row) => row.slice()),
  ];
  const mean =
    ownRows.reduce((sum, row, index) => sum + divergence(rows[prompt.length - 1 + index]!, row), 0) /
    ownRows.length;
  console.log(`mean KL divergence of the next token over the text: ${mean.toExponential(1)} nats`);
} else console.log("\nllama.cpp's library is not installed here: no comparison with it");
