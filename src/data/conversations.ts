import { LineageError } from "../base/errors.js";
import { either } from "../base/check.js";
import type { Conversation, Message, Preference, Ranking, RowOf, Verdict } from "./conversation.js";
import { type Layout, findLayout, layouts, readRow, RowError } from "./conversation-layouts.js";
import { type BadRow, describeBadRows, readTable } from "./table.js";

export interface ConversationOptions {
  /** Default: told by looking at the rows. */
  readonly format?: Layout | undefined;
  readonly encoding?: string | undefined;
  /** Leaves out rows that cannot be used and tells them, instead of refusing the file. */
  readonly skipBadRows?: boolean | undefined;
}

/** The rows of a file of conversations. */
export interface ConversationRows<Row> {
  readonly file: string;
  readonly rows: readonly Row[];
  readonly format: Layout;
  /** Rows that were left out. */
  readonly bad: readonly BadRow[];
}

/**
 * Reads conversations: messages (`role`, `content`), ShareGPT (`from`, `value`), Alpaca (`instruction`, `input`, `output`,
 * `system`, `history`), or a prompt and its completion, from JSON, JSONL, CSV or Parquet. Of preferences, rankings and
 * verdicts, which `format` must name, the chosen, the best and the good answers are learned. Throws `data` with the rows
 * that cannot be used, and where the layout is not certain.
 */
export async function readConversations(
  file: string,
  options: ConversationOptions = {},
): Promise<ConversationRows<Conversation>> {
  const found = await readRows(file, options, ["messages", "sharegpt", "alpaca", "completion"]);
  return { ...found, rows: found.rows.flatMap(conversationsOf) };
}

/**
 * Reads a file of any layout, to look at: of preferences, rankings and verdicts each answer is a conversation of its own,
 * whose `answer` says which. Throws `data` as `readConversations` does.
 */
export async function readAnswers(
  file: string,
  options: ConversationOptions = {},
): Promise<ConversationRows<Conversation>> {
  const found = await readRows(file, options, Object.keys(layouts) as Layout[]);
  return { ...found, rows: found.rows.flatMap(answersOf) };
}

/** Reads pairs of a chosen and a rejected answer; of rankings every pair of which one is better. */
export async function readPreferences(
  file: string,
  options: ConversationOptions = {},
): Promise<ConversationRows<Preference>> {
  const found = await readRows(file, options, ["preference", "ranking"]);
  return {
    ...found,
    rows: found.rows.flatMap((row) =>
      "chosen" in row ? [row] : "answers" in row ? rankedPairs(row) : unexpected(),
    ),
  };
}

/** Reads several answers to each prompt; a pair of a chosen and a rejected one is a ranking of two. */
export async function readRankings(
  file: string,
  options: ConversationOptions = {},
): Promise<ConversationRows<Ranking>> {
  const found = await readRows(file, options, ["ranking", "preference"]);
  return {
    ...found,
    rows: found.rows.map((row): Ranking => {
      if ("answers" in row) return row;
      if (!("chosen" in row)) return unexpected();
      const { row: number, messages, tools, chosen, rejected } = row;
      return { row: number, messages, ...(tools && { tools }), answers: [chosen, rejected], ranks: [0, 1] };
    }),
  };
}

/** Reads answers with a thumb up or down. */
export async function readVerdicts(
  file: string,
  options: ConversationOptions = {},
): Promise<ConversationRows<Verdict>> {
  const found = await readRows(file, options, ["verdict"]);
  return { ...found, rows: found.rows.map((row) => ("good" in row ? row : unexpected())) };
}

/** Every pair of a ranking's answers of which one is better. */
export function rankedPairs({ row, messages, tools, answers, ranks }: Ranking): Preference[] {
  return answers.flatMap((chosen, better) =>
    answers.flatMap((rejected, worse) =>
      ranks[better]! < ranks[worse]! ? [{ row, messages, ...(tools && { tools }), chosen, rejected }] : [],
    ),
  );
}

type AnyRow = RowOf[Layout];

/** A row's answers, each as a conversation in which it alone is learned. */
function answersOf(row: AnyRow): Conversation[] {
  const { row: number, messages, tools } = row;
  const answered = (turns: readonly Message[], answer: string): Conversation => ({
    row: number,
    messages: [...messages.map((message) => ({ ...message, train: false })), ...turns],
    answer,
    ...(tools && { tools }),
  });
  if ("chosen" in row) return [answered(row.chosen, "chosen"), answered(row.rejected, "rejected")];
  if ("answers" in row)
    return row.answers.map((turns, index) => answered(turns, `rank ${row.ranks[index]! + 1}`));
  if ("good" in row) return [answered(row.answer, row.good ? "good" : "bad")];
  return [row];
}

/** What is learned as a conversation: of several answers the first, which is the best, and no bad one. */
const conversationsOf = (row: AnyRow): Conversation[] =>
  answersOf(row)
    .slice(0, 1)
    .filter(({ answer }) => answer !== "bad");

const unexpected = (): never => {
  throw new LineageError("internal", "a row is of another layout than its file");
};

async function readRows(
  file: string,
  { format, encoding, skipBadRows }: ConversationOptions,
  wanted: readonly Layout[],
): Promise<ConversationRows<AnyRow>> {
  const table = await readTable(file, {
    ...(encoding !== undefined && { encoding }),
    ...(skipBadRows !== undefined && { skipBadRows }),
  });
  const layout = format ?? findLayout(table);
  const learned = layouts[layout].answers;
  if (
    !wanted.includes(layout) &&
    !(format !== undefined && learned !== undefined && wanted.includes("messages"))
  )
    throw new LineageError(
      "data",
      `${file} holds ${layouts[layout].title}, and ${either(wanted.map((name) => layouts[name].title))} are needed` +
        (learned !== undefined && wanted.includes("messages")
          ? `; --format ${layout} learns ${learned}`
          : ""),
    );
  const rows: AnyRow[] = [];
  const bad: BadRow[] = [...table.bad];
  for (const row of table.rows) {
    try {
      rows.push(readRow(layout, row));
    } catch (error) {
      if (!(error instanceof RowError)) throw error;
      bad.push({ number: row.number, reason: error.message });
    }
  }
  bad.sort((a, b) => a.number - b.number);
  if (bad.length > 0 && !skipBadRows)
    throw new LineageError("data", `${file}: ${describeBadRows(bad, bad.length + rows.length)}`);
  if (rows.length === 0)
    throw new LineageError("data", `${file}: none of its ${bad.length} rows can be used`);
  return { file, rows, format: layout, bad };
}
