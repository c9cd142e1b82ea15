/**
 * mT5 (Xue et al. 2021): languages of very different size in one network, and the language that it answers in.
 *
 * Two claims in miniature. Section 3.2: sampling languages by their share of the text to the power 0.3 lowers the loss of the
 * small ones at little cost to the large ones, against the exponents 1 (as they are) and 0 (all alike). English (a novel),
 * German (captions) and Japanese (a novel), the English cut to a fiftieth. Section 6: a network that is fine-tuned on English
 * alone answers other languages in English, in part ("accidental translation"); a little of the unlabelled pretraining mixed
 * into fine-tuning cures it. Captions are to be written from their words in alphabetical order: learned in English, asked for
 * in German; counted is the share of the words that are German ones.
 *
 *   node dist/recipes/mt5.js [--data FOLDER with multi30k, botchan.txt and wagahaiwa_nekodearu.txt] [--out FOLDER] [--smoke]
 *
 * Without the folder, stories, stories with every word backwards and stories in capitals are the languages.
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
} from "../src/data/index.js";
import { T5, mt5, mt5Table } from "../src/models/index.js";
import { Weights, countParameters } from "../src/nn/index.js";
import { corruptSpans, sequenceToSequenceObjective } from "../src/objectives/index.js";
import { Random } from "../src/base/random.js";
import { createRuntime } from "../src/runtime/index.js";
import { sentinelsOf, trainTokenizer } from "../src/tokenizers/index.js";
import { adafactor, evaluate } from "../src/training/index.js";
import { millions, percent, plot, printTable, recipeOptions } from "./recipe.js";
import { captions, train, written } from "./sequences.js";

const options = recipeOptions("mt5");
const { smoke, scale, data: folder, out, threads } = options;
const settings = {
  vocabSize: smoke ? 3000 : 6000,
  contextLength: 64,
  hiddenSize: smoke ? 32 : 128,
  numLayers: smoke ? 1 : 2,
  numHeads: 4,
  maxTokens: smoke ? 256 : 1024,
  /** Of each exponent. */
  steps: smoke ? 6 : Math.round(500 * scale),
  tuningSteps: smoke ? 6 : Math.round(500 * scale),
  learningRate: 1e-2,
  exponents: [1, 0.3, 0],
  /** Share of unlabelled examples in fine-tuning: section 6 mixes in one for each hundred; small networks need more. */
  unlabelled: 0.2,
  tested: smoke ? 8 : 200,
  seed: 1,
};

// ---- Three languages ----------------------------------------------------------------------------------------------

const { train: sentences, test } = captions(options);
const novel = (file: string, otherwise: readonly string[]): string[] => {
  const place = path.join(folder, file);
  const text = existsSync(place) ? readFileSync(place, "utf8") : otherwise.join("\n");
  return text
    .split(/(?<=[.!?。！？」])\s*|\n+/u)
    .map((sentence) => sentence.trim())
    .filter((sentence) => sentence.length > 3);
};
const part = (texts: readonly string[], share: number): string[] => {
  const order = new Random(settings.seed).permutation(texts.length);
  return Array.from(order.subarray(0, Math.ceil(share * texts.length)), (place) => texts[place]!);
};
const botchan = novel("botchan.txt", sentences.en);
const neko = novel(
  "wagahaiwa_nekodearu.txt",
  sentences.en.map((text) => text.toUpperCase()),
);
const cut = (texts: readonly string[]) => (smoke ? texts.slice(0, 300) : texts);
const languages = [
  { name: "English", texts: part(cut(botchan.slice(200)), 1 / 10), held: botchan.slice(0, 100) },
  { name: "German", texts: cut(sentences.de), held: test.de.slice(0, 100) },
  { name: "Japanese", texts: cut(neko.slice(200)), held: neko.slice(0, 100) },
];
const tokenizer = trainTokenizer(
  mt5.tokenizer,
  [...languages.flatMap(({ texts }) => texts), ...cut(sentences.en)],
  settings.vocabSize,
);
const sentinels = sentinelsOf(tokenizer);
const [padId, endId] = [tokenizer.padId!, tokenizer.eosId!];
const encode = (text: string) => tokenizer.encode(text).slice(0, settings.contextLength - 4);

// ---- The network --------------------------------------------------------------------------------------------------

const runtime = createRuntime({ threads });
const model = new T5(
  mt5Table.create({
    vocabSize: tokenizer.vocabSize,
    contextLength: settings.contextLength,
    hiddenSize: settings.hiddenSize,
    headSize: settings.hiddenSize / settings.numHeads,
    intermediateSize: 2 * settings.hiddenSize,
    numLayers: settings.numLayers,
    numHeads: settings.numHeads,
    dropout: 0,
    // Free output embeddings begin far too large for runs of minutes.
    tieEmbeddings: true,
    padTokenId: padId,
    decoderStartTokenId: padId,
  }),
);
const batch = { padId, startId: padId };
const objective = sequenceToSequenceObjective(model);
const { seed, maxTokens, learningRate } = settings;
const counts = languages.map(({ texts }) => texts.reduce((sum, text) => sum + encode(text).length, 0));
console.log(
  `${languages.map(({ name }, index) => `${name} ${counts[index]!.toLocaleString("en-US")} tokens`).join(", ")}; ${millions(countParameters(model))} parameters`,
);

const damage = (ids: readonly number[], random: Random): TextPair => {
  const { inputIds, targetIds } = corruptSpans(ids, sentinels, {}, random);
  return { source: [...inputIds, endId], target: [...targetIds, endId] };
};
const long = (ids: readonly number[]) => ids.length > 3;
/** Parts of a mixture: the languages, by their share of the tokens to a power. */
const byExponent = (exponent: number) => {
  const rates = mixingRates(counts, { exponent });
  return languages.map(({ texts }, index) => ({
    examples: texts.map(encode).filter(long),
    rate: rates[index]!,
  }));
};
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
  });

// ---- How often each language is sampled ------------------------------------------------------------------------------

const heldOut = languages.map(({ held }) =>
  pairBatch(
    held
      .map(encode)
      .filter(long)
      .map((ids, index) => damage(ids, new Random(seed).fork(index))),
    batch,
  ),
);
const rows: string[][] = [];
const curves = [];
let pretrained: Weights | undefined;
for (const exponent of settings.exponents) {
  const weights = Weights.initialize(runtime, model, seed);
  const source = new MixedSource({
    parts: byExponent(exponent),
    seed,
    maxTokens,
    transform: damage,
    ...pairLengths,
    collate: (found) => pairBatch(found, batch),
  });
  curves.push(await learn(`exponent ${exponent}`, weights, source, settings.steps));
  const losses: string[] = [];
  for (const held of heldOut) losses.push((await evaluate(objective, weights, [held])).loss.toFixed(3));
  rows.push([String(exponent), ...losses]);
  if (exponent === 0.3) pretrained = weights;
  else weights.dispose();
}
printTable(
  [
    "exponent",
    ...languages.map(
      ({ name }, index) => `${name}, ${percent(counts[index]! / counts.reduce((a, b) => a + b))}`,
    ),
  ],
  rows,
);

// ---- Which language is answered in ------------------------------------------------------------------------------------

const ordered = (text: string) => text.split(" ").sort().join(" ");
const taskOf = (text: string): TextPair => ({
  source: [...encode(ordered(text)), endId],
  target: [...encode(text), endId],
});
const wordsOf = (text: string) => text.toLowerCase().match(/\p{L}+/gu) ?? [];
const [english, german] = [sentences.en, sentences.de].map((texts) => new Set(texts.flatMap(wordsOf)));
/** Share of the words of one language alone that are German. */
function germanShare(texts: readonly string[]): number {
  const words = texts.flatMap(wordsOf);
  const [ofGerman, ofEnglish] = [
    words.filter((word) => german!.has(word) && !english!.has(word)).length,
    words.filter((word) => english!.has(word) && !german!.has(word)).length,
  ];
  return ofGerman + ofEnglish === 0 ? 0 : ofGerman / (ofGerman + ofEnglish);
}
const answers: string[][] = [];
for (const unlabelled of [0, settings.unlabelled]) {
  using weights = pretrained!.copy();
  const name =
    unlabelled === 0 ? "English pairs alone" : `and ${percent(unlabelled)} hidden spans of all languages`;
  const labelled = cut(sentences.en).map((text) => ({
    text,
    ids: undefined as readonly number[] | undefined,
  }));
  const plain = byExponent(0.3).map(({ examples, rate }) => ({
    examples: examples.map((ids) => ({ text: "", ids: ids as readonly number[] | undefined })),
    rate: rate * unlabelled,
  }));
  const source = new MixedSource({
    parts: [{ examples: labelled, rate: 1 - unlabelled }, ...plain],
    seed,
    maxTokens,
    transform: ({ text, ids }, random) => (ids ? damage(ids, random) : taskOf(text)),
    ...pairLengths,
    collate: (found) => pairBatch(found, batch),
  });
  await learn(name, weights, source, settings.tuningSteps);
  const sources = test.de.slice(0, settings.tested).map(ordered);
  const texts = await written(model, weights, tokenizer, sources, smoke ? 8 : 50);
  answers.push([name, percent(germanShare(texts)), texts[0]!]);
}
pretrained!.dispose();
printTable(
  ["fine-tuned on", "German words in answers to German"],
  answers.map((row) => row.slice(0, 2)),
);
console.log(`  wanted: ${test.de[0]}`);
for (const [name, , text] of answers) console.log(`  ${name}: ${text}`);
await plot(path.join(out, "loss.svg"), "Loss of hidden spans while pretraining", curves);
