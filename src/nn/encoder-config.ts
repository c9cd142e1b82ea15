import { z } from "zod";
import { configEntries } from "./config.js";

const { size, activation, dropout, epsilon } = configEntries;

/**
 * What every encoder's `config.json` has in Hugging Face's words, with the defaults of BERT-base; a model writes those that
 * are its own over them.
 */
export const encoderEntries = {
  vocab_size: size.default(30_522),
  max_position_embeddings: size.default(512),
  type_vocab_size: size.default(2),
  hidden_size: size.default(768),
  num_hidden_layers: size.default(12),
  num_attention_heads: size.default(12),
  intermediate_size: size.default(3072),
  hidden_act: activation.default("gelu"),
  hidden_dropout_prob: dropout.default(0.1),
  attention_probs_dropout_prob: dropout.default(0.1),
  layer_norm_eps: epsilon.default(1e-12),
  initializer_range: z.number().positive().default(0.02),
  pad_token_id: z.int().nonnegative().nullish(),
} as const;

type EncoderEntries = z.infer<z.ZodObject<typeof encoderEntries>>;

/** The configuration that these entries say. */
export const fromEncoderEntries = (config: EncoderEntries) => ({
  vocabSize: config.vocab_size,
  contextLength: config.max_position_embeddings,
  typeVocabSize: config.type_vocab_size,
  hiddenSize: config.hidden_size,
  numLayers: config.num_hidden_layers,
  numHeads: config.num_attention_heads,
  intermediateSize: config.intermediate_size,
  activation: config.hidden_act,
  hiddenDropout: config.hidden_dropout_prob,
  attentionDropout: config.attention_probs_dropout_prob,
  layerNormEpsilon: config.layer_norm_eps,
  initializerRange: config.initializer_range,
  padTokenId: config.pad_token_id ?? 0,
});

/** The entries that say a configuration. */
export const toEncoderEntries = (config: ReturnType<typeof fromEncoderEntries>) =>
  ({
    vocab_size: config.vocabSize,
    max_position_embeddings: config.contextLength,
    type_vocab_size: config.typeVocabSize,
    hidden_size: config.hiddenSize,
    num_hidden_layers: config.numLayers,
    num_attention_heads: config.numHeads,
    intermediate_size: config.intermediateSize,
    hidden_act: config.activation,
    hidden_dropout_prob: config.hiddenDropout,
    attention_probs_dropout_prob: config.attentionDropout,
    layer_norm_eps: config.layerNormEpsilon,
    initializer_range: config.initializerRange,
    pad_token_id: config.padTokenId,
  }) satisfies EncoderEntries;

/** What BERT's has besides, and those of the models that took its network over. */
export const bertEntries = {
  ...encoderEntries,
  classifier_dropout: dropout.nullish(),
  position_embedding_type: z.literal("absolute").default("absolute"),
} as const;

type BertEntries = z.infer<z.ZodObject<typeof bertEntries>>;

/** The configuration that BERT's entries say. */
export const fromBertEntries = (config: BertEntries) => ({
  ...fromEncoderEntries(config),
  classifierDropout: config.classifier_dropout ?? config.hidden_dropout_prob,
});

/** BERT's entries that say a configuration. */
export const toBertEntries = (config: ReturnType<typeof fromBertEntries>) =>
  ({
    ...toEncoderEntries(config),
    classifier_dropout: config.classifierDropout,
    position_embedding_type: "absolute",
  }) satisfies BertEntries;
