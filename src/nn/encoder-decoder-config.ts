import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { reasons, entry } from "./config-table.js";
import { checkHeads, configEntries } from "./config.js";
import type { EncoderDecoderNetworkConfig } from "./encoder-decoder-layers.js";
import type { ActivationName } from "./layers.js";

const { size, dropout, flag, positive, tokenId } = configEntries;

/** Marian says swish for SiLU. */
const activation = z.preprocess(
  (name) => (name === "swish" ? "silu" : name),
  configEntries.activation,
) as z.ZodType<ActivationName>;

/** What the systems of this layout have where nobody says. */
interface Defaults {
  readonly vocabSize: number;
  readonly contextLength: number;
  readonly activation: ActivationName;
  readonly scaleEmbeddings: boolean;
  readonly padTokenId: number;
  readonly decoderStartTokenId: number;
}

/**
 * The fields that BART, mBART, MASS and the Transformer have in common.
 * @param absent what a `config.json` without the entry means, as transformers has it
 * @param published what a new model has, where it is another value
 */
export function encoderDecoderFields(absent: Defaults, published: Partial<Defaults> = {}) {
  const fresh = { ...absent, ...published };
  return {
    vocabSize: entry("vocab_size", size, { absent: absent.vocabSize, published: fresh.vocabSize }),
    contextLength: entry("max_position_embeddings", size, {
      absent: absent.contextLength,
      published: fresh.contextLength,
    }),
    hiddenSize: entry("d_model", size, { absent: 1024 }),
    /** Layers of the encoder. */
    numLayers: entry("encoder_layers", size, { absent: 12 }),
    numDecoderLayers: entry("decoder_layers", size, {
      absent: 12,
      published: ({ numLayers }: { numLayers: number }) => numLayers,
    }),
    numHeads: entry("encoder_attention_heads", size, { absent: 16 }),
    numDecoderHeads: entry("decoder_attention_heads", size, {
      absent: 16,
      published: ({ numHeads }: { numHeads: number }) => numHeads,
    }),
    intermediateSize: entry("encoder_ffn_dim", size, {
      absent: 4096,
      published: ({ hiddenSize }: { hiddenSize: number }) => 4 * hiddenSize,
    }),
    decoderIntermediateSize: entry("decoder_ffn_dim", size, {
      absent: 4096,
      published: ({ intermediateSize }: { intermediateSize: number }) => intermediateSize,
    }),
    activation: entry("activation_function", activation, {
      absent: absent.activation,
      published: fresh.activation,
    }),
    dropout: entry("dropout", dropout, { absent: 0.1 }),
    attentionDropout: entry("attention_dropout", dropout, { absent: 0 }),
    activationDropout: entry("activation_dropout", dropout, { absent: 0 }),
    /** Vaswani et al. 2017, section 3.4: whether embeddings are multiplied by the root of their width. */
    scaleEmbeddings: entry("scale_embedding", flag, {
      absent: absent.scaleEmbeddings,
      published: fresh.scaleEmbeddings,
    }),
    /** Standard deviation of the first weights. */
    initializerRange: entry("init_std", positive, { absent: 0.02 }),
    padTokenId: entry("pad_token_id", tokenId, { absent: absent.padTokenId, published: fresh.padTokenId }),
    /** What the decoder reads before a text. */
    decoderStartTokenId: entry("decoder_start_token_id", tokenId, {
      absent: absent.decoderStartTokenId,
      published: fresh.decoderStartTokenId,
    }),
  };
}

/** Entries that say nothing of the network, for the systems of this layout. */
export const encoderDecoderEntries = {
  fixed: { is_encoder_decoder: true, tie_word_embeddings: true },
  withoutEffect: {
    num_hidden_layers: "encoder_layers says it",
    ...reasons("belongs to a head that is not loaded", ["classifier_dropout", "classif_dropout"]),
    ...reasons("leaves out layers in training alone, which lineage does not do", [
      "encoder_layerdrop",
      "decoder_layerdrop",
    ]),
    output_past: "chooses what a call gives back",
    extra_pos_embeddings: "the table of positions has its further rows by design",
    add_bias_logits: "the bias of the logits is a tensor",
    force_bos_token_to_be_generated: "forced_bos_token_id says it",
    ...reasons("of the authors' training", ["gradient_checkpointing", "save_step"]),
  },
} as const;

/** Numbers of one table of positions that no model has more of. */
const mostPositionValues = 2 ** 30;

/** Throws `config` unless the sizes fit together. */
export function checkEncoderDecoder(config: EncoderDecoderNetworkConfig): void {
  const { contextLength, hiddenSize, numDecoderHeads, vocabSize } = config;
  checkHeads(config);
  checkHeads({ hiddenSize, numHeads: numDecoderHeads });
  if (contextLength * hiddenSize > mostPositionValues)
    throw new LineageError(
      "config",
      `max_position_embeddings is ${contextLength}; no model has a table of positions that long`,
    );
  checkTokenIds(config, vocabSize);
}

/** Throws `config` for a padding or a start that has no embedding. */
export function checkTokenIds(
  { padTokenId, decoderStartTokenId }: { readonly padTokenId: number; readonly decoderStartTokenId: number },
  vocabSize: number,
): void {
  for (const [name, value] of [
    ["pad_token_id", padTokenId],
    ["decoder_start_token_id", decoderStartTokenId],
  ] as const)
    if (value >= vocabSize)
      throw new LineageError("config", `${name} is ${value}, but the vocabulary has ${vocabSize} tokens`);
}
