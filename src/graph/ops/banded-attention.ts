import { multiplyDims } from "../dims.js";
import type { Tensor } from "../tensor.js";
import { softmax } from "./activation.js";
import { add, greaterEqual, less, logicalAnd, sub } from "./elementwise.js";
import { range, zeros } from "./leaf.js";
import { maskBias } from "./masks.js";
import { matmul } from "./matmul.js";
import { type RandomStream, dropout } from "./random.js";
import { concat, reshape, slice, unsqueeze } from "./shape.js";

export interface BandedAttentionOptions {
  /** Keys that a query looks back on, itself included. */
  readonly window: number;
  /** Factor of the scores. */
  readonly scale: number;
  readonly dropout?: number;
  readonly random?: RandomStream | undefined;
}

/** Whether a window is so much shorter than a text that its band is cheaper than all pairs: it computes twice the window. */
export const isWorthBands = (length: number, window: number): boolean => length >= 4 * window;

/**
 * Causal attention over a window, which computes the band of the scores and not all pairs: Child et al. 2019, "Generating
 * Long Sequences with Sparse Transformers", and Beltagy et al. 2020, "Longformer". The text is cut into blocks of one window;
 * the queries of a block see the keys of their own and of the one before. `[..., length, headSize]` each, with a length that
 * is a number; time and memory grow with `length * window`.
 */
export function bandedAttention(
  query: Tensor,
  key: Tensor,
  value: Tensor,
  { window, scale, dropout: probability = 0, random }: BandedAttentionOptions,
): Tensor {
  const axis = query.rank - 2;
  const length = query.shape[axis] as number;
  const blocks = Math.ceil(length / window);
  const filled = (x: Tensor): Tensor => {
    const missing = blocks * window - length;
    return missing === 0 ? x : concat([x, zeros(withDim(x, axis, missing), x.dtype)], axis);
  };
  /** `[..., blocks, window, headSize]`. */
  const inBlocks = (x: Tensor): Tensor =>
    reshape(x, [...x.shape.slice(0, axis), blocks, window, x.shape.at(-1)!]);
  /** The blocks with the one before each: `[..., blocks, 2 * window, headSize]`. */
  const withBefore = (x: Tensor): Tensor => {
    const own = filled(x);
    const before = concat(
      [zeros(withDim(x, axis, window), x.dtype), slice(own, axis, 0, (blocks - 1) * window)],
      axis,
    );
    return concat([inBlocks(before), inBlocks(own)], axis + 1);
  };

  const scores = matmul(inBlocks(filled(query)), withBefore(key), { transposeB: true, alpha: scale });
  // Within a block, key `window + i` is query `i`'s own.
  const own = add(unsqueeze(range(window, "int64"), 1), window);
  const keys = unsqueeze(range(2 * window, "int64"), 0);
  const band = logicalAnd(greaterEqual(own, keys), less(sub(own, keys), window));
  // The first block has none before it.
  const starts = unsqueeze(unsqueeze(range(blocks, "int64"), 1), 2);
  const exists = greaterEqual(add(starts.mul(window), unsqueeze(keys, 0)), window);
  const probabilities = softmax(add(scores, maskBias(logicalAnd(band, exists), scores.dtype)));
  const mixed = matmul(dropout(probabilities, probability, random), withBefore(value));
  const flat = reshape(mixed, [
    ...mixed.shape.slice(0, axis),
    multiplyDims(blocks, window),
    mixed.shape.at(-1)!,
  ]);
  return blocks * window === length ? flat : slice(flat, axis, 0, length);
}

const withDim = (x: Tensor, axis: number, size: number) =>
  x.shape.map((dim, at) => (at === axis ? size : dim));
