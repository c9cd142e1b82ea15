import { z } from "zod";
import { LineageError } from "../base/errors.js";
import type { Tensor } from "../graph/index.js";
import {
  type ActivationName,
  ChoiceHead,
  Dropout,
  Encoder,
  EncoderEmbeddings,
  type EncoderInputs,
  EncoderWithHead,
  type ForwardContext,
  Linear,
  MaskedLmHead,
  Module,
  PooledHead,
  PostNormLayer,
  SpanHead,
  TokenHead,
  attentionMaskOf,
  checkHeads,
  configEntries,
  encoderEntries,
  firstToken,
  fromEncoderEntries,
  normalInit,
  parseConfig,
  toEncoderEntries,
} from "../nn/index.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

/** ALBERT, Lan et al. 2020, "ALBERT: A Lite BERT for Self-supervised Learning of Language Representations". */
export interface AlbertConfig {
  readonly vocabSize: number;
  /** Positions that the model knows. */
  readonly contextLength: number;
  readonly typeVocabSize: number;
  /** Width E of the embeddings, section 3.1: a factor of the table, so that the hidden size can grow without it. */
  readonly embeddingSize: number;
  readonly hiddenSize: number;
  /** How often a layer is applied. */
  readonly numLayers: number;
  /** Groups of layers that share parameters, section 3.1. Published: 1. */
  readonly numGroups: number;
  /** Layers of a group with parameters of their own. Published: 1. */
  readonly layersInGroup: number;
  readonly numHeads: number;
  /** Width of the feed-forward layer. Published: 4 hiddenSize. */
  readonly intermediateSize: number;
  readonly activation: ActivationName;
  /** Probability of dropout. Published: 0, section 4.8; the model fits too little rather than too much. */
  readonly hiddenDropout: number;
  readonly attentionDropout: number;
  readonly classifierDropout: number;
  readonly layerNormEpsilon: number;
  /** Standard deviation of the first weights. */
  readonly initializerRange: number;
  readonly padTokenId: number;
}

/** A configuration with ALBERT's published choices where `sizes` makes none. Throws `config` for one that contradicts itself. */
export function albertConfig(
  sizes: Partial<AlbertConfig> & Pick<AlbertConfig, "hiddenSize" | "numLayers" | "numHeads">,
): AlbertConfig {
  const config: AlbertConfig = {
    vocabSize: 30_000,
    contextLength: 512,
    typeVocabSize: 2,
    embeddingSize: 128,
    numGroups: 1,
    layersInGroup: 1,
    intermediateSize: 4 * sizes.hiddenSize,
    activation: "gelu_new",
    hiddenDropout: 0,
    attentionDropout: 0,
    classifierDropout: 0.1,
    layerNormEpsilon: 1e-12,
    initializerRange: 0.02,
    padTokenId: 0,
    ...sizes,
  };
  checkHeads(config);
  if (config.numGroups > config.numLayers) {
    throw new LineageError(
      "config",
      `${config.numGroups} groups cannot share ${config.numLayers} layers: there must be a layer for each group`,
    );
  }
  return config;
}

/** The four published sizes, table 1. */
export const albertSizes = {
  "albert-base-v2": albertConfig({ hiddenSize: 768, numLayers: 12, numHeads: 12 }),
  "albert-large-v2": albertConfig({ hiddenSize: 1024, numLayers: 24, numHeads: 16 }),
  "albert-xlarge-v2": albertConfig({ hiddenSize: 2048, numLayers: 24, numHeads: 16 }),
  "albert-xxlarge-v2": albertConfig({ hiddenSize: 4096, numLayers: 12, numHeads: 64 }),
} as const;

const { size, activation, dropout } = configEntries;
const huggingFaceConfig = z.object({
  ...encoderEntries,
  model_type: z.literal("albert"),
  vocab_size: size.default(30_000),
  embedding_size: size.default(128),
  hidden_size: size.default(4096),
  num_hidden_groups: size.default(1),
  inner_group_num: size.default(1),
  num_attention_heads: size.default(64),
  intermediate_size: size.default(16_384),
  hidden_act: activation.default("gelu_new"),
  hidden_dropout_prob: dropout.default(0),
  attention_probs_dropout_prob: dropout.default(0),
  classifier_dropout_prob: dropout.default(0.1),
  position_embedding_type: z.literal("absolute").default("absolute"),
});

/** The configuration in a `config.json` of Hugging Face transformers. Throws `config` saying which entry is wrong. */
export function albertFromHuggingFace(json: unknown): AlbertConfig {
  const config = parseConfig(huggingFaceConfig, json, "ALBERT");
  return albertConfig({
    ...fromEncoderEntries(config),
    embeddingSize: config.embedding_size,
    numGroups: config.num_hidden_groups,
    layersInGroup: config.inner_group_num,
    classifierDropout: config.classifier_dropout_prob,
  });
}

/** The `config.json` that Hugging Face transformers reads. */
export const albertToHuggingFace = (config: AlbertConfig): Record<string, unknown> => ({
  model_type: "albert",
  ...toEncoderEntries(config),
  embedding_size: config.embeddingSize,
  num_hidden_groups: config.numGroups,
  inner_group_num: config.layersInGroup,
  classifier_dropout_prob: config.classifierDropout,
  position_embedding_type: "absolute",
});

// ---- Parts --------------------------------------------------------------------------------------------------------

/** BERT's layer under ALBERT's published names. */
class AlbertLayer extends PostNormLayer {
  static override readonly names = {
    query: "attention.query",
    key: "attention.key",
    value: "attention.value",
    attentionOutput: "attention.dense",
    attentionNorm: "attention.LayerNorm",
    up: "ffn",
    down: "ffn_output",
    outputNorm: "full_layer_layer_norm",
  };
}

/** The layers with parameters of their own that one group applies. */
class AlbertGroup extends Module {
  static override readonly names = { layers: "albert_layers" };
  readonly layers: readonly AlbertLayer[];

  constructor(config: AlbertConfig) {
    super();
    this.layers = Array.from({ length: config.layersInGroup }, () => new AlbertLayer(config));
  }

  override forward(x: Tensor, context: ForwardContext): Tensor {
    return this.layers.reduce((h, layer) => layer.forward(h, context), x);
  }
}

/**
 * Cross-layer parameter sharing, section 3.1: `numLayers` applications of `numGroups` groups, after the projection from the
 * embedding size to the hidden size. `[batch, sequence, embeddingSize]` -> `[batch, sequence, hiddenSize]`.
 */
class AlbertLayers extends Module {
  static override readonly names = {
    projection: "embedding_hidden_mapping_in",
    groups: "albert_layer_groups",
  };
  readonly projection: Linear;
  readonly groups: readonly AlbertGroup[];

  constructor(private readonly config: AlbertConfig) {
    super();
    this.projection = new Linear(config.embeddingSize, config.hiddenSize, {
      initializer: normalInit(config.initializerRange),
    });
    this.groups = Array.from({ length: config.numGroups }, () => new AlbertGroup(config));
  }

  override forward(x: Tensor, context: ForwardContext): Tensor {
    const { numLayers, numGroups } = this.config;
    let h = this.projection.forward(x);
    for (let layer = 0; layer < numLayers; layer++)
      h = this.groups[Math.floor((layer * numGroups) / numLayers)]!.forward(h, context);
    return h;
  }
}

// ---- Model --------------------------------------------------------------------------------------------------------

/** ALBERT: factorised embeddings, shared layers and, unless it is left out, the pooler. */
export class Albert extends Encoder {
  static override readonly names = { layers: "encoder" };
  readonly embeddings: EncoderEmbeddings;
  readonly layers: AlbertLayers;
  readonly pooler: Linear | undefined;

  /** @param pooler whether the model has the pooler, which masked language modelling and token tasks do without */
  constructor(
    readonly config: AlbertConfig,
    { pooler = true } = {},
  ) {
    super();
    const { hiddenSize, initializerRange } = config;
    this.embeddings = new EncoderEmbeddings({ ...config, positions: config.contextLength });
    this.layers = new AlbertLayers(config);
    this.pooler = pooler
      ? new Linear(hiddenSize, hiddenSize, { initializer: normalInit(initializerRange) })
      : undefined;
  }

  override forward(inputs: EncoderInputs, context: ForwardContext = {}): Tensor {
    const mask = attentionMaskOf(inputs);
    return this.layers.forward(this.embeddings.forward(inputs, context), { ...context, attentionMask: mask });
  }

  /** A tanh layer over the state of `[CLS]`; `[batch, hiddenSize]`. */
  pool(hidden: Tensor): Tensor {
    if (!this.pooler) throw new LineageError("internal", "this ALBERT was made without its pooler");
    return this.pooler.forward(firstToken(hidden)).tanh();
  }
}

// ---- Heads --------------------------------------------------------------------------------------------------------

const maskedLmHead = (albert: Albert) =>
  new MaskedLmHead(albert.config, albert.embeddings.token.weight.tensor);

/** The two heads of pretraining: masked language modelling and sentence order, section 3.1. */
export class AlbertPretrainingHeads extends Module {
  static override readonly names = { sentenceOrder: "sop_classifier.classifier" };
  readonly predictions: MaskedLmHead;
  readonly sentenceOrder: Linear;
  private readonly dropout: Dropout;

  constructor(private readonly albert: Albert) {
    super();
    const { hiddenSize, initializerRange, classifierDropout } = albert.config;
    this.predictions = maskedLmHead(albert);
    this.sentenceOrder = new Linear(hiddenSize, 2, { initializer: normalInit(initializerRange) });
    this.dropout = new Dropout(classifierDropout);
  }

  /** Masked-LM logits `[batch, sequence, vocabSize]` and sentence-order logits `[batch, 2]`: 1 says that the two were swapped. */
  override forward(hidden: Tensor, { random }: ForwardContext): { maskedLm: Tensor; sentenceOrder: Tensor } {
    const pooled = this.dropout.forward(this.albert.pool(hidden), random);
    return { maskedLm: this.predictions.forward(hidden), sentenceOrder: this.sentenceOrder.forward(pooled) };
  }
}

/** ALBERT as it is pretrained: masked language modelling and sentence-order prediction. */
export function albertForPretraining(config: AlbertConfig) {
  const albert = new Albert(config);
  return new EncoderWithHead(albert, new AlbertPretrainingHeads(albert), { encoder: "albert", head: "" });
}

/** Masked language modelling alone: logits `[batch, sequence, vocabSize]`. */
export function albertForMaskedLm(config: AlbertConfig) {
  const albert = new Albert(config, { pooler: false });
  return new EncoderWithHead(albert, maskedLmHead(albert), { encoder: "albert", head: "predictions" });
}

const pooledHead = (albert: Albert, numLabels: number) =>
  new PooledHead(albert.config, numLabels, (hidden) => albert.pool(hidden));

/** A class, or a number, for each sequence or pair: logits `[batch, numLabels]`. */
export function albertForSequenceClassification(config: AlbertConfig, numLabels: number) {
  const albert = new Albert(config);
  return new EncoderWithHead(albert, pooledHead(albert, numLabels), { encoder: "albert", head: "" });
}

/** A class for each token: logits `[batch, sequence, numLabels]`. */
export function albertForTokenClassification(config: AlbertConfig, numLabels: number) {
  const albert = new Albert(config, { pooler: false });
  return new EncoderWithHead(albert, new TokenHead(config, numLabels), { encoder: "albert", head: "" });
}

/** Start and end of an answer: logits `[batch, sequence, 2]`. */
export function albertForQuestionAnswering(config: AlbertConfig) {
  const albert = new Albert(config, { pooler: false });
  return new EncoderWithHead(albert, new SpanHead(config), { encoder: "albert", head: "" });
}

/** A score for each choice: `[batch, choices, sequence]` -> `[batch, choices]`. */
export function albertForMultipleChoice(config: AlbertConfig) {
  const albert = new Albert(config);
  return new EncoderWithHead(albert, new ChoiceHead(pooledHead(albert, 1)), { encoder: "albert", head: "" });
}
