import { LineageError } from "../base/errors.js";
import { type Tensor, cumulativeSum, equal, limit, logicalNot } from "../graph/index.js";
import {
  ChoiceHead,
  type Choices,
  type ConfigJson,
  type ConfigOf,
  DenseHead,
  Encoder,
  EncoderEmbeddings,
  type EncoderInputs,
  EncoderLayers,
  EncoderWithHead,
  type ForwardContext,
  MaskedLmHead,
  PooledHead,
  Pooler,
  attentionMaskOf,
  bertFields,
  checkHeads,
  configTable,
  headOn,
  tokenHeads,
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
} from "../objectives/index.js";
import { defineSystem, depthByName, publishedSize } from "./system.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

/**
 * RoBERTa, Liu et al. 2019, "RoBERTa: A Robustly Optimized BERT Pretraining Approach". What makes it itself is how it is
 * trained; the network is BERT's with byte-level tokens, one segment, and positions counted from behind the padding's.
 */
const { padTokenId, ...fields } = bertFields(
  { vocabSize: 50_265, padTokenId: 1 },
  { typeVocabSize: 1, layerNormEpsilon: 1e-5 },
);
export const robertaTable = configTable({
  type: "roberta",
  title: "RoBERTa",
  fields: {
    padTokenId,
    ...fields,
    /** Tokens of the longest sequence. The position table has `padTokenId + 1` rows more, which stand for no position. */
    contextLength: {
      entries: fields.contextLength.entries,
      schema: fields.contextLength.schema,
      read: (json: ConfigJson, { padTokenId: pad }: { padTokenId: number }): number => {
        const rows = fields.contextLength.read(json, undefined);
        if (rows > pad + 1) return rows - pad - 1;
        throw new LineageError(
          "config",
          `max_position_embeddings is ${rows}, but must be larger than pad_token_id + 1: positions are counted from there`,
        );
      },
      write: (length: number, { padTokenId: pad }: { padTokenId: number }) => ({
        max_position_embeddings: length + pad + 1,
      }),
      published: () => 512,
    },
  },
  fixed: { position_embedding_type: "absolute" },
  check: checkHeads,
});

export type RobertaConfig = ConfigOf<typeof robertaTable>;

/** A configuration with RoBERTa's published choices where `choices` makes none. Throws `config` for one that contradicts itself. */
export const robertaConfig = (choices: Choices<RobertaConfig>): RobertaConfig => robertaTable.create(choices);

const published = publishedSize(robertaTable);

/** The two published sizes, appendix A: BERT's shapes with 50,265 tokens. */
export const robertaSizes = {
  "roberta-base": published(124_697_433, { hiddenSize: 768, numLayers: 12, numHeads: 12 }),
  "roberta-large": published(355_412_057, { hiddenSize: 1024, numLayers: 24, numHeads: 16 }),
} as const;

// ---- Model --------------------------------------------------------------------------------------------------------

/** RoBERTa: embeddings and layers; multiple choice alone has the pooler. */
export class Roberta extends Encoder {
  static override readonly names = { layers: "encoder" };
  readonly embeddings: EncoderEmbeddings;
  readonly layers: EncoderLayers;
  readonly pooler: Pooler | undefined;

  constructor(
    readonly config: RobertaConfig,
    { pooler = false } = {},
  ) {
    super();
    this.embeddings = new EncoderEmbeddings({
      ...config,
      embeddingSize: config.hiddenSize,
      positions: config.contextLength + config.padTokenId + 1,
    });
    this.layers = new EncoderLayers(config);
    this.pooler = pooler ? new Pooler(config) : undefined;
  }

  override forward(inputs: EncoderInputs, context: ForwardContext = {}): Tensor {
    const positionIds = inputs.positionIds ?? this.positionsOf(inputs.inputIds);
    const x = this.embeddings.forward({ ...inputs, positionIds }, context);
    return this.layers.forward(x, { ...context, attentionMask: attentionMaskOf(inputs) });
  }

  /** Real tokens are counted from `padTokenId + 1`, wherever the padding is; padding stays at `padTokenId`. */
  private positionsOf(inputIds: Tensor): Tensor {
    const { contextLength, padTokenId } = this.config;
    const within = limit(inputIds, 1, contextLength, this.embeddings.position.weight.tensor);
    const real = logicalNot(equal(within, padTokenId)).cast("int32");
    return cumulativeSum(real, 1).mul(real).add(padTokenId);
  }
}

// ---- Heads --------------------------------------------------------------------------------------------------------

/** The masked language model's head under RoBERTa's published names. */
export class RobertaMaskedLmHead extends MaskedLmHead {
  static override readonly names = { norm: "layer_norm", decoder: "decoder.weight" };

  constructor(config: RobertaConfig, embedding: Tensor) {
    super({ ...config, activation: "gelu", embeddingSize: config.hiddenSize }, embedding);
  }
}

/** Masked language modelling, RoBERTa's only objective: logits `[batch, sequence, vocabSize]`. */
export function robertaForMaskedLm(config: RobertaConfig) {
  const roberta = new Roberta(config);
  const head = new RobertaMaskedLmHead(config, roberta.embeddings.token.weight.tensor);
  return new EncoderWithHead(roberta, head, { encoder: "roberta", head: "lm_head" });
}

const bare = (config: RobertaConfig) => new Roberta(config);

/** The heads of section 5. */
const robertaHeads = {
  "fill-mask": { create: robertaForMaskedLm },
  classify: headOn(
    "roberta",
    bare,
    (_, config, numLabels) => new DenseHead(config, numLabels, "tanh"),
    "classifier.out_proj",
    "classifier",
  ),
  ...tokenHeads("roberta", bare, ({ classifierDropout }) => classifierDropout),
  choice: headOn(
    "roberta",
    (config: RobertaConfig) => new Roberta(config, { pooler: true }),
    (roberta, config) =>
      new ChoiceHead(new PooledHead(config, 1, (hidden) => roberta.pooler!.forward(hidden))),
    "classifier",
  ),
};

// ---- Pretraining --------------------------------------------------------------------------------------------------

const tokens: SentenceTokens = {
  first: "<s>",
  separator: "</s>",
  padding: "<pad>",
  mask: "<mask>",
  startsWord: startsWithSpace,
};

/** Liu et al. 2019, section 4: masks anew every time over full sentences, and nothing else. */
function pretrainRoberta(options: PretrainingOptions): Pretraining {
  const { tokenizer } = options;
  const vocabulary = vocabularyOf(tokenizer, tokens);
  const model = robertaForMaskedLm(robertaConfig(bertSizesOf(options, vocabulary)));
  return {
    model,
    objective: maskedLmObjective({
      model,
      encode: ({ inputIds, attentionMask }, context) =>
        model.encoder.encode({ inputIds, attentionMask }, context),
      maskedLosses: (hidden, labels) => model.head.losses(hidden, labels),
    }),
    ...maskedFullSentences(options, vocabulary),
    networks: [
      wholeNetwork(model, {
        architectures: ["RobertaForMaskedLM"],
        ...robertaTable.write(model.encoder.config),
      }),
    ],
  };
}

// ---- Definition ---------------------------------------------------------------------------------------------------

/** RoBERTa as the rest of the library knows it. */
export const roberta = defineSystem({
  kind: "encoder",
  className: "Roberta",
  prefix: "roberta",
  config: robertaTable,
  sizes: robertaSizes,
  create: (config, options) => new Roberta(config, options),
  heads: robertaHeads,
  depth: depthByName(/^roberta\.embeddings\./, /^roberta\.encoder\.layer\.(\d+)\./),
  tokenizer: { kind: "encoder BPE", style: "roberta" },
  pretraining: { objective: "masked tokens, masked anew every time", prepare: pretrainRoberta },
});
