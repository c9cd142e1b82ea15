import { type KeyValueCache, type Tensor, attention, cachedAttention } from "../graph/index.js";
import { entry } from "./config-table.js";
import { configEntries } from "./config.js";
import type { ForwardContext } from "./context.js";
import { type Initializer, normalInit } from "./initializers.js";
import {
  type ActivationName,
  Dropout,
  Embedding,
  LayerNorm,
  Linear,
  type LinearOptions,
  activations,
  mergeHeads,
  splitHeads,
} from "./layers.js";
import { Module } from "./module.js";
import { prefixLmField } from "./prefix-lm.js";
import { afterPrefix } from "./soft-prompt.js";
import { throughLayers } from "./stack.js";

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

const { dropout, epsilon, positive } = configEntries;
const asDropout = { absent: 0.1, published: ({ dropout: all }: { dropout: number }) => all };

/** Fields that GPT-1 and GPT-2 spell alike. */
export const gptFields = {
  /** Probability of dropout before each residual sum. */
  dropout: entry("resid_pdrop", dropout, { absent: 0.1 }),
  /** Probability of dropout after the embeddings. */
  embeddingDropout: entry("embd_pdrop", dropout, asDropout),
  /** Probability of dropout of the attention probabilities. */
  attentionDropout: entry("attn_pdrop", dropout, asDropout),
  /** Probability of dropout before the layer that answers a task. */
  classifierDropout: entry("summary_first_dropout", dropout, { absent: 0.1 }),
  layerNormEpsilon: entry("layer_norm_epsilon", epsilon, { absent: 1e-5 }),
  /** Standard deviation of the first weights. */
  initializerRange: entry("initializer_range", positive, { absent: 0.02 }),
  prefixLm: prefixLmField,
};

/** Names of the heads of GPT-1 and GPT-2, as transformers has them; GPT-1's heads of tokens and spans are ours, by GPT-2's names. */
export const gptHeadNames = {
  tag: "classifier",
  choice: "multiple_choice_head.summary",
  choiceClass: "DoubleHeadsModel",
  dropout: ({ classifierDropout }: { readonly classifierDropout: number }) => classifierDropout,
} as const;

/** Entries of all three that change nothing here, with the reason. */
export const gptEntriesWithoutEffect: Readonly<Record<string, string>> = {
  is_decoder: "it is one",
  ...Object.fromEntries(
    ["type", "use_proj", "activation", "proj_to_labels"].map((name) => [
      `summary_${name}`,
      "belongs to the head of multiple choice",
    ]),
  ),
};

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

  private attend(query: Tensor, key: Tensor, value: Tensor, context: ForwardContext): Tensor {
    const { attentionMask, prefix, random, cache } = context;
    const { numHeads, attentionDropout } = this.config;
    const [q, k, v] = [query, key, value].map((part) => splitHeads(part, numHeads)) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    const [keys, values] = afterPrefix(k, v, context, this.layer);
    return mergeHeads(
      attention(q, keys, values, {
        causal: !cache?.bothWays,
        prefix,
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
    return context.cache!.bothWays ? this.attend(query, key, value, context) : step.output;
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

/** A part of a block that reads the stream between layers: `[batch, sequence, hiddenSize]` in and out. */
interface BlockPart extends Module {
  forward(x: Tensor, context: ForwardContext): Tensor;
}

/** The pre-norm block of GPT-2 and GPT-3; `[batch, sequence, hiddenSize]` in and out. Radford et al. 2019, section 2.3. */
export class GptBlock extends Module {
  static override readonly names = {
    attentionNorm: "ln_1",
    attention: "attn",
    feedForwardNorm: "ln_2",
    feedForward: "mlp",
  };
  readonly attentionNorm: LayerNorm;
  readonly attention: BlockPart;
  readonly feedForwardNorm: LayerNorm;
  readonly feedForward: GptFeedForward;

  constructor(
    { hiddenSize, layerNormEpsilon }: Pick<GptTransformerConfig, "hiddenSize" | "layerNormEpsilon">,
    parts: { readonly attention: BlockPart; readonly feedForward: GptFeedForward },
  ) {
    super();
    this.attentionNorm = new LayerNorm(hiddenSize, layerNormEpsilon);
    this.attention = parts.attention;
    this.feedForwardNorm = new LayerNorm(hiddenSize, layerNormEpsilon);
    this.feedForward = parts.feedForward;
  }

  override forward(x: Tensor, context: ForwardContext): Tensor {
    const h = x.add(this.attention.forward(this.attentionNorm.forward(x), context));
    return h.add(this.feedForward.forward(this.feedForwardNorm.forward(h), context));
  }
}

/** What GPT's network around its blocks takes of a configuration. */
export interface GptTransformerConfig {
  readonly vocabSize: number;
  readonly contextLength: number;
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly embeddingDropout: number;
  readonly layerNormEpsilon: number;
  readonly initializerRange: number;
}

/** Token and position embeddings, the blocks and the final norm of GPT-2 and GPT-3. */
export class GptTransformer extends Module {
  static override readonly names = {
    tokenEmbedding: "wte",
    positionEmbedding: "wpe",
    blocks: "h",
    finalNorm: "ln_f",
  };
  readonly tokenEmbedding: Embedding;
  readonly positionEmbedding: Embedding;
  readonly blocks: readonly GptBlock[];
  readonly finalNorm: LayerNorm;
  private readonly embeddingDropout: Dropout;

  /** @param block makes the block of a layer */
  constructor(config: GptTransformerConfig, block: (layer: number) => GptBlock) {
    super();
    const initializer = normalInit(config.initializerRange);
    this.tokenEmbedding = new Embedding(config.vocabSize, config.hiddenSize, initializer);
    this.positionEmbedding = new Embedding(config.contextLength, config.hiddenSize, initializer);
    this.blocks = Array.from({ length: config.numLayers }, (_, layer) => block(layer));
    this.finalNorm = new LayerNorm(config.hiddenSize, config.layerNormEpsilon);
    this.embeddingDropout = new Dropout(config.embeddingDropout);
  }

  override forward(inputIds: Tensor, positionIds: Tensor | undefined, context: ForwardContext): Tensor {
    const positions = this.positionEmbedding.forwardOrFirst(positionIds, inputIds.dim(1));
    const summed = this.tokenEmbedding.forward(inputIds).add(positions);
    const x = this.embeddingDropout.forward(summed, context.random);
    return throughLayers(this.blocks, x, context, (h) => this.finalNorm.forward(h));
  }
}
