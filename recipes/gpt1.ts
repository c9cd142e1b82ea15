/**
 * GPT-1 (Radford et al. 2018) on the sentences of SST-2: generative pretraining on all of them without labels, then
 * fine-tuning by input transformation (start, extract) on some of the labels, beside the same network from scratch, each
 * with the auxiliary language-model loss of 0.5 and without it. Table 5 of the paper in small.
 *
 *   node dist/recipes/gpt1.js [--out FOLDER] [--scale X] [--threads N] [--smoke]
 */
import { rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { saveModel } from "../src/checkpoints/index.js";
import type { Tokens } from "../src/data/index.js";
import { Gpt1, gpt1Config, systems } from "../src/models/index.js";
import { Weights, countParameters } from "../src/nn/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { finetune } from "../src/tasks/index.js";
import { trainWordBpe } from "../src/tokenizers/index.js";
import { trainDecoder } from "./decoders.js";
import { sentences } from "./encoders.js";
import { millions, percent, plot, printTable, recipeOptions } from "./recipe.js";

const options = recipeOptions("gpt1");
const { out, smoke, scale, threads } = options;
const setup = {
  vocabSize: smoke ? 400 : 3000,
  pretrainingSteps: smoke ? 4 : Math.round(600 * scale),
  /** Labelled sentences, and passes over them. */
  budgets: smoke
    ? [{ labels: 64, epochs: 1 }]
    : [
        { labels: 500, epochs: 6 },
        { labels: Infinity, epochs: scale },
      ],
  coefficients: [0, 0.5],
  seeds: smoke ? [1] : [1, 2],
  /** Section 4.1 has 6.25e-5 for 117M parameters; small networks bear more. */
  learningRate: 5e-4,
};
const runtime = createRuntime({ threads });
const { name, train, dev } = sentences(options);

// ---- Pretraining: the sentences one after the other, no labels ---------------------------------------------------------------

const tokenizer = trainWordBpe(
  train.map(({ text }) => text),
  { vocabSize: setup.vocabSize },
);
const tokensOf = (rows: typeof train): Tokens =>
  Int32Array.from(rows.flatMap(({ text }) => [...tokenizer.encode(text), tokenizer.endOfTextId!]));
const config = gpt1Config({
  ...{ hiddenSize: 128, numLayers: 2, numHeads: 4, contextLength: 64, vocabSize: tokenizer.vocabSize },
  /** Published: 0.02 for layers of 768; at 128, states spread as far with sqrt(6) times as much. */
  initializerRange: 0.05,
  dropout: 0.1,
});
const model = new Gpt1(config);
const folders = { "from scratch": path.join(out, "scratch"), pretrained: path.join(out, "pretrained") };
using weights = Weights.initialize(runtime, model, 1);
await saveModel(folders["from scratch"], { system: systems.gpt1, model, weights, tokenizer });
const steps = setup.pretrainingSteps;
const pretraining = await trainDecoder({
  ...{ label: "pretraining", model, weights, steps },
  tokens: { training: tokensOf(train), heldOut: tokensOf(dev) },
  ...{ batchSize: smoke ? 4 : 32, sequenceLength: 64, learningRate: 1e-3 },
  evalEvery: Math.max(1, Math.round(steps / 10)),
});
await saveModel(folders.pretrained, { system: systems.gpt1, model, weights, tokenizer });

// ---- Fine-tuning: the same labels and steps, from either beginning, with the auxiliary loss and without ---------------------

const table = (file: string, rows: typeof train): string => {
  const place = path.join(out, file);
  writeFileSync(
    place,
    rows.map(({ text, label }) => `${JSON.stringify({ text, label: String(label) })}\n`).join(""),
  );
  return place;
};
const held = table("dev.jsonl", dev);
const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
const error = (values: readonly number[]): number =>
  Math.sqrt(mean(values.map((value) => (value - mean(values)) ** 2)) / Math.max(1, values.length - 1));

const rows: string[][] = [];
for (const [start, folder] of Object.entries(folders)) {
  for (const lmCoefficient of setup.coefficients) {
    const cells: string[] = [];
    for (const { labels, epochs } of setup.budgets) {
      const data = table(`train-${Math.min(labels, train.length)}.jsonl`, train.slice(0, labels));
      const accuracies: number[] = [];
      for (const seed of setup.seeds) {
        const run = path.join(out, "run");
        rmSync(run, { recursive: true, force: true });
        const { metrics } = await finetune(
          {
            ...{ model: folder, task: "classify", data, eval: held, out: run },
            ...{ lmCoefficient, epochs, batch: 32, learningRate: setup.learningRate, maxLength: 64, seed },
          },
          { runtime },
        );
        accuracies.push(metrics!["accuracy"]!);
        process.stderr.write(
          `${start}, ${lmCoefficient}, ${labels} labels, seed ${seed}: ${percent(accuracies.at(-1)!)}\n`,
        );
      }
      cells.push(`${percent(mean(accuracies))} ±${(100 * error(accuracies)).toFixed(1)}`);
    }
    rows.push([start, String(lmCoefficient), ...cells]);
  }
}

console.log(
  `${name}: ${millions(countParameters(model))} parameters; held-out loss of the language model ${pretraining.points.at(-1)!.loss.toFixed(2)} ` +
    `after ${steps} steps in ${pretraining.seconds.toFixed(0)} s, ${pretraining.points[0]!.loss.toFixed(2)} after the first tenth`,
);
printTable(
  [
    "start",
    "auxiliary loss",
    ...setup.budgets.map(({ labels }) => `${Math.min(labels, train.length)} labels`),
  ],
  rows,
);
console.log(
  `held-out accuracy, mean of ${setup.seeds.length} seeds with its standard error; the commoner class alone: ` +
    percent(Math.max(...[0, 1].map((label) => dev.filter((row) => row.label === label).length)) / dev.length),
);
await plot(path.join(out, "pretraining.svg"), "GPT-1: held-out loss of the language model", [pretraining]);
