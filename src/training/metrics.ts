import { LineageError } from "../base/errors.js";

/** How often each class was taken for each: `counts[truth][prediction]`. */
export class ConfusionMatrix {
  constructor(
    readonly classes: readonly string[],
    readonly counts: readonly Uint32Array[],
  ) {}

  /** @param truth and `predictions` are places in `classes`. Throws `argument` unless both are equally long. */
  static of(
    classes: readonly string[],
    truth: ArrayLike<number>,
    predictions: ArrayLike<number>,
  ): ConfusionMatrix {
    checkLengths(truth, predictions);
    const counts = classes.map(() => new Uint32Array(classes.length));
    for (let i = 0; i < truth.length; i++) counts[truth[i]!]![predictions[i]!]!++;
    return new ConfusionMatrix(classes, counts);
  }

  get total(): number {
    return this.counts.reduce((sum, row) => sum + sumOf(row), 0);
  }

  /** Share of predictions that are right. */
  get accuracy(): number {
    return divide(sumOf(this.counts.map((row, place) => row[place]!)), this.total);
  }

  /** Precision, recall and F1 of each class, and how often it is the truth. A measure without cases is 0. */
  get byClass(): { name: string; precision: number; recall: number; f1: number; support: number }[] {
    return this.classes.map((name, place) => {
      const right = this.counts[place]![place]!;
      const predicted = sumOf(this.counts.map((row) => row[place]!));
      const support = sumOf(this.counts[place]!);
      return {
        name,
        precision: divide(right, predicted),
        recall: divide(right, support),
        f1: divide(2 * right, predicted + support),
        support,
      };
    });
  }

  /** Mean of the classes' F1, over classes that occur in the truth or among the predictions. */
  get macroF1(): number {
    const seen = this.byClass.filter(
      ({ support }, place) => support > 0 || this.counts.some((row) => row[place]! > 0),
    );
    return divide(sumOf(seen.map(({ f1 }) => f1)), seen.length);
  }

  /** Matthews' correlation for any number of classes, Gorodkin 2004. 0 where it is not defined. */
  get matthews(): number {
    const truth = this.counts.map(sumOf);
    const predicted = this.classes.map((_, place) => sumOf(this.counts.map((row) => row[place]!)));
    const right = sumOf(this.counts.map((row, place) => row[place]!));
    const { total } = this;
    const covariance = right * total - sumOf(truth.map((count, place) => count * predicted[place]!));
    const variance = (counts: readonly number[]) =>
      total * total - sumOf(counts.map((count) => count * count));
    return divide(covariance, Math.sqrt(variance(truth) * variance(predicted)));
  }

  /** A table: truth down, prediction across. */
  toString(): string {
    const cells = this.counts.map((row) => [...row].map(String));
    const width = Math.max(
      ...this.classes.map(({ length }) => length),
      ...cells.flat().map(({ length }) => length),
    );
    const first = Math.max("truth \\ prediction".length, ...this.classes.map(({ length }) => length));
    const line = (name: string, values: readonly string[]) =>
      [name.padEnd(first), ...values.map((value) => value.padStart(width))].join("  ");
    return [
      line("truth \\ prediction", this.classes),
      ...this.classes.map((name, place) => line(name, cells[place]!)),
    ].join("\n");
  }
}

/**
 * The probability from which on the second of two classes is best answered, by what `score` says of the confusion that it
 * gives. Where several are as good it is the one nearest to a half: a half itself, or the middle between two probabilities.
 * @param truth whether each case is of the second class
 * @param probabilities of the second class
 */
export function bestThreshold(
  truth: readonly boolean[],
  probabilities: readonly number[],
  score: (confusion: ConfusionMatrix) => number,
): number {
  checkLengths(truth, probabilities);
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b]! - probabilities[a]!);
  const positives = truth.filter(Boolean).length;
  let [right, wrong] = [0, 0];
  let best = { score: -Infinity, threshold: 0.5 };
  // From above the highest probability down, so many cases at a time as have the same one.
  for (let taken = 0; taken <= order.length;) {
    const above = taken === 0 ? 1 : probabilities[order[taken - 1]!]!;
    const below = taken === order.length ? 0 : probabilities[order[taken]!]!;
    const middle = (above + below) / 2;
    const threshold = below < 0.5 && above >= 0.5 ? 0.5 : middle > below ? middle : above;
    const found = score(
      new ConfusionMatrix(
        ["no", "yes"],
        [Uint32Array.of(truth.length - positives - wrong, wrong), Uint32Array.of(positives - right, right)],
      ),
    );
    const nearer = Math.abs(threshold - 0.5) < Math.abs(best.threshold - 0.5);
    // Nobody above 1: a threshold of 1 would still take what is certain.
    const possible = taken > 0 || below < 1;
    if (possible && (found > best.score || (found === best.score && nearer)))
      best = { score: found, threshold };
    if (taken === order.length) break;
    do {
      if (truth[order[taken]!]) right++;
      else wrong++;
      taken++;
    } while (taken < order.length && probabilities[order[taken]!] === below);
  }
  return best.threshold;
}

/** Pearson's correlation of two lists; NaN where one does not vary. */
export function pearson(truth: ArrayLike<number>, predictions: ArrayLike<number>): number {
  checkLengths(truth, predictions);
  const [x, y] = [Array.from(truth), Array.from(predictions)];
  const [meanX, meanY] = [divide(sumOf(x), x.length), divide(sumOf(y), y.length)];
  let [covariance, varianceX, varianceY] = [0, 0, 0];
  for (let i = 0; i < x.length; i++) {
    const [dx, dy] = [x[i]! - meanX, y[i]! - meanY];
    covariance += dx * dy;
    varianceX += dx * dx;
    varianceY += dy * dy;
  }
  return covariance / Math.sqrt(varianceX * varianceY);
}

/** Spearman's correlation: Pearson's of the ranks, equal values sharing their mean rank. */
export const spearman = (truth: ArrayLike<number>, predictions: ArrayLike<number>): number =>
  pearson(ranks(truth), ranks(predictions));

function ranks(values: ArrayLike<number>): Float64Array {
  const order = Array.from(values, (value, place) => ({ value, place })).sort((a, b) => a.value - b.value);
  const result = new Float64Array(values.length);
  for (let start = 0; start < order.length;) {
    let end = start;
    while (end < order.length && order[end]!.value === order[start]!.value) end++;
    for (let i = start; i < end; i++) result[order[i]!.place] = (start + end - 1) / 2 + 1;
    start = end;
  }
  return result;
}

/** Root of the mean squared difference. */
export function rootMeanSquaredError(truth: ArrayLike<number>, predictions: ArrayLike<number>): number {
  checkLengths(truth, predictions);
  let total = 0;
  for (let i = 0; i < truth.length; i++) total += (truth[i]! - predictions[i]!) ** 2;
  return Math.sqrt(divide(total, truth.length));
}

/** An answer as SQuAD compares it, Rajpurkar et al. 2016: lower case, no punctuation, no articles, single spaces. */
export const normalizeAnswer = (answer: string): string =>
  answer
    .toLowerCase()
    .replace(/[!-/:-@[-`{-~]/g, "")
    .replace(/\b(a|an|the)\b/g, " ")
    .split(/\s+/)
    .filter((word) => word !== "")
    .join(" ");

/** SQuAD's two measures of an answer against those that people gave: the best of each. An empty list is "no answer". */
export function spanScores(prediction: string, answers: readonly string[]): { exact: number; f1: number } {
  const golds = answers.length === 0 ? [""] : answers;
  const given = normalizeAnswer(prediction);
  const scores = golds.map((answer) => {
    const gold = normalizeAnswer(answer);
    return { exact: Number(gold === given), f1: wordF1(given, gold) };
  });
  return {
    exact: Math.max(...scores.map(({ exact }) => exact)),
    f1: Math.max(...scores.map(({ f1 }) => f1)),
  };
}

function wordF1(given: string, gold: string): number {
  const [a, b] = [given, gold].map((text) => (text === "" ? [] : text.split(" "))) as [string[], string[]];
  if (a.length === 0 || b.length === 0) return Number(a.length === b.length);
  const left = new Map<string, number>();
  for (const word of b) left.set(word, (left.get(word) ?? 0) + 1);
  let common = 0;
  for (const word of a) {
    const count = left.get(word) ?? 0;
    if (count > 0) {
      common++;
      left.set(word, count - 1);
    }
  }
  return (2 * common) / (a.length + b.length);
}

/** A stretch of tags that name one thing: `B-PER I-PER` is an entity `PER`, from `start` to before `end`. */
export interface Entity {
  readonly type: string;
  readonly start: number;
  readonly end: number;
}

/** The entities of a row of BIO tags, read as CoNLL's evaluation reads them: `I-` after another type starts a new one. */
export function entitiesOf(tags: readonly string[]): Entity[] {
  const entities: Entity[] = [];
  let open: { type: string; start: number } | undefined;
  const close = (end: number) => {
    if (open) entities.push({ ...open, end });
    open = undefined;
  };
  tags.forEach((tag, place) => {
    const [, mark, type = ""] = /^([BI])(?:-(.*))?$/.exec(tag) ?? [];
    if (mark === undefined) close(place);
    else if (mark === "B" || open?.type !== type) {
      close(place);
      open = { type, start: place };
    }
  });
  close(tags.length);
  return entities;
}

/** Precision, recall and F1 of whole entities over many rows of BIO tags. */
export function entityScores(
  truth: readonly (readonly string[])[],
  predictions: readonly (readonly string[])[],
): { precision: number; recall: number; f1: number } {
  checkLengths(truth, predictions);
  const key = ({ type, start, end }: Entity) => `${start} ${end} ${type}`;
  let [right, gold, given] = [0, 0, 0];
  truth.forEach((tags, row) => {
    const wanted = new Set(entitiesOf(tags).map(key));
    const found = entitiesOf(predictions[row]!);
    right += found.filter((entity) => wanted.has(key(entity))).length;
    gold += wanted.size;
    given += found.length;
  });
  return {
    precision: divide(right, given),
    recall: divide(right, gold),
    f1: divide(2 * right, gold + given),
  };
}

const sumOf = (values: ArrayLike<number>): number => {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i]!;
  return total;
};
const divide = (a: number, b: number): number => (b === 0 ? 0 : a / b);

function checkLengths(truth: { readonly length: number }, predictions: { readonly length: number }): void {
  if (truth.length !== predictions.length)
    throw new LineageError(
      "argument",
      `there are ${predictions.length} predictions for ${truth.length} true values`,
    );
}
