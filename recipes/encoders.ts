/** What the encoders' recipes share: their data and their loops. What a recipe is about stands in itself. */
import { deviation, mean } from "d3-array";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { Random } from "../src/base/random.js";
import { type Batch, type BatchSource, stories, ExampleSource } from "../src/data/index.js";
import { compile, input, sum, tokenLosses } from "../src/graph/index.js";
import { type Tokenizer, trainWordPiece } from "../src/tokenizers/index.js";
import { type EncoderWithHead, Weights } from "../src/nn/index.js";
import {
  type Document,
  type MaskedRow,
  maskRow,
  maskedBatch,
  sentenceRow,
  type MaskingOptions,
  type SentenceVocabulary,
} from "../src/objectives/index.js";
import type { Runtime } from "../src/runtime/index.js";
import { type Curve, type Objective, Trainer, addParts, evaluate, schedule } from "../src/training/index.js";
import { type RecipeOptions, percent } from "./recipe.js";

export interface Labelled {
  readonly text: string;
  readonly label: number;
}

/** Sentences of film reviews with their sentiment (SST-2), or sentences of stories in and out of order. */
export function sentences({ data, smoke }: RecipeOptions): {
  name: string;
  train: Labelled[];
  dev: Labelled[];
} {
  const read = (file: string): Labelled[] =>
    readFileSync(path.join(data, "sst2", file), "utf8")
      .trim()
      .split("\n")
      .map((line) => line.split("\t"))
      .map(([text, label]) => ({ text: text!, label: Number(label) }));
  const cut = (rows: Labelled[]) => (smoke ? rows.slice(0, 200) : rows);
  if (existsSync(path.join(data, "sst2", "train.tsv")))
    return { name: "SST-2", train: cut(read("train.tsv")), dev: cut(read("dev.tsv")) };
  const random = new Random(1);
  const told = [...stories({ seed: 1, count: smoke ? 60 : 1500 })].flatMap(splitSentences);
  const rows = told.map((text) => {
    const words = text.split(" ");
    const label = random.integer(2);
    const place = random.integer(Math.max(1, words.length - 1));
    if (label === 0) words.splice(place, 2, ...words.slice(place, place + 2).reverse());
    return { text: words.join(" "), label };
  });
  return {
    name: "stories, words in order or not",
    train: cut(rows.slice(900)),
    dev: cut(rows.slice(0, 900)),
  };
}

/** Texts of sentences in a row: a novel and plays, or the embedded stories. */
export function documents({ data, smoke }: RecipeOptions): { name: string; texts: string[][] } {
  const files = ["botchan.txt", "tinyshakespeare.txt"].map((file) => path.join(data, file));
  if (!files.every((file) => existsSync(file))) {
    const texts = [...stories({ seed: 1, count: smoke ? 60 : 2000 })].map(splitSentences);
    return { name: "stories", texts };
  }
  const texts = files.flatMap((file) => {
    const paragraphs = readFileSync(file, "utf8").split(/\r?\n\s*\r?\n/);
    // A document of some paragraphs: long enough for pairs of neighbouring sentences, short enough for there to be many.
    return chunks(paragraphs, 10).map((part) => part.flatMap(splitSentences));
  });
  return {
    name: "Botchan and Shakespeare",
    texts: smoke ? texts.slice(0, 40) : shuffled(texts),
  };
}

const shuffled = <T>(items: readonly T[]): T[] =>
  Array.from(new Random(1).permutation(items.length), (index) => items[index]!);

const chunks = <T>(items: readonly T[], size: number): T[][] =>
  Array.from({ length: Math.ceil(items.length / size) }, (_, index) =>
    items.slice(index * size, (index + 1) * size),
  );

const splitSentences = (text: string): string[] =>
  text
    .replaceAll(/\s+/g, " ")
    .split(/(?<=[.!?;:])\s+/)
    .filter((sentence) => sentence.trim() !== "");

/** A WordPiece vocabulary of these texts, and what objectives need to know of it. */
export function vocabularyOf(
  texts: readonly string[],
  vocabSize: number,
): { tokenizer: Tokenizer; vocabulary: SentenceVocabulary } {
  const tokenizer = trainWordPiece(texts, { vocabSize, alphabetSize: 100 });
  const id = (token: string): number => tokenizer.tokenToId(token)!;
  const [paddingId, unknown, classId, separatorId, maskId] = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
  ].map(id) as [number, number, number, number, number];
  const specialIds = new Set([paddingId, unknown, classId, separatorId, maskId]);
  const startsWord = (token: number) => !tokenizer.idToToken(token)!.startsWith("##");
  return {
    tokenizer,
    vocabulary: {
      size: tokenizer.vocabSize,
      maskId,
      specialIds,
      classId,
      separatorId,
      paddingId,
      startsWord,
    },
  };
}

/** Rows of masked LM: the tokens of sentences, cut so that `[CLS]` and `[SEP]` find room in `contextLength`. */
export const rowsOf = (
  tokenizer: Tokenizer,
  labelled: readonly Labelled[],
  contextLength: number,
): Document => labelled.map(({ text }) => tokenizer.encode(text).slice(0, contextLength - 2));

/** Texts as tokens, special ones left out. */
export const tokenized = (tokenizer: Tokenizer, texts: readonly (readonly string[])[]): Document[] =>
  texts.map((sentencesOf) => sentencesOf.map((text) => tokenizer.encode(text)));

/** Batches of rows that are masked anew each time: `[CLS] tokens [SEP]`, those of like length together. */
export const maskedRows = (
  rows: readonly (readonly number[])[],
  vocabulary: SentenceVocabulary,
  masking: MaskingOptions,
  options: { batchSize: number; seed: number; copies?: number },
): ExampleSource<readonly number[], MaskedRow> =>
  new ExampleSource({
    ...options,
    examples: () => rows,
    length: (row) => row.length,
    transform: (row, random) => maskRow(sentenceRow(vocabulary, row), vocabulary, masking, random),
    collate: (masked) => maskedBatch(masked, vocabulary.paddingId),
  });

/** How often each token occurs. */
export function tokenCounts(rows: readonly (readonly number[])[]): Map<number, number> {
  const counts = new Map<number, number>();
  for (const row of rows) for (const token of row) counts.set(token, (counts.get(token) ?? 0) + 1);
  return counts;
}

/** Masked-LM loss of one who knows how frequent tokens are and nothing else, each counted once more than it occurs. */
export function frequencyLoss(
  counts: ReadonlyMap<number, number>,
  batches: readonly Batch[],
  vocabSize: number,
): number {
  const total = [...counts.values()].reduce((sum, count) => sum + count, vocabSize);
  const labels = batches.flatMap(({ tensors }) => Array.from(tensors["maskedLabels"]!.data as Int32Array));
  return (
    labels.reduce((sum, label) => sum - Math.log(((counts.get(label) ?? 0) + 1) / total), 0) / labels.length
  );
}

/** The first batches of a source, to measure held-out text always alike. */
export const take = (source: { next(): Batch }, count: number): Batch[] =>
  Array.from({ length: count }, () => source.next());

export interface TrainOptions {
  readonly name: string;
  readonly objective: Objective;
  readonly weights: Weights;
  readonly source: BatchSource;
  readonly steps: number;
  readonly learningRate: number;
  readonly seed: number;
  /** Measured at the end, and as often as there are points in the curve. */
  readonly heldOut?: readonly Batch[];
  /** Which part of the held-out loss the curve shows. Default: the total. */
  readonly part?: string;
}

export interface Trained {
  /** Held-out loss by step; the training loss where nothing is held out. */
  readonly curve: Curve;
  readonly loss: number;
  /** The last training loss in parts, the mean of an eighth of the steps. */
  readonly parts: Readonly<Record<string, number>>;
  readonly tokens: number;
  readonly seconds: number;
}

/** AdamW with warm-up over a tenth of the steps and a linear end. */
export async function train(options: TrainOptions): Promise<Trained> {
  const { name, objective, weights, source, steps, learningRate, seed, heldOut, part } = options;
  using trainer = await Trainer.create({
    objective,
    weights,
    source,
    seed,
    schedule: schedule("linear", {
      learningRate,
      warmupSteps: Math.ceil(steps / 10),
      totalSteps: steps + 1,
    }),
  });
  const every = Math.max(1, Math.floor(steps / 8));
  const points: { step: number; loss: number }[] = [];
  let [tokens, seconds, recent, counted] = [0, 0, 0, 0];
  let sums: Record<string, number> = {};
  let parts: Record<string, number> = {};
  for (let step = 1; step <= steps; step++) {
    const report = await trainer.step();
    tokens += report.tokens;
    seconds += report.seconds;
    recent += report.loss;
    addParts(sums, report.parts);
    counted++;
    if (step % every !== 0 && step !== steps) continue;
    const measured = heldOut && (await evaluate(objective, weights, heldOut));
    const loss = measured ? (part ? measured.parts[part]! : measured.loss) : recent / counted;
    points.push({ step, loss });
    parts = Object.fromEntries(Object.entries(sums).map(([key, value]) => [key, value / counted]));
    const several = Object.entries(Object.keys(parts).length > 1 ? parts : {});
    const listed = several.map(([key, value]) => `, ${key} ${value.toFixed(4)}`).join("");
    process.stderr.write(`${name}: step ${step} of ${steps}, loss ${loss.toFixed(3)}${listed}\n`);
    [recent, counted, sums] = [0, 0, {}];
  }
  return { curve: { label: name, points }, loss: points.at(-1)!.loss, parts, tokens, seconds };
}

/** Copies every parameter that both have, `from`'s name less its `prefix`; the number copied. */
export function copyParameters(from: Weights, to: Weights, prefix = ""): number {
  let copied = 0;
  for (const [name, tensor] of Object.entries(to.tensors)) {
    const source = from.tensors[prefix + name];
    if (!source) continue;
    tensor.write(source.view());
    copied++;
  }
  return copied;
}

interface ClassifiedRow {
  readonly ids: readonly number[];
  readonly label: number;
}

const classBatch =
  (paddingId: number) =>
  (rows: readonly ClassifiedRow[]): Batch => {
    const sequence = Math.max(...rows.map(({ ids }) => ids.length));
    const inputIds = new Int32Array(rows.length * sequence).fill(paddingId);
    const attentionMask = new Uint8Array(rows.length * sequence);
    rows.forEach(({ ids }, row) => {
      inputIds.set(ids, row * sequence);
      attentionMask.fill(1, row * sequence, row * sequence + ids.length);
    });
    const shape = [rows.length, sequence];
    return {
      tensors: {
        inputIds: { data: inputIds, shape },
        attentionMask: { data: attentionMask, shape },
        labels: { data: Int32Array.from(rows, ({ label }) => label), shape: [rows.length] },
      },
      counts: { classes: rows.length },
      tokens: inputIds.length,
    };
  };

interface FineTuneOptions {
  readonly name: string;
  readonly model: EncoderWithHead;
  readonly weights: Weights;
  readonly train: readonly Labelled[];
  readonly dev: readonly Labelled[];
  readonly tokenizer: Tokenizer;
  readonly vocabulary: SentenceVocabulary;
  readonly steps: number;
  readonly learningRate: number;
  readonly seed: number;
}

/** Fine-tunes a network with a sequence head on sentences with labels; the share of the held-out ones that it gets right. */
async function fineTune(options: FineTuneOptions): Promise<{ accuracy: number; curve: Curve }> {
  const { name, model, weights, tokenizer, vocabulary, steps, learningRate, seed } = options;
  const limit = model.encoder.config.contextLength;
  const rowsOf = (examples: readonly Labelled[]): ClassifiedRow[] =>
    examples.map(({ text, label }) => ({
      ids: sentenceRow(vocabulary, tokenizer.encode(text).slice(0, limit - 2)).ids,
      label,
    }));
  const rows = rowsOf(options.train);
  const perToken = ["batch", "sequence"];
  const objective: Objective = {
    model,
    inputs: {
      inputIds: { dtype: "int32", shape: perToken },
      attentionMask: { dtype: "bool", shape: perToken },
      labels: { dtype: "int32", shape: ["batch"] },
    },
    losses: ({ inputIds, attentionMask, labels }, context) => {
      const logits = model.forward({ inputIds: inputIds!, attentionMask }, context);
      return { classes: sum(tokenLosses(logits, labels!)) };
    },
  };
  const collate = classBatch(vocabulary.paddingId);
  const source = new ExampleSource<ClassifiedRow, ClassifiedRow>({
    batchSize: 32,
    seed,
    examples: () => rows,
    length: ({ ids }) => ids.length,
    transform: (row) => row,
    collate,
  });
  const { curve } = await train({ name, objective, weights, source, steps, learningRate, seed });

  const logits = model.forward({
    inputIds: input("inputIds", "int32", perToken),
    attentionMask: input("attentionMask", "bool", perToken),
  });
  const { runtime } = weights;
  using program = await compile(runtime, { logits });
  let right = 0;
  for (const part of chunks(rowsOf(options.dev), 64)) {
    const { inputIds, attentionMask } = collate(part).tensors;
    using ids = runtime.createTensor("int32", inputIds!.shape, inputIds!.data as Int32Array);
    using mask = runtime.createTensor("bool", attentionMask!.shape, attentionMask!.data as Uint8Array);
    const result = await program.run({ ...weights.tensors, inputIds: ids, attentionMask: mask });
    using scores = result["logits"]!;
    const values = (await scores.read()) as Float32Array;
    part.forEach(({ label }, row) => {
      if (Number(values[2 * row + 1]! > values[2 * row]!) === label) right++;
    });
  }
  return { accuracy: right / options.dev.length, curve };
}

/** What a network is fine-tuned to from one beginning, at several rates, each with several seeds. */
export interface FineTuneTrials extends Omit<FineTuneOptions, "model" | "weights" | "learningRate" | "seed"> {
  /** A fresh network with its head. */
  readonly create: () => EncoderWithHead;
  readonly runtime: Runtime;
  /** Brings what was learned before into fresh weights. */
  readonly begin: (weights: Weights) => unknown;
  readonly rates: readonly number[];
  readonly seeds: readonly number[];
}

/** Accuracies by seed at each rate: every beginning is tried with all, and counts by its best. */
export async function fineTuneAtRates(trials: FineTuneTrials): Promise<number[][]> {
  const { create, runtime, begin, rates, seeds, name, ...options } = trials;
  const accuracies: number[][] = [];
  for (const rate of rates) {
    const ofRate: number[] = [];
    for (const seed of seeds) {
      const model = create();
      using weights = Weights.initialize(runtime, model, seed);
      begin(weights);
      const tuned = await fineTune({
        ...options,
        name: `${name}, rate ${rate}`,
        model,
        weights,
        learningRate: rate,
        seed,
      });
      ofRate.push(tuned.accuracy);
    }
    accuracies.push(ofRate);
  }
  return accuracies;
}

/** Cells of a table: the mean at each rate with its standard error, and the best of these. */
export function accuracyCells(accuracies: readonly (readonly number[])[]): string[] {
  const means = accuracies.map((ofRate) => mean(ofRate)!);
  const cells = accuracies.map((ofRate, index) => {
    const spread = deviation(ofRate);
    const error = spread === undefined ? "" : ` ±${((100 * spread) / Math.sqrt(ofRate.length)).toFixed(1)}`;
    return percent(means[index]!) + error;
  });
  return [...cells, cells[means.indexOf(Math.max(...means))]!];
}
