import { createInterface } from "node:readline";
import { LineageError } from "../base/errors.js";
import { readText } from "../base/files.js";
import { type ColumnOptions, examplesOf, isHeaderOf, readTable } from "../data/index.js";

export interface TextSource {
  readonly texts: readonly string[];
  /** A table, or a text of which every line counts; `-` for standard input. */
  readonly data?: string;
  readonly textColumn?: string;
  readonly skipBadRows?: boolean;
  readonly encoding?: string;
}

/** The texts that a command is given: arguments, a table's column, or the lines of a text or of standard input. */
export async function readTexts({
  texts,
  data,
  textColumn,
  encoding,
  skipBadRows,
}: TextSource): Promise<string[]> {
  if (texts.length > 0) {
    if (data !== undefined) throw new LineageError("argument", "give texts or --data FILE, not both");
    return [...texts];
  }
  if (data === undefined || data === "-") {
    if (data === undefined && process.stdin.isTTY)
      throw new LineageError(
        "argument",
        "there is no text: give one, or --data FILE, or pipe lines into standard input",
      );
    const lines: string[] = [];
    for await (const line of stdinLines()) lines.push(line);
    return lines;
  }
  if (/\.(txt|md|text)$/i.test(data)) {
    const lines = (await readText(data)).split(/\r?\n/);
    if (lines.at(-1) === "") lines.pop();
    return lines;
  }
  const columns: ColumnOptions = { text: textColumn };
  const table = await readTable(data, { header: isHeaderOf(columns), encoding, skipBadRows });
  return examplesOf("classify", table, columns, { skipBadRows }).examples.map(({ text }) => text);
}

/** Lines of standard input as they come. */
export const stdinLines = (): AsyncIterable<string> =>
  createInterface({ input: process.stdin, crlfDelay: Infinity });

/** All of standard input, without the line break at its end. */
export async function readInput(): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of process.stdin) parts.push(part as Buffer);
  return Buffer.concat(parts)
    .toString("utf8")
    .replace(/\r?\n$/, "");
}
