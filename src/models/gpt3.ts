import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { type Tensor, attention, cachedAttention } from "../graph/index.js";
import {
  CausalLm,
  type Choices,
  type ConfigOf,
  Dropout,
  type Field,
  type ForwardContext,
  GptBlock,
  GptFeedForward,
  GptTransformer,
  type LayerType,
  Linear,
  Module,
  afterPrefix,
  checkHeads,
  configEntries,
  configTable,
  entry,
  gptEntriesWithoutEffect,
  layerTypes,
  layerWindow,
  mergeHeads,
  normalInit,
  outputHead,
  residualInit,
  splitHeads,
} from "../nn/index.js";
import { defineSystem, depthByName, publishedSize } from "./system.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

const { size, activation, dropout, epsilon, flag, positive } = configEntries;

/** GPT-Neo's words for what a layer attends to. */
const words: Readonly<Record<string, LayerType>> = { global: "full_attention", local: "sliding_attention" };
const patterns = z.array(
  z.tuple([z.array(z.enum(["global", "local"])).min(1), z.int().nonnegative().max(10_000)], {
    error: "it must be a list of patterns, each with how often it comes",
  }),
);

/** Every second layer has the band, the first of them the second layer: section 2.1. */
const alternating = ({ numLayers }: { readonly numLayers: number }): LayerType[] =>
  Array.from({ length: numLayers }, (_, layer) => layerTypes[layer % 2]!);

/** Which layers have the band, as GPT-Neo writes it: patterns with how often each comes. */
const layerTypesField: Field<readonly LayerType[], { readonly numLayers: number }> = {
  entries: ["attention_types", "attention_layers"],
  schema: z.array(z.enum(layerTypes)),
  read: (json, earlier) => {
    const { numLayers } = earlier;
    const given = entry("attention_types", patterns.optional(), { absent: undefined }).read(json, undefined);
    if (given === undefined) return alternating(earlier);
    const layers = given.flatMap(([pattern, times]) => Array.from({ length: times }, () => pattern).flat());
    if (layers.length !== numLayers)
      throw new LineageError(
        "config",
        `attention_types says what ${layers.length} layers attend to; num_layers is ${numLayers}`,
      );
    return layers.map((layer) => words[layer]!);
  },
  write: (types) => {
    const layers = types.map((type) => (type === "full_attention" ? "global" : "local"));
    const pairs = layers.length % 2 === 0 && layers.every((layer, at) => layer === layers[at % 2]);
    return {
      attention_types: pairs ? [[layers.slice(0, 2), layers.length / 2]] : [[layers, 1]],
      attention_layers: layers,
    };
  },
  published: alternating,
};

/**
 * GPT-3, Brown et al. 2020, "Language Models are Few-Shot Learners", in the form of GPT-Neo's checkpoints: queries, keys and
 * values without biases, and scores that are not divided, since the divisor is in the queries' weights.
 */
export const gpt3Table = configTable({
  type: "gpt_neo",
  title: "GPT-3",
  fields: {
    vocabSize: entry("vocab_size", size, { published: 50_257 }),
    /** Positions that the model knows. */
    contextLength: entry("max_position_embeddings", size, { published: 2048 }),
    hiddenSize: entry("hidden_size", size),
    numLayers: entry("num_layers", size),
    numHeads: entry("num_heads", size),
    /** Width of the feed-forward layer. Published: 4 hiddenSize. */
    intermediateSize: entry("intermediate_size", size, {
      absent: ({ hiddenSize }: { hiddenSize: number }) => 4 * hiddenSize,
      null: ({ hiddenSize }: { hiddenSize: number }) => 4 * hiddenSize,
    }),
    /** Keys that a query looks back on in the layers with the band, itself included. The paper does not say how many. */
    slidingWindow: entry("window_size", size, { absent: 256 }),
    /** Which layers have the band. Published: every second one. */
    layerTypes: layerTypesField,
    activation: entry("activation_function", activation, { absent: "gelu_new" }),
    /** Probability of dropout before each residual sum. */
    dropout: entry("resid_dropout", dropout, { absent: 0 }),
    /** Probability of dropout after the embeddings. */
    embeddingDropout: entry("embed_dropout", dropout, { absent: 0 }),
    /** Probability of dropout of the attention probabilities. */
    attentionDropout: entry("attention_dropout", dropout, { absent: 0 }),
    layerNormEpsilon: entry("layer_norm_epsilon", epsilon, { absent: 1e-5 }),
    /** Standard deviation of the first weights; those of residual sums start smaller, as GPT-2's. */
    initializerRange: entry("initializer_range", positive, { absent: 0.02 }),
    /** Whether the output embeddings are the token embeddings, as in all published sizes. */
    tieEmbeddings: entry("tie_word_embeddings", flag, { absent: true }),
  },
  withoutEffect: {
    classifier_dropout: "belongs to the head of classification",
    summary_first_dropout: "belongs to the head of multiple choice",
    ...gptEntriesWithoutEffect,
  },
  check: checkHeads,
});

export type Gpt3Config = ConfigOf<typeof gpt3Table>;

/** A configuration with the published choices where `choices` makes none. Throws `config` for one that contradicts itself. */
export const gpt3Config = (choices: Choices<Gpt3Config>): Gpt3Config => gpt3Table.create(choices);

const published = publishedSize(gpt3Table);

/**
 * The eight published sizes, table 2.1. Of those whose heads do not divide the width there, the width stays, and heads are as
 * many as 128 or 96 channels give: 16 of 128 for XL, 40 of 128 for 13B, whose width of 5,140 is taken for 5,120.
 */
export const gpt3Sizes = {
  "gpt3-small": published(125_198_592, { hiddenSize: 768, numLayers: 12, numHeads: 12 }),
  "gpt3-medium": published(355_798_016, { hiddenSize: 1024, numLayers: 24, numHeads: 16 }),
  "gpt3-large": published(760_189_440, { hiddenSize: 1536, numLayers: 24, numHeads: 16 }),
  "gpt3-xl": published(1_315_575_808, { hiddenSize: 2048, numLayers: 24, numHeads: 16 }),
  "gpt3-2.7b": published(2_651_307_520, { hiddenSize: 2560, numLayers: 32, numHeads: 32 }),
  "gpt3-6.7b": published(6_658_011_136, { hiddenSize: 4096, numLayers: 32, numHeads: 32 }),
  "gpt3-13b": published(12_852_771_840, { hiddenSize: 5120, numLayers: 40, numHeads: 40 }),
  "gpt3-175b": published(174_600_720_384, { hiddenSize: 12_288, numLayers: 96, numHeads: 96 }),
} as const;

// ---- Parts --------------------------------------------------------------------------------------------------------

/** Causal self-attention, dense or over a band, with the divisor of the scores in the queries' weights. `[batch, sequence, hiddenSize]` in and out. */
class Gpt3Attention extends Module {
  static override readonly names = {
    query: "attention.q_proj",
    key: "attention.k_proj",
    value: "attention.v_proj",
    output: "attention.out_proj",
  };
  readonly query: Linear;
  readonly key: Linear;
  readonly value: Linear;
  readonly output: Linear;
  private readonly residualDropout: Dropout;

  constructor(
    private readonly config: Gpt3Config,
    private readonly layer: number,
  ) {
    super();
    const { hiddenSize, numHeads, initializerRange } = config;
    const matrix = (deviation: number): Linear =>
      new Linear(hiddenSize, hiddenSize, { bias: false, initializer: normalInit(deviation) });
    this.query = matrix(initializerRange * (hiddenSize / numHeads) ** -0.5);
    this.key = matrix(initializerRange);
    this.value = matrix(initializerRange);
    this.output = new Linear(hiddenSize, hiddenSize, { initializer: residualInit(config) });
    this.residualDropout = new Dropout(config.dropout);
  }

  override forward(x: Tensor, context: ForwardContext): Tensor {
    const { numHeads, attentionDropout } = this.config;
    const window = layerWindow(this.config, this.layer);
    const [query, key, value] = [this.query, this.key, this.value].map((part) => part.forward(x)) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    let mixed: Tensor;
    if (context.cache) {
      const step = cachedAttention(query, key, value, context.cache.layers[this.layer]!, {
        numHeads,
        numKeyValueHeads: numHeads,
        window,
        scale: 1,
      });
      context.cache.present[this.layer] = step;
      mixed = step.output;
    } else {
      const [q, k, v] = [query, key, value].map((part) => splitHeads(part, numHeads)) as [
        Tensor,
        Tensor,
        Tensor,
      ];
      const { attentionMask, random } = context;
      const options = { mask: attentionMask, dropout: attentionDropout, random };
      const [keys, values] = afterPrefix(k, v, context, this.layer);
      mixed = mergeHeads(attention(q, keys, values, { ...options, causal: true, window, scale: 1 }));
    }
    return this.residualDropout.forward(this.output.forward(mixed), context.random);
  }
}

/** A pre-norm block, GPT-2's; `[batch, sequence, hiddenSize]` in and out. */
const gpt3Block = (config: Gpt3Config, layer: number): GptBlock =>
  new GptBlock(config, {
    attention: new Gpt3Attention(config, layer),
    feedForward: new GptFeedForward(config, config.activation, residualInit(config), "out,in"),
  });

// ---- Model --------------------------------------------------------------------------------------------------------

/** GPT-3 with its language-modelling head, whose weight is the token embedding unless the configuration unties them. */
export class Gpt3 extends CausalLm {
  static override readonly names = { head: "lm_head" };
  readonly transformer: GptTransformer;
  readonly head: Linear | undefined;

  constructor(readonly config: Gpt3Config) {
    super();
    this.transformer = new GptTransformer(config, (layer) => gpt3Block(config, layer));
    this.head = outputHead(config);
  }
}

// ---- Definition ---------------------------------------------------------------------------------------------------

/** GPT-3 as the rest of the library knows it. */
export const gpt3 = defineSystem({
  name: "gpt3",
  kind: "decoder",
  className: "GPTNeoForCausalLM",
  config: gpt3Table,
  sizes: gpt3Sizes,
  options: {
    dropout: { field: "dropout", help: "dropout probability", usual: "0", fallback: () => 0 },
    window: {
      field: "slidingWindow",
      help: "tokens of the sliding window (gpt3: every second layer has it)",
      usual: "half of --context",
      fallback: ({ contextLength }) => Math.ceil(contextLength / 2),
    },
  },
  create: (config) => new Gpt3(config),
  headNames: { tag: "classifier" },
  unused: /\.attn\.attention\.(masked_)?bias$|^lm_head\.weight$/,
  depth: depthByName(/^transformer\.(wte|wpe)\./, /^transformer\.h\.(\d+)\./),
  tokenizer: { kind: "byte-level BPE" },
});
