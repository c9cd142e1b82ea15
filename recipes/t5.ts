/**
 * T5 (Raffel et al. 2020): every task is text to text, told by a prefix.
 *
 * The claim in miniature (sections 2.4, 3.1.4 and 3.5.2): one network learns several tasks by their prefixes about as well as
 * a network for each, and writing hidden spans of plain text first makes all of them better. Three tasks: captions from German
 * to English (Multi30k, BLEU), whether a film review is good (SST-2, accuracy), and captions whose words were put in
 * alphabetical order, to be put right again (BLEU). Tasks are mixed in proportion to their examples up to a limit. All
 * networks together see as many batches as the one network alone.
 *
 *   node dist/recipes/t5.js [--data FOLDER with multi30k and sst2, default ../shared/data] [--out FOLDER] [--smoke]
 *
 * Without the folder, the embedded stories are the captions, and a review says whether a sentence has "not" in it.
 */
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import {
  type BatchSource,
  MixedSource,
  type TextPair,
  mixingRates,
  pairBatch,
  pairLengths,
  pairsOnce,
} from "../src/data/index.js";
import { bleu } from "../src/metrics/index.js";
import { T5, t5, t5Table } from "../src/models/index.js";
import { Weights, countParameters } from "../src/nn/index.js";
import { corruptSpans, sequenceToSequenceObjective } from "../src/objectives/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { sentinelsOf, trainTokenizer } from "../src/tokenizers/index.js";
import { adafactor } from "../src/training/index.js";
import { millions, percent, plot, printTable, recipeOptions } from "./recipe.js";
import { captions, train, written } from "./sequences.js";

const options = recipeOptions("t5");
const { smoke, scale, data: folder, out, threads } = options;
const settings = {
  vocabSize: smoke ? 600 : 4000,
  hiddenSize: smoke ? 32 : 128,
  numLayers: smoke ? 1 : 3,
  numHeads: 4,
  dropout: 0.1,
  maxTokens: smoke ? 256 : 1024,
  pretrainingSteps: smoke ? 6 : Math.round(600 * scale),
  /** Of the one network; each network for one task has a third of them. */
  steps: smoke ? 9 : Math.round(900 * scale),
  /** Adafactor's steps are relative to the size of a parameter. */
  learningRate: 1e-2,
  /** Examples that a task counts for at most: the artificial limit of section 3.5.2. */
  limit: 10_000,
  tested: smoke ? 10 : 300,
  seed: 1,
};

// ---- Tasks --------------------------------------------------------------------------------------------------------

interface Example {
  readonly source: string;
  readonly target: string;
}
interface Task {
  readonly name: string;
  readonly examples: readonly Example[];
  readonly test: readonly Example[];
  /** What the texts score, in words, from 0 to 1. */
  readonly score: (texts: readonly string[], wanted: readonly string[]) => number;
  readonly shown: (score: number) => string;
}

const { name: corpus, train: sentences, test } = captions(options);
const reviews = (part: string, texts: readonly string[]): Example[] => {
  const file = path.join(folder, "sst2", `${part}.tsv`);
  const rows = existsSync(file)
    ? readFileSync(file, "utf8")
        .trimEnd()
        .split("\n")
        .map((line) => line.split("\t") as [string, string])
    : texts.map((text): [string, string] => [text, /\bnot\b/.test(text) ? "1" : "0"]);
  return rows.map(([text, label]) => ({
    source: `sst2 sentence: ${text}`,
    target: label === "1" ? "positive" : "negative",
  }));
};
const translated = (lines: { readonly en: readonly string[]; readonly de: readonly string[] }): Example[] =>
  lines.de.map((text, line) => ({ source: `translate German to English: ${text}`, target: lines.en[line]! }));
const ordered = (texts: readonly string[]): Example[] =>
  texts.map((text) => ({ source: `order: ${text.split(" ").sort().join(" ")}`, target: text }));
const byBleu = {
  score: (texts: readonly string[], wanted: readonly string[]) => bleu(texts, [wanted]).score / 100,
  shown: (score: number) => (100 * score).toFixed(1),
};
const tasks: readonly Task[] = [
  { name: "translation, BLEU", examples: translated(sentences), test: translated(test), ...byBleu },
  {
    name: "reviews, accuracy",
    examples: reviews("train", sentences.en).slice(0, smoke ? 100 : undefined),
    test: reviews("dev", test.en),
    score: (texts, wanted) => texts.filter((text, index) => text === wanted[index]).length / texts.length,
    shown: percent,
  },
  { name: "order, BLEU", examples: ordered(sentences.en), test: ordered(test.en), ...byBleu },
];

// ---- The network --------------------------------------------------------------------------------------------------

const texts = tasks.flatMap(({ examples }) => examples.flatMap(({ source, target }) => [source, target]));
const tokenizer = trainTokenizer(t5.tokenizer, texts, settings.vocabSize);
const sentinels = sentinelsOf(tokenizer);
const [padId, endId] = [tokenizer.padId!, tokenizer.eosId!];
const encode = (text: string) => [...tokenizer.encode(text).slice(0, 62), endId];
const encoded = ({ source, target }: Example): TextPair => ({
  source: encode(source),
  target: encode(target),
});
const model = new T5(
  t5Table.create({
    vocabSize: tokenizer.vocabSize,
    contextLength: 64,
    hiddenSize: settings.hiddenSize,
    headSize: settings.hiddenSize / settings.numHeads,
    intermediateSize: 4 * settings.hiddenSize,
    numLayers: settings.numLayers,
    numHeads: settings.numHeads,
    dropout: settings.dropout,
    padTokenId: padId,
    decoderStartTokenId: padId,
  }),
);
const batch = { padId, startId: padId };
const runtime = createRuntime({ threads });
const objective = sequenceToSequenceObjective(model);
console.log(
  `${corpus}: ${tasks.map(({ name, examples }) => `${name.split(",")[0]} ${examples.length}`).join(", ")} examples; ${millions(countParameters(model))} parameters`,
);

const { seed, maxTokens, learningRate } = settings;
/** Examples of some tasks side by side, by their rates. */
const mixed = (chosen: readonly Task[]) => {
  const rates = mixingRates(
    chosen.map(({ examples }) => examples.length),
    { limit: settings.limit },
  );
  return new MixedSource({
    parts: chosen.map(({ examples }, part) => ({ examples: examples.map(encoded), rate: rates[part]! })),
    seed,
    maxTokens,
    transform: (pair) => pair,
    ...pairLengths,
    collate: (rows) => pairBatch(rows, batch),
  });
};
/** Plain sentences of all tasks, without labels, with spans that are hidden. */
const spans = () =>
  new MixedSource({
    parts: [sentences.en, sentences.de].map((part) => ({
      examples: part.map((text) => tokenizer.encode(text).slice(0, 60)).filter(({ length }) => length > 1),
      rate: 1,
    })),
    seed,
    maxTokens,
    transform: (ids, random): TextPair => {
      const { inputIds, targetIds } = corruptSpans(ids, sentinels, {}, random);
      return { source: [...inputIds, endId], target: [...targetIds, endId] };
    },
    ...pairLengths,
    collate: (rows) => pairBatch(rows, batch),
  });
const learn = (name: string, weights: Weights, source: BatchSource, steps: number) =>
  train({
    name,
    objective,
    weights,
    source,
    steps,
    learningRate,
    seed,
    optimizer: (...buffers) => adafactor(...buffers),
    ...(source === pretraining ? {} : { heldOut }),
  });
const heldOut = [
  ...pairsOnce(tasks.flatMap(({ test: rows }) => rows.slice(0, smoke ? 5 : 60)).map(encoded), {
    ...batch,
    maxTokens,
  }),
];

async function measured(weights: Weights, task: Task): Promise<number> {
  const rows = task.test.slice(0, settings.tested);
  const found = await written(
    model,
    weights,
    tokenizer,
    rows.map(({ source }) => source),
    smoke ? 8 : 60,
  );
  return task.score(
    found,
    rows.map(({ target }) => target),
  );
}

// ---- A network for each task, one for all, and one that wrote hidden spans before ----------------------------------------

const rows: string[][] = [];
const curves = [];
const separate: string[] = [];
const pretraining = spans();
for (const task of tasks) {
  using weights = Weights.initialize(runtime, model, seed);
  const steps = Math.round(settings.steps / tasks.length);
  await learn(`${task.name} alone`, weights, mixed([task]), steps);
  separate.push(task.shown(await measured(weights, task)));
}
rows.push(["a network for each task", ...separate]);
for (const pretrained of [false, true]) {
  using weights = Weights.initialize(runtime, model, seed);
  if (pretrained) await learn("hidden spans", weights, pretraining, settings.pretrainingSteps);
  const name = pretrained ? "one network, after hidden spans" : "one network";
  const source = mixed(tasks);
  curves.push(await learn(name, weights, source, settings.steps));
  const scores: string[] = [];
  for (const task of tasks) scores.push(task.shown(await measured(weights, task)));
  rows.push([name, ...scores]);
}
printTable(["", ...tasks.map(({ name }) => name)], rows);
await plot(path.join(out, "loss.svg"), "Held-out loss of the three tasks", curves);
