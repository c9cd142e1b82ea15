import { z } from "zod";
import {
  type ActivationName,
  type ConfigOf,
  SharedEncoderDecoder,
  configEntries,
  configTable,
  entry,
} from "../nn/index.js";
import { encoderDecoderEntries } from "./bart.js";
import { publishedSize } from "./system.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

const { size, dropout, flag, positive } = configEntries;
const id = z.int().nonnegative();
/** Marian says swish for SiLU. */
const activation = z.preprocess(
  (name) => (name === "swish" ? "silu" : name),
  configEntries.activation,
) as z.ZodType<ActivationName>;

/**
 * The Transformer, Vaswani et al. 2017, "Attention Is All You Need", in the layout of Marian's translation models
 * (Junczys-Dowmunt et al. 2018), which transformers keeps as `marian`.
 */
export const transformerTable = configTable({
  type: "marian",
  title: "Transformer",
  fields: {
    vocabSize: entry("vocab_size", size, { absent: 58_101, published: 37_000 }),
    contextLength: entry("max_position_embeddings", size, { absent: 1024, published: 512 }),
    hiddenSize: entry("d_model", size, { absent: 1024 }),
    /** Layers of the encoder. */
    numLayers: entry("encoder_layers", size, { absent: 12 }),
    numDecoderLayers: entry("decoder_layers", size, {
      absent: 12,
      published: ({ numLayers }: { numLayers: number }) => numLayers,
    }),
    numHeads: entry("encoder_attention_heads", size, { absent: 16 }),
    numDecoderHeads: entry("decoder_attention_heads", size, {
      absent: 16,
      published: ({ numHeads }: { numHeads: number }) => numHeads,
    }),
    intermediateSize: entry("encoder_ffn_dim", size, {
      absent: 4096,
      published: ({ hiddenSize }: { hiddenSize: number }) => 4 * hiddenSize,
    }),
    decoderIntermediateSize: entry("decoder_ffn_dim", size, {
      absent: 4096,
      published: ({ intermediateSize }: { intermediateSize: number }) => intermediateSize,
    }),
    activation: entry("activation_function", activation, { absent: "gelu", published: "relu" }),
    dropout: entry("dropout", dropout, { absent: 0.1 }),
    attentionDropout: entry("attention_dropout", dropout, { absent: 0 }),
    activationDropout: entry("activation_dropout", dropout, { absent: 0 }),
    /** Section 3.4: embeddings are multiplied by the root of their width. */
    scaleEmbeddings: entry("scale_embedding", flag, { absent: false, published: true }),
    /** Standard deviation of the first weights. */
    initializerRange: entry("init_std", positive, { absent: 0.02 }),
    padTokenId: entry("pad_token_id", id, { absent: 58_100, published: 0 }),
    /** What the decoder reads before a text; Marian's is the padding. */
    decoderStartTokenId: entry("decoder_start_token_id", id, {
      absent: 58_100,
      published: ({ padTokenId }: { padTokenId: number }) => padTokenId,
    }),
  },
  fixed: { ...encoderDecoderEntries.fixed, share_encoder_decoder_embeddings: true },
  only: {
    normalize_before: [false],
    normalize_embedding: [false],
    add_final_layer_norm: [false],
    static_position_embeddings: [true],
  },
  withoutEffect: {
    ...encoderDecoderEntries.withoutEffect,
    add_bias_logits: "the bias of the logits is a tensor",
    decoder_vocab_size: "one vocabulary serves both sides",
  },
});

export type TransformerConfig = ConfigOf<typeof transformerTable>;

// ---- Model --------------------------------------------------------------------------------------------------------

/** Figure 1, with one table for both embeddings and the output (section 3.4). Marian's models have a bias of the logits too. */
export class Transformer extends SharedEncoderDecoder {
  constructor(readonly config: TransformerConfig) {
    super(config, { norm: "post", positions: "sinusoidal", embeddingNorm: false, stillPadding: true });
  }
}

const published = publishedSize(transformerTable);

/** Table 3 of the paper, which says 65 and 213 million for its 37,000 joint tokens. Counts leave the bias of the logits out. */
export const transformerSizes = {
  "transformer-base": published(63_082_496, { hiddenSize: 512, numLayers: 6, numHeads: 8 }),
  "transformer-big": published(214_245_376, { hiddenSize: 1024, numLayers: 6, numHeads: 16, dropout: 0.3 }),
} as const;
