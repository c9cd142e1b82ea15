import { type Random } from "../base/random.js";
import { LineageError } from "../base/errors.js";
import { ignoredLabel } from "../graph/index.js";
import { type Choices, bertFields, checkHeads, configTable } from "../nn/index.js";
import {
  type Document,
  type Pretraining,
  type PretrainingOptions,
  type SentencePair,
  type UnilmMode,
  bertSizesOf,
  documentsIn,
  drawUnilmMode,
  lengthOfPair,
  maskRow,
  maskedBatch,
  maskedLmObjective,
  pairLength,
  sentencePairs,
  sourceAndHeldOut,
  unilmRow,
  unilmSegmentCount,
  unilmSpans,
  vocabularyOf,
  wholeNetwork,
  wordPieceTokens,
} from "../objectives/index.js";
// The network is BERT's to the letter: what makes UniLM itself is which words see which, and that the inputs say.
import { Bert, type BertConfig, bertDepth, bertForPretraining, bertHeads } from "./bert.js";
import { defineSystem, publishedSize } from "./system.js";

// ---- Configuration ------------------------------------------------------------------------------------------------

/**
 * UniLM, Dong et al. 2019, "Unified Language Model Pre-training for Natural Language Understanding and Generation": BERT's
 * network, under four masks that tell which words a word is predicted from. Which mode it is in, the inputs alone say: the
 * mask `[batch, sequence, sequence]` forbids scores (equations 2 and 3), and each mode has segments of its own (`unilmRow`
 * makes both). Its `config.json` is that of a BERT with six segments.
 */
export const unilmTable = configTable({
  type: "bert",
  title: "UniLM",
  fields: bertFields({}, { vocabSize: 28_996, typeVocabSize: unilmSegmentCount }),
  fixed: { position_embedding_type: "absolute" },
  check: (config) => {
    checkHeads(config);
    if (config.typeVocabSize < unilmSegmentCount)
      throw new LineageError(
        "config",
        `type_vocab_size is ${config.typeVocabSize}, but UniLM's modes have ${unilmSegmentCount} segments`,
      );
  },
});

export type UnilmConfig = BertConfig;

/** A configuration with UniLM's published choices where `choices` makes none. Throws `config` for one that contradicts itself. */
export const unilmConfig = (choices: Choices<UnilmConfig>): UnilmConfig => unilmTable.create(choices);

const published = publishedSize(unilmTable);

/** The two published sizes; section 2.3 has the large one. */
export const unilmSizes = {
  "unilm1-base-cased": published(108_936_006, { hiddenSize: 768, numLayers: 12, numHeads: 12 }),
  "unilm1-large-cased": published(334_666_054, { hiddenSize: 1024, numLayers: 24, numHeads: 16 }),
} as const;

// ---- Pretraining --------------------------------------------------------------------------------------------------

/** Dong et al. 2019, section 2.3: four masks, mixed, and next-sentence prediction under the bidirectional one. */
function pretrainUnilm(options: PretrainingOptions): Pretraining {
  const { tokenizer, contextLength, batchSize, seed } = options;
  const vocabulary = vocabularyOf(tokenizer, wordPieceTokens);
  const config = unilmConfig(bertSizesOf(options, vocabulary));
  const model = bertForPretraining(config);
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
      sentenceLogits: (hidden) => model.head.sentenceLogits(hidden),
      extra: ["visible"],
    }),
    ...sourceAndHeldOut(documentsIn(options), {
      batchSize,
      seed,
      length: lengthOfPair,
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
    networks: [wholeNetwork(model, { architectures: ["BertForPreTraining"], ...unilmTable.write(config) })],
  };
}

// ---- Definition ---------------------------------------------------------------------------------------------------

/** UniLM as the rest of the library knows it. */
export const unilm = defineSystem({
  name: "unilm",
  kind: "encoder",
  className: "Bert",
  prefix: "bert",
  config: unilmTable,
  sizes: unilmSizes,
  holds: ({ type_vocab_size: segments }) => segments === unilmSegmentCount,
  create: (config, options) => new Bert(config, options),
  heads: bertHeads,
  depth: bertDepth,
  tokenizer: { kind: "WordPiece" },
  pretraining: { objective: "masked tokens under four masks, and next sentence", prepare: pretrainUnilm },
});
