import { z } from "zod";
import { type Tensor, cast, linear, linearTokenLosses, unsqueeze } from "../graph/index.js";
import {
  type ActivationName,
  ChoiceHead,
  Dropout,
  Embedding,
  Encoder,
  type EncoderInputs,
  EncoderWithHead,
  type ForwardContext,
  LayerNorm,
  Linear,
  Module,
  Parameter,
  SpanHead,
  TokenHead,
  activations,
  attentionMaskOf,
  checkHeads,
  configEntries,
  firstToken,
  multiHeadAttention,
  normalInit,
  parseConfig,
  zerosInit,
} from "../nn/index.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

/** XLM, Lample & Conneau 2019, "Cross-lingual Language Model Pretraining". */
export interface XlmConfig {
  readonly vocabSize: number;
  /** Positions that the model knows. */
  readonly contextLength: number;
  /** Languages that it tells apart; 1 leaves their embeddings out. */
  readonly numLanguages: number;
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly activation: ActivationName & ("gelu" | "relu");
  readonly dropout: number;
  /** Probability of dropout of the attention probabilities. */
  readonly attentionDropout: number;
  readonly layerNormEpsilon: number;
  /** Standard deviation of the first weights of layers; embeddings start at `1 / sqrt(hiddenSize)`. */
  readonly initializerRange: number;
  /** Whether every position sees the earlier ones alone: causal language modelling, section 3.2. */
  readonly causal: boolean;
  readonly padTokenId: number;
}

/** A configuration with XLM's published choices where `sizes` makes none. Throws `config` for one that contradicts itself. */
export function xlmConfig(
  sizes: Partial<XlmConfig> & Pick<XlmConfig, "hiddenSize" | "numLayers" | "numHeads">,
): XlmConfig {
  const config: XlmConfig = {
    vocabSize: 95_000,
    contextLength: 512,
    numLanguages: 15,
    activation: "gelu",
    dropout: 0.1,
    attentionDropout: 0.1,
    layerNormEpsilon: 1e-12,
    initializerRange: 0.02,
    causal: false,
    padTokenId: 2,
    ...sizes,
  };
  checkHeads(config);
  return config;
}

/** The published models: one language, two, fifteen with translation LM, and a hundred without language embeddings. */
export const xlmSizes = {
  "xlm-mlm-en-2048": xlmConfig({
    vocabSize: 30_145,
    numLanguages: 1,
    hiddenSize: 2048,
    numLayers: 12,
    numHeads: 16,
  }),
  "xlm-mlm-ende-1024": xlmConfig({
    vocabSize: 64_699,
    numLanguages: 2,
    hiddenSize: 1024,
    numLayers: 6,
    numHeads: 8,
  }),
  "xlm-mlm-tlm-xnli15-1024": xlmConfig({ hiddenSize: 1024, numLayers: 12, numHeads: 8 }),
  "xlm-mlm-100-1280": xlmConfig({
    vocabSize: 200_000,
    numLanguages: 1,
    hiddenSize: 1280,
    numLayers: 16,
    numHeads: 16,
  }),
} as const;

const { size, dropout, epsilon } = configEntries;
const huggingFaceConfig = z.object({
  model_type: z.literal("xlm"),
  vocab_size: size.optional(),
  n_words: size.optional(),
  max_position_embeddings: size.default(512),
  n_langs: size.default(1),
  use_lang_emb: z.boolean().default(true),
  emb_dim: size.default(2048),
  n_layers: size.default(12),
  n_heads: size.default(16),
  gelu_activation: z.boolean().default(true),
  dropout: dropout.default(0.1),
  attention_dropout: dropout.default(0.1),
  layer_norm_eps: epsilon.default(1e-12),
  init_std: z.number().positive().default(0.02),
  causal: z.boolean().default(false),
  sinusoidal_embeddings: z.literal(false).default(false),
  asm: z.literal(false).default(false),
  pad_index: z.int().nonnegative().default(2),
});

/** The configuration in a `config.json` of Hugging Face transformers. Throws `config` saying which entry is wrong. */
export function xlmFromHuggingFace(json: unknown): XlmConfig {
  const config = parseConfig(huggingFaceConfig, json, "XLM");
  return xlmConfig({
    vocabSize: config.n_words ?? config.vocab_size ?? 30_145,
    contextLength: config.max_position_embeddings,
    numLanguages: config.use_lang_emb ? config.n_langs : 1,
    hiddenSize: config.emb_dim,
    numLayers: config.n_layers,
    numHeads: config.n_heads,
    activation: config.gelu_activation ? "gelu" : "relu",
    dropout: config.dropout,
    attentionDropout: config.attention_dropout,
    layerNormEpsilon: config.layer_norm_eps,
    initializerRange: config.init_std,
    causal: config.causal,
    padTokenId: config.pad_index,
  });
}

/** The `config.json` that Hugging Face transformers reads. */
export const xlmToHuggingFace = (config: XlmConfig): Record<string, unknown> => ({
  model_type: "xlm",
  vocab_size: config.vocabSize,
  n_words: config.vocabSize,
  max_position_embeddings: config.contextLength,
  n_langs: config.numLanguages,
  use_lang_emb: config.numLanguages > 1,
  emb_dim: config.hiddenSize,
  n_layers: config.numLayers,
  n_heads: config.numHeads,
  gelu_activation: config.activation === "gelu",
  dropout: config.dropout,
  attention_dropout: config.attentionDropout,
  layer_norm_eps: config.layerNormEpsilon,
  init_std: config.initializerRange,
  embed_init_std: config.hiddenSize ** -0.5,
  causal: config.causal,
  sinusoidal_embeddings: false,
  asm: false,
  pad_index: config.padTokenId,
  pad_token_id: config.padTokenId,
});

// ---- Parts --------------------------------------------------------------------------------------------------------

/** Self-attention; `[batch, sequence, hiddenSize]` in and out. */
class XlmAttention extends Module {
  static override readonly names = { query: "q_lin", key: "k_lin", value: "v_lin", output: "out_lin" };
  readonly query: Linear;
  readonly key: Linear;
  readonly value: Linear;
  readonly output: Linear;

  constructor(private readonly config: XlmConfig) {
    super();
    const options = { initializer: normalInit(config.initializerRange) };
    const square = () => new Linear(config.hiddenSize, config.hiddenSize, options);
    this.query = square();
    this.key = square();
    this.value = square();
    this.output = square();
  }

  override forward(x: Tensor, context: ForwardContext): Tensor {
    const { numHeads, attentionDropout } = this.config;
    const mixed = multiHeadAttention(
      this.query.forward(x),
      this.key.forward(x),
      this.value.forward(x),
      { numHeads, dropout: attentionDropout, causal: this.config.causal },
      context,
    );
    return this.output.forward(mixed);
  }
}

/** Feed-forward network four times as wide; `[batch, sequence, hiddenSize]` in and out. */
class XlmFeedForward extends Module {
  static override readonly names = { up: "lin1", down: "lin2" };
  readonly up: Linear;
  readonly down: Linear;

  constructor(private readonly config: XlmConfig) {
    super();
    const { hiddenSize } = config;
    const options = { initializer: normalInit(config.initializerRange) };
    this.up = new Linear(hiddenSize, 4 * hiddenSize, options);
    this.down = new Linear(4 * hiddenSize, hiddenSize, options);
  }

  override forward(x: Tensor): Tensor {
    return this.down.forward(activations[this.config.activation](this.up.forward(x)));
  }
}

// ---- Model --------------------------------------------------------------------------------------------------------

export interface XlmInputs extends EncoderInputs {
  /** Number of every token's language, int32 `[batch, sequence]`. Default: no language is added. */
  readonly languageIds?: Tensor | undefined;
}

/**
 * XLM: the sum of token, position and language embeddings (figure 1), a norm, and post-norm layers, whose parts the published
 * names list kind by kind. States of padding are zero.
 */
export class Xlm extends Encoder {
  static override readonly names = {
    position: "position_embeddings",
    language: "lang_embeddings",
    token: "embeddings",
    embeddingNorm: "layer_norm_emb",
    attentionNorms: "layer_norm1",
    feedForwards: "ffns",
    outputNorms: "layer_norm2",
  };
  readonly position: Embedding;
  readonly language: Embedding | undefined;
  readonly token: Embedding;
  readonly embeddingNorm: LayerNorm;
  readonly attentions: readonly XlmAttention[];
  readonly attentionNorms: readonly LayerNorm[];
  readonly feedForwards: readonly XlmFeedForward[];
  readonly outputNorms: readonly LayerNorm[];
  private readonly dropout: Dropout;

  constructor(readonly config: XlmConfig) {
    super();
    const { hiddenSize, numLayers, numLanguages, layerNormEpsilon } = config;
    const initializer = normalInit(hiddenSize ** -0.5);
    const layers = <T>(make: () => T): T[] => Array.from({ length: numLayers }, make);
    const norm = () => new LayerNorm(hiddenSize, layerNormEpsilon);
    this.position = new Embedding(config.contextLength, hiddenSize, initializer);
    this.language = numLanguages > 1 ? new Embedding(numLanguages, hiddenSize, initializer) : undefined;
    this.token = new Embedding(config.vocabSize, hiddenSize, initializer);
    this.embeddingNorm = norm();
    this.attentions = layers(() => new XlmAttention(config));
    this.attentionNorms = layers(norm);
    this.feedForwards = layers(() => new XlmFeedForward(config));
    this.outputNorms = layers(norm);
    this.dropout = new Dropout(config.dropout);
  }

  override forward(inputs: XlmInputs, context: ForwardContext = {}): Tensor {
    const { attentionMask } = inputs;
    const inner = { ...context, attentionMask: attentionMaskOf(inputs) };
    let x = this.embed(inputs, context);
    this.attentions.forEach((attention, layer) => {
      const attended = this.dropout.forward(attention.forward(x, inner), context.random);
      const h = this.attentionNorms[layer]!.forward(x.add(attended));
      const fed = this.dropout.forward(this.feedForwards[layer]!.forward(h), context.random);
      x = this.outputNorms[layer]!.forward(h.add(fed));
    });
    return attentionMask?.rank === 2 ? x.mul(unsqueeze(cast(attentionMask, x.dtype), 2)) : x;
  }

  private embed({ inputIds, positionIds, languageIds }: XlmInputs, { random }: ForwardContext): Tensor {
    const positions = positionIds
      ? this.position.forward(positionIds)
      : this.position.rows(0, inputIds.dim(1));
    let x = this.token.forward(inputIds).add(positions);
    if (languageIds && this.language) x = x.add(this.language.forward(languageIds));
    return this.dropout.forward(this.embeddingNorm.forward(x), random);
  }
}

// ---- Heads --------------------------------------------------------------------------------------------------------

/** Logits by the token embeddings and a bias. */
export class XlmLmHead extends Module {
  static override readonly names = { bias: "proj.bias" };
  readonly bias: Parameter;

  constructor(private readonly xlm: Xlm) {
    super();
    this.bias = new Parameter([xlm.config.vocabSize], zerosInit);
  }

  /** Logits `[..., vocabSize]` of states `[..., hiddenSize]`. */
  override forward(hidden: Tensor): Tensor {
    return linear(hidden, this.xlm.token.weight.tensor, this.bias.tensor, { transposeWeight: true });
  }

  /** Cross-entropy of states `[..., hiddenSize]` under labels `[...]`, 0 where the label is -100. */
  losses(hidden: Tensor, labels: Tensor): Tensor {
    return linearTokenLosses(hidden, this.xlm.token.weight.tensor, labels, { bias: this.bias.tensor });
  }
}

/** Masked, translation and causal language modelling: logits `[batch, sequence, vocabSize]`. */
export function xlmForMaskedLm(config: XlmConfig) {
  const xlm = new Xlm(config);
  return new EncoderWithHead(xlm, new XlmLmHead(xlm), { encoder: "transformer", head: "pred_layer" });
}

/** What sequence tasks read: a projection of the first token's state, `[batch, numLabels]`. */
class XlmSummaryHead extends Module {
  static override readonly names = { summary: "sequence_summary.summary" };
  readonly summary: Linear;
  private readonly dropout: Dropout;

  constructor(config: XlmConfig, numLabels: number) {
    super();
    this.summary = new Linear(config.hiddenSize, numLabels, {
      initializer: normalInit(config.initializerRange),
    });
    this.dropout = new Dropout(config.dropout);
  }

  override forward(hidden: Tensor, { random }: ForwardContext): Tensor {
    return this.summary.forward(this.dropout.forward(firstToken(hidden), random));
  }
}

/** A class, or a number, for each sequence or pair: logits `[batch, numLabels]`. */
export function xlmForSequenceClassification(config: XlmConfig, numLabels: number) {
  const head = new XlmSummaryHead(config, numLabels);
  return new EncoderWithHead(new Xlm(config), head, { encoder: "transformer", head: "" });
}

const headConfig = (config: XlmConfig) => ({ ...config, classifierDropout: config.dropout });

/** A class for each token: logits `[batch, sequence, numLabels]`. */
export function xlmForTokenClassification(config: XlmConfig, numLabels: number) {
  const head = new TokenHead(headConfig(config), numLabels);
  return new EncoderWithHead(new Xlm(config), head, { encoder: "transformer", head: "" });
}

/** Start and end of an answer: logits `[batch, sequence, 2]`. */
export function xlmForQuestionAnswering(config: XlmConfig) {
  const head = new SpanHead(config);
  return new EncoderWithHead(new Xlm(config), head, { encoder: "transformer", head: "" });
}

/** The score of one choice, from a summary as wide as the configuration has labels, as transformers has it. */
class XlmChoiceScorer extends Module {
  static override readonly names = { summary: "", scorer: "logits_proj" };
  readonly summary: XlmSummaryHead;
  readonly scorer: Linear;

  constructor(config: XlmConfig, summarySize: number) {
    super();
    this.summary = new XlmSummaryHead(config, summarySize);
    this.scorer = new Linear(summarySize, 1, { initializer: normalInit(config.initializerRange) });
  }

  override forward(hidden: Tensor, context: ForwardContext): Tensor {
    return this.scorer.forward(this.summary.forward(hidden, context));
  }
}

/** A score for each choice: `[batch, choices, sequence]` -> `[batch, choices]`. */
export function xlmForMultipleChoice(config: XlmConfig, summarySize = 2) {
  const head = new ChoiceHead(new XlmChoiceScorer(config, summarySize));
  return new EncoderWithHead(new Xlm(config), head, { encoder: "transformer", head: "" });
}
