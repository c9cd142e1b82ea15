import {
  type ConfigOf,
  SharedEncoderDecoder,
  checkEncoderDecoder,
  configTable,
  encoderDecoderEntries,
  encoderDecoderFields,
} from "../nn/index.js";
import { defineSystem, publishedSize, sharedEncoderDecoder } from "./system.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

/**
 * The Transformer, Vaswani et al. 2017, "Attention Is All You Need", in the layout of Marian's translation models
 * (Junczys-Dowmunt et al. 2018), which transformers keeps as `marian`.
 */
export const transformerTable = configTable({
  type: "marian",
  title: "Transformer",
  fields: encoderDecoderFields(
    {
      vocabSize: 58_101,
      contextLength: 1024,
      activation: "gelu",
      scaleEmbeddings: false,
      padTokenId: 58_100,
      decoderStartTokenId: 58_100,
    },
    {
      vocabSize: 37_000,
      contextLength: 512,
      activation: "relu",
      scaleEmbeddings: true,
      padTokenId: 0,
      decoderStartTokenId: 0,
    },
  ),
  ...encoderDecoderEntries,
  fixed: { ...encoderDecoderEntries.fixed, share_encoder_decoder_embeddings: true },
  only: {
    normalize_before: [false],
    normalize_embedding: [false],
    add_final_layer_norm: [false],
    static_position_embeddings: [true],
  },
  implied: { decoder_vocab_size: ({ vocabSize }) => vocabSize },
  check: checkEncoderDecoder,
});

export type TransformerConfig = ConfigOf<typeof transformerTable>;

const published = publishedSize(transformerTable);

/** Table 3 of the paper, which says 65 and 213 million for its 37,000 joint tokens. Counts leave the bias of the logits out. */
export const transformerSizes = {
  "transformer-base": published(63_082_496, { hiddenSize: 512, numLayers: 6, numHeads: 8 }),
  "transformer-big": published(214_245_376, { hiddenSize: 1024, numLayers: 6, numHeads: 16, dropout: 0.3 }),
} as const;

// ---- Model --------------------------------------------------------------------------------------------------------

/** Figure 1, with one table for both embeddings and the output (section 3.4). Marian's models have a bias of the logits too. */
export class Transformer extends SharedEncoderDecoder {
  constructor(readonly config: TransformerConfig) {
    super(config, { norm: "post", positions: "sinusoidal", embeddingNorm: false, stillPadding: true });
  }
}

// ---- Definition ---------------------------------------------------------------------------------------------------

/** The Transformer as the rest of the library knows it. */
export const transformer = defineSystem({
  ...sharedEncoderDecoder,
  name: "transformer",
  className: "MarianMTModel",
  config: transformerTable,
  sizes: transformerSizes,
  create: (config) => new Transformer(config),
  tokenizer: { kind: "encoder BPE", style: "transformer" },
});
