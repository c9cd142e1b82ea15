import { z } from "zod";
import { LineageError } from "../base/errors.js";
import type { StoredTensors } from "../formats/weight-files.js";
import { Tensor, cachedAttention } from "../graph/index.js";
import {
  type ActivationName,
  type CacheContext,
  type ConfigOf,
  type DecoderInputs,
  Dropout,
  Embedding,
  EncoderDecoder,
  type EncoderInputs,
  type Field,
  type ForwardContext,
  type KeysAndValues,
  Linear,
  Module,
  RMSNorm,
  RelativeBias,
  activations,
  attendTo,
  attentionMaskOf,
  checkTokenIds,
  configEntries,
  configTable,
  entry,
  normalInit,
  reasons,
  splitHeads,
  throughLayers,
} from "../nn/index.js";
import {
  type Pretraining,
  type PretrainingOptions,
  needToken,
  sizesOf,
  spanPretraining,
} from "../objectives/index.js";
import {
  type GgufLayout,
  defineSystem,
  encoderDecoder,
  encoderDecoderDepth,
  publishedSize,
} from "./system.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

const { size, epsilon, flag, positive, dropout, tokenId } = configEntries;

/** What the feed-forward layer computes, in the words of `config.json`. */
const feedForwardNames = ["relu", "gated-gelu", "gated-silu", "gelu", "gelu_new", "silu"] as const;
type FeedForwardName = (typeof feedForwardNames)[number];

/** What a T5 has where nobody says. */
interface T5Defaults {
  readonly vocabSize: number;
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly feedForward: FeedForwardName;
  readonly tieEmbeddings: boolean;
}

/** The fields of T5 and mT5. @param absent what a `config.json` without the entry means, as transformers has it */
export const t5Fields = (absent: T5Defaults) => ({
  vocabSize: entry("vocab_size", size, { absent: absent.vocabSize }),
  /** Length that the model was trained with; its relative positions know no end. */
  contextLength: entry("n_positions", size, { absent: 512 }),
  hiddenSize: entry("d_model", size, { absent: 512 }),
  /** Channels of a head. All heads together may be wider than `hiddenSize`. */
  headSize: entry("d_kv", size, { absent: 64 }),
  intermediateSize: entry("d_ff", size, {
    absent: absent.intermediateSize,
    published: ({ hiddenSize }: { hiddenSize: number }) => 4 * hiddenSize,
  }),
  /** Layers of the encoder. */
  numLayers: entry("num_layers", size, { absent: absent.numLayers }),
  numDecoderLayers: entry("num_decoder_layers", size, {
    absent: ({ numLayers }: { numLayers: number }) => numLayers,
  }),
  numHeads: entry("num_heads", size, { absent: absent.numHeads }),
  /** Learned biases of each head for distances between two tokens. */
  relativeBuckets: entry("relative_attention_num_buckets", size, { absent: 32 }),
  /** Distance from which on all share a bucket. */
  relativeMaxDistance: entry("relative_attention_max_distance", size, { absent: 128 }),
  dropout: entry("dropout_rate", dropout, { absent: 0.1 }),
  rmsNormEpsilon: entry("layer_norm_epsilon", epsilon, { absent: 1e-6 }),
  /** Factor of all first weights. */
  initializerFactor: {
    ...entry("initializer_factor", positive, { absent: 1 }),
    // transformers 5 takes 1.0 and refuses 1, which JSON does not tell apart.
    write: (value) => (value === 1 ? {} : { initializer_factor: value }),
  } satisfies Field<number>,
  feedForward: entry("feed_forward_proj", z.enum(feedForwardNames), { absent: absent.feedForward }),
  /** Whether the output embeddings are the token embeddings. transformers 5 writes so, whatever its tensors say. */
  tieEmbeddings: entry("tie_word_embeddings", flag, { absent: absent.tieEmbeddings }),
  /** Whether the states are scaled by 1 / sqrt(hiddenSize) before they meet the output embeddings. */
  scaleOutputs: entry("scale_decoder_outputs", flag, {
    absent: ({ tieEmbeddings }: { tieEmbeddings: boolean }) => tieEmbeddings,
  }),
  padTokenId: entry("pad_token_id", tokenId, { absent: 0 }),
  /** What the decoder reads before a text. */
  decoderStartTokenId: entry("decoder_start_token_id", tokenId, {
    absent: ({ padTokenId }: { padTokenId: number }) => padTokenId,
  }),
});

/** What else T5's and mT5's `config.json` say. */
export const t5Entries = {
  fixed: { is_encoder_decoder: true },
  withoutEffect: {
    ...reasons("feed_forward_proj says it", ["dense_act_fn", "is_gated_act"]),
    classifier_dropout: "belongs to a head that is not loaded",
    output_past: "chooses what a call gives back",
  },
};

/** Throws `config` unless the numbers fit together. */
export function checkT5(config: {
  readonly vocabSize: number;
  readonly relativeBuckets: number;
  readonly relativeMaxDistance: number;
  readonly padTokenId: number;
  readonly decoderStartTokenId: number;
}): void {
  const { relativeBuckets, relativeMaxDistance } = config;
  // Half of the buckets, or a quarter in both directions, are for one distance each; the others for what is farther.
  if (relativeBuckets < 4 || relativeMaxDistance <= relativeBuckets / 2 || relativeMaxDistance > 2 ** 20)
    throw new LineageError(
      "config",
      `relative_attention_num_buckets is ${relativeBuckets} and relative_attention_max_distance ${relativeMaxDistance}; there must be 4 buckets or more, and a distance above half of them and of 2^20 at most`,
    );
  checkTokenIds(config, config.vocabSize);
}

/** T5, Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer"; T5 1.1. */
export const t5Table = configTable({
  type: "t5",
  title: "T5",
  fields: t5Fields({
    vocabSize: 32_128,
    intermediateSize: 2048,
    numLayers: 6,
    numHeads: 8,
    feedForward: "relu",
    tieEmbeddings: true,
  }),
  ...t5Entries,
  check: checkT5,
});

export type T5Config = ConfigOf<typeof t5Table>;

// ---- Parts --------------------------------------------------------------------------------------------------------

/** What the layers of one stack share. */
interface StackContext extends ForwardContext {
  /** Added to the scores of self-attention, `[1, numHeads, sequence, sequence]`. */
  readonly bias: Tensor;
  readonly causal: boolean;
  /** States of the source; or, by layer, what is looked at in it. */
  readonly memory?: DecoderInputs["memory"] | undefined;
  /** Bool `[batch, 1, 1, sourceSequence]`. */
  readonly memoryMask?: Tensor | undefined;
}

/** Multi-head attention without scaling and without biases; section 2.1. The first of a stack has its relative positions. */
class T5Attention extends Module {
  static override readonly names = {
    query: "q",
    key: "k",
    value: "v",
    output: "o",
    relative: "relative_attention_bias",
  };
  readonly query: Linear;
  readonly key: Linear;
  readonly value: Linear;
  readonly output: Linear;
  readonly relative: RelativeBias | undefined;

  constructor(
    private readonly config: T5Config,
    relative?: "both ways" | "backwards",
  ) {
    super();
    const { hiddenSize, headSize, numHeads, initializerFactor } = config;
    const width = numHeads * headSize;
    const of = (deviation: number) => ({
      bias: false,
      initializer: normalInit(initializerFactor * deviation),
    });
    this.query = new Linear(hiddenSize, width, of((hiddenSize * headSize) ** -0.5));
    this.key = new Linear(hiddenSize, width, of(hiddenSize ** -0.5));
    this.value = new Linear(hiddenSize, width, of(hiddenSize ** -0.5));
    this.output = new Linear(width, hiddenSize, of(width ** -0.5));
    this.relative =
      relative &&
      new RelativeBias({
        numHeads,
        buckets: config.relativeBuckets,
        maxDistance: config.relativeMaxDistance,
        bidirectional: relative === "both ways",
        initializer: normalInit(initializerFactor * hiddenSize ** -0.5),
      });
  }

  override forward(
    x: Tensor,
    {
      of = x,
      bias,
      mask,
      causal,
      random,
    }: {
      /** What is looked at. Default: `x` itself. */
      of?: Tensor | KeysAndValues;
      bias?: Tensor;
      mask?: Tensor | undefined;
      causal?: boolean;
      random: ForwardContext["random"];
    },
  ): Tensor {
    const mixed = attendTo(this.query.forward(x), of instanceof Tensor ? this.remember(of) : of, {
      scale: 1,
      causal: causal ?? false,
      dropout: this.config.dropout,
      random,
      ...(bias && { bias }),
      ...(mask && { mask }),
    });
    return this.output.forward(mixed);
  }

  /** The keys and values of a text, `[batch, sequence, hiddenSize]`. */
  remember(x: Tensor): KeysAndValues {
    const { numHeads } = this.config;
    return {
      key: splitHeads(this.key.forward(x), numHeads),
      value: splitHeads(this.value.forward(x), numHeads),
    };
  }

  /** `x` looks at itself and at what is in a layer's cache. */
  goOn(x: Tensor, cache: CacheContext, layer: number, bias: Tensor): Tensor {
    const { numHeads } = this.config;
    const step = cachedAttention(
      this.query.forward(x),
      this.key.forward(x),
      this.value.forward(x),
      { ...cache.layers[layer]!, bias },
      { numHeads, numKeyValueHeads: numHeads, scale: 1 },
    );
    cache.present[layer] = step;
    return this.output.forward(step.output);
  }
}

const gated: Readonly<Partial<Record<FeedForwardName, ActivationName>>> = {
  "gated-gelu": "gelu_new",
  "gated-silu": "silu",
};

/** The feed-forward network: ReLU in T5, gated GELU (Shazeer 2020) in T5 1.1 and mT5. */
class T5FeedForward extends Module {
  private readonly activation: ActivationName;
  readonly wi: Linear | undefined;
  readonly wi_0: Linear | undefined;
  readonly wi_1: Linear | undefined;
  readonly wo: Linear;
  private readonly dropout: Dropout;

  constructor({ hiddenSize, intermediateSize, feedForward, initializerFactor, dropout }: T5Config) {
    super();
    const gate = gated[feedForward];
    this.activation = gate ?? (feedForward as ActivationName);
    const up = () =>
      new Linear(hiddenSize, intermediateSize, {
        bias: false,
        initializer: normalInit(initializerFactor * hiddenSize ** -0.5),
      });
    if (gate) [this.wi_0, this.wi_1] = [up(), up()];
    else this.wi = up();
    this.wo = new Linear(intermediateSize, hiddenSize, {
      bias: false,
      initializer: normalInit(initializerFactor * intermediateSize ** -0.5),
    });
    this.dropout = new Dropout(dropout);
  }

  override forward(x: Tensor, random: ForwardContext["random"]): Tensor {
    const activate = activations[this.activation];
    const h = this.wi
      ? activate(this.wi.forward(x))
      : activate(this.wi_0!.forward(x)).mul(this.wi_1!.forward(x));
    return this.wo.forward(this.dropout.forward(h, random));
  }
}

/** `x + sublayer(norm(x))`, where every block of T5 does all that it does. */
class T5SelfAttentionLayer extends Module {
  static override readonly names = { attention: "SelfAttention", norm: "layer_norm" };
  readonly attention: T5Attention;
  readonly norm: RMSNorm;
  private readonly dropout: Dropout;

  constructor(
    config: T5Config,
    private readonly index: number,
    relative?: "both ways" | "backwards",
  ) {
    super();
    this.attention = new T5Attention(config, relative);
    this.norm = new RMSNorm(config.hiddenSize, config.rmsNormEpsilon);
    this.dropout = new Dropout(config.dropout);
  }

  override forward(x: Tensor, { bias, causal, attentionMask, cache, random }: StackContext): Tensor {
    const h = this.norm.forward(x);
    const mixed = cache
      ? this.attention.goOn(h, cache, this.index, bias)
      : this.attention.forward(h, { bias, causal, mask: attentionMask, random });
    return x.add(this.dropout.forward(mixed, random));
  }
}

class T5CrossAttentionLayer extends Module {
  static override readonly names = { attention: "EncDecAttention", norm: "layer_norm" };
  readonly attention: T5Attention;
  readonly norm: RMSNorm;
  private readonly dropout: Dropout;

  constructor(
    config: T5Config,
    private readonly index: number,
  ) {
    super();
    this.attention = new T5Attention(config);
    this.norm = new RMSNorm(config.hiddenSize, config.rmsNormEpsilon);
    this.dropout = new Dropout(config.dropout);
  }

  override forward(x: Tensor, { memory, memoryMask, random }: StackContext): Tensor {
    const of = memory instanceof Tensor ? memory : memory![this.index]!;
    const mixed = this.attention.forward(this.norm.forward(x), { of, mask: memoryMask, random });
    return x.add(this.dropout.forward(mixed, random));
  }
}

class T5FeedForwardLayer extends Module {
  static override readonly names = { feedForward: "DenseReluDense", norm: "layer_norm" };
  readonly feedForward: T5FeedForward;
  readonly norm: RMSNorm;
  private readonly dropout: Dropout;

  constructor(config: T5Config) {
    super();
    this.feedForward = new T5FeedForward(config);
    this.norm = new RMSNorm(config.hiddenSize, config.rmsNormEpsilon);
    this.dropout = new Dropout(config.dropout);
  }

  override forward(x: Tensor, { random }: StackContext): Tensor {
    const fed = this.feedForward.forward(this.norm.forward(x), random);
    return x.add(this.dropout.forward(fed, random));
  }
}

type T5Layer = T5SelfAttentionLayer | T5CrossAttentionLayer | T5FeedForwardLayer;

/** Self-attention, attention to the source (in the decoder), feed-forward; `[batch, sequence, hiddenSize]` in and out. */
class T5Block extends Module {
  readonly layer: readonly T5Layer[];

  constructor(config: T5Config, part: "encoder" | "decoder", index: number) {
    super();
    const relative = index > 0 ? undefined : part === "encoder" ? "both ways" : "backwards";
    this.layer = [
      new T5SelfAttentionLayer(config, index, relative),
      ...(part === "decoder" ? [new T5CrossAttentionLayer(config, index)] : []),
      new T5FeedForwardLayer(config),
    ];
  }

  override forward(x: Tensor, context: StackContext): Tensor {
    return this.layer.reduce((h, layer) => layer.forward(h, context), x);
  }
}

/** The blocks of one side and their final norm. The relative positions of the first block serve all of them. */
class T5Stack extends Module {
  static override readonly names = { blocks: "block", finalNorm: "final_layer_norm" };
  readonly blocks: readonly T5Block[];
  readonly finalNorm: RMSNorm;
  private readonly dropout: Dropout;

  constructor(
    config: T5Config,
    private readonly part: "encoder" | "decoder",
  ) {
    super();
    const count = part === "encoder" ? config.numLayers : config.numDecoderLayers;
    this.blocks = Array.from({ length: count }, (_, index) => new T5Block(config, part, index));
    this.finalNorm = new RMSNorm(config.hiddenSize, config.rmsNormEpsilon);
    this.dropout = new Dropout(config.dropout);
  }

  /** @param x embedded tokens, `[batch, sequence, hiddenSize]` */
  override forward(x: Tensor, context: ForwardContext & Pick<StackContext, "memory" | "memoryMask">): Tensor {
    const { random, cache, positionIds } = context;
    const relative = (this.blocks[0]!.layer[0] as T5SelfAttentionLayer).attention.relative!;
    const length = x.dim(1);
    const stack: StackContext = {
      ...context,
      bias: cache ? relative.at(positionIds!, cache.keyPositions!) : relative.between(length, length),
      causal: this.part === "decoder",
    };
    return throughLayers(this.blocks, this.dropout.forward(x, random), stack, (h) =>
      this.dropout.forward(this.finalNorm.forward(h), random),
    );
  }
}

// ---- Model --------------------------------------------------------------------------------------------------------

/** T5 and mT5 with their language-modelling head. Section 2.1. */
export class T5 extends EncoderDecoder {
  static override readonly names = { tokenEmbedding: "shared", head: "lm_head" };
  readonly tokenEmbedding: Embedding;
  readonly encoder: T5Stack;
  readonly decoder: T5Stack;
  /** Absent where the token embeddings serve as output embeddings. */
  readonly head: Linear | undefined;

  constructor(readonly config: T5Config) {
    super();
    const { vocabSize, hiddenSize, initializerFactor, tieEmbeddings } = config;
    this.tokenEmbedding = new Embedding(vocabSize, hiddenSize, normalInit(initializerFactor));
    this.encoder = new T5Stack(config, "encoder");
    this.decoder = new T5Stack(config, "decoder");
    this.head = tieEmbeddings
      ? undefined
      : new Linear(hiddenSize, vocabSize, { bias: false, initializer: normalInit(initializerFactor) });
  }

  override encode(inputs: EncoderInputs, context: ForwardContext = {}): Tensor {
    return this.encoder.forward(this.tokenEmbedding.forward(inputs.inputIds), {
      ...context,
      attentionMask: attentionMaskOf(inputs),
    });
  }

  override remember(memory: Tensor): KeysAndValues[] {
    return this.decoder.blocks.flatMap(({ layer }) =>
      layer.flatMap((part) =>
        part instanceof T5CrossAttentionLayer ? [part.attention.remember(memory)] : [],
      ),
    );
  }

  protected override get decoderHeads(): { count: number; size: number } {
    const { numHeads, headSize } = this.config;
    return { count: numHeads, size: headSize };
  }

  override hiddenStates(
    inputIds: Tensor,
    { memory, memoryMask }: DecoderInputs,
    context: ForwardContext = {},
  ): Tensor {
    return this.decoder.forward(this.tokenEmbedding.forward(inputIds), {
      ...context,
      memory,
      memoryMask: attentionMaskOf({ inputIds, attentionMask: memoryMask }),
    });
  }

  protected override scaled(hiddenStates: Tensor): Tensor {
    return this.config.scaleOutputs ? hiddenStates.mul(this.config.hiddenSize ** -0.5) : hiddenStates;
  }

  protected override get outputEmbeddings(): Tensor {
    return (this.head ?? this.tokenEmbedding).weight.tensor;
  }
}

// ---- Sizes --------------------------------------------------------------------------------------------------------

const published = publishedSize(t5Table);
/** T5 1.1: gated GELU, and output embeddings of its own. */
export const gatedAndFree = { feedForward: "gated-gelu", tieEmbeddings: false } as const;
/** The sizes of T5 1.1, which mT5 took over. */
export const t5v11 = {
  small: { hiddenSize: 512, intermediateSize: 1024, numLayers: 8, numHeads: 6 },
  base: { hiddenSize: 768, intermediateSize: 2048, numLayers: 12, numHeads: 12 },
  large: { hiddenSize: 1024, intermediateSize: 2816, numLayers: 24, numHeads: 16 },
  xl: { hiddenSize: 2048, intermediateSize: 5120, numLayers: 24, numHeads: 32 },
  xxl: { hiddenSize: 4096, intermediateSize: 10_240, numLayers: 24, numHeads: 64 },
};

/** The published sizes: section 3.7.2 of the paper, and those of T5 1.1. */
export const t5Sizes = {
  "t5-small": published(60_506_624, { hiddenSize: 512, numLayers: 6, numHeads: 8 }),
  "t5-base": published(222_903_552, {
    hiddenSize: 768,
    intermediateSize: 3072,
    numLayers: 12,
    numHeads: 12,
  }),
  "t5-large": published(737_668_096, {
    hiddenSize: 1024,
    intermediateSize: 4096,
    numLayers: 24,
    numHeads: 16,
  }),
  "t5-3b": published(2_851_598_336, {
    hiddenSize: 1024,
    headSize: 128,
    intermediateSize: 16_384,
    numLayers: 24,
    numHeads: 32,
  }),
  "t5-11b": published(11_307_321_344, {
    hiddenSize: 1024,
    headSize: 128,
    intermediateSize: 65_536,
    numLayers: 24,
    numHeads: 128,
  }),
  "t5-v1_1-small": published(76_961_152, { ...t5v11.small, ...gatedAndFree }),
  "t5-v1_1-base": published(247_577_856, { ...t5v11.base, ...gatedAndFree }),
  "t5-v1_1-large": published(783_150_080, { ...t5v11.large, ...gatedAndFree }),
  "t5-v1_1-xl": published(2_849_757_184, { ...t5v11.xl, ...gatedAndFree }),
  "t5-v1_1-xxl": published(11_135_332_352, { ...t5v11.xxl, ...gatedAndFree }),
} as const;

// ---- Pretraining --------------------------------------------------------------------------------------------------

/**
 * Section 3.1.4: spans of running text are hidden, and the decoder writes them.
 * @param exponent of the languages' shares of the text
 */
export function pretrainT5(
  { table, className }: { readonly table: typeof t5Table; readonly className: string },
  options: PretrainingOptions,
  exponent = 1,
): Pretraining {
  const { tokenizer, dropout, hiddenSize, numHeads } = options;
  const padTokenId = needToken(tokenizer.padId, "padding");
  const config = table.create({
    ...sizesOf(options),
    headSize: Math.ceil(hiddenSize / numHeads),
    intermediateSize: 4 * hiddenSize,
    dropout,
    padTokenId,
    decoderStartTokenId: padTokenId,
  });
  const json = { architectures: [className], ...table.write(config) };
  return spanPretraining(options, { model: new T5(config), config: json }, { exponent });
}

// ---- Definition ---------------------------------------------------------------------------------------------------

/** Distance from which on llama.cpp's T5 puts all into one bucket. */
const llamaCppMaxDistance = 128;
/** The entry that says whether the states are scaled before the output embeddings; llama.cpp has none. */
const scaledKey = "decoder_outputs_scaled";

/** Parts of llama.cpp's names of one side's blocks, by T5's. */
const blockNames = (side: "enc" | "dec", sublayers: readonly string[]): Record<string, string> => {
  const part = side === "enc" ? "encoder" : "decoder";
  const names: Record<string, string> = { [`${part}.final_layer_norm`]: `${side}.output_norm` };
  sublayers.forEach((sublayer, index) => {
    const [from, to] = [`${part}.block.*.layer.${index}`, `${side}.blk.*.${sublayer}`];
    names[`${from}.layer_norm`] = `${to}_norm`;
    if (sublayer === "ffn")
      for (const [name, of] of Object.entries({ wi: "up", wi_0: "gate", wi_1: "up", wo: "down" }))
        names[`${from}.DenseReluDense.${name}`] = `${to}_${of}`;
    else
      for (const [name, of] of Object.entries({
        q: "q",
        k: "k",
        v: "v",
        o: "o",
        relative_attention_bias: "rel_b",
      }))
        names[`${from}.${sublayer === "attn" ? "SelfAttention" : "EncDecAttention"}.${name}`] = `${to}_${of}`;
  });
  return names;
};

/** How llama.cpp keeps T5 and mT5. */
export const t5Gguf: GgufLayout<T5Config> = {
  architecture: "t5",
  names: {
    shared: "token_embd",
    ...blockNames("enc", ["attn", "ffn"]),
    ...blockNames("dec", ["attn", "cross_attn", "ffn"]),
    lm_head: "output",
  },
  metadata: {
    vocabSize: { key: "vocab_size", type: "uint32" },
    contextLength: { key: "context_length", type: "uint32", absent: () => 512 },
    hiddenSize: { key: "embedding_length", type: "uint32" },
    intermediateSize: { key: "feed_forward_length", type: "uint32" },
    numLayers: { key: "block_count", type: "uint32" },
    numDecoderLayers: {
      key: "decoder_block_count",
      type: "uint32",
      absent: ({ numLayers }) => numLayers,
    },
    numHeads: { key: "attention.head_count", type: "uint32" },
    headSize: {
      key: "attention.key_length",
      also: ["attention.value_length"],
      type: "uint32",
      absent: ({ hiddenSize, numHeads }) => hiddenSize / numHeads,
    },
    relativeBuckets: { key: "attention.relative_buckets_count", type: "uint32" },
    rmsNormEpsilon: {
      key: "attention.layer_norm_rms_epsilon",
      also: ["attention.layer_norm_epsilon"],
      type: "float32",
    },
    decoderStartTokenId: { key: "decoder_start_token_id", type: "uint32", absent: () => 0 },
  },
  withoutEffect: ["attention.head_count_kv", scaledKey, "model_type"],
  // llama.cpp's graph has no product with 1 / sqrt(hiddenSize) before the output embeddings: the last norm takes it along.
  factor: (module, { hiddenSize, scaleOutputs }, file) =>
    module === "decoder.final_layer_norm" && scaleOutputs && (!file || file.get(`t5.${scaledKey}`, "boolean"))
      ? hiddenSize ** -0.5
      : undefined,
  read: async (file) => {
    // Files of llama.cpp's own converter may hold tied output embeddings once more.
    const tied =
      !file.tensors.has("output.weight") || (await file.same("output.weight", "token_embd.weight"));
    return {
      feedForward: file.tensors.has("enc.blk.0.ffn_gate.weight") ? "gated-gelu" : "relu",
      relativeMaxDistance: llamaCppMaxDistance,
      tieEmbeddings: tied,
      scaleOutputs: file.get(`t5.${scaledKey}`, "boolean") ?? tied,
      padTokenId: file.get("tokenizer.ggml.padding_token_id", "number") ?? 0,
    };
  },
  write: ({ feedForward, relativeMaxDistance, scaleOutputs }) => {
    if (feedForward !== "relu" && feedForward !== "gated-gelu")
      throw new LineageError("unsupported", `llama.cpp's T5 computes relu or gated-gelu, not ${feedForward}`);
    if (relativeMaxDistance !== llamaCppMaxDistance)
      throw new LineageError(
        "unsupported",
        `llama.cpp's T5 takes all distances from ${llamaCppMaxDistance} on for one; relative_attention_max_distance is ${relativeMaxDistance}`,
      );
    return { metadata: { [scaledKey]: { type: "bool", value: scaleOutputs } }, vectors: {} };
  },
};

/** What T5 and mT5 have in common. */
export const t5Definition = {
  ...encoderDecoder,
  create: (config: T5Config) => new T5(config),
  /** Copies of the shared embeddings, and a table of positions between two texts that old files hold and nothing reads. */
  unused:
    /^((encoder|decoder)\.embed_tokens|lm_head|decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias)\.weight$/,
  aliases: (name: string) =>
    name === "shared.weight" ? [name, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"] : [name],
  // transformers 5 writes that the embeddings are tied, and ties them only where its files have none of the output's own.
  settle: async (config: T5Config, stored: StoredTensors): Promise<T5Config> =>
    config.tieEmbeddings &&
    stored.has("lm_head.weight") &&
    stored.has("shared.weight") &&
    !(await stored.same("lm_head.weight", "shared.weight"))
      ? { ...config, tieEmbeddings: false }
      : config,
  depth: encoderDecoderDepth({
    embeddings: /^shared\./,
    encoder: /^encoder\.(?:block\.(\d+)\.)?/,
    decoder: /^decoder\.block\.(\d+)\./,
  }),
  tokenizer: { kind: "unigram", style: "t5", sentinels: 100 },
  gguf: t5Gguf,
} as const;

/** T5 as the rest of the library knows it. */
export const t5 = defineSystem({
  ...t5Definition,
  className: "T5ForConditionalGeneration",
  config: t5Table,
  sizes: t5Sizes,
  pretraining: {
    objective: "spans of the text that are hidden",
    prepare: (options) => pretrainT5({ table: t5Table, className: "T5ForConditionalGeneration" }, options),
  },
});
