import { z } from "zod";
import {
  type Dim,
  type Tensor,
  addDims,
  attention,
  constant,
  matmul,
  multiplyDims,
  observe,
  subtractDims,
  transpose,
} from "../graph/index.js";
import type { ForwardContext } from "./context.js";
import { configEntries } from "./config.js";
import { type ConfigJson, type Field, type ImpliedEntries, entry } from "./config-table.js";
import { classifierDropoutField, encoderFields } from "./encoder-config.js";
import {
  Encoder,
  type EncoderInputs,
  type EncoderLayerConfig,
  attentionMaskOf,
  firstToken,
} from "./encoder.js";
import {
  ChoiceHead,
  EncoderWithHead,
  type Head,
  type HeadConfig,
  MaskedLmHead,
  type MaskedLmConfig,
  PooledHead,
  headOn,
  tokenHeads,
} from "./heads.js";
import { normalInit } from "./initializers.js";
import {
  type ActivationName,
  Dropout,
  Embedding,
  LayerNorm,
  Linear,
  activations,
  mergeHeads,
  splitHeads,
} from "./layers.js";
import { Module } from "./module.js";

// The parts of He et al. 2021, "DeBERTa: Decoding-enhanced BERT with Disentangled Attention", that its versions share.

/** Which of the two position terms of equation 4 the scores have: content-to-position, position-to-content. */
export type PositionTerm = "c2p" | "p2c";

const { activation, dropout, flag, list } = configEntries;
const terms: z.ZodType<readonly PositionTerm[]> = list.pipe(
  z.array(z.enum(["c2p", "p2c"], { error: "it must be made of c2p and p2c" })),
);

/** Entries of every DeBERTa that its network takes from others. */
export const disentangledImplied: ImpliedEntries<{
  readonly hiddenSize: number;
  readonly padTokenId: number;
}> = {
  pooler_hidden_size: ({ hiddenSize }) => hiddenSize,
  embedding_size: ({ hiddenSize }) => hiddenSize,
  padding_idx: ({ padTokenId }) => padTokenId,
};

/** The fields that the versions of DeBERTa share. The order of the terms is as published. */
export const disentangledFields = (
  absent: Parameters<typeof encoderFields>[0],
  publishedTerms: readonly PositionTerm[],
) => ({
  ...encoderFields({ typeVocabSize: 0, layerNormEpsilon: 1e-7, ...absent }),
  /** Terms of the scores besides content to content, section 3.1; none leaves BERT's attention. */
  positionTerms: {
    entries: ["relative_attention", "pos_att_type"],
    schema: terms,
    read: (json) => {
      const relative = entry("relative_attention", flag, { absent: false }).read(json, undefined);
      const found = entry("pos_att_type", terms, { absent: [] }).read(json, undefined);
      return relative ? found : [];
    },
    write: (value) => ({ relative_attention: value.length > 0, pos_att_type: value }),
    published: () => publishedTerms,
  } satisfies Field<readonly PositionTerm[]>,
  /** Largest relative distance that is told from larger ones, equation 3. Published: the context length, 512. */
  maxRelativePositions: {
    entries: ["max_relative_positions"],
    schema: configEntries.size,
    read: (json: ConfigJson, { contextLength }: { contextLength: number }): number => {
      const most = entry("max_relative_positions", z.int(), { absent: -1 }).read(json, undefined);
      return most < 1 ? contextLength : most;
    },
    write: (value: number) => ({ max_relative_positions: value }),
    published: ({ contextLength }: { contextLength: number }) => contextLength,
  },
  /** Whether absolute positions are added to the input. Published: no, they join in the decoder. */
  positionBiasedInput: entry("position_biased_input", flag, { absent: true, published: false }),
  /** Probability of dropout before the pooler of a task's head. */
  poolerDropout: entry("pooler_dropout", dropout, { absent: 0 }),
  poolerActivation: entry("pooler_hidden_act", activation, { absent: "gelu" }),
  classifierDropout: classifierDropoutField("cls_dropout"),
});

/** Embeddings of the relative positions of one pass, `[2 * sequence, hiddenSize]`. */
export interface RelativeEmbeddings {
  /** Row `m` is of a query that stands `sequence - 1 - m` places behind its key. */
  readonly descending: Tensor;
  /** Row `m` is of a query that stands `m - (sequence - 1)` places behind its key. */
  readonly ascending: Tensor;
}

export interface RelativeContext extends ForwardContext {
  readonly relative?: RelativeEmbeddings | undefined;
}

/**
 * The table's rows for all distances of a sequence, each looked up once rather than for every pair.
 * @param table embeddings of relative positions, `[rows, hiddenSize]`
 * @param rowOf the table's row for a query that stands `distance` places behind its key
 * @param contextLength longest sequence
 */
export function relativeEmbeddings(
  table: Tensor,
  rowOf: (distance: number) => number,
  contextLength: number,
  sequence: Dim,
): RelativeEmbeddings {
  const rows = Int32Array.from({ length: 2 * contextLength + 1 }, (_, index) => rowOf(index - contextLength));
  const from = subtractDims(contextLength + 1, sequence);
  const to = addDims(contextLength + 1, sequence);
  const pick = (indices: Int32Array): Tensor =>
    table.gather(constant("int32", [indices.length], indices).slice(0, from, to), 0);
  return { ascending: pick(rows), descending: pick(rows.toReversed()) };
}

/**
 * Scores by distance as scores by place: `[batch, heads, sequence, 2 * sequence]` -> `[batch, heads, sequence, sequence]`,
 * where row `i` becomes its columns `sequence - 1 - i` and on. Read as one long row, these lie one step apart from row to
 * row, so that nothing is gathered (Dai et al. 2019, appendix B).
 */
function byPlace(scores: Tensor): Tensor {
  const [batch, heads, sequence, width] = scores.shape as readonly [Dim, Dim, Dim, Dim];
  const stride = subtractDims(width, 1);
  const start = subtractDims(sequence, 1);
  const flat = scores.reshape([batch, heads, multiplyDims(sequence, width)]);
  const rows = flat.slice(2, start, addDims(start, multiplyDims(sequence, stride)));
  return rows.reshape([batch, heads, sequence, stride]).slice(3, 0, sequence);
}

export interface DisentangledOptions {
  /** Keys of the relative positions in descending order, `[1, heads, 2 * sequence, headSize]`: content-to-position. */
  readonly positionKey?: Tensor | undefined;
  /** Queries of the relative positions in ascending order, `[1, heads, 2 * sequence, headSize]`: position-to-content. */
  readonly positionQuery?: Tensor | undefined;
  readonly dropout: number;
}

/**
 * Disentangled attention, equation 4: content to content, content to position and position to content, over the root of
 * `headSize` times the number of terms. Query, key and value `[batch, heads, sequence, headSize]` -> `[batch, sequence,
 * hiddenSize]`.
 */
export function disentangledAttention(
  query: Tensor,
  key: Tensor,
  value: Tensor,
  { positionKey, positionQuery, dropout }: DisentangledOptions,
  { attentionMask, random }: ForwardContext,
): Tensor {
  const terms = 1 + Number(positionKey !== undefined) + Number(positionQuery !== undefined);
  const scale = 1 / Math.sqrt((query.shape[3] as number) * terms);
  const toPosition = positionKey && byPlace(matmul(query, positionKey, { transposeB: true, alpha: scale }));
  const toContent =
    positionQuery && transpose(byPlace(matmul(key, positionQuery, { transposeB: true, alpha: scale })));
  const bias = toPosition && toContent ? toPosition.add(toContent) : (toPosition ?? toContent);
  const mixed = attention(query, key, value, {
    scale,
    dropout,
    random,
    ...(bias && { bias }),
    ...(attentionMask && { mask: attentionMask }),
  });
  return mergeHeads(mixed);
}

/** `[rows, heads * headSize]` as `[1, heads, rows, headSize]`. */
export const splitTable = (table: Tensor, numHeads: number): Tensor =>
  splitHeads(table.reshape([1, ...table.shape]), numHeads);

export interface DisentangledEmbeddingsConfig {
  readonly vocabSize: number;
  readonly contextLength: number;
  /** Segments; 0 for none. */
  readonly typeVocabSize: number;
  readonly hiddenSize: number;
  /** Whether absolute positions are added to the input, as BERT does, rather than before the decoder alone. */
  readonly positionBiasedInput: boolean;
  readonly hiddenDropout: number;
  readonly layerNormEpsilon: number;
  readonly initializerRange: number;
}

/** The norm of token and, where there are any, segment and absolute position embeddings; padding is zero. */
export class DisentangledEmbeddings extends Module {
  static override readonly names = {
    token: "word_embeddings",
    position: "position_embeddings",
    segment: "token_type_embeddings",
    norm: "LayerNorm",
  };
  readonly token: Embedding;
  readonly position: Embedding | undefined;
  readonly segment: Embedding | undefined;
  readonly norm: LayerNorm;
  private readonly dropout: Dropout;

  constructor(
    private readonly config: DisentangledEmbeddingsConfig,
    {
      positions = config.positionBiasedInput,
      token,
    }: { positions?: boolean; token?: Embedding | undefined } = {},
  ) {
    super();
    const { hiddenSize, typeVocabSize } = config;
    const initializer = normalInit(config.initializerRange);
    this.token = token ?? new Embedding(config.vocabSize, hiddenSize, initializer);
    this.position = positions ? new Embedding(config.contextLength, hiddenSize, initializer) : undefined;
    this.segment = typeVocabSize > 0 ? new Embedding(typeVocabSize, hiddenSize, initializer) : undefined;
    this.norm = new LayerNorm(hiddenSize, config.layerNormEpsilon);
    this.dropout = new Dropout(config.hiddenDropout);
  }

  override forward(inputs: EncoderInputs, { random }: ForwardContext): Tensor {
    const { inputIds, tokenTypeIds } = inputs;
    let sum = this.token.forward(inputIds);
    if (this.config.positionBiasedInput) sum = sum.add(this.positions(inputs));
    if (this.segment) sum = sum.add(this.segment.forwardOrFirst(tokenTypeIds, 1));
    const real = realTokens(inputs);
    const normed = this.norm.forward(sum);
    return this.dropout.forward(real ? normed.mul(real) : normed, random);
  }

  /** Embeddings of the absolute positions, `[sequence, hiddenSize]` or `[batch, sequence, hiddenSize]`. */
  positions({ inputIds, positionIds }: EncoderInputs): Tensor {
    return this.position!.forwardOrFirst(positionIds, inputIds.dim(1));
  }
}

/** 1 for a real token and 0 for padding, `[batch, sequence, 1]`; undefined where no mask says which is which. */
export function realTokens({ attentionMask }: EncoderInputs): Tensor | undefined {
  if (attentionMask?.rank !== 2) return undefined;
  return attentionMask.cast("float32").reshape([...attentionMask.shape, 1]);
}

/** What a disentangled layer asks of its attention. */
export interface DisentangledSelfAttention extends Module {
  /** Queries from `query`, keys and values from `x`, all `[batch, sequence, hiddenSize]`. */
  forward(query: Tensor, x: Tensor, context: RelativeContext): Tensor;
}

/**
 * A post-norm layer around disentangled attention; `[batch, sequence, hiddenSize]` in and out. In the enhanced mask decoder
 * its queries come from elsewhere than its keys and values.
 */
export class DisentangledLayer<A extends DisentangledSelfAttention> extends Module {
  static override readonly names = {
    attention: "attention.self",
    attentionOutput: "attention.output.dense",
    attentionNorm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    outputNorm: "output.LayerNorm",
  };
  readonly attentionOutput: Linear;
  readonly attentionNorm: LayerNorm;
  readonly up: Linear;
  readonly down: Linear;
  readonly outputNorm: LayerNorm;
  private readonly dropout: Dropout;

  constructor(
    private readonly config: EncoderLayerConfig,
    readonly attention: A,
  ) {
    super();
    const { hiddenSize, intermediateSize, layerNormEpsilon } = config;
    const options = { initializer: normalInit(config.initializerRange) };
    this.attentionOutput = new Linear(hiddenSize, hiddenSize, options);
    this.attentionNorm = new LayerNorm(hiddenSize, layerNormEpsilon);
    this.up = new Linear(hiddenSize, intermediateSize, options);
    this.down = new Linear(intermediateSize, hiddenSize, options);
    this.outputNorm = new LayerNorm(hiddenSize, layerNormEpsilon);
    this.dropout = new Dropout(config.hiddenDropout);
  }

  /** @param query where the queries come from; default `x` */
  override forward(x: Tensor, context: RelativeContext, query: Tensor = x): Tensor {
    const mixed = this.attentionOutput.forward(this.attention.forward(query, x, context));
    const h = this.attentionNorm.forward(this.dropout.forward(mixed, context.random).add(query));
    const fed = this.down.forward(activations[this.config.activation](this.up.forward(h)));
    return this.outputNorm.forward(this.dropout.forward(fed, context.random).add(h));
  }
}

/**
 * The enhanced mask decoder, section 3.2: absolute positions join the states of the last layer but one as queries of the
 * last layer, which is applied twice over. `[batch, sequence, hiddenSize]` in and out.
 * @param states output of the last layer but one
 * @param positions embeddings of the absolute positions, broadcast to `states`
 */
export function enhancedMaskDecoder(
  states: Tensor,
  positions: Tensor,
  lastLayer: DisentangledLayer<DisentangledSelfAttention>,
  context: RelativeContext,
): Tensor {
  const once = lastLayer.forward(states, context, states.add(positions));
  return lastLayer.forward(states, context, once);
}

export interface ContextPoolConfig extends HeadConfig {
  readonly poolerActivation: ActivationName;
  /** Probability of dropout before the pooler. */
  readonly poolerDropout: number;
}

/** A layer over the first token's state, then logits `[batch, numLabels]`. */
export class ContextPooledHead extends Module implements Head {
  static override readonly names = { pooler: "pooler.dense", output: "" };
  readonly pooler: Linear;
  readonly output: PooledHead;
  private readonly dropout: Dropout;

  constructor(
    private readonly config: ContextPoolConfig,
    numLabels: number,
  ) {
    super();
    this.pooler = new Linear(config.hiddenSize, config.hiddenSize, {
      initializer: normalInit(config.initializerRange),
    });
    this.output = new PooledHead(config, numLabels, (hidden, context) => this.pool(hidden, context));
    this.dropout = new Dropout(config.poolerDropout);
  }

  override forward(hidden: Tensor, context: ForwardContext): Tensor {
    return this.output.forward(hidden, context);
  }

  private pool(hidden: Tensor, { random }: ForwardContext): Tensor {
    const first = this.dropout.forward(firstToken(hidden), random);
    return activations[this.config.poolerActivation](this.pooler.forward(first));
  }
}

/** The layers of a DeBERTa. */
export interface DisentangledLayers extends Module {
  readonly layers: readonly DisentangledLayer<DisentangledSelfAttention>[];
  /** What the layers share in one pass over `x`. */
  contextFor(x: Tensor, context: ForwardContext): RelativeContext;
  /**
   * The output of every layer, the embeddings first.
   * @param real 1 for a real token, `[batch, sequence, 1]`
   */
  forward(x: Tensor, real: Tensor | undefined, context: RelativeContext): Tensor[];
}

/** A DeBERTa: embeddings, and layers that attend to contents and relative positions apart. */
export abstract class DisentangledEncoder extends Encoder {
  static override readonly names = { layers: "encoder" };
  abstract readonly embeddings: DisentangledEmbeddings;
  abstract readonly layers: DisentangledLayers;

  override forward(inputs: EncoderInputs, context: ForwardContext = {}): Tensor {
    return this.run(inputs, context).states.at(-1)!;
  }

  /** States for predicting masked tokens, through the enhanced mask decoder: `[batch, sequence, hiddenSize]`. */
  decode(inputs: EncoderInputs, context: ForwardContext = {}): Tensor {
    const { states, within } = this.run(inputs, context);
    const positions = this.embeddings.positions(inputs);
    return enhancedMaskDecoder(states.at(-2)!, positions, this.layers.layers.at(-1)!, within);
  }

  private run(inputs: EncoderInputs, context: ForwardContext): { states: Tensor[]; within: RelativeContext } {
    const x = this.embeddings.forward(inputs, context);
    const within = this.layers.contextFor(x, { ...context, attentionMask: attentionMaskOf(inputs) });
    const states = this.layers.forward(x, realTokens(inputs), within);
    for (const state of states) observe("hidden", state);
    return { states, within };
  }
}

/** Masked language modelling through the enhanced mask decoder, under its authors' names. */
export class EnhancedMaskedLm<E extends DisentangledEncoder> extends EncoderWithHead<E, MaskedLmHead> {
  constructor(encoder: E, config: Omit<MaskedLmConfig, "embeddingSize">) {
    const { weight } = encoder.embeddings.token;
    const head = new MaskedLmHead({ ...config, embeddingSize: config.hiddenSize }, weight.tensor);
    super(encoder, head, { encoder: "deberta", head: "lm_predictions.lm_head" });
  }

  /** Logits `[batch, sequence, vocabSize]`. */
  override forward(inputs: EncoderInputs, context: ForwardContext = {}): Tensor {
    return this.head.forward(this.encoder.decode(inputs, context));
  }
}

/** The heads that the versions share, but for the masked language model. */
export const disentangledHeads = <C extends ContextPoolConfig & { readonly hiddenDropout: number }>(
  encoder: (config: C) => DisentangledEncoder,
) => ({
  classify: headOn(
    "deberta",
    encoder,
    (_, config: C, numLabels) => new ContextPooledHead(config, numLabels),
    "classifier",
  ),
  ...tokenHeads("deberta", encoder, ({ hiddenDropout }: C) => hiddenDropout),
  choice: headOn(
    "deberta",
    encoder,
    (_, config: C) => new ChoiceHead(new ContextPooledHead(config, 1)),
    "classifier",
  ),
});
