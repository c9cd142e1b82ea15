/**
 * BERT (Devlin et al. 2019) in miniature.
 *
 * The paper's claim: a network pretrained on unlabelled text by masked language modelling, then fine-tuned, does better on
 * a task than the same network trained on the task alone. Here both get the same labelled sentences, the same number of
 * fine-tuning steps, the same learning rates; one of them has first filled masks in film reviews without labels. (Reviews in
 * SST-2 are single sentences, so that there is no next sentence to predict; recipes/roberta.ts has that objective.)
 *
 * Seen (6,000 pretraining steps, 5.4 million tokens, 31 passes over the 6,920 reviews: loss 4.86 nats at hidden places of
 * held-out reviews, 6.62 by the frequencies of tokens; then fine-tuning, the mean of three seeds with its standard error, the
 * best of three rates each; the commoner class alone is 50.9%):
 *
 *     labels  steps  from scratch   pretrained
 *      6,920    108   58.6% ±4.7    69.8% ±0.7
 *      6,920    216   74.7% ±0.6    75.8% ±0.7
 *      6,920    650   77.1% ±0.7    77.9% ±0.6
 *        500    216   64.1% ±1.7    64.0% ±0.6
 *
 * The claim shows while fine-tuning is short, and shrinks to about the error of measurement as it goes on. With few labels it
 * does not show: so few reviews teach which words go together, not which of them praise.
 *
 *   node dist/recipes/bert.js [--data FOLDER] [--out FOLDER] [--scale X] [--smoke]
 */
import { bertConfig, bertForMaskedLm, bertForSequenceClassification } from "../src/models/index.js";
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
      create: () => bertForSequenceClassification(bertConfig(sizes), 2),
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
