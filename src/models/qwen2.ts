import { z } from "zod";
import { LineageError } from "../base/errors.js";
import {
  CausalLm,
  type Choices,
  type ConfigOf,
  type Field,
  type LayerType,
  type Linear,
  configEntries,
  configTable,
  entry,
  gatedDecoderEntries,
  gatedDecoderFields,
  layerTypes,
  outputHead,
} from "../nn/index.js";
import { ropeScalingToGguf } from "../formats/gguf/rope.js";
import { LlamaTransformer, llamaGguf } from "./llama.js";
import { defineSystem, depthByName, publishedSize } from "./system.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

const { size, flag } = configEntries;

/** The window is used where `use_sliding_window` says so. */
const slidingWindowField: Field<number | undefined> = {
  entries: ["use_sliding_window", "sliding_window"],
  schema: size.optional(),
  read: (json) => {
    const used = entry("use_sliding_window", flag, { absent: false }).read(json, undefined);
    const window = entry("sliding_window", size.optional(), { absent: 4096, null: undefined });
    return used ? window.read(json, undefined) : undefined;
  },
  write: (value) => ({ use_sliding_window: value !== undefined, sliding_window: value ?? null }),
  published: () => undefined,
};

const types = z.array(z.enum(layerTypes));

/** Layers from `max_window_layers` on have the window, unless `layer_types` says it of each. */
const layerTypesField: Field<
  readonly LayerType[] | undefined,
  { readonly numLayers: number; readonly slidingWindow?: number | undefined }
> = {
  entries: ["layer_types", "max_window_layers"],
  schema: types.optional(),
  read: (json, { numLayers, slidingWindow }) => {
    const given = entry("layer_types", types.optional(), { absent: undefined }).read(json, undefined);
    const first = entry("max_window_layers", z.int().nonnegative(), { absent: 28 }).read(json, undefined);
    if (given && given.length !== numLayers)
      throw new LineageError("config", `layer_types has ${given.length} layers, not ${numLayers}`);
    if (slidingWindow !== undefined)
      return (
        given ??
        Array.from({ length: numLayers }, (_, layer) =>
          layer < first ? "full_attention" : "sliding_attention",
        )
      );
    if (given?.includes("sliding_attention"))
      throw new LineageError(
        "config",
        "layer_types has layers with a window, but use_sliding_window and sliding_window give none",
      );
    return undefined;
  },
  write: (value, config) => {
    const { numLayers, slidingWindow } = config as { numLayers: number; slidingWindow?: number };
    if (slidingWindow === undefined) return {};
    const all = value ?? Array.from({ length: numLayers }, () => "sliding_attention" as const);
    // For readers of before `layer_types`.
    const first = all.indexOf("sliding_attention");
    return { layer_types: all, max_window_layers: first < 0 ? numLayers : first };
  },
  published: () => undefined,
};

/** Qwen2, Yang et al. 2024, "Qwen2 Technical Report", and Qwen2.5: LLaMA's block with biases on queries, keys and values. */
export const qwen2Table = configTable({
  type: "qwen2",
  title: "Qwen2",
  fields: {
    ...gatedDecoderFields({
      vocabSize: 151_936,
      contextLength: { absent: 32_768 },
      intermediateSize: (hiddenSize) => Math.ceil((5.4 * hiddenSize) / 256) * 256,
      numKeyValueHeads: {
        absent: 32,
        null: ({ numHeads }) => numHeads,
        published: ({ numHeads }) => (numHeads % 2 === 0 ? 2 : numHeads),
      },
      rmsNormEpsilon: { absent: 1e-6 },
    }),
    /** Keys that a query of a layer with a window looks back on, itself included; undefined where no layer has one. */
    slidingWindow: slidingWindowField,
    /** Which layers have the window. Default: all. */
    layerTypes: layerTypesField,
  },
  ...gatedDecoderEntries,
  withoutEffect: {
    ...gatedDecoderEntries.withoutEffect,
    use_mrope: "it is for models of pictures",
  },
});

export type Qwen2Config = ConfigOf<typeof qwen2Table>;

/** A configuration with the published choices where `choices` makes none. Throws `config` for one that contradicts itself. */
export const qwen2Config = (choices: Choices<Qwen2Config>): Qwen2Config => qwen2Table.create(choices);

const published = publishedSize(qwen2Table);

/** Dense models of Qwen2.5, table 1 of its report. */
export const qwen2Sizes = {
  "qwen2.5-0.5b": published(494_032_768, {
    hiddenSize: 896,
    intermediateSize: 4864,
    numLayers: 24,
    numHeads: 14,
    ropeTheta: 1e6,
    tieEmbeddings: true,
  }),
  "qwen2.5-1.5b": published(1_543_714_304, {
    hiddenSize: 1536,
    intermediateSize: 8960,
    numLayers: 28,
    numHeads: 12,
    ropeTheta: 1e6,
    contextLength: 131_072,
    tieEmbeddings: true,
  }),
  "qwen2.5-7b": published(7_615_616_512, {
    vocabSize: 152_064,
    hiddenSize: 3584,
    intermediateSize: 18_944,
    numLayers: 28,
    numHeads: 28,
    numKeyValueHeads: 4,
    ropeTheta: 1e6,
    contextLength: 131_072,
  }),
} as const;

// ---- Model --------------------------------------------------------------------------------------------------------

/** Qwen2 with its language-modelling head. */
export class Qwen2 extends CausalLm {
  static override readonly names = { transformer: "model", head: "lm_head" };
  readonly transformer: LlamaTransformer;
  readonly head: Linear | undefined;

  constructor(readonly config: Qwen2Config) {
    super();
    this.transformer = new LlamaTransformer({ ...config, projectionBias: true });
    this.head = outputHead(config);
  }
}

// ---- Definition ---------------------------------------------------------------------------------------------------

/** Qwen2 as the rest of the library knows it. */
export const qwen2 = defineSystem({
  kind: "decoder",
  className: "Qwen2ForCausalLM",
  config: qwen2Table,
  sizes: qwen2Sizes,
  options: {
    keyValueHeads: {
      field: "numKeyValueHeads",
      help: "heads of keys and values; a group of heads shares each",
      usual: "--heads",
    },
    tieEmbeddings: { field: "tieEmbeddings", help: "use one matrix for input and output embeddings" },
  },
  create: (config) => new Qwen2(config),
  headNames: { spanPrefix: "transformer" },
  unused: /\.rotary_emb\.inv_freq$|^lm_head\.weight$/,
  depth: depthByName(/^model\.embed_tokens\./, /^model\.layers\.(\d+)\./),
  tokenizer: { kind: "byte-level BPE" },
  // llama.cpp leaves the pairs of this architecture half a head apart, as they are published, and computes it without windows.
  gguf: {
    ...llamaGguf,
    architecture: "qwen2",
    withoutEffect: ["attention.sliding_window"],
    write: (config) => {
      const { slidingWindow = Infinity, contextLength } = config;
      if (slidingWindow < contextLength && config.layerTypes?.includes("sliding_attention") !== false)
        throw new LineageError(
          "unsupported",
          `llama.cpp computes Qwen2 without a window, but layers of this model look back on ${slidingWindow} of ${contextLength} tokens`,
        );
      if (config.ropeScaling?.kind === "llama3" || config.ropeScaling?.kind === "longrope")
        throw new LineageError(
          "unsupported",
          `llama.cpp does not scale Qwen2's positions by ${config.ropeScaling.kind}`,
        );
      return ropeScalingToGguf(config);
    },
  },
});
