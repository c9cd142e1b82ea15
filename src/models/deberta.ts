import type { Tensor } from "../graph/index.js";
import {
  type Choices,
  type ConfigOf,
  DisentangledEmbeddings,
  DisentangledEncoder,
  DisentangledLayer,
  type DisentangledLayers,
  Dropout,
  Embedding,
  EncoderWithHead,
  EnhancedMaskedLm,
  type ForwardContext,
  Linear,
  Module,
  Parameter,
  type RelativeContext,
  checkHeads,
  configTable,
  disentangledAttention,
  disentangledFields,
  disentangledHeads,
  disentangledImplied,
  normalInit,
  relativeEmbeddings,
  splitHeads,
  splitTable,
  zerosInit,
  throughLayer,
} from "../nn/index.js";
import {
  type Pretraining,
  type PretrainingOptions,
  type SentenceTokens,
  bertSizesOf,
  maskedFullSentences,
  maskedLmObjective,
  startsWithSpace,
  vocabularyOf,
  wholeNetwork,
  wordPieceTokens,
} from "../objectives/index.js";
// The head of transformers' masked language model is BERT's.
import { BertMaskedLmHead } from "./bert.js";
import { defineSystem, depthByName, publishedSize } from "./system.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

/** DeBERTa, He et al. 2021, "DeBERTa: Decoding-enhanced BERT with Disentangled Attention". */
export const debertaTable = configTable({
  type: "deberta",
  title: "DeBERTa",
  fields: disentangledFields({ vocabSize: 50_265 }, ["c2p", "p2c"]),
  only: { talking_head: [false], legacy: [true] },
  implied: disentangledImplied,
  check: checkHeads,
});

export type DebertaConfig = ConfigOf<typeof debertaTable>;

/** A configuration with DeBERTa's published choices where `choices` makes none. Throws `config` for one that contradicts itself. */
export const debertaConfig = (choices: Choices<DebertaConfig>): DebertaConfig => debertaTable.create(choices);

const published = publishedSize(debertaTable);

/** The published sizes of the first version; parameters with the masked language model. */
export const debertaSizes = {
  "deberta-base": published(139_244_121, { hiddenSize: 768, numLayers: 12, numHeads: 12 }),
  "deberta-large": published(406_264_921, { hiddenSize: 1024, numLayers: 24, numHeads: 16 }),
  "deberta-xlarge": published(758_905_945, { hiddenSize: 1024, numLayers: 48, numHeads: 16 }),
} as const;

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
class DebertaLayers extends Module implements DisentangledLayers {
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
  override forward(embedded: Tensor, _: Tensor | undefined, context: RelativeContext): Tensor[] {
    const states = [embedded];
    for (const layer of this.layers) {
      const x = states.at(-1)!;
      states.push(throughLayer([x], context, () => layer.forward(x, context)));
    }
    return states;
  }
}

// ---- Model --------------------------------------------------------------------------------------------------------

/** DeBERTa of the first version. */
export class Deberta extends DisentangledEncoder {
  readonly embeddings: DisentangledEmbeddings;
  readonly layers: DebertaLayers;

  constructor(
    readonly config: DebertaConfig,
    /** Whether there are absolute positions, which the decoder needs and fine-tuning does without. */
    options: { readonly positions?: boolean } = {},
  ) {
    super();
    this.embeddings = new DisentangledEmbeddings(config, options);
    this.layers = new DebertaLayers(config);
  }
}

// ---- Heads --------------------------------------------------------------------------------------------------------

/** Masked language modelling without the decoder, as transformers has it: logits `[batch, sequence, vocabSize]`. */
export function debertaForMaskedLm(config: DebertaConfig) {
  const deberta = new Deberta(config);
  const head = new BertMaskedLmHead(config, deberta.embeddings.token.weight.tensor);
  return new EncoderWithHead(deberta, head, { encoder: "deberta", head: "cls.predictions" });
}

/** DeBERTa as it is pretrained: masked language modelling through the enhanced mask decoder. */
export class DebertaPretraining extends EnhancedMaskedLm<Deberta> {
  constructor(config: DebertaConfig) {
    super(new Deberta(config, { positions: true }), config);
  }
}

// ---- Pretraining --------------------------------------------------------------------------------------------------

const tokens: SentenceTokens = { ...wordPieceTokens, startsWord: startsWithSpace };

/** He et al. 2021, sections 3 and 4.1: masked LM, the words predicted through the enhanced mask decoder. */
function pretrainDeberta(options: PretrainingOptions): Pretraining {
  const { tokenizer } = options;
  const vocabulary = vocabularyOf(tokenizer, tokens);
  const model = new DebertaPretraining(debertaConfig(bertSizesOf(options, vocabulary)));
  return {
    model,
    objective: maskedLmObjective({
      model,
      encode: ({ inputIds, attentionMask }, context) =>
        model.encoder.decode({ inputIds, attentionMask }, context),
      maskedLosses: (hidden, labels) => model.head.losses(hidden, labels),
    }),
    ...maskedFullSentences(options, vocabulary),
    // The encoder with its decoder's parts under their authors' names, which fine-tuning leaves out.
    networks: [
      wholeNetwork(model, { architectures: ["DebertaModel"], ...debertaTable.write(model.encoder.config) }),
    ],
  };
}

// ---- Definition ---------------------------------------------------------------------------------------------------

/** Where the parameters of a DeBERTa stand: the embeddings of relative positions are embeddings too. */
const byName = depthByName(
  /^deberta\.(embeddings|encoder\.(rel_embeddings|LayerNorm))\./,
  /^deberta\.encoder\.layer\.(\d+)\./,
);
/** As above, the convolution of the second version standing beside the first layer. */
export const debertaDepth: typeof byName = (parameter, config) =>
  parameter.startsWith("deberta.encoder.conv.") ? 1 : byName(parameter, config);

/** DeBERTa as the rest of the library knows it. */
export const deberta = defineSystem({
  kind: "encoder",
  className: "Deberta",
  prefix: "deberta",
  config: debertaTable,
  sizes: debertaSizes,
  create: (config) => new Deberta(config),
  heads: {
    "fill-mask": { create: debertaForMaskedLm },
    ...disentangledHeads((config: DebertaConfig) => new Deberta(config)),
  },
  authorsMaskedLm: (config) => new DebertaPretraining(config),
  depth: debertaDepth,
  tokenizer: { kind: "encoder BPE", style: "deberta" },
  pretraining: {
    objective: "masked tokens through the enhanced mask decoder",
    prepare: pretrainDeberta,
  },
});
