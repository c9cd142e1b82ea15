import type { KeyValueCache, RandomStream, Tensor } from "../graph/index.js";

/** What a forward pass carries through every layer besides the hidden states. */
export interface ForwardContext {
  /** Random numbers for dropout; absent in evaluation. */
  readonly random?: RandomStream | undefined;
  /** Whether what lies inside a layer is computed again in the backward pass instead of being kept for it. Default false. */
  readonly gradientCheckpointing?: boolean | undefined;
  /** Bool, broadcast to `[batch, numHeads, sequence, sequence]`: true where a query may look, besides causality. */
  readonly attentionMask?: Tensor | undefined;
  /**
   * Bool `[batch, sequence]`: tokens that every token of their row sees, those before them too, besides what the mask hides:
   * the prefix of a prefix language model. Default: none.
   */
  readonly prefix?: Tensor | undefined;
  /** Int `[batch, sequence]`: position of every token in its own document, where a row holds several. Default 0, 1, 2, … */
  readonly positionIds?: Tensor | undefined;
  /** By layer, keys and values that stand before those of the text: `[batch, numKeyValueHeads, tokens, headSize]`. */
  readonly learnedPrefix?: readonly { readonly key: Tensor; readonly value: Tensor }[] | undefined;
  /** Keys and values of earlier positions, when the pass continues a sequence. */
  readonly cache?: CacheContext | undefined;
}

/** The caches of all layers during one pass; attention layers take theirs and leave the new state. */
export interface CacheContext {
  readonly layers: readonly KeyValueCache[];
  /** Filled by the attention layers, by layer. */
  readonly present: { key: Tensor; value: Tensor }[];
  /** Whether the pass is a whole prompt whose tokens see one another, those after them too. Default: each sees those before it. */
  readonly bothWays?: boolean | undefined;
  /** Int64 `[batch]`: tokens of each row once its whole prompt is in; the pass may see a part of it. */
  readonly length?: Tensor | undefined;
  /** Int64 `[total]`: the positions 0, 1, 2, … of all keys of the row that has most of them after the pass. */
  readonly keyPositions?: Tensor | undefined;
  /** Slots of the caches, where every token's slot is its position; undefined where tokens may move. */
  readonly slots?: number | undefined;
}
