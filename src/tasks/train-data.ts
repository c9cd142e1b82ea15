import { existsSync } from "node:fs";
import { LineageError } from "../base/errors.js";
import {
  type BatchSource,
  type BlockOptions,
  BlockSource,
  type Batch,
  type Corpus,
  DataLoader,
  type DocumentOptions,
  DocumentSource,
  PackedLoader,
  type TokenizedCorpus,
  type Tokens,
  blocksOnce,
  documentsOnce,
  evaluationBatches,
  markedCorpus,
  mixingRates,
  openTokens,
  packedBatches,
  storyCorpus,
  textCorpus,
} from "../data/index.js";
import {
  type DenoiserMixture,
  type PrefixRow,
  denoisingVocabulary,
  isCausal,
  mixedRow,
  packedPrefixBatch,
  prefixBatch,
} from "../objectives/index.js";
import type { Runtime } from "../runtime/types.js";
import { type Tokenizer, controlToken } from "../tokenizers/index.js";
import type { TrainOptions } from "./train-options.js";
import { packedData } from "./train-text.js";

/** Stories of the embedded corpus: enough that a run of minutes sees each about once. */
const embeddedStories = 12_000;

/** The text of a language, or all text. */
export interface TrainText {
  /** "" where nobody named a language. */
  readonly language: string;
  readonly corpus: Corpus;
}

export interface TrainTexts {
  readonly texts: readonly TrainText[];
  /** Tokens that mark documents. */
  readonly markers: readonly string[];
  /** What was marked, in words. */
  readonly statement: string | undefined;
}

/** What a run learns from. Throws `argument` for files of which only some name a language, `data` as `markedCorpus` does. */
export async function trainTexts({
  data,
  controlColumn,
  controlRate,
  seed,
}: TrainOptions): Promise<TrainTexts> {
  const entries = typeof data === "string" ? [data] : data;
  const files = entries.map((entry) => {
    const [, language, file] = (!existsSync(entry) && /^(\w+)=(.+)$/.exec(entry)) || [undefined, "", entry];
    return { language: language!, file: file! };
  });
  const nameless = files.find(({ language }) => language === "");
  if (nameless && files.length > 1)
    throw new LineageError(
      "argument",
      `--data ${nameless.file} names no language; of several files each is --data LANGUAGE=FILE`,
    );
  const twice = files.find(
    ({ language }, index) => files.findIndex((one) => one.language === language) < index,
  );
  if (twice)
    throw new LineageError(
      "argument",
      `--data names the language ${twice.language} twice; put its text into one file`,
    );
  if (controlColumn === undefined)
    return {
      texts: files.map(({ language, file }) => ({
        language,
        corpus: file === "stories" ? storyCorpus({ seed, count: embeddedStories }) : textCorpus(file),
      })),
      markers: [],
      statement: undefined,
    };
  const marked = await Promise.all(
    files.map(({ file }) =>
      markedCorpus(file, { column: controlColumn, rate: controlRate, seed, tokenOf: controlToken }),
    ),
  );
  const markers = [...new Set(marked.flatMap((corpus) => corpus.markers))];
  const sum = (of: "marked" | "count") => marked.reduce((total, corpus) => total + corpus[of], 0);
  return {
    texts: files.map(({ language }, index) => ({ language, corpus: marked[index]! })),
    markers,
    statement: `${sum("marked")} of ${sum("count")} documents begin with one of ${markers.join(", ")}`,
  };
}

/** A text with its token ids. */
export interface TokenizedText extends TrainText {
  readonly tokens: TokenizedCorpus;
}

/** Opens the token ids of texts. Throws as `openTokens` does. */
export async function openTexts(
  runtime: Runtime,
  texts: readonly TrainText[],
  folderOf: (text: TrainText) => string,
  vocabSize: number,
): Promise<{ readonly texts: readonly TokenizedText[] } & Disposable> {
  const opened: TokenizedText[] = [];
  const dispose = () => {
    for (const { tokens } of opened) tokens[Symbol.dispose]();
  };
  try {
    for (const text of texts)
      opened.push({ ...text, tokens: await openTokens(runtime, folderOf(text), vocabSize) });
    return { texts: opened, [Symbol.dispose]: dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

/** Batches to learn from, and held-out ones. */
export interface TrainBatches {
  readonly source: BatchSource;
  readonly heldOut: () => Iterable<Batch>;
  /** Tokens that fill no row. */
  readonly droppedTokens: number;
  /** More about the rows, in words. */
  readonly statement: string;
}

export interface TrainBatchesOptions {
  readonly options: TrainOptions;
  readonly mixture: DenoiserMixture;
  readonly tokenizer: Tokenizer;
  readonly sequenceLength: number;
  /** Documents share a row where this says the same of their lengths. */
  readonly groupOf: (length: number) => number;
}

/** The rows of a run: blocks or packed documents for the causal objective, else what the mixture makes of blocks. */
export function trainBatches(
  texts: readonly TokenizedText[],
  { options, mixture, tokenizer, sequenceLength, groupOf }: TrainBatchesOptions,
): TrainBatches {
  const { batch: batchSize, seed, packing, exponent } = options;
  const shape = { batchSize, sequenceLength };
  const [first] = texts as readonly [TokenizedText, ...TokenizedText[]];
  const { name } = first.corpus;
  const plain = texts.length === 1 && isCausal(mixture);
  if (packing === "documents" && plain) {
    const { training, validation } = packedData(first.tokens, tokenizer, sequenceLength, name);
    return {
      source: new PackedLoader(training.pieces, { ...shape, seed, groupOf }, name),
      heldOut: () => packedBatches(validation.pieces, { ...shape, groupOf }),
      droppedTokens: 0,
      statement: `; ${training.documents} documents in ${training.pieces.length} pieces of at most ${sequenceLength} tokens`,
    };
  }
  if (plain) {
    const source = new DataLoader(first.tokens.training, { ...shape, seed }, name);
    return {
      source,
      heldOut: () => evaluationBatches(first.tokens.validation, shape),
      droppedTokens: source.droppedTokens,
      statement: "",
    };
  }
  const rowLength = sequenceLength + 1;
  const vocabulary = denoisingVocabulary(tokenizer, mixture, rowLength);
  const size = ({ length }: Tokens): number => Math.max(1, length);
  const rates = mixingRates(
    texts.map(({ tokens }) => size(tokens.training)),
    { exponent },
  );
  const shares = texts.map(({ language }, part) => `${language} ${(100 * rates[part]!).toFixed(0)}%`);
  const languages = texts.length > 1 ? `; rows in ${shares.join(", ")}` : "";
  if (packing === "documents") {
    const data = texts.map(({ tokens, corpus }) =>
      packedData(tokens, tokenizer, sequenceLength, corpus.name),
    );
    const documents: DocumentOptions<PrefixRow> = {
      ...{ rowLength: sequenceLength, batchSize, seed },
      transform: (document, random) => mixedRow(document, mixture, vocabulary, sequenceLength, random),
      lengthOf: ({ ids }) => ids.length,
      collate: (rows) => packedPrefixBatch(rows, sequenceLength, batchSize),
    };
    // Rates are of tokens: a language with short documents gives more of them.
    const parts = data.map(({ training }, part) => {
      const pieces = training.pieces.filter(({ length }) => length > 1);
      const { tokens, corpus } = texts[part]!;
      return {
        documents: pieces,
        rate: (rates[part]! * pieces.length) / size(tokens.training),
        name: corpus.name,
      };
    });
    const count = data.reduce((sum, { training }) => sum + training.documents, 0);
    return {
      source: new DocumentSource(parts, documents),
      heldOut: () =>
        documentsOnce(
          data.flatMap(({ validation }) => validation.pieces.filter(({ length }) => length > 1)),
          documents,
        ),
      droppedTokens: 0,
      statement: `; ${count} documents, each with an objective of its own${languages}`,
    };
  }
  const blocks: BlockOptions<PrefixRow> = {
    blockLength: rowLength,
    batchSize,
    seed,
    transform: (block, random) => mixedRow(block, mixture, vocabulary, rowLength, random),
    collate: (rows) => prefixBatch(rows, sequenceLength, batchSize),
  };
  const source = new BlockSource(
    texts.map(({ tokens, corpus }, part) => ({
      tokens: tokens.training,
      rate: rates[part]!,
      name: corpus.name,
    })),
    blocks,
  );
  return {
    source,
    heldOut: () =>
      blocksOnce(
        texts.map(({ tokens }) => tokens.validation),
        blocks,
      ),
    droppedTokens: source.droppedTokens,
    statement: languages,
  };
}
