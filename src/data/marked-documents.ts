import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
import type { Corpus } from "./corpus.js";
import { readTable } from "./table.js";

/** Names of columns that hold a document, in the order in which they are looked for. */
const textColumns = ["text", "document", "content", "article", "comment", "sentence"];

/** Labels of a column at most: each is a token. */
const mostLabels = 64;

export interface MarkedOptions {
  /** Column with a document's label. */
  readonly column: string;
  /** Share of the documents that are marked. */
  readonly rate: number;
  readonly seed: number;
  /** The token of a label. */
  readonly tokenOf: (column: string, label: string) => string;
}

/** Documents of which some begin with a token that tells their label. */
export interface MarkedCorpus extends Corpus {
  /** The tokens, in the order of the labels. */
  readonly markers: readonly string[];
  /** Documents that are marked, and all of them. */
  readonly marked: number;
  readonly count: number;
}

/**
 * Reads documents with a label each from a table, and marks a share of them by the label, as PaLM 2 learned from "a small
 * fraction" of documents with tokens for their toxicity; Anil et al. 2023, section 3. Which ones follows from the seed. Throws
 * `data` for a missing column, an empty label, and labels that are no classes.
 */
export async function markedCorpus(
  file: string,
  { column, rate, seed, tokenOf }: MarkedOptions,
): Promise<MarkedCorpus> {
  const table = await readTable(file);
  const text = textColumns.find((name) => name !== column && table.columns.includes(name));
  const has = `${file} has the columns ${table.columns.join(", ")}`;
  if (!table.columns.includes(column)) throw new LineageError("data", `${has}, and no ${column}`);
  if (text === undefined)
    throw new LineageError("data", `${has}; name the one with the documents ${textColumns[0]}`);
  const rows = table.rows.map(({ number, values }) => {
    const [document, label] = [values[text], values[column]];
    if (typeof document !== "string" || document.trim() === "")
      throw new LineageError("data", `${file}: row ${number} has no text in the column ${text}`);
    const name = typeof label === "object" || label === undefined ? "" : String(label as string).trim();
    if (name === "" || name.length > 40 || /[|:<>\s]/.test(name))
      throw new LineageError(
        "data",
        `${file}: row ${number} has ${JSON.stringify(label)} in the column ${column}; a label is one word, such as low`,
      );
    return { document, label: name };
  });
  const labels = [...new Set(rows.map(({ label }) => label))].sort();
  if (labels.length > mostLabels)
    throw new LineageError(
      "data",
      `the column ${column} of ${file} has ${labels.length} different labels, and each would be a token; use at most ${mostLabels}, such as low, medium and high`,
    );
  const random = new Random(seed).fork("marked documents");
  const documents = rows.map(({ document, label }, index) => ({
    document,
    marker: random.fork(index).uniform() < rate ? tokenOf(column, label) : "",
  }));
  return {
    name: file,
    documents: true,
    markers: labels.map((label) => tokenOf(column, label)),
    marked: documents.filter(({ marker }) => marker !== "").length,
    count: documents.length,
    *parts() {
      for (const { marker, document } of documents) yield marker + document;
    },
  };
}
