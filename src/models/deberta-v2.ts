import { z } from "zod";
import { LineageError } from "../base/errors.js";
import {
  type Tensor,
  addDims,
  concat,
  gather,
  linear,
  squeeze,
  stopGradient,
  zeros,
} from "../graph/index.js";
import {
  type ActivationName,
  ChoiceHead,
  ContextPooledHead,
  DisentangledEmbeddings,
  DisentangledLayer,
  Dropout,
  Embedding,
  Encoder,
  type EncoderInputs,
  EncoderWithHead,
  type ForwardContext,
  LayerNorm,
  Linear,
  MaskedLmHead,
  Module,
  Parameter,
  type PositionTerm,
  type RelativeContext,
  SpanHead,
  TokenHead,
  activations,
  attentionMaskOf,
  checkHeads,
  configEntries,
  disentangledAttention,
  encoderEntries,
  enhancedMaskDecoder,
  fromEncoderEntries,
  normalInit,
  parseConfig,
  realTokens,
  relativeEmbeddings,
  splitHeads,
  splitTable,
  toEncoderEntries,
  zerosInit,
} from "../nn/index.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

/**
 * The second and third version of DeBERTa: He et al. 2021, "DeBERTa: Decoding-enhanced BERT with Disentangled Attention",
 * with the changes of its second release, and He et al. 2021, "DeBERTaV3: Improving DeBERTa using ELECTRA-Style Pre-Training
 * with Gradient-Disentangled Embedding Sharing", which trains the same network otherwise.
 */
export interface DebertaV2Config {
  readonly vocabSize: number;
  /** Positions that the model knows. */
  readonly contextLength: number;
  /** Segments that it tells apart. Published: 0, none. */
  readonly typeVocabSize: number;
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  /** Width of the feed-forward layer. Published: 4 hiddenSize. */
  readonly intermediateSize: number;
  readonly activation: ActivationName;
  /** Terms of the scores besides content to content; none leaves BERT's attention. */
  readonly positionTerms: readonly PositionTerm[];
  /** Largest relative distance that is told from larger ones. Published: the context length, 512. */
  readonly maxRelativePositions: number;
  /** Buckets to each side: near distances have one each, farther ones share them by their logarithm. 0 for one each. Published: 256. */
  readonly positionBuckets: number;
  /** Whether positions go through the projections of the contents. Published: yes. */
  readonly sharePositionProjections: boolean;
  /** Whether the embeddings of relative positions are normed. Published: yes. */
  readonly normRelativeEmbeddings: boolean;
  /** Width of the convolution beside the first layer; 0 for none, as in the third version. */
  readonly convolutionSize: number;
  readonly convolutionActivation: ActivationName;
  /** Whether absolute positions are added to the input. Published: no. */
  readonly positionBiasedInput: boolean;
  /** Probability of dropout after the embeddings and before each residual sum. */
  readonly hiddenDropout: number;
  /** Probability of dropout of the attention probabilities. */
  readonly attentionDropout: number;
  /** Probability of dropout before the pooler of a task's head. */
  readonly poolerDropout: number;
  readonly poolerActivation: ActivationName;
  /** Probability of dropout before a task's classifier. */
  readonly classifierDropout: number;
  readonly layerNormEpsilon: number;
  /** Standard deviation of the first weights. */
  readonly initializerRange: number;
  readonly padTokenId: number;
}

/** A configuration with the published choices where `sizes` makes none. Throws `config` for one that contradicts itself. */
export function debertaV2Config(
  sizes: Partial<DebertaV2Config> & Pick<DebertaV2Config, "hiddenSize" | "numLayers" | "numHeads">,
): DebertaV2Config {
  const config: DebertaV2Config = {
    vocabSize: 128_100,
    contextLength: 512,
    typeVocabSize: 0,
    intermediateSize: 4 * sizes.hiddenSize,
    activation: "gelu",
    positionTerms: ["p2c", "c2p"],
    maxRelativePositions: sizes.contextLength ?? 512,
    positionBuckets: 256,
    sharePositionProjections: true,
    normRelativeEmbeddings: true,
    convolutionSize: 0,
    convolutionActivation: "gelu",
    positionBiasedInput: false,
    hiddenDropout: 0.1,
    attentionDropout: 0.1,
    poolerDropout: 0,
    poolerActivation: "gelu",
    classifierDropout: sizes.hiddenDropout ?? 0.1,
    layerNormEpsilon: 1e-7,
    initializerRange: 0.02,
    padTokenId: 0,
    ...sizes,
  };
  checkHeads(config);
  if (config.convolutionSize % 2 === 0 && config.convolutionSize !== 0) {
    throw new LineageError(
      "config",
      `a convolution over ${config.convolutionSize} tokens has no middle: convolutionSize must be odd, or 0 for none`,
    );
  }
  return config;
}

const convolution = { convolutionSize: 3 };
/** The published sizes of the second and the third version. */
export const debertaV2Sizes = {
  "deberta-v2-xlarge": debertaV2Config({ hiddenSize: 1536, numLayers: 24, numHeads: 24, ...convolution }),
  "deberta-v2-xxlarge": debertaV2Config({ hiddenSize: 1536, numLayers: 48, numHeads: 24, ...convolution }),
  "deberta-v3-xsmall": debertaV2Config({ hiddenSize: 384, numLayers: 12, numHeads: 6 }),
  "deberta-v3-small": debertaV2Config({ hiddenSize: 768, numLayers: 6, numHeads: 12 }),
  "deberta-v3-base": debertaV2Config({ hiddenSize: 768, numLayers: 12, numHeads: 12 }),
  "deberta-v3-large": debertaV2Config({ hiddenSize: 1024, numLayers: 24, numHeads: 16 }),
} as const;

const { size, activation, dropout, epsilon, list } = configEntries;
const huggingFaceConfig = z.object({
  ...encoderEntries,
  model_type: z.literal("deberta-v2"),
  vocab_size: size.default(128_100),
  type_vocab_size: z.int().nonnegative().default(0),
  hidden_size: size.default(1536),
  num_hidden_layers: size.default(24),
  num_attention_heads: size.default(24),
  intermediate_size: size.default(6144),
  relative_attention: z.boolean().default(false),
  max_relative_positions: z.int().default(-1),
  position_buckets: z.int().default(-1),
  pos_att_type: list.pipe(z.array(z.enum(["c2p", "p2c"]))),
  share_att_key: z.boolean().default(false),
  norm_rel_ebd: list,
  conv_kernel_size: z.int().nonnegative().default(0),
  conv_groups: z.literal(1).default(1),
  conv_act: activation.default("tanh"),
  position_biased_input: z.boolean().default(true),
  pooler_dropout: dropout.default(0),
  pooler_hidden_act: activation.default("gelu"),
  cls_dropout: dropout.nullish(),
  layer_norm_eps: epsilon.default(1e-7),
});

/** The configuration in a `config.json` of Hugging Face transformers. Throws `config` saying which entry is wrong. */
export function debertaV2FromHuggingFace(json: unknown): DebertaV2Config {
  const config = parseConfig(huggingFaceConfig, json, "DeBERTa of the second or third version");
  return debertaV2Config({
    ...fromEncoderEntries(config),
    positionTerms: config.relative_attention ? config.pos_att_type : [],
    maxRelativePositions:
      config.max_relative_positions < 1 ? config.max_position_embeddings : config.max_relative_positions,
    positionBuckets: Math.max(0, config.position_buckets),
    sharePositionProjections: config.share_att_key,
    normRelativeEmbeddings: config.norm_rel_ebd.includes("layer_norm"),
    convolutionSize: config.conv_kernel_size,
    convolutionActivation: config.conv_act,
    positionBiasedInput: config.position_biased_input,
    poolerDropout: config.pooler_dropout,
    poolerActivation: config.pooler_hidden_act,
    classifierDropout: config.cls_dropout ?? config.hidden_dropout_prob,
  });
}

/** The `config.json` that Hugging Face transformers reads. */
export const debertaV2ToHuggingFace = (config: DebertaV2Config): Record<string, unknown> => ({
  model_type: "deberta-v2",
  ...toEncoderEntries(config),
  relative_attention: config.positionTerms.length > 0,
  max_relative_positions: config.maxRelativePositions,
  position_buckets: config.positionBuckets > 0 ? config.positionBuckets : -1,
  pos_att_type: config.positionTerms,
  share_att_key: config.sharePositionProjections,
  norm_rel_ebd: config.normRelativeEmbeddings ? "layer_norm" : "none",
  conv_kernel_size: config.convolutionSize,
  conv_act: config.convolutionActivation,
  position_biased_input: config.positionBiasedInput,
  pooler_dropout: config.poolerDropout,
  pooler_hidden_act: config.poolerActivation,
  cls_dropout: config.classifierDropout,
});

// ---- Parts --------------------------------------------------------------------------------------------------------

/**
 * The bucket of a distance: itself up to half the buckets, then by the logarithm of the distance up to `maxDistance`; the
 * sign is kept.
 */
export function logBucket(distance: number, buckets: number, maxDistance: number): number {
  const middle = Math.floor(buckets / 2);
  const size = Math.abs(distance);
  if (size <= middle) return distance;
  const share = Math.log(size / middle) / Math.log((maxDistance - 1) / middle);
  // In float32, as the reference computes it: at a boundary the rounding decides.
  return Math.sign(distance) * (Math.ceil(Math.fround(share * (middle - 1))) + middle);
}

/** Disentangled self-attention whose positions go through the contents' projections, or through their own. */
class DebertaV2SelfAttention extends Module {
  static override readonly names = {
    query: "query_proj",
    key: "key_proj",
    value: "value_proj",
    positionKey: "pos_key_proj",
    positionQuery: "pos_query_proj",
  };
  readonly query: Linear;
  readonly key: Linear;
  readonly value: Linear;
  readonly positionKey: Linear | undefined;
  readonly positionQuery: Linear | undefined;
  private readonly positionDropout: Dropout;

  constructor(private readonly config: DebertaV2Config) {
    super();
    const { hiddenSize, positionTerms, sharePositionProjections } = config;
    const projection = () =>
      new Linear(hiddenSize, hiddenSize, { initializer: normalInit(config.initializerRange) });
    this.query = projection();
    this.key = projection();
    this.value = projection();
    this.positionKey = !sharePositionProjections && positionTerms.includes("c2p") ? projection() : undefined;
    this.positionQuery =
      !sharePositionProjections && positionTerms.includes("p2c") ? projection() : undefined;
    this.positionDropout = new Dropout(config.hiddenDropout);
  }

  override forward(query: Tensor, x: Tensor, context: RelativeContext): Tensor {
    const { numHeads, positionTerms, attentionDropout } = this.config;
    const table = (term: PositionTerm, rows: Tensor | undefined, projection: Linear) =>
      rows && positionTerms.includes(term)
        ? splitTable(projection.forward(this.positionDropout.forward(rows, context.random)), numHeads)
        : undefined;
    return disentangledAttention(
      splitHeads(this.query.forward(query), numHeads),
      splitHeads(this.key.forward(x), numHeads),
      splitHeads(this.value.forward(x), numHeads),
      {
        positionKey: table("c2p", context.relative?.descending, this.positionKey ?? this.key),
        positionQuery: table("p2c", context.relative?.ascending, this.positionQuery ?? this.query),
        dropout: attentionDropout,
      },
      context,
    );
  }
}

/** The convolution of the second version, which stands beside the first layer and tells it what is next to what. */
class DebertaV2Convolution extends Module {
  static override readonly names = { weight: "conv.weight", bias: "conv.bias", norm: "LayerNorm" };
  /** `[out, in, convolutionSize]`. */
  readonly weight: Parameter;
  readonly bias: Parameter;
  readonly norm: LayerNorm;
  private readonly dropout: Dropout;

  constructor(private readonly config: DebertaV2Config) {
    super();
    const { hiddenSize, convolutionSize } = config;
    this.weight = new Parameter(
      [hiddenSize, hiddenSize, convolutionSize],
      normalInit(config.initializerRange),
    );
    this.bias = new Parameter([hiddenSize], zerosInit);
    this.norm = new LayerNorm(hiddenSize, config.layerNormEpsilon);
    this.dropout = new Dropout(config.hiddenDropout);
  }

  /** @param embedded what the first layer was given @param output what it made of it */
  override forward(
    embedded: Tensor,
    output: Tensor,
    real: Tensor | undefined,
    { random }: ForwardContext,
  ): Tensor {
    const { convolutionSize, convolutionActivation } = this.config;
    const [batch, sequence, hiddenSize] = embedded.shape;
    const side = (convolutionSize - 1) / 2;
    const edge = zeros([batch!, side, hiddenSize!]);
    const wide = concat([edge, embedded, edge], 1);
    let sum: Tensor | undefined;
    for (let offset = 0; offset < convolutionSize; offset++) {
      const weight = squeeze(this.weight.tensor.slice(2, offset, offset + 1), 2);
      const shifted = wide.slice(1, offset, addDims(sequence!, offset));
      const part = linear(shifted, weight, sum ? undefined : this.bias.tensor, { transposeWeight: true });
      sum = sum ? sum.add(part) : part;
    }
    const masked = real ? sum!.mul(real) : sum!;
    const mixed = activations[convolutionActivation](this.dropout.forward(masked, random));
    const normed = this.norm.forward(output.add(mixed));
    return real ? normed.mul(real) : normed;
  }
}

type DebertaV2Layer = DisentangledLayer<DebertaV2SelfAttention>;

/** The layers, the embeddings of relative positions that they share, and the convolution. */
class DebertaV2Layers extends Module {
  static override readonly names = {
    layers: "layer",
    relative: "rel_embeddings",
    relativeNorm: "LayerNorm",
    convolution: "conv",
  };
  readonly layers: readonly DebertaV2Layer[];
  readonly relative: Embedding | undefined;
  readonly relativeNorm: LayerNorm | undefined;
  readonly convolution: DebertaV2Convolution | undefined;

  constructor(private readonly config: DebertaV2Config) {
    super();
    const { hiddenSize, positionTerms, normRelativeEmbeddings, layerNormEpsilon } = config;
    this.layers = Array.from(
      { length: config.numLayers },
      () => new DisentangledLayer(config, new DebertaV2SelfAttention(config)),
    );
    this.relative =
      positionTerms.length > 0
        ? new Embedding(2 * this.span, hiddenSize, normalInit(config.initializerRange))
        : undefined;
    this.relativeNorm = normRelativeEmbeddings ? new LayerNorm(hiddenSize, layerNormEpsilon) : undefined;
    this.convolution = config.convolutionSize > 0 ? new DebertaV2Convolution(config) : undefined;
  }

  /** Rows of the table to each side. */
  private get span(): number {
    return this.config.positionBuckets || this.config.maxRelativePositions;
  }

  contextFor(x: Tensor, context: ForwardContext): RelativeContext {
    if (!this.relative) return context;
    const { contextLength, positionBuckets, maxRelativePositions } = this.config;
    const table = this.relative.weight.tensor;
    const rowOf = (distance: number): number => {
      const bucket =
        positionBuckets > 0 ? logBucket(distance, positionBuckets, maxRelativePositions) : distance;
      return Math.min(Math.max(bucket + this.span, 0), 2 * this.span - 1);
    };
    const normed = this.relativeNorm ? this.relativeNorm.forward(table) : table;
    return { ...context, relative: relativeEmbeddings(normed, rowOf, contextLength, x.dim(1)) };
  }

  /** The output of every layer, the embeddings first. */
  override forward(x: Tensor, real: Tensor | undefined, context: RelativeContext): Tensor[] {
    const states = [x];
    for (const layer of this.layers) {
      const output = layer.forward(states.at(-1)!, context);
      const beside = states.length === 1 ? this.convolution : undefined;
      states.push(beside ? beside.forward(x, output, real, context) : output);
    }
    return states;
  }
}

// ---- Model --------------------------------------------------------------------------------------------------------

/** DeBERTa of the second and third version. */
export class DebertaV2 extends Encoder {
  static override readonly names = { layers: "encoder" };
  readonly embeddings: DisentangledEmbeddings;
  readonly layers: DebertaV2Layers;

  /**
   * @param options.positions whether there are absolute positions, which the decoder needs and fine-tuning does without
   * @param options.token token embeddings in place of the model's own
   */
  constructor(
    readonly config: DebertaV2Config,
    options: { positions?: boolean; token?: Embedding } = {},
  ) {
    super();
    this.embeddings = new DisentangledEmbeddings(config, options);
    this.layers = new DebertaV2Layers(config);
  }

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
    return { states: this.layers.forward(x, realTokens(inputs), within), within };
  }
}

// ---- Heads --------------------------------------------------------------------------------------------------------

/** The masked language model's head under BERT's names, which transformers gives it. */
export class DebertaV2MaskedLmHead extends MaskedLmHead {
  static override readonly names = { dense: "transform.dense", norm: "transform.LayerNorm" };

  constructor(deberta: DebertaV2) {
    const { config } = deberta;
    super({ ...config, embeddingSize: config.hiddenSize }, deberta.embeddings.token.weight.tensor);
  }
}

/** Masked language modelling without the decoder, as transformers has it: logits `[batch, sequence, vocabSize]`. */
export function debertaV2ForMaskedLm(config: DebertaV2Config) {
  const deberta = new DebertaV2(config);
  return new EncoderWithHead(deberta, new DebertaV2MaskedLmHead(deberta), {
    encoder: "deberta",
    head: "cls.predictions",
  });
}

/** Masked language modelling through the enhanced mask decoder, under its authors' names; the third version's generator, too. */
export class DebertaV2Generator extends EncoderWithHead<DebertaV2, MaskedLmHead> {
  constructor(config: DebertaV2Config) {
    const deberta = new DebertaV2(config, { positions: true });
    const { weight } = deberta.embeddings.token;
    const head = new MaskedLmHead({ ...config, embeddingSize: config.hiddenSize }, weight.tensor);
    super(deberta, head, { encoder: "deberta", head: "lm_predictions.lm_head" });
  }

  /** Logits `[batch, sequence, vocabSize]`. */
  override forward(inputs: EncoderInputs, context: ForwardContext = {}): Tensor {
    return this.head.forward(this.encoder.decode(inputs, context));
  }
}

/** Whether each token was replaced, in the light of the first token's state: logits `[batch, sequence]`. */
export class DebertaReplacedTokenHead extends Module {
  static override readonly names = { norm: "LayerNorm" };
  readonly dense: Linear;
  readonly norm: LayerNorm;
  readonly classifier: Linear;

  constructor(private readonly config: DebertaV2Config) {
    super();
    const { hiddenSize, initializerRange, layerNormEpsilon } = config;
    const options = { initializer: normalInit(initializerRange) };
    this.dense = new Linear(hiddenSize, hiddenSize, options);
    this.norm = new LayerNorm(hiddenSize, layerNormEpsilon);
    this.classifier = new Linear(hiddenSize, 1, options);
  }

  override forward(hidden: Tensor): Tensor {
    const inContext = this.norm.forward(hidden.add(hidden.slice(1, 0, 1)));
    const x = activations[this.config.activation](this.dense.forward(inContext));
    return squeeze(this.classifier.forward(x), -1);
  }
}

/** The third version's discriminator: logits `[batch, sequence]` that a token was replaced. */
export function debertaV3ForPretraining(config: DebertaV2Config, token?: Embedding) {
  const deberta = new DebertaV2(config, token && { token });
  return new EncoderWithHead(deberta, new DebertaReplacedTokenHead(config), {
    encoder: "deberta",
    head: "mask_predictions",
  });
}

/**
 * The discriminator's token embeddings under gradient-disentangled sharing, He et al. 2021 ("DeBERTaV3"), section 3.2: the
 * generator's, through which none of its gradient flows, and a difference of its own, which starts at zero.
 */
class DisentangledSharing extends Embedding {
  constructor(private readonly shared: Embedding) {
    super(shared.count, shared.hiddenSize, zerosInit);
  }

  override forward(ids: Tensor): Tensor {
    return stopGradient(gather(this.shared.weight.tensor, ids)).add(super.forward(ids));
  }
}

/**
 * The third version as it is trained: replaced-token detection with gradient-disentangled embedding sharing. The generator
 * has the discriminator's widths and half its depth, section 4.1. Its objective is `replacedTokenObjective`.
 */
export class DebertaV3Pretraining extends Module {
  readonly generator: DebertaV2Generator;
  readonly discriminator: ReturnType<typeof debertaV3ForPretraining>;

  /** @param generator its sizes; vocabulary and hidden size are the discriminator's. Default: half as many layers */
  constructor(config: DebertaV2Config, generator: Partial<DebertaV2Config> = {}) {
    super();
    const { vocabSize, hiddenSize, numLayers } = config;
    const depth = Math.max(1, Math.round(numLayers / 2));
    this.generator = new DebertaV2Generator({
      ...config,
      numLayers: depth,
      ...generator,
      vocabSize,
      hiddenSize,
    });
    this.discriminator = debertaV3ForPretraining(
      config,
      new DisentangledSharing(this.generator.encoder.embeddings.token),
    );
  }

  /** The generator's logits and the discriminator's for one and the same input. */
  override forward(
    inputs: EncoderInputs,
    context: ForwardContext = {},
  ): { generator: Tensor; replaced: Tensor } {
    return {
      generator: this.generator.forward(inputs, context),
      replaced: this.discriminator.forward(inputs, context),
    };
  }
}

/** A class, or a number, for each sequence or pair: logits `[batch, numLabels]`. */
export function debertaV2ForSequenceClassification(config: DebertaV2Config, numLabels: number) {
  const head = new ContextPooledHead(config, numLabels);
  return new EncoderWithHead(new DebertaV2(config), head, { encoder: "deberta", head: "" });
}

/** A class for each token: logits `[batch, sequence, numLabels]`. */
export function debertaV2ForTokenClassification(config: DebertaV2Config, numLabels: number) {
  const head = new TokenHead({ ...config, classifierDropout: config.hiddenDropout }, numLabels);
  return new EncoderWithHead(new DebertaV2(config), head, { encoder: "deberta", head: "" });
}

/** Start and end of an answer: logits `[batch, sequence, 2]`. */
export function debertaV2ForQuestionAnswering(config: DebertaV2Config) {
  return new EncoderWithHead(new DebertaV2(config), new SpanHead(config), { encoder: "deberta", head: "" });
}

/** A score for each choice: `[batch, choices, sequence]` -> `[batch, choices]`. */
export function debertaV2ForMultipleChoice(config: DebertaV2Config) {
  const head = new ChoiceHead(new ContextPooledHead(config, 1));
  return new EncoderWithHead(new DebertaV2(config), head, { encoder: "deberta", head: "" });
}
