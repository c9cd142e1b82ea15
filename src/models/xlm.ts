import { z } from "zod";
import { type Tensor, cast, linear, linearTokenLosses, observe, unsqueeze } from "../graph/index.js";
import {
  ChoiceHead,
  type Choices,
  type ConfigOf,
  Dropout,
  Embedding,
  Encoder,
  type EncoderInputs,
  EncoderWithHead,
  type Field,
  type ForwardContext,
  type Initializer,
  LayerNorm,
  Linear,
  Module,
  Parameter,
  activations,
  attentionMaskOf,
  checkHeads,
  configEntries,
  configTable,
  entry,
  firstToken,
  headOn,
  multiHeadAttention,
  normalInit,
  ownOutputEmbeddings,
  reasons,
  tokenHeads,
  zerosInit,
  throughLayer,
} from "../nn/index.js";
import { MixtureSource } from "../data/example-source.js";
import { mixingRates } from "../data/mixing.js";
import {
  type Document,
  type LanguageText,
  type Pretraining,
  type PretrainingCorpus,
  type PretrainingOptions,
  type SentenceTokens,
  allDocuments,
  encodeDocuments,
  fullSentences,
  inverseRootFrequency,
  languageRow,
  maskRow,
  maskedBatch,
  maskedLmObjective,
  sizesOf,
  sourceAndHeldOut,
  startsWithSpace,
  translationRow,
  vocabularyOf,
  wholeNetwork,
} from "../objectives/index.js";
import { defineSystem, depthByName, publishedSize } from "./system.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

const { size, dropout, epsilon, flag, positive } = configEntries;

/** XLM, Lample & Conneau 2019, "Cross-lingual Language Model Pretraining". */
export const xlmTable = configTable({
  type: "xlm",
  title: "XLM",
  fields: {
    vocabSize: {
      ...entry("n_words", size, { absent: 30_145, published: 95_000, aliases: ["vocab_size"] }),
      write: (value) => ({ n_words: value, vocab_size: value }),
    } satisfies Field<number>,
    /** Positions that the model knows. */
    contextLength: entry("max_position_embeddings", size, { absent: 512 }),
    /** Languages that it tells apart; 1 leaves their embeddings out. */
    numLanguages: {
      entries: ["n_langs", "use_lang_emb"],
      schema: size,
      read: (json) =>
        entry("use_lang_emb", flag, { absent: true }).read(json, undefined)
          ? entry("n_langs", size, { absent: 1 }).read(json, undefined)
          : 1,
      write: (value) => ({ n_langs: value, use_lang_emb: value > 1 }),
      published: () => 15,
    } satisfies Field<number>,
    hiddenSize: {
      ...entry("emb_dim", size, { absent: 2048, aliases: ["hidden_size"] }),
      write: (value) => ({ emb_dim: value, embed_init_std: value ** -0.5 }),
    } satisfies Field<number>,
    numLayers: entry("n_layers", size, { absent: 12, aliases: ["num_hidden_layers"] }),
    numHeads: entry("n_heads", size, { absent: 16, aliases: ["num_attention_heads"] }),
    activation: {
      entries: ["gelu_activation"],
      schema: z.enum(["gelu", "relu"]),
      read: (json) =>
        entry("gelu_activation", flag, { absent: true }).read(json, undefined) ? "gelu" : "relu",
      write: (value) => ({ gelu_activation: value === "gelu" }),
      published: () => "gelu",
    } satisfies Field<"gelu" | "relu">,
    dropout: entry("dropout", dropout, { absent: 0.1 }),
    /** Probability of dropout of the attention probabilities. */
    attentionDropout: entry("attention_dropout", dropout, { absent: 0.1 }),
    layerNormEpsilon: entry("layer_norm_eps", epsilon, { absent: 1e-12 }),
    /** Standard deviation of the first weights of layers; embeddings start at `1 / sqrt(hiddenSize)`. */
    initializerRange: entry("init_std", positive, { absent: 0.02 }),
    /** Whether every position sees the earlier ones alone: causal language modelling, section 3.2. */
    causal: entry("causal", flag, { absent: false }),
    padTokenId: {
      ...entry("pad_index", z.int().nonnegative(), { absent: 2, aliases: ["pad_token_id"] }),
      write: (value) => ({ pad_index: value, pad_token_id: value }),
    } satisfies Field<number>,
    /** Whether positions are sinusoids, which do not learn. */
    sinusoidalPositions: entry("sinusoidal_embeddings", flag, { absent: false }),
    /** Probability of dropout of what a head about a sequence reads. */
    summaryDropout: entry("summary_first_dropout", dropout, { absent: 0.1 }),
    /** Whether words are predicted by the token embeddings, and not by a matrix of their own. */
    tieEmbeddings: entry("tie_word_embeddings", flag, { absent: true }),
  },
  fixed: { asm: false },
  only: {
    is_encoder: [true],
    summary_type: ["first"],
    summary_use_proj: [true],
    summary_activation: [null],
    summary_proj_to_labels: [true],
    summary_last_dropout: [0],
  },
  withoutEffect: {
    embed_init_std: "how new embeddings begin",
    ...reasons("the tokenizer's files say it", ["bos_index", "eos_index", "unk_index", "mask_index"]),
    ...reasons("of a head that searches for answers by beams, which lineage does not load", [
      "start_n_top",
      "end_n_top",
    ]),
    ...reasons("the language that transformers writes in where nobody names one", ["lang_id"]),
    ...reasons("names of languages, whose numbers the inputs have", ["id2lang", "lang2id"]),
    ...reasons("of the authors' preparation of data", [
      "max_vocab",
      "min_count",
      "same_enc_dec",
      "share_inout_emb",
    ]),
  },
  check: checkHeads,
});

export type XlmConfig = ConfigOf<typeof xlmTable>;

/** A configuration with XLM's published choices where `choices` makes none. Throws `config` for one that contradicts itself. */
export const xlmConfig = (choices: Choices<XlmConfig>): XlmConfig => xlmTable.create(choices);

const published = publishedSize(xlmTable);

/** The published models: one language, two, fifteen with translation LM, and a hundred without language embeddings. */
export const xlmSizes = {
  "xlm-mlm-en-2048": published(667_119_041, {
    vocabSize: 30_145,
    numLanguages: 1,
    hiddenSize: 2048,
    numLayers: 12,
    numHeads: 16,
  }),
  "xlm-mlm-ende-1024": published(142_422_203, {
    vocabSize: 64_699,
    numLanguages: 2,
    hiddenSize: 1024,
    numLayers: 6,
    numHeads: 8,
  }),
  "xlm-mlm-tlm-xnli15-1024": published(249_071_384, { hiddenSize: 1024, numLayers: 12, numHeads: 8 }),
  "xlm-mlm-100-1280": published(571_696_960, {
    vocabSize: 200_000,
    numLanguages: 1,
    hiddenSize: 1280,
    numLayers: 16,
    numHeads: 16,
  }),
} as const;

// ---- Parts --------------------------------------------------------------------------------------------------------

/** Self-attention; `[batch, sequence, hiddenSize]` in and out. */
class XlmAttention extends Module {
  static override readonly names = { query: "q_lin", key: "k_lin", value: "v_lin", output: "out_lin" };
  readonly query: Linear;
  readonly key: Linear;
  readonly value: Linear;
  readonly output: Linear;

  constructor(private readonly config: XlmConfig) {
    super();
    const options = { initializer: normalInit(config.initializerRange) };
    const square = () => new Linear(config.hiddenSize, config.hiddenSize, options);
    this.query = square();
    this.key = square();
    this.value = square();
    this.output = square();
  }

  override forward(x: Tensor, context: ForwardContext): Tensor {
    const { numHeads, attentionDropout } = this.config;
    const mixed = multiHeadAttention(
      this.query.forward(x),
      this.key.forward(x),
      this.value.forward(x),
      { numHeads, dropout: attentionDropout, causal: this.config.causal },
      context,
    );
    return this.output.forward(mixed);
  }
}

/** Feed-forward network four times as wide; `[batch, sequence, hiddenSize]` in and out. */
class XlmFeedForward extends Module {
  static override readonly names = { up: "lin1", down: "lin2" };
  readonly up: Linear;
  readonly down: Linear;

  constructor(private readonly config: XlmConfig) {
    super();
    const { hiddenSize } = config;
    const options = { initializer: normalInit(config.initializerRange) };
    this.up = new Linear(hiddenSize, 4 * hiddenSize, options);
    this.down = new Linear(4 * hiddenSize, hiddenSize, options);
  }

  override forward(x: Tensor): Tensor {
    return this.down.forward(activations[this.config.activation](this.up.forward(x)));
  }
}

// ---- Model --------------------------------------------------------------------------------------------------------

export interface XlmInputs extends EncoderInputs {
  /** Number of every token's language, int32 `[batch, sequence]`. Default: no language is added. */
  readonly languageIds?: Tensor | undefined;
}

/** Sine and cosine of the positions in turn, `[positions, hiddenSize]`; Vaswani et al. 2017, section 3.5. */
const sinusoids: Initializer = (target, _, [, size]) => {
  target.forEach((_, index) => {
    const [position, channel] = [Math.floor(index / size!), index % size!];
    const angle = position / 10_000 ** ((2 * Math.floor(channel / 2)) / size!);
    target[index] = channel % 2 === 0 ? Math.sin(angle) : Math.cos(angle);
  });
};

/**
 * XLM: the sum of token, position and language embeddings (figure 1), a norm, and post-norm layers, whose parts the published
 * names list kind by kind. States of padding are zero.
 */
export class Xlm extends Encoder {
  static override readonly names = {
    position: "position_embeddings",
    language: "lang_embeddings",
    token: "embeddings",
    embeddingNorm: "layer_norm_emb",
    attentionNorms: "layer_norm1",
    feedForwards: "ffns",
    outputNorms: "layer_norm2",
  };
  readonly position: Embedding;
  readonly language: Embedding | undefined;
  readonly token: Embedding;
  readonly embeddingNorm: LayerNorm;
  readonly attentions: readonly XlmAttention[];
  readonly attentionNorms: readonly LayerNorm[];
  readonly feedForwards: readonly XlmFeedForward[];
  readonly outputNorms: readonly LayerNorm[];
  private readonly dropout: Dropout;

  constructor(readonly config: XlmConfig) {
    super();
    const { hiddenSize, numLayers, numLanguages, layerNormEpsilon } = config;
    const initializer = normalInit(hiddenSize ** -0.5);
    const layers = <T>(make: () => T): T[] => Array.from({ length: numLayers }, make);
    const norm = () => new LayerNorm(hiddenSize, layerNormEpsilon);
    this.position = new Embedding(
      config.contextLength,
      hiddenSize,
      config.sinusoidalPositions ? sinusoids : initializer,
    );
    this.position.weight.trainable = !config.sinusoidalPositions;
    this.language = numLanguages > 1 ? new Embedding(numLanguages, hiddenSize, initializer) : undefined;
    this.token = new Embedding(config.vocabSize, hiddenSize, initializer);
    this.embeddingNorm = norm();
    this.attentions = layers(() => new XlmAttention(config));
    this.attentionNorms = layers(norm);
    this.feedForwards = layers(() => new XlmFeedForward(config));
    this.outputNorms = layers(norm);
    this.dropout = new Dropout(config.dropout);
  }

  override forward(inputs: XlmInputs, context: ForwardContext = {}): Tensor {
    const { attentionMask } = inputs;
    const inner = { ...context, attentionMask: attentionMaskOf(inputs) };
    let x = this.embed(inputs, context);
    this.attentions.forEach((attention, layer) => {
      observe("hidden", x);
      const read = x;
      x = throughLayer([read], context, () => {
        const attended = this.dropout.forward(attention.forward(read, inner), context.random);
        const h = this.attentionNorms[layer]!.forward(read.add(attended));
        const fed = this.dropout.forward(this.feedForwards[layer]!.forward(h), context.random);
        return this.outputNorms[layer]!.forward(h.add(fed));
      });
    });
    if (attentionMask?.rank === 2) x = x.mul(unsqueeze(cast(attentionMask, x.dtype), 2));
    observe("hidden", x);
    return x;
  }

  private embed({ inputIds, positionIds, languageIds }: XlmInputs, { random }: ForwardContext): Tensor {
    const positions = this.position.forwardOrFirst(positionIds, inputIds.dim(1));
    let x = this.token.forward(inputIds).add(positions);
    if (languageIds && this.language) x = x.add(this.language.forward(languageIds));
    return this.dropout.forward(this.embeddingNorm.forward(x), random);
  }
}

// ---- Heads --------------------------------------------------------------------------------------------------------

/** Logits by the token embeddings and a bias. */
export class XlmLmHead extends Module {
  static override readonly names = { bias: "proj.bias", decoder: "proj.weight" };
  readonly bias: Parameter;
  readonly decoder: Parameter | undefined;

  constructor(private readonly xlm: Xlm) {
    super();
    this.bias = new Parameter([xlm.config.vocabSize], zerosInit);
    this.decoder = ownOutputEmbeddings(xlm.config, xlm.config.hiddenSize);
  }

  /** Logits `[..., vocabSize]` of states `[..., hiddenSize]`. */
  override forward(hidden: Tensor): Tensor {
    return linear(hidden, this.outputEmbeddings, this.bias.tensor, { transposeWeight: true });
  }

  /** Cross-entropy of states `[..., hiddenSize]` under labels `[...]`, 0 where the label is -100. */
  losses(hidden: Tensor, labels: Tensor): Tensor {
    return linearTokenLosses(hidden, this.outputEmbeddings, labels, { bias: this.bias.tensor });
  }

  private get outputEmbeddings(): Tensor {
    return (this.decoder ?? this.xlm.token.weight).tensor;
  }
}

/** Masked, translation and causal language modelling: logits `[batch, sequence, vocabSize]`. */
export function xlmForMaskedLm(config: XlmConfig) {
  const xlm = new Xlm(config);
  return new EncoderWithHead(xlm, new XlmLmHead(xlm), { encoder: "transformer", head: "pred_layer" });
}

/** What sequence tasks read: a projection of the first token's state, `[batch, numLabels]`. */
class XlmSummaryHead extends Module {
  static override readonly names = { summary: "sequence_summary.summary" };
  readonly summary: Linear;
  private readonly dropout: Dropout;

  constructor(config: XlmConfig, numLabels: number) {
    super();
    this.summary = new Linear(config.hiddenSize, numLabels, {
      initializer: normalInit(config.initializerRange),
    });
    this.dropout = new Dropout(config.summaryDropout);
  }

  override forward(hidden: Tensor, { random }: ForwardContext): Tensor {
    return this.summary.forward(this.dropout.forward(firstToken(hidden), random));
  }
}

/** The score of one choice, from a summary as wide as the configuration has labels, as transformers has it. */
class XlmChoiceScorer extends Module {
  static override readonly names = { summary: "", scorer: "logits_proj" };
  readonly summary: XlmSummaryHead;
  readonly scorer: Linear;

  constructor(config: XlmConfig, summarySize: number) {
    super();
    this.summary = new XlmSummaryHead(config, summarySize);
    this.scorer = new Linear(summarySize, 1, { initializer: normalInit(config.initializerRange) });
  }

  override forward(hidden: Tensor, context: ForwardContext): Tensor {
    return this.scorer.forward(this.summary.forward(hidden, context));
  }
}

const bare = (config: XlmConfig) => new Xlm(config);

const xlmHeads = {
  "fill-mask": { create: xlmForMaskedLm, className: "WithLMHeadModel" },
  classify: headOn(
    "transformer",
    bare,
    (_, config, numLabels) => new XlmSummaryHead(config, numLabels),
    "sequence_summary.summary",
  ),
  ...tokenHeads("transformer", bare, ({ dropout }) => dropout),
  choice: headOn(
    "transformer",
    bare,
    (_, config, summarySize) => new ChoiceHead(new XlmChoiceScorer(config, summarySize)),
    "logits_proj",
  ),
};

// ---- Pretraining --------------------------------------------------------------------------------------------------

const tokens: SentenceTokens = {
  first: "</s>",
  separator: "</s>",
  padding: "<pad>",
  mask: "<special1>",
  startsWord: startsWithSpace,
};

/** Lample & Conneau 2019, section 3: masked LM in every language, and translation LM where there are translations. */
function pretrainXlm(options: PretrainingOptions): Pretraining {
  const { tokenizer, contextLength, batchSize, seed, dropout, training } = options;
  const vocabulary = vocabularyOf(tokenizer, tokens);
  const { separatorId, paddingId } = vocabulary;
  const model = xlmForMaskedLm(
    xlmConfig({
      ...sizesOf(options),
      dropout,
      attentionDropout: dropout,
      numLanguages: training.languages.length,
      padTokenId: paddingId,
    }),
  );
  const weight = inverseRootFrequency(countTokens(allDocuments(tokenizer, training)));
  const collate = (rows: Parameters<typeof maskedBatch>[0]) => maskedBatch(rows, paddingId);
  const monolingual = (language: number) => {
    const documents = (corpus: PretrainingCorpus) =>
      encodeDocuments(tokenizer, corpus.languages[language]!.documents);
    return sourceAndHeldOut(
      { training: documents(training), heldOut: documents(options.heldOut) },
      {
        batchSize,
        seed: seed + language,
        name: `the text of ${training.languages[language]!.name}`,
        length: (text: LanguageText) => text.ids.length,
        examplesOf: (texts: readonly Document[]) => () =>
          fullSentences(texts, { maxLength: contextLength - 2, separatorId }).map((ids) => ({
            ids,
            language,
          })),
        transform: (text: LanguageText, random) =>
          maskRow(languageRow(text, separatorId), vocabulary, { weight }, random),
        collate,
      },
    );
  };
  const side = Math.floor((contextLength - 4) / 2);
  const pairsOf = ({ parallel = [] }: PretrainingCorpus): (readonly [LanguageText, LanguageText])[] =>
    parallel.flatMap(({ languages, pairs }) => {
      const encode = (text: string, language: number): LanguageText => ({
        ids: tokenizer.encode(text, { parseSpecial: false }).slice(0, side),
        language,
      });
      return pairs.map(([a, b]) => [encode(a, languages[0]), encode(b, languages[1])] as const);
    });
  const translation = () =>
    sourceAndHeldOut(
      { training: pairsOf(training), heldOut: pairsOf(options.heldOut) },
      {
        batchSize,
        seed,
        name: "the parallel text",
        length: ([first, second]: readonly [LanguageText, LanguageText]) =>
          first.ids.length + second.ids.length,
        examplesOf: (pairs: readonly (readonly [LanguageText, LanguageText])[]) => () => pairs,
        transform: (pair: readonly [LanguageText, LanguageText], random) =>
          maskRow(translationRow(pair, separatorId, random), vocabulary, { weight }, random),
        collate,
      },
    );
  const languages = training.languages.map((_, language) => monolingual(language));
  const probabilities = mixingRates(
    training.languages.map(({ documents }) => documents.reduce((sum, { length }) => sum + length, 0)),
    { exponent: 0.7 },
  );
  const translations = (training.parallel ?? []).length > 0 ? [translation()] : [];
  const parts = [...languages, ...translations];
  // The supervised objective alternates with the unsupervised one, section 5.1.
  const weights = [...probabilities, ...translations.map(() => 1)];
  return {
    model,
    objective: maskedLmObjective({
      model,
      encode: ({ inputIds, attentionMask, positionIds, languageIds }, context) =>
        model.encoder.forward({ inputIds, attentionMask, positionIds, languageIds }, context),
      maskedLosses: (hidden, labels) => model.head.losses(hidden, labels),
      extra: ["positionIds", "languageIds"],
    }),
    source: new MixtureSource(
      parts.map(({ source }) => source),
      weights,
      seed,
    ),
    *heldOut() {
      for (const part of parts) yield* part.heldOut();
    },
    networks: [
      wholeNetwork(model, { architectures: ["XLMWithLMHeadModel"], ...xlmTable.write(model.encoder.config) }),
    ],
  };
}

function countTokens(documents: readonly Document[]): Map<number, number> {
  const counts = new Map<number, number>();
  for (const document of documents)
    for (const sentence of document) for (const id of sentence) counts.set(id, (counts.get(id) ?? 0) + 1);
  return counts;
}

// ---- Definition ---------------------------------------------------------------------------------------------------

/** XLM as the rest of the library knows it. */
export const xlm = defineSystem({
  kind: "encoder",
  className: "XLM",
  prefix: "transformer",
  config: xlmTable,
  sizes: xlmSizes,
  create: (config) => new Xlm(config),
  heads: { ...xlmHeads, span: { ...xlmHeads.span, className: "ForQuestionAnsweringSimple" } },
  depth: depthByName(
    /^transformer\.(embeddings|position_embeddings|lang_embeddings|layer_norm_emb)\./,
    /^transformer\.(?:attentions|layer_norm1|ffns|layer_norm2)\.(\d+)\./,
  ),
  tokenizer: { kind: "encoder BPE", style: "xlm" },
  pretraining: {
    objective: "masked tokens in every language, and in translations",
    readsTranslations: true,
    prepare: pretrainXlm,
  },
});
