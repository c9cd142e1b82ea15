import { z } from "zod";
import { type Tensor, squeeze } from "../graph/index.js";
import {
  type ActivationName,
  ChoiceHead,
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
  SpanHead,
  TokenHead,
  activations,
  attentionMaskOf,
  bertEntries,
  checkHeads,
  configEntries,
  firstToken,
  fromBertEntries,
  normalInit,
  parseConfig,
  toBertEntries,
} from "../nn/index.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

/** ELECTRA, Clark et al. 2020, "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators". */
export interface ElectraConfig {
  readonly vocabSize: number;
  /** Positions that the model knows. */
  readonly contextLength: number;
  readonly typeVocabSize: number;
  /** Width of the embeddings, which a layer projects to the hidden size where the two differ; section 3.2. */
  readonly embeddingSize: number;
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  /** Width of the feed-forward layer. Published: 4 hiddenSize. */
  readonly intermediateSize: number;
  readonly activation: ActivationName;
  /** Probability of dropout after the embeddings and before each residual sum. */
  readonly hiddenDropout: number;
  /** Probability of dropout of the attention probabilities. */
  readonly attentionDropout: number;
  /** Probability of dropout before a task's classifier. */
  readonly classifierDropout: number;
  readonly layerNormEpsilon: number;
  /** Standard deviation of the first weights. */
  readonly initializerRange: number;
  readonly padTokenId: number;
}

/** A configuration with ELECTRA's published choices where `sizes` makes none. Throws `config` for one that contradicts itself. */
export function electraConfig(
  sizes: Partial<ElectraConfig> & Pick<ElectraConfig, "hiddenSize" | "numLayers" | "numHeads">,
): ElectraConfig {
  const config: ElectraConfig = {
    vocabSize: 30_522,
    contextLength: 512,
    typeVocabSize: 2,
    embeddingSize: sizes.hiddenSize,
    intermediateSize: 4 * sizes.hiddenSize,
    activation: "gelu",
    hiddenDropout: 0.1,
    attentionDropout: 0.1,
    classifierDropout: sizes.hiddenDropout ?? 0.1,
    layerNormEpsilon: 1e-12,
    initializerRange: 0.02,
    padTokenId: 0,
    ...sizes,
  };
  checkHeads(config);
  return config;
}

const small = { embeddingSize: 128 };
/** The three published discriminators; appendix A, table 6. */
export const electraSizes = {
  "electra-small": electraConfig({ hiddenSize: 256, numLayers: 12, numHeads: 4, ...small }),
  "electra-base": electraConfig({ hiddenSize: 768, numLayers: 12, numHeads: 12 }),
  "electra-large": electraConfig({ hiddenSize: 1024, numLayers: 24, numHeads: 16 }),
} as const;

/** Their generators: a quarter, a third and a quarter of the hidden size, with the discriminator's embeddings. */
export const electraGeneratorSizes = {
  "electra-small": electraConfig({ hiddenSize: 64, numLayers: 12, numHeads: 1, ...small }),
  "electra-base": electraConfig({ hiddenSize: 256, numLayers: 12, numHeads: 4, embeddingSize: 768 }),
  "electra-large": electraConfig({ hiddenSize: 256, numLayers: 24, numHeads: 4, embeddingSize: 1024 }),
} as const;

const { size } = configEntries;
const huggingFaceConfig = z.object({
  ...bertEntries,
  model_type: z.literal("electra"),
  embedding_size: size.default(128),
  hidden_size: size.default(256),
  num_attention_heads: size.default(4),
  intermediate_size: size.default(1024),
});

/** The configuration in a `config.json` of Hugging Face transformers. Throws `config` saying which entry is wrong. */
export function electraFromHuggingFace(json: unknown): ElectraConfig {
  const config = parseConfig(huggingFaceConfig, json, "ELECTRA");
  return electraConfig({ ...fromBertEntries(config), embeddingSize: config.embedding_size });
}

/** The `config.json` that Hugging Face transformers reads. */
export const electraToHuggingFace = (config: ElectraConfig): Record<string, unknown> => ({
  model_type: "electra",
  ...toBertEntries(config),
  embedding_size: config.embeddingSize,
});

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

/** A class, or a number, for each sequence or pair: logits `[batch, numLabels]`. */
export function electraForSequenceClassification(config: ElectraConfig, numLabels: number) {
  const head = new DenseHead(config, numLabels, "gelu");
  return new EncoderWithHead(new Electra(config), head, { encoder: "electra", head: "classifier" });
}

/** A class for each token: logits `[batch, sequence, numLabels]`. */
export function electraForTokenClassification(config: ElectraConfig, numLabels: number) {
  const head = new TokenHead(config, numLabels);
  return new EncoderWithHead(new Electra(config), head, { encoder: "electra", head: "" });
}

/** Start and end of an answer: logits `[batch, sequence, 2]`. */
export function electraForQuestionAnswering(config: ElectraConfig) {
  return new EncoderWithHead(new Electra(config), new SpanHead(config), { encoder: "electra", head: "" });
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
    this.dropout = new Dropout(config.classifierDropout);
  }

  override forward(hidden: Tensor, { random }: ForwardContext): Tensor {
    const summary = activations.gelu(this.summary.forward(firstToken(hidden)));
    return this.classifier.forward(this.dropout.forward(summary, random));
  }
}

/** A score for each choice: `[batch, choices, sequence]` -> `[batch, choices]`. */
export function electraForMultipleChoice(config: ElectraConfig) {
  const head = new ChoiceHead(new ElectraScorer(config));
  return new EncoderWithHead(new Electra(config), head, { encoder: "electra", head: "" });
}
