import { z } from "zod";
import type { Tensor } from "../graph/index.js";
import {
  type ActivationName,
  ChoiceHead,
  Encoder,
  EncoderEmbeddings,
  type EncoderInputs,
  EncoderLayers,
  EncoderWithHead,
  type ForwardContext,
  Linear,
  MaskedLmHead,
  Module,
  PooledHead,
  Pooler,
  SpanHead,
  TokenHead,
  attentionMaskOf,
  bertEntries,
  checkHeads,
  fromBertEntries,
  normalInit,
  parseConfig,
  toBertEntries,
} from "../nn/index.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

/** BERT, Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding". */
export interface BertConfig {
  readonly vocabSize: number;
  /** Positions that the model knows. */
  readonly contextLength: number;
  /** Segments that it tells apart: sentence A and sentence B. */
  readonly typeVocabSize: number;
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  /** Width of the feed-forward layer. Published: 4 hiddenSize. */
  readonly intermediateSize: number;
  readonly activation: ActivationName;
  /** Probability of dropout after the embeddings and before each residual sum. */
  readonly hiddenDropout: number;
  /** Probability of dropout of the attention probabilities. */
  readonly attentionDropout: number;
  /** Probability of dropout before a task's classifier. */
  readonly classifierDropout: number;
  readonly layerNormEpsilon: number;
  /** Standard deviation of the first weights. */
  readonly initializerRange: number;
  readonly padTokenId: number;
}

/** A configuration with BERT's published choices where `sizes` makes none. Throws `config` for one that contradicts itself. */
export function bertConfig(
  sizes: Partial<BertConfig> & Pick<BertConfig, "hiddenSize" | "numLayers" | "numHeads">,
): BertConfig {
  const config: BertConfig = {
    vocabSize: 30_522,
    contextLength: 512,
    typeVocabSize: 2,
    intermediateSize: 4 * sizes.hiddenSize,
    activation: "gelu",
    hiddenDropout: 0.1,
    attentionDropout: 0.1,
    classifierDropout: sizes.hiddenDropout ?? 0.1,
    layerNormEpsilon: 1e-12,
    initializerRange: 0.02,
    padTokenId: 0,
    ...sizes,
  };
  checkHeads(config);
  return config;
}

/** The two published sizes, section 3. */
export const bertSizes = {
  "bert-base-uncased": bertConfig({ hiddenSize: 768, numLayers: 12, numHeads: 12 }),
  "bert-large-uncased": bertConfig({ hiddenSize: 1024, numLayers: 24, numHeads: 16 }),
} as const;

const huggingFaceConfig = z.object({ ...bertEntries, model_type: z.literal("bert") });

/** The configuration in a `config.json` of Hugging Face transformers. Throws `config` saying which entry is wrong. */
export const bertFromHuggingFace = (json: unknown): BertConfig =>
  bertConfig(fromBertEntries(parseConfig(huggingFaceConfig, json, "BERT")));

/** The `config.json` that Hugging Face transformers reads. */
export const bertToHuggingFace = (config: BertConfig): Record<string, unknown> => ({
  model_type: "bert",
  ...toBertEntries(config),
});

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

/** The masked language model's head under BERT's published names. */
export class BertMaskedLmHead extends MaskedLmHead {
  static override readonly names = { dense: "transform.dense", norm: "transform.LayerNorm" };

  constructor(config: BertConfig, embedding: Tensor) {
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

const pooledHead = (bert: Bert, numLabels: number) =>
  new PooledHead(bert.config, numLabels, (hidden) => bert.pooler!.forward(hidden));

/** A class, or a number, for each sequence or pair: logits `[batch, numLabels]`. Figure 4 (a, b). */
export function bertForSequenceClassification(config: BertConfig, numLabels: number) {
  const bert = new Bert(config);
  return new EncoderWithHead(bert, pooledHead(bert, numLabels), { encoder: "bert", head: "" });
}

/** A class for each token: logits `[batch, sequence, numLabels]`. Figure 4 (d). */
export function bertForTokenClassification(config: BertConfig, numLabels: number) {
  const bert = new Bert(config, { pooler: false });
  return new EncoderWithHead(bert, new TokenHead(config, numLabels), { encoder: "bert", head: "" });
}

/** Start and end of an answer: logits `[batch, sequence, 2]`. Figure 4 (c). */
export function bertForQuestionAnswering(config: BertConfig) {
  const bert = new Bert(config, { pooler: false });
  return new EncoderWithHead(bert, new SpanHead(config), { encoder: "bert", head: "" });
}

/** A score for each choice: `[batch, choices, sequence]` -> `[batch, choices]`. Section 4.4. */
export function bertForMultipleChoice(config: BertConfig) {
  const bert = new Bert(config);
  return new EncoderWithHead(bert, new ChoiceHead(pooledHead(bert, 1)), { encoder: "bert", head: "" });
}
