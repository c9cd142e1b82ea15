import {
  checkEncoderDecoder,
  configTable,
  encoderDecoderEntries,
  encoderDecoderFields,
} from "../nn/index.js";
import {
  type Pretraining,
  type PretrainingOptions,
  massPretraining,
  needToken,
  sizesOf,
} from "../objectives/index.js";
// The published network is BART's to the letter: what makes MASS itself is what it learns from.
import { Bart, type BartConfig } from "./bart.js";
import { defineSystem, publishedSize, sharedEncoderDecoder } from "./system.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

/** What tells a MASS from a BART, which transformers reads it as. */
const mark = { pretraining_objective: "mass" } as const;

/**
 * MASS, Song et al. 2019, "MASS: Masked Sequence to Sequence Pre-training for Language Generation": a Transformer with
 * learned positions and GELU, and a norm of the embeddings, as its authors published it for fairseq. Its `config.json` is
 * that of a BART with an entry more, so that transformers loads it.
 */
export const massTable = configTable({
  type: "bart",
  title: "MASS",
  fields: encoderDecoderFields(
    {
      vocabSize: 50_265,
      contextLength: 1024,
      activation: "gelu",
      scaleEmbeddings: false,
      padTokenId: 1,
      decoderStartTokenId: 2,
    },
    { vocabSize: 30_522, contextLength: 512, padTokenId: 2, decoderStartTokenId: 1 },
  ),
  ...encoderDecoderEntries,
  fixed: { ...encoderDecoderEntries.fixed, ...mark },
  only: {
    normalize_before: [false],
    normalize_embedding: [true],
    add_final_layer_norm: [false],
    static_position_embeddings: [false],
  },
  check: checkEncoderDecoder,
});

export type MassConfig = BartConfig;

const published = publishedSize(massTable);

/** The published models of English, uncased: section 4.1 has the wider one. */
export const massSizes = {
  "mass-base-uncased": published(123_471_360, { hiddenSize: 768, numLayers: 6, numHeads: 12 }),
  "mass-middle-uncased": published(208_668_672, { hiddenSize: 1024, numLayers: 6, numHeads: 16 }),
} as const;

// ---- Pretraining --------------------------------------------------------------------------------------------------

/** Section 3.2: the decoder writes the half of a sentence that the encoder does not see. */
function pretrainMass(options: PretrainingOptions): Pretraining {
  const { tokenizer, dropout, hiddenSize } = options;
  const config = massTable.create({
    ...sizesOf(options),
    dropout,
    initializerRange: hiddenSize ** -0.5,
    padTokenId: needToken(tokenizer.padId, "padding"),
    decoderStartTokenId: needToken(tokenizer.eosId, "token that ends a text"),
  });
  const json = { architectures: ["BartForConditionalGeneration"], ...massTable.write(config) };
  return massPretraining(options, { model: new Bart(config), config: json });
}

// ---- Definition ---------------------------------------------------------------------------------------------------

/** MASS as the rest of the library knows it. */
export const mass = defineSystem({
  ...sharedEncoderDecoder,
  name: "mass",
  className: "BartForConditionalGeneration",
  config: massTable,
  sizes: massSizes,
  holds: ({ pretraining_objective: objective }) => objective === mark.pretraining_objective,
  create: (config) => new Bart(config),
  tokenizer: { kind: "encoder BPE", style: "mass" },
  pretraining: { objective: "half of each sentence, from the other half", prepare: pretrainMass },
});
