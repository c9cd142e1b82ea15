import { LineageError } from "../base/errors.js";
import { type BadRow, type Row, type Table, describeBadRows } from "./table.js";

/** What a fine-tuned encoder answers. */
export const taskNames = ["classify", "pair", "regress", "tag", "span", "choice"] as const;
/**
 * `classify`: a class of a text, or of two; `pair`: a class of two texts; `regress`: a number; `tag`: a class of every
 * word; `span`: an answer's place in a text; `choice`: one of several continuations.
 */
export type TaskName = (typeof taskNames)[number];

/** Which column plays which part. What is not given is guessed by name. */
export interface ColumnOptions {
  readonly text?: string;
  /** The second text. */
  readonly pair?: string;
  readonly label?: string;
}

/** One row of a task: its number in the file, and what the model sees. */
export interface Example {
  readonly row: number;
  /** The text; the question of a span; what comes before the choices. */
  readonly text: string;
  /** The second text; the text in which a span lies. */
  readonly pair?: string;
  /** The words of a row of tags; `text` is then unused. */
  readonly words?: readonly string[];
  readonly choices?: readonly string[];
  /** What was read from the label column; undefined for a row without one. */
  readonly label?: Label;
}

/** A class, a number, the words' tags, the place of the choice, or the answers (none: the text does not have it). */
export type Label = string | number | readonly string[] | readonly Answer[];

export interface Answer {
  readonly text: string;
  /** Where it starts, in characters of the context as Python counts them: code points. */
  readonly start: number;
}

/** The rows of a table as a task reads them. */
export interface Examples {
  readonly file: string;
  readonly examples: readonly Example[];
  /** The columns that were read, in words for a person. */
  readonly columns: string;
  /** The column of the labels; undefined where none is known. */
  readonly label: string | undefined;
  /** Rows that were left out, because they do not fit the task. */
  readonly bad: readonly BadRow[];
}

const names = {
  text: [
    "text",
    "sentence",
    "sentence1",
    "review",
    "content",
    "comment",
    "tweet",
    "title",
    "premise",
    "question",
    "question1",
    "query",
    "prompt",
    "sent1",
    "startphrase",
    "ctx",
    "input",
    "tokens",
    "words",
    "document",
    "message",
    "text_a",
  ],
  pair: [
    "pair",
    "text2",
    "text_b",
    "sentence2",
    "hypothesis",
    "question2",
    "context",
    "passage",
    "paragraph",
    "answer",
    "response",
  ],
  label: [
    "label",
    "labels",
    "class",
    "category",
    "target",
    "sentiment",
    "tags",
    "ner_tags",
    "pos_tags",
    "score",
    "rating",
    "stars",
    "similarity_score",
    "similarity",
    "intent",
    "gold_label",
    "y",
    "answers",
  ],
} as const;
type Role = keyof typeof names;
const spanNames = {
  text: ["question", "query", "text"],
  pair: ["context", "passage", "paragraph", "pair"],
} as const;
const choicePattern = /^(?:choice|ending|option|answer)_?([0-9]|[a-j])$/i;

/** Whether the cells are names of columns: one is given, or is a usual one. */
export const isHeaderOf =
  (columns: ColumnOptions) =>
  (cells: readonly string[]): boolean =>
    cells.some((cell) => {
      const name = cell.trim();
      return (
        Object.values(columns).includes(name) ||
        choicePattern.test(name) ||
        Object.values(names).some((known) => (known as readonly string[]).includes(name.toLowerCase()))
      );
    });

/**
 * The rows of a table as examples of a task; a row without a label has none in its example. Throws `data` for missing
 * columns, and with all rows that do not fit the task unless `skipBadRows` leaves them out.
 */
export function examplesOf(
  task: TaskName,
  table: Table,
  given: ColumnOptions = {},
  {
    skipBadRows = false,
    pairs = false,
  }: {
    readonly skipBadRows?: boolean | undefined;
    /** Whether a number is of two texts, whose columns are then found by their names. Default: where one is named. */
    readonly pairs?: boolean;
  } = {},
): Examples {
  const columns = findColumns(task, table, given, pairs);
  const used = Object.entries(columns).filter(([, name]) => name !== undefined);
  const read = readers[task];
  const examples: Example[] = [];
  const bad: BadRow[] = [];
  for (const row of table.rows) {
    try {
      examples.push(read({ row, columns }));
    } catch (error) {
      if (!(error instanceof RowError)) throw error;
      bad.push({ number: row.number, reason: error.message });
    }
  }
  if (bad.length > 0 && !skipBadRows)
    throw new LineageError("data", `${table.file}: ${describeBadRows(bad, table.rows.length)}`);
  if (!table.named) refuseHeader(table, examples);
  return {
    file: table.file,
    examples,
    columns: used.map(([role, name]) => `${role} from ${JSON.stringify(name)}`).join(", "),
    label: columns.label,
    bad,
  };
}

/** Throws where the first row would be a class of its own while every other class has several rows: it names columns. */
function refuseHeader({ file, rows }: Table, examples: readonly Example[]): void {
  const counts = new Map<unknown, number>();
  for (const { label } of examples) counts.set(label, (counts.get(label) ?? 0) + 1);
  const first = examples[0]?.label;
  const alone = [...counts].filter(([, count]) => count === 1).map(([label]) => label);
  if (first === undefined || counts.size < 3 || alone.length !== 1 || alone[0] !== first) return;
  const cells = Object.values(rows[0]!.values).map((cell) => JSON.stringify(cell));
  throw new LineageError(
    "data",
    `${file}: row 1 (${cells.join(", ")}) seems to name the columns, but none of the names is a usual one; say which is which with --text-column and --label-column`,
  );
}

type Columns = { readonly [R in Role]?: string } & { readonly choices?: readonly string[] };

function findColumns(task: TaskName, table: Table, given: ColumnOptions, pairs: boolean): Columns {
  const fail = (what: string, option: string): never => {
    throw new LineageError(
      "data",
      `${table.file} has no column ${what}; it has ${table.columns.join(", ")}. Name the right one with ${option}`,
    );
  };
  for (const [role, name] of Object.entries(given)) {
    if (name !== undefined && !table.columns.includes(name))
      fail(`named ${JSON.stringify(name)}`, `--${role}-column`);
  }
  const byName = (role: Role): string | undefined => {
    if (given[role] !== undefined) return given[role];
    const taken = Object.values(given);
    const known = task === "span" && role !== "label" ? spanNames[role] : names[role];
    return known
      .map((name) => table.columns.find((column) => column.toLowerCase() === name && !taken.includes(column)))
      .find((column) => column !== undefined);
  };
  const needsPair = task === "pair" || task === "span" || (pairs && task === "regress");
  const takesPair = needsPair || ((task === "classify" || task === "regress") && given.pair !== undefined);
  const guessed = table.named ? undefined : byContent(table, given);
  const text = byName("text") ?? guessed?.texts[0] ?? fail("for the text", "--text-column");
  const pair = takesPair
    ? (byName("pair") ??
      guessed?.texts.find((name) => name !== text) ??
      fail("for the second text", "--pair-column"))
    : undefined;
  const label = byName("label") ?? guessed?.label;
  if (task !== "choice") return { text, pair, label: label === pair || label === text ? undefined : label };
  const endings = table.columns.filter((name) => choicePattern.test(name)).sort();
  const lists = table.columns.filter((name) =>
    ["choices", "endings", "options"].includes(name.toLowerCase()),
  );
  const choices = lists.length > 0 ? lists.slice(0, 1) : endings;
  if (choices.length === 0) fail("choices, nor columns choice0, choice1, …", "those names");
  return { text, label, choices };
}

/** Without names: the columns of long cells are texts, that of the fewest distinct short ones holds labels. */
function byContent(table: Table, given: ColumnOptions): { texts: string[]; label?: string } {
  const taken = Object.values(given);
  const measured = table.columns
    .filter((name) => !taken.includes(name))
    .map((name) => {
      const cells = table.rows.map(({ values }) => String(values[name] ?? ""));
      const length = cells.reduce((sum, cell) => sum + cell.length, 0) / cells.length;
      return { name, length, distinct: new Set(cells).size };
    });
  if (measured.length === 0) return { texts: [] };
  if (measured.length === 1) return { texts: [measured[0]!.name] };
  const label =
    given.label === undefined
      ? measured.reduce((a, b) =>
          b.distinct < a.distinct || (b.distinct === a.distinct && b.length < a.length) ? b : a,
        ).name
      : undefined;
  const longest = Math.max(...measured.filter(({ name }) => name !== label).map(({ length }) => length));
  const texts = measured.filter(({ name, length }) => name !== label && length >= longest / 8);
  return { texts: texts.map(({ name }) => name), label };
}

interface Source {
  readonly row: Row;
  readonly columns: Columns;
}

/** Why a row does not fit its task. */
class RowError extends Error {}

const reject = (_source: Source, reason: string): never => {
  throw new RowError(reason);
};

/** A cell's text: what is not there is empty. */
const textOf = (source: Source, name: string | undefined): string => {
  const value = name === undefined ? undefined : source.row.values[name];
  if (value === undefined || value === null) return "";
  return typeof value === "object"
    ? reject(source, `has a list or an object where the text ${JSON.stringify(name)} should be`)
    : String(value as string | number | boolean);
};

const rawLabel = ({ row, columns }: Source): unknown => {
  const value = columns.label === undefined ? undefined : row.values[columns.label];
  return value === null || (typeof value === "string" && value.trim() === "") ? undefined : value;
};

/** The value of JSON within a cell that starts with `opening`; undefined for any other cell: text may start like JSON. */
function fromJson(value: unknown, opening: "[" | "{"): unknown {
  if (typeof value !== "string" || !value.trimStart().startsWith(opening)) return undefined;
  try {
    return JSON.parse(value) as unknown;
  } catch {
    return undefined;
  }
}

/** A list from a list, from its JSON, or from words between spaces. */
function listOf(source: Source, value: unknown, what: string): string[] {
  const items = fromJson(value, "[") ?? value;
  if (typeof items === "string") return items.split(/\s+/).filter((word) => word !== "");
  if (!Array.isArray(items)) return reject(source, `has no list of ${what}`);
  return items.map((item: unknown) => String(item as string | number));
}

const texts = (source: Source): Example => ({
  row: source.row.number,
  text: textOf(source, source.columns.text),
  ...(source.columns.pair !== undefined && { pair: textOf(source, source.columns.pair) }),
});

const classOf = (source: Source): string | undefined => {
  const label = rawLabel(source);
  if (typeof label === "object") return reject(source, "has a list or an object as its label");
  return label === undefined ? undefined : String(label as string | number | boolean).trim();
};

const labelled = (example: Example, label: Label | undefined): Example =>
  label === undefined ? example : { ...example, label };

const classified = (source: Source): Example => labelled(texts(source), classOf(source));

const readers: Readonly<Record<TaskName, (source: Source) => Example>> = {
  classify: classified,
  pair: classified,
  regress: (source) => {
    const label = rawLabel(source);
    if (label === undefined) return texts(source);
    const value = Number(label);
    if (!Number.isFinite(value) || typeof label === "object")
      reject(
        source,
        `has ${JSON.stringify(typeof label === "bigint" ? String(label) : label)} where a number should be`,
      );
    return labelled(texts(source), value);
  },
  tag: (source) => {
    const words = listOf(source, source.row.values[source.columns.text!] ?? "", "words");
    const label = rawLabel(source);
    const example: Example = { row: source.row.number, text: words.join(" "), words };
    if (label === undefined) return example;
    const tags = listOf(source, label, "tags");
    if (tags.length !== words.length)
      reject(source, `has ${words.length} words but ${tags.length} tags; each word needs one`);
    return labelled(example, tags);
  },
  span: (source) => labelled(texts(source), answersOf(source)),
  choice: (source) => {
    const { columns, row } = source;
    const [first] = columns.choices!;
    const choices =
      columns.choices!.length === 1
        ? listOf(source, row.values[first!], "choices")
        : columns.choices!.map((name) => textOf(source, name));
    if (choices.length < 2) reject(source, `has ${choices.length} choices; there must be two or more`);
    const example: Example = { row: row.number, text: textOf(source, columns.text), choices };
    const label = rawLabel(source);
    if (label === undefined) return example;
    const place = choicePlace(String(label as string | number), choices);
    if (place === undefined)
      reject(
        source,
        `has the label ${JSON.stringify(String(label as string | number | bigint))}, which is none of its ${choices.length} choices`,
      );
    return labelled(example, place);
  },
};

/** A choice by its place from 0, by its letter or by its text. */
function choicePlace(label: string, choices: readonly string[]): number | undefined {
  const name = label.trim();
  if (/^\d+$/.test(name) && Number(name) < choices.length) return Number(name);
  if (/^[a-j]$/i.test(name)) {
    const place = name.toLowerCase().charCodeAt(0) - 97;
    return place < choices.length ? place : undefined;
  }
  const place = choices.indexOf(label);
  return place < 0 ? undefined : place;
}

/** SQuAD's `answers: {text: [...], answer_start: [...]}`, a list of `{text, answer_start}`, or `answer` and `answer_start`. */
function answersOf(source: Source): Answer[] | undefined {
  const { row, columns } = source;
  const context = textOf(source, columns.pair);
  const cell = rawLabel(source) ?? row.values["answers"];
  const value = fromJson(cell, "{") ?? cell;
  if (value === undefined || value === null) {
    const text = row.values["answer_text"] ?? row.values["answer"];
    if (text === undefined || text === null) return undefined;
    if (text === "") return [];
    return [placed(source, context, String(text as string), row.values["answer_start"])];
  }
  if (typeof value === "string") return [placed(source, context, value, row.values["answer_start"])];
  if (Array.isArray(value)) {
    return (value as { text?: unknown; answer_start?: unknown }[]).map((answer) =>
      placed(source, context, String(answer.text as string), answer.answer_start),
    );
  }
  const { text, answer_start: starts } = value as { text?: unknown; answer_start?: unknown };
  if (!Array.isArray(text)) return reject(source, "has answers without a list of texts");
  return text.map((item: unknown, place) =>
    placed(
      source,
      context,
      String(item as string),
      Array.isArray(starts) ? (starts[place] as unknown) : undefined,
    ),
  );
}

/** An answer with its place, which is looked up where it is not given. Throws when the text does not have it there. */
function placed(source: Source, context: string, text: string, start: unknown): Answer {
  const characters = [...context];
  if (start === undefined || start === null || start === "") {
    const found = context.indexOf(text);
    if (found < 0) reject(source, `has the answer ${JSON.stringify(text)}, which its text does not contain`);
    return { text, start: [...context.slice(0, found)].length };
  }
  const place = Number(start);
  if (characters.slice(place, place + [...text].length).join("") !== text)
    reject(
      source,
      `has the answer ${JSON.stringify(text)}, which does not stand at character ${String(start)} of its text`,
    );
  return { text, start: place };
}
