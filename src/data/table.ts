import { readFile } from "node:fs/promises";
import path from "node:path";
import { FormatError, LineageError, messageOf } from "../base/errors.js";
import { storageError } from "../base/files.js";
import { formatBytes } from "../base/memory.js";
import { parseCsv } from "./csv.js";
import { readParquetRows } from "./parquet.js";
import { isSquad, squadRows } from "./squad.js";

/** A row of a table, with the number by which a spreadsheet or an editor shows it: a header is row 1. */
export interface Row {
  readonly number: number;
  /** By column: text in CSV and TSV; what the file holds in JSONL and Parquet, integers beyond 2^53 as bigint. */
  readonly values: Readonly<Record<string, unknown>>;
}

export interface Table {
  readonly file: string;
  readonly columns: readonly string[];
  readonly rows: readonly Row[];
  /** Whether the column names come from the file. Without a header they are `column1`, `column2`, … */
  readonly named: boolean;
  /** Rows that were left out, because they cannot be read. */
  readonly bad: readonly BadRow[];
}

/** A row that cannot be used, and what is wrong with it: `has 3 cells, …`. */
export interface BadRow {
  readonly number: number;
  readonly reason: string;
}

export type TableFormat = "csv" | "tsv" | "jsonl" | "parquet";

export interface TableOptions {
  /** Default: by the file's ending. */
  readonly format?: TableFormat;
  /** Whether the first row of a CSV or TSV names the columns, or what tells it from its cells. Default true. */
  readonly header?: boolean | ((cells: readonly string[]) => boolean);
  /** Whether rows that cannot be read are left out and told, instead of refusing the file. */
  readonly skipBadRows?: boolean | undefined;
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
 * Reads a CSV, TSV, JSONL (or a JSON array, or SQuAD's nested JSON) or Parquet file; all but Parquet also as `.gz`. A CSV
 * may be separated by commas, semicolons or tabs and mix line endings; quotes mean something in CSV alone, as TSV has none.
 * Throws FormatError for a wrong encoding, and with all rows that have a wrong number of cells, a quote that is never closed or
 * no JSON; nothing is left out unless `skipBadRows` says so.
 */
export async function readTable(file: string, options: TableOptions = {}): Promise<Table> {
  const packed = /\.gz$/i.test(file);
  const ending = path.extname(packed ? file.slice(0, -3) : file).toLowerCase();
  const format = options.format ?? (Object.hasOwn(formats, ending) ? formats[ending] : undefined);
  if (!format || (packed && format === "parquet")) {
    throw new LineageError(
      "data",
      `${file}: a file of this ending cannot be read as a table; use .csv, .tsv, .jsonl or .parquet`,
    );
  }
  if (format === "parquet") return readParquet(file);
  const text = await readTextFile(file, options.encoding);
  const table = format === "jsonl" ? parseJsonLines(file, text) : parseDelimited(file, text, format, options);
  if (table.bad.length > 0 && !options.skipBadRows)
    throw new FormatError(file, describeBadRows(table.bad, table.bad.length + table.rows.length));
  if (table.rows.length === 0)
    throw new LineageError(
      "data",
      table.bad.length > 0
        ? `${file}: none of its ${table.bad.length} rows can be used`
        : `${file} is empty: there is no row in it`,
    );
  return table;
}

/** `row 3 has 3 cells, …`; of several rows their count, and the first of them. */
export function describeBadRows(bad: readonly BadRow[], count: number, unit: "row" | "line" = "row"): string {
  const shown = bad.slice(0, 5).map(({ number, reason }) => `${unit} ${number} ${reason}`);
  if (bad.length === 1) return `${shown[0]!} (--skip-bad-rows leaves such ${unit}s out)`;
  const more = bad.length > 5 ? [`and ${bad.length - 5} more`] : [];
  return `${bad.length} of ${count} ${unit}s cannot be used (--skip-bad-rows leaves them out):\n  ${[...shown, ...more].join("\n  ")}`;
}

/** The text of a file, which may be packed (`.gz`). Throws FormatError naming the line whose bytes are not of the encoding. */
export async function readTextFile(file: string, encoding?: string): Promise<string> {
  const bytes = await readBytes(file);
  return decode(file, /\.gz$/i.test(file) ? await unpack(file, bytes) : bytes, encoding);
}

/** The most that a packed file may hold. */
const largestUnpacked = 2 ** 30;

async function unpack(file: string, bytes: Uint8Array): Promise<Uint8Array> {
  const { gunzip } = await import("node:zlib");
  return new Promise((resolve, reject) => {
    gunzip(bytes, { maxOutputLength: largestUnpacked }, (error, unpacked) => {
      if (!error) resolve(unpacked);
      else {
        const reason =
          (error as NodeJS.ErrnoException).code === "ERR_BUFFER_TOO_LARGE"
            ? `it holds more than ${formatBytes(largestUnpacked)}; unpack it first`
            : `it cannot be unpacked: ${error.message}`;
        reject(new FormatError(file, reason, { cause: error }));
      }
    });
  });
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
  let text: string | undefined;
  try {
    text = decoder.decode(bytes);
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
  const nothing = text.indexOf("\0");
  if (nothing >= 0 && nothing < 4)
    throw new FormatError(
      file,
      "it holds NUL characters, as UTF-16 does without its mark; name its encoding: --encoding utf-16le",
    );
  return text;
}

// ---- CSV and TSV --------------------------------------------------------------------------------------------------

function parseDelimited(
  file: string,
  text: string,
  format: "csv" | "tsv",
  { header = true }: TableOptions,
): Table {
  const delimiter = format === "tsv" ? "\t" : likelyDelimiter(text);
  const blank = (cells: readonly string[] | undefined) => cells?.length === 1 && cells[0]!.trim() === "";
  const filled = parseCsv(text, delimiter, format === "csv").flatMap((record, index) =>
    blank(record.cells) ? [] : [{ number: index + 1, ...record }],
  );
  const first = filled[0];
  if (!first) throw new LineageError("data", `${file} is empty: there is no row in it`);
  if (first.cells === undefined) throw new FormatError(file, `row ${first.number} ${first.reason}`);
  const named =
    typeof header === "function"
      ? header(first.cells) || namesNumbers(filled.flatMap(({ cells }) => (cells ? [cells] : [])))
      : header;
  const columns = named
    ? first.cells.map((name) => name.trim())
    : first.cells.map((_, index) => `column${index + 1}`);
  const twice = columns.find((name, index) => columns.indexOf(name) !== index);
  if (twice !== undefined)
    throw new FormatError(file, `the header names the column ${JSON.stringify(twice)} twice`);
  const rows: Row[] = [];
  const bad: BadRow[] = [];
  for (const { number, cells, reason: broken } of filled.slice(named ? 1 : 0)) {
    if (cells === undefined) {
      bad.push({ number, reason: broken });
      continue;
    }
    if (cells.length !== columns.length) {
      const reason =
        `has ${cells.length} cells, but there are ${columns.length} columns (${columns.join(", ")}); ` +
        `a cell with ${delimiter === "\t" ? "a tab" : `"${delimiter}"`} in it ${format === "tsv" ? "does not fit a TSV" : "needs quotes around it"}`;
      bad.push({ number, reason });
      continue;
    }
    rows.push({
      number,
      values: record(Object.fromEntries(columns.map((name, index) => [name, cells[index]!]))),
    });
  }
  return { file, columns, rows, named, bad };
}

/** Whether the first row has no number where every other row has one: it names that column. */
function namesNumbers([first, ...rest]: readonly (readonly string[])[]): boolean {
  const isNumber = (cell: string | undefined) =>
    cell !== undefined && cell.trim() !== "" && !Number.isNaN(Number(cell));
  return (
    rest.length > 0 &&
    first!.every((cell) => !isNumber(cell)) &&
    first!.some((cell, column) => cell.trim() !== "" && rest.every((cells) => isNumber(cells[column])))
  );
}

function likelyDelimiter(text: string): string {
  const line = /^[^\r\n]*/.exec(text)![0].replace(/"[^"]*"/g, "");
  const [best] = [",", ";", "\t"]
    .map((delimiter) => ({ delimiter, count: line.split(delimiter).length }))
    .sort((a, b) => b.count - a.count);
  return best!.delimiter;
}

// ---- JSONL and Parquet --------------------------------------------------------------------------------------------

function parseJsonLines(file: string, text: string): Table {
  const rows: Row[] = [];
  const bad: BadRow[] = [];
  const columns = new Set<string>();
  const add = (number: number, value: unknown): void => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      bad.push({ number, reason: 'is not an object: each row has the form {"text": …}' });
      return;
    }
    for (const name of Object.keys(value)) columns.add(name);
    rows.push({ number, values: record(value as Record<string, unknown>) });
  };
  const squad = wholeObject(text);
  if (isSquad(squad)) for (const { number, values } of squadRows(file, squad)) add(number, values);
  else if (text.trimStart().startsWith("[")) {
    let list: unknown[];
    try {
      list = parseExact(text) as unknown[];
    } catch (error) {
      throw new FormatError(file, `this is not JSON: ${messageOf(error)}`, { cause: error });
    }
    list.forEach((value, index) => {
      add(index + 1, value);
    });
  } else {
    text.split(/\r\n|[\n\r]/).forEach((line, index) => {
      if (line.trim() === "") return;
      let value: unknown;
      try {
        value = parseExact(line);
      } catch (error) {
        bad.push({ number: index + 1, reason: `is not JSON: ${messageOf(error)}` });
        return;
      }
      add(index + 1, value);
    });
  }
  return { file, columns: [...columns], rows, named: true, bad };
}

/** JSON with every integer exact: beyond 2^53 it is a bigint, where `JSON.parse` would round it. */
function parseExact(text: string): unknown {
  if (!/\d{16}/.test(text)) return JSON.parse(text) as unknown;
  // No JSON has this character outside a string, nor unescaped where it is not in the text.
  const mark = ["\uE000", "\uE001", "\uE002"].find(
    (character) => !text.includes(character) && !/\\ue00/i.test(text),
  );
  if (mark === undefined) return JSON.parse(text) as unknown;
  const marked = text.replace(/"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g, (token) =>
    /^-?[1-9]\d{15,}$/.test(token) && !Number.isSafeInteger(Number(token)) ? `"${mark}${token}"` : token,
  );
  return JSON.parse(marked, (_key, value: unknown) =>
    typeof value === "string" && value.startsWith(mark) ? BigInt(value.slice(1)) : value,
  ) as unknown;
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

async function readParquet(file: string): Promise<Table> {
  const objects = await readParquetRows(file);
  if (objects.length === 0) throw new LineageError("data", `${file} is empty: there is no row in it`);
  const rows = objects.map((values, index): Row => ({ number: index + 1, values: record(values, plain) }));
  return { file, columns: Object.keys(objects[0]!), rows, named: true, bad: [] };
}

/** 64-bit integers as numbers where those are exact, within lists and structures too. */
function plain(value: unknown): unknown {
  if (typeof value === "bigint") {
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : value;
  }
  if (Array.isArray(value)) return value.map(plain);
  if (ArrayBuffer.isView(value)) return Array.from(value as unknown as ArrayLike<number | bigint>, plain);
  if (typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype)
    return record(value as Record<string, unknown>, plain);
  return value;
}

/** A row or structure without a prototype, so that a name it lacks is not found there. */
function record(
  values: Readonly<Record<string, unknown>>,
  turn: (value: unknown) => unknown = (value) => value,
): Record<string, unknown> {
  const own = Object.create(null) as Record<string, unknown>;
  for (const [name, value] of Object.entries(values)) own[name] = turn(value);
  return own;
}
