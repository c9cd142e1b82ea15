import { LineageError } from "../base/errors.js";
import type { Tensor } from "../graph/index.js";
import {
  ChoiceHead,
  type Choices,
  type ConfigOf,
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
  attentionMaskOf,
  checkHeads,
  configEntries,
  configTable,
  encoderFields,
  entry,
  firstToken,
  headOn,
  normalInit,
  tokenHeads,
  throughLayers,
} from "../nn/index.js";
import {
  type Document,
  type Pretraining,
  type PretrainingOptions,
  type SentencePair,
  type SentenceTokens,
  albertSpans,
  bertSizesOf,
  documentsIn,
  lengthOfPair,
  maskRow,
  maskedBatch,
  maskedLmObjective,
  pairLength,
  pairRow,
  sentencePairs,
  sourceAndHeldOut,
  startsWithMark,
  vocabularyOf,
  wholeNetwork,
} from "../objectives/index.js";
import { defineSystem, publishedSize } from "./system.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

const { size, dropout } = configEntries;

/** ALBERT, Lan et al. 2020, "ALBERT: A Lite BERT for Self-supervised Learning of Language Representations". */
export const albertTable = configTable({
  type: "albert",
  title: "ALBERT",
  fields: {
    // Dropout is published as 0, section 4.8; the model fits too little rather than too much.
    ...encoderFields({
      vocabSize: 30_000,
      hiddenSize: 4096,
      numHeads: 64,
      intermediateSize: 16_384,
      activation: "gelu_new",
      hiddenDropout: 0,
      attentionDropout: 0,
    }),
    /** Width E of the embeddings, section 3.1: a factor of the table, so that the hidden size can grow without it. */
    embeddingSize: entry("embedding_size", size, { absent: 128 }),
    /** Groups of layers that share parameters, section 3.1. Published: 1. */
    numGroups: entry("num_hidden_groups", size, { absent: 1 }),
    /** Layers of a group with parameters of their own. Published: 1. */
    layersInGroup: entry("inner_group_num", size, { absent: 1 }),
    classifierDropout: entry("classifier_dropout_prob", dropout, { absent: 0.1 }),
  },
  fixed: { position_embedding_type: "absolute" },
  check: (config) => {
    checkHeads(config);
    if (config.numGroups > config.numLayers)
      throw new LineageError(
        "config",
        `${config.numGroups} groups cannot share ${config.numLayers} layers: there must be a layer for each group`,
      );
  },
});

export type AlbertConfig = ConfigOf<typeof albertTable>;

/** A configuration with ALBERT's published choices where `choices` makes none. Throws `config` for one that contradicts itself. */
export const albertConfig = (choices: Choices<AlbertConfig>): AlbertConfig => albertTable.create(choices);

const published = publishedSize(albertTable);

/** The four published sizes, table 1; parameters with the heads of pretraining. */
export const albertSizes = {
  "albert-base-v2": published(11_813_810, { hiddenSize: 768, numLayers: 12, numHeads: 12 }),
  "albert-large-v2": published(17_847_474, { hiddenSize: 1024, numLayers: 24, numHeads: 16 }),
  "albert-xlarge-v2": published(59_021_490, { hiddenSize: 2048, numLayers: 24, numHeads: 16 }),
  "albert-xxlarge-v2": published(223_158_450, { hiddenSize: 4096, numLayers: 12, numHeads: 64 }),
} as const;

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
    const layers = Array.from(
      { length: numLayers },
      (_, layer) => this.groups[Math.floor((layer * numGroups) / numLayers)]!,
    );
    return throughLayers(layers, this.projection.forward(x), context);
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

const pooledHead = (albert: Albert, config: AlbertConfig, numLabels: number) =>
  new PooledHead(config, numLabels, (hidden) => albert.pool(hidden));

const withPooler = (config: AlbertConfig) => new Albert(config);
const withoutPooler = (config: AlbertConfig) => new Albert(config, { pooler: false });

const albertHeads = {
  "fill-mask": { create: albertForMaskedLm },
  classify: headOn("albert", withPooler, pooledHead, "classifier"),
  ...tokenHeads("albert", withoutPooler, ({ classifierDropout }) => classifierDropout),
  choice: headOn(
    "albert",
    withPooler,
    (albert, config) => new ChoiceHead(pooledHead(albert, config, 1)),
    "classifier",
  ),
};

// ---- Pretraining --------------------------------------------------------------------------------------------------

/** SentencePiece's tokens under BERT's names: ALBERT's and DeBERTa v3's. */
export const albertTokens: SentenceTokens = {
  first: "[CLS]",
  separator: "[SEP]",
  padding: "<pad>",
  mask: "[MASK]",
  startsWord: startsWithMark,
};

/** Lan et al. 2020, sections 3.1 and 4.1: spans of up to three words, and sentence-order prediction. */
function pretrainAlbert(options: PretrainingOptions): Pretraining {
  const { tokenizer, contextLength, batchSize, seed, hiddenSize } = options;
  const vocabulary = vocabularyOf(tokenizer, albertTokens);
  const model = albertForPretraining(
    albertConfig({
      ...bertSizesOf(options, vocabulary),
      embeddingSize: Math.min(128, Math.max(1, hiddenSize / 2)),
    }),
  );
  return {
    model,
    objective: maskedLmObjective({
      model,
      encode: (inputs, context) => model.encoder.encode(inputs, context),
      maskedLosses: (hidden, labels) => model.head.predictions.losses(hidden, labels),
      sentenceLogits: (hidden) => model.head.sentenceOrder.forward(model.encoder.pool(hidden)),
    }),
    ...sourceAndHeldOut(documentsIn(options), {
      batchSize,
      seed,
      length: lengthOfPair,
      examplesOf: (documents: readonly Document[]) => (random) =>
        sentencePairs(documents, { maxLength: pairLength(contextLength), task: "sentence-order" }, random),
      transform: (pair: SentencePair, random) =>
        maskRow(pairRow(vocabulary, pair), vocabulary, { unit: "word", spans: albertSpans }, random),
      collate: (rows) => maskedBatch(rows, vocabulary.paddingId),
    }),
    networks: [
      wholeNetwork(model, {
        architectures: ["AlbertForMaskedLM"],
        ...albertTable.write(model.encoder.config),
      }),
    ],
  };
}

// ---- Definition ---------------------------------------------------------------------------------------------------

/** ALBERT as the rest of the library knows it. */
export const albert = defineSystem({
  kind: "encoder",
  className: "Albert",
  prefix: "albert",
  config: albertTable,
  sizes: albertSizes,
  create: (config, options) => new Albert(config, options),
  heads: albertHeads,
  depth: (parameter, { numLayers, numGroups }) => {
    const group = /^albert\.encoder\.albert_layer_groups\.(\d+)\./.exec(parameter)?.[1];
    if (group !== undefined) return Math.ceil(((Number(group) + 1) * numLayers) / numGroups);
    return /^albert\.(embeddings|encoder\.embedding_hidden_mapping_in)\./.test(parameter) ? 0 : numLayers + 1;
  },
  ownLayers: ({ numGroups, layersInGroup }) => numGroups * layersInGroup,
  sharesLayers: ({ numLayers, numGroups }) => numGroups < numLayers,
  tokenizer: { kind: "unigram", style: "albert" },
  pretraining: { objective: "masked spans of words and sentence order", prepare: pretrainAlbert },
});
