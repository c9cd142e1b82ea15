import { albertConfig, albertForMaskedLm, bertConfig, bertForMaskedLm } from "../src/models/index.js";
import { Weights, countParameters } from "../src/nn/index.js";
import { albertSpans, fullSentences, maskedLmObjective } from "../src/objectives/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { documents, maskedRows, take, tokenized, train, vocabularyOf } from "./encoders.js";
import { millions, plot, printTable, recipeOptions } from "./recipe.js";

const options = recipeOptions("albert");
const { smoke, scale } = options;
const setup = {
  vocabSize: smoke ? 400 : 2000,
  rowLength: 48,
  batchSize: 32,
  steps: smoke ? 4 : Math.round(450 * scale),
  learningRate: 2e-3,
};
const runtime = createRuntime({ ...(options.threads && { threads: options.threads }) });

const { name, texts } = documents(options);
const { tokenizer, vocabulary } = vocabularyOf(texts.flat(), setup.vocabSize);
const all = tokenized(tokenizer, texts);
const packing = { maxLength: setup.rowLength - 2, separatorId: vocabulary.separatorId };
const masking = { unit: "word", spans: albertSpans } as const;
const rowsOf = (from: typeof all, seed: number) =>
  maskedRows(fullSentences(from, packing), vocabulary, masking, { batchSize: setup.batchSize, seed });
const heldOut = take(rowsOf(all.slice(0, all.length / 10), 7), smoke ? 1 : 12);
const training = all.slice(all.length / 10);

const shared = { numLayers: 4, contextLength: setup.rowLength, vocabSize: tokenizer.vocabSize };
const noDropout = { hiddenDropout: 0, attentionDropout: 0 };
const networks = [
  {
    label: "BERT, 128 wide",
    model: bertForMaskedLm(bertConfig({ ...shared, hiddenSize: 128, numHeads: 4, ...noDropout })),
  },
  {
    label: "ALBERT, 128 wide",
    model: albertForMaskedLm(albertConfig({ ...shared, hiddenSize: 128, numHeads: 4, embeddingSize: 64 })),
  },
  {
    label: "ALBERT, 256 wide",
    model: albertForMaskedLm(albertConfig({ ...shared, hiddenSize: 256, numHeads: 4, embeddingSize: 64 })),
  },
];

const rows: string[][] = [];
const curves = [];
for (const { label, model } of networks) {
  const { encoder, head } = model;
  const objective = maskedLmObjective({
    model,
    encode: (inputs, context) => encoder.encode(inputs, context),
    maskedLosses: (hidden, labels) => head.losses(hidden, labels),
  });
  using weights = Weights.initialize(runtime, model, 1);
  const { curve, loss, seconds } = await train({
    name: label,
    objective,
    weights,
    source: rowsOf(training, 1),
    steps: setup.steps,
    learningRate: setup.learningRate,
    seed: 1,
    heldOut,
  });
  curves.push(curve);
  rows.push([label, millions(countParameters(model)), loss.toFixed(3), `${seconds.toFixed(0)} s`]);
}

console.log(`${name}: ${setup.steps} steps of ${setup.batchSize} rows of up to ${setup.rowLength} tokens`);
printTable(["network", "parameters", "held-out loss", "time"], rows);
await plot(`${options.out}/loss.svg`, "ALBERT: held-out masked-LM loss", curves);
