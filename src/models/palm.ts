import { type Tensor, mul, range, unsqueeze } from "../graph/index.js";
import {
  CausalLm,
  type Choices,
  type ConfigOf,
  Embedding,
  type ForwardContext,
  GroupedQueryAttention,
  LayerNorm,
  Module,
  type RotaryContext,
  SwiGLU,
  checkGroupedHeads,
  configEntries,
  configTable,
  entry,
  fanInInit,
  headSizeField,
  normalInit,
  prefixLmField,
  rotaryTables,
  throughLayers,
} from "../nn/index.js";
import { defineSystem, depthByName, publishedSize } from "./system.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

const { size, dropout, epsilon, flag, positive } = configEntries;

/**
 * PaLM, Chowdhery et al. 2022, "PaLM: Scaling Language Modeling with Pathways", section 2. Its weights were never published:
 * the entries and the names of the tensors are LLaMA's where both have the part.
 */
export const palmTable = configTable({
  type: "palm",
  title: "PaLM",
  fields: {
    vocabSize: entry("vocab_size", size, { published: 256_000 }),
    /** Positions that the model was made for. */
    contextLength: entry("max_position_embeddings", size, { absent: 2048 }),
    hiddenSize: entry("hidden_size", size),
    /** Width of the gated feed-forward layer. Published: 4 hiddenSize. */
    intermediateSize: entry("intermediate_size", size, {
      published: ({ hiddenSize }: { hiddenSize: number }) => 4 * hiddenSize,
    }),
    numLayers: entry("num_hidden_layers", size),
    numHeads: entry("num_attention_heads", size),
    /** Heads of keys and values: one for all heads, Shazeer 2019. */
    numKeyValueHeads: entry("num_key_value_heads", size, { absent: 1 }),
    headSize: headSizeField,
    layerNormEpsilon: entry("layer_norm_eps", epsilon, { absent: 1e-6 }),
    /** Base of the rotary wavelengths. */
    ropeTheta: entry("rope_theta", positive, { absent: 10_000 }),
    /** Whether attention and feed-forward layer read the same norm and are added together; one after the other where not. */
    parallelLayers: entry("use_parallel_residual", flag, { absent: true }),
    /** Probability of dropout of the attention probabilities: none in pretraining, 0.1 in fine-tuning. */
    attentionDropout: entry("attention_dropout", dropout, { absent: 0 }),
    prefixLm: prefixLmField,
  },
  fixed: { hidden_act: "silu", tie_word_embeddings: true },
  only: { hidden_act: ["swish"] },
  withoutEffect: { is_decoder: "it is one" },
  check: checkGroupedHeads,
});

export type PalmConfig = ConfigOf<typeof palmTable>;

/** A configuration with PaLM's published choices where `choices` makes none. Throws `config` for one that contradicts itself. */
export const palmConfig = (choices: Choices<PalmConfig>): PalmConfig => palmTable.create(choices);

const published = publishedSize(palmTable);

/**
 * The published sizes, table 1: 8.63, 62.50 and 540.35 billion parameters, heads of 256 channels in all. U-PaLM's are PaLM's,
 * trained a little further as prefix language models; Tay et al. 2022, "Transcending Scaling Laws with 0.1% Extra Compute",
 * section 3. PaLM 2 has none here: its report (Anil et al. 2023) publishes neither sizes nor configurations.
 */
export const palmSizes = {
  "palm-8b": published(8_632_012_800, { hiddenSize: 4096, numLayers: 32, numHeads: 16, headSize: 256 }),
  "palm-62b": published(62_495_662_080, { hiddenSize: 8192, numLayers: 64, numHeads: 32, headSize: 256 }),
  "palm-540b": published(540_356_474_880, {
    hiddenSize: 18_432,
    numLayers: 118,
    numHeads: 48,
    headSize: 256,
  }),
  "u-palm-8b": published(8_632_012_800, {
    hiddenSize: 4096,
    numLayers: 32,
    numHeads: 16,
    headSize: 256,
    prefixLm: true,
  }),
  "u-palm-62b": published(62_495_662_080, {
    hiddenSize: 8192,
    numLayers: 64,
    numHeads: 32,
    headSize: 256,
    prefixLm: true,
  }),
  "u-palm-540b": published(540_356_474_880, {
    hiddenSize: 18_432,
    numLayers: 118,
    numHeads: 48,
    headSize: 256,
    prefixLm: true,
  }),
} as const;

// ---- Parts --------------------------------------------------------------------------------------------------------

/**
 * A block, `[batch, sequence, hiddenSize]` in and out: `x + feedForward(norm(x)) + attention(norm(x))`, section 2, "Parallel
 * Layers"; with `parallelLayers` off, one after the other and a norm before each. Nothing has a bias.
 */
class PalmBlock extends Module {
  static override readonly names = {
    norm: "input_layernorm",
    attention: "self_attn",
    feedForwardNorm: "post_attention_layernorm",
    feedForward: "mlp",
  };
  readonly norm: LayerNorm;
  readonly attention: GroupedQueryAttention;
  readonly feedForwardNorm: LayerNorm | undefined;
  readonly feedForward: SwiGLU;

  constructor(config: PalmConfig, layer: number) {
    super();
    const { hiddenSize, layerNormEpsilon, parallelLayers } = config;
    const norm = (): LayerNorm => new LayerNorm(hiddenSize, layerNormEpsilon, { bias: false });
    const parts = { ...config, initializer: fanInInit };
    this.norm = norm();
    this.attention = new GroupedQueryAttention(parts, layer);
    this.feedForwardNorm = parallelLayers ? undefined : norm();
    this.feedForward = new SwiGLU(parts);
  }

  override forward(x: Tensor, context: RotaryContext): Tensor {
    const normed = this.norm.forward(x);
    const h = x.add(this.attention.forward(normed, context));
    return h.add(this.feedForward.forward(this.feedForwardNorm?.forward(h) ?? normed));
  }
}

// ---- Model --------------------------------------------------------------------------------------------------------

/** Token embeddings, the blocks and the final norm. */
class PalmTransformer extends Module {
  static override readonly names = { tokenEmbedding: "embed_tokens", blocks: "layers", finalNorm: "norm" };
  readonly tokenEmbedding: Embedding;
  readonly blocks: readonly PalmBlock[];
  readonly finalNorm: LayerNorm;

  constructor(private readonly config: PalmConfig) {
    super();
    const { vocabSize, hiddenSize, numLayers, layerNormEpsilon } = config;
    // Of standard deviation 1, since no norm follows the embeddings; section 5, "Weight initialization".
    this.tokenEmbedding = new Embedding(vocabSize, hiddenSize, normalInit(1));
    this.blocks = Array.from({ length: numLayers }, (_, layer) => new PalmBlock(config, layer));
    this.finalNorm = new LayerNorm(hiddenSize, layerNormEpsilon, { bias: false });
  }

  override forward(inputIds: Tensor, positionIds: Tensor | undefined, context: ForwardContext): Tensor {
    const positions = positionIds ?? unsqueeze(range(inputIds.dim(1), "int64"), 0);
    const rotary = rotaryTables(this.config, positions, context.cache);
    // The embeddings are the output's too, of which logits of standard deviation 1 are wanted; section 5.
    return throughLayers(this.blocks, this.tokenEmbedding.forward(inputIds), { ...context, rotary }, (h) =>
      mul(this.finalNorm.forward(h), this.config.hiddenSize ** -0.5),
    );
  }
}

/** PaLM with its language-modelling head, whose weight is the token embedding. */
export class Palm extends CausalLm {
  static override readonly names = { transformer: "model" };
  readonly transformer: PalmTransformer;
  readonly head = undefined;

  constructor(readonly config: PalmConfig) {
    super();
    this.transformer = new PalmTransformer(config);
  }

  override get stateScale(): number {
    return this.config.hiddenSize ** 0.5;
  }
}

// ---- Definition ---------------------------------------------------------------------------------------------------

/** PaLM as the rest of the library knows it. */
export const palm = defineSystem({
  kind: "decoder",
  className: "PalmForCausalLM",
  config: palmTable,
  sizes: palmSizes,
  options: {
    keyValueHeads: { field: "numKeyValueHeads", help: "heads of keys and values, shared by groups of heads" },
  },
  create: (config) => new Palm(config),
  unused: /^lm_head\.weight$/,
  depth: depthByName(/^model\.embed_tokens\./, /^model\.layers\.(\d+)\./),
  tokenizer: { kind: "unigram", style: "lossless" },
});
