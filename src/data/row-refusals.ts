import { LineageError } from "../base/errors.js";
import { type BadRow, describeBadRows } from "./table.js";

// What is said of rows of conversations that a run refuses.

/** Numbers of rows in words. Two answers of one row may both be long. */
export function rowsOf(numbers: readonly number[]): string {
  const rows = [...new Set(numbers)];
  return `${rows.length === 1 ? "row" : "rows"} ${rows.slice(0, 5).join(", ")}${rows.length > 5 ? `, … (${rows.length})` : ""}`;
}

/** Throws `data` where rows are too long, for a run that would rather have none. */
export function refuseLong(name: string, long: readonly number[], maxLength: number, fates: string): void {
  if (long.length > 0)
    throw new LineageError(
      "data",
      `${name}: ${rowsOf(long)} ${new Set(long).size === 1 ? "is" : "are"} longer than ${maxLength} tokens; choose --long ${fates}, or a larger --max-length`,
    );
}

/** Throws `data` for rows that cannot be learned, unless they may be left out, and where nothing is left to learn. */
export function refuseRows(
  name: string,
  {
    bad,
    skipBadRows,
    rows,
    conversations,
    dropped,
    maxLength,
  }: {
    readonly bad: readonly BadRow[];
    readonly skipBadRows: boolean | undefined;
    /** What is left of so many conversations, of which so many were too long. */
    readonly rows: number;
    readonly conversations: number;
    readonly dropped: number;
    readonly maxLength: number;
  },
): void {
  if (bad.length > 0 && !skipBadRows)
    throw new LineageError("data", `${name}: ${describeBadRows(bad, conversations)}`);
  if (rows === 0)
    throw new LineageError(
      "data",
      `${name}: none of its ${conversations} conversations is left${dropped > 0 ? `: ${dropped} are longer than ${maxLength} tokens` : ""}`,
    );
}
