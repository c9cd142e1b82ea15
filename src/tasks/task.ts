import { type BatchTensor, type Example, type Padding, type TaskName } from "../data/index.js";
import type { Tensor } from "../graph/index.js";
import type { HeadName } from "../nn/index.js";
import type { Encoding, Tokenizer } from "../tokenizers/index.js";
import type { ConfusionMatrix, InputSpec, Metrics } from "../training/index.js";

/** What a task needs to know besides an example. */
export interface TaskContext {
  readonly tokenizer: Tokenizer;
  readonly padding: Padding;
  /** Whether a token has seen only those before it, as in a decoder. */
  readonly causal: boolean;
  /** Tokens of a row at most. */
  readonly maxLength: number;
  /** Tokens that neighbouring windows of a long context share. */
  readonly stride: number;
  /** Classes or tags, in the order of their ids. */
  readonly labels: readonly string[];
  /** Weight of each class in the loss. Default 1. */
  readonly classWeights?: readonly number[];
  /** Numbers are learned as `(value - mean) / deviation`. Default 0 and 1. */
  readonly scale?: { readonly mean: number; readonly deviation: number };
}

/** A part of an example that one row of a batch holds; a row of choices for each choice. */
export interface Item {
  /** Place of its example. */
  readonly place: number;
  readonly rows: readonly Encoding[];
  /** Tokens of the longest row. */
  readonly length: number;
  /** A class, a scaled number or a choice; the class of each token; the start and end tokens of an answer. */
  readonly target?: number | readonly number[];
  /** The word of each token, -1 for a special one, and the number of the first word. */
  readonly wordIds?: readonly number[];
  readonly firstWord?: number;
  readonly truncated: number;
}

/** What a fine-tuned model says of an example. */
export interface Prediction {
  /** The class, or null where the threshold leaves it open. */
  readonly label?: string | null;
  /** Of what is answered: the class, the choice, the span. */
  readonly probability?: number;
  /** By class, or by choice. */
  readonly probabilities?: Readonly<Record<string, number>>;
  readonly value?: number;
  /** One for each word. */
  readonly tags?: readonly string[];
  /** The answer's text; empty where the context has none. */
  readonly answer?: string;
  /** Where it stands in the context, in characters as Python counts them. */
  readonly start?: number;
  readonly end?: number;
  /** Place of the choice. */
  readonly choice?: number;
}

/** The answers of a network to one item: its part of the logits. */
export interface ItemLogits {
  readonly item: Item;
  /** `[classes]`, `[1]`, `[choices]`, `[orders, classes]`, or `[tokens, classes]` row after row without padding. */
  readonly logits: Float32Array;
}

export interface Measured {
  readonly metrics: Metrics;
  readonly confusion?: ConfusionMatrix;
}

/** One of the six tasks: how examples become rows, what is learned, and how logits become answers. */
export interface Task {
  readonly name: TaskName;
  /** The head that answers. */
  readonly head: HeadName;
  /** Dimensions of the encoder's inputs, by name. */
  readonly shape: readonly string[];
  /** Whether there are logits for each token, and not for each row alone. */
  readonly perToken: boolean;
  /** Whether named classes are told apart. */
  readonly hasClasses: boolean;
  /** Whether a class is answered from a probability on. */
  readonly hasThreshold: boolean;
  /** Tokens of a row unless it is told otherwise: what most texts need. */
  readonly defaultLength: number;
  /** Logits of the head; undefined where its published shape says how many. */
  numLabels(labels: readonly string[]): number | undefined;
  /** The metric by which the best checkpoint is told, all of them the larger the better. */
  readonly metric: string;
  readonly targets: Readonly<Record<string, InputSpec>>;
  /** Rows of an example; several where it is too long for one. */
  prepare(example: Example, place: number, context: TaskContext): Item[];
  /** Targets of a batch, whose rows are `length` tokens long, and how many of them count in its loss. */
  collate(
    items: readonly Item[],
    length: number,
    context: TaskContext,
  ): { tensors: Record<string, BatchTensor>; count: number };
  /** Sum of the losses of a batch: what training makes smaller and evaluation measures. */
  loss(logits: Tensor, inputs: Readonly<Record<string, Tensor>>): Tensor;
  predict(
    example: Example,
    found: readonly ItemLogits[],
    context: TaskContext,
    options: PredictOptions,
  ): Prediction;
  measure(
    examples: readonly Example[],
    predictions: readonly Prediction[],
    loss: number,
    context: TaskContext,
  ): Measured;
}

export interface PredictOptions {
  /**
   * Two classes: the second one is answered from this probability on. More: a class must reach it, or the label is null.
   * Default: the most probable class.
   */
  readonly threshold?: number;
}

// ---- Shared parts -------------------------------------------------------------------------------------------------

/** Logits of what cannot be chosen. */
export const never = -1e4;

export function softmax(logits: ArrayLike<number>): number[] {
  const values = Array.from(logits);
  const highest = Math.max(...values);
  const powers = values.map((value) => Math.exp(value - highest));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / total);
}

export const int32 = (values: readonly number[], shape: readonly number[]): BatchTensor => ({
  data: Int32Array.from(values),
  shape,
});
export const float32 = (values: readonly number[], shape: readonly number[]): BatchTensor => ({
  data: Float32Array.from(values),
  shape,
});

export const oneRow = (place: number, row: Encoding, target: Item["target"]): Item => ({
  place,
  rows: [row],
  length: row.ids.length,
  truncated: row.truncated,
  ...(target !== undefined && { target }),
});

export const encodeTexts = ({ text, pair }: Example, { tokenizer, maxLength }: TaskContext): Encoding =>
  tokenizer.encodePair(text, pair, { maxLength });

export const tokenShape: readonly string[] = ["batch", "sequence"];

/** Rows of the item that has most. */
export const mostRows = (items: readonly Item[]): number => Math.max(...items.map(({ rows }) => rows.length));
