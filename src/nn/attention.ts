import {
  type Dim,
  type Tensor,
  attention,
  cachedAttention,
  reshape,
  rotary,
  transpose,
} from "../graph/index.js";
import type { ForwardContext } from "./context.js";
import type { Initializer } from "./initializers.js";
import { Linear, mergeHeads } from "./layers.js";
import { Module } from "./module.js";
import type { RotaryTables } from "./rotary.js";

export interface GroupedQueryAttentionConfig {
  readonly hiddenSize: number;
  readonly numHeads: number;
  /** Heads of keys and values, each shared by a group of query heads; 1 is multi-query attention, Shazeer 2019. */
  readonly numKeyValueHeads: number;
  readonly headSize: number;
  /** Keys that a query looks back on, itself included; undefined for all. */
  readonly slidingWindow?: number | undefined;
  readonly initializer: Initializer;
}

/** What an attention layer with rotary positions needs besides its input. */
export interface RotaryContext extends ForwardContext {
  readonly rotary: RotaryTables;
}

/**
 * Causal self-attention with rotary positions, without biases: multi-head (Touvron et al. 2023), grouped-query (Ainslie et
 * al. 2023) or multi-query, over all keys or a sliding window (Beltagy et al. 2020). `[batch, sequence, hiddenSize]` in and
 * out. The names are those that the LLaMA family publishes.
 */
export class GroupedQueryAttention extends Module {
  static override readonly names = { query: "q_proj", key: "k_proj", value: "v_proj", output: "o_proj" };
  readonly query: Linear;
  readonly key: Linear;
  readonly value: Linear;
  readonly output: Linear;

  constructor(
    private readonly config: GroupedQueryAttentionConfig,
    private readonly layer: number,
  ) {
    super();
    const { hiddenSize, numHeads, numKeyValueHeads, headSize, initializer } = config;
    const options = { bias: false, initializer };
    this.query = new Linear(hiddenSize, numHeads * headSize, options);
    this.key = new Linear(hiddenSize, numKeyValueHeads * headSize, options);
    this.value = new Linear(hiddenSize, numKeyValueHeads * headSize, options);
    this.output = new Linear(numHeads * headSize, hiddenSize, options);
  }

  override forward(x: Tensor, context: RotaryContext): Tensor {
    const { numHeads, numKeyValueHeads } = this.config;
    const query = this.turned(this.query.forward(x), numHeads, context.rotary);
    const key = this.turned(this.key.forward(x), numKeyValueHeads, context.rotary);
    const value = this.value.forward(x);
    return this.output.forward(
      context.cache ? this.attendCached(query, key, value, context) : this.attend(query, key, value, context),
    );
  }

  /** Heads turned by their positions: `[batch, sequence, heads * headSize]` -> `[batch, sequence, heads, headSize]`. */
  private turned(x: Tensor, heads: number, { cosine, sine }: RotaryTables): Tensor {
    return rotary(reshape(x, [...this.lead(x), heads, this.config.headSize]), cosine, sine);
  }

  private attend(query: Tensor, key: Tensor, value: Tensor, { attentionMask }: ForwardContext): Tensor {
    const { numKeyValueHeads, headSize, slidingWindow } = this.config;
    const values = reshape(value, [...this.lead(value), numKeyValueHeads, headSize]);
    const [q, k, v] = [query, key, values].map((part) => transpose(part, [0, 2, 1, 3])) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    return mergeHeads(attention(q, k, v, { causal: true, window: slidingWindow, mask: attentionMask }));
  }

  private attendCached(query: Tensor, key: Tensor, value: Tensor, context: RotaryContext): Tensor {
    const { numHeads, numKeyValueHeads, headSize, slidingWindow } = this.config;
    const step = cachedAttention(
      reshape(query, [...this.lead(query), numHeads * headSize]),
      reshape(key, [...this.lead(key), numKeyValueHeads * headSize]),
      value,
      context.cache!.layers[this.layer]!,
      { numHeads, numKeyValueHeads, window: slidingWindow },
    );
    context.cache!.present[this.layer] = step;
    return step.output;
  }

  private lead(x: Tensor): [Dim, Dim] {
    return [x.dim(0), x.dim(1)];
  }
}
