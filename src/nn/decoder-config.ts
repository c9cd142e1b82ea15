import { checkGroupedHeads, headSizeField } from "./attention.js";
import { configEntries } from "./config.js";
import { type EntryOptions, entry } from "./config-table.js";
import { checkPrefixLm, prefixLmField } from "./prefix-lm.js";
import { ropeScalingField, ropeThetaField } from "./rotary.js";

const { size, dropout, epsilon, flag, positive } = configEntries;

/** In what the decoders of LLaMA's block differ: what a missing entry means, as transformers has it, and what a new model has. */
interface GatedDecoderDefaults {
  /** Tokens of a new model. */
  readonly vocabSize: number;
  readonly contextLength: EntryOptions<number, unknown>;
  /** Width of a new model's feed-forward layer. */
  readonly intermediateSize: (hiddenSize: number) => number;
  readonly numKeyValueHeads: EntryOptions<number, { readonly numHeads: number }>;
  readonly rmsNormEpsilon: EntryOptions<number, unknown>;
}

/** The fields of LLaMA and of the models that took its block over. */
export const gatedDecoderFields = (defaults: GatedDecoderDefaults) => ({
  vocabSize: entry("vocab_size", size, { published: defaults.vocabSize }),
  /** Positions that the model was made for. */
  contextLength: entry("max_position_embeddings", size, defaults.contextLength),
  hiddenSize: entry("hidden_size", size),
  /** Width of the gated feed-forward layer. */
  intermediateSize: entry("intermediate_size", size, {
    published: ({ hiddenSize }: { hiddenSize: number }) => defaults.intermediateSize(hiddenSize),
  }),
  numLayers: entry("num_hidden_layers", size),
  numHeads: entry("num_attention_heads", size),
  /** Heads of keys and values, each shared by a group of query heads. */
  numKeyValueHeads: entry("num_key_value_heads", size, defaults.numKeyValueHeads),
  headSize: headSizeField,
  rmsNormEpsilon: entry("rms_norm_eps", epsilon, defaults.rmsNormEpsilon),
  /** Base of the rotary wavelengths. */
  ropeTheta: ropeThetaField,
  ropeScaling: ropeScalingField,
  /** Probability of dropout of the attention probabilities. */
  attentionDropout: entry("attention_dropout", dropout, { absent: 0 }),
  /** Whether the output embeddings are the token embeddings. */
  tieEmbeddings: entry("tie_word_embeddings", flag, { absent: false }),
  /** Standard deviation of the first weights; those of residual sums start smaller, as GPT-2's. */
  initializerRange: entry("initializer_range", positive, { absent: 0.02 }),
  prefixLm: prefixLmField,
});

/** What else the tables of these decoders say. */
export const gatedDecoderEntries = {
  fixed: { hidden_act: "silu" },
  only: { hidden_act: ["swish"] },
  withoutEffect: {
    is_decoder: "it is one",
    classifier_dropout: "the head of tokens has no dropout of its own",
  },
  check: (config: Parameters<typeof checkGroupedHeads>[0] & Parameters<typeof checkPrefixLm>[0]): void => {
    checkGroupedHeads(config);
    checkPrefixLm(config);
  },
} as const;
