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
  SwiGLU,
  normalInit,
  parseConfig,
  rotaryTables,
} from "../nn/index.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

/** Mistral, Jiang et al. 2023, "Mistral 7B": LLaMA's block with grouped queries and a sliding window. */
export interface MistralConfig {
  readonly vocabSize: number;
  /** Positions that the model was made for; with a window its cache stays as large as the window. */
  readonly contextLength: number;
  readonly hiddenSize: number;
  /** Width of the gated feed-forward layer. */
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  /** Heads of keys and values, each shared by a group of query heads. */
  readonly numKeyValueHeads: number;
  readonly headSize: number;
  /** Keys that a query looks back on, itself included; undefined for all. */
  readonly slidingWindow?: number | undefined;
  readonly rmsNormEpsilon: number;
  /** Base of the rotary wavelengths. */
  readonly ropeTheta: number;
  /** Standard deviation of the first weights; those of residual sums start smaller, as GPT-2's. */
  readonly initializerRange: number;
}

/** A configuration with the published choices where `sizes` makes none. Throws `config` for one that contradicts itself. */
export function mistralConfig(
  sizes: Partial<MistralConfig> & Pick<MistralConfig, "hiddenSize" | "numLayers" | "numHeads">,
): MistralConfig {
  const { hiddenSize, numHeads } = sizes;
  const config: MistralConfig = {
    vocabSize: 32_000,
    contextLength: 32_768,
    intermediateSize: Math.ceil((3.5 * hiddenSize) / 256) * 256,
    numKeyValueHeads: numHeads % 4 === 0 ? numHeads / 4 : numHeads,
    headSize: hiddenSize / numHeads,
    slidingWindow: 4096,
    rmsNormEpsilon: 1e-5,
    ropeTheta: 10_000,
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

const published = { hiddenSize: 4096, numLayers: 32, numHeads: 32 };

/** The three releases of Mistral-7B; table 1 of the paper is the first. Later ones dropped the window. */
export const mistralSizes = {
  "mistral-7b-v0.1": mistralConfig(published),
  "mistral-7b-v0.2": mistralConfig({ ...published, slidingWindow: undefined, ropeTheta: 1e6 }),
  "mistral-7b-v0.3": mistralConfig({
    ...published,
    slidingWindow: undefined,
    ropeTheta: 1e6,
    vocabSize: 32_768,
  }),
} as const;

const huggingFaceConfig = z.object({
  model_type: z.literal("mistral"),
  vocab_size: z.int().positive(),
  max_position_embeddings: z.int().positive().default(131_072),
  hidden_size: z.int().positive(),
  intermediate_size: z.int().positive(),
  num_hidden_layers: z.int().positive(),
  num_attention_heads: z.int().positive(),
  num_key_value_heads: z.int().positive().default(8),
  head_dim: z.int().positive().nullish(),
  hidden_act: z.literal("silu").default("silu"),
  sliding_window: z.int().positive().nullish(),
  rms_norm_eps: z.number().positive().default(1e-6),
  rope_theta: z.number().positive().default(10_000),
  tie_word_embeddings: z.literal(false).default(false),
  initializer_range: z.number().positive().default(0.02),
});

/** The configuration in a `config.json` of Hugging Face transformers. Throws `config` saying which entry is wrong. */
export function mistralFromHuggingFace(json: unknown): MistralConfig {
  const config = parseConfig(huggingFaceConfig, json, "Mistral");
  return mistralConfig({
    vocabSize: config.vocab_size,
    contextLength: config.max_position_embeddings,
    hiddenSize: config.hidden_size,
    intermediateSize: config.intermediate_size,
    numLayers: config.num_hidden_layers,
    numHeads: config.num_attention_heads,
    numKeyValueHeads: config.num_key_value_heads,
    headSize: config.head_dim ?? config.hidden_size / config.num_attention_heads,
    slidingWindow: config.sliding_window ?? undefined,
    rmsNormEpsilon: config.rms_norm_eps,
    ropeTheta: config.rope_theta,
    initializerRange: config.initializer_range,
  });
}

/** The `config.json` that Hugging Face transformers reads. */
export const mistralToHuggingFace = (config: MistralConfig): Record<string, unknown> => ({
  architectures: ["MistralForCausalLM"],
  model_type: "mistral",
  vocab_size: config.vocabSize,
  max_position_embeddings: config.contextLength,
  hidden_size: config.hiddenSize,
  intermediate_size: config.intermediateSize,
  num_hidden_layers: config.numLayers,
  num_attention_heads: config.numHeads,
  num_key_value_heads: config.numKeyValueHeads,
  head_dim: config.headSize,
  hidden_act: "silu",
  sliding_window: config.slidingWindow ?? null,
  rms_norm_eps: config.rmsNormEpsilon,
  rope_theta: config.ropeTheta,
  tie_word_embeddings: false,
  initializer_range: config.initializerRange,
});

// ---- Parts --------------------------------------------------------------------------------------------------------

/** A pre-norm block; `[batch, sequence, hiddenSize]` in and out. Jiang et al. 2023, section 2. */
class MistralBlock extends Module {
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

  constructor(config: MistralConfig, layer: number) {
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
class MistralTransformer extends Module {
  static override readonly names = { tokenEmbedding: "embed_tokens", blocks: "layers", finalNorm: "norm" };
  readonly tokenEmbedding: Embedding;
  readonly blocks: readonly MistralBlock[];
  readonly finalNorm: RMSNorm;

  constructor(private readonly config: MistralConfig) {
    super();
    const { vocabSize, hiddenSize, numLayers, rmsNormEpsilon, initializerRange } = config;
    this.tokenEmbedding = new Embedding(vocabSize, hiddenSize, normalInit(initializerRange));
    this.blocks = Array.from({ length: numLayers }, (_, layer) => new MistralBlock(config, layer));
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

/** Mistral with its language-modelling head. */
export class Mistral extends Module {
  static override readonly names = { transformer: "model", head: "lm_head" };
  readonly transformer: MistralTransformer;
  readonly head: Linear;

  constructor(readonly config: MistralConfig) {
    super();
    const { hiddenSize, vocabSize, initializerRange } = config;
    this.transformer = new MistralTransformer(config);
    this.head = new Linear(hiddenSize, vocabSize, {
      bias: false,
      initializer: normalInit(initializerRange),
    });
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
    return matmul(hiddenStates, this.head.weight.tensor, { transposeB: true });
  }

  /**
   * Cross-entropy of every next token, `[batch, sequence]`: `labels[i]` is the token after `inputIds[i]`, or -100 for a
   * position that counts for nothing.
   */
  losses(inputIds: Tensor, labels: Tensor, context: ForwardContext = {}): Tensor {
    return linearTokenLosses(
      this.hiddenStates(inputIds, context.positionIds, context),
      this.head.weight.tensor,
      labels,
    );
  }

  /** Shape of one layer's key or value cache. */
  cacheShape(batch: Dim, capacity: Dim): Dim[] {
    return [batch, this.config.numKeyValueHeads, capacity, this.config.headSize];
  }
}
