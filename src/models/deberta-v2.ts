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
  type Choices,
  type ConfigOf,
  DisentangledEmbeddings,
  DisentangledEncoder,
  DisentangledLayer,
  type DisentangledLayers,
  Dropout,
  Embedding,
  type EncoderInputs,
  EncoderWithHead,
  EnhancedMaskedLm,
  type Field,
  type ForwardContext,
  LayerNorm,
  Linear,
  Module,
  Parameter,
  type PositionTerm,
  type RelativeContext,
  activations,
  checkHeads,
  configEntries,
  configTable,
  disentangledAttention,
  disentangledFields,
  disentangledHeads,
  disentangledImplied,
  entry,
  namedParameters,
  normalInit,
  relativeEmbeddings,
  splitHeads,
  splitTable,
  zerosInit,
  throughLayer,
} from "../nn/index.js";
import {
  type PretrainedNetwork,
  type Pretraining,
  type PretrainingOptions,
  bertSizesOf,
  electraMasking,
  maskedFullSentences,
  replacedTokenBatch,
  replacedTokenObjective,
  vocabularyOf,
} from "../objectives/index.js";
import { albertTokens } from "./albert.js";
import { BertMaskedLmHead } from "./bert.js";
import { debertaDepth } from "./deberta.js";
import { defineSystem, publishedSize } from "./system.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

const { activation, flag, list } = configEntries;

/**
 * The second and third version of DeBERTa: He et al. 2021, "DeBERTa: Decoding-enhanced BERT with Disentangled Attention",
 * with the changes of its second release, and He et al. 2021, "DeBERTaV3: Improving DeBERTa using ELECTRA-Style Pre-Training
 * with Gradient-Disentangled Embedding Sharing", which trains the same network otherwise.
 */
export const debertaV2Table = configTable({
  type: "deberta-v2",
  title: "DeBERTa v3",
  fields: {
    ...disentangledFields(
      { vocabSize: 128_100, hiddenSize: 1536, numLayers: 24, numHeads: 24, intermediateSize: 6144 },
      ["p2c", "c2p"],
    ),
    /** Buckets to each side: near distances have one each, farther ones share them by their logarithm. 0 for one each. Published: 256. */
    positionBuckets: {
      entries: ["position_buckets"],
      schema: z.int().nonnegative(),
      read: (json) => Math.max(0, entry("position_buckets", z.int(), { absent: -1 }).read(json, undefined)),
      write: (value) => ({ position_buckets: value > 0 ? value : -1 }),
      published: () => 256,
    } satisfies Field<number>,
    /** Whether positions go through the projections of the contents. Published: yes. */
    sharePositionProjections: entry("share_att_key", flag, { absent: false, published: true }),
    /** Whether the embeddings of relative positions are normed. Published: yes. */
    normRelativeEmbeddings: {
      entries: ["norm_rel_ebd"],
      schema: flag,
      read: (json) =>
        entry("norm_rel_ebd", list, { absent: [] }).read(json, undefined).includes("layer_norm"),
      write: (value) => ({ norm_rel_ebd: value ? "layer_norm" : "none" }),
      published: () => true,
    } satisfies Field<boolean>,
    /** Width of the convolution beside the first layer; 0 for none, as in the third version. */
    convolutionSize: entry("conv_kernel_size", z.int().nonnegative(), { absent: 0 }),
    convolutionActivation: entry("conv_act", activation, { absent: "tanh", published: "gelu" }),
  },
  only: { conv_groups: [1], legacy: [true] },
  implied: {
    ...disentangledImplied,
    attention_head_size: ({ hiddenSize, numHeads }) => hiddenSize / numHeads,
  },
  check: (config) => {
    checkHeads(config);
    if (config.convolutionSize % 2 === 0 && config.convolutionSize !== 0)
      throw new LineageError(
        "config",
        `a convolution over ${config.convolutionSize} tokens has no middle: convolutionSize must be odd, or 0 for none`,
      );
  },
});

export type DebertaV2Config = ConfigOf<typeof debertaV2Table>;

/** A configuration with the published choices where `choices` makes none. Throws `config` for one that contradicts itself. */
export const debertaV2Config = (choices: Choices<DebertaV2Config>): DebertaV2Config =>
  debertaV2Table.create(choices);

const published = publishedSize(debertaV2Table);
const convolution = { convolutionSize: 3 };

/** The published sizes of the second and the third version; parameters with the masked language model. */
export const debertaV2Sizes = {
  "deberta-v2-xlarge": published(887_085_156, {
    hiddenSize: 1536,
    numLayers: 24,
    numHeads: 24,
    ...convolution,
  }),
  "deberta-v2-xxlarge": published(1_567_041_636, {
    hiddenSize: 1536,
    numLayers: 48,
    numHeads: 24,
    ...convolution,
  }),
  "deberta-v3-xsmall": published(70_958_820, { hiddenSize: 384, numLayers: 12, numHeads: 6 }),
  "deberta-v3-small": published(142_024_548, { hiddenSize: 768, numLayers: 6, numHeads: 12 }),
  "deberta-v3-base": published(184_551_780, { hiddenSize: 768, numLayers: 12, numHeads: 12 }),
  "deberta-v3-large": published(435_191_908, { hiddenSize: 1024, numLayers: 24, numHeads: 16 }),
} as const;

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
class DebertaV2Layers extends Module implements DisentangledLayers {
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
      const last = states.at(-1)!;
      const output = throughLayer([last], context, () => layer.forward(last, context));
      const beside = states.length === 1 ? this.convolution : undefined;
      states.push(beside ? beside.forward(x, output, real, context) : output);
    }
    return states;
  }
}

// ---- Model --------------------------------------------------------------------------------------------------------

/** DeBERTa of the second and third version. */
export class DebertaV2 extends DisentangledEncoder {
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
}

// ---- Heads --------------------------------------------------------------------------------------------------------

/** Masked language modelling without the decoder, as transformers has it: logits `[batch, sequence, vocabSize]`. */
export function debertaV2ForMaskedLm(config: DebertaV2Config) {
  const deberta = new DebertaV2(config);
  const head = new BertMaskedLmHead(config, deberta.embeddings.token.weight.tensor);
  return new EncoderWithHead(deberta, head, { encoder: "deberta", head: "cls.predictions" });
}

/** Masked language modelling through the enhanced mask decoder; the third version's generator, too. */
export class DebertaV2Generator extends EnhancedMaskedLm<DebertaV2> {
  constructor(config: DebertaV2Config) {
    super(new DebertaV2(config, { positions: true }), config);
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

// ---- Pretraining --------------------------------------------------------------------------------------------------

/** He et al. 2021 ("DeBERTaV3"), section 3: replaced tokens, with gradient-disentangled embedding sharing. */
function pretrainDebertaV3(options: PretrainingOptions): Pretraining {
  const { tokenizer, contextLength } = options;
  const vocabulary = vocabularyOf(tokenizer, albertTokens);
  const model = new DebertaV3Pretraining(
    debertaV2Config({ ...bertSizesOf(options, vocabulary), positionBuckets: Math.min(256, contextLength) }),
  );
  return {
    model,
    objective: replacedTokenObjective({
      model,
      generator: {
        encode: ({ inputIds, attentionMask }, context) =>
          model.generator.encoder.decode({ inputIds, attentionMask }, context),
        logits: (hidden) => model.generator.head.forward(hidden),
      },
      discriminator: {
        encode: ({ inputIds, attentionMask }, context) =>
          model.discriminator.encoder.encode({ inputIds, attentionMask }, context),
        logits: (hidden) => model.discriminator.head.forward(hidden),
      },
    }),
    ...maskedFullSentences(options, vocabulary, electraMasking, replacedTokenBatch),
    networks: [discriminatorOf(model)],
  };
}

/** The discriminator, its embeddings being the generator's and their difference in one. */
function discriminatorOf(model: DebertaV3Pretraining): PretrainedNetwork {
  const words = "deberta.embeddings.word_embeddings.weight";
  const prefix = "discriminator.";
  const own = [...namedParameters(model).keys()].filter((name) => name.startsWith(prefix));
  return {
    folder: "",
    config: {
      architectures: ["DebertaV2Model"],
      ...debertaV2Table.write(model.discriminator.encoder.config),
    },
    parameters: new Map(
      own.map((name) => {
        const written = name.slice(prefix.length);
        return [written, written === words ? [name, `generator.${words}`] : [name]];
      }),
    ),
  };
}

// ---- Definition ---------------------------------------------------------------------------------------------------

/** The second and third version as the rest of the library knows them; it is the third's pretraining. */
export const debertaV3 = defineSystem({
  name: "deberta-v3",
  kind: "encoder",
  className: "DebertaV2",
  prefix: "deberta",
  config: debertaV2Table,
  sizes: debertaV2Sizes,
  create: (config) => new DebertaV2(config),
  heads: {
    "fill-mask": { create: debertaV2ForMaskedLm },
    ...disentangledHeads((config: DebertaV2Config) => new DebertaV2(config)),
  },
  authorsMaskedLm: (config) => new DebertaV2Generator(config),
  depth: debertaDepth,
  tokenizer: { kind: "unigram", style: "albert", lowercase: false },
  pretraining: { objective: "replaced tokens with disentangled embeddings", prepare: pretrainDebertaV3 },
});
