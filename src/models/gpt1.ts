import { z } from "zod";
import type { Tensor } from "../graph/index.js";
import {
  type ActivationName,
  CausalLm,
  type Choices,
  type ConfigOf,
  Dropout,
  Embedding,
  type ForwardContext,
  GptAttention,
  GptFeedForward,
  LayerNorm,
  Module,
  checkHeads,
  configEntries,
  configTable,
  entry,
  gptEntriesWithoutEffect,
  gptFields,
  gptHeadNames,
  normalInit,
  throughLayers,
} from "../nn/index.js";
import { defineSystem, depthByName, publishedSize } from "./system.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

const { size } = configEntries;

/** What the published names of activations mean here: its `gelu` is the approximation by a hyperbolic tangent. */
const activationOf = {
  gelu: "gelu_new",
  relu: "relu",
  silu: "silu",
  swish: "silu",
} as const satisfies Record<string, ActivationName>;
const activationNames = Object.keys(activationOf) as [keyof typeof activationOf];
const activation = z.enum(activationNames, { error: `it must be one of ${activationNames.join(", ")}` });

/** GPT, Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training". */
export const gpt1Table = configTable({
  type: "openai-gpt",
  title: "GPT-1",
  fields: {
    vocabSize: entry("vocab_size", size, { published: 40_478 }),
    /** Positions that the model knows. */
    contextLength: entry("n_positions", size, { published: 512 }),
    hiddenSize: entry("n_embd", size),
    numLayers: entry("n_layer", size),
    numHeads: entry("n_head", size),
    activation: entry("afn", activation, { absent: "gelu" }),
    ...gptFields,
  },
  fixed: { tie_word_embeddings: true },
  withoutEffect: {
    n_ctx: "an older name of n_positions, which decides",
    n_special: "counts tokens that vocab_size counts too",
    predict_special_tokens: "no network reads it",
    ...gptEntriesWithoutEffect,
  },
  check: checkHeads,
});

export type Gpt1Config = ConfigOf<typeof gpt1Table>;

/** A configuration with the published choices where `choices` makes none. Throws `config` for one that contradicts itself. */
export const gpt1Config = (choices: Choices<Gpt1Config>): Gpt1Config => gpt1Table.create(choices);

/** The published size; section 4.1, "Model specifications". */
export const gpt1Sizes = {
  "openai-gpt": publishedSize(gpt1Table)(116_534_784, { hiddenSize: 768, numLayers: 12, numHeads: 12 }),
} as const;

// ---- Parts --------------------------------------------------------------------------------------------------------

/** A post-norm block, Vaswani et al. 2017: each sum is normalised. `[batch, sequence, hiddenSize]` in and out. */
class Gpt1Block extends Module {
  static override readonly names = {
    attention: "attn",
    attentionNorm: "ln_1",
    feedForward: "mlp",
    feedForwardNorm: "ln_2",
  };
  readonly attention: GptAttention;
  readonly attentionNorm: LayerNorm;
  readonly feedForward: GptFeedForward;
  readonly feedForwardNorm: LayerNorm;

  constructor(config: Gpt1Config, layer: number) {
    super();
    const { hiddenSize, layerNormEpsilon, initializerRange } = config;
    const parts = { ...config, intermediateSize: 4 * hiddenSize };
    const residual = normalInit(initializerRange);
    this.attention = new GptAttention(parts, layer, { residual });
    this.attentionNorm = new LayerNorm(hiddenSize, layerNormEpsilon);
    this.feedForward = new GptFeedForward(parts, activationOf[config.activation], residual);
    this.feedForwardNorm = new LayerNorm(hiddenSize, layerNormEpsilon);
  }

  override forward(x: Tensor, context: ForwardContext): Tensor {
    const h = this.attentionNorm.forward(x.add(this.attention.forward(x, context)));
    return this.feedForwardNorm.forward(h.add(this.feedForward.forward(h, context)));
  }
}

// ---- Model --------------------------------------------------------------------------------------------------------

/** Token and position embeddings and the blocks; the last block's norm is the last. */
class Gpt1Transformer extends Module {
  static override readonly names = {
    tokenEmbedding: "tokens_embed",
    positionEmbedding: "positions_embed",
    blocks: "h",
  };
  readonly tokenEmbedding: Embedding;
  readonly positionEmbedding: Embedding;
  readonly blocks: readonly Gpt1Block[];
  private readonly embeddingDropout: Dropout;

  constructor(config: Gpt1Config) {
    super();
    const initializer = normalInit(config.initializerRange);
    this.tokenEmbedding = new Embedding(config.vocabSize, config.hiddenSize, initializer);
    this.positionEmbedding = new Embedding(config.contextLength, config.hiddenSize, initializer);
    this.blocks = Array.from({ length: config.numLayers }, (_, layer) => new Gpt1Block(config, layer));
    this.embeddingDropout = new Dropout(config.embeddingDropout);
  }

  override forward(inputIds: Tensor, positionIds: Tensor | undefined, context: ForwardContext): Tensor {
    const positions = this.positionEmbedding.forwardOrFirst(positionIds, inputIds.dim(1));
    const summed = this.tokenEmbedding.forward(inputIds).add(positions);
    return throughLayers(this.blocks, this.embeddingDropout.forward(summed, context.random), context);
  }
}

/** GPT-1 with its language-modelling head, whose weight is the token embedding. */
export class Gpt1 extends CausalLm {
  readonly transformer: Gpt1Transformer;
  readonly head = undefined;

  constructor(readonly config: Gpt1Config) {
    super();
    this.transformer = new Gpt1Transformer(config);
  }
}

// ---- Definition ---------------------------------------------------------------------------------------------------

/** GPT-1 as the rest of the library knows it. */
export const gpt1 = defineSystem({
  name: "gpt1",
  kind: "decoder",
  className: "OpenAIGPTLMHeadModel",
  config: gpt1Table,
  sizes: gpt1Sizes,
  options: { dropout: { field: "dropout", help: "dropout probability", usual: "0", fallback: () => 0 } },
  create: (config) => new Gpt1(config),
  headNames: gptHeadNames,
  // Section 3.3, by the names of the published code; section 4.1 for the coefficient.
  rowTokens: { start: "_start_", delimiter: "_delimiter_", extract: "_classify_" },
  lmCoefficient: 0.5,
  unused: /\.attn\.bias$|^lm_head\.weight$|\.position_ids$/,
  depth: depthByName(/^transformer\.(tokens|positions)_embed\./, /^transformer\.h\.(\d+)\./),
  tokenizer: { kind: "word BPE" },
});
