import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { type Dim, type Tensor, linearTokenLosses, matmul, range, unsqueeze } from "../graph/index.js";
import {
  Embedding,
  type ForwardContext,
  GroupedQueryAttention,
  Linear,
  Module,
  RMSNorm,
  type RotaryContext,
  type RotaryScaling,
  SwiGLU,
  normalInit,
  parseConfig,
  rotaryScalingFromHuggingFace,
  rotaryScalingToHuggingFace,
  rotaryTables,
} from "../nn/index.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

/** LLaMA, Touvron et al. 2023, "LLaMA: Open and Efficient Foundation Language Models"; LLaMA-2 of the same year; LLaMA-3. */
export interface LlamaConfig {
  readonly vocabSize: number;
  /** Positions that the model was made for: 2,048 in LLaMA, 4,096 in LLaMA-2. */
  readonly contextLength: number;
  readonly hiddenSize: number;
  /** Width of the gated feed-forward layer. */
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  /** Heads of keys and values, each shared by a group of query heads. */
  readonly numKeyValueHeads: number;
  readonly headSize: number;
  readonly rmsNormEpsilon: number;
  /** Base of the rotary wavelengths. */
  readonly ropeTheta: number;
  readonly ropeScaling?: RotaryScaling | undefined;
  /** Whether the output embeddings are the token embeddings. */
  readonly tieEmbeddings: boolean;
  /** Standard deviation of the first weights; those of residual sums start smaller, as GPT-2's. */
  readonly initializerRange: number;
}

/**
 * The feed-forward width of section 2.2: two thirds of 4 hiddenSize, so that three matrices cost what two did, rounded up
 * to a multiple of 256.
 */
export const llamaIntermediateSize = (hiddenSize: number, multiple = 256): number =>
  multiple * Math.ceil(Math.floor((8 * hiddenSize) / 3) / multiple);

/** A configuration with LLaMA's published choices where `sizes` makes none. Throws `config` for one that contradicts itself. */
export function llamaConfig(
  sizes: Partial<LlamaConfig> & Pick<LlamaConfig, "hiddenSize" | "numLayers" | "numHeads">,
): LlamaConfig {
  const { hiddenSize, numHeads } = sizes;
  const config: LlamaConfig = {
    vocabSize: 32_000,
    contextLength: 2048,
    intermediateSize: llamaIntermediateSize(hiddenSize),
    numKeyValueHeads: numHeads,
    headSize: hiddenSize / numHeads,
    rmsNormEpsilon: 1e-6,
    ropeTheta: 10_000,
    tieEmbeddings: false,
    initializerRange: 0.02,
    ...sizes,
  };
  const { headSize, numKeyValueHeads } = config;
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
  return config;
}

const llama2 = { contextLength: 4096, rmsNormEpsilon: 1e-5 };
const llama3 = { vocabSize: 128_256, contextLength: 8192, rmsNormEpsilon: 1e-5, ropeTheta: 500_000 };
const llama31 = { ...llama3, contextLength: 131_072 };
const reach = (factor: number): RotaryScaling => ({
  kind: "llama3",
  factor,
  lowFrequencyFactor: 1,
  highFrequencyFactor: 4,
  originalContextLength: 8192,
});

/** The published sizes: table 2 of LLaMA, table 1 of LLaMA-2, and the dense models of LLaMA-3. */
export const llamaSizes = {
  "llama-7b": llamaConfig({ hiddenSize: 4096, numLayers: 32, numHeads: 32 }),
  "llama-13b": llamaConfig({ hiddenSize: 5120, numLayers: 40, numHeads: 40 }),
  "llama-30b": llamaConfig({ hiddenSize: 6656, numLayers: 60, numHeads: 52 }),
  "llama-65b": llamaConfig({ hiddenSize: 8192, numLayers: 80, numHeads: 64, rmsNormEpsilon: 1e-5 }),
  "llama-2-7b": llamaConfig({ ...llama2, hiddenSize: 4096, numLayers: 32, numHeads: 32 }),
  "llama-2-13b": llamaConfig({ ...llama2, hiddenSize: 5120, numLayers: 40, numHeads: 40 }),
  "llama-2-70b": llamaConfig({
    ...llama2,
    hiddenSize: 8192,
    intermediateSize: 28_672,
    numLayers: 80,
    numHeads: 64,
    numKeyValueHeads: 8,
  }),
  "llama-3-8b": llamaConfig({
    ...llama3,
    hiddenSize: 4096,
    intermediateSize: 14_336,
    numLayers: 32,
    numHeads: 32,
    numKeyValueHeads: 8,
  }),
  "llama-3-70b": llamaConfig({
    ...llama3,
    hiddenSize: 8192,
    intermediateSize: 28_672,
    numLayers: 80,
    numHeads: 64,
    numKeyValueHeads: 8,
  }),
  "llama-3.1-8b": llamaConfig({
    ...llama31,
    hiddenSize: 4096,
    intermediateSize: 14_336,
    numLayers: 32,
    numHeads: 32,
    numKeyValueHeads: 8,
    ropeScaling: reach(8),
  }),
  "llama-3.2-1b": llamaConfig({
    ...llama31,
    hiddenSize: 2048,
    intermediateSize: 8192,
    numLayers: 16,
    numHeads: 32,
    numKeyValueHeads: 8,
    ropeScaling: reach(32),
    tieEmbeddings: true,
  }),
} as const;

const huggingFaceConfig = z.object({
  model_type: z.literal("llama"),
  vocab_size: z.int().positive(),
  max_position_embeddings: z.int().positive().default(2048),
  hidden_size: z.int().positive(),
  intermediate_size: z.int().positive(),
  num_hidden_layers: z.int().positive(),
  num_attention_heads: z.int().positive(),
  num_key_value_heads: z.int().positive().nullish(),
  head_dim: z.int().positive().nullish(),
  hidden_act: z.literal("silu").default("silu"),
  rms_norm_eps: z.number().positive().default(1e-6),
  rope_theta: z.number().positive().default(10_000),
  rope_scaling: z.record(z.string(), z.unknown()).nullish(),
  tie_word_embeddings: z.boolean().default(false),
  attention_bias: z.literal(false).default(false),
  mlp_bias: z.literal(false).default(false),
  initializer_range: z.number().positive().default(0.02),
});

/** The configuration in a `config.json` of Hugging Face transformers. Throws `config` saying which entry is wrong. */
export function llamaFromHuggingFace(json: unknown): LlamaConfig {
  const config = parseConfig(huggingFaceConfig, json, "LLaMA");
  return llamaConfig({
    vocabSize: config.vocab_size,
    contextLength: config.max_position_embeddings,
    hiddenSize: config.hidden_size,
    intermediateSize: config.intermediate_size,
    numLayers: config.num_hidden_layers,
    numHeads: config.num_attention_heads,
    numKeyValueHeads: config.num_key_value_heads ?? config.num_attention_heads,
    headSize: config.head_dim ?? config.hidden_size / config.num_attention_heads,
    rmsNormEpsilon: config.rms_norm_eps,
    ropeTheta: config.rope_theta,
    ropeScaling: rotaryScalingFromHuggingFace(config.rope_scaling, config.max_position_embeddings),
    tieEmbeddings: config.tie_word_embeddings,
    initializerRange: config.initializer_range,
  });
}

/** The `config.json` that Hugging Face transformers reads. */
export const llamaToHuggingFace = (config: LlamaConfig): Record<string, unknown> => ({
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: config.vocabSize,
  max_position_embeddings: config.contextLength,
  hidden_size: config.hiddenSize,
  intermediate_size: config.intermediateSize,
  num_hidden_layers: config.numLayers,
  num_attention_heads: config.numHeads,
  num_key_value_heads: config.numKeyValueHeads,
  head_dim: config.headSize,
  hidden_act: "silu",
  rms_norm_eps: config.rmsNormEpsilon,
  rope_theta: config.ropeTheta,
  rope_scaling: rotaryScalingToHuggingFace(config.ropeScaling),
  tie_word_embeddings: config.tieEmbeddings,
  attention_bias: false,
  mlp_bias: false,
  initializer_range: config.initializerRange,
});

// ---- Parts --------------------------------------------------------------------------------------------------------

/** A pre-norm block; `[batch, sequence, hiddenSize]` in and out. Touvron et al. 2023, section 2.2. */
class LlamaBlock extends Module {
  static override readonly names = {
    attentionNorm: "input_layernorm",
    attention: "self_attn",
    feedForwardNorm: "post_attention_layernorm",
    feedForward: "mlp",
  };
  readonly attentionNorm: RMSNorm;
  readonly attention: GroupedQueryAttention;
  readonly feedForwardNorm: RMSNorm;
  readonly feedForward: SwiGLU;

  constructor(config: LlamaConfig, layer: number) {
    super();
    const { hiddenSize, rmsNormEpsilon } = config;
    this.attentionNorm = new RMSNorm(hiddenSize, rmsNormEpsilon);
    this.attention = new GroupedQueryAttention(config, layer);
    this.feedForwardNorm = new RMSNorm(hiddenSize, rmsNormEpsilon);
    this.feedForward = new SwiGLU(config);
  }

  override forward(x: Tensor, context: RotaryContext): Tensor {
    const h = x.add(this.attention.forward(this.attentionNorm.forward(x), context));
    return h.add(this.feedForward.forward(this.feedForwardNorm.forward(h)));
  }
}

// ---- Model --------------------------------------------------------------------------------------------------------

/** Token embeddings, the blocks and the final norm. */
class LlamaTransformer extends Module {
  static override readonly names = { tokenEmbedding: "embed_tokens", blocks: "layers", finalNorm: "norm" };
  readonly tokenEmbedding: Embedding;
  readonly blocks: readonly LlamaBlock[];
  readonly finalNorm: RMSNorm;

  constructor(private readonly config: LlamaConfig) {
    super();
    const { vocabSize, hiddenSize, numLayers, rmsNormEpsilon, initializerRange } = config;
    this.tokenEmbedding = new Embedding(vocabSize, hiddenSize, normalInit(initializerRange));
    this.blocks = Array.from({ length: numLayers }, (_, layer) => new LlamaBlock(config, layer));
    this.finalNorm = new RMSNorm(hiddenSize, rmsNormEpsilon);
  }

  override forward(inputIds: Tensor, positionIds: Tensor | undefined, context: ForwardContext): Tensor {
    const positions = positionIds ?? unsqueeze(range(inputIds.dim(1), "int64"), 0);
    const rotary = rotaryTables(this.config, positions, context.cache);
    let x = this.tokenEmbedding.forward(inputIds);
    for (const block of this.blocks) {
      x = block.forward(x, { ...context, rotary });
      context.cache?.states?.push(x);
    }
    return this.finalNorm.forward(x);
  }
}

/** LLaMA with its language-modelling head. */
export class Llama extends Module {
  static override readonly names = { transformer: "model", head: "lm_head" };
  readonly transformer: LlamaTransformer;
  /** Absent where the token embeddings serve as output embeddings. */
  readonly head: Linear | undefined;

  constructor(readonly config: LlamaConfig) {
    super();
    const { hiddenSize, vocabSize, tieEmbeddings, initializerRange } = config;
    this.transformer = new LlamaTransformer(config);
    this.head = tieEmbeddings
      ? undefined
      : new Linear(hiddenSize, vocabSize, { bias: false, initializer: normalInit(initializerRange) });
  }

  /**
   * Logits `[batch, sequence, vocabSize]` of token ids `[batch, sequence]`.
   * @param positionIds position of every token, `[batch, sequence]` or `[1, sequence]`; default 0, 1, 2, …
   */
  override forward(inputIds: Tensor, positionIds?: Tensor, context: ForwardContext = {}): Tensor {
    return this.logits(this.hiddenStates(inputIds, positionIds, context));
  }

  /** The last layer's normalised states `[batch, sequence, hiddenSize]`. */
  hiddenStates(inputIds: Tensor, positionIds?: Tensor, context: ForwardContext = {}): Tensor {
    return this.transformer.forward(inputIds, positionIds, context);
  }

  /** Logits `[..., vocabSize]` of hidden states `[..., hiddenSize]`. */
  logits(hiddenStates: Tensor): Tensor {
    return matmul(hiddenStates, this.outputEmbeddings, { transposeB: true });
  }

  /**
   * Cross-entropy of every next token, `[batch, sequence]`: `labels[i]` is the token after `inputIds[i]`, or -100 for a
   * position that counts for nothing.
   */
  losses(inputIds: Tensor, labels: Tensor, context: ForwardContext = {}): Tensor {
    return linearTokenLosses(
      this.hiddenStates(inputIds, context.positionIds, context),
      this.outputEmbeddings,
      labels,
    );
  }

  /** Shape of one layer's key or value cache. */
  cacheShape(batch: Dim, capacity: Dim): Dim[] {
    return [batch, this.config.numKeyValueHeads, capacity, this.config.headSize];
  }

  private get outputEmbeddings(): Tensor {
    return (this.head ?? this.transformer.tokenEmbedding).weight.tensor;
  }
}
