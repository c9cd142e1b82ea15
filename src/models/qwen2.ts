import { z } from "zod";
import { LineageError } from "../base/errors.js";
import {
  CausalLm,
  type Choices,
  type ConfigOf,
  type Field,
  type LayerType,
  Linear,
  checkGroupedHeads,
  configEntries,
  configTable,
  entry,
  headSizeField,
  layerTypes,
  normalInit,
  ropeScalingField,
  ropeThetaField,
} from "../nn/index.js";
import { ropeScalingToGguf } from "../formats/gguf/rope.js";
import { LlamaTransformer, llamaGguf } from "./llama.js";
import { defineSystem, depthByName, publishedSize } from "./system.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

const { size, dropout, epsilon, flag, positive } = configEntries;

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
    vocabSize: entry("vocab_size", size, { published: 151_936 }),
    /** Positions that the model was made for. */
    contextLength: entry("max_position_embeddings", size, { absent: 32_768 }),
    hiddenSize: entry("hidden_size", size),
    /** Width of the gated feed-forward layer. */
    intermediateSize: entry("intermediate_size", size, {
      published: ({ hiddenSize }: { hiddenSize: number }) => Math.ceil((5.4 * hiddenSize) / 256) * 256,
    }),
    numLayers: entry("num_hidden_layers", size),
    numHeads: entry("num_attention_heads", size),
    /** Heads of keys and values, each shared by a group of query heads. */
    numKeyValueHeads: entry("num_key_value_heads", size, {
      absent: 32,
      null: ({ numHeads }: { numHeads: number }) => numHeads,
      published: ({ numHeads }: { numHeads: number }) => (numHeads % 2 === 0 ? 2 : numHeads),
    }),
    headSize: headSizeField,
    /** Keys that a query of a layer with a window looks back on, itself included; undefined where no layer has one. */
    slidingWindow: slidingWindowField,
    /** Which layers have the window. Default: all. */
    layerTypes: layerTypesField,
    rmsNormEpsilon: entry("rms_norm_eps", epsilon, { absent: 1e-6 }),
    /** Base of the rotary wavelengths. */
    ropeTheta: ropeThetaField,
    ropeScaling: ropeScalingField,
    /** Probability of dropout of the attention probabilities. */
    attentionDropout: entry("attention_dropout", dropout, { absent: 0 }),
    /** Whether the output embeddings are the token embeddings. */
    tieEmbeddings: entry("tie_word_embeddings", flag, { absent: false }),
    /** Standard deviation of the first weights; those of residual sums start smaller, as GPT-2's. */
    initializerRange: entry("initializer_range", positive, { absent: 0.02 }),
  },
  fixed: { hidden_act: "silu" },
  only: { hidden_act: ["swish"] },
  withoutEffect: {
    is_decoder: "it is one",
    use_mrope: "it is for models of pictures",
  },
  check: checkGroupedHeads,
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
    const { hiddenSize, vocabSize, tieEmbeddings, initializerRange } = config;
    this.transformer = new LlamaTransformer({ ...config, projectionBias: true });
    this.head = tieEmbeddings
      ? undefined
      : new Linear(hiddenSize, vocabSize, { bias: false, initializer: normalInit(initializerRange) });
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
