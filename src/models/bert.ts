import type { Tensor } from "../graph/index.js";
import {
  ChoiceHead,
  type Choices,
  type ConfigOf,
  Encoder,
  EncoderEmbeddings,
  type EncoderInputs,
  EncoderLayers,
  EncoderWithHead,
  type ForwardContext,
  Linear,
  type MaskedLmConfig,
  MaskedLmHead,
  Module,
  PooledHead,
  Pooler,
  attentionMaskOf,
  bertFields,
  checkHeads,
  configTable,
  headOn,
  normalInit,
  tokenHeads,
} from "../nn/index.js";
import {
  type Document,
  type Pretraining,
  type PretrainingOptions,
  type SentencePair,
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
  vocabularyOf,
  wholeNetwork,
  wordPieceTokens,
} from "../objectives/index.js";
import { defineSystem, depthByName, publishedSize } from "./system.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

/** BERT, Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding". */
export const bertTable = configTable({
  type: "bert",
  title: "BERT",
  fields: bertFields(),
  fixed: { position_embedding_type: "absolute" },
  check: checkHeads,
});

export type BertConfig = ConfigOf<typeof bertTable>;

/** A configuration with BERT's published choices where `choices` makes none. Throws `config` for one that contradicts itself. */
export const bertConfig = (choices: Choices<BertConfig>): BertConfig => bertTable.create(choices);

const published = publishedSize(bertTable);

/** The two published sizes, section 3; parameters with the heads of pretraining. */
export const bertSizes = {
  "bert-base-uncased": published(110_106_428, { hiddenSize: 768, numLayers: 12, numHeads: 12 }),
  "bert-large-uncased": published(336_226_108, { hiddenSize: 1024, numLayers: 24, numHeads: 16 }),
} as const;

// ---- Model --------------------------------------------------------------------------------------------------------

/**
 * BERT: the sum of token, segment and position embeddings (figure 2), the layers and, unless it is left out, the pooler that
 * next-sentence prediction reads.
 */
export class Bert extends Encoder {
  static override readonly names = { layers: "encoder" };
  readonly embeddings: EncoderEmbeddings;
  readonly layers: EncoderLayers;
  readonly pooler: Pooler | undefined;

  /** @param pooler whether the model has the pooler, which masked language modelling and token tasks do without */
  constructor(
    readonly config: BertConfig,
    { pooler = true } = {},
  ) {
    super();
    this.embeddings = new EncoderEmbeddings({
      ...config,
      embeddingSize: config.hiddenSize,
      positions: config.contextLength,
    });
    this.layers = new EncoderLayers(config);
    this.pooler = pooler ? new Pooler(config) : undefined;
  }

  override forward(inputs: EncoderInputs, context: ForwardContext = {}): Tensor {
    const mask = attentionMaskOf(inputs);
    return this.layers.forward(this.embeddings.forward(inputs, context), { ...context, attentionMask: mask });
  }
}

// ---- Heads --------------------------------------------------------------------------------------------------------

/** The masked language model's head under BERT's published names, which transformers gives DeBERTa's too. */
export class BertMaskedLmHead extends MaskedLmHead {
  static override readonly names = {
    dense: "transform.dense",
    norm: "transform.LayerNorm",
    decoder: "decoder.weight",
  };

  constructor(config: Omit<MaskedLmConfig, "embeddingSize">, embedding: Tensor) {
    super({ ...config, embeddingSize: config.hiddenSize }, embedding);
  }
}

/** The two heads of pretraining, section 3.1. */
export class BertPretrainingHeads extends Module {
  static override readonly names = { nextSentence: "seq_relationship" };
  readonly predictions: BertMaskedLmHead;
  readonly nextSentence: Linear;

  constructor(private readonly bert: Bert) {
    super();
    const { config } = bert;
    this.predictions = new BertMaskedLmHead(config, bert.embeddings.token.weight.tensor);
    this.nextSentence = new Linear(config.hiddenSize, 2, {
      initializer: normalInit(config.initializerRange),
    });
  }

  /** Masked-LM logits `[batch, sequence, vocabSize]` and next-sentence logits `[batch, 2]`. */
  override forward(hidden: Tensor): { maskedLm: Tensor; nextSentence: Tensor } {
    return { maskedLm: this.predictions.forward(hidden), nextSentence: this.sentenceLogits(hidden) };
  }

  /** Next-sentence logits `[batch, 2]`: 0 says that B follows A. */
  sentenceLogits(hidden: Tensor): Tensor {
    return this.nextSentence.forward(this.bert.pooler!.forward(hidden));
  }
}

/** BERT as it is pretrained: masked language modelling and next-sentence prediction. */
export function bertForPretraining(config: BertConfig) {
  const bert = new Bert(config);
  return new EncoderWithHead(bert, new BertPretrainingHeads(bert), { encoder: "bert", head: "cls" });
}

/** Masked language modelling alone: logits `[batch, sequence, vocabSize]`. */
export function bertForMaskedLm(config: BertConfig) {
  const bert = new Bert(config, { pooler: false });
  const head = new BertMaskedLmHead(config, bert.embeddings.token.weight.tensor);
  return new EncoderWithHead(bert, head, { encoder: "bert", head: "cls.predictions" });
}

/** A class, or a number, for each sequence or pair: logits `[batch, numLabels]`. Figure 4 (a, b). */
const pooledHead = (bert: Bert, config: BertConfig, numLabels: number) =>
  new PooledHead(config, numLabels, (hidden) => bert.pooler!.forward(hidden));

const withPooler = (config: BertConfig) => new Bert(config);
const withoutPooler = (config: BertConfig) => new Bert(config, { pooler: false });

/** The heads of figure 4 and of section 4.4, and the masked language model. */
export const bertHeads = {
  "fill-mask": { create: bertForMaskedLm },
  classify: headOn("bert", withPooler, pooledHead, "classifier"),
  ...tokenHeads("bert", withoutPooler, ({ classifierDropout }) => classifierDropout),
  choice: headOn(
    "bert",
    withPooler,
    (bert, config) => new ChoiceHead(pooledHead(bert, config, 1)),
    "classifier",
  ),
};

// ---- Pretraining --------------------------------------------------------------------------------------------------

/** Devlin et al. 2019, section 3.1: masked LM under ten fixed masks, and next-sentence prediction. */
function pretrainBert(options: PretrainingOptions): Pretraining {
  const { tokenizer, contextLength, batchSize, seed } = options;
  const vocabulary = vocabularyOf(tokenizer, wordPieceTokens);
  const model = bertForPretraining(bertConfig(bertSizesOf(options, vocabulary)));
  return {
    model,
    objective: maskedLmObjective({
      model,
      encode: (inputs, context) => model.encoder.encode(inputs, context),
      maskedLosses: (hidden, labels) => model.head.predictions.losses(hidden, labels),
      sentenceLogits: (hidden) => model.head.nextSentence.forward(model.encoder.pooler!.forward(hidden)),
    }),
    ...sourceAndHeldOut(documentsIn(options), {
      batchSize,
      seed,
      copies: 10,
      length: lengthOfPair,
      examplesOf: (documents: readonly Document[]) => (random) =>
        sentencePairs(documents, { maxLength: pairLength(contextLength), task: "next-sentence" }, random),
      transform: (pair: SentencePair, random) => maskRow(pairRow(vocabulary, pair), vocabulary, {}, random),
      collate: (rows) => maskedBatch(rows, vocabulary.paddingId),
    }),
    networks: [
      wholeNetwork(model, { architectures: ["BertForMaskedLM"], ...bertTable.write(model.encoder.config) }),
    ],
  };
}

// ---- Definition ---------------------------------------------------------------------------------------------------

/** Where BERT's parameters stand. */
export const bertDepth = depthByName(/^bert\.embeddings\./, /^bert\.encoder\.layer\.(\d+)\./);

/** BERT as the rest of the library knows it. */
export const bert = defineSystem({
  kind: "encoder",
  className: "Bert",
  prefix: "bert",
  config: bertTable,
  sizes: bertSizes,
  create: (config, options) => new Bert(config, options),
  heads: bertHeads,
  depth: bertDepth,
  tokenizer: { kind: "WordPiece" },
  pretraining: { objective: "masked tokens and next sentence", prepare: pretrainBert },
});
