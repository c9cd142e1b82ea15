import { LineageError } from "../base/errors.js";
import {
  type Answer,
  type Batch,
  type BatchTensor,
  type Example,
  type Label,
  type Padding,
  type TaskName,
  padRows,
} from "../data/index.js";
import { type Tensor, ignoredLabel, mul, squeeze, sum, tokenLosses, where } from "../graph/index.js";
import type { Encoding, Tokenizer } from "../tokenizers/index.js";
import { type EncoderTask } from "../checkpoints/index.js";
import {
  ConfusionMatrix,
  type InputSpec,
  type Metrics,
  bestThreshold,
  entityScores,
  pearson,
  rootMeanSquaredError,
  spanScores,
  spearman,
} from "../training/index.js";

/** What a task needs to know besides an example. */
export interface TaskContext {
  readonly tokenizer: Tokenizer;
  readonly padding: Padding;
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
  /** `[classes]`, `[1]`, `[choices]`, or `[tokens, classes]` row after row without padding. */
  readonly logits: Float32Array;
}

export interface Measured {
  readonly metrics: Metrics;
  readonly confusion?: ConfusionMatrix;
}

/** One of the six tasks: how examples become rows, what is learned, and how logits become answers. */
export interface Task {
  readonly name: TaskName;
  readonly encoderTask: EncoderTask;
  readonly shape: readonly string[];
  /** The metric by which the best checkpoint is told, all of them the larger the better. */
  readonly metric: string;
  readonly targets: Readonly<Record<string, InputSpec>>;
  /** Rows of an example; several where it is too long for one. */
  prepare(example: Example, place: number, context: TaskContext): Item[];
  /** Targets and counts of a batch, whose rows are `length` tokens long. */
  collate(
    items: readonly Item[],
    length: number,
    context: TaskContext,
  ): { tensors: Record<string, BatchTensor>; count: number };
  /** Sum of the losses of a batch. */
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
  /** Sum of the losses of an item, and what it counts. */
  itemLoss(found: ItemLogits, context: TaskContext): { sum: number; count: number };
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
const never = -1e4;

function softmax(logits: ArrayLike<number>): number[] {
  const values = Array.from(logits);
  const highest = Math.max(...values);
  const powers = values.map((value) => Math.exp(value - highest));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / total);
}

/** Cross-entropy of one class under logits. */
function crossEntropyOf(logits: ArrayLike<number>, target: number): number {
  const values = Array.from(logits);
  const highest = Math.max(...values);
  const total = values.reduce((sum, value) => sum + Math.exp(value - highest), 0);
  return highest + Math.log(total) - values[target]!;
}

const indexOfMax = (values: ArrayLike<number>): number => {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
};

const int32 = (values: readonly number[], shape: readonly number[]): BatchTensor => ({
  data: Int32Array.from(values),
  shape,
});
const float32 = (values: readonly number[], shape: readonly number[]): BatchTensor => ({
  data: Float32Array.from(values),
  shape,
});

const oneRow = (place: number, row: Encoding, target: Item["target"]): Item => ({
  place,
  rows: [row],
  length: row.ids.length,
  truncated: row.truncated,
  ...(target !== undefined && { target }),
});

const encodeTexts = ({ text, pair }: Example, { tokenizer, maxLength }: TaskContext): Encoding =>
  tokenizer.encodePair(text, pair, { maxLength });

const batchSpec: readonly string[] = ["batch", "sequence"];

// ---- Tasks --------------------------------------------------------------------------------------------------------

const classification = (name: "classify" | "pair"): Task => ({
  name,
  encoderTask: "sequence",
  shape: batchSpec,
  metric: "accuracy",
  targets: {
    labels: { dtype: "int32", shape: ["batch"] },
    labelWeights: { dtype: "float32", shape: ["batch"] },
  },
  prepare: (example, place, context) => [
    oneRow(
      place,
      encodeTexts(example, context),
      example.label === undefined ? undefined : context.labels.indexOf(example.label as string),
    ),
  ],
  collate: (items, _, { classWeights }) => {
    const labels = items.map(({ target }) => target as number);
    const weights = labels.map((label) => classWeights?.[label] ?? 1);
    return {
      tensors: {
        labels: int32(labels, [labels.length]),
        labelWeights: float32(weights, [labels.length]),
      },
      count: weights.reduce((a, b) => a + b, 0),
    };
  },
  loss: (logits, { labels, labelWeights }) => sum(mul(tokenLosses(logits, labels!), labelWeights!)),
  itemLoss: ({ item, logits }, { classWeights }) => {
    const target = item.target as number;
    const weight = classWeights?.[target] ?? 1;
    return { sum: weight * crossEntropyOf(logits, target), count: weight };
  },
  predict: (_, [found], { labels }, { threshold }) => {
    const probabilities = softmax(found!.logits);
    const best = indexOfMax(probabilities);
    const chosen =
      threshold === undefined
        ? best
        : labels.length === 2
          ? Number(probabilities[1]! >= threshold)
          : probabilities[best]! >= threshold
            ? best
            : undefined;
    return {
      label: chosen === undefined ? null : labels[chosen]!,
      probability: probabilities[chosen ?? best]!,
      probabilities: Object.fromEntries(labels.map((label, id) => [label, probabilities[id]!])),
    };
  },
  measure: (examples, predictions, loss, { labels }) => {
    // A label that the threshold left open is an answer of its own, and a wrong one.
    const open = predictions.some(({ label }) => label === null);
    const classes = open ? [...labels, "(open)"] : labels;
    const confusion = ConfusionMatrix.of(
      classes,
      examples.map(({ label }) => labels.indexOf(label as string)),
      predictions.map(({ label }) => (label === null ? labels.length : labels.indexOf(label!))),
    );
    return { metrics: { loss, ...scoresOf(confusion, labels.length === 2) }, confusion };
  },
});

/** Of two classes the second is the positive one. */
function scoresOf(confusion: ConfusionMatrix, binary: boolean): Record<string, number> {
  const { accuracy, macroF1, matthews, byClass } = confusion;
  return { accuracy, macroF1, ...(binary && { f1: byClass[1]!.f1 }), matthews };
}

/**
 * The threshold at which predictions for labelled examples of two classes are best by a metric, which is F1 where `metric`
 * does not depend on it.
 */
export function thresholdFor(
  metric: string,
  examples: readonly Example[],
  predictions: readonly Prediction[],
  labels: readonly string[],
): number {
  const [, positive] = labels;
  const found = predictions.map(({ probabilities }) => probabilities?.[positive!] ?? 0);
  const truth = examples.map(({ label }) => label === positive);
  const decides = ["accuracy", "macroF1", "matthews"].includes(metric) ? metric : "f1";
  return bestThreshold(truth, found, (confusion) => scoresOf(confusion, true)[decides]!);
}

/** Throws `argument` for a threshold where nothing is decided by one. */
export function checkThreshold(
  threshold: number | "auto" | undefined,
  task: TaskName,
  labels: readonly string[],
): void {
  if (threshold === undefined) return;
  if (task !== "classify" && task !== "pair")
    throw new LineageError("argument", `the task ${task} decides nothing by a threshold; leave it out`);
  if (threshold === "auto" && labels.length !== 2)
    throw new LineageError(
      "argument",
      `a threshold is chosen between two classes, and there are ${labels.length}: ${labels.join(", ")}; give a number, from which on any of them is answered`,
    );
}

const regress: Task = {
  name: "regress",
  encoderTask: "sequence",
  shape: batchSpec,
  metric: "pearson",
  targets: { values: { dtype: "float32", shape: ["batch"] } },
  prepare: (example, place, context) => {
    const { mean, deviation } = context.scale ?? { mean: 0, deviation: 1 };
    const target = example.label === undefined ? undefined : ((example.label as number) - mean) / deviation;
    return [oneRow(place, encodeTexts(example, context), target)];
  },
  collate: (items) => ({
    tensors: {
      values: float32(
        items.map(({ target }) => target as number),
        [items.length],
      ),
    },
    count: items.length,
  }),
  loss: (logits, { values }) => sum(squeeze(logits, 1).sub(values!).square()),
  itemLoss: ({ item, logits }) => ({ sum: (logits[0]! - (item.target as number)) ** 2, count: 1 }),
  predict: (_, [found], { scale }) => ({
    value: found!.logits[0]! * (scale?.deviation ?? 1) + (scale?.mean ?? 0),
  }),
  measure: (examples, predictions, loss) => {
    const truth = examples.map(({ label }) => label as number);
    const values = predictions.map(({ value }) => value!);
    // Where nothing varies there is no correlation to speak of.
    const defined = (value: number) => (Number.isFinite(value) ? value : 0);
    return {
      metrics: {
        loss,
        pearson: defined(pearson(truth, values)),
        spearman: defined(spearman(truth, values)),
        rmse: rootMeanSquaredError(truth, values),
      },
    };
  },
};

const tag: Task = {
  name: "tag",
  encoderTask: "token",
  shape: batchSpec,
  metric: "f1",
  targets: { labels: { dtype: "int32", shape: batchSpec } },
  prepare: (example, place, { tokenizer, maxLength, labels }) => {
    const words = example.words!;
    const tags = example.label as readonly string[] | undefined;
    const specialTokens = tokenizer.encodePair("").ids.length;
    const sizes = words.map((word) =>
      Math.max(1, tokenizer.encode(` ${word}`).length, tokenizer.encode(word).length),
    );
    const items: Item[] = [];
    for (let first = 0; first < Math.max(1, words.length);) {
      let end = first;
      let used = specialTokens;
      while (end < words.length && (end === first || used + sizes[end]! <= maxLength)) used += sizes[end++]!;
      const row = tokenizer.encodeWords(words.slice(first, end), { maxLength });
      // The first token of a word answers for it; the others are left out, as in BERT's paper.
      const target =
        tags &&
        row.wordIds.map((word, token) =>
          word < 0 || row.wordIds[token - 1] === word ? ignoredLabel : labels.indexOf(tags[first + word]!),
        );
      items.push({ ...oneRow(place, row, target), wordIds: row.wordIds, firstWord: first });
      first = Math.max(end, first + 1);
    }
    return items;
  },
  collate: (items, length, { padding }) => {
    const labels = new Int32Array(items.length * length).fill(ignoredLabel);
    let count = 0;
    items.forEach(({ target }, row) => {
      const tags = target as readonly number[];
      labels.set(tags, row * length + (padding.left ? length - tags.length : 0));
      count += tags.filter((label) => label !== ignoredLabel).length;
    });
    return { tensors: { labels: { data: labels, shape: [items.length, length] } }, count };
  },
  loss: (logits, { labels }) => sum(tokenLosses(logits, labels!)),
  itemLoss: ({ item, logits }, { labels }) => {
    let [total, count] = [0, 0];
    (item.target as readonly number[]).forEach((label, token) => {
      if (label === ignoredLabel) return;
      total += crossEntropyOf(logits.subarray(token * labels.length, (token + 1) * labels.length), label);
      count++;
    });
    return { sum: total, count };
  },
  predict: ({ words }, found, { labels }) => {
    // A word that has no token, such as a control character, is nothing.
    const tags = words!.map(() => (labels.includes("O") ? "O" : labels[0]!));
    for (const { item, logits } of found) {
      item.wordIds!.forEach((word, token) => {
        if (word < 0 || item.wordIds![token - 1] === word) return;
        const scores = logits.subarray(token * labels.length, (token + 1) * labels.length);
        tags[item.firstWord! + word] = labels[indexOfMax(scores)]!;
      });
    }
    return { tags };
  },
  measure: (examples, predictions, loss, { labels }) => {
    const truth = examples.map(({ label }) => label as readonly string[]);
    const found = predictions.map(({ tags }) => tags!);
    const ids = (rows: readonly (readonly string[])[]) => rows.flat().map((name) => labels.indexOf(name));
    const confusion = ConfusionMatrix.of(labels, ids(truth), ids(found));
    const { accuracy, macroF1 } = confusion;
    // Tags that name no entities, such as parts of speech, are measured one by one.
    const entities = labels.some((label) => /^[BI]-/.test(label));
    const scores = entities ? entityScores(truth, found) : { f1: macroF1 };
    return { metrics: { loss, accuracy, ...scores }, confusion };
  },
};

/** Tokens of an answer at most. */
const longestAnswer = 30;

const span: Task = {
  name: "span",
  encoderTask: "span",
  shape: batchSpec,
  metric: "f1",
  targets: {
    starts: { dtype: "int32", shape: ["batch"] },
    ends: { dtype: "int32", shape: ["batch"] },
  },
  prepare: (example, place, { tokenizer, maxLength, stride, padding }) => {
    const context = example.pair!;
    const [answer] = (example.label as readonly Answer[] | undefined) ?? [];
    const range = answer && unitsOf(context, answer.start, answer.start + [...answer.text].length);
    const windows = tokenizer.encodeWindows(example.text, context, { maxLength, stride, offsets: true });
    return windows.map((window) => {
      const none = padding.left ? window.ids.length - 1 : 0;
      const target =
        example.label === undefined ? undefined : ((range && tokensOf(window, range)) ?? [none, none]);
      return oneRow(place, window, target);
    });
  },
  collate: (items, length, { padding }) => {
    const at = (part: 0 | 1) =>
      items.map(({ target, rows }) => {
        const shift = padding.left ? length - rows[0]!.ids.length : 0;
        return (target as readonly number[])[part]! + shift;
      });
    return {
      tensors: { starts: int32(at(0), [items.length]), ends: int32(at(1), [items.length]) },
      count: items.length,
    };
  },
  loss: (logits, { starts, ends, attentionMask }) => {
    const [start, end] = logits.split(2, 2).map((part) => where(attentionMask!, squeeze(part, 2), never)) as [
      Tensor,
      Tensor,
    ];
    return mul(sum(tokenLosses(start, starts!).add(tokenLosses(end, ends!))), 0.5);
  },
  itemLoss: ({ item, logits }) => {
    const [start, end] = item.target as readonly [number, number];
    const part = (which: number) => logits.filter((_, place) => place % 2 === which);
    return { sum: (crossEntropyOf(part(0), start) + crossEntropyOf(part(1), end)) / 2, count: 1 };
  },
  predict: ({ pair }, found, { padding }) => {
    let best = { score: -Infinity, probability: 0, start: 0, end: 0 };
    // No window may have the answer; the one that is least sure of that speaks for all.
    let none = { score: Infinity, probability: 1 };
    for (const { item, logits } of found) {
      const row = item.rows[0]!;
      const starts = Array.from(row.ids, (_, token) => logits[2 * token]!);
      const ends = Array.from(row.ids, (_, token) => logits[2 * token + 1]!);
      const [startProbabilities, endProbabilities] = [softmax(starts), softmax(ends)];
      const cls = padding.left ? row.ids.length - 1 : 0;
      if (starts[cls]! + ends[cls]! < none.score)
        none = {
          score: starts[cls]! + ends[cls]!,
          probability: startProbabilities[cls]! * endProbabilities[cls]!,
        };
      for (let start = 0; start < row.ids.length; start++) {
        if (row.sequences[start] !== 1) continue;
        for (let end = start; end < Math.min(row.ids.length, start + longestAnswer); end++) {
          if (row.sequences[end] !== 1) break;
          const score = starts[start]! + ends[end]!;
          if (score > best.score) {
            best = {
              score,
              probability: startProbabilities[start]! * endProbabilities[end]!,
              start: row.offsets![start]![0],
              end: row.offsets![end]![1],
            };
          }
        }
      }
    }
    if (none.score >= best.score) return { answer: "", probability: none.probability };
    const context = pair!;
    return {
      answer: context.slice(best.start, best.end),
      start: [...context.slice(0, best.start)].length,
      end: [...context.slice(0, best.end)].length,
      probability: best.probability,
    };
  },
  measure: (examples, predictions, loss) => {
    let [exactMatch, f1] = [0, 0];
    examples.forEach(({ label }, place) => {
      const answers = (label as readonly Answer[]).map(({ text }) => text);
      const scores = spanScores(predictions[place]!.answer!, answers);
      exactMatch += scores.exact / examples.length;
      f1 += scores.f1 / examples.length;
    });
    return { metrics: { loss, exactMatch, f1 } };
  },
};

/** A range of code points as UTF-16 units. */
const unitsOf = (text: string, start: number, end: number): [number, number] => {
  const characters = [...text];
  const from = characters.slice(0, start).join("").length;
  return [from, from + characters.slice(start, end).join("").length];
};

/** The first and the last token of a range of the second text; undefined where the window does not have all of it. */
function tokensOf(window: Encoding, [from, to]: readonly [number, number]): [number, number] | undefined {
  const inside = window.ids.flatMap((_, token) => {
    const [start, end] = window.offsets![token]!;
    return window.sequences[token] === 1 && end > from && start < to ? [token] : [];
  });
  const [first, last] = [inside[0], inside.at(-1)];
  if (first === undefined || last === undefined) return undefined;
  const whole = window.offsets![first]![0] <= from && window.offsets![last]![1] >= to;
  return whole ? [first, last] : undefined;
}

const choice: Task = {
  name: "choice",
  encoderTask: "choice",
  shape: ["batch", "choices", "sequence"],
  metric: "accuracy",
  targets: {
    labels: { dtype: "int32", shape: ["batch"] },
    offered: { dtype: "bool", shape: ["batch", "choices"] },
  },
  prepare: ({ text, choices, label }, place, { tokenizer, maxLength }) => {
    const rows = choices!.map((other) => tokenizer.encodePair(text, other, { maxLength }));
    return [
      {
        place,
        rows,
        length: Math.max(...rows.map(({ ids }) => ids.length)),
        truncated: rows.reduce((total, { truncated }) => total + truncated, 0),
        ...(label !== undefined && { target: label as number }),
      },
    ];
  },
  collate: (items) => {
    const most = mostRows(items);
    return {
      tensors: {
        labels: int32(
          items.map(({ target }) => (target as number | undefined) ?? 0),
          [items.length],
        ),
        offered: {
          data: Uint8Array.from(
            items.flatMap(({ rows }) =>
              Array.from({ length: most }, (_, place) => Number(place < rows.length)),
            ),
          ),
          shape: [items.length, most],
        },
      },
      count: items.length,
    };
  },
  loss: (logits, { labels, offered }) => sum(tokenLosses(where(offered!, logits, never), labels!)),
  itemLoss: ({ item, logits }) => ({ sum: crossEntropyOf(logits, item.target as number), count: 1 }),
  predict: ({ choices }, [found]) => {
    const probabilities = softmax(found!.logits);
    const best = indexOfMax(probabilities);
    return {
      choice: best,
      label: choices![best]!,
      probability: probabilities[best]!,
      probabilities: Object.fromEntries(probabilities.map((probability, place) => [place, probability])),
    };
  },
  measure: (examples, predictions, loss) => {
    const right = examples.filter(({ label }, place) => predictions[place]!.choice === label).length;
    return { metrics: { loss, accuracy: right / examples.length } };
  },
};

export const tasks: Readonly<Record<TaskName, Task>> = {
  classify: classification("classify"),
  pair: classification("pair"),
  regress,
  tag,
  span,
  choice,
};

/** Whether a task tells named classes apart. */
export const hasClasses = (task: TaskName): boolean =>
  task === "classify" || task === "pair" || task === "tag";

// ---- Batches ------------------------------------------------------------------------------------------------------

const mostRows = (items: readonly Item[]): number => Math.max(...items.map(({ rows }) => rows.length));

/** The encoder's inputs of items, `[batch, sequence]`, or `[batch, choices, sequence]` with missing choices as empty rows. */
export function inputsOf(
  task: Task,
  items: readonly Item[],
  { padding }: TaskContext,
): Record<string, BatchTensor> {
  if (task.shape.length === 2)
    return padRows(
      items.map(({ rows }) => rows[0]!),
      padding,
    );
  const most = mostRows(items);
  const flat = padRows(
    items.flatMap(({ rows }) => Array.from({ length: most }, (_, place) => rows[place] ?? rows[0]!)),
    padding,
  );
  return Object.fromEntries(
    Object.entries(flat).map(([name, { data, shape }]) => [
      name,
      { data, shape: [items.length, most, shape[1]!] },
    ]),
  );
}

/** A batch to learn from. */
export function batchOf(task: Task, items: readonly Item[], context: TaskContext): Batch {
  const inputs = inputsOf(task, items, context);
  const { shape, data } = inputs["inputIds"]!;
  const { tensors, count } = task.collate(items, shape.at(-1)!, context);
  return { tensors: { ...inputs, ...tensors }, counts: { [task.name]: count }, tokens: data.length };
}

/** Each item's part of a batch's logits. */
export function logitsOf(
  task: Task,
  items: readonly Item[],
  { data, shape }: { data: Float32Array; shape: readonly number[] },
  { padding }: TaskContext,
): ItemLogits[] {
  const size = data.length / items.length;
  const perToken = task.encoderTask === "token" || task.encoderTask === "span";
  return items.map((item, row) => {
    const own = data.subarray(row * size, (row + 1) * size);
    if (task.encoderTask === "choice") return { item, logits: own.subarray(0, item.rows.length) };
    if (!perToken) return { item, logits: own };
    const width = shape[2]!;
    const shift = padding.left ? shape[1]! - item.length : 0;
    return { item, logits: own.subarray(shift * width, (shift + item.length) * width) };
  });
}

/** Classes or tags of labelled examples in a settled order: numbers by size, else by the alphabet, "O" before other tags. */
export function labelsOf(examples: readonly Example[]): string[] {
  const found = new Set(
    examples.flatMap(({ label }: { label?: Label }) =>
      label === undefined ? [] : ([label].flat() as string[]),
    ),
  );
  const names = [...found];
  const numeric = names.every((name) => /^-?\d+(\.\d+)?$/.test(name));
  return names.sort((a, b) => {
    if (numeric) return Number(a) - Number(b);
    if (a === "O" || b === "O") return a === "O" ? -1 : 1;
    return a < b ? -1 : 1;
  });
}

/** Throws `data` naming the row of a label that is none of `labels`. */
export function checkLabels(file: string, examples: readonly Example[], labels: readonly string[]): void {
  const known = new Set(labels);
  for (const { row, label } of examples) {
    const unknown = ([label].flat() as (string | undefined)[]).find(
      (name) => name !== undefined && !known.has(name),
    );
    if (unknown !== undefined) {
      throw new LineageError(
        "data",
        `${file}: row ${row} has the label ${JSON.stringify(unknown)}, which the training data does not; its labels are ${labels.join(", ")}`,
      );
    }
  }
}
