import { type Tensor, attention, squeeze, unsqueeze } from "../graph/index.js";
import type { ForwardContext } from "./context.js";
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
import { throughLayers } from "./stack.js";

/** What every encoder takes. */
export interface EncoderInputs {
  /** Int32 or int64 `[batch, sequence]`. */
  readonly inputIds: Tensor;
  /** Which segment each token belongs to, `[batch, sequence]`. Default: all the first. */
  readonly tokenTypeIds?: Tensor | undefined;
  /**
   * Bool. `[batch, sequence]`: true for a real token, false for padding; or `[batch, sequence, sequence]`: true where a
   * query (the second axis) may look at a key (the last). Default: everything is seen.
   */
  readonly attentionMask?: Tensor | undefined;
  /** Position of every token, `[batch, sequence]`. Default: counted by the model's own rule. */
  readonly positionIds?: Tensor | undefined;
}

/** What is common to the configurations of encoders. */
export interface EncoderConfig {
  readonly vocabSize: number;
  /** Positions that the model knows: the longest sequence, special tokens included. */
  readonly contextLength: number;
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly padTokenId: number;
  readonly initializerRange: number;
}

/** A bidirectional network: token ids to one state for each. */
export abstract class Encoder extends Module {
  abstract readonly config: EncoderConfig;

  /** The last layer's states `[batch, sequence, hiddenSize]`. */
  abstract override forward(inputs: EncoderInputs, context?: ForwardContext): Tensor;

  /** The last layer's states `[batch, sequence, hiddenSize]`. */
  encode(inputs: EncoderInputs, context: ForwardContext = {}): Tensor {
    return this.forward(inputs, context);
  }
}

/** A mask of an encoder's inputs as attention takes it, broadcast to `[batch, numHeads, sequence, sequence]`. */
export function attentionMaskOf({ attentionMask }: EncoderInputs): Tensor | undefined {
  if (!attentionMask) return undefined;
  const queries = attentionMask.rank === 2 ? unsqueeze(attentionMask, 1) : attentionMask;
  return unsqueeze(queries, 1);
}

export interface EncoderEmbeddingsConfig {
  readonly vocabSize: number;
  /** Rows of the position table. */
  readonly positions: number;
  readonly typeVocabSize: number;
  readonly embeddingSize: number;
  readonly hiddenDropout: number;
  readonly layerNormEpsilon: number;
  readonly initializerRange: number;
}

/**
 * The norm of the sum of token, segment and position embeddings, Devlin et al. 2019, figure 2: `[batch, sequence]` ->
 * `[batch, sequence, embeddingSize]`.
 */
export class EncoderEmbeddings extends Module {
  static override readonly names = {
    token: "word_embeddings",
    position: "position_embeddings",
    segment: "token_type_embeddings",
    norm: "LayerNorm",
  };
  readonly token: Embedding;
  readonly position: Embedding;
  readonly segment: Embedding;
  readonly norm: LayerNorm;
  private readonly dropout: Dropout;

  constructor(config: EncoderEmbeddingsConfig) {
    super();
    const { embeddingSize } = config;
    const initializer = normalInit(config.initializerRange);
    this.token = new Embedding(config.vocabSize, embeddingSize, initializer);
    this.position = new Embedding(config.positions, embeddingSize, initializer);
    this.segment = new Embedding(config.typeVocabSize, embeddingSize, initializer);
    this.norm = new LayerNorm(embeddingSize, config.layerNormEpsilon);
    this.dropout = new Dropout(config.hiddenDropout);
  }

  override forward(
    { inputIds, tokenTypeIds, positionIds }: EncoderInputs,
    { random }: ForwardContext,
  ): Tensor {
    const segments = this.segment.forwardOrFirst(tokenTypeIds, 1);
    const positions = this.position.forwardOrFirst(positionIds, inputIds.dim(1));
    const sum = this.token.forward(inputIds).add(segments).add(positions);
    return this.dropout.forward(this.norm.forward(sum), random);
  }
}

export interface MultiHeadOptions {
  readonly numHeads: number;
  /** Probability of dropout of the attention probabilities. Default 0. */
  readonly dropout?: number;
  /** Added to the scores, broadcast to `[batch, numHeads, queryLength, keyLength]`. */
  readonly bias?: Tensor;
  /** Factor of the scores. Default `1 / sqrt(headSize)`. */
  readonly scale?: number;
  /** Whether a query sees only the keys up to its own position. */
  readonly causal?: boolean;
}

/**
 * Multi-head attention, in both directions unless told otherwise, Vaswani et al. 2017, section 3.2.2, between the projections: query, key and
 * value `[batch, length, hiddenSize]` -> `[batch, queryLength, hiddenSize]`. The context's mask says who looks where.
 */
export function multiHeadAttention(
  query: Tensor,
  key: Tensor,
  value: Tensor,
  { numHeads, ...options }: MultiHeadOptions,
  { attentionMask, random }: ForwardContext,
): Tensor {
  const mixed = attention(
    splitHeads(query, numHeads),
    splitHeads(key, numHeads),
    splitHeads(value, numHeads),
    {
      ...options,
      random,
      ...(attentionMask && { mask: attentionMask }),
    },
  );
  return mergeHeads(mixed);
}

export interface EncoderLayerConfig {
  readonly hiddenSize: number;
  readonly numHeads: number;
  readonly intermediateSize: number;
  readonly activation: ActivationName;
  readonly hiddenDropout: number;
  readonly attentionDropout: number;
  readonly layerNormEpsilon: number;
  readonly initializerRange: number;
}

/**
 * The encoder layer of Vaswani et al. 2017, section 3.1: self-attention, then a feed-forward network, each followed by a
 * residual sum and a norm; `[batch, sequence, hiddenSize]` in and out. Its names are BERT's; a model that publishes others
 * extends it with its own `static names`.
 */
export class PostNormLayer extends Module {
  static override readonly names: Readonly<Record<string, string>> = {
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    attentionOutput: "attention.output.dense",
    attentionNorm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    outputNorm: "output.LayerNorm",
  };
  readonly query: Linear;
  readonly key: Linear;
  readonly value: Linear;
  readonly attentionOutput: Linear;
  readonly attentionNorm: LayerNorm;
  readonly up: Linear;
  readonly down: Linear;
  readonly outputNorm: LayerNorm;
  private readonly dropout: Dropout;

  constructor(private readonly config: EncoderLayerConfig) {
    super();
    const { hiddenSize, intermediateSize, layerNormEpsilon } = config;
    const options = { initializer: normalInit(config.initializerRange) };
    this.query = new Linear(hiddenSize, hiddenSize, options);
    this.key = new Linear(hiddenSize, hiddenSize, options);
    this.value = new Linear(hiddenSize, hiddenSize, options);
    this.attentionOutput = new Linear(hiddenSize, hiddenSize, options);
    this.attentionNorm = new LayerNorm(hiddenSize, layerNormEpsilon);
    this.up = new Linear(hiddenSize, intermediateSize, options);
    this.down = new Linear(intermediateSize, hiddenSize, options);
    this.outputNorm = new LayerNorm(hiddenSize, layerNormEpsilon);
    this.dropout = new Dropout(config.hiddenDropout);
  }

  override forward(x: Tensor, context: ForwardContext): Tensor {
    const { numHeads, attentionDropout, activation } = this.config;
    const mixed = multiHeadAttention(
      this.query.forward(x),
      this.key.forward(x),
      this.value.forward(x),
      { numHeads, dropout: attentionDropout },
      context,
    );
    const attended = this.dropout.forward(this.attentionOutput.forward(mixed), context.random);
    const h = this.attentionNorm.forward(attended.add(x));
    const fed = this.down.forward(activations[activation](this.up.forward(h)));
    return this.outputNorm.forward(this.dropout.forward(fed, context.random).add(h));
  }
}

/** Layers one after the other; `[batch, sequence, hiddenSize]` in and out. */
export class EncoderLayers extends Module {
  static override readonly names = { layers: "layer" };
  readonly layers: readonly PostNormLayer[];

  constructor(config: EncoderLayerConfig & { readonly numLayers: number }) {
    super();
    this.layers = Array.from({ length: config.numLayers }, () => new PostNormLayer(config));
  }

  override forward(x: Tensor, context: ForwardContext): Tensor {
    return throughLayers(this.layers, x, context);
  }
}

/**
 * What speaks for a whole sequence, Devlin et al. 2019, section 3.1: a tanh layer over the first token's state; `[batch,
 * sequence, hiddenSize]` -> `[batch, hiddenSize]`.
 */
export class Pooler extends Module {
  readonly dense: Linear;

  constructor(config: { readonly hiddenSize: number; readonly initializerRange: number }) {
    super();
    this.dense = new Linear(config.hiddenSize, config.hiddenSize, {
      initializer: normalInit(config.initializerRange),
    });
  }

  override forward(hidden: Tensor): Tensor {
    return this.dense.forward(firstToken(hidden)).tanh();
  }
}

/** The state of every sequence's first token, `[batch, sequence, hiddenSize]` -> `[batch, hiddenSize]`. */
export const firstToken = (hidden: Tensor): Tensor => squeeze(hidden.slice(1, 0, 1), 1);

/**
 * The states at some positions alone, counted through the batch row after row: hidden `[batch, sequence, hiddenSize]`,
 * positions `[count]` -> `[count, hiddenSize]`. What follows is then computed for them and for no other token.
 */
export const statesAt = (hidden: Tensor, positions: Tensor): Tensor =>
  hidden.reshape([-1, hidden.shape.at(-1)!]).gather(positions, 0);
