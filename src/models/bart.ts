import {
  type ConfigOf,
  SharedEncoderDecoder,
  checkEncoderDecoder,
  configTable,
  encoderDecoderEntries,
  encoderDecoderFields,
} from "../nn/index.js";
import {
  type Pretraining,
  type PretrainingOptions,
  denoisingPretraining,
  needToken,
  sizesOf,
} from "../objectives/index.js";
import { defineSystem, publishedSize, sharedEncoderDecoder } from "./system.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

/** BART, Lewis et al. 2020, "BART: Denoising Sequence-to-Sequence Pre-training". */
export const bartTable = configTable({
  type: "bart",
  title: "BART",
  fields: encoderDecoderFields({
    vocabSize: 50_265,
    contextLength: 1024,
    activation: "gelu",
    scaleEmbeddings: false,
    padTokenId: 1,
    decoderStartTokenId: 2,
  }),
  ...encoderDecoderEntries,
  only: {
    normalize_before: [false],
    normalize_embedding: [true],
    add_final_layer_norm: [false],
    static_position_embeddings: [false],
  },
  check: checkEncoderDecoder,
});

export type BartConfig = ConfigOf<typeof bartTable>;

const published = publishedSize(bartTable);

/** The published sizes, section 3 of the paper. Counts leave the bias of the logits out, as transformers does. */
export const bartSizes = {
  "bart-base": published(139_420_416, { hiddenSize: 768, numLayers: 6, numHeads: 12 }),
  "bart-large": published(406_291_456, { hiddenSize: 1024, numLayers: 12, numHeads: 16 }),
} as const;

// ---- Model --------------------------------------------------------------------------------------------------------

/**
 * The network of Vaswani et al. 2017 with GELU and learned positions, whose table begins two rows late; section 2.1. Its
 * token embeddings serve both sides and the output.
 */
export class Bart extends SharedEncoderDecoder {
  constructor(readonly config: BartConfig) {
    super(config, { norm: "post", positions: { learned: true, offset: 2 }, embeddingNorm: true });
  }
}

// ---- Pretraining --------------------------------------------------------------------------------------------------

/** Sections 2.2 and 3: sentences in another order, and spans behind masks; the decoder writes the text as it was. */
function pretrainBart(options: PretrainingOptions): Pretraining {
  const { tokenizer, dropout, hiddenSize } = options;
  const config = bartTable.create({
    ...sizesOf(options),
    dropout,
    initializerRange: hiddenSize ** -0.5,
    padTokenId: needToken(tokenizer.padId, "padding"),
    decoderStartTokenId: needToken(tokenizer.eosId, "token that ends a text"),
  });
  const json = { architectures: ["BartForConditionalGeneration"], ...bartTable.write(config) };
  return denoisingPretraining(options, { model: new Bart(config), config: json });
}

// ---- Definition ---------------------------------------------------------------------------------------------------

/** BART as the rest of the library knows it. */
export const bart = defineSystem({
  ...sharedEncoderDecoder,
  className: "BartForConditionalGeneration",
  config: bartTable,
  sizes: bartSizes,
  create: (config) => new Bart(config),
  tokenizer: { kind: "encoder BPE", style: "roberta" },
  pretraining: {
    objective: "texts whose sentences changed places and whose spans are masked",
    prepare: pretrainBart,
  },
});
