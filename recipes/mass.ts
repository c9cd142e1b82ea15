/**
 * MASS (Song et al. 2019): translation from few pairs, after half of every sentence was written from its other half.
 *
 * The claim in miniature (section 4.2 and figure 5): where pairs are few, pretraining encoder and decoder together on
 * sentences of both languages, by a masked half that the decoder writes, makes translation better than no pretraining, and
 * better than the two ends of the method: one hidden token (masked LM) and a whole hidden sentence (causal LM), in turns. The
 * English half of Multi30k's captions and the German other half, so that no sentence has its translation among them; then
 * 1,000 pairs from German to English, tested on test_2016_flickr.
 *
 * What came out (1,200 steps of pretraining, 300 of fine-tuning): a held-out loss of 4.200 with half of the sentence, 4.289 with
 * the two ends, 4.598 with nothing. BLEU is 3 to 6 for all of them and says nothing yet: the claim shows in the loss alone.
 *
 *   node dist/recipes/mass.js [--data FOLDER with multi30k, default ../shared/data] [--out FOLDER] [--smoke]
 */
import path from "node:path";
import { MixedSource, type TextPair, pairBatch, pairLengths, pairSource } from "../src/data/index.js";
import { bleu } from "../src/metrics/index.js";
import { Bart, mass, massTable } from "../src/models/index.js";
import { Weights, countParameters } from "../src/nn/index.js";
import { massRow, sequenceToSequenceObjective } from "../src/objectives/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { trainTokenizer } from "../src/tokenizers/index.js";
import { millions, plot, printTable, recipeOptions } from "./recipe.js";
import { captions, networkOver, train, written } from "./sequences.js";

const options = recipeOptions("mass");
const { smoke, scale, out, threads } = options;
const settings = {
  vocabSize: smoke ? 500 : 5000,
  contextLength: 64,
  hiddenSize: smoke ? 32 : 128,
  intermediateSize: smoke ? 64 : 256,
  numLayers: smoke ? 1 : 3,
  numHeads: 4,
  dropout: 0.1,
  maxTokens: smoke ? 256 : 1024,
  pretrainingSteps: smoke ? 8 : Math.round(1200 * scale),
  pairs: smoke ? 50 : 1000,
  tuningSteps: smoke ? 8 : Math.round(300 * scale),
  learningRate: 2e-3,
  seed: 1,
};

// ---- Data ---------------------------------------------------------------------------------------------------------

const { name: corpus, train: sentences, held, test } = captions(options);
const half = Math.floor(sentences.en.length / 2);
const monolingual = [sentences.en.slice(0, half), sentences.de.slice(half)] as const;
const tokenizer = trainTokenizer(mass.tokenizer, monolingual.flat(), settings.vocabSize);
const [endId, maskId] = [tokenizer.eosId!, tokenizer.maskId!];
const encode = (text: string) => tokenizer.encode(text).slice(0, 62);
const pairOf = (source: string, target: string): TextPair => ({
  source: [...encode(source), endId],
  target: [...encode(target), endId],
});
console.log(
  `${corpus}: ${half} sentences of each language, then ${settings.pairs} pairs from German to English`,
);

// ---- The network --------------------------------------------------------------------------------------------------

const runtime = createRuntime({ threads });
const { sizes, batch } = networkOver(tokenizer, endId, settings);
const model = new Bart(massTable.create(sizes));
console.log(`${millions(countParameters(model))} parameters`);

// ---- Pretraining: which part of a sentence is hidden -----------------------------------------------------------------

const vocabulary = {
  size: tokenizer.vocabSize,
  maskId,
  specialIds: new Set(
    Array.from({ length: tokenizer.vocabSize }, (_, id) => id).filter((id) => tokenizer.isSpecial(id)),
  ),
};
/** Sentences of both languages; of each language's, `rates` are hidden in turns. */
const hidden = (rates: readonly number[]) =>
  new MixedSource({
    parts: monolingual.flatMap((texts) =>
      rates.map((rate) => ({ examples: texts.map((text) => ({ ids: encode(text), rate })), rate: 1 })),
    ),
    seed: settings.seed,
    maxTokens: settings.maxTokens,
    transform: ({ ids, rate }, random): TextPair => {
      const row = massRow(ids, vocabulary, endId, { rate }, random);
      return {
        source: [...row.encoderIds, endId],
        target: row.labels,
        decoder: { ids: row.decoderIds, positions: row.decoderPositions },
      };
    },
    ...pairLengths,
    collate: (rows) => pairBatch(rows, batch),
  });
const contenders = [
  { name: "no pretraining" },
  { name: "one token, or all of them", rates: [0, 1] },
  { name: "half of the sentence", rates: [0.5] },
];

// ---- Fine-tuning on few pairs ---------------------------------------------------------------------------------------

const pairs = sentences.de.slice(0, settings.pairs).map((text, line) => pairOf(text, sentences.en[line]!));
const heldOut = [
  pairBatch(
    held.de.slice(0, 200).map((text, line) => pairOf(text, held.en[line]!)),
    batch,
  ),
];
const rows: string[][] = [];
const curves = [];
for (const { name, rates } of contenders) {
  using weights = Weights.initialize(runtime, model, settings.seed);
  const { seed, learningRate, maxTokens } = settings;
  if (rates)
    await train({
      name: `pretraining, ${name}`,
      objective: sequenceToSequenceObjective(model, { positions: true }),
      weights,
      source: hidden(rates),
      steps: settings.pretrainingSteps,
      learningRate,
      seed,
    });
  const curve = await train({
    name,
    objective: sequenceToSequenceObjective(model, { labelSmoothing: 0.1 }),
    weights,
    source: pairSource(pairs, { ...batch, maxTokens, seed }),
    steps: settings.tuningSteps,
    learningRate: learningRate / 2,
    seed,
    heldOut,
  });
  curves.push(curve);
  const texts = await written(model, weights, tokenizer, test.de, smoke ? 12 : 64);
  rows.push([name, curve.points.at(-1)!.loss.toFixed(3), bleu(texts, [test.en]).score.toFixed(1), texts[0]!]);
}

printTable(
  ["pretraining", "held-out loss", "sacreBLEU"],
  rows.map((row) => row.slice(0, 3)),
);
console.log(`  ${test.de[0]}\n  reference  ${test.en[0]}`);
for (const [name, , , text] of rows) console.log(`  ${name}: ${text}`);
await plot(path.join(out, "loss.svg"), `Held-out loss of translation from ${settings.pairs} pairs`, curves);
