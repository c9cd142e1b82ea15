import { type KeyValueCache, type Tensor, attention, cachedAttention } from "../graph/index.js";
import type { ForwardContext } from "./context.js";
import { type Initializer, normalInit } from "./initializers.js";
import {
  type ActivationName,
  Dropout,
  Linear,
  type LinearOptions,
  activations,
  mergeHeads,
  splitHeads,
} from "./layers.js";
import { Module } from "./module.js";

/** What the parts that GPT-1, GPT-2 and GPT-3 share take of a configuration. */
export interface GptPartsConfig {
  readonly hiddenSize: number;
  readonly numHeads: number;
  /** Width of the feed-forward layer. */
  readonly intermediateSize: number;
  /** Probability of dropout of what is added to the stream between layers. */
  readonly dropout: number;
  /** Probability of dropout of the attention probabilities. */
  readonly attentionDropout: number;
  /** Standard deviation of the first weights. */
  readonly initializerRange: number;
}

export interface GptAttentionOptions {
  /** First weights of the product that is added to the stream between layers. */
  readonly residual: Initializer;
  /** Factor of the scores. Default `1 / sqrt(headSize)`. */
  readonly scale?: number;
}

/** GPT's causal self-attention, one product for queries, keys and values; `[batch, sequence, hiddenSize]` in and out. */
export class GptAttention extends Module {
  static override readonly names = { queryKeyValue: "c_attn", output: "c_proj" };
  readonly queryKeyValue: Linear;
  readonly output: Linear;
  private readonly residualDropout: Dropout;

  constructor(
    private readonly config: GptPartsConfig,
    private readonly layer: number,
    private readonly options: GptAttentionOptions,
  ) {
    super();
    const { hiddenSize, initializerRange } = config;
    this.queryKeyValue = new Linear(hiddenSize, 3 * hiddenSize, {
      layout: "in,out",
      initializer: normalInit(initializerRange),
    });
    this.output = new Linear(hiddenSize, hiddenSize, { layout: "in,out", initializer: options.residual });
    this.residualDropout = new Dropout(config.dropout);
  }

  override forward(x: Tensor, context: ForwardContext): Tensor {
    const [query, key, value] = this.queryKeyValue.forward(x).split(3) as [Tensor, Tensor, Tensor];
    const mixed = context.cache
      ? this.attendCached(query, key, value, context.cache.layers[this.layer]!, context)
      : this.attend(query, key, value, context);
    return this.residualDropout.forward(this.output.forward(mixed), context.random);
  }

  private attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    { attentionMask, random }: ForwardContext,
  ): Tensor {
    const { numHeads, attentionDropout } = this.config;
    const [q, k, v] = [query, key, value].map((part) => splitHeads(part, numHeads)) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    return mergeHeads(
      attention(q, k, v, {
        causal: true,
        mask: attentionMask,
        dropout: attentionDropout,
        random,
        scale: this.options.scale,
      }),
    );
  }

  private attendCached(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cache: KeyValueCache,
    context: ForwardContext,
  ): Tensor {
    const { numHeads } = this.config;
    const step = cachedAttention(query, key, value, cache, {
      numHeads,
      numKeyValueHeads: numHeads,
      scale: this.options.scale,
    });
    context.cache!.present[this.layer] = step;
    return step.output;
  }
}

/** GPT's feed-forward layer; `[batch, sequence, hiddenSize]` in and out. */
export class GptFeedForward extends Module {
  static override readonly names = { up: "c_fc", down: "c_proj" };
  readonly up: Linear;
  readonly down: Linear;
  private readonly residualDropout: Dropout;

  constructor(
    config: GptPartsConfig,
    /** Named as in Hugging Face's `config.json`. */
    private readonly activation: ActivationName,
    residual: Initializer,
    layout: LinearOptions["layout"] = "in,out",
  ) {
    super();
    const { hiddenSize, intermediateSize, initializerRange } = config;
    this.up = new Linear(hiddenSize, intermediateSize, {
      layout,
      initializer: normalInit(initializerRange),
    });
    this.down = new Linear(intermediateSize, hiddenSize, {
      layout,
      initializer: residual,
    });
    this.residualDropout = new Dropout(config.dropout);
  }

  override forward(x: Tensor, { random }: ForwardContext): Tensor {
    const hidden = activations[this.activation](this.up.forward(x));
    return this.residualDropout.forward(this.down.forward(hidden), random);
  }
}
