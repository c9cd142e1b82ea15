import { z } from "zod";
import type { Tensor } from "../graph/index.js";
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
  Linear,
  MaskedLmHead,
  Module,
  Parameter,
  type PositionTerm,
  type RelativeContext,
  SpanHead,
  TokenHead,
  attentionMaskOf,
  checkHeads,
  configEntries,
  disentangledAttention,
  encoderEntries,
  enhancedMaskDecoder,
  fromEncoderEntries,
  normalInit,
  parseConfig,
  relativeEmbeddings,
  splitHeads,
  splitTable,
  toEncoderEntries,
  zerosInit,
} from "../nn/index.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

/** DeBERTa, He et al. 2021, "DeBERTa: Decoding-enhanced BERT with Disentangled Attention". */
export interface DebertaConfig {
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
  /** Terms of the scores besides content to content, section 3.1; none leaves BERT's attention. */
  readonly positionTerms: readonly PositionTerm[];
  /** Largest relative distance k that is told from larger ones, equation 3. Published: the context length, 512. */
  readonly maxRelativePositions: number;
  /** Whether absolute positions are added to the input. Published: no, they join in the decoder. */
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

/** A configuration with DeBERTa's published choices where `sizes` makes none. Throws `config` for one that contradicts itself. */
export function debertaConfig(
  sizes: Partial<DebertaConfig> & Pick<DebertaConfig, "hiddenSize" | "numLayers" | "numHeads">,
): DebertaConfig {
  const config: DebertaConfig = {
    vocabSize: 50_265,
    contextLength: 512,
    typeVocabSize: 0,
    intermediateSize: 4 * sizes.hiddenSize,
    activation: "gelu",
    positionTerms: ["c2p", "p2c"],
    maxRelativePositions: sizes.contextLength ?? 512,
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
  return config;
}

/** The published sizes of the first version. */
export const debertaSizes = {
  "deberta-base": debertaConfig({ hiddenSize: 768, numLayers: 12, numHeads: 12 }),
  "deberta-large": debertaConfig({ hiddenSize: 1024, numLayers: 24, numHeads: 16 }),
  "deberta-xlarge": debertaConfig({ hiddenSize: 1024, numLayers: 48, numHeads: 16 }),
} as const;

const { size, activation, dropout, epsilon, list } = configEntries;
const huggingFaceConfig = z.object({
  ...encoderEntries,
  model_type: z.literal("deberta"),
  vocab_size: size.default(50_265),
  type_vocab_size: z.int().nonnegative().default(0),
  relative_attention: z.boolean().default(false),
  max_relative_positions: z.int().default(-1),
  pos_att_type: list.pipe(z.array(z.enum(["c2p", "p2c"]))),
  position_biased_input: z.boolean().default(true),
  talking_head: z.literal(false).default(false),
  pooler_dropout: dropout.default(0),
  pooler_hidden_act: activation.default("gelu"),
  cls_dropout: dropout.nullish(),
  layer_norm_eps: epsilon.default(1e-7),
});

/** The configuration in a `config.json` of Hugging Face transformers. Throws `config` saying which entry is wrong. */
export function debertaFromHuggingFace(json: unknown): DebertaConfig {
  const config = parseConfig(huggingFaceConfig, json, "DeBERTa");
  return debertaConfig({
    ...fromEncoderEntries(config),
    positionTerms: config.relative_attention ? config.pos_att_type : [],
    maxRelativePositions:
      config.max_relative_positions < 1 ? config.max_position_embeddings : config.max_relative_positions,
    positionBiasedInput: config.position_biased_input,
    poolerDropout: config.pooler_dropout,
    poolerActivation: config.pooler_hidden_act,
    classifierDropout: config.cls_dropout ?? config.hidden_dropout_prob,
  });
}

/** The `config.json` that Hugging Face transformers reads. */
export const debertaToHuggingFace = (config: DebertaConfig): Record<string, unknown> => ({
  model_type: "deberta",
  ...toEncoderEntries(config),
  relative_attention: config.positionTerms.length > 0,
  max_relative_positions: config.maxRelativePositions,
  pos_att_type: config.positionTerms,
  position_biased_input: config.positionBiasedInput,
  pooler_dropout: config.poolerDropout,
  pooler_hidden_act: config.poolerActivation,
  cls_dropout: config.classifierDropout,
});

// ---- Parts --------------------------------------------------------------------------------------------------------

/**
 * Disentangled self-attention, section 3.1. One matrix projects query, key and value, head by head; key positions have no
 * bias, query positions have one.
 */
class DebertaSelfAttention extends Module {
  static override readonly names = {
    queryKeyValue: "in_proj",
    queryBias: "q_bias",
    valueBias: "v_bias",
    positionKey: "pos_proj",
    positionQuery: "pos_q_proj",
  };
  readonly queryKeyValue: Linear;
  readonly queryBias: Parameter;
  readonly valueBias: Parameter;
  readonly positionKey: Linear | undefined;
  readonly positionQuery: Linear | undefined;
  private readonly positionDropout: Dropout;

  constructor(private readonly config: DebertaConfig) {
    super();
    const { hiddenSize, positionTerms } = config;
    const initializer = normalInit(config.initializerRange);
    this.queryKeyValue = new Linear(hiddenSize, 3 * hiddenSize, { bias: false, initializer });
    this.queryBias = new Parameter([hiddenSize], zerosInit);
    this.valueBias = new Parameter([hiddenSize], zerosInit);
    this.positionKey = positionTerms.includes("c2p")
      ? new Linear(hiddenSize, hiddenSize, { bias: false, initializer })
      : undefined;
    this.positionQuery = positionTerms.includes("p2c")
      ? new Linear(hiddenSize, hiddenSize, { initializer })
      : undefined;
    this.positionDropout = new Dropout(config.hiddenDropout);
  }

  override forward(query: Tensor, x: Tensor, context: RelativeContext): Tensor {
    const { numHeads, hiddenSize, attentionDropout } = this.config;
    const perHead = (bias: Parameter) => bias.tensor.reshape([numHeads, 1, hiddenSize / numHeads]);
    const project = (states: Tensor) => splitHeads(this.queryKeyValue.forward(states), numHeads).split(3);
    const [own, k, v] = project(x) as [Tensor, Tensor, Tensor];
    const q = query === x ? own : project(query)[0]!;
    const table = (rows: Tensor | undefined, projection: Linear | undefined) =>
      rows &&
      projection &&
      splitTable(projection.forward(this.positionDropout.forward(rows, context.random)), numHeads);
    return disentangledAttention(
      q.add(perHead(this.queryBias)),
      k,
      v.add(perHead(this.valueBias)),
      {
        positionKey: table(context.relative?.descending, this.positionKey),
        positionQuery: table(context.relative?.ascending, this.positionQuery),
        dropout: attentionDropout,
      },
      context,
    );
  }
}

type DebertaLayer = DisentangledLayer<DebertaSelfAttention>;

/** The layers and the embeddings of relative positions that they share. */
class DebertaLayers extends Module {
  static override readonly names = { layers: "layer", relative: "rel_embeddings" };
  readonly layers: readonly DebertaLayer[];
  readonly relative: Embedding | undefined;

  constructor(private readonly config: DebertaConfig) {
    super();
    this.layers = Array.from(
      { length: config.numLayers },
      () => new DisentangledLayer(config, new DebertaSelfAttention(config)),
    );
    this.relative =
      config.positionTerms.length > 0
        ? new Embedding(
            2 * config.maxRelativePositions,
            config.hiddenSize,
            normalInit(config.initializerRange),
          )
        : undefined;
  }

  /** Equation 3: distances beyond k share the embeddings of the farthest. */
  contextFor(x: Tensor, context: ForwardContext): RelativeContext {
    const { contextLength, maxRelativePositions: k } = this.config;
    const rowOf = (distance: number) => Math.min(Math.max(distance + k, 0), 2 * k - 1);
    const table = this.relative?.weight.tensor;
    return { ...context, relative: table && relativeEmbeddings(table, rowOf, contextLength, x.dim(1)) };
  }

  /** The output of every layer, the embeddings first. */
  override forward(x: Tensor, context: RelativeContext): Tensor[] {
    const states = [x];
    for (const layer of this.layers) states.push(layer.forward(states.at(-1)!, context));
    return states;
  }
}

// ---- Model --------------------------------------------------------------------------------------------------------

/** DeBERTa: embeddings, and layers that attend to contents and relative positions apart. */
export class Deberta extends Encoder {
  static override readonly names = { layers: "encoder" };
  readonly embeddings: DisentangledEmbeddings;
  readonly layers: DebertaLayers;

  /** @param positions whether there are absolute positions, which the decoder needs and fine-tuning does without */
  constructor(
    readonly config: DebertaConfig,
    options: { positions?: boolean } = {},
  ) {
    super();
    this.embeddings = new DisentangledEmbeddings(config, options);
    this.layers = new DebertaLayers(config);
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
    return { states: this.layers.forward(x, within), within };
  }
}

// ---- Heads --------------------------------------------------------------------------------------------------------

/** The masked language model's head under BERT's names, which transformers gives it. */
export class DebertaMaskedLmHead extends MaskedLmHead {
  static override readonly names = { dense: "transform.dense", norm: "transform.LayerNorm" };

  constructor(deberta: Deberta) {
    const { config } = deberta;
    super({ ...config, embeddingSize: config.hiddenSize }, deberta.embeddings.token.weight.tensor);
  }
}

/** Masked language modelling without the decoder, as transformers has it: logits `[batch, sequence, vocabSize]`. */
export function debertaForMaskedLm(config: DebertaConfig) {
  const deberta = new Deberta(config);
  return new EncoderWithHead(deberta, new DebertaMaskedLmHead(deberta), {
    encoder: "deberta",
    head: "cls.predictions",
  });
}

/** DeBERTa as it is pretrained: masked language modelling through the enhanced mask decoder, under its authors' names. */
export class DebertaPretraining extends EncoderWithHead<Deberta, MaskedLmHead> {
  constructor(config: DebertaConfig) {
    const deberta = new Deberta(config, { positions: true });
    const { weight } = deberta.embeddings.token;
    const head = new MaskedLmHead({ ...config, embeddingSize: config.hiddenSize }, weight.tensor);
    super(deberta, head, { encoder: "deberta", head: "lm_predictions.lm_head" });
  }

  /** Logits `[batch, sequence, vocabSize]`. */
  override forward(inputs: EncoderInputs, context: ForwardContext = {}): Tensor {
    return this.head.forward(this.encoder.decode(inputs, context));
  }
}

/** A class, or a number, for each sequence or pair: logits `[batch, numLabels]`. */
export function debertaForSequenceClassification(config: DebertaConfig, numLabels: number) {
  const head = new ContextPooledHead(config, numLabels);
  return new EncoderWithHead(new Deberta(config), head, { encoder: "deberta", head: "" });
}

/** A class for each token: logits `[batch, sequence, numLabels]`. */
export function debertaForTokenClassification(config: DebertaConfig, numLabels: number) {
  const head = new TokenHead({ ...config, classifierDropout: config.hiddenDropout }, numLabels);
  return new EncoderWithHead(new Deberta(config), head, { encoder: "deberta", head: "" });
}

/** Start and end of an answer: logits `[batch, sequence, 2]`. */
export function debertaForQuestionAnswering(config: DebertaConfig) {
  return new EncoderWithHead(new Deberta(config), new SpanHead(config), { encoder: "deberta", head: "" });
}

/** A score for each choice: `[batch, choices, sequence]` -> `[batch, choices]`. */
export function debertaForMultipleChoice(config: DebertaConfig) {
  const head = new ChoiceHead(new ContextPooledHead(config, 1));
  return new EncoderWithHead(new Deberta(config), head, { encoder: "deberta", head: "" });
}
