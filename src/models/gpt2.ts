import { LineageError } from "../base/errors.js";
import {
  CausalLm,
  type Choices,
  type ConfigOf,
  GptAttention,
  GptBlock,
  GptFeedForward,
  GptTransformer,
  type Linear,
  checkHeads,
  configEntries,
  configTable,
  entry,
  gptEntriesWithoutEffect,
  gptFields,
  gptHeadNames,
  outputHead,
  residualInit,
} from "../nn/index.js";
import { defineSystem, depthByName, publishedSize } from "./system.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

const { size, activation, flag } = configEntries;

/** GPT-2, Radford et al. 2019, "Language Models are Unsupervised Multitask Learners". */
export const gpt2Table = configTable({
  type: "gpt2",
  title: "GPT-2",
  fields: {
    vocabSize: entry("vocab_size", size, { published: 50_257 }),
    /** Positions that the model knows. */
    contextLength: entry("n_positions", size, { published: 1024 }),
    hiddenSize: entry("n_embd", size),
    numLayers: entry("n_layer", size),
    numHeads: entry("n_head", size),
    /** Width of the feed-forward layer. Published: 4 hiddenSize. */
    intermediateSize: entry("n_inner", size, {
      absent: ({ hiddenSize }: { hiddenSize: number }) => 4 * hiddenSize,
    }),
    activation: entry("activation_function", activation, { absent: "gelu_new" }),
    ...gptFields,
    /** Whether the output embeddings are the token embeddings, as in all published sizes. */
    tieEmbeddings: entry("tie_word_embeddings", flag, { absent: true }),
    /** Whether attention scores are divided by the square root of the head's size. */
    scaleAttention: entry("scale_attn_weights", flag, { absent: true }),
    /** Whether attention scores are divided by the number of the layer too, as the GPT-2s of the Mistral project do. */
    scaleByLayer: entry("scale_attn_by_inverse_layer_idx", flag, { absent: false }),
  },
  withoutEffect: {
    reorder_and_upcast_attn: "attention is computed in float32 throughout",
    n_ctx: "an older name of n_positions, which decides",
    ...gptEntriesWithoutEffect,
  },
  check: checkHeads,
});

export type Gpt2Config = ConfigOf<typeof gpt2Table>;

/** A configuration with GPT-2's published choices where `choices` makes none. Throws `config` for one that contradicts itself. */
export const gpt2Config = (choices: Choices<Gpt2Config>): Gpt2Config => gpt2Table.create(choices);

const published = publishedSize(gpt2Table);

/** The four published sizes; table 2 of the paper. */
export const gpt2Sizes = {
  gpt2: published(124_439_808, { hiddenSize: 768, numLayers: 12, numHeads: 12 }),
  "gpt2-medium": published(354_823_168, { hiddenSize: 1024, numLayers: 24, numHeads: 16 }),
  "gpt2-large": published(774_030_080, { hiddenSize: 1280, numLayers: 36, numHeads: 20 }),
  "gpt2-xl": published(1_557_611_200, { hiddenSize: 1600, numLayers: 48, numHeads: 25 }),
} as const;

// ---- Parts --------------------------------------------------------------------------------------------------------

/** Factor of the attention scores in a layer. */
const scoreScale = (
  { hiddenSize, numHeads, scaleAttention, scaleByLayer }: Gpt2Config,
  layer: number,
): number => (scaleAttention ? (hiddenSize / numHeads) ** -0.5 : 1) / (scaleByLayer ? layer + 1 : 1);

/** A pre-norm block; `[batch, sequence, hiddenSize]` in and out. */
function gpt2Block(config: Gpt2Config, layer: number): GptBlock {
  const residual = residualInit(config);
  return new GptBlock(config, {
    attention: new GptAttention(config, layer, { residual, scale: scoreScale(config, layer) }),
    feedForward: new GptFeedForward(config, config.activation, residual),
  });
}

// ---- Model --------------------------------------------------------------------------------------------------------

/** GPT-2 with its language-modelling head, whose weight is the token embedding unless the configuration unties them. */
export class Gpt2 extends CausalLm {
  static override readonly names = { head: "lm_head" };
  readonly transformer: GptTransformer;
  readonly head: Linear | undefined;

  constructor(readonly config: Gpt2Config) {
    super();
    this.transformer = new GptTransformer(config, (layer) => gpt2Block(config, layer));
    this.head = outputHead(config);
  }
}

// ---- Definition ---------------------------------------------------------------------------------------------------

/** GPT-2 as the rest of the library knows it. */
export const gpt2 = defineSystem({
  kind: "decoder",
  className: "GPT2LMHeadModel",
  config: gpt2Table,
  sizes: gpt2Sizes,
  options: { dropout: { field: "dropout", help: "dropout probability", usual: "0", fallback: () => 0 } },
  create: (config) => new Gpt2(config),
  headNames: gptHeadNames,
  unused: /\.attn\.(masked_)?bias$|^lm_head\.weight$/,
  depth: depthByName(/^transformer\.(wte|wpe)\./, /^transformer\.h\.(\d+)\./),
  tokenizer: { kind: "byte-level BPE" },
  gguf: {
    architecture: "gpt2",
    names: {
      "transformer.wte": "token_embd",
      "transformer.wpe": "position_embd",
      "transformer.h.*.ln_1": "blk.*.attn_norm",
      "transformer.h.*.attn.c_attn": "blk.*.attn_qkv",
      "transformer.h.*.attn.c_proj": "blk.*.attn_output",
      "transformer.h.*.ln_2": "blk.*.ffn_norm",
      "transformer.h.*.mlp.c_fc": "blk.*.ffn_up",
      "transformer.h.*.mlp.c_proj": "blk.*.ffn_down",
      "transformer.ln_f": "output_norm",
      lm_head: "output",
    },
    transposed: ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"].map(
      (part) => `transformer.h.*.${part}`,
    ),
    metadata: {
      contextLength: { key: "context_length", type: "uint32" },
      hiddenSize: { key: "embedding_length", type: "uint32" },
      intermediateSize: { key: "feed_forward_length", type: "uint32" },
      numLayers: { key: "block_count", type: "uint32" },
      numHeads: { key: "attention.head_count", type: "uint32" },
      layerNormEpsilon: { key: "attention.layer_norm_epsilon", type: "float32" },
    },
    write: ({ activation: function_, scaleAttention, scaleByLayer }) => {
      if (function_ !== "gelu_new")
        throw new LineageError("unsupported", `llama.cpp's GPT-2 computes gelu_new, not ${function_}`);
      if (!scaleAttention || scaleByLayer)
        throw new LineageError(
          "unsupported",
          "llama.cpp's GPT-2 scales attention by the size of heads alone; scale_attn_weights and scale_attn_by_inverse_layer_idx have no words in a GGUF",
        );
      return { metadata: {}, vectors: {} };
    },
  },
});
