import { LineageError } from "../base/errors.js";
import type { GgufFile } from "../formats/gguf/file.js";
import { ropeScalingOfGguf, ropeScalingToGguf } from "../formats/gguf/rope.js";
import { type Tensor, range, unsqueeze } from "../graph/index.js";
import {
  CausalLm,
  type Choices,
  type ConfigOf,
  Embedding,
  type ForwardContext,
  GroupedQueryAttention,
  type GroupedQueryAttentionConfig,
  type Linear,
  Module,
  RMSNorm,
  type RotaryConfig,
  type RotaryContext,
  type RotaryScaling,
  SwiGLU,
  configEntries,
  configTable,
  entry,
  gatedDecoderEntries,
  gatedDecoderFields,
  normalInit,
  outputHead,
  rotaryTables,
  throughLayers,
} from "../nn/index.js";
import { defineSystem, depthByName, publishedSize } from "./system.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

const { flag } = configEntries;

/**
 * The feed-forward width of section 2.2: two thirds of 4 hiddenSize, so that three matrices cost what two did, rounded up
 * to a multiple of 256.
 */
export const llamaIntermediateSize = (hiddenSize: number, multiple = 256): number =>
  multiple * Math.ceil(Math.floor((8 * hiddenSize) / 3) / multiple);

/** LLaMA, Touvron et al. 2023, "LLaMA: Open and Efficient Foundation Language Models"; LLaMA-2 of the same year; LLaMA-3. */
export const llamaTable = configTable({
  type: "llama",
  title: "LLaMA",
  fields: {
    // Contexts are 2,048 in LLaMA, 4,096 in LLaMA-2.
    ...gatedDecoderFields({
      vocabSize: 32_000,
      contextLength: { absent: 2048 },
      intermediateSize: (hiddenSize) => llamaIntermediateSize(hiddenSize),
      numKeyValueHeads: { absent: ({ numHeads }) => numHeads },
      rmsNormEpsilon: { absent: 1e-6 },
    }),
    /** Whether queries, keys, values and the output of attention have biases. */
    attentionBias: entry("attention_bias", flag, { absent: false }),
    /** Whether the products of the feed-forward layer have biases. */
    mlpBias: entry("mlp_bias", flag, { absent: false }),
  },
  ...gatedDecoderEntries,
});

export type LlamaConfig = ConfigOf<typeof llamaTable>;

/** A configuration with LLaMA's published choices where `choices` makes none. Throws `config` for one that contradicts itself. */
export const llamaConfig = (choices: Choices<LlamaConfig>): LlamaConfig => llamaTable.create(choices);

const llama2 = { contextLength: 4096, rmsNormEpsilon: 1e-5 };
const llama3 = { vocabSize: 128_256, contextLength: 8192, rmsNormEpsilon: 1e-5, ropeTheta: 500_000 };
const llama31 = { ...llama3, contextLength: 131_072 };
const reach = (factor: number): RotaryScaling => ({
  kind: "llama3",
  factor,
  lowFrequencyFactor: 1,
  highFrequencyFactor: 4,
  originalContextLength: 8192,
});

const published = publishedSize(llamaTable);

/** The published sizes: table 2 of LLaMA, table 1 of LLaMA-2, and the dense models of LLaMA-3. */
export const llamaSizes = {
  "llama-7b": published(6_738_415_616, { hiddenSize: 4096, numLayers: 32, numHeads: 32 }),
  "llama-13b": published(13_015_864_320, { hiddenSize: 5120, numLayers: 40, numHeads: 40 }),
  "llama-30b": published(32_528_943_616, { hiddenSize: 6656, numLayers: 60, numHeads: 52 }),
  "llama-65b": published(65_285_660_672, {
    hiddenSize: 8192,
    numLayers: 80,
    numHeads: 64,
    rmsNormEpsilon: 1e-5,
  }),
  "llama-2-7b": published(6_738_415_616, { ...llama2, hiddenSize: 4096, numLayers: 32, numHeads: 32 }),
  "llama-2-13b": published(13_015_864_320, { ...llama2, hiddenSize: 5120, numLayers: 40, numHeads: 40 }),
  "llama-2-70b": published(68_976_648_192, {
    ...llama2,
    hiddenSize: 8192,
    intermediateSize: 28_672,
    numLayers: 80,
    numHeads: 64,
    numKeyValueHeads: 8,
  }),
  "llama-3-8b": published(8_030_261_248, {
    ...llama3,
    hiddenSize: 4096,
    intermediateSize: 14_336,
    numLayers: 32,
    numHeads: 32,
    numKeyValueHeads: 8,
  }),
  "llama-3-70b": published(70_553_706_496, {
    ...llama3,
    hiddenSize: 8192,
    intermediateSize: 28_672,
    numLayers: 80,
    numHeads: 64,
    numKeyValueHeads: 8,
  }),
  "llama-3.1-8b": published(8_030_261_248, {
    ...llama31,
    hiddenSize: 4096,
    intermediateSize: 14_336,
    numLayers: 32,
    numHeads: 32,
    numKeyValueHeads: 8,
    ropeScaling: reach(8),
  }),
  "llama-3.2-1b": published(1_235_814_400, {
    ...llama31,
    hiddenSize: 2048,
    intermediateSize: 8192,
    numLayers: 16,
    numHeads: 32,
    numKeyValueHeads: 8,
    ropeScaling: reach(32),
    tieEmbeddings: true,
  }),
} as const;

// ---- Parts --------------------------------------------------------------------------------------------------------

/** What LLaMA's network takes of a configuration; Mistral and Qwen2 share it. */
export interface LlamaNetworkConfig extends GroupedQueryAttentionConfig, RotaryConfig {
  readonly vocabSize: number;
  readonly intermediateSize: number;
  readonly mlpBias?: boolean | undefined;
  readonly rmsNormEpsilon: number;
  readonly initializerRange: number;
}

/** A pre-norm block; `[batch, sequence, hiddenSize]` in and out. Touvron et al. 2023, section 2.2. */
class LlamaBlock extends Module {
  static override readonly names = {
    attentionNorm: "input_layernorm",
    attention: "self_attn",
    feedForwardNorm: "post_attention_layernorm",
    feedForward: "mlp",
  };
  readonly attentionNorm: RMSNorm;
  readonly attention: GroupedQueryAttention;
  readonly feedForwardNorm: RMSNorm;
  readonly feedForward: SwiGLU;

  constructor(config: LlamaNetworkConfig, layer: number) {
    super();
    const { hiddenSize, rmsNormEpsilon } = config;
    this.attentionNorm = new RMSNorm(hiddenSize, rmsNormEpsilon);
    this.attention = new GroupedQueryAttention(config, layer);
    this.feedForwardNorm = new RMSNorm(hiddenSize, rmsNormEpsilon);
    this.feedForward = new SwiGLU(config);
  }

  override forward(x: Tensor, context: RotaryContext): Tensor {
    const h = x.add(this.attention.forward(this.attentionNorm.forward(x), context));
    return h.add(this.feedForward.forward(this.feedForwardNorm.forward(h)));
  }
}

// ---- Model --------------------------------------------------------------------------------------------------------

/** Token embeddings, the blocks and the final norm. */
export class LlamaTransformer extends Module {
  static override readonly names = { tokenEmbedding: "embed_tokens", blocks: "layers", finalNorm: "norm" };
  readonly tokenEmbedding: Embedding;
  readonly blocks: readonly LlamaBlock[];
  readonly finalNorm: RMSNorm;

  constructor(private readonly config: LlamaNetworkConfig) {
    super();
    const { vocabSize, hiddenSize, numLayers, rmsNormEpsilon, initializerRange } = config;
    this.tokenEmbedding = new Embedding(vocabSize, hiddenSize, normalInit(initializerRange));
    this.blocks = Array.from({ length: numLayers }, (_, layer) => new LlamaBlock(config, layer));
    this.finalNorm = new RMSNorm(hiddenSize, rmsNormEpsilon);
  }

  override forward(inputIds: Tensor, positionIds: Tensor | undefined, context: ForwardContext): Tensor {
    const positions = positionIds ?? unsqueeze(range(inputIds.dim(1), "int64"), 0);
    const rotary = rotaryTables(this.config, positions, context.cache);
    return throughLayers(this.blocks, this.tokenEmbedding.forward(inputIds), { ...context, rotary }, (h) =>
      this.finalNorm.forward(h),
    );
  }
}

/** LLaMA with its language-modelling head. */
export class Llama extends CausalLm {
  static override readonly names = { transformer: "model", head: "lm_head" };
  readonly transformer: LlamaTransformer;
  readonly head: Linear | undefined;

  constructor(readonly config: LlamaConfig) {
    super();
    this.transformer = new LlamaTransformer(config);
    this.head = outputHead(config);
  }
}

// ---- Definition ---------------------------------------------------------------------------------------------------

/** How llama.cpp keeps LLaMA's network. */
export const llamaGguf = {
  names: {
    "model.embed_tokens": "token_embd",
    "model.layers.*.input_layernorm": "blk.*.attn_norm",
    "model.layers.*.self_attn.q_proj": "blk.*.attn_q",
    "model.layers.*.self_attn.k_proj": "blk.*.attn_k",
    "model.layers.*.self_attn.v_proj": "blk.*.attn_v",
    "model.layers.*.self_attn.o_proj": "blk.*.attn_output",
    "model.layers.*.post_attention_layernorm": "blk.*.ffn_norm",
    "model.layers.*.mlp.gate_proj": "blk.*.ffn_gate",
    "model.layers.*.mlp.up_proj": "blk.*.ffn_up",
    "model.layers.*.mlp.down_proj": "blk.*.ffn_down",
    "model.norm": "output_norm",
    lm_head: "output",
  },
  metadata: {
    vocabSize: { key: "vocab_size", type: "uint32" },
    contextLength: { key: "context_length", type: "uint32" },
    hiddenSize: { key: "embedding_length", type: "uint32" },
    intermediateSize: { key: "feed_forward_length", type: "uint32" },
    numLayers: { key: "block_count", type: "uint32" },
    numHeads: { key: "attention.head_count", type: "uint32" },
    numKeyValueHeads: {
      key: "attention.head_count_kv",
      type: "uint32",
      absent: ({ numHeads }: LlamaNetworkConfig) => numHeads,
    },
    headSize: {
      key: "attention.key_length",
      also: ["attention.value_length", "rope.dimension_count"],
      type: "uint32",
      absent: ({ hiddenSize, numHeads }: LlamaNetworkConfig) => hiddenSize / numHeads,
    },
    ropeTheta: { key: "rope.freq_base", type: "float32", absent: () => 10_000 },
    rmsNormEpsilon: { key: "attention.layer_norm_rms_epsilon", type: "float32" },
  },
  read: async (file: GgufFile, config: RotaryConfig) => {
    const architecture = file.require("general.architecture", "string");
    if ((file.get(`${architecture}.expert_count`, "number") ?? 0) > 0)
      throw new LineageError(
        "unsupported",
        `${file.path} holds a mixture of experts, which lineage does not load`,
      );
    return { ropeScaling: await ropeScalingOfGguf(file, config) };
  },
  write: ropeScalingToGguf,
} as const;

/** Heads whose pairs llama.cpp keeps side by side, in the architectures that it turns so. */
const llamaRotaryHeads = (module: string, config: LlamaNetworkConfig): number | undefined =>
  module.endsWith(".q_proj")
    ? config.numHeads
    : module.endsWith(".k_proj")
      ? config.numKeyValueHeads
      : undefined;

/** llama.cpp's architecture `llama`, which LLaMA and Mistral share. */
export const llamaArchitecture = {
  ...llamaGguf,
  architecture: "llama",
  rotaryHeads: llamaRotaryHeads,
} as const;

/** LLaMA as the rest of the library knows it. */
export const llama = defineSystem({
  kind: "decoder",
  className: "LlamaForCausalLM",
  config: llamaTable,
  sizes: llamaSizes,
  options: {
    keyValueHeads: {
      field: "numKeyValueHeads",
      help: "heads of keys and values; a group of heads shares each",
      usual: "--heads",
    },
    tieEmbeddings: { field: "tieEmbeddings", help: "use one matrix for input and output embeddings" },
  },
  create: (config) => new Llama(config),
  headNames: { spanPrefix: "transformer" },
  unused: /\.rotary_emb\.inv_freq$|^lm_head\.weight$/,
  depth: depthByName(/^model\.embed_tokens\./, /^model\.layers\.(\d+)\./),
  tokenizer: { kind: "byte-level BPE" },
  gguf: {
    ...llamaArchitecture,
    read: async (file, config) => ({
      ...(await llamaGguf.read(file, config)),
      attentionBias: file.tensors.has("blk.0.attn_q.bias"),
      mlpBias: file.tensors.has("blk.0.ffn_gate.bias"),
    }),
  },
});
