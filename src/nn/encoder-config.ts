import { z } from "zod";
import { configEntries } from "./config.js";
import { entry } from "./config-table.js";
import type { ActivationName } from "./layers.js";

const { size, activation, dropout, epsilon, flag, positive } = configEntries;

/** What an encoder has where nobody says. */
interface EncoderDefaults {
  readonly vocabSize: number;
  readonly contextLength: number;
  readonly typeVocabSize: number;
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly intermediateSize: number;
  readonly activation: ActivationName;
  readonly hiddenDropout: number;
  readonly attentionDropout: number;
  readonly layerNormEpsilon: number;
  readonly padTokenId: number;
}

const bertBase: EncoderDefaults = {
  vocabSize: 30_522,
  contextLength: 512,
  typeVocabSize: 2,
  hiddenSize: 768,
  numLayers: 12,
  numHeads: 12,
  intermediateSize: 3072,
  activation: "gelu",
  hiddenDropout: 0.1,
  attentionDropout: 0.1,
  layerNormEpsilon: 1e-12,
  padTokenId: 0,
};

type PublishedDefaults = Partial<
  Pick<
    EncoderDefaults,
    "vocabSize" | "typeVocabSize" | "layerNormEpsilon" | "hiddenDropout" | "attentionDropout"
  >
>;

/**
 * The fields of every encoder after BERT.
 * @param absent what a `config.json` without the entry means, as transformers has it, where it is not what it means in BERT's
 * @param published what a new model has, where it is another value
 */
export function encoderFields(absent: Partial<EncoderDefaults> = {}, published: PublishedDefaults = {}) {
  const without = { ...bertBase, ...absent };
  const fresh = { ...without, ...published };
  const sized = (
    name: string,
    field: "vocabSize" | "contextLength" | "hiddenSize" | "numLayers" | "numHeads",
  ) => entry(name, size, { absent: without[field], published: fresh[field] });
  return {
    vocabSize: sized("vocab_size", "vocabSize"),
    /** Positions that the model knows. */
    contextLength: sized("max_position_embeddings", "contextLength"),
    /** Segments that it tells apart: sentence A and sentence B. */
    typeVocabSize: entry("type_vocab_size", without.typeVocabSize === 0 ? z.int().nonnegative() : size, {
      absent: without.typeVocabSize,
      published: fresh.typeVocabSize,
    }),
    hiddenSize: sized("hidden_size", "hiddenSize"),
    numLayers: sized("num_hidden_layers", "numLayers"),
    numHeads: sized("num_attention_heads", "numHeads"),
    /** Width of the feed-forward layer. Published: 4 hiddenSize. */
    intermediateSize: entry("intermediate_size", size, {
      absent: without.intermediateSize,
      published: ({ hiddenSize }: { hiddenSize: number }) => 4 * hiddenSize,
    }),
    activation: entry("hidden_act", activation, { absent: without.activation }),
    /** Probability of dropout after the embeddings and before each residual sum. */
    hiddenDropout: entry("hidden_dropout_prob", dropout, {
      absent: without.hiddenDropout,
      published: fresh.hiddenDropout,
    }),
    /** Probability of dropout of the attention probabilities. */
    attentionDropout: entry("attention_probs_dropout_prob", dropout, {
      absent: without.attentionDropout,
      published: fresh.attentionDropout,
    }),
    layerNormEpsilon: entry("layer_norm_eps", epsilon, {
      absent: without.layerNormEpsilon,
      published: fresh.layerNormEpsilon,
    }),
    /** Standard deviation of the first weights. */
    initializerRange: entry("initializer_range", positive, { absent: 0.02 }),
    padTokenId: entry("pad_token_id", z.int().nonnegative(), { absent: without.padTokenId }),
    /** Whether words are predicted by the token embeddings, and not by a matrix of their own. */
    tieEmbeddings: entry("tie_word_embeddings", flag, { absent: true }),
  };
}

/** Probability of dropout before a task's classifier, by default that of the layers. */
export const classifierDropoutField = (name: string) =>
  entry(name, dropout, { absent: ({ hiddenDropout }: { hiddenDropout: number }) => hiddenDropout });

/** The fields of BERT and of the models that took its network over. */
export const bertFields = (absent: Partial<EncoderDefaults> = {}, published: PublishedDefaults = {}) => ({
  ...encoderFields(absent, published),
  classifierDropout: classifierDropoutField("classifier_dropout"),
});
