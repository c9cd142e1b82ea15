/**
 * ELECTRA (Clark et al. 2020) in miniature.
 *
 * The paper's claim: telling replaced tokens from real ones teaches from every token, not from the 15% that are masked, so
 * that at equal pretraining compute the discriminator fine-tunes better than a masked language model of its size. Compute is
 * counted as floating-point operations of the layers and output layers, three passes' worth a step; ELECTRA pays for its
 * generator by taking fewer steps. Both encoders are then fine-tuned on the same few labelled sentences.
 *
 * Seen (500 labels, 150 steps of fine-tuning, the mean of two seeds, the better of two rates each): 63.2% of held-out
 * sentences right from scratch, 62.3% after 2,500 steps of masked LM, 51.8% after 2,674 of ELECTRA for the same operations;
 * 50.9% for the commoner class. The claim does not show, and ELECTRA does harm: in twelve passes over so little text its loss
 * hardly falls (26.9 to 25.7, generator and 50 times the discriminator), while masked LM gets from 6.8 to 4.5 nats and is of
 * no help with sentiment either.
 *
 *   node dist/recipes/electra.js [--data FOLDER] [--out FOLDER] [--scale X] [--smoke]
 */
import {
  ElectraPretraining,
  electraConfig,
  electraForMaskedLm,
  electraForSequenceClassification,
} from "../src/models/index.js";
import { Weights, countParameters } from "../src/nn/index.js";
import {
  ExampleSource,
  type MaskedRow,
  electraMasking,
  maskRow,
  maskedLmObjective,
  replacedTokenBatch,
  replacedTokenObjective,
  sentenceRow,
} from "../src/objectives/index.js";
import { createRuntime } from "../src/runtime/index.js";
import {
  copyParameters,
  fineTuneAtRates,
  maskedRows,
  sentences,
  tokenized,
  train,
  vocabularyOf,
} from "./encoders.js";
import { millions, percent, plot, printTable, recipeOptions } from "./recipe.js";

const options = recipeOptions("electra");
const { smoke, scale } = options;
const setup = {
  vocabSize: smoke ? 400 : 3000,
  maskedLmSteps: smoke ? 4 : Math.round(2500 * scale),
  /** Twice the published share, because it makes the baseline better (Wettig et al. 2023); ELECTRA keeps its 15%. */
  maskedLmRate: 0.3,
  batchSize: 32,
  pretrainingRate: 2e-3,
  fineTuningSteps: smoke ? 4 : Math.round(150 * scale),
  fineTuningRates: smoke ? [1e-3] : [5e-4, 2e-3],
  labels: smoke ? 64 : 500,
  seeds: smoke ? [1] : [1, 2],
};
const runtime = createRuntime({ ...(options.threads && { threads: options.threads }) });

const { name, train: labelled, dev } = sentences(options);
const { tokenizer, vocabulary } = vocabularyOf(
  labelled.map(({ text }) => text),
  setup.vocabSize,
);
const rows = tokenized(tokenizer, [labelled.map(({ text }) => text)])[0]!.map((row) => row.slice(0, 62));
const shape = {
  numLayers: 2,
  contextLength: 64,
  vocabSize: tokenizer.vocabSize,
  embeddingSize: 128,
  /** Published: 0.02 for layers of 768; at 128, states spread as far with sqrt(6) times as much. */
  initializerRange: 0.05,
};
const sizes = { ...shape, hiddenSize: 128, numHeads: 4 };
/** Few passes over the text leave nothing to dropout; few labels do. */
const noDropout = { hiddenDropout: 0, attentionDropout: 0 };
const config = electraConfig({ ...sizes, ...noDropout });
/** A quarter of the discriminator's width, as ELECTRA-Small has it. */
const generatorConfig = electraConfig({ ...shape, hiddenSize: 32, numHeads: 1, ...noDropout });

/** Operations of a step for each token: all layers, and the output layer at the masked places. */
const layerCost = (width: number) => shape.numLayers * 12 * width * width;
const outputCost = (rate: number) => rate * tokenizer.vocabSize * shape.embeddingSize;
const maskedLmCost = layerCost(config.hiddenSize) + outputCost(setup.maskedLmRate);
const electraCost =
  layerCost(config.hiddenSize) + layerCost(generatorConfig.hiddenSize) + outputCost(electraMasking.rate);
const electraSteps = Math.round((setup.maskedLmSteps * maskedLmCost) / electraCost);

const { batchSize, pretrainingRate: learningRate } = setup;
const maskedLm = electraForMaskedLm(config);
using maskedLmWeights = Weights.initialize(runtime, maskedLm, 1);
const first = await train({
  name: "masked LM",
  objective: maskedLmObjective({
    model: maskedLm,
    encode: (inputs, context) => maskedLm.encoder.encode(inputs, context),
    maskedLosses: (hidden, labels) => maskedLm.head.losses(hidden, labels),
  }),
  weights: maskedLmWeights,
  source: maskedRows(rows, vocabulary, { rate: setup.maskedLmRate }, { batchSize, seed: 1 }),
  steps: setup.maskedLmSteps,
  learningRate,
  seed: 1,
});

const model = new ElectraPretraining(config, generatorConfig);
using electraWeights = Weights.initialize(runtime, model, 1);
const second = await train({
  name: "replaced tokens",
  objective: replacedTokenObjective({
    model,
    generator: {
      encode: (inputs, context) => model.generator.encoder.encode(inputs, context),
      logits: (hidden) => model.generator.head.forward(hidden),
    },
    discriminator: {
      encode: (inputs, context) => model.discriminator.encoder.encode(inputs, context),
      logits: (hidden) => model.discriminator.head.forward(hidden),
    },
  }),
  weights: electraWeights,
  source: new ExampleSource<readonly number[], MaskedRow>({
    batchSize,
    seed: 1,
    examples: () => rows,
    length: (row) => row.length,
    transform: (row, random) => maskRow(sentenceRow(vocabulary, row), vocabulary, electraMasking, random),
    collate: (masked) => replacedTokenBatch(masked, vocabulary.paddingId),
  }),
  steps: electraSteps,
  learningRate,
  seed: 1,
});

const starts = [
  { label: "from scratch", copy: () => 0 },
  { label: "masked LM", copy: (weights: Weights) => copyParameters(maskedLmWeights, weights) },
  { label: "ELECTRA", copy: (weights: Weights) => copyParameters(electraWeights, weights, "discriminator.") },
];
const table: string[][] = [];
for (const { label, copy } of starts) {
  const accuracies = await fineTuneAtRates({
    name: label,
    create: () => electraForSequenceClassification(electraConfig(sizes), 2),
    runtime,
    begin: copy,
    train: labelled.slice(0, setup.labels),
    dev,
    tokenizer,
    vocabulary,
    steps: setup.fineTuningSteps,
    rates: setup.fineTuningRates,
    seeds: setup.seeds,
  });
  table.push([label, ...accuracies.map(percent), percent(Math.max(...accuracies))]);
}

console.log(
  `${name}: ${millions(countParameters(maskedLm.encoder))} parameters fine-tuned; ${setup.maskedLmSteps} steps of masked LM (${first.seconds.toFixed(0)} s) ` +
    `against ${electraSteps} of ELECTRA (${second.seconds.toFixed(0)} s) for the same operations; ${setup.labels} labels`,
);
printTable(["pretraining", ...setup.fineTuningRates.map((rate) => `rate ${rate}`), "best"], table);
await plot(`${options.out}/pretraining.svg`, "ELECTRA: training loss, weights of the parts included", [
  first.curve,
  second.curve,
]);
