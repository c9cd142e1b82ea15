/** What the recipes of encoder-decoders share: their sentences and their loops. What a recipe is about stands in itself. */
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { gunzipSync } from "node:zlib";
import type { Batch, BatchSource } from "../src/data/index.js";
import { documentsOf, stories } from "../src/data/index.js";
import type { EncoderDecoder, Weights } from "../src/nn/index.js";
import { Decoder, transform } from "../src/generation/index.js";
import type { Tokenizer } from "../src/tokenizers/index.js";
import {
  type Curve,
  type Objective,
  type Optimizer,
  Trainer,
  adamW,
  evaluate,
  schedule,
} from "../src/training/index.js";
import type { RecipeOptions } from "./recipe.js";

export type Language = "en" | "de";
/** The same sentences in two languages, line by line. */
export type Sentences = Readonly<Record<Language, readonly string[]>>;

/** Captions in English and German (Multi30k); without the data, stories and the same with every word backwards. */
export function captions({ data, smoke }: RecipeOptions): {
  readonly name: string;
  readonly train: Sentences;
  readonly held: Sentences;
  readonly test: Sentences;
} {
  const read = (part: string): Sentences => {
    const lines = (language: Language) =>
      gunzipSync(readFileSync(path.join(data, "multi30k", `${part}.${language}.gz`)))
        .toString("utf8")
        .trimEnd()
        .split("\n")
        .map((line) => line.trim());
    return { en: lines("en"), de: lines("de") };
  };
  const backwards = (seed: number, count: number): Sentences => {
    const en = [...stories({ seed, count })].flatMap((story) => documentsOf(story).flat());
    return { en, de: en.map((text) => text.replace(/\p{L}+/gu, (word) => [...word].reverse().join(""))) };
  };
  const real = existsSync(path.join(data, "multi30k"));
  const first = (sentences: Sentences, count: number): Sentences =>
    smoke ? { en: sentences.en.slice(0, count), de: sentences.de.slice(0, count) } : sentences;
  return {
    name: real ? "Multi30k" : "stories, forwards and backwards",
    train: first(real ? read("train") : backwards(1, 1500), 400),
    held: first(real ? read("val") : backwards(90_000, 80), 20),
    test: first(real ? read("test_2016_flickr") : backwards(120_000, 80), 20),
  };
}

/** What of a recipe's settings makes the network. */
export interface NetworkSettings {
  readonly contextLength: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly dropout: number;
}

/** The configuration of a network over a tokenizer's tokens, and what its batches are filled up with and begin with. */
export function networkOver(tokenizer: Tokenizer, startId: number, settings: NetworkSettings) {
  const { contextLength, hiddenSize, intermediateSize, numLayers, numHeads, dropout } = settings;
  const padId = tokenizer.padId!;
  return {
    sizes: {
      ...{ contextLength, hiddenSize, intermediateSize, numLayers, numHeads, dropout },
      vocabSize: tokenizer.vocabSize,
      // Glorot's deviation for layers this narrow.
      initializerRange: hiddenSize ** -0.5,
      padTokenId: padId,
      decoderStartTokenId: startId,
    },
    batch: { padId, startId },
  };
}

export interface SequenceTraining {
  readonly name: string;
  readonly objective: Objective;
  readonly weights: Weights;
  readonly source: BatchSource;
  readonly steps: number;
  readonly learningRate: number;
  readonly seed: number;
  readonly optimizer?: (weights: Weights, gradients: Weights) => Promise<Optimizer>;
  /** Measured now and then, for the curve. Default: the training loss is drawn. */
  readonly heldOut?: readonly Batch[];
}

/** Trains with the rate rising for a tenth of the steps and then falling to nothing; the losses as a curve. */
export async function train(options: SequenceTraining): Promise<Curve> {
  const { name, objective, weights, source, steps, learningRate, seed, heldOut } = options;
  using trainer = await Trainer.create({
    objective,
    weights,
    source,
    seed,
    schedule: schedule("linear", { learningRate, warmupSteps: Math.ceil(steps / 10), totalSteps: steps + 1 }),
    optimizer:
      options.optimizer ?? ((...buffers) => adamW(...buffers, { betas: [0.9, 0.98], weightDecay: 0 })),
  });
  const points: { step: number; loss: number }[] = [];
  const every = Math.max(1, Math.ceil(steps / 10));
  let recent: number[] = [];
  for (let step = 1; step <= steps; step++) {
    recent.push((await trainer.step()).loss);
    if (step % every > 0 && step < steps) continue;
    const loss = heldOut
      ? (await evaluate(objective, weights, heldOut)).loss
      : recent.reduce((sum, value) => sum + value, 0) / recent.length;
    points.push({ step, loss });
    recent = [];
  }
  console.log(`  ${name}: loss ${points.at(-1)!.loss.toFixed(3)} after ${steps} steps`);
  return { label: name, points };
}

/** What a network writes about each source: the likeliest token each time, or the likeliest text of some beams. */
export async function written(
  model: EncoderDecoder,
  weights: Weights,
  tokenizer: Tokenizer,
  sources: readonly string[],
  capacity: number,
  beams = 1,
): Promise<string[]> {
  using decoder = await Decoder.create({ model, weights, slots: 32, beams, capacity });
  const found = await transform({ decoder, tokenizer }, sources, { beams });
  return found.map(({ text }) => text.trim());
}
