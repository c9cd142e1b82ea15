import { readFile } from "node:fs/promises";
import path from "node:path";
import type { CsvError } from "csv-parse/sync";
import { FormatError, LineageError, messageOf } from "../base/errors.js";
import { storageError } from "../base/files.js";
import { optionalPackage } from "../base/packages.js";
import { isSquad, squadRows } from "./squad.js";

/** A row of a table, with the number by which a spreadsheet or an editor shows it: a header is row 1. */
export interface Row {
  readonly number: number;
  /** By column: text in CSV and TSV; what the file holds in JSONL and Parquet, integers as numbers. */
  readonly values: Readonly<Record<string, unknown>>;
}

export interface Table {
  readonly file: string;
  readonly columns: readonly string[];
  readonly rows: readonly Row[];
  /** Whether the column names come from the file. Without a header they are `column1`, `column2`, … */
  readonly named: boolean;
}

export type TableFormat = "csv" | "tsv" | "jsonl" | "parquet";

export interface TableOptions {
  /** Default: by the file's ending. */
  readonly format?: TableFormat;
  /** Whether the first row of a CSV or TSV names the columns, or what tells it from its cells. Default true. */
  readonly header?: boolean | ((cells: readonly string[]) => boolean);
  /** Encoding of the text, as `TextDecoder` names it. Default: UTF-8, or UTF-16 with a byte order mark. */
  readonly encoding?: string;
}

const formats: Readonly<Record<string, TableFormat>> = {
  ".csv": "csv",
  ".tsv": "tsv",
  ".tab": "tsv",
  ".jsonl": "jsonl",
  ".ndjson": "jsonl",
  ".json": "jsonl",
  ".parquet": "parquet",
};

/**
 * Reads a CSV, TSV, JSONL (or a JSON array, or SQuAD's nested JSON) or Parquet file. A CSV may be separated by commas, semicolons or tabs; quotes
 * mean something in CSV alone, as TSV has none. Throws FormatError with the row for broken quoting, a wrong number of
 * cells, broken JSON or a wrong encoding; nothing is left out.
 */
export async function readTable(file: string, options: TableOptions = {}): Promise<Table> {
  const format = options.format ?? formats[path.extname(file).toLowerCase()];
  if (!format) {
    throw new LineageError(
      "data",
      `${file}: a file of this ending cannot be read as a table; use .csv, .tsv, .jsonl or .parquet`,
    );
  }
  if (format === "parquet") return readParquet(file);
  const text = decode(file, await readBytes(file), options.encoding);
  return format === "jsonl" ? parseJsonLines(file, text) : parseDelimited(file, text, format, options);
}

async function readBytes(file: string): Promise<Uint8Array> {
  try {
    return await readFile(file);
  } catch (error) {
    throw storageError("read", file, error);
  }
}

/** The text of bytes. Throws FormatError naming the line whose bytes are not of the encoding. */
function decode(file: string, bytes: Uint8Array, encoding?: string): string {
  const mark = encoding === undefined && bytes.length >= 2 ? (bytes[0]! << 8) | bytes[1]! : 0;
  const name = encoding ?? (mark === 0xfffe ? "utf-16le" : mark === 0xfeff ? "utf-16be" : "utf-8");
  let decoder: TextDecoder;
  try {
    decoder = new TextDecoder(name, { fatal: true });
  } catch (error) {
    throw new LineageError("argument", `there is no text encoding named ${JSON.stringify(name)}`, {
      cause: error,
    });
  }
  try {
    return decoder.decode(bytes);
  } catch (error) {
    let line = 1;
    let start = 0;
    // Line by line: a line feed is never part of another character in UTF-8.
    while (name === "utf-8" && start < bytes.length) {
      const end = bytes.indexOf(10, start);
      const stop = end < 0 ? bytes.length : end;
      try {
        decoder.decode(bytes.subarray(start, stop));
      } catch {
        throw new FormatError(
          file,
          `line ${line} is not UTF-8; save the file as UTF-8, or name its encoding: --encoding windows-1252`,
          { cause: error },
        );
      }
      start = stop + 1;
      line++;
    }
    throw new FormatError(file, `the bytes are not ${name}; name the file's encoding with --encoding`, {
      cause: error,
    });
  }
}

// ---- CSV and TSV --------------------------------------------------------------------------------------------------

async function parseDelimited(
  file: string,
  text: string,
  format: "csv" | "tsv",
  { header = true }: TableOptions,
): Promise<Table> {
  // Few uses of this library read tables, and fewer read all kinds: a format's package is loaded when it is needed.
  const csv = await import("csv-parse/sync");
  const delimiter = format === "tsv" ? "\t" : likelyDelimiter(text);
  let records: string[][];
  try {
    records = csv.parse(text, {
      delimiter,
      quote: format === "tsv" ? false : '"',
      relax_column_count: true,
      bom: true,
    });
  } catch (error) {
    if (!(error instanceof csv.CsvError)) throw error;
    throw new FormatError(file, describeCsvError(error), { cause: error });
  }
  const blank = (cells: readonly string[]) => cells.length === 1 && cells[0]!.trim() === "";
  const filled = records.flatMap((cells, index) => (blank(cells) ? [] : [{ number: index + 1, cells }]));
  const first = filled[0];
  if (!first) throw new LineageError("data", `${file} is empty: there is no row in it`);
  const named = typeof header === "function" ? header(first.cells) : header;
  const columns = named
    ? first.cells.map((name) => name.trim())
    : first.cells.map((_, index) => `column${index + 1}`);
  const twice = columns.find((name, index) => columns.indexOf(name) !== index);
  if (twice !== undefined)
    throw new FormatError(file, `the header names the column ${JSON.stringify(twice)} twice`);
  const rows = filled.slice(named ? 1 : 0).map(({ number, cells }): Row => {
    if (cells.length !== columns.length) {
      throw new FormatError(
        file,
        `row ${number} has ${cells.length} cells, but there are ${columns.length} columns (${columns.join(", ")}); ` +
          `a cell with ${delimiter === "\t" ? "a tab" : `"${delimiter}"`} in it ${format === "tsv" ? "does not fit a TSV" : "needs quotes around it"}`,
      );
    }
    return { number, values: Object.fromEntries(columns.map((name, index) => [name, cells[index]!])) };
  });
  return { file, columns, rows, named };
}

function likelyDelimiter(text: string): string {
  const line = text.slice(0, (text.indexOf("\n") + 1 || text.length + 1) - 1).replace(/"[^"]*"/g, "");
  const [best] = [",", ";", "\t"]
    .map((delimiter) => ({ delimiter, count: line.split(delimiter).length }))
    .sort((a, b) => b.count - a.count);
  return best!.delimiter;
}

function describeCsvError(error: CsvError): string {
  const info = error as unknown as { code: string; records?: number; lines?: number };
  const row = `row ${(info.records ?? 0) + 1}`;
  switch (info.code) {
    case "CSV_QUOTE_NOT_CLOSED":
      return `${row} opens a quote that is never closed; close it, or double every quote that is part of the text: ""`;
    case "CSV_INVALID_CLOSING_QUOTE":
    case "CSV_NON_TRIMABLE_CHAR_AFTER_CLOSING_QUOTE":
      return `${row} (line ${info.lines}) goes on after a closing quote; double every quote that is part of the text: ""`;
    case "INVALID_OPENING_QUOTE":
      return `${row} (line ${info.lines}) has a quote in the middle of a cell; put the whole cell in quotes and double the ones inside`;
    default:
      return `${row} (line ${info.lines}) cannot be read: ${error.message}`;
  }
}

// ---- JSONL and Parquet --------------------------------------------------------------------------------------------

function parseJsonLines(file: string, text: string): Table {
  const rows: Row[] = [];
  const columns = new Set<string>();
  const add = (number: number, value: unknown): void => {
    if (typeof value !== "object" || value === null || Array.isArray(value))
      throw new FormatError(file, `row ${number} is not an object: each row has the form {"text": …}`);
    for (const name of Object.keys(value)) columns.add(name);
    rows.push({ number, values: value as Record<string, unknown> });
  };
  const squad = wholeObject(text);
  if (isSquad(squad)) for (const { number, values } of squadRows(file, squad)) add(number, values);
  else if (text.trimStart().startsWith("[")) {
    (parseJson(file, text, "this") as unknown[]).forEach((value, index) => {
      add(index + 1, value);
    });
  } else {
    text.split("\n").forEach((line, index) => {
      if (line.trim() !== "") add(index + 1, parseJson(file, line, `row ${index + 1}`));
    });
  }
  if (rows.length === 0) throw new LineageError("data", `${file} is empty: there is no row in it`);
  return { file, columns: [...columns], rows, named: true };
}

/** The value of a text that is one JSON object and not one a line; undefined for any other. */
function wholeObject(text: string): unknown {
  if (!text.trimStart().startsWith("{")) return undefined;
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

function parseJson(file: string, text: string, where: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new FormatError(file, `${where} is not JSON: ${messageOf(error)}`, { cause: error });
  }
}

async function readParquet(file: string): Promise<Table> {
  const { asyncBufferFromFile, parquetReadObjects } = await optionalPackage(
    "hyparquet",
    "reading Parquet",
    () => import("hyparquet"),
  );
  const { compressors } = await optionalPackage(
    "hyparquet-compressors",
    "reading Parquet",
    () => import("hyparquet-compressors"),
  );
  let objects: Record<string, unknown>[];
  try {
    objects = await parquetReadObjects({ file: await asyncBufferFromFile(file), compressors });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== undefined) throw storageError("read", file, error);
    throw new FormatError(file, `this cannot be read as Parquet: ${messageOf(error)}`, { cause: error });
  }
  if (objects.length === 0) throw new LineageError("data", `${file} is empty: there is no row in it`);
  const rows = objects.map((values, index): Row => ({
    number: index + 1,
    values: plain(values) as Record<string, unknown>,
  }));
  return { file, columns: Object.keys(objects[0]!), rows, named: true };
}

/** 64-bit integers as numbers, within lists and structures too. */
function plain(value: unknown): unknown {
  if (typeof value === "bigint") return Number(value);
  if (Array.isArray(value)) return value.map(plain);
  if (ArrayBuffer.isView(value)) return Array.from(value as unknown as ArrayLike<number | bigint>, Number);
  if (typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype)
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]));
  return value;
}
