import { z } from "zod";
import { type Tensor, cumulativeSum, equal, limit, logicalNot } from "../graph/index.js";
import {
  type ActivationName,
  ChoiceHead,
  DenseHead,
  Encoder,
  EncoderEmbeddings,
  type EncoderInputs,
  EncoderLayers,
  EncoderWithHead,
  type ForwardContext,
  MaskedLmHead,
  PooledHead,
  Pooler,
  SpanHead,
  TokenHead,
  attentionMaskOf,
  bertEntries,
  checkHeads,
  configEntries,
  fromBertEntries,
  parseConfig,
  toBertEntries,
} from "../nn/index.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

/**
 * RoBERTa, Liu et al. 2019, "RoBERTa: A Robustly Optimized BERT Pretraining Approach". What makes it itself is how it is
 * trained; the network is BERT's with byte-level tokens, one segment, and positions counted from behind the padding's.
 */
export interface RobertaConfig {
  readonly vocabSize: number;
  /** Tokens of the longest sequence. The position table has `padTokenId + 1` rows more, which stand for no position. */
  readonly contextLength: number;
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

/** A configuration with RoBERTa's published choices where `sizes` makes none. Throws `config` for one that contradicts itself. */
export function robertaConfig(
  sizes: Partial<RobertaConfig> & Pick<RobertaConfig, "hiddenSize" | "numLayers" | "numHeads">,
): RobertaConfig {
  const config: RobertaConfig = {
    vocabSize: 50_265,
    contextLength: 512,
    typeVocabSize: 1,
    intermediateSize: 4 * sizes.hiddenSize,
    activation: "gelu",
    hiddenDropout: 0.1,
    attentionDropout: 0.1,
    classifierDropout: sizes.hiddenDropout ?? 0.1,
    layerNormEpsilon: 1e-5,
    initializerRange: 0.02,
    padTokenId: 1,
    ...sizes,
  };
  checkHeads(config);
  return config;
}

/** The two published sizes, appendix A: BERT's shapes with 50,265 tokens. */
export const robertaSizes = {
  "roberta-base": robertaConfig({ hiddenSize: 768, numLayers: 12, numHeads: 12 }),
  "roberta-large": robertaConfig({ hiddenSize: 1024, numLayers: 24, numHeads: 16 }),
} as const;

const huggingFaceConfig = z
  .object({
    ...bertEntries,
    model_type: z.literal("roberta"),
    vocab_size: configEntries.size.default(50_265),
  })
  .refine(({ max_position_embeddings: rows, pad_token_id: pad }) => rows > (pad ?? 1) + 1, {
    path: ["max_position_embeddings"],
    error: "must be larger than pad_token_id + 1: positions are counted from there",
  });

/** The configuration in a `config.json` of Hugging Face transformers. Throws `config` saying which entry is wrong. */
export function robertaFromHuggingFace(json: unknown): RobertaConfig {
  const config = parseConfig(huggingFaceConfig, json, "RoBERTa");
  const padTokenId = config.pad_token_id ?? 1;
  return robertaConfig({
    ...fromBertEntries(config),
    contextLength: config.max_position_embeddings - padTokenId - 1,
    padTokenId,
  });
}

/** The `config.json` that Hugging Face transformers reads. */
export const robertaToHuggingFace = (config: RobertaConfig): Record<string, unknown> => ({
  model_type: "roberta",
  ...toBertEntries(config),
  max_position_embeddings: config.contextLength + config.padTokenId + 1,
});

// ---- Model --------------------------------------------------------------------------------------------------------

/** RoBERTa: embeddings and layers; multiple choice alone has the pooler. */
export class Roberta extends Encoder {
  static override readonly names = { layers: "encoder" };
  readonly embeddings: EncoderEmbeddings;
  readonly layers: EncoderLayers;
  readonly pooler: Pooler | undefined;

  constructor(
    readonly config: RobertaConfig,
    { pooler = false } = {},
  ) {
    super();
    this.embeddings = new EncoderEmbeddings({
      ...config,
      embeddingSize: config.hiddenSize,
      positions: config.contextLength + config.padTokenId + 1,
    });
    this.layers = new EncoderLayers(config);
    this.pooler = pooler ? new Pooler(config) : undefined;
  }

  override forward(inputs: EncoderInputs, context: ForwardContext = {}): Tensor {
    const positionIds = inputs.positionIds ?? this.positionsOf(inputs.inputIds);
    const x = this.embeddings.forward({ ...inputs, positionIds }, context);
    return this.layers.forward(x, { ...context, attentionMask: attentionMaskOf(inputs) });
  }

  /** Real tokens are counted from `padTokenId + 1`, wherever the padding is; padding stays at `padTokenId`. */
  private positionsOf(inputIds: Tensor): Tensor {
    const { contextLength, padTokenId } = this.config;
    const within = limit(inputIds, 1, contextLength, this.embeddings.position.weight.tensor);
    const real = logicalNot(equal(within, padTokenId)).cast("int32");
    return cumulativeSum(real, 1).mul(real).add(padTokenId);
  }
}

// ---- Heads --------------------------------------------------------------------------------------------------------

/** The masked language model's head under RoBERTa's published names. */
export class RobertaMaskedLmHead extends MaskedLmHead {
  static override readonly names = { norm: "layer_norm" };

  constructor(config: RobertaConfig, embedding: Tensor) {
    super({ ...config, activation: "gelu", embeddingSize: config.hiddenSize }, embedding);
  }
}

/** Masked language modelling, RoBERTa's only objective: logits `[batch, sequence, vocabSize]`. */
export function robertaForMaskedLm(config: RobertaConfig) {
  const roberta = new Roberta(config);
  const head = new RobertaMaskedLmHead(config, roberta.embeddings.token.weight.tensor);
  return new EncoderWithHead(roberta, head, { encoder: "roberta", head: "lm_head" });
}

/** A class, or a number, for each sequence or pair: logits `[batch, numLabels]`. */
export function robertaForSequenceClassification(config: RobertaConfig, numLabels: number) {
  const head = new DenseHead(config, numLabels, "tanh");
  return new EncoderWithHead(new Roberta(config), head, { encoder: "roberta", head: "classifier" });
}

/** A class for each token: logits `[batch, sequence, numLabels]`. */
export function robertaForTokenClassification(config: RobertaConfig, numLabels: number) {
  const head = new TokenHead(config, numLabels);
  return new EncoderWithHead(new Roberta(config), head, { encoder: "roberta", head: "" });
}

/** Start and end of an answer: logits `[batch, sequence, 2]`. */
export function robertaForQuestionAnswering(config: RobertaConfig) {
  return new EncoderWithHead(new Roberta(config), new SpanHead(config), { encoder: "roberta", head: "" });
}

/** A score for each choice: `[batch, choices, sequence]` -> `[batch, choices]`. */
export function robertaForMultipleChoice(config: RobertaConfig) {
  const roberta = new Roberta(config, { pooler: true });
  const head = new ChoiceHead(new PooledHead(config, 1, (hidden) => roberta.pooler!.forward(hidden)));
  return new EncoderWithHead(roberta, head, { encoder: "roberta", head: "" });
}
