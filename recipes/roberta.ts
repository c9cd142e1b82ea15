/**
 * RoBERTa (Liu et al. 2019) in miniature.
 *
 * The paper's claims that fit this size: masks drawn anew in every pass (dynamic masking) do as well as or better than masks
 * drawn once (static masking), and leaving next-sentence prediction out, with inputs packed full of sentences, helps. One
 * network is trained as BERT was: pairs of stretches, half of them from elsewhere, next-sentence prediction, static masks,
 * each seen in every pass (BERT saw each of its ten masks four times). The other is trained as RoBERTa: full sentences,
 * dynamic masks, masked language modelling alone. Both see the same number of tokens of the same documents. They are
 * measured by the masked-LM loss on held-out text cut either way, so that neither has its own format alone.
 *
 * Seen (800,000 tokens each, 45 s a network): held-out loss on full sentences 5.848 as BERT, 5.818 without next-sentence
 * prediction, 5.782 with dynamic masks too; on pairs 5.737, 5.744, 5.744. Both claims show where RoBERTa's own format is
 * read, by hundredths of a nat and from one seed.
 *
 *   node dist/recipes/roberta.js [--data FOLDER] [--out FOLDER] [--scale X] [--smoke]
 */
import { type Batch, ExampleSource } from "../src/data/index.js";
import { bertConfig, bertForPretraining, robertaConfig, robertaForMaskedLm } from "../src/models/index.js";
import { Weights, countParameters } from "../src/nn/index.js";
import {
  type MaskedRow,
  maskRow,
  maskedBatch,
  sentenceRow,
  type SentencePair,
  fullSentences,
  sentencePairs,
  maskedLmObjective,
} from "../src/objectives/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { type Objective, evaluate } from "../src/training/index.js";
import { documents, maskedRows, take, tokenized, train, vocabularyOf } from "./encoders.js";
import { millions, plot, printTable, recipeOptions } from "./recipe.js";

const options = recipeOptions("roberta");
const { smoke, scale } = options;
const setup = {
  vocabSize: smoke ? 400 : 2000,
  /** Tokens of a row, special ones included. */
  rowLength: 48,
  batchSize: 32,
  tokens: smoke ? 6_000 : 800_000 * scale,
  learningRate: 2e-3,
};
const runtime = createRuntime({ ...(options.threads && { threads: options.threads }) });

const { name, texts } = documents(options);
const { tokenizer, vocabulary } = vocabularyOf(texts.flat(), setup.vocabSize);
const all = tokenized(tokenizer, texts);
const [heldOut, training] = [all.slice(0, all.length / 10), all.slice(all.length / 10)];
const sizes = {
  hiddenSize: 128,
  numLayers: 3,
  numHeads: 4,
  contextLength: setup.rowLength,
  vocabSize: tokenizer.vocabSize,
  hiddenDropout: 0,
  attentionDropout: 0,
};
const { rowLength, batchSize } = setup;
const pairOptions = { maxLength: rowLength - 3, task: "next-sentence" } as const;
const packing = { maxLength: rowLength - 2, separatorId: vocabulary.separatorId };

/** `[CLS] A [SEP] B [SEP]` with the label of next-sentence prediction; `copies` passes have masks of their own. */
const pairSource = (from: typeof all, seed: number, copies: number) =>
  new ExampleSource<SentencePair, MaskedRow>({
    batchSize,
    seed,
    copies,
    examples: (random) => sentencePairs(from, pairOptions, random),
    length: ({ first, second }) => first.length + second.length,
    transform: ({ first, second, label }, random) =>
      maskRow({ ...sentenceRow(vocabulary, first, second), label }, vocabulary, {}, random),
    collate: (rows) => maskedBatch(rows, vocabulary.paddingId),
  });
/** Full sentences; `copies: 1` draws their masks once and shows them again in every pass. */
const fullSource = (from: typeof all, seed: number, copies = Infinity) =>
  maskedRows(fullSentences(from, packing), vocabulary, {}, { batchSize, seed, copies });

const realTokens = ({ tensors }: Batch): number =>
  (tensors["attentionMask"]!.data as Uint8Array).reduce((total, real) => total + real, 0);
/** Steps until a source has given as many real tokens as each set-up may see. */
function stepsFor<E, R>(source: ExampleSource<E, R>): number {
  let [steps, tokens] = [0, 0];
  for (; tokens < setup.tokens; steps++) tokens += realTokens(source.next());
  return steps;
}

const bert = bertForPretraining(bertConfig(sizes));
const bertObjective = maskedLmObjective({
  model: bert,
  encode: (inputs, context) => bert.encoder.encode(inputs, context),
  maskedLosses: (hidden, labels) => bert.head.predictions.losses(hidden, labels),
  sentenceLogits: (hidden) => bert.head.sentenceLogits(hidden),
});
// RoBERTa has one segment; the type of its second stretch would have no embedding.
const roberta = robertaForMaskedLm(robertaConfig({ ...sizes, padTokenId: vocabulary.paddingId }));
const robertaObjective = maskedLmObjective({
  model: roberta,
  encode: ({ tokenTypeIds: _, ...inputs }, context) => roberta.encoder.encode(inputs, context),
  maskedLosses: (hidden, labels) => roberta.head.losses(hidden, labels),
});

const held = {
  pairs: take(pairSource(heldOut, 7, 1), smoke ? 1 : 12),
  full: take(fullSource(heldOut, 7), smoke ? 1 : 12),
};
/** Masked-LM loss alone, of either cut of the held-out text. */
async function measure(objective: Objective, weights: Weights): Promise<string[]> {
  const losses: string[] = [];
  for (const batches of [held.pairs, held.full]) {
    const labelled = batches.map(({ tensors, counts }) => ({
      tensors: {
        ...tensors,
        sentenceLabels: tensors["sentenceLabels"] ?? { data: new Int32Array(batchSize), shape: [batchSize] },
      },
      counts: { sentence: batchSize, ...counts },
    }));
    losses.push((await evaluate(objective, weights, labelled)).parts["maskedLm"]!.toFixed(3));
  }
  return losses;
}

const rows: string[][] = [];
const curves = [];
for (const { label, objective, source, steps } of [
  {
    label: "BERT: NSP, static masks",
    objective: bertObjective,
    source: pairSource(training, 1, 1),
    steps: stepsFor(pairSource(training, 1, 1)),
  },
  {
    label: "no NSP, static masks",
    objective: robertaObjective,
    source: fullSource(training, 1, 1),
    steps: stepsFor(fullSource(training, 1, 1)),
  },
  {
    label: "RoBERTa: no NSP, dynamic masks",
    objective: robertaObjective,
    source: fullSource(training, 1),
    steps: stepsFor(fullSource(training, 1)),
  },
]) {
  using weights = Weights.initialize(runtime, objective.model, 1);
  const heldBatches = objective === bertObjective ? held.pairs : held.full;
  const trained = await train({
    name: label,
    objective,
    weights,
    source,
    steps,
    learningRate: setup.learningRate,
    seed: 1,
    heldOut: heldBatches,
    part: "maskedLm",
  });
  curves.push(trained.curve);
  rows.push([
    label,
    String(steps),
    ...(await measure(objective, weights)),
    `${trained.seconds.toFixed(0)} s`,
  ]);
}

const passes = setup.tokens / training.flat(2).length;
console.log(
  `${name}: ${millions(countParameters(roberta))} parameters, ${setup.tokens} tokens each, about ${passes.toFixed(1)} passes`,
);
printTable(["set-up", "steps", "loss on pairs", "loss on full sentences", "time"], rows);
await plot(`${options.out}/loss.svg`, "RoBERTa: held-out masked-LM loss in each one's own format", curves);
