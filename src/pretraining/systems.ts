import { mkdir } from "node:fs/promises";
import path from "node:path";
import { LineageError } from "../base/errors.js";
import { writeJson } from "../base/files.js";
import type { Random } from "../base/random.js";
import { ignoredLabel } from "../graph/index.js";
import { type Tokenizer, trainEncoderBpe, trainUnigram, trainWordPiece } from "../tokenizers/index.js";
import { saveWeights, tensorsToSave, writeSafetensors, writeTokenizer } from "../formats/index.js";
import {
  DebertaPretraining,
  debertaConfig,
  DebertaV3Pretraining,
  debertaV2Config,
  ElectraPretraining,
  electraConfig,
  electraToHuggingFace,
  albertConfig,
  albertForPretraining,
  bertConfig,
  bertForPretraining,
  robertaConfig,
  robertaForMaskedLm,
  unilmConfig,
  unilmForPretraining,
  unilmToHuggingFace,
  xlmConfig,
  xlmForMaskedLm,
  xlnetConfig,
  xlnetForPretraining,
  xlnetToHuggingFace,
} from "../models/index.js";
import { encoderConfigJson } from "../checkpoints/index.js";
import type { EncoderWithHead, Weights } from "../nn/index.js";
import {
  type BothWays,
  bothWaysBatch,
  permutationObjective,
  permutedSegment,
  type Document,
  type SentencePair,
  fullSentences,
  sentencePairs,
  type LanguageText,
  languageProbabilities,
  languageRow,
  translationRow,
  type MaskingOptions,
  albertSpans,
  inverseRootFrequency,
  unilmSpans,
  type SentenceVocabulary,
  type UnilmMode,
  drawUnilmMode,
  unilmRow,
  electraMasking,
  replacedTokenBatch,
  replacedTokenObjective,
  maskRow,
  maskedBatch,
  sentenceRow,
  maskedLmObjective,
} from "../objectives/index.js";
import { MixtureSource } from "../data/index.js";
import {
  type Pretraining,
  type PretrainingCorpus,
  type PretrainingOptions,
  type SystemTokens,
  allDocuments,
  encodeDocuments,
  sourceAndHeldOut,
  vocabularyOf,
} from "./pretraining.js";

/** One encoder as its paper pretrains it: tokenizer, network, objective. */
export interface PretrainingSystem {
  readonly title: string;
  /** What it learns from, for a person. */
  readonly objective: string;
  readonly trainTokenizer: (texts: Iterable<string>, vocabSize: number) => Tokenizer;
  readonly prepare: (options: PretrainingOptions) => Pretraining;
}

// ---- Tokens -------------------------------------------------------------------------------------------------------

const wordPiece: SystemTokens = {
  first: "[CLS]",
  separator: "[SEP]",
  padding: "[PAD]",
  mask: "[MASK]",
  startsWord: (token) => !token.startsWith("##"),
};
const startsWithSpace = (token: string): boolean => token.startsWith("Ġ");
const robertaTokens: SystemTokens = {
  first: "<s>",
  separator: "</s>",
  padding: "<pad>",
  mask: "<mask>",
  startsWord: startsWithSpace,
};
const debertaTokens: SystemTokens = { ...wordPiece, startsWord: startsWithSpace };
const xlmTokens: SystemTokens = { ...robertaTokens, first: "</s>", mask: "<special1>" };
const startsWithMark = (token: string): boolean => token.startsWith("▁");
const albertTokens: SystemTokens = {
  first: "[CLS]",
  separator: "[SEP]",
  padding: "<pad>",
  mask: "[MASK]",
  startsWord: startsWithMark,
};
const xlnetTokens: SystemTokens = {
  first: "<cls>",
  separator: "<sep>",
  padding: "<pad>",
  mask: "<mask>",
  startsWord: startsWithMark,
};

// ---- What the systems share ---------------------------------------------------------------------------------------

const sizesOf = ({ hiddenSize, numLayers, numHeads, contextLength, tokenizer }: PretrainingOptions) => ({
  hiddenSize,
  numLayers,
  numHeads,
  contextLength,
  vocabSize: tokenizer.vocabSize,
});
const bertSizesOf = (options: PretrainingOptions, { paddingId }: SentenceVocabulary) => ({
  ...sizesOf(options),
  padTokenId: paddingId,
  hiddenDropout: options.dropout,
  attentionDropout: options.dropout,
});

const documentsIn = ({ tokenizer, training, heldOut }: PretrainingOptions) => ({
  training: allDocuments(tokenizer, training),
  heldOut: allDocuments(tokenizer, heldOut),
});

/** Writes a network with its pretraining heads; every task's loader takes from it what it needs. */
const saveTrained =
  (model: EncoderWithHead<EncoderWithHead["encoder"], never>, tokenizer: Tokenizer) =>
  async (folder: string, weights: Weights): Promise<void> => {
    await writeJson(path.join(folder, "config.json"), encoderConfigJson(model.encoder, "fill-mask"));
    await writeTokenizer(tokenizer, folder);
    await saveWeights(path.join(folder, "model.safetensors"), weights);
  };

/** Rows of as many whole sentences as fit, masked anew every time. */
const maskedFullSentences = (
  options: PretrainingOptions,
  vocabulary: SentenceVocabulary,
  masking: MaskingOptions = {},
  batchOf: typeof maskedBatch = maskedBatch,
) => {
  const { batchSize, seed, contextLength } = options;
  const { separatorId, paddingId } = vocabulary;
  return sourceAndHeldOut(documentsIn(options), {
    batchSize,
    seed,
    length: (row: readonly number[]) => row.length,
    examplesOf: (documents: readonly Document[]) => () =>
      fullSentences(documents, { maxLength: contextLength - 2, separatorId }),
    transform: (row: readonly number[], random) =>
      maskRow(sentenceRow(vocabulary, row), vocabulary, masking, random),
    collate: (rows) => batchOf(rows, paddingId),
  });
};

/** `[CLS] first [SEP] second [SEP]`: three special tokens in a row of two stretches. */
const pairLength = (contextLength: number) => contextLength - 3;

const pairRow = (vocabulary: SentenceVocabulary, { first, second, label }: SentencePair) => ({
  ...sentenceRow(vocabulary, first, second),
  label,
});

const lengthOf = ({ first, second }: Pick<SentencePair, "first" | "second">) => first.length + second.length;

// ---- The systems --------------------------------------------------------------------------------------------------

/** Devlin et al. 2019, section 3.1: masked LM under ten fixed masks, and next-sentence prediction. */
function bert(options: PretrainingOptions): Pretraining {
  const { tokenizer, contextLength, batchSize, seed } = options;
  const vocabulary = vocabularyOf(tokenizer, wordPiece);
  const model = bertForPretraining(bertConfig(bertSizesOf(options, vocabulary)));
  return {
    model,
    objective: maskedLmObjective({
      model,
      encode: (inputs, context) => model.encoder.encode(inputs, context),
      maskedLosses: (hidden, labels) => model.head.predictions.losses(hidden, labels),
      sentenceLogits: (hidden) => model.head.nextSentence.forward(model.encoder.pooler!.forward(hidden)),
    }),
    ...sourceAndHeldOut(documentsIn(options), {
      batchSize,
      seed,
      copies: 10,
      length: lengthOf,
      examplesOf: (documents: readonly Document[]) => (random) =>
        sentencePairs(documents, { maxLength: pairLength(contextLength), task: "next-sentence" }, random),
      transform: (pair: SentencePair, random) => maskRow(pairRow(vocabulary, pair), vocabulary, {}, random),
      collate: (rows) => maskedBatch(rows, vocabulary.paddingId),
    }),
    save: saveTrained(model as never, tokenizer),
  };
}

/** Liu et al. 2019, section 4: masks anew every time over full sentences, and nothing else. */
function roberta(options: PretrainingOptions): Pretraining {
  const { tokenizer } = options;
  const vocabulary = vocabularyOf(tokenizer, robertaTokens);
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
    save: saveTrained(model as never, tokenizer),
  };
}

/** Lan et al. 2020, sections 3.1 and 4.1: spans of up to three words, and sentence-order prediction. */
function albert(options: PretrainingOptions): Pretraining {
  const { tokenizer, contextLength, batchSize, seed, hiddenSize } = options;
  const vocabulary = vocabularyOf(tokenizer, albertTokens);
  const model = albertForPretraining(
    albertConfig({
      ...bertSizesOf(options, vocabulary),
      embeddingSize: Math.min(128, Math.max(1, hiddenSize / 2)),
    }),
  );
  return {
    model,
    objective: maskedLmObjective({
      model,
      encode: (inputs, context) => model.encoder.encode(inputs, context),
      maskedLosses: (hidden, labels) => model.head.predictions.losses(hidden, labels),
      sentenceLogits: (hidden) => model.head.sentenceOrder.forward(model.encoder.pool(hidden)),
    }),
    ...sourceAndHeldOut(documentsIn(options), {
      batchSize,
      seed,
      length: lengthOf,
      examplesOf: (documents: readonly Document[]) => (random) =>
        sentencePairs(documents, { maxLength: pairLength(contextLength), task: "sentence-order" }, random),
      transform: (pair: SentencePair, random) =>
        maskRow(pairRow(vocabulary, pair), vocabulary, { unit: "word", spans: albertSpans }, random),
      collate: (rows) => maskedBatch(rows, vocabulary.paddingId),
    }),
    save: saveTrained(model as never, tokenizer),
  };
}

/** Clark et al. 2020, section 3: a generator a quarter as wide fills masks, the discriminator tells what it filled. */
function electra(options: PretrainingOptions): Pretraining {
  const { tokenizer, hiddenSize, numHeads } = options;
  const vocabulary = vocabularyOf(tokenizer, wordPiece);
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
    /** The discriminator, which is what is fine-tuned; the generator in a folder of its own. */
    save: async (folder, weights) => {
      const embeddings = "discriminator.electra.embeddings.";
      const networks = [
        [folder, "discriminator.", "ElectraForPreTraining", config],
        [path.join(folder, "generator"), "generator.", "ElectraForMaskedLM", generator],
      ] as const;
      for (const [place, prefix, className, sizes] of networks) {
        await mkdir(place, { recursive: true });
        await writeJson(path.join(place, "config.json"), {
          architectures: [className],
          ...electraToHuggingFace(sizes),
        });
        await writeTokenizer(tokenizer, place);
        const tensors = tensorsToSave(weights)
          .filter(({ name }) => name.startsWith(prefix) || name.startsWith(embeddings))
          .map((tensor) => ({ ...tensor, name: tensor.name.replace(/^(discriminator|generator)\./, "") }));
        await writeSafetensors(path.join(place, "model.safetensors"), tensors);
      }
    },
  };
}

/** He et al. 2021, sections 3 and 4.1: masked LM, the words predicted through the enhanced mask decoder. */
function deberta(options: PretrainingOptions): Pretraining {
  const { tokenizer } = options;
  const vocabulary = vocabularyOf(tokenizer, debertaTokens);
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
    /** The encoder with its decoder's parts under their authors' names, which fine-tuning leaves out. */
    save: async (folder, weights) => {
      await writeJson(path.join(folder, "config.json"), encoderConfigJson(model.encoder));
      await writeTokenizer(tokenizer, folder);
      await saveWeights(path.join(folder, "model.safetensors"), weights);
    },
  };
}

/** He et al. 2021 ("DeBERTaV3"), section 3: replaced tokens, with gradient-disentangled embedding sharing. */
function debertaV3(options: PretrainingOptions): Pretraining {
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
    /** The discriminator, its embeddings being the generator's and their difference in one. */
    save: async (folder, weights) => {
      await writeJson(path.join(folder, "config.json"), encoderConfigJson(model.discriminator.encoder));
      await writeTokenizer(tokenizer, folder);
      const words = "deberta.embeddings.word_embeddings.weight";
      const shared = weights.get(`generator.${words}`).view();
      const whole = weights
        .get(`discriminator.${words}`)
        .view()
        .map((value, index) => value + shared[index]!);
      const prefix = "discriminator.";
      const tensors = tensorsToSave(weights)
        .filter(({ name }) => name.startsWith(prefix))
        .map((tensor) => ({ ...tensor, name: tensor.name.slice(prefix.length) }))
        .map((tensor) =>
          tensor.name === words ? { ...tensor, bytes: new Uint8Array(whole.buffer) } : tensor,
        );
      await writeSafetensors(path.join(folder, "model.safetensors"), tensors);
    },
  };
}

/** Lample & Conneau 2019, section 3: masked LM in every language, and translation LM where there are translations. */
function xlm(options: PretrainingOptions): Pretraining {
  const { tokenizer, contextLength, batchSize, seed, dropout, training } = options;
  const vocabulary = vocabularyOf(tokenizer, xlmTokens);
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
  const probabilities = languageProbabilities(
    training.languages.map(({ documents }) => documents.reduce((sum, { length }) => sum + length, 0)),
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
    save: saveTrained(model as never, tokenizer),
  };
}

function countTokens(documents: readonly Document[]): Map<number, number> {
  const counts = new Map<number, number>();
  for (const document of documents)
    for (const sentence of document) for (const id of sentence) counts.set(id, (counts.get(id) ?? 0) + 1);
  return counts;
}

/** Segments of a row, each with the memory of those before it. */
const xlnetSegments = 2;

/** A text both ways, and where a row of segments begins in either. */
interface BothTexts {
  readonly forwards: Int32Array;
  readonly backwards: Int32Array;
  readonly start: number;
}

/**
 * Yang et al. 2019, sections 2 and 3.1: permutation LM over consecutive segments, half of each reused as memory; half of the
 * rows of a batch read the text backwards.
 */
function xlnet(options: PretrainingOptions): Pretraining {
  const { tokenizer, contextLength, batchSize, seed, dropout } = options;
  if (batchSize % 2 !== 0)
    throw new LineageError(
      "argument",
      `XLNet reads half of each batch backwards: it needs an even number of rows, not ${batchSize}`,
    );
  const vocabulary = vocabularyOf(tokenizer, xlnetTokens);
  const reuseLength = Math.floor(contextLength / 2);
  const segments = { sequenceLength: contextLength, reuseLength };
  const config = xlnetConfig({
    ...sizesOf(options),
    dropout,
    reuseLength,
    memoryLength: Math.floor((contextLength * 3) / 4),
    bidirectionalData: true,
    padTokenId: vocabulary.paddingId,
  });
  const model = xlnetForPretraining(config);
  const stride = xlnetSegments * reuseLength;
  return {
    model,
    objective: permutationObjective(
      {
        model,
        segment: (inputs, context) => model.encoder.streams(inputs, context),
        losses: (hidden, labels) => model.head.losses(hidden, labels),
      },
      { ...segments, segments: xlnetSegments },
    ),
    ...sourceAndHeldOut(documentsIn(options), {
      batchSize: batchSize / 2,
      seed,
      examplesOf: (documents: readonly Document[]) => {
        const forwards = Int32Array.from(documents.flat(2));
        const texts = { forwards, backwards: forwards.slice().reverse() };
        return (random: Random) => {
          const offset = random.integer(stride);
          // A text too short for a row goes on from its beginning.
          const count = Math.max(
            Math.min(1, forwards.length),
            Math.floor((forwards.length - contextLength - offset) / stride),
          );
          return Array.from({ length: count }, (_, index) => ({ ...texts, start: offset + index * stride }));
        };
      },
      transform: (example: BothTexts, random): BothWays => {
        const read = (way: "forwards" | "backwards") =>
          Array.from({ length: xlnetSegments }, (_, index) =>
            permutedSegment(
              example[way],
              example.start + index * reuseLength,
              vocabulary,
              { ...segments, backwards: way === "backwards" },
              random.fork(`${way} ${index}`),
            ),
          );
        return { forwards: read("forwards"), backwards: read("backwards") };
      },
      collate: bothWaysBatch,
    }),
    /** As a network that reads every row forwards: which way a row is read is a matter of pretraining alone. */
    save: async (folder, weights) => {
      await writeJson(path.join(folder, "config.json"), {
        architectures: ["XLNetLMHeadModel"],
        ...xlnetToHuggingFace({ ...config, bidirectionalData: false }),
      });
      await writeTokenizer(tokenizer, folder);
      await saveWeights(path.join(folder, "model.safetensors"), weights);
    },
  };
}

/** Dong et al. 2019, section 2.3: four masks, mixed, and next-sentence prediction under the bidirectional one. */
function unilm(options: PretrainingOptions): Pretraining {
  const { tokenizer, contextLength, batchSize, seed } = options;
  const vocabulary = vocabularyOf(tokenizer, wordPiece);
  const config = unilmConfig(bertSizesOf(options, vocabulary));
  const model = unilmForPretraining(config);
  const maxLength = pairLength(contextLength);
  interface Example extends SentencePair {
    readonly mode: UnilmMode;
  }
  return {
    model,
    objective: maskedLmObjective({
      model,
      encode: (inputs, context) => model.encoder.encode(inputs, context),
      maskedLosses: (hidden, labels) => model.head.predictions.losses(hidden, labels),
      sentenceLogits: (hidden) => model.head.nextSentenceLogits(hidden),
      extra: ["visible"],
    }),
    ...sourceAndHeldOut(documentsIn(options), {
      batchSize,
      seed,
      length: lengthOf,
      examplesOf:
        (documents: readonly Document[]) =>
        (random: Random): Example[] => {
          const any = sentencePairs(documents, { maxLength, task: "next-sentence" }, random.fork("any"));
          // One mode asks which text follows; the others go on with the text that does.
          const following = sentencePairs(
            documents,
            { maxLength, task: "sentence-order" },
            random.fork("following"),
          ).map((pair): SentencePair =>
            pair.label === 0 ? pair : { first: pair.second, second: pair.first, label: 0 },
          );
          return following.map((pair, index) => {
            const mode = drawUnilmMode(random);
            const other = any[index % Math.max(1, any.length)];
            return { ...(mode === "bidirectional" ? (other ?? pair) : pair), mode };
          });
        },
      transform: ({ mode, first, second, label }: Example, random) =>
        maskRow(
          {
            ...unilmRow(mode, vocabulary, first, second),
            label: mode === "bidirectional" ? label : ignoredLabel,
          },
          vocabulary,
          { spans: unilmSpans },
          random,
        ),
      collate: (rows) => maskedBatch(rows, vocabulary.paddingId),
    }),
    save: async (folder, weights) => {
      await writeJson(path.join(folder, "config.json"), {
        architectures: ["BertForPreTraining"],
        ...unilmToHuggingFace(config),
      });
      await writeTokenizer(tokenizer, folder);
      await saveWeights(path.join(folder, "model.safetensors"), weights);
    },
  };
}

// ---- Catalogue ----------------------------------------------------------------------------------------------------

const learnWordPiece = (texts: Iterable<string>, vocabSize: number) => trainWordPiece(texts, { vocabSize });

/** The encoders that can be pretrained, by name. */
export const pretrainingSystems = {
  albert: {
    title: "ALBERT",
    objective: "masked spans of words and sentence order",
    trainTokenizer: (texts, vocabSize) => trainUnigram(texts, { vocabSize, style: "albert" }),
    prepare: albert,
  },
  bert: {
    title: "BERT",
    objective: "masked tokens and next sentence",
    trainTokenizer: learnWordPiece,
    prepare: bert,
  },
  deberta: {
    title: "DeBERTa",
    objective: "masked tokens through the enhanced mask decoder",
    trainTokenizer: (texts, vocabSize) => trainEncoderBpe(texts, { vocabSize, style: "deberta" }),
    prepare: deberta,
  },
  "deberta-v3": {
    title: "DeBERTa v3",
    objective: "replaced tokens with disentangled embeddings",
    trainTokenizer: (texts, vocabSize) =>
      trainUnigram(texts, { vocabSize, style: "albert", lowercase: false }),
    prepare: debertaV3,
  },
  electra: {
    title: "ELECTRA",
    objective: "replaced tokens",
    trainTokenizer: learnWordPiece,
    prepare: electra,
  },
  roberta: {
    title: "RoBERTa",
    objective: "masked tokens, masked anew every time",
    trainTokenizer: (texts, vocabSize) => trainEncoderBpe(texts, { vocabSize, style: "roberta" }),
    prepare: roberta,
  },
  unilm: {
    title: "UniLM",
    objective: "masked tokens under four masks, and next sentence",
    trainTokenizer: learnWordPiece,
    prepare: unilm,
  },
  xlm: {
    title: "XLM",
    objective: "masked tokens in every language, and in translations",
    trainTokenizer: (texts, vocabSize) => trainEncoderBpe(texts, { vocabSize, style: "xlm" }),
    prepare: xlm,
  },
  xlnet: {
    title: "XLNet",
    objective: "tokens in random order, with memory, half of the rows backwards",
    trainTokenizer: (texts, vocabSize) => trainUnigram(texts, { vocabSize, style: "xlnet" }),
    prepare: xlnet,
  },
} as const satisfies Readonly<Record<string, PretrainingSystem>>;

export type PretrainingModel = keyof typeof pretrainingSystems;
export const pretrainingModels = Object.keys(pretrainingSystems) as [PretrainingModel, ...PretrainingModel[]];
