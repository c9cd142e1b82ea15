/**
 * LLaMA (Touvron et al. 2023) on the embedded stories, beside GPT-2 of the same size.
 *
 * The claim in miniature, section 2.2 of the paper: a norm before each sub-layer that only scales (RMSNorm), a gated
 * feed-forward layer (SwiGLU) and rotary positions make a better language model of the same number of parameters, trained
 * on the same tokens in the same order. The baseline is GPT-2: LayerNorm with biases, GELU, learned positions. Neither has
 * dropout, and both start with residual weights that are smaller by the root of twice the layers: without that a LLaMA of
 * 3.4M parameters came to 1.645 in 300 steps, and with it to 1.140 (GPT-2 from 1.948 to 1.717), all at a rate of 2e-3.
 *
 * The claim shows: held-out loss 0.8134 after 500 steps, GPT-2 0.8906; LLaMA is where GPT-2 ends after some 350 steps. 1e-3 is
 * the best rate for both: in 120 steps 5e-4, 1e-3 and 2e-3 gave LLaMA 2.840, 2.605 and 4.234, GPT-2 3.395, 3.333 and 4.354.
 *
 * The recipe ends where the field's own tools begin: the LLaMA becomes a GGUF, and llama.cpp, where its library is
 * installed, writes the same greedy text from it.
 *
 *   node dist/recipes/llama.js [--out FOLDER] [--scale X] [--threads N] [--smoke]
 */
import path from "node:path";
import { saveGguf, saveModel } from "../src/checkpoints/index.js";
import { Decoder, generate } from "../src/generation/index.js";
import { Gpt2, Llama, gpt2Config, llamaConfig, systems } from "../src/models/index.js";
import { Weights, countParameters } from "../src/nn/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { LlamaCppModel, divergence, llamaCppFolder } from "../bench/llama-cpp.js";
import { storyTokens, trainDecoder } from "./decoders.js";
import { millions, plot, printTable, recipeOptions } from "./recipe.js";

const { out, smoke, scale, threads } = recipeOptions("llama-stories");
const steps = smoke ? 8 : Math.round(500 * scale);

// 8 layers of 384 with tied embeddings: 15.56M parameters as a LLaMA, 15.65M as a GPT-2, since 3 x 1,024 is 2 x 4 x 384.
const sizes = smoke
  ? { numLayers: 2, hiddenSize: 64, numHeads: 2 }
  : { numLayers: 8, hiddenSize: 384, numHeads: 6 };
const budget = {
  batchSize: 8,
  sequenceLength: 128,
  steps,
  evalEvery: smoke ? 4 : Math.max(1, Math.round(steps / 10)),
  learningRate: 1e-3,
};

// The stories give 3,646 of the tokens that are asked for: no pair of others occurs twice.
const tokens = storyTokens({
  count: smoke ? 400 : 12_000,
  vocabSize: smoke ? 512 : 4096,
  heldOut: 0.01,
});
const { tokenizer } = tokens;
const shape = { ...sizes, vocabSize: tokenizer.vocabSize, contextLength: budget.sequenceLength };

// ---- Two networks, the same tokens in the same order ------------------------------------------------------------------------

const runtime = createRuntime({ threads });
const llama = new Llama(llamaConfig({ ...shape, tieEmbeddings: true }));
const gpt2 = new Gpt2(gpt2Config({ ...shape, dropout: 0 }));
using weights = Weights.initialize(runtime, llama, 1);
using gpt2Weights = Weights.initialize(runtime, gpt2, 1);
const results = [
  await trainDecoder({ label: "LLaMA", model: llama, weights, tokens, ...budget }),
  await trainDecoder({ label: "GPT-2", model: gpt2, weights: gpt2Weights, tokens, ...budget }),
];
await saveModel(path.join(out, "llama"), { system: systems.llama, model: llama, weights, tokenizer });
await saveModel(path.join(out, "gpt2"), {
  system: systems.gpt2,
  model: gpt2,
  weights: gpt2Weights,
  tokenizer,
});

await plot(
  path.join(out, "loss.svg"),
  "LLaMA and GPT-2 of 15.6M parameters on stories: held-out loss",
  results,
);
printTable(
  [
    "held-out loss",
    `LLaMA, ${millions(countParameters(llama))}`,
    `GPT-2, ${millions(countParameters(gpt2))}`,
  ],
  [
    ...results[0]!.points.map(({ step }, index) => [
      `after ${step} steps`,
      ...results.map(({ points }) => points[index]!.loss.toFixed(4)),
    ]),
    ["seconds", ...results.map(({ seconds }) => seconds.toFixed(0))],
  ],
);

// ---- The same text in llama.cpp -----------------------------------------------------------------------------------------

const file = path.join(out, "llama.gguf");
await saveGguf(
  file,
  { system: systems.llama, model: llama, weights, tokenizer },
  { format: "F32", name: "lineage stories" },
);
const prompt = tokenizer.encode("Once upon a time, there was a");
const newTokens = budget.sequenceLength - prompt.length - 1;
using decoder = await Decoder.create({ model: llama, weights });
const own: number[] = [];
for await (const { id } of generate(decoder, [prompt], {
  temperature: 0,
  maxNewTokens: newTokens,
  stopIds: [],
}))
  if (id !== undefined) own.push(id);
console.log(`${file}, as lineage writes on:\n${tokenizer.decode([...prompt, ...own])}\n`);
if (llamaCppFolder) {
  using other = LlamaCppModel.load(file, { contextLength: budget.sequenceLength, cache: "float32" });
  const theirs = other.greedy(prompt, newTokens);
  const same = theirs.every((id, index) => id === own[index]);
  console.log(
    `llama.cpp from the same file: ${same ? `the same ${theirs.length} tokens` : `another text:\n${tokenizer.decode([...prompt, ...theirs])}`}`,
  );
  other.reset();
  const rows = other.evaluate([...prompt, ...own], { all: true }).map((row) => row.slice());
  const slot = decoder.open();
  const ownRows = [
    (await decoder.read(slot, prompt)).slice(),
    ...(await decoder.extend(slot, own)).map((row) => row.slice()),
  ];
  const mean =
    ownRows.reduce((sum, row, index) => sum + divergence(rows[prompt.length - 1 + index]!, row), 0) /
    ownRows.length;
  console.log(`mean KL divergence of the next token over the text: ${mean.toExponential(1)} nats`);
} else console.log("llama.cpp's library is not installed here: no comparison with it");
