import type { TypedArray } from "../base/dtype.js";

/** One input of a batch: its numbers, row after row, and their shape. */
export interface BatchTensor {
  readonly data: TypedArray;
  readonly shape: readonly number[];
}

/** What one forward pass is given. */
export interface Batch {
  /** By the objective's input names. */
  readonly tensors: Readonly<Record<string, BatchTensor>>;
  /** How many positions each part of the loss is a sum over: labels, sentence pairs, or 1 for a part that is a mean already. */
  readonly counts: Readonly<Record<string, number>>;
  /** Tokens that the model reads, for reports of speed. Default: the largest count. */
  readonly tokens?: number;
}

/** Where batches come from, without end. With the same state it gives the same batches, so that a resumed run sees what an uninterrupted one would have seen. */
export interface BatchSource {
  next(): Batch | Promise<Batch>;
  /** Where the source stands, as plain JSON. */
  readonly state: unknown;
  /** Goes on where a source of the same data and options stood. Throws `checkpoint` for a state that is not its own. */
  restore(state: unknown): void;
}

/** A batch of next-token prediction: ids and labels, both `[batch, sequence]`; a label of -100 counts for nothing. */
export interface TokenBatch extends Batch {
  readonly tensors: Readonly<Record<"inputIds" | "labels", { data: Int32Array; shape: readonly number[] }>>;
}

export function tokenBatch(
  inputIds: Int32Array,
  labels: Int32Array,
  shape: readonly [batch: number, sequence: number],
): TokenBatch {
  let count = 0;
  for (const label of labels) if (label !== -100) count++;
  return {
    tensors: { inputIds: { data: inputIds, shape }, labels: { data: labels, shape } },
    counts: { tokens: count },
    tokens: inputIds.length,
  };
}
