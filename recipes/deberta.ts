import {
  DebertaPretraining,
  debertaConfig,
  debertaForMaskedLm,
  type DebertaConfig,
} from "../src/models/index.js";
import { Weights, countParameters } from "../src/nn/index.js";
import { fullSentences, maskedLmObjective } from "../src/objectives/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { documents, maskedRows, take, tokenized, train, vocabularyOf } from "./encoders.js";
import { millions, plot, printTable, recipeOptions } from "./recipe.js";

const options = recipeOptions("deberta");
const { smoke, scale } = options;
const setup = {
  vocabSize: smoke ? 400 : 2000,
  rowLength: 48,
  batchSize: 32,
  steps: smoke ? 4 : Math.round(600 * scale),
  learningRate: 2e-3,
  /** Twice the published share: small networks learn more from a step that hides more (Wettig et al. 2023). */
  maskingRate: 0.3,
};
const runtime = createRuntime({ ...(options.threads && { threads: options.threads }) });

const { name, texts } = documents(options);
const { tokenizer, vocabulary } = vocabularyOf(texts.flat(), setup.vocabSize);
const all = tokenized(tokenizer, texts);
const packing = { maxLength: setup.rowLength - 2, separatorId: vocabulary.separatorId };
const rowsOf = (from: typeof all, rate: number, seed: number) =>
  maskedRows(fullSentences(from, packing), vocabulary, { rate }, { batchSize: setup.batchSize, seed });
const heldOut = take(rowsOf(all.slice(0, all.length / 10), 0.15, 7), smoke ? 1 : 12);
const training = all.slice(all.length / 10);

const shape = (positions: Partial<DebertaConfig>): DebertaConfig =>
  debertaConfig({
    hiddenSize: 128,
    numLayers: 3,
    numHeads: 4,
    contextLength: setup.rowLength,
    vocabSize: tokenizer.vocabSize,
    hiddenDropout: 0,
    attentionDropout: 0,
    /** Published: 0.02 for layers of 768; at 128, states spread as far with sqrt(6) times as much. */
    initializerRange: 0.05,
    ...positions,
  });
const absolute = debertaForMaskedLm(shape({ positionTerms: [], positionBiasedInput: true }));
const relative = debertaForMaskedLm(shape({}));
const decoding = new DebertaPretraining(shape({}));
const networks = [
  {
    label: "absolute positions, as BERT",
    model: absolute,
    decode: absolute.encoder.encode.bind(absolute.encoder),
  },
  { label: "disentangled", model: relative, decode: relative.encoder.encode.bind(relative.encoder) },
  {
    label: "disentangled, mask decoder",
    model: decoding,
    decode: decoding.encoder.decode.bind(decoding.encoder),
  },
];

const rows: string[][] = [];
const curves = [];
for (const { label, model, decode } of networks) {
  const objective = maskedLmObjective({
    model,
    // DeBERTa has no segments.
    encode: ({ tokenTypeIds: _, ...inputs }, context) => decode(inputs, context),
    maskedLosses: (hidden, labels) => model.head.losses(hidden, labels),
  });
  using weights = Weights.initialize(runtime, model, 1);
  const { curve, loss, seconds } = await train({
    name: label,
    objective,
    weights,
    source: rowsOf(training, setup.maskingRate, 1),
    steps: setup.steps,
    learningRate: setup.learningRate,
    seed: 1,
    heldOut,
  });
  curves.push(curve);
  rows.push([label, millions(countParameters(model)), loss.toFixed(3), `${seconds.toFixed(0)} s`]);
}

console.log(`${name}: ${setup.steps} steps of ${setup.batchSize} rows of up to ${setup.rowLength} tokens`);
printTable(["positions", "parameters", "held-out loss", "time"], rows);
await plot(`${options.out}/loss.svg`, "DeBERTa: held-out masked-LM loss", curves);
