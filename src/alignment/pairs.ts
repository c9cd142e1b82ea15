import type { Batch, BatchTensor } from "../data/index.js";
import { type Completion, type Writer, chosenPart, preferencePart } from "../objectives/index.js";
import { completionBatch } from "./forward.js";

/** Two completions of a prompt, of which one is better. */
export interface Pair {
  readonly prompt: readonly number[];
  readonly chosen: readonly number[];
  readonly rejected: readonly number[];
  /** Log-probabilities of the completions under the reference; none for losses without one. */
  readonly reference?: readonly [chosen: number, rejected: number] | undefined;
}

/** A completion with a thumb up or down. */
export interface Liked extends Completion {
  readonly liked: boolean;
  /** The completion of another prompt, from which the divergence is estimated. */
  readonly other: readonly number[];
  /** Log-probabilities under the reference: of the own completion, and of the other one. */
  readonly reference?: readonly [own: number, other: number] | undefined;
}

export const floats = (values: readonly number[]): BatchTensor => ({
  data: Float32Array.from(values),
  shape: [values.length],
});
export const ints = (values: readonly number[]): BatchTensor => ({
  data: Int32Array.from(values),
  shape: [values.length],
});

const everyOther = (count: number, first: number) =>
  ints(Array.from({ length: count }, (_, i) => 2 * i + first));

/** What `preferenceObjective` takes. */
export function pairBatch(model: Writer, pairs: readonly Pair[]): Batch {
  const count = pairs.length;
  return completionBatch(
    model,
    pairs.flatMap(({ prompt, chosen, rejected }) => [
      { prompt, completion: chosen },
      { prompt, completion: rejected },
    ]),
    {
      referenceLogProbs: floats(pairs.flatMap(({ reference = [0, 0] }) => reference)),
      chosenRows: everyOther(count, 0),
      rejectedRows: everyOther(count, 1),
    },
    {
      [preferencePart]: count,
      [chosenPart]: pairs.reduce((sum, { chosen }) => sum + chosen.length, 0),
      ...Object.fromEntries(["accuracy", "margin", "chosen", "rejected", "kl"].map((name) => [name, count])),
    },
  );
}

/** What `ktoObjective` takes. */
export function likedBatch(model: Writer, rows: readonly Liked[]): Batch {
  const count = rows.length;
  const liked = rows.filter((row) => row.liked).length;
  return completionBatch(
    model,
    rows.flatMap(({ prompt, completion, other }) => [
      { prompt, completion },
      { prompt, completion: other },
    ]),
    {
      referenceLogProbs: floats(rows.flatMap(({ reference = [0, 0] }) => reference)),
      ownRows: everyOther(count, 0),
      otherRows: everyOther(count, 1),
      liked: floats(rows.map((row) => Number(row.liked))),
    },
    { [preferencePart]: count, likedReward: liked, dislikedReward: count - liked, kl: count },
  );
}
