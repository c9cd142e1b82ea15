import { LineageError } from "../base/errors.js";
import type { Batch, BatchSource } from "../data/batch.js";
import { ExampleSource, type ExampleSourceOptions, onePass } from "../data/example-source.js";
import type { Tokenizer } from "../tokenizers/index.js";
import { type Module, namedParameters } from "../nn/index.js";
import type { Objective } from "../training/index.js";
import type { MaskingOptions } from "./masking.js";
import { maskRow, maskedBatch, sentenceRow } from "./rows.js";
import { type Document, type SentencePair, fullSentences } from "./sentences.js";
import type { SentenceVocabulary } from "./vocabulary.js";

/** Sizes that every encoder has; all else is as published. */
export interface PretrainingSizes {
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  /** Longest row, special tokens included. */
  readonly contextLength: number;
  readonly dropout: number;
}

/** Texts of one language, in documents of sentences. */
export interface LanguageCorpus {
  readonly name: string;
  readonly documents: readonly (readonly string[])[];
}

/** Sentences with their translations; the languages by their number in the corpus. */
export interface ParallelCorpus {
  readonly languages: readonly [number, number];
  readonly pairs: readonly (readonly [string, string])[];
}

export interface PretrainingCorpus {
  /** One, or several for a system with languages. */
  readonly languages: readonly LanguageCorpus[];
  readonly parallel?: readonly ParallelCorpus[];
}

export interface PretrainingOptions extends PretrainingSizes {
  readonly tokenizer: Tokenizer;
  readonly training: PretrainingCorpus;
  readonly heldOut: PretrainingCorpus;
  readonly batchSize: number;
  readonly seed: number;
  /** Power of the languages' shares of the text by which they are sampled. Default: the system's. */
  readonly exponent?: number | undefined;
}

/** A network that pretraining leaves, in a folder of its own. */
export interface PretrainedNetwork {
  /** Its folder within the checkpoint; "" for the checkpoint itself. */
  readonly folder: string;
  /** Its `config.json`. */
  readonly config: Readonly<Record<string, unknown>>;
  /** Its parameters by their names in the file: the names of the trained ones whose sum each is. */
  readonly parameters: ReadonlyMap<string, readonly string[]>;
}

/** A system ready to be trained. */
export interface Pretraining {
  readonly model: Module;
  readonly objective: Objective;
  readonly source: BatchSource;
  /** Held-out batches, masked alike every time. */
  heldOut(): Iterable<Batch>;
  /** What is kept of it: what `lineage finetune` and Hugging Face transformers load. */
  readonly networks: readonly PretrainedNetwork[];
}

/** How a system is pretrained. */
export interface PretrainingRecipe {
  /** What it learns from, for a person. */
  readonly objective: string;
  /** Whether it learns from translations, too. Default: it does not. */
  readonly readsTranslations?: boolean;
  prepare(options: PretrainingOptions): Pretraining;
}

/** Special tokens by their part in a row. */
export interface SentenceTokens {
  readonly first: string;
  readonly separator: string;
  readonly padding: string;
  readonly mask: string;
  /** Whether a token's text begins a word. */
  readonly startsWord: (token: string) => boolean;
}

/** What masking has to know of a tokenizer. Throws `tokenizer` when it lacks one of the system's tokens. */
export function vocabularyOf(tokenizer: Tokenizer, tokens: SentenceTokens): SentenceVocabulary {
  const idOf = (token: string): number => {
    const id = tokenizer.tokenToId(token);
    if (id === undefined)
      throw new LineageError("tokenizer", `the tokenizer has no token ${token}, which this system needs`);
    return id;
  };
  const ids = Array.from({ length: tokenizer.vocabSize }, (_, id) => id);
  // A gap in the ids is no word either.
  const specialIds = new Set(
    ids.filter((id) => tokenizer.isSpecial(id) || tokenizer.idToToken(id) === undefined),
  );
  return {
    size: tokenizer.vocabSize,
    classId: idOf(tokens.first),
    separatorId: idOf(tokens.separator),
    paddingId: idOf(tokens.padding),
    maskId: idOf(tokens.mask),
    specialIds,
    startsWord: (id) => tokens.startsWord(tokenizer.idToToken(id) ?? ""),
  };
}

/** Documents as token ids; a sentence without tokens is left out. */
export function encodeDocuments(tokenizer: Tokenizer, documents: readonly (readonly string[])[]): Document[] {
  return documents.map((document) =>
    document
      .map((sentence, index) =>
        tokenizer.encode(index === 0 ? sentence : ` ${sentence}`, { parseSpecial: false }),
      )
      .filter((ids) => ids.length > 0),
  );
}

/** Documents of all languages as one. */
export const allDocuments = (tokenizer: Tokenizer, { languages }: PretrainingCorpus): Document[] =>
  languages.flatMap(({ documents }) => encodeDocuments(tokenizer, documents));

/** A source over training data and the batches of held-out data under one and the same treatment. */
export function sourceAndHeldOut<Data, Example, Row>(
  data: { readonly training: Data; readonly heldOut: Data },
  treatment: Omit<ExampleSourceOptions<Example, Row>, "examples"> & {
    readonly examplesOf: (data: Data) => ExampleSourceOptions<Example, Row>["examples"];
  },
): Pick<Pretraining, "heldOut"> & { readonly source: ExampleSource<Example, Row> } {
  const { examplesOf, ...rest } = treatment;
  return {
    source: new ExampleSource({ ...rest, examples: examplesOf(data.training) }),
    heldOut: () => onePass({ ...rest, examples: examplesOf(data.heldOut) }),
  };
}

// ---- What the systems share ---------------------------------------------------------------------------------------

/** WordPiece's tokens: BERT's, ELECTRA's and UniLM's. */
export const wordPieceTokens: SentenceTokens = {
  first: "[CLS]",
  separator: "[SEP]",
  padding: "[PAD]",
  mask: "[MASK]",
  startsWord: (token) => !token.startsWith("##"),
};
/** Whether a token of byte-level BPE begins a word. */
export const startsWithSpace = (token: string): boolean => token.startsWith("Ġ");
/** Whether a token of SentencePiece begins a word. */
export const startsWithMark = (token: string): boolean => token.startsWith("▁");

/** The sizes of a network that is made for a tokenizer. */
export const sizesOf = ({
  hiddenSize,
  numLayers,
  numHeads,
  contextLength,
  tokenizer,
}: PretrainingOptions) => ({
  hiddenSize,
  numLayers,
  numHeads,
  contextLength,
  vocabSize: tokenizer.vocabSize,
});

/** Those of BERT and its kin. */
export const bertSizesOf = (options: PretrainingOptions, { paddingId }: SentenceVocabulary) => ({
  ...sizesOf(options),
  padTokenId: paddingId,
  hiddenDropout: options.dropout,
  attentionDropout: options.dropout,
});

/** Documents of all languages, as token ids. */
export const documentsIn = ({ tokenizer, training, heldOut }: PretrainingOptions) => ({
  training: allDocuments(tokenizer, training),
  heldOut: allDocuments(tokenizer, heldOut),
});

/** A network that is kept with all its parameters under their names. */
export const wholeNetwork = (
  model: Module,
  config: Readonly<Record<string, unknown>>,
): PretrainedNetwork => ({
  folder: "",
  config,
  parameters: new Map([...namedParameters(model).keys()].map((name) => [name, [name]])),
});

/** Rows of as many whole sentences as fit, masked anew every time. */
export const maskedFullSentences = (
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

/** Tokens of `[CLS] first [SEP] second [SEP]` that are not special. */
export const pairLength = (contextLength: number): number => contextLength - 3;

/** The row of a pair of sentences, with its label. */
export const pairRow = (vocabulary: SentenceVocabulary, { first, second, label }: SentencePair) => ({
  ...sentenceRow(vocabulary, first, second),
  label,
});

/** Tokens of a pair. */
export const lengthOfPair = ({ first, second }: Pick<SentencePair, "first" | "second">): number =>
  first.length + second.length;
