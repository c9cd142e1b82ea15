import { createReadStream } from "node:fs";
import path from "node:path";
import { createGunzip } from "node:zlib";
import { FormatError, LineageError } from "../base/errors.js";
import { storageError } from "../base/files.js";
import { readTable } from "../data/index.js";

/** Words in a row that make a question one that a model may have been trained on: GPT-3's 13, and not under 8. */
const [fewest, most] = [8, 13];

/** Documents of a training set in which words in a row may be: in more of them they are a common phrase, which tells nothing. */
const mostDocuments = 10;

/** Words by which texts are compared: letters and digits alone, in lower case. */
const wordsOf = (text: string): string[] => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];

/**
 * How many words in a row are compared: the length of the question at the fifth percentile, from 8 to 13 (Brown et al. 2020,
 * appendix C).
 */
export function overlapLength(texts: readonly string[]): number {
  const lengths = texts.map((text) => wordsOf(text).length).sort((a, b) => a - b);
  const percentile = lengths[Math.floor(0.05 * lengths.length)] ?? most;
  return Math.min(most, Math.max(fewest, percentile));
}

/** What ends a document within a text file, as in the training sets of GPT-2. */
const endOfDocument = "<|endoftext|>";

/** All texts within a value of a row. */
function* textsIn(value: unknown): Generator<string> {
  if (typeof value === "string") yield value;
  else if (typeof value === "object" && value !== null)
    for (const each of Object.values(value)) yield* textsIn(each);
}

/** Parts of a document, in order; each begins with a whole word. */
interface Part {
  readonly words: readonly string[];
  /** Whether a document begins with it. */
  readonly first: boolean;
}

/** A file of training texts. Of a table each row is a document; any other file is text, packed or not. */
async function* partsOf(file: string): AsyncGenerator<Part> {
  const ending = path.extname(file.replace(/\.gz$/i, "")).toLowerCase();
  if ([".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json", ".parquet"].includes(ending)) {
    const { rows } = await readTable(file, { skipBadRows: true });
    for (const { values } of rows) yield { words: wordsOf([...textsIn(values)].join("\n")), first: true };
    return;
  }
  let [rest, first] = ["", true];
  for await (const part of textOf(file)) {
    const documents = (rest + part).split(endOfDocument);
    for (const [index, text] of documents.entries()) {
      const whole = index < documents.length - 1;
      const cut = whole ? text.length : wholeWords(text);
      yield { words: wordsOf(text.slice(0, cut)), first };
      first = whole;
      rest = text.slice(cut);
    }
  }
  yield { words: wordsOf(rest), first };
}

/** Characters of which no word is made. */
const longestWord = 100_000;

/** How much of a text is there for certain: its last word, or what ends a document, may go on in the next part. */
function wholeWords(text: string): number {
  const mark = text.lastIndexOf("<");
  if (mark >= 0 && endOfDocument.startsWith(text.slice(mark))) return mark;
  const cut = text.search(/[\p{L}\p{N}]*$/u);
  return text.length - cut > longestWord ? text.length : cut;
}

/** A UTF-8 text in parts. Throws FormatError for a `.gz` that is none. */
async function* textOf(file: string): AsyncGenerator<string> {
  const stored = createReadStream(file);
  const unpacked = /\.gz$/i.test(file) ? stored.pipe(createGunzip()) : stored;
  if (unpacked !== stored) stored.on("error", (error) => unpacked.destroy(error));
  unpacked.setEncoding("utf8");
  try {
    for await (const part of unpacked) yield String(part);
  } catch (error) {
    if (error instanceof LineageError) throw error;
    const { code = "" } = error as NodeJS.ErrnoException;
    if (code.startsWith("Z_"))
      throw new FormatError(file, `it cannot be unpacked: ${(error as Error).message}`, { cause: error });
    throw storageError("read", file, error);
  } finally {
    stored.destroy();
  }
}

export interface Overlap {
  /** Places of the texts that share words. */
  readonly texts: ReadonlySet<number>;
  /** Words in a row that were shared, but are in more than 10 documents: they do not count. */
  readonly common: number;
}

/**
 * Which of some texts share `length` words in a row with files that a model was trained on; a shorter text counts where all of
 * it is there. Places and punctuation do not count, and neither do words in a row that more than 10 documents have: those are
 * common phrases (Brown et al. 2020, appendix C). A row of a table is a document, and a text file is one, or several with
 * `<|endoftext|>` between them.
 */
export async function overlapping(
  texts: readonly string[],
  files: readonly string[],
  length = overlapLength(texts),
): Promise<Overlap> {
  const shared = new Map<string, { readonly owners: number[]; documents: number; last: number }>();
  const sizes = new Set<number>();
  for (const [place, text] of texts.entries()) {
    const words = wordsOf(text);
    const size = Math.min(length, words.length);
    if (size === 0) continue;
    sizes.add(size);
    for (let start = 0; start + size <= words.length; start++) {
      const key = words.slice(start, start + size).join(" ");
      const found = shared.get(key);
      if (!found) shared.set(key, { owners: [place], documents: 0, last: -1 });
      else if (found.owners.at(-1) !== place) found.owners.push(place);
    }
  }
  let document = -1;
  for (const file of files) {
    let before: readonly string[] = [];
    for await (const { words, first } of partsOf(file)) {
      if (first) [before, document] = [[], document + 1];
      const all = [...before, ...words];
      for (const size of sizes)
        for (let end = Math.max(size, before.length + 1); end <= all.length; end++) {
          const found = shared.get(all.slice(end - size, end).join(" "));
          if (found && found.last !== document)
            [found.last, found.documents] = [document, found.documents + 1];
        }
      before = all.slice(-length + 1);
    }
  }
  const found = new Set<number>();
  let common = 0;
  for (const { owners, documents } of shared.values()) {
    if (documents > mostDocuments) common++;
    else if (documents > 0) for (const owner of owners) found.add(owner);
  }
  return { texts: found, common };
}
