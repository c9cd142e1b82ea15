import path from "node:path";
import { LineageError } from "../base/errors.js";
import { type BadRow, type Row, type Table, describeBadRows, readTable, readTextFile } from "./table.js";

/** A text, what is to be written about it, and where they stand. */
export interface WrittenPair {
  /** Row of the table, or line of the files. */
  readonly row: number;
  readonly source: string;
  readonly target: string;
}

export interface TextPairFiles {
  /** A table with both texts; or the sources, one a line, where `targets` is given. */
  readonly data: string;
  /** The targets, one a line: line i belongs to line i of `data`. */
  readonly targets?: string | undefined;
  /** Columns of the table; `translation.de` is the entry `de` of a column of structures. Default: by their names. */
  readonly source?: string | undefined;
  readonly target?: string | undefined;
  readonly encoding?: string | undefined;
  /** Leaves out rows that cannot be used and tells them, instead of refusing the file. */
  readonly skipBadRows?: boolean | undefined;
}

export interface WrittenPairs {
  /** The file, or both, as a person calls them. */
  readonly name: string;
  readonly pairs: readonly WrittenPair[];
  /** What was read, in words for a person. */
  readonly columns: string;
  readonly bad: readonly BadRow[];
}

const names = {
  source: [
    "source",
    "src",
    "input",
    "text",
    "document",
    "article",
    "dialogue",
    "question",
    "prompt",
    "instruction",
    "sentence",
  ],
  target: [
    "target",
    "tgt",
    "output",
    "summary",
    "highlights",
    "translation",
    "answer",
    "response",
    "completion",
    "label",
  ],
} as const;
type Side = keyof typeof names;

/**
 * Reads pairs of texts from two columns of a table (CSV, TSV, JSONL, Parquet), or from two files with a text a line. Throws
 * `data` for files that differ in length, missing columns, and with all rows that lack one of the texts unless
 * `skipBadRows` leaves them out.
 */
export async function readTextPairs(files: TextPairFiles): Promise<WrittenPairs> {
  const { data, targets, encoding, skipBadRows } = files;
  if (targets !== undefined) {
    if (files.source !== undefined || files.target !== undefined)
      throw new LineageError(
        "argument",
        `${targets} holds the targets, one a line: leave the names of columns (--source, --target) out`,
      );
    return checked(await alignedPairs(data, targets, encoding), skipBadRows, "line");
  }
  if (/\.(?:txt|[a-z]{2})(?:\.gz)?$/i.test(data))
    throw new LineageError(
      "data",
      `${data} has a text a line, by its name: give the file of the targets with --targets, or a table (.csv, .tsv, .jsonl, .parquet) with both`,
    );
  const table = await readTable(data, {
    header: (cells) => namesColumns(cells, files),
    skipBadRows,
    ...(encoding !== undefined && { encoding }),
  });
  return checked(tablePairs(table, files), skipBadRows, "row");
}

function checked(found: WrittenPairs, skipBadRows: boolean | undefined, unit: "row" | "line"): WrittenPairs {
  const { name, bad, pairs } = found;
  if (bad.length > 0 && !skipBadRows)
    throw new LineageError("data", `${name}: ${describeBadRows(bad, bad.length + pairs.length, unit)}`);
  if (pairs.length === 0) throw new LineageError("data", `${name} has no pair of texts that can be used`);
  return found;
}

// ---- Two files ----------------------------------------------------------------------------------------------------

async function alignedPairs(data: string, targets: string, encoding?: string): Promise<WrittenPairs> {
  const [sources, wanted] = (await Promise.all(
    [data, targets].map(async (file) => linesOf(await readTextFile(file, encoding))),
  )) as [string[], string[]];
  if (sources.length !== wanted.length)
    throw new LineageError(
      "data",
      `${data} has ${sources.length} lines and ${targets} ${wanted.length}: line i of one belongs to line i of the other`,
    );
  const pairs: WrittenPair[] = [];
  const bad: BadRow[] = [];
  sources.forEach((source, index) => {
    const target = wanted[index]!;
    const empty = [source.trim() === "" ? data : "", target.trim() === "" ? targets : ""].filter(Boolean);
    if (empty.length === 0) pairs.push({ row: index + 1, source, target });
    else bad.push({ number: index + 1, reason: `is empty in ${empty.join(" and in ")}` });
  });
  return {
    name: `${data} and ${path.basename(targets)}`,
    pairs,
    columns: "a text a line",
    bad,
  };
}

/** Lines, the one behind the last line feed left out. */
function linesOf(text: string): string[] {
  const lines = text.split(/\r\n|[\n\r]/);
  if (lines.at(-1) === "") lines.pop();
  return lines;
}

// ---- Tables -------------------------------------------------------------------------------------------------------

const languageCode = /^[a-z]{2,3}(?:[-_][A-Za-z]{2,4})?$/;

/** Whether the cells are names of columns: one is given, is a usual one, or all are codes of languages. */
const namesColumns = (cells: readonly string[], { source, target }: TextPairFiles): boolean =>
  cells.some((cell) => {
    const name = cell.trim();
    return (
      [source, target].includes(name) ||
      Object.values(names).some((known) => (known as readonly string[]).includes(name.toLowerCase()))
    );
  }) || cells.every((cell) => languageCode.test(cell.trim()));

function tablePairs(table: Table, given: TextPairFiles): WrittenPairs {
  const { source, target } = columnsOf(table, given);
  const pairs: WrittenPair[] = [];
  const bad: BadRow[] = [...table.bad];
  for (const row of table.rows) {
    const texts = [source, target].map((column) => textOf(row, column));
    const missing = [source, target].filter((_, index) => texts[index] === undefined);
    if (missing.length === 0) pairs.push({ row: row.number, source: texts[0]!, target: texts[1]! });
    else bad.push({ number: row.number, reason: `has no text in ${missing.join(" and in ")}` });
  }
  return {
    name: table.file,
    pairs,
    columns: `${JSON.stringify(source)} to ${JSON.stringify(target)}`,
    bad: bad.sort((a, b) => a.number - b.number),
  };
}

function columnsOf(table: Table, given: TextPairFiles): Record<Side, string> {
  const { columns } = table;
  for (const side of ["source", "target"] as const) {
    const name = given[side];
    if (name !== undefined && !columns.includes(name) && !columns.includes(name.split(".")[0]!))
      throw new LineageError(
        "data",
        `${table.file} has no column named ${JSON.stringify(name)}; it has ${columns.join(", ")}. Name the right one with --${side}`,
      );
  }
  const other = (side: Side) => given[side === "source" ? "target" : "source"];
  const guess = (side: Side): string | undefined =>
    given[side] ??
    names[side]
      .map((known) => columns.find((name) => name.toLowerCase() === known && name !== other(side)))
      .find((name) => name !== undefined);
  const found = { source: guess("source"), target: guess("target") };
  if (columns.length === 2) {
    // Two columns: what one is, the other is not; and the source stands first.
    found.source ??= columns.find((name) => name !== found.target);
    found.target ??= columns.find((name) => name !== found.source);
  }
  const { source, target } = found;
  const missing = (["source", "target"] as const).find((side) => found[side] === undefined);
  if (source === undefined || target === undefined)
    throw new LineageError(
      "data",
      `${table.file}: none of its columns (${columns.join(", ")}) is known to hold the ${missing}; name it with --${missing}`,
    );
  if (source === target)
    throw new LineageError(
      "data",
      `${table.file}: ${JSON.stringify(source)} cannot be the source and the target; name both with --source and --target`,
    );
  return { source, target };
}

/** The text in a column of a row; undefined where there is none. A number is the text that writes it. */
function textOf({ values }: Row, column: string): string | undefined {
  let value: unknown = values[column];
  if (value === undefined)
    value = column
      .split(".")
      .reduce<unknown>(
        (inner, name) =>
          typeof inner === "object" && inner !== null && Object.hasOwn(inner, name)
            ? (inner as Record<string, unknown>)[name]
            : undefined,
        values,
      );
  if (typeof value === "number" || typeof value === "bigint" || typeof value === "boolean")
    return String(value);
  return typeof value === "string" && value.trim() !== "" ? value : undefined;
}
