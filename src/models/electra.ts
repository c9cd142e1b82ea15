import { type Tensor, squeeze } from "../graph/index.js";
import {
  ChoiceHead,
  type Choices,
  type ConfigOf,
  DenseHead,
  Dropout,
  Encoder,
  EncoderEmbeddings,
  type EncoderInputs,
  EncoderLayers,
  EncoderWithHead,
  type ForwardContext,
  Linear,
  MaskedLmHead,
  Module,
  activations,
  attentionMaskOf,
  bertFields,
  checkHeads,
  configEntries,
  configTable,
  entry,
  firstToken,
  headOn,
  namedParameters,
  normalInit,
  tokenHeads,
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
  wordPieceTokens,
} from "../objectives/index.js";
import { defineSystem, depthByName, publishedSize } from "./system.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

/** ELECTRA, Clark et al. 2020, "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators". */
export const electraTable = configTable({
  type: "electra",
  title: "ELECTRA",
  fields: {
    ...bertFields({ hiddenSize: 256, numHeads: 4, intermediateSize: 1024 }),
    /** Width of the embeddings, which a layer projects to the hidden size where the two differ; section 3.2. */
    embeddingSize: entry("embedding_size", configEntries.size, {
      absent: 128,
      published: ({ hiddenSize }: { hiddenSize: number }) => hiddenSize,
    }),
    /** Probability of dropout of what multiple choice reads. */
    summaryDropout: entry("summary_last_dropout", configEntries.dropout, { absent: 0.1 }),
  },
  fixed: {
    position_embedding_type: "absolute",
    summary_type: "first",
    summary_use_proj: true,
    summary_activation: "gelu",
  },
  only: { summary_first_dropout: [0], summary_proj_to_labels: [false] },
  check: checkHeads,
});

export type ElectraConfig = ConfigOf<typeof electraTable>;

/** A configuration with ELECTRA's published choices where `choices` makes none. Throws `config` for one that contradicts itself. */
export const electraConfig = (choices: Choices<ElectraConfig>): ElectraConfig => electraTable.create(choices);

const published = publishedSize(electraTable);
const small = { embeddingSize: 128 };

/** The three published discriminators; appendix A, table 6. */
export const electraSizes = {
  "electra-small": published(13_549_057, { hiddenSize: 256, numLayers: 12, numHeads: 4, ...small }),
  "electra-base": published(109_483_009, { hiddenSize: 768, numLayers: 12, numHeads: 12 }),
  "electra-large": published(335_142_913, { hiddenSize: 1024, numLayers: 24, numHeads: 16 }),
} as const;

/** Their generators: a quarter, a third and a quarter of the hidden size, with the discriminator's embeddings. */
export const electraGeneratorSizes = {
  "electra-small": published(4_620_026, { hiddenSize: 64, numLayers: 12, numHeads: 1, ...small }),
  "electra-base": published(33_740_602, { hiddenSize: 256, numLayers: 12, numHeads: 4, embeddingSize: 768 }),
  "electra-large": published(51_295_290, {
    hiddenSize: 256,
    numLayers: 24,
    numHeads: 4,
    embeddingSize: 1024,
  }),
} as const;

// ---- Model --------------------------------------------------------------------------------------------------------

/** ELECTRA's encoder, generator and discriminator alike: embeddings, their projection and layers. */
export class Electra extends Encoder {
  static override readonly names = { projection: "embeddings_project", layers: "encoder" };
  readonly embeddings: EncoderEmbeddings;
  readonly projection: Linear | undefined;
  readonly layers: EncoderLayers;

  /** @param embeddings those of another network, shared with it */
  constructor(
    readonly config: ElectraConfig,
    embeddings?: EncoderEmbeddings,
  ) {
    super();
    const { embeddingSize, hiddenSize, initializerRange } = config;
    this.embeddings = embeddings ?? new EncoderEmbeddings({ ...config, positions: config.contextLength });
    this.projection =
      embeddingSize === hiddenSize
        ? undefined
        : new Linear(embeddingSize, hiddenSize, { initializer: normalInit(initializerRange) });
    this.layers = new EncoderLayers(config);
  }

  override forward(inputs: EncoderInputs, context: ForwardContext = {}): Tensor {
    const embedded = this.embeddings.forward(inputs, context);
    const x = this.projection ? this.projection.forward(embedded) : embedded;
    return this.layers.forward(x, { ...context, attentionMask: attentionMaskOf(inputs) });
  }
}

// ---- Heads --------------------------------------------------------------------------------------------------------

/** The generator's masked language model head under its published names. */
export class ElectraGeneratorHead extends MaskedLmHead {
  static override readonly names = {
    dense: "generator_predictions.dense",
    norm: "generator_predictions.LayerNorm",
    bias: "generator_lm_head.bias",
    decoder: "generator_lm_head.weight",
  };

  constructor(electra: Electra) {
    super({ ...electra.config, activation: "gelu" }, electra.embeddings.token.weight.tensor);
  }
}

/** Whether each token was replaced, section 3.1: `[batch, sequence, hiddenSize]` -> logits `[batch, sequence]`. */
export class ReplacedTokenHead extends Module {
  static override readonly names = { output: "dense_prediction" };
  readonly dense: Linear;
  readonly output: Linear;

  constructor(
    private readonly config: Pick<ElectraConfig, "hiddenSize" | "activation" | "initializerRange">,
  ) {
    super();
    const options = { initializer: normalInit(config.initializerRange) };
    this.dense = new Linear(config.hiddenSize, config.hiddenSize, options);
    this.output = new Linear(config.hiddenSize, 1, options);
  }

  override forward(hidden: Tensor): Tensor {
    return squeeze(this.output.forward(activations[this.config.activation](this.dense.forward(hidden))), -1);
  }
}

/** The generator: logits `[batch, sequence, vocabSize]` of what stands behind a mask. */
export function electraForMaskedLm(config: ElectraConfig, embeddings?: EncoderEmbeddings) {
  const electra = new Electra(config, embeddings);
  return new EncoderWithHead(electra, new ElectraGeneratorHead(electra), { encoder: "electra", head: "" });
}

/** The discriminator: logits `[batch, sequence]` that a token was replaced. */
export function electraForPretraining(config: ElectraConfig) {
  const head = new ReplacedTokenHead(config);
  return new EncoderWithHead(new Electra(config), head, {
    encoder: "electra",
    head: "discriminator_predictions",
  });
}

/**
 * Both networks as they are trained together, section 3: the generator has the discriminator's embeddings, section 3.2. Its
 * objective is `replacedTokenObjective`; the discriminator alone is fine-tuned.
 */
export class ElectraPretraining extends Module {
  readonly discriminator: ReturnType<typeof electraForPretraining>;
  readonly generator: ReturnType<typeof electraForMaskedLm>;

  /** @param generator the generator's sizes; vocabulary and embedding size are the discriminator's */
  constructor(config: ElectraConfig, generator: ElectraConfig) {
    super();
    this.discriminator = electraForPretraining(config);
    this.generator = electraForMaskedLm(
      { ...generator, embeddingSize: config.embeddingSize, vocabSize: config.vocabSize },
      this.discriminator.encoder.embeddings,
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

/** A score of one sequence among several, from a layer over its first token; `[batch, 1]`. */
class ElectraScorer extends Module {
  static override readonly names = { summary: "sequence_summary.summary" };
  readonly summary: Linear;
  readonly classifier: Linear;
  private readonly dropout: Dropout;

  constructor(config: ElectraConfig) {
    super();
    const options = { initializer: normalInit(config.initializerRange) };
    this.summary = new Linear(config.hiddenSize, config.hiddenSize, options);
    this.classifier = new Linear(config.hiddenSize, 1, options);
    this.dropout = new Dropout(config.summaryDropout);
  }

  override forward(hidden: Tensor, { random }: ForwardContext): Tensor {
    const summary = activations.gelu(this.summary.forward(firstToken(hidden)));
    return this.classifier.forward(this.dropout.forward(summary, random));
  }
}

const bare = (config: ElectraConfig) => new Electra(config);

const electraHeads = {
  "fill-mask": { create: (config: ElectraConfig) => electraForMaskedLm(config) },
  classify: headOn(
    "electra",
    bare,
    (_, config, numLabels) => new DenseHead(config, numLabels, "gelu"),
    "classifier.out_proj",
    "classifier",
  ),
  ...tokenHeads("electra", bare, ({ classifierDropout }) => classifierDropout),
  choice: headOn("electra", bare, (_, config) => new ChoiceHead(new ElectraScorer(config)), "classifier"),
};

// ---- Pretraining --------------------------------------------------------------------------------------------------

/** Clark et al. 2020, section 3: a generator a quarter as wide fills masks, the discriminator tells what it filled. */
function pretrainElectra(options: PretrainingOptions): Pretraining {
  const { tokenizer, hiddenSize, numHeads } = options;
  const vocabulary = vocabularyOf(tokenizer, wordPieceTokens);
  const config = electraConfig(bertSizesOf(options, vocabulary));
  const narrow =
    numHeads % 4 === 0 ? { hiddenSize: hiddenSize / 4, numHeads: numHeads / 4 } : { hiddenSize, numHeads };
  const generator = electraConfig({
    ...bertSizesOf(options, vocabulary),
    ...narrow,
    embeddingSize: hiddenSize,
  });
  const model = new ElectraPretraining(config, generator);
  return {
    model,
    objective: replacedTokenObjective({
      model,
      generator: {
        encode: (inputs, context) => model.generator.encoder.encode(inputs, context),
        logits: (hidden) => model.generator.head.forward(hidden),
      },
      discriminator: {
        encode: (inputs, context) => model.discriminator.encoder.encode(inputs, context),
        logits: (hidden) => model.discriminator.head.forward(hidden),
      },
    }),
    ...maskedFullSentences(options, vocabulary, electraMasking, replacedTokenBatch),
    // The discriminator, which is what is fine-tuned; the generator in a folder of its own.
    networks: [
      part(model, "", "discriminator.", "ElectraForPreTraining", config),
      part(model, "generator", "generator.", "ElectraForMaskedLM", generator),
    ],
  };
}

/** One of two networks that were trained together. The generator's embeddings are the discriminator's, section 3.2. */
function part(
  model: ElectraPretraining,
  folder: string,
  prefix: string,
  className: string,
  config: ElectraConfig,
): PretrainedNetwork {
  const embeddings = "discriminator.electra.embeddings.";
  const own = [...namedParameters(model).keys()].filter(
    (name) => name.startsWith(prefix) || name.startsWith(embeddings),
  );
  return {
    folder,
    config: { architectures: [className], ...electraTable.write(config) },
    parameters: new Map(own.map((name) => [name.replace(/^(discriminator|generator)\./, ""), [name]])),
  };
}

// ---- Definition ---------------------------------------------------------------------------------------------------

/** ELECTRA as the rest of the library knows it. */
export const electra = defineSystem({
  kind: "encoder",
  className: "Electra",
  prefix: "electra",
  config: electraTable,
  sizes: electraSizes,
  create: (config) => new Electra(config),
  heads: electraHeads,
  depth: depthByName(/^electra\.embeddings(_project)?\./, /^electra\.encoder\.layer\.(\d+)\./),
  tokenizer: { kind: "WordPiece" },
  pretraining: { objective: "replaced tokens", prepare: pretrainElectra },
});
