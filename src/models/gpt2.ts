import { z } from "zod";
import { LineageError } from "../base/errors.js";
import {
  type Dim,
  type KeyValueCache,
  type Tensor,
  attention,
  cachedAttention,
  linearTokenLosses,
  matmul,
} from "../graph/index.js";
import {
  type ActivationName,
  Dropout,
  Embedding,
  type ForwardContext,
  LayerNorm,
  Linear,
  Module,
  activations,
  mergeHeads,
  normalInit,
  parseConfig,
  residualInit,
  splitHeads,
} from "../nn/index.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

/** GPT-2, Radford et al. 2019, "Language Models are Unsupervised Multitask Learners". */
export interface Gpt2Config {
  readonly vocabSize: number;
  /** Positions that the model knows. */
  readonly contextLength: number;
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  /** Width of the feed-forward layer. Published: 4 hiddenSize. */
  readonly intermediateSize: number;
  readonly activation: ActivationName;
  /** Probability of dropout after the embeddings, in attention and before each residual sum. */
  readonly dropout: number;
  readonly layerNormEpsilon: number;
  /** Standard deviation of the first weights. */
  readonly initializerRange: number;
}

const published = { vocabSize: 50_257, contextLength: 1024 };

/** A configuration with GPT-2's published choices where `sizes` makes none. Throws `config` for one that contradicts itself. */
export function gpt2Config(
  sizes: Partial<Gpt2Config> & Pick<Gpt2Config, "hiddenSize" | "numLayers" | "numHeads">,
): Gpt2Config {
  const config: Gpt2Config = {
    ...published,
    intermediateSize: 4 * sizes.hiddenSize,
    activation: "gelu_new",
    dropout: 0.1,
    layerNormEpsilon: 1e-5,
    initializerRange: 0.02,
    ...sizes,
  };
  if (config.hiddenSize % config.numHeads !== 0) {
    throw new LineageError(
      "config",
      `hiddenSize ${config.hiddenSize} does not divide into ${config.numHeads} heads`,
    );
  }
  return config;
}

/** The four published sizes; table 2 of the paper. */
export const gpt2Sizes = {
  gpt2: gpt2Config({ hiddenSize: 768, numLayers: 12, numHeads: 12 }),
  "gpt2-medium": gpt2Config({ hiddenSize: 1024, numLayers: 24, numHeads: 16 }),
  "gpt2-large": gpt2Config({ hiddenSize: 1280, numLayers: 36, numHeads: 20 }),
  "gpt2-xl": gpt2Config({ hiddenSize: 1600, numLayers: 48, numHeads: 25 }),
} as const;

const huggingFaceConfig = z.object({
  model_type: z.literal("gpt2"),
  vocab_size: z.int().positive(),
  n_positions: z.int().positive(),
  n_embd: z.int().positive(),
  n_layer: z.int().positive(),
  n_head: z.int().positive(),
  n_inner: z.int().positive().nullish(),
  activation_function: z
    .enum(Object.keys(activations) as [ActivationName, ...ActivationName[]])
    .default("gelu_new"),
  resid_pdrop: z.number().min(0).lt(1).default(0.1),
  layer_norm_epsilon: z.number().positive().default(1e-5),
  initializer_range: z.number().positive().default(0.02),
});

/** The configuration in a `config.json` of Hugging Face transformers. Throws `config` saying which entry is wrong. */
export function gpt2FromHuggingFace(json: unknown): Gpt2Config {
  const config = parseConfig(huggingFaceConfig, json, "GPT-2");
  return gpt2Config({
    vocabSize: config.vocab_size,
    contextLength: config.n_positions,
    hiddenSize: config.n_embd,
    numLayers: config.n_layer,
    numHeads: config.n_head,
    intermediateSize: config.n_inner ?? 4 * config.n_embd,
    activation: config.activation_function,
    dropout: config.resid_pdrop,
    layerNormEpsilon: config.layer_norm_epsilon,
    initializerRange: config.initializer_range,
  });
}

/** The `config.json` that Hugging Face transformers reads. */
export const gpt2ToHuggingFace = (config: Gpt2Config): Record<string, unknown> => ({
  architectures: ["GPT2LMHeadModel"],
  model_type: "gpt2",
  vocab_size: config.vocabSize,
  n_positions: config.contextLength,
  n_embd: config.hiddenSize,
  n_layer: config.numLayers,
  n_head: config.numHeads,
  n_inner: config.intermediateSize,
  activation_function: config.activation,
  resid_pdrop: config.dropout,
  embd_pdrop: config.dropout,
  attn_pdrop: config.dropout,
  layer_norm_epsilon: config.layerNormEpsilon,
  initializer_range: config.initializerRange,
  tie_word_embeddings: true,
});

// ---- Parts --------------------------------------------------------------------------------------------------------

/** Causal self-attention; `[batch, sequence, hiddenSize]` in and out. */
class Gpt2Attention extends Module {
  static override readonly names = { queryKeyValue: "c_attn", output: "c_proj" };
  readonly queryKeyValue: Linear;
  readonly output: Linear;
  private readonly residualDropout: Dropout;

  constructor(
    private readonly config: Gpt2Config,
    private readonly layer: number,
  ) {
    super();
    const { hiddenSize, initializerRange } = config;
    this.queryKeyValue = new Linear(hiddenSize, 3 * hiddenSize, {
      layout: "in,out",
      initializer: normalInit(initializerRange),
    });
    this.output = new Linear(hiddenSize, hiddenSize, { layout: "in,out", initializer: residualInit(config) });
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
    const { numHeads, dropout } = this.config;
    const [q, k, v] = [query, key, value].map((part) => splitHeads(part, numHeads)) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    return mergeHeads(attention(q, k, v, { causal: true, mask: attentionMask, dropout, random }));
  }

  private attendCached(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cache: KeyValueCache,
    context: ForwardContext,
  ): Tensor {
    const { numHeads } = this.config;
    const step = cachedAttention(query, key, value, cache, { numHeads, numKeyValueHeads: numHeads });
    context.cache!.present[this.layer] = step;
    return step.output;
  }
}

/** Feed-forward layer; `[batch, sequence, hiddenSize]` in and out. */
class Gpt2FeedForward extends Module {
  static override readonly names = { up: "c_fc", down: "c_proj" };
  readonly up: Linear;
  readonly down: Linear;
  private readonly residualDropout: Dropout;

  constructor(private readonly config: Gpt2Config) {
    super();
    const { hiddenSize, intermediateSize, initializerRange } = config;
    this.up = new Linear(hiddenSize, intermediateSize, {
      layout: "in,out",
      initializer: normalInit(initializerRange),
    });
    this.down = new Linear(intermediateSize, hiddenSize, {
      layout: "in,out",
      initializer: residualInit(config),
    });
    this.residualDropout = new Dropout(config.dropout);
  }

  override forward(x: Tensor, { random }: ForwardContext): Tensor {
    const hidden = activations[this.config.activation](this.up.forward(x));
    return this.residualDropout.forward(this.down.forward(hidden), random);
  }
}

/** A pre-norm block; `[batch, sequence, hiddenSize]` in and out. */
class Gpt2Block extends Module {
  static override readonly names = {
    attentionNorm: "ln_1",
    attention: "attn",
    feedForwardNorm: "ln_2",
    feedForward: "mlp",
  };
  readonly attentionNorm: LayerNorm;
  readonly attention: Gpt2Attention;
  readonly feedForwardNorm: LayerNorm;
  readonly feedForward: Gpt2FeedForward;

  constructor(config: Gpt2Config, layer: number) {
    super();
    this.attentionNorm = new LayerNorm(config.hiddenSize, config.layerNormEpsilon);
    this.attention = new Gpt2Attention(config, layer);
    this.feedForwardNorm = new LayerNorm(config.hiddenSize, config.layerNormEpsilon);
    this.feedForward = new Gpt2FeedForward(config);
  }

  override forward(x: Tensor, context: ForwardContext): Tensor {
    const h = x.add(this.attention.forward(this.attentionNorm.forward(x), context));
    return h.add(this.feedForward.forward(this.feedForwardNorm.forward(h), context));
  }
}

// ---- Model --------------------------------------------------------------------------------------------------------

/** Token and position embeddings, the blocks and the final norm. */
class Gpt2Transformer extends Module {
  static override readonly names = {
    tokenEmbedding: "wte",
    positionEmbedding: "wpe",
    blocks: "h",
    finalNorm: "ln_f",
  };
  readonly tokenEmbedding: Embedding;
  readonly positionEmbedding: Embedding;
  readonly blocks: readonly Gpt2Block[];
  readonly finalNorm: LayerNorm;
  private readonly embeddingDropout: Dropout;

  constructor(config: Gpt2Config) {
    super();
    const initializer = normalInit(config.initializerRange);
    this.tokenEmbedding = new Embedding(config.vocabSize, config.hiddenSize, initializer);
    this.positionEmbedding = new Embedding(config.contextLength, config.hiddenSize, initializer);
    this.blocks = Array.from({ length: config.numLayers }, (_, layer) => new Gpt2Block(config, layer));
    this.finalNorm = new LayerNorm(config.hiddenSize, config.layerNormEpsilon);
    this.embeddingDropout = new Dropout(config.dropout);
  }

  override forward(inputIds: Tensor, positionIds: Tensor | undefined, context: ForwardContext): Tensor {
    const positions = positionIds
      ? this.positionEmbedding.forward(positionIds)
      : this.positionEmbedding.rows(0, inputIds.dim(1));
    let x = this.tokenEmbedding.forward(inputIds).add(positions);
    x = this.embeddingDropout.forward(x, context.random);
    for (const block of this.blocks) {
      x = block.forward(x, context);
      context.cache?.states?.push(x);
    }
    return this.finalNorm.forward(x);
  }
}

/** GPT-2 with its language-modelling head, whose weight is the token embedding. */
export class Gpt2 extends Module {
  readonly transformer: Gpt2Transformer;

  constructor(readonly config: Gpt2Config) {
    super();
    this.transformer = new Gpt2Transformer(config);
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
    return matmul(hiddenStates, this.transformer.tokenEmbedding.weight.tensor, { transposeB: true });
  }

  /**
   * Cross-entropy of every next token, `[batch, sequence]`: `labels[i]` is the token after `inputIds[i]`, or -100 for a
   * position that counts for nothing.
   */
  losses(inputIds: Tensor, labels: Tensor, context: ForwardContext = {}): Tensor {
    return linearTokenLosses(
      this.hiddenStates(inputIds, context.positionIds, context),
      this.transformer.tokenEmbedding.weight.tensor,
      labels,
    );
  }

  /** Shape of one layer's key or value cache. */
  cacheShape(batch: Dim, capacity: Dim): Dim[] {
    const { numHeads, hiddenSize } = this.config;
    return [batch, numHeads, capacity, hiddenSize / numHeads];
  }
}
