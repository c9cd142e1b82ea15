import { LineageError } from "../base/errors.js";
import { type RotaryTables, type Tensor, attention, cachedAttention, rotary } from "../graph/index.js";
import { type Field, entry } from "./config-table.js";
import { configEntries } from "./config.js";
import type { ForwardContext } from "./context.js";
import { type Initializer, normalInit, residualInit } from "./initializers.js";
import { Linear, mergeHeads, splitHeads } from "./layers.js";
import { Module } from "./module.js";
import { type RotaryConfig, checkRotaryScaling } from "./rotary.js";
import { afterPrefix } from "./soft-prompt.js";

/** What a layer attends to, by transformers' words: every key before, or those in the window. */
export const layerTypes = ["full_attention", "sliding_attention"] as const;
export type LayerType = (typeof layerTypes)[number];

interface WindowConfig {
  readonly slidingWindow?: number | undefined;
  readonly layerTypes?: readonly LayerType[] | undefined;
}

/** Keys that a query of a layer looks back on, itself included; undefined for all. */
export const layerWindow = (
  { slidingWindow, layerTypes: types }: WindowConfig,
  layer: number,
): number | undefined =>
  types === undefined || types[layer] === "sliding_attention" ? slidingWindow : undefined;

/** Keys that a cache has to keep for some layer; undefined for all. */
export const cacheWindow = ({ slidingWindow, layerTypes: types = [] }: WindowConfig): number | undefined =>
  types.includes("full_attention") ? undefined : slidingWindow;

export interface GroupedQueryAttentionConfig {
  readonly hiddenSize: number;
  readonly numHeads: number;
  /** Heads of keys and values, each shared by a group of query heads; 1 is multi-query attention, Shazeer 2019. */
  readonly numKeyValueHeads: number;
  readonly headSize: number;
  /** Keys that a query looks back on, itself included; undefined for all. */
  readonly slidingWindow?: number | undefined;
  /** Which layers have the window. Default: all. */
  readonly layerTypes?: readonly LayerType[] | undefined;
  /** Probability of dropout of the attention probabilities. Default 0. */
  readonly attentionDropout?: number | undefined;
  /** Whether queries, keys and values have biases. Default: they have none. */
  readonly projectionBias?: boolean | undefined;
  /** Whether queries, keys, values and the output have biases. Default: they have none. */
  readonly attentionBias?: boolean | undefined;
  /** Layers of the whole network, which first weights depend on. */
  readonly numLayers: number;
  /** Standard deviation of the first weights. Default 0.02. */
  readonly initializerRange?: number | undefined;
  /** First values of all matrices, instead of normal ones of `initializerRange`. */
  readonly initializer?: Initializer | undefined;
}

/** The size of a head as a field of a configuration: by default the hidden size shared out among the heads. */
export const headSizeField: Field<number, { readonly hiddenSize: number; readonly numHeads: number }> = entry(
  "head_dim",
  configEntries.size,
  {
    absent: ({ hiddenSize, numHeads }: { readonly hiddenSize: number; readonly numHeads: number }) =>
      hiddenSize / numHeads,
  },
);

/** Throws `config` unless heads and key-value heads fit each other and rotary positions. */
export function checkGroupedHeads({
  hiddenSize,
  numHeads,
  numKeyValueHeads,
  headSize,
  ropeScaling,
}: Omit<GroupedQueryAttentionConfig, "numLayers" | "initializerRange"> &
  Pick<RotaryConfig, "ropeScaling">): void {
  if (!Number.isInteger(headSize))
    throw new LineageError("config", `hiddenSize ${hiddenSize} does not divide into ${numHeads} heads`);
  if (headSize % 2 !== 0)
    throw new LineageError(
      "config",
      `headSize ${headSize} must be even: rotary positions turn pairs of channels`,
    );
  if (numHeads % numKeyValueHeads !== 0)
    throw new LineageError(
      "config",
      `${numHeads} heads do not divide among ${numKeyValueHeads} key-value heads`,
    );
  checkRotaryScaling({ headSize, ropeScaling });
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
    const { hiddenSize, numHeads, numKeyValueHeads, headSize, projectionBias } = config;
    const { numLayers, initializerRange = 0.02 } = config;
    const attentionBias = config.attentionBias ?? false;
    const options = {
      bias: projectionBias ?? attentionBias,
      initializer: config.initializer ?? normalInit(initializerRange),
    };
    this.query = new Linear(hiddenSize, numHeads * headSize, options);
    this.key = new Linear(hiddenSize, numKeyValueHeads * headSize, options);
    this.value = new Linear(hiddenSize, numKeyValueHeads * headSize, options);
    this.output = new Linear(numHeads * headSize, hiddenSize, {
      bias: attentionBias,
      initializer: config.initializer ?? residualInit({ initializerRange, numLayers }),
    });
  }

  override forward(x: Tensor, context: RotaryContext): Tensor {
    const [query, key, value] = [this.query, this.key, this.value].map((part) => part.forward(x)) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    return this.output.forward(
      context.cache ? this.attendCached(query, key, value, context) : this.attend(query, key, value, context),
    );
  }

  private attend(query: Tensor, key: Tensor, value: Tensor, context: RotaryContext): Tensor {
    const { numHeads, numKeyValueHeads, attentionDropout } = this.config;
    const { attentionMask, prefix, rotary: tables, random, cache } = context;
    const turned = (x: Tensor): Tensor => rotary(x, tables.cosine, tables.sine);
    const [keys, values] = afterPrefix(
      splitHeads(turned(key), numKeyValueHeads),
      splitHeads(value, numKeyValueHeads),
      context,
      this.layer,
    );
    const mixed = attention(splitHeads(turned(query), numHeads), keys, values, {
      causal: !cache?.bothWays,
      prefix,
      window: layerWindow(this.config, this.layer),
      ...(attentionDropout && { dropout: attentionDropout, random }),
      mask: attentionMask,
    });
    return mergeHeads(mixed);
  }

  private attendCached(query: Tensor, key: Tensor, value: Tensor, context: RotaryContext): Tensor {
    const { numHeads, numKeyValueHeads } = this.config;
    const step = cachedAttention(query, key, value, context.cache!.layers[this.layer]!, {
      numHeads,
      numKeyValueHeads,
      window: layerWindow(this.config, this.layer),
      rotary: context.rotary,
    });
    context.cache!.present[this.layer] = step;
    // The engine's attention over a cache is causal: of a prompt that is read both ways it only keeps keys and values.
    return context.cache!.bothWays ? this.attend(query, key, value, context) : step.output;
  }
}
