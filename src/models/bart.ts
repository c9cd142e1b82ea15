import { z } from "zod";
import { type ConfigOf, SharedEncoderDecoder, configEntries, configTable, entry } from "../nn/index.js";
import { publishedSize } from "./system.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

const { size, activation, dropout, flag, positive } = configEntries;
const id = z.int().nonnegative();

const fields = {
  vocabSize: entry("vocab_size", size, { absent: 50_265 }),
  contextLength: entry("max_position_embeddings", size, { absent: 1024 }),
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
  activation: entry("activation_function", activation, { absent: "gelu" }),
  dropout: entry("dropout", dropout, { absent: 0.1 }),
  attentionDropout: entry("attention_dropout", dropout, { absent: 0 }),
  activationDropout: entry("activation_dropout", dropout, { absent: 0 }),
  scaleEmbeddings: entry("scale_embedding", flag, { absent: false }),
  /** Standard deviation of the first weights. */
  initializerRange: entry("init_std", positive, { absent: 0.02 }),
  padTokenId: entry("pad_token_id", id, { absent: 1 }),
  /** What the decoder reads before a text. */
  decoderStartTokenId: entry("decoder_start_token_id", id, { absent: 2 }),
};

/** Entries that say nothing of the network, for the systems that share this layout. */
export const encoderDecoderEntries = {
  fixed: { is_encoder_decoder: true, tie_word_embeddings: true },
  withoutEffect: {
    num_hidden_layers: "encoder_layers says it",
    classifier_dropout: "belongs to a head that is not loaded",
    encoder_layerdrop: "leaves out layers in training alone, which lineage does not do",
    decoder_layerdrop: "leaves out layers in training alone, which lineage does not do",
    output_past: "chooses what a call gives back",
    extra_pos_embeddings: "the table of positions has its two further rows by design",
    gradient_checkpointing: "chooses among ways to compute the same numbers",
  },
} as const;

/** BART, Lewis et al. 2020, "BART: Denoising Sequence-to-Sequence Pre-training". */
export const bartTable = configTable({
  type: "bart",
  title: "BART",
  fields,
  fixed: encoderDecoderEntries.fixed,
  only: {
    normalize_before: [false],
    normalize_embedding: [true],
    add_final_layer_norm: [false],
    static_position_embeddings: [false],
  },
  withoutEffect: {
    ...encoderDecoderEntries.withoutEffect,
    add_bias_logits: "the bias of the logits is a tensor",
  },
});

export type BartConfig = ConfigOf<typeof bartTable>;

/** mBART, Liu et al. 2020, "Multilingual Denoising Pre-training for Neural Machine Translation": norms before sub-layers. */
export const mbartTable = configTable({
  type: "mbart",
  title: "mBART",
  fields,
  fixed: encoderDecoderEntries.fixed,
  only: {
    normalize_before: [true],
    normalize_embedding: [true],
    add_final_layer_norm: [true],
    static_position_embeddings: [false],
  },
  withoutEffect: {
    ...encoderDecoderEntries.withoutEffect,
    add_bias_logits: "the bias of the logits is a tensor",
  },
});

// ---- Model --------------------------------------------------------------------------------------------------------

const learned = { learned: true, offset: 2 } as const;
/**
 * The network of Vaswani et al. 2017 with GELU and learned positions, whose table begins two rows late; section 2.1. Its
 * token embeddings serve both sides and the output.
 */
export class Bart extends SharedEncoderDecoder {
  constructor(readonly config: BartConfig) {
    super(config, { norm: "post", positions: learned, embeddingNorm: true });
  }
}

/** BART's network with norms before the sub-layers, and one at the end of each side. Section 2.2. */
export class MBart extends SharedEncoderDecoder {
  constructor(readonly config: BartConfig) {
    super(config, { norm: "pre", positions: learned, embeddingNorm: true });
  }
}

const published = publishedSize(bartTable);
const publishedMbart = publishedSize(mbartTable);

/** The published sizes, section 3 of the paper. Counts leave the bias of the logits out, as transformers does. */
export const bartSizes = {
  "bart-base": published(139_420_416, {
    hiddenSize: 768,
    intermediateSize: 3072,
    numLayers: 6,
    numHeads: 12,
  }),
  "bart-large": published(406_291_456, { hiddenSize: 1024, numLayers: 12, numHeads: 16 }),
} as const;

/** The published size of mBART: 25 languages. */
export const mbartSizes = {
  "mbart-large-cc25": publishedMbart(610_851_840, {
    vocabSize: 250_027,
    hiddenSize: 1024,
    numLayers: 12,
    numHeads: 16,
  }),
} as const;
