import { bert, bertConfig, bertForMaskedLm } from "../src/models/index.js";
import { Weights, countParameters } from "../src/nn/index.js";
import { type Document, inverseRootFrequency, maskedLmObjective } from "../src/objectives/index.js";
import { createRuntime } from "../src/runtime/index.js";
import {
  accuracyCells,
  copyParameters,
  fineTuneAtRates,
  frequencyLoss,
  maskedRows,
  rowsOf,
  sentences,
  take,
  tokenCounts,
  train,
  vocabularyOf,
} from "./encoders.js";
import { millions, percent, plot, printTable, recipeOptions } from "./recipe.js";

const options = recipeOptions("bert");
const { smoke, scale } = options;
const setup = {
  vocabSize: smoke ? 400 : 3000,
  pretrainingSteps: smoke ? 4 : Math.round(6000 * scale),
  pretrainingRate: 2e-3,
  /** Twice the published share: small networks learn more from a step that hides more (Wettig et al. 2023). */
  maskingRate: 0.3,
  /** Steps of 32: fourteen passes over the few sentences; half a pass, one and three over all. */
  budgets: smoke
    ? [{ labels: 64, steps: 4 }]
    : [
        { labels: 500, steps: 216 },
        { labels: Infinity, steps: 108 },
        { labels: Infinity, steps: 216 },
        { labels: Infinity, steps: 650 },
      ],
  /** The best for training from scratch and the best for fine-tuning differ; each network is tried with all. */
  fineTuningRates: smoke ? [1e-3] : [5e-4, 1e-3, 2e-3],
  seeds: smoke ? [1] : [1, 2, 3],
};
const runtime = createRuntime({ ...(options.threads && { threads: options.threads }) });

const { name, train: labelled, dev } = sentences(options);
const { tokenizer, vocabulary } = vocabularyOf(
  labelled.map(({ text }) => text),
  setup.vocabSize,
);
const sizes = {
  hiddenSize: 128,
  numLayers: 2,
  numHeads: 4,
  contextLength: 64,
  vocabSize: tokenizer.vocabSize,
  /** Published: 0.02 for layers of 768; at 128, states spread as far with sqrt(6) times as much. */
  initializerRange: 0.05,
};
/** Few passes over the text leave nothing to dropout; few labels do. */
const config = bertConfig({ ...sizes, hiddenDropout: 0, attentionDropout: 0 });

// Pretraining: all sentences, no labels. The held-out ones show that masks are filled better and better.
const model = bertForMaskedLm(config);
const { encoder, head } = model;
const objective = maskedLmObjective({
  model,
  encode: (inputs, context) => encoder.encode(inputs, context),
  maskedLosses: (hidden, labels) => head.losses(hidden, labels),
});
const [read, heldRows] = [labelled, dev].map((rows) => rowsOf(tokenizer, rows, sizes.contextLength)) as [
  Document,
  Document,
];
// Content words are hidden more often than those that hold sentences together, by XLM's weights of tokens.
const counts = tokenCounts(read);
const masking = { rate: setup.maskingRate, weight: inverseRootFrequency(counts) };
// Only places that are hidden indeed: of those that keep their token a network need not know the language.
const hidden = { maskShare: 1, randomShare: 0 };
const heldOut = take(maskedRows(heldRows, vocabulary, hidden, { batchSize: 16, seed: 2 }), smoke ? 1 : 40);
using pretrained = Weights.initialize(runtime, model, 1);
const pretraining = await train({
  name: "masked LM",
  objective,
  weights: pretrained,
  source: maskedRows(read, vocabulary, masking, { batchSize: 32, seed: 1 }),
  steps: setup.pretrainingSteps,
  learningRate: setup.pretrainingRate,
  seed: 1,
  heldOut,
});

// Fine-tuning: the same labels, the same steps, from either beginning.
const table: string[][] = [];
for (const { labels: limit, steps: fullSteps } of setup.budgets) {
  const labels = Math.min(limit, labelled.length);
  const steps = Math.max(1, Math.round(fullSteps * scale));
  for (const start of ["from scratch", "pretrained"]) {
    const accuracies = await fineTuneAtRates({
      name: `${start}, ${labels} labels, ${steps} steps`,
      create: () => bert.heads.classify.create(bertConfig(sizes), 2),
      runtime,
      begin: (weights) => start === "pretrained" && copyParameters(pretrained, weights),
      train: labelled.slice(0, labels),
      dev,
      tokenizer,
      vocabulary,
      steps,
      rates: setup.fineTuningRates,
      seeds: setup.seeds,
    });
    table.push([start, String(labels), String(steps), ...accuracyCells(accuracies)]);
  }
}

console.log(
  `${name}: ${millions(countParameters(model))} parameters, ${labelled.length} sentences without labels; held-out masked-LM loss ` +
    `${pretraining.loss.toFixed(2)} after ${pretraining.tokens} tokens in ${pretraining.seconds.toFixed(0)} s, ` +
    `${frequencyLoss(counts, heldOut, tokenizer.vocabSize).toFixed(2)} by the frequencies of tokens alone`,
);
const common =
  Math.max(...[0, 1].map((label) => dev.filter((row) => row.label === label).length)) / dev.length;
printTable(
  ["start", "labels", "steps", ...setup.fineTuningRates.map((rate) => `rate ${rate}`), "best"],
  table,
);
console.log(
  `held-out accuracy, mean of ${setup.seeds.length} seeds with its standard error; the commoner class alone: ${percent(common)}`,
);
await plot(`${options.out}/pretraining.svg`, "BERT: held-out masked-LM loss", [pretraining.curve]);
