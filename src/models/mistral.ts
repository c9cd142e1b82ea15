import {
  CausalLm,
  type Choices,
  type ConfigOf,
  type Linear,
  configEntries,
  configTable,
  entry,
  gatedDecoderEntries,
  gatedDecoderFields,
  outputHead,
} from "../nn/index.js";
import { LlamaTransformer, llamaArchitecture } from "./llama.js";
import { defineSystem, depthByName, publishedSize } from "./system.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

const { size } = configEntries;

/** Mistral, Jiang et al. 2023, "Mistral 7B": LLaMA's block with grouped queries and a sliding window. */
export const mistralTable = configTable({
  type: "mistral",
  title: "Mistral",
  fields: {
    // With a window, the cache stays as large as the window.
    ...gatedDecoderFields({
      vocabSize: 32_000,
      contextLength: { absent: 131_072, published: 32_768 },
      intermediateSize: (hiddenSize) => Math.ceil((3.5 * hiddenSize) / 256) * 256,
      numKeyValueHeads: {
        absent: 8,
        null: ({ numHeads }) => numHeads,
        published: ({ numHeads }) => (numHeads % 4 === 0 ? numHeads / 4 : numHeads),
      },
      rmsNormEpsilon: { absent: 1e-6, published: 1e-5 },
    }),
    /** Keys that a query looks back on, itself included; undefined for all. */
    slidingWindow: entry("sliding_window", size.optional(), { absent: 4096, null: undefined }),
  },
  ...gatedDecoderEntries,
});

export type MistralConfig = ConfigOf<typeof mistralTable>;

/** A configuration with the published choices where `choices` makes none. Throws `config` for one that contradicts itself. */
export const mistralConfig = (choices: Choices<MistralConfig>): MistralConfig => mistralTable.create(choices);

const published = publishedSize(mistralTable);
const size7b = { hiddenSize: 4096, numLayers: 32, numHeads: 32 };

/** The three releases of Mistral-7B; table 1 of the paper is the first. Later ones dropped the window. */
export const mistralSizes = {
  "mistral-7b-v0.1": published(7_241_732_096, size7b),
  "mistral-7b-v0.2": published(7_241_732_096, { ...size7b, slidingWindow: undefined, ropeTheta: 1e6 }),
  "mistral-7b-v0.3": published(7_248_023_552, {
    ...size7b,
    slidingWindow: undefined,
    ropeTheta: 1e6,
    vocabSize: 32_768,
  }),
} as const;

// ---- Model --------------------------------------------------------------------------------------------------------

/** Mistral with its language-modelling head: LLaMA's network, section 2, over a window. */
export class Mistral extends CausalLm {
  static override readonly names = { transformer: "model", head: "lm_head" };
  readonly transformer: LlamaTransformer;
  readonly head: Linear | undefined;

  constructor(readonly config: MistralConfig) {
    super();
    this.transformer = new LlamaTransformer(config);
    this.head = outputHead(config);
  }
}

// ---- Definition ---------------------------------------------------------------------------------------------------

/** Mistral as the rest of the library knows it. */
export const mistral = defineSystem({
  kind: "decoder",
  className: "MistralForCausalLM",
  config: mistralTable,
  sizes: mistralSizes,
  options: {
    keyValueHeads: {
      field: "numKeyValueHeads",
      help: "heads of keys and values; a group of heads shares each",
      usual: "--heads",
    },
    window: {
      field: "slidingWindow",
      help: "tokens of the sliding window",
      usual: "half of --context",
      fallback: ({ contextLength }) => Math.ceil(contextLength / 2),
    },
  },
  create: (config) => new Mistral(config),
  unused: /\.rotary_emb\.inv_freq$|^lm_head\.weight$/,
  depth: depthByName(/^model\.embed_tokens\./, /^model\.layers\.(\d+)\./),
  tokenizer: { kind: "byte-level BPE" },
  gguf: {
    ...llamaArchitecture,
    // llama.cpp does not tell Mistral from LLaMA but by the window.
    holds: (file) => (file.get("llama.attention.sliding_window", "number") ?? 0) > 0,
    metadata: {
      ...llamaArchitecture.metadata,
      slidingWindow: { key: "attention.sliding_window", type: "uint32", absent: () => undefined },
    },
  },
});
