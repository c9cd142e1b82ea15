import {
  Tensor,
  cachedAttention,
  constant,
  equal,
  gather,
  slice,
  stopGradient,
  unsqueeze,
  where,
} from "../graph/index.js";
import type { CacheContext, ForwardContext } from "./context.js";
import { attendTo } from "./cross-attention.js";
import { type DecoderInputs, EncoderDecoder, type KeysAndValues } from "./encoder-decoder.js";
import { type EncoderInputs, attentionMaskOf } from "./encoder.js";
import { normalInit, zerosInit } from "./initializers.js";
import {
  type ActivationName,
  Dropout,
  Embedding,
  LayerNorm,
  Linear,
  activations,
  splitHeads,
} from "./layers.js";
import { Module, Parameter } from "./module.js";
import { throughLayers } from "./stack.js";

// The encoder and the decoder of Vaswani et al. 2017, section 3, as the Transformer, BART, mBART and MASS share them: with
// the norms behind or before each sub-layer, sinusoidal or learned positions, and a norm of the embeddings or none.

export interface EncoderDecoderNetworkConfig {
  readonly vocabSize: number;
  readonly contextLength: number;
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly numDecoderLayers: number;
  readonly numHeads: number;
  readonly numDecoderHeads: number;
  readonly intermediateSize: number;
  readonly decoderIntermediateSize: number;
  readonly activation: ActivationName;
  /** Of the embeddings and behind every sub-layer. */
  readonly dropout: number;
  readonly attentionDropout: number;
  /** Within the feed-forward network. */
  readonly activationDropout: number;
  /** Whether token embeddings are multiplied by the root of `hiddenSize`. */
  readonly scaleEmbeddings: boolean;
  /** Standard deviation of the first weights. */
  readonly initializerRange: number;
  readonly padTokenId: number;
  /** What the decoder reads before a text. */
  readonly decoderStartTokenId: number;
}

/** What a system of this family decides once. */
export interface EncoderDecoderDesign {
  /** Where the norm of a sub-layer stands: behind the residual sum, or before the sub-layer. */
  readonly norm: "post" | "pre";
  readonly positions: "sinusoidal" | { readonly learned: true; readonly offset: number };
  /** Whether the sum of token and position is normalised. */
  readonly embeddingNorm: boolean;
  /** Whether the padding, with which a text begins, embeds as it was initialised and does not learn; as output it does. */
  readonly stillPadding?: boolean;
}

const layerNormEpsilon = 1e-5;

/** Multi-head attention with biases, Vaswani et al. 2017, section 3.2.2, to a sequence or to another. */
class Attention extends Module {
  static override readonly names = { query: "q_proj", key: "k_proj", value: "v_proj", output: "out_proj" };
  readonly query: Linear;
  readonly key: Linear;
  readonly value: Linear;
  readonly output: Linear;

  constructor(
    { hiddenSize, initializerRange, attentionDropout }: EncoderDecoderNetworkConfig,
    private readonly numHeads: number,
    private readonly dropout = attentionDropout,
  ) {
    super();
    const linear = () => new Linear(hiddenSize, hiddenSize, { initializer: normalInit(initializerRange) });
    this.key = linear();
    this.value = linear();
    this.query = linear();
    this.output = linear();
  }

  /** The keys and values of a text, `[batch, sequence, hiddenSize]`. */
  remember(x: Tensor): KeysAndValues {
    return {
      key: splitHeads(this.key.forward(x), this.numHeads),
      value: splitHeads(this.value.forward(x), this.numHeads),
    };
  }

  /** `x` `[batch, sequence, hiddenSize]` looks at `of`, by default itself. */
  override forward(
    x: Tensor,
    options: {
      readonly of?: Tensor | KeysAndValues;
      readonly mask?: Tensor | undefined;
      readonly causal?: boolean;
      readonly random: ForwardContext["random"];
    },
  ): Tensor {
    const { of = x, mask, causal = false, random } = options;
    const query = this.query.forward(x);
    const mixed = attendTo(query, of instanceof Tensor ? this.remember(of) : of, {
      causal,
      dropout: this.dropout,
      random,
      ...(mask && { mask }),
    });
    return this.output.forward(mixed);
  }

  /** `x` `[batch, sequence, hiddenSize]` looks at itself and at what is in a layer's cache. */
  goOn(x: Tensor, cache: CacheContext, layer: number): Tensor {
    const { numHeads } = this;
    const [query, key, value] = [this.query, this.key, this.value].map((part) => part.forward(x)) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    const step = cachedAttention(query, key, value, cache.layers[layer]!, {
      numHeads,
      numKeyValueHeads: numHeads,
    });
    cache.present[layer] = step;
    return this.output.forward(step.output);
  }
}

/** One side's width and number of heads. */
interface LayerSizes {
  readonly numHeads: number;
  readonly intermediateSize: number;
}

/** What the layers of the decoder look at. */
interface LayerContext extends ForwardContext {
  /** States of the source; or, by layer, what is looked at in it. */
  readonly memory?: DecoderInputs["memory"] | undefined;
  readonly memoryMask?: Tensor | undefined;
}

/** What encoder and decoder layers have in common: residual sums with their norm, and the feed-forward network. */
abstract class Layer extends Module {
  protected readonly dropout: Dropout;
  private readonly activationDropout: Dropout;
  private readonly activation: ActivationName;

  constructor(
    { dropout, activationDropout, activation }: EncoderDecoderNetworkConfig,
    private readonly design: EncoderDecoderDesign,
  ) {
    super();
    this.dropout = new Dropout(dropout);
    this.activationDropout = new Dropout(activationDropout);
    this.activation = activation;
  }

  protected residual(
    x: Tensor,
    norm: LayerNorm,
    sublayer: (x: Tensor) => Tensor,
    random: ForwardContext["random"],
  ): Tensor {
    if (this.design.norm === "pre") return x.add(this.dropout.forward(sublayer(norm.forward(x)), random));
    return norm.forward(x.add(this.dropout.forward(sublayer(x), random)));
  }

  protected feedForward(x: Tensor, up: Linear, down: Linear, random: ForwardContext["random"]): Tensor {
    return down.forward(this.activationDropout.forward(activations[this.activation](up.forward(x)), random));
  }
}

/** Self-attention in both directions, then a feed-forward network; `[batch, sequence, hiddenSize]` in and out. */
class EncoderLayer extends Layer {
  static override readonly names = {
    attention: "self_attn",
    attentionNorm: "self_attn_layer_norm",
    up: "fc1",
    down: "fc2",
    finalNorm: "final_layer_norm",
  };
  readonly attention: Attention;
  readonly attentionNorm: LayerNorm;
  readonly up: Linear;
  readonly down: Linear;
  readonly finalNorm: LayerNorm;

  constructor(config: EncoderDecoderNetworkConfig, design: EncoderDecoderDesign, sizes: LayerSizes) {
    super(config, design);
    const { hiddenSize, initializerRange } = config;
    const options = { initializer: normalInit(initializerRange) };
    this.attention = new Attention(config, sizes.numHeads);
    this.attentionNorm = new LayerNorm(hiddenSize, layerNormEpsilon);
    this.up = new Linear(hiddenSize, sizes.intermediateSize, options);
    this.down = new Linear(sizes.intermediateSize, hiddenSize, options);
    this.finalNorm = new LayerNorm(hiddenSize, layerNormEpsilon);
  }

  override forward(x: Tensor, { attentionMask, random }: LayerContext): Tensor {
    const attended = this.residual(
      x,
      this.attentionNorm,
      (h) => this.attention.forward(h, { mask: attentionMask, random }),
      random,
    );
    return this.residual(
      attended,
      this.finalNorm,
      (h) => this.feedForward(h, this.up, this.down, random),
      random,
    );
  }
}

/** Causal self-attention, attention to the source, feed-forward; `[batch, sequence, hiddenSize]` in and out. */
class DecoderLayer extends Layer {
  static override readonly names = {
    attention: "self_attn",
    attentionNorm: "self_attn_layer_norm",
    crossAttention: "encoder_attn",
    crossAttentionNorm: "encoder_attn_layer_norm",
    up: "fc1",
    down: "fc2",
    finalNorm: "final_layer_norm",
  };
  readonly attention: Attention;
  readonly attentionNorm: LayerNorm;
  readonly crossAttention: Attention;
  readonly crossAttentionNorm: LayerNorm;
  readonly up: Linear;
  readonly down: Linear;
  readonly finalNorm: LayerNorm;

  constructor(
    config: EncoderDecoderNetworkConfig,
    design: EncoderDecoderDesign,
    sizes: LayerSizes,
    private readonly layer: number,
  ) {
    super(config, design);
    const { hiddenSize, initializerRange } = config;
    const options = { initializer: normalInit(initializerRange) };
    this.attention = new Attention(config, sizes.numHeads);
    this.attentionNorm = new LayerNorm(hiddenSize, layerNormEpsilon);
    this.crossAttention = new Attention(config, sizes.numHeads);
    this.crossAttentionNorm = new LayerNorm(hiddenSize, layerNormEpsilon);
    this.up = new Linear(hiddenSize, sizes.intermediateSize, options);
    this.down = new Linear(sizes.intermediateSize, hiddenSize, options);
    this.finalNorm = new LayerNorm(hiddenSize, layerNormEpsilon);
  }

  override forward(x: Tensor, { attentionMask, memory, memoryMask, cache, random }: LayerContext): Tensor {
    const of = memory instanceof Tensor ? memory : memory![this.layer]!;
    const attended = this.residual(
      x,
      this.attentionNorm,
      (h) =>
        cache
          ? this.attention.goOn(h, cache, this.layer)
          : this.attention.forward(h, { mask: attentionMask, causal: true, random }),
      random,
    );
    const informed = this.residual(
      attended,
      this.crossAttentionNorm,
      (h) => this.crossAttention.forward(h, { of, mask: memoryMask, random }),
      random,
    );
    return this.residual(
      informed,
      this.finalNorm,
      (h) => this.feedForward(h, this.up, this.down, random),
      random,
    );
  }
}

/**
 * The table of Vaswani et al. 2017, section 3.5, `[positions, hiddenSize]`: sines in its first half and cosines in its
 * second, as tensor2tensor and Marian have it.
 */
export function sinusoidalTable(positions: number, hiddenSize: number): Float32Array {
  const table = new Float32Array(positions * hiddenSize);
  const sines = Math.ceil(hiddenSize / 2);
  for (let position = 0; position < positions; position++)
    for (let channel = 0; channel < hiddenSize; channel++) {
      const cosine = channel >= sines;
      const pair = cosine ? channel - sines : channel;
      const angle = position / 10_000 ** ((2 * pair) / hiddenSize);
      table[position * hiddenSize + channel] = cosine ? Math.cos(angle) : Math.sin(angle);
    }
  return table;
}

/** Embedded tokens through the layers of one side. */
export class EncoderDecoderStack extends Module {
  static override readonly names = {
    positions: "embed_positions",
    embeddingNorm: "layernorm_embedding",
    finalNorm: "layer_norm",
  };
  readonly positions: Embedding | undefined;
  readonly layers: readonly (EncoderLayer | DecoderLayer)[];
  readonly embeddingNorm: LayerNorm | undefined;
  readonly finalNorm: LayerNorm | undefined;
  private readonly dropout: Dropout;

  constructor(
    private readonly config: EncoderDecoderNetworkConfig,
    private readonly design: EncoderDecoderDesign,
    part: "encoder" | "decoder",
  ) {
    super();
    const { contextLength, hiddenSize, initializerRange } = config;
    const { positions, norm } = design;
    this.positions =
      positions === "sinusoidal"
        ? undefined
        : new Embedding(contextLength + positions.offset, hiddenSize, normalInit(initializerRange));
    this.layers =
      part === "encoder"
        ? Array.from(
            { length: config.numLayers },
            () =>
              new EncoderLayer(config, design, {
                numHeads: config.numHeads,
                intermediateSize: config.intermediateSize,
              }),
          )
        : Array.from(
            { length: config.numDecoderLayers },
            (_, layer) =>
              new DecoderLayer(
                config,
                design,
                { numHeads: config.numDecoderHeads, intermediateSize: config.decoderIntermediateSize },
                layer,
              ),
          );
    this.embeddingNorm = design.embeddingNorm ? new LayerNorm(hiddenSize, layerNormEpsilon) : undefined;
    this.finalNorm = norm === "pre" ? new LayerNorm(hiddenSize, layerNormEpsilon) : undefined;
    this.dropout = new Dropout(config.dropout);
  }

  /** @param tokens embedded tokens, `[batch, sequence, hiddenSize]` */
  override forward(tokens: Tensor, context: LayerContext): Tensor {
    const { random } = context;
    const scaled = this.config.scaleEmbeddings ? tokens.mul(Math.sqrt(this.config.hiddenSize)) : tokens;
    const summed = scaled.add(this.positionsOf(tokens, context.positionIds));
    const embedded = this.dropout.forward(this.embeddingNorm?.forward(summed) ?? summed, random);
    return throughLayers(this.layers, embedded, context, (h) => this.finalNorm?.forward(h) ?? h);
  }

  private positionsOf(tokens: Tensor, positionIds: Tensor | undefined): Tensor {
    const { contextLength, hiddenSize } = this.config;
    const offset = this.design.positions === "sinusoidal" ? 0 : this.design.positions.offset;
    const table =
      this.positions?.weight.tensor ??
      constant("float32", [contextLength, hiddenSize], sinusoidalTable(contextLength, hiddenSize));
    const own = offset === 0 ? table : slice(table, 0, offset, offset + contextLength);
    return positionIds ? gather(own, positionIds) : slice(own, 0, 0, tokens.dim(1));
  }
}

/** Both sides over one table of token embeddings. */
export class EncoderDecoderNetwork extends Module {
  static override readonly names = { tokenEmbedding: "shared" };
  readonly tokenEmbedding: Embedding;
  readonly encoder: EncoderDecoderStack;
  readonly decoder: EncoderDecoderStack;

  constructor(
    readonly config: EncoderDecoderNetworkConfig,
    private readonly design: EncoderDecoderDesign,
  ) {
    super();
    this.tokenEmbedding = new Embedding(
      config.vocabSize,
      config.hiddenSize,
      normalInit(config.initializerRange),
    );
    this.encoder = new EncoderDecoderStack(config, design, "encoder");
    this.decoder = new EncoderDecoderStack(config, design, "decoder");
  }

  /** The encoder's states, `[batch, sourceSequence, hiddenSize]`. */
  encode(inputs: EncoderInputs, context: ForwardContext): Tensor {
    return this.encoder.forward(this.embed(inputs.inputIds), {
      ...context,
      attentionMask: attentionMaskOf(inputs),
      positionIds: inputs.positionIds,
    });
  }

  /** The decoder's states, `[batch, sequence, hiddenSize]`. */
  override forward(inputIds: Tensor, { memory, memoryMask }: DecoderInputs, context: ForwardContext): Tensor {
    return this.decoder.forward(this.embed(inputIds), {
      ...context,
      memory,
      memoryMask: attentionMaskOf({ inputIds, attentionMask: memoryMask }),
    });
  }

  /** By layer of the decoder. */
  remember(memory: Tensor): KeysAndValues[] {
    return this.decoder.layers.flatMap((layer) =>
      layer instanceof DecoderLayer ? [layer.crossAttention.remember(memory)] : [],
    );
  }

  private embed(inputIds: Tensor): Tensor {
    const embedded = this.tokenEmbedding.forward(inputIds);
    if (!this.design.stillPadding) return embedded;
    return where(unsqueeze(equal(inputIds, this.config.padTokenId), -1), stopGradient(embedded), embedded);
  }
}

/**
 * Both sides with a language-modelling head: one table embeds the source, the target and the output (Vaswani et al. 2017,
 * section 3.4). The names are those that transformers publishes.
 */
export abstract class SharedEncoderDecoder extends EncoderDecoder {
  static override readonly names: Readonly<Record<string, string>> = {
    network: "model",
    finalBias: "final_logits_bias",
  };
  /** Added to the logits, `[1, vocabSize]`; kept with the weights and never trained. */
  readonly finalBias: Parameter;
  readonly network: EncoderDecoderNetwork;

  constructor(config: EncoderDecoderNetworkConfig, design: EncoderDecoderDesign) {
    super();
    this.network = new EncoderDecoderNetwork(config, design);
    this.finalBias = new Parameter([1, config.vocabSize], zerosInit);
    this.finalBias.trainable = false;
  }

  override encode(inputs: EncoderInputs, context: ForwardContext = {}): Tensor {
    return this.network.encode(inputs, context);
  }

  override remember(memory: Tensor): KeysAndValues[] {
    return this.network.remember(memory);
  }

  override hiddenStates(inputIds: Tensor, inputs: DecoderInputs, context: ForwardContext = {}): Tensor {
    return this.network.forward(inputIds, inputs, context);
  }

  protected override get decoderHeads(): { count: number; size: number } {
    const { hiddenSize, numDecoderHeads } = this.network.config;
    return { count: numDecoderHeads, size: hiddenSize / numDecoderHeads };
  }

  protected override get outputEmbeddings(): Tensor {
    return this.network.tokenEmbedding.weight.tensor;
  }

  protected override get outputBias(): Tensor {
    return this.finalBias.tensor.reshape([this.config.vocabSize]);
  }
}
