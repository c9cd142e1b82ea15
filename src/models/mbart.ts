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
 * mBART, Liu et al. 2020, "Multilingual Denoising Pre-training for Neural Machine Translation": BART in many languages, with
 * the norms before the sub-layers and scaled embeddings.
 */
export const mbartTable = configTable({
  type: "mbart",
  title: "mBART",
  fields: encoderDecoderFields(
    {
      vocabSize: 50_265,
      contextLength: 1024,
      activation: "gelu",
      scaleEmbeddings: false,
      padTokenId: 1,
      decoderStartTokenId: 2,
    },
    { vocabSize: 250_027, scaleEmbeddings: true },
  ),
  ...encoderDecoderEntries,
  only: {
    normalize_before: [true],
    normalize_embedding: [true],
    add_final_layer_norm: [true],
    static_position_embeddings: [false],
  },
  check: checkEncoderDecoder,
});

export type MBartConfig = ConfigOf<typeof mbartTable>;

const published = publishedSize(mbartTable);

/** The published sizes: 25 languages, section 2.1 of the paper, and 50, Tang et al. 2020. */
export const mbartSizes = {
  "mbart-large-cc25": published(610_851_840, { hiddenSize: 1024, numLayers: 12, numHeads: 16 }),
  "mbart-large-50": published(610_879_488, {
    vocabSize: 250_054,
    hiddenSize: 1024,
    numLayers: 12,
    numHeads: 16,
  }),
} as const;

// ---- Model --------------------------------------------------------------------------------------------------------

/** BART's network with norms before the sub-layers, and one at the end of each side. Section 2.2. */
export class MBart extends SharedEncoderDecoder {
  constructor(readonly config: MBartConfig) {
    super(config, { norm: "pre", positions: { learned: true, offset: 2 }, embeddingNorm: true });
  }
}

// ---- Definition ---------------------------------------------------------------------------------------------------

/** mBART as the rest of the library knows it. */
export const mbart = defineSystem({
  ...sharedEncoderDecoder,
  className: "MBartForConditionalGeneration",
  config: mbartTable,
  sizes: mbartSizes,
  create: (config) => new MBart(config),
  tokenizer: { kind: "unigram", style: "mbart" },
});
