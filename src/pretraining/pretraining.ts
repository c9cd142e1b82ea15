import { LineageError } from "../base/errors.js";
import {
  type Batch,
  type BatchSource,
  ExampleSource,
  type ExampleSourceOptions,
  onePass,
} from "../data/index.js";
import type { Tokenizer } from "../tokenizers/index.js";
import type { Module, Weights } from "../nn/index.js";
import { type Document, type SentenceVocabulary } from "../objectives/index.js";
import type { Objective } from "../training/index.js";

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
}

/** A system ready to be trained. */
export interface Pretraining {
  readonly model: Module;
  readonly objective: Objective;
  readonly source: BatchSource;
  /** Held-out batches, masked alike every time. */
  heldOut(): Iterable<Batch>;
  /** Writes the folder that `lineage finetune` and Hugging Face transformers load. */
  save(folder: string, weights: Weights): Promise<void>;
}

/** Special tokens by their part in a row. */
export interface SystemTokens {
  readonly first: string;
  readonly separator: string;
  readonly padding: string;
  readonly mask: string;
  /** Whether a token's text begins a word. */
  readonly startsWord: (token: string) => boolean;
}

/** What masking has to know of a tokenizer. Throws `tokenizer` when it lacks one of the system's tokens. */
export function vocabularyOf(tokenizer: Tokenizer, tokens: SystemTokens): SentenceVocabulary {
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
