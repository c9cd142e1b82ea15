/**
 * XLM (Lample & Conneau 2019): what translations add to masked language modelling.
 *
 * The claim in miniature (sections 3.3 and 5.4): a model that learns to fill masks in two languages aligns them a little;
 * one that also fills masks in pairs of translations (TLM), where a hidden word can be read off the other language, aligns
 * them far better. Both read the same number of tokens of the same sentences, English and German captions of Multi30k; TLM
 * alone is told which belong together. Alignment is how often the nearest German sentence, by the cosine of mean hidden
 * states, is the translation of an English one, among held-out sentences; each language's mean is taken off first.
 *
 * What came out (6,000 steps, 3.6 million tokens each): 32.3% of the translations found with TLM, 9.8% without it, by the
 * last layer's states (30.6% and 13.6% by the first's); 7.4% before training, by words that both languages share, and 0.1% by
 * chance. The claim shows. Single sentences are filled a little worse (masked loss 2.725 against 2.634), for half of the
 * tokens went to pairs.
 *
 *   node dist/recipes/xlm.js [--data FOLDER with multi30k, default ../shared/data] [--out FOLDER] [--smoke]
 *
 * Without the folder, the embedded stories and the same stories with every word backwards are the two languages.
 */
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { gunzipSync } from "node:zlib";
import { Random } from "../src/base/random.js";
import { type Batch, stories, ExampleSource, MixtureSource, documentsOf } from "../src/data/index.js";
import { compile, input } from "../src/graph/index.js";
import { trainEncoderBpe } from "../src/tokenizers/index.js";
import { xlmConfig, xlmForMaskedLm } from "../src/models/index.js";
import { Weights, countParameters, namedParameters } from "../src/nn/index.js";
import {
  type LanguageText,
  languageRow,
  translationRow,
  maskRow,
  maskedBatch,
  maskedLmObjective,
  vocabularyOf,
} from "../src/objectives/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { Trainer, evaluate, schedule } from "../src/training/index.js";
import { percent, plot, printTable, recipeOptions } from "./recipe.js";

const { smoke, scale, data: folder, out, threads } = recipeOptions("xlm");
const settings = {
  vocabSize: smoke ? 500 : 3000,
  hiddenSize: smoke ? 32 : 128,
  numLayers: 2,
  numHeads: 4,
  /** Rows of a batch of single sentences; a batch of pairs has half as many, and so as many tokens. */
  batchSize: smoke ? 8 : 32,
  steps: smoke ? 12 : Math.round(6000 * scale),
  learningRate: 2e-3,
  /** Twice the published share: small models learn more from a step that hides more (Wettig et al. 2023). */
  masking: { rate: 0.3 },
  seed: 1,
  /** Held-out sentences among which the translation is looked for. */
  candidates: smoke ? 40 : 1000,
};

// ---- Data: the same sentences in two languages ------------------------------------------------------------------------

type Pair = readonly [english: string, other: string];

function multi30k(part: string): Pair[] {
  const lines = (language: string) =>
    gunzipSync(readFileSync(path.join(folder, "multi30k", `${part}.${language}.gz`)))
      .toString("utf8")
      .trimEnd()
      .split("\n");
  const german = lines("de");
  return lines("en").map((english, line) => [
    english.toLowerCase().trim(),
    german[line]!.toLowerCase().trim(),
  ]);
}

function backwards(seed: number, count: number): Pair[] {
  const sentences = [...stories({ seed, count })].flatMap((story) => documentsOf(story).flat());
  return sentences.map((text) => [text, text.replace(/\p{L}+/gu, (word) => [...word].reverse().join(""))]);
}

const real = existsSync(path.join(folder, "multi30k"));
const train = (real ? multi30k("train") : backwards(1, 1500)).slice(0, smoke ? 300 : undefined);
const test = (real ? multi30k("test_2016_flickr") : backwards(90_000, 80)).slice(0, settings.candidates);
console.log(
  `${real ? "Multi30k, English and German" : "embedded stories, forwards and backwards"}: ${train.length} pairs to learn from, ${test.length} held out`,
);

// One vocabulary for both languages, section 3.1.
const tokenizer = trainEncoderBpe(train.flat(), { vocabSize: settings.vocabSize, style: "xlm" });
const vocabulary = vocabularyOf(tokenizer, {
  first: "</s>",
  separator: "</s>",
  padding: "<pad>",
  mask: "<special1>",
  startsWord: (token) => token.startsWith("Ġ"),
});
const { separatorId, paddingId } = vocabulary;
const encode = (text: string, language: number): LanguageText => ({
  ids: tokenizer.encode(` ${text}`).slice(0, 60),
  language,
});
const encodePairs = (pairs: readonly Pair[]) =>
  pairs.map(([a, b]): [LanguageText, LanguageText] => [encode(a, 0), encode(b, 1)]);
const trainPairs = encodePairs(train);
const testPairs = encodePairs(test);

// ---- Objectives: masks in single sentences, masks in pairs -----------------------------------------------------------

const runtime = createRuntime({ threads });
const config = xlmConfig({
  vocabSize: tokenizer.vocabSize,
  contextLength: 128,
  numLanguages: 2,
  hiddenSize: settings.hiddenSize,
  numLayers: settings.numLayers,
  numHeads: settings.numHeads,
  dropout: 0,
  attentionDropout: 0,
  padTokenId: paddingId,
});

const sentences = (language: 0 | 1) =>
  new ExampleSource({
    batchSize: settings.batchSize,
    seed: settings.seed + language,
    examples: () => trainPairs.map((pair) => pair[language]),
    length: (text) => text.ids.length,
    transform: (text: LanguageText, random) =>
      maskRow(languageRow(text, separatorId), vocabulary, settings.masking, random),
    collate: (rows) => maskedBatch(rows, paddingId),
  });
const translations = () =>
  new ExampleSource({
    batchSize: settings.batchSize / 2,
    seed: settings.seed + 2,
    examples: () => trainPairs,
    length: ([a, b]) => a.ids.length + b.ids.length,
    transform: (pair: readonly [LanguageText, LanguageText], random) =>
      maskRow(translationRow(pair, separatorId, random), vocabulary, settings.masking, random),
    collate: (rows) => maskedBatch(rows, paddingId),
  });
const contenders = [
  { name: "MLM", source: new MixtureSource([sentences(0), sentences(1)], [1, 1], settings.seed) },
  {
    name: "MLM + TLM",
    source: new MixtureSource([sentences(0), sentences(1), translations()], [1, 1, 2], settings.seed),
  },
];

// ---- Alignment: is the nearest sentence the translation? -------------------------------------------------------------

/** Sums of the states that the first `numLayers` layers leave, one direction for each text. */
async function sentenceVectors(
  weights: Weights,
  numLayers: number,
  texts: readonly LanguageText[],
): Promise<Float32Array[]> {
  const model = xlmForMaskedLm({ ...config, numLayers });
  namedParameters(model);
  const shape = ["batch", "sequence"];
  const mask = input("attentionMask", "bool", shape);
  const hidden = model.encoder.encode({
    inputIds: input("inputIds", "int32", shape),
    attentionMask: mask,
    languageIds: input("languageIds", "int32", shape),
  } as Parameters<typeof model.encoder.encode>[0]);
  // States of padding are zero, so that the sum over a row is that over its tokens; cosines ask for no more.
  using program = await compile(runtime, { vectors: hidden.sum({ axes: 1 }) });
  const vectors: Float32Array[] = [];
  for (let start = 0; start < texts.length; start += 100) {
    const rows = texts.slice(start, start + 100).map((text) => languageRow(text, separatorId));
    const { tensors }: Batch = maskedBatch(
      rows.map((row) => ({
        ...row,
        inputIds: Int32Array.from(row.ids),
        positions: new Int32Array(),
        labels: new Int32Array(),
      })),
      paddingId,
    );
    const given = Object.fromEntries(
      program.inputs.flatMap(({ name, dtype }) => {
        const tensor = tensors[name];
        return tensor ? [[name, runtime.createTensor(dtype, tensor.shape, tensor.data)]] : [];
      }),
    );
    const { vectors: found } = await program.run({ ...weights.tensors, ...given });
    const data = (await found!.read()) as Float32Array;
    for (let row = 0; row < rows.length; row++)
      vectors.push(data.slice(row * config.hiddenSize, (row + 1) * config.hiddenSize));
    for (const tensor of [found!, ...Object.values(given)]) tensor.dispose();
  }
  return directions(vectors);
}

/** Vectors of length 1, after the mean of their language is taken off. */
function directions(vectors: readonly Float32Array[]): Float32Array[] {
  const unit = (x: Float32Array) => {
    const length = Math.hypot(...x);
    return x.map((value) => value / length);
  };
  const units = vectors.map(unit);
  const mean = units[0]!.map((_, axis) => units.reduce((sum, x) => sum + x[axis]!, 0) / units.length);
  return units.map((x) => unit(x.map((value, axis) => value - mean[axis]!)));
}

/** Share of sentences whose nearest one of the other language is their translation, both ways. */
function retrieval(english: readonly Float32Array[], other: readonly Float32Array[]): number {
  const cosine = (a: Float32Array, b: Float32Array) =>
    a.reduce((sum, value, axis) => sum + value * b[axis]!, 0);
  const hits = (from: readonly Float32Array[], to: readonly Float32Array[]) =>
    from.filter((x, index) => {
      const own = cosine(x, to[index]!);
      return to.every((y, place) => place === index || cosine(x, y) < own);
    }).length;
  return (hits(english, other) + hits(other, english)) / (2 * english.length);
}

const percents = (shares: readonly number[]): string => shares.map(percent).join(", ");
const heldOutRandom = new Random(settings.seed).fork("held out");

// ---- Training, the same for both --------------------------------------------------------------------------------------

const results = [];
for (const { name, source } of contenders) {
  const model = xlmForMaskedLm(config);
  using weights = Weights.initialize(runtime, model, settings.seed);
  if (name === "MLM") console.log(`XLM with ${countParameters(model).toLocaleString("en-US")} parameters`);
  const objective = maskedLmObjective({
    model,
    encode: (inputs, context) => model.encoder.forward(inputs, context),
    maskedLosses: (hidden, labels) => model.head.losses(hidden, labels),
    extra: ["positionIds", "languageIds"],
  });
  using trainer = await Trainer.create({
    objective,
    weights,
    source,
    seed: settings.seed,
    schedule: schedule("linear", {
      learningRate: settings.learningRate,
      warmupSteps: settings.steps / 10,
      totalSteps: settings.steps,
      minimum: 0,
    }),
  });
  const align = async (numLayers: number) => {
    const vectors = (language: 0 | 1) =>
      sentenceVectors(
        weights,
        numLayers,
        testPairs.map((pair) => pair[language]),
      );
    return retrieval(await vectors(0), await vectors(1));
  };
  const alignLayers = async () => {
    const found: number[] = [];
    for (let layer = 1; layer <= settings.numLayers; layer++) found.push(await align(layer));
    return found;
  };
  const started = performance.now();
  const points = [{ step: 0, found: await alignLayers() }];
  let tokens = 0;
  for (let step = 1; step <= settings.steps; step++) {
    tokens += (await trainer.step()).tokens;
    if (step % Math.ceil(settings.steps / 6) === 0 || step === settings.steps) {
      points.push({ step, found: await alignLayers() });
      console.log(`  ${name}, step ${step}: ${percents(points.at(-1)!.found)} found by layer`);
    }
  }
  const held = await evaluate(objective, weights, heldOut());
  results.push({ name, tokens, points, loss: held.loss, seconds: (performance.now() - started) / 1000 });
}

/** The held-out sentences, each alone, under one set of masks for both contenders. */
function* heldOut(): Generator<Batch> {
  for (const language of [0, 1] as const) {
    const rows = testPairs.map((pair, index) =>
      maskRow(
        languageRow(pair[language], separatorId),
        vocabulary,
        {},
        heldOutRandom.fork(2 * index + language),
      ),
    );
    for (let start = 0; start < rows.length; start += 50)
      yield maskedBatch(rows.slice(start, start + 50), paddingId);
  }
}

// ---- Figures ------------------------------------------------------------------------------------------------------

const layers = Array.from({ length: settings.numLayers }, (_, layer) => `layer ${layer + 1}`);
printTable(
  ["objective", "tokens", "held-out MLM loss", ...layers.map((layer) => `found, ${layer}`), "seconds"],
  [
    ...results.map(({ name, tokens, loss, points, seconds }) => [
      name,
      tokens.toLocaleString("en-US"),
      loss.toFixed(3),
      ...points.at(-1)!.found.map(percent),
      seconds.toFixed(0),
    ]),
    ["before training", "", "", ...results[0]!.points[0]!.found.map(percent), ""],
  ],
);
console.log(
  `translations found among ${test.length} held-out sentences; by chance ${percent(1 / test.length)}`,
);
await plot(
  `${out}/alignment.svg`,
  "XLM: translations found among held-out sentences",
  results.flatMap(({ name, points }) =>
    layers.map((layer, index) => ({
      label: `${name}, ${layer}`,
      points: points.map(({ step, found }) => ({ step, loss: 100 * found[index]! })),
    })),
  ),
  { y: "found, %" },
);
