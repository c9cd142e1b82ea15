import { type AttentionOptions, type Dim, type Tensor, attention } from "../graph/index.js";
import type { KeysAndValues } from "./encoder-decoder.js";

/**
 * Attention of queries `[rows, sequence, numHeads * headSize]` to keys and values of sources; the same shape out. The rows
 * of one source, several beams of a text, stand one after the other and share its keys and values, which nothing copies.
 */
export function attendTo(query: Tensor, { key, value }: KeysAndValues, options: AttentionOptions): Tensor {
  const [sources, numHeads, , headSize] = key.shape as readonly [Dim, number, Dim, number];
  const heads = query.reshape([sources, -1, numHeads, headSize]).transpose([0, 2, 1, 3]);
  return attention(heads, key, value, options).transpose([0, 2, 1, 3]).reshape(query.shape);
}
