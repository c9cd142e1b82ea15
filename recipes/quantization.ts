/**
 * Weights in fewer bits: what each form costs in error, in perplexity and in the next token's distribution.
 *
 * The claims in miniature: 8-bit blocks are as good as full precision; at 4 bits smaller blocks and better scales pay; and
 * NF4 (Dettmers et al. 2023), whose values are the quantiles of a normal distribution, errs less than evenly spaced
 * values with the same scale for as many weights. The baseline is the model in full precision.
 *
 * All of it shows in the error of the weights (7.7% with zero points and 16 scales, 8.6% without, in blocks of 32; NF4 9.2%,
 * even spacing 9.5%, in blocks of 64). What a small model of stories says hardly changes: 8 bits of 15.6M parameters diverge
 * by 1e-5 nats, 4 bits by 3e-4 to 6e-4, NF4 no less. SmolLM2-135M's words show it: 1.3e-2 nats in 8 bits, 0.54 to 0.94 in 4
 * bits, and in blocks of 64 0.56 for NF4 where even spacing has 0.77.
 *
 *   node dist/recipes/quantization.js                  trains a small LLaMA on the embedded stories first
 *   node dist/recipes/quantization.js --model MODEL [--text FILE] [--tokens N]
 *                                                      a checkpoint folder or .gguf, on any text
 *   also [--out FOLDER] [--scale X] [--threads N] [--smoke]
 */
import { existsSync } from "node:fs";
import path from "node:path";
import { readText } from "../src/base/files.js";
import { stories } from "../src/data/index.js";
import { compile, input, tokenLosses } from "../src/graph/index.js";
import { loadModel, saveModel } from "../src/checkpoints/index.js";
import { Llama, llamaConfig, systems } from "../src/models/index.js";
import { type WeightSet, Weights, namedParameters } from "../src/nn/index.js";
import {
  type QuantizationScheme,
  dequantizeWeight,
  matrixOf,
  eachRow,
  packableWeights,
  quantizeWeights,
} from "../src/quantization/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { storyTokens, trainDecoder } from "./decoders.js";
import { plot, printTable, recipeOptions } from "./recipe.js";

const options = recipeOptions("quantization", {
  model: { type: "string" },
  text: { type: "string" },
  tokens: { type: "string" },
});
const { out, smoke, scale, threads } = options;
const wanted = Number(options.tokens ?? (smoke ? 512 : 4096));
const source = options.model ?? path.join(out, "model");

const runtime = createRuntime({ threads });
if (options.model === undefined && !existsSync(path.join(source, "model.safetensors"))) {
  const stories = storyTokens({ count: smoke ? 400 : 12_000, vocabSize: smoke ? 512 : 2048, heldOut: 0.02 });
  const llama = new Llama(
    llamaConfig({
      ...(smoke
        ? { numLayers: 1, hiddenSize: 128, numHeads: 2 }
        : { numLayers: 4, hiddenSize: 256, numHeads: 4 }),
      vocabSize: stories.tokenizer.vocabSize,
      contextLength: 128,
      tieEmbeddings: true,
    }),
  );
  using trained = Weights.initialize(runtime, llama, 1);
  await trainDecoder({
    label: "LLaMA",
    model: llama,
    weights: trained,
    tokens: stories,
    batchSize: 8,
    sequenceLength: 128,
    steps: smoke ? 8 : Math.round(600 * scale),
    evalEvery: smoke ? 4 : 100,
    learningRate: 2e-3,
  });
  await saveModel(source, {
    system: systems.llama,
    model: llama,
    weights: trained,
    tokenizer: stories.tokenizer,
  });
}

const { model, weights, tokenizer } = await loadModel(runtime, source, { kind: "decoder" });
// Stories far from the seeds that the embedded corpus is made of.
const text = options.text
  ? await readText(options.text)
  : [...stories({ seed: 5_000_000, count: 200 })].join("\n\n");
const sequence = Math.min(256, model.config.contextLength);
const tokens = tokenizer.encode(text).slice(0, wanted + 1);

// ---- What is measured -------------------------------------------------------------------------------------------------

interface Measured {
  readonly loss: number;
  /** Logits of every position, a row of the text at a time. */
  readonly logits: readonly Float32Array[];
}

/** The model over the text in rows of `sequence` tokens. */
async function measure(set: WeightSet): Promise<Measured> {
  namedParameters(model);
  const inputIds = input("inputIds", "int32", ["batch", "sequence"]);
  const labels = input("labels", "int32", ["batch", "sequence"]);
  const logits = model.forward(inputIds);
  using program = await compile(
    runtime,
    { losses: tokenLosses(logits, labels), logits },
    { name: "evaluation", constants: set.constants },
  );
  const rows: Float32Array[] = [];
  let [sum, count] = [0, 0];
  for (let start = 0; start + 1 < tokens.length; start += sequence) {
    const length = Math.min(sequence, tokens.length - 1 - start);
    const ids = (offset: number) => Int32Array.from(tokens.slice(start + offset, start + offset + length));
    using x = runtime.createTensor("int32", [1, length], ids(0));
    using y = runtime.createTensor("int32", [1, length], ids(1));
    const result = await program.run({ ...set.tensors, inputIds: x, labels: y });
    ((await result["losses"]!.read()) as Float32Array).forEach((loss) => (sum += loss));
    count += length;
    rows.push((await result["logits"]!.read()) as Float32Array);
    for (const tensor of Object.values(result)) tensor.dispose();
  }
  return { loss: sum / count, logits: rows };
}

/** Mean Kullback-Leibler divergence of the next token's distribution from the full model's, in nats. */
function divergence(full: Measured, other: Measured): number {
  const { vocabSize } = model.config;
  let [sum, count] = [0, 0];
  const normalizer = (row: Float32Array): number => {
    let peak = -Infinity;
    for (const value of row) if (value > peak) peak = value;
    let total = 0;
    for (const value of row) total += Math.exp(value - peak);
    return peak + Math.log(total);
  };
  full.logits.forEach((all, index) => {
    for (let at = 0; at < all.length; at += vocabSize) {
      const p = all.subarray(at, at + vocabSize);
      const q = other.logits[index]!.subarray(at, at + vocabSize);
      const [pSum, qSum] = [normalizer(p), normalizer(q)];
      for (let id = 0; id < vocabSize; id++)
        sum += Math.exp(p[id]! - pSum) * (p[id]! - pSum - (q[id]! - qSum));
      count++;
    }
  });
  return sum / count;
}

// ---- The forms ----------------------------------------------------------------------------------------------------------

const forms: readonly (readonly [label: string, scheme: QuantizationScheme])[] = [
  ["8 bits, blocks of 32", { bits: 8 }],
  ["8 bits, blocks of 128", { bits: 8, blockSize: 128 }],
  ["8 bits, rows, and inputs", { bits: 8, blockSize: "row" }],
  ["4 bits, blocks of 32", { bits: 4, symmetric: true }],
  ["  the best of 16 scales", { bits: 4, symmetric: true, candidates: 16 }],
  ["  with zero points", { bits: 4 }],
  ["  zero points, 16 scales", { bits: 4, candidates: 16 }],
  ["4 bits, blocks of 64", { bits: 4, blockSize: 64, symmetric: true }],
  ["NF4, blocks of 64", { bits: "nf4" }],
  ["4 bits, blocks of 128", { bits: 4, blockSize: 128, symmetric: true }],
  ["  zero points, 16 scales", { bits: 4, blockSize: 128, candidates: 16 }],
];

const full = await measure(weights);
const packable = packableWeights(model);
const size = [...namedParameters(model).values()].reduce((sum, parameter) => sum + parameter.size, 0);

console.log(
  `\n${tokens.length - 1} tokens; full precision: loss ${full.loss.toFixed(4)}, perplexity ${Math.exp(full.loss).toFixed(3)}\n`,
);
const rows = [];
const points: { step: number; loss: number }[] = [];
for (const [label, scheme] of forms) {
  using packed = await quantizeWeights(model, weights, scheme);
  let [difference, total] = [0, 0];
  for (const [name, weight] of Object.entries(packed.constants.packed)) {
    const place = packable.get(name)!;
    if (weight.kind === "half" || place.kind === "embedding") continue;
    const rounded = dequantizeWeight(weight);
    eachRow(matrixOf(weights.get(name).view(), weights.get(name).shape, place.transposed), (row, values) => {
      values.forEach((value, column) => {
        difference += (value - rounded[row * weight.columns + column]!) ** 2;
        total += value ** 2;
      });
    });
  }
  const measured = await measure(packed);
  const bits = (8 * packed.byteLength) / size;
  const perplexity = Math.exp(measured.loss);
  const apart = divergence(full, measured);
  points.push({ step: bits, loss: Math.log10(apart) });
  rows.push([
    label,
    bits.toFixed(2),
    `${(100 * Math.sqrt(difference / total)).toFixed(2)}%`,
    perplexity.toFixed(4),
    `${(100 * (Math.exp(measured.loss - full.loss) - 1)).toFixed(2)}%`,
    apart.toExponential(1),
  ]);
}
printTable(["form", "bits/weight", "error of linear weights", "perplexity", "change", "KL (nats)"], rows);

// Of forms that take as many bits, the best.
const best = points.filter(
  ({ step, loss }) => !points.some((other) => Math.abs(other.step - step) < 0.05 && other.loss < loss),
);
await plot(
  path.join(out, "divergence.svg"),
  "Quantisation: divergence from full precision",
  [{ label: "the best form of each size", points: best.sort((a, b) => a.step - b.step) }],
  { x: "bits a weight", y: "divergence, log10 of nats" },
);
