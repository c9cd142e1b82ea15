import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import path from "node:path";
import { LineageError } from "../base/errors.js";
import { readJson } from "../base/files.js";
import { Random } from "../base/random.js";
import { readTable } from "../data/index.js";
import { type ChatMessage, templateOf } from "../tokenizers/index.js";
import type { Task } from "./declaration.js";
import { refinementPrompt } from "./refinement.js";

/** One row of a task as the model reads it. */
export interface Question {
  /** The row of the data, from 0. */
  readonly row: number;
  /** Examples and question; of a perplexity task the text. */
  readonly prompt: string;
  /** Answers to choose from, without the delimiter before them; empty for a task that writes. */
  readonly choices: readonly string[];
  /** The place of the right choice, or the text of the right answer. */
  readonly target: number | string;
  /** Tells prompts apart: the first 16 digits of the SHA-256 of prompt and choices. */
  readonly hash: string;
  /** The prompt of a second round, in which the question is asked with answers of the first before it. */
  readonly refined: (answers: readonly string[]) => string;
  /** The question and its right answer, without examples: what a model may have been trained on. */
  readonly own: string;
}

export interface Questions {
  readonly questions: readonly Question[];
  /** Rows that serve as examples, in their order in the prompts. Where they are of the task's own data, they are not asked. */
  readonly examples: readonly number[];
}

type Values = Readonly<Record<string, unknown>>;

/** Rows of a file. A JSON object of records, such as PubMedQA's, gives one row an entry, with its name as `key`. */
async function readRows(task: Task, data: string, columns: readonly string[] | undefined): Promise<Values[]> {
  const file = path.resolve(task.folder, data);
  if (!existsSync(file)) throw new LineageError("data", `the data of ${task.name} are not there: ${file}`);
  if (file.endsWith(".json")) {
    const json = await readJson(file);
    if (typeof json === "object" && json !== null && !Array.isArray(json))
      return Object.entries(json).map(([key, value]: [string, unknown]) => ({
        ...(typeof value === "object" && !Array.isArray(value) ? value : {}),
        key,
        value,
      }));
  }
  const table = await readTable(file, { header: columns === undefined });
  if (columns === undefined) return table.rows.map(({ values }) => values);
  if (columns.length !== table.columns.length)
    throw new LineageError(
      "data",
      `${file} has ${table.columns.length} columns, but the task ${task.name} names ${columns.length}`,
    );
  return table.rows.map(({ values }) =>
    Object.fromEntries(columns.map((name, index) => [name, values[table.columns[index]!]])),
  );
}

/** Whether a row is asked, by the task's file of keys. */
async function askedOf(task: Task, rows: readonly Values[]): Promise<(row: number) => boolean> {
  const { ask } = task.declaration;
  if (!ask) return () => true;
  const file = path.resolve(task.folder, ask.data);
  if (!existsSync(file)) throw new LineageError("data", `the keys of ${task.name} are not there: ${file}`);
  const json = await readJson(file);
  if (typeof json !== "object" || json === null)
    throw new LineageError("data", `${file} must be an array of keys, or an object with keys for names`);
  const keys = new Set((Array.isArray(json) ? json : Object.keys(json)).map(String));
  const key = compile(task, "ask.key", ask.key);
  const found = rows.map((values, row) => keys.has(key(values, row).trim()));
  if (!found.includes(true)) throw new LineageError("data", `no row of ${task.name} has a key of ${file}`);
  return (row) => found[row]!;
}

/** A template of a task, which says where it fails. */
function compile(task: Task, entry: string, source: string): (values: Values, row: number) => string {
  const render = templateOf(
    source,
    (reason) => new LineageError("data", `${task.name}: the template ${entry} ${reason}`),
  );
  return (values, row) =>
    render(
      values,
      (reason) =>
        new LineageError(
          "data",
          `${task.name}, row ${row + 1}: the template ${entry} fails: ${reason}; the columns are ${Object.keys(values).join(", ")}`,
        ),
    );
}

export interface QuestionOptions {
  readonly shots: number;
  readonly seed: number;
  /** The first so many questions. Default: all. */
  readonly limit?: number | undefined;
  /**
   * Writes messages as a chat model reads them, up to where it begins to answer: instructions are the system's message,
   * examples are turns, and no delimiter stands before an answer. Default: a prompt is plain text.
   */
  readonly chat?: ((messages: readonly ChatMessage[]) => string) | undefined;
  /** Whether a chat has examples and question in one turn of the user, as a plain prompt writes them. Default: a turn each. */
  readonly oneTurn?: boolean | undefined;
}

/**
 * The questions of a task, each after the same examples. Throws `data` where rows, columns or templates are wrong, `argument`
 * for more shots than there are examples.
 */
export async function questionsOf(
  task: Task,
  { shots, seed, limit = Infinity, chat, oneTurn = false }: QuestionOptions,
): Promise<Questions> {
  const { declaration } = task;
  const rows = task.rows ?? (await readRows(task, declaration.data, declaration.columns));
  const one = reader(task);
  const asked = await askedOf(task, rows);
  const { examples, shown, own } = await examplesOf(task, rows, asked, one, { shots, seed });
  const questions: Question[] = [];
  const left = new Set(own ? examples : []);
  const { instructions, delimiter } = declaration;
  const separator = declaration.shots ? declaration.shots.separator : "";
  const text = shown.map(({ question, answer }) => question + delimiter + answer + separator).join("");
  const turns: ChatMessage[] = [
    ...(instructions === "" ? [] : [{ role: "system", content: instructions } as const]),
    ...(oneTurn ? [] : shown).flatMap(({ question, answer }): ChatMessage[] => [
      { role: "user", content: question },
      { role: "assistant", content: answer },
    ]),
  ];
  for (const [row, values] of rows.entries()) {
    if (questions.length >= limit) break;
    if (left.has(row) || !asked(row)) continue;
    const { prompt, choices, target } = one.read(values, row);
    const ask = (asked: string): string =>
      chat && declaration.text === undefined
        ? chat([...turns, { role: "user", content: oneTurn ? text + asked : asked }])
        : `${instructions}${text}${asked}`;
    const whole = ask(prompt);
    const hash = createHash("sha256")
      .update(JSON.stringify([whole, choices]))
      .digest("hex")
      .slice(0, 16);
    const right = typeof target === "number" ? choices[target]! : target;
    questions.push({
      row,
      prompt: whole,
      refined: (answers) => ask(refinementPrompt(prompt, answers)),
      choices,
      target,
      hash,
      own: declaration.text === undefined ? prompt + delimiter + right : prompt,
    });
  }
  if (questions.length === 0) throw new LineageError("data", `${task.name} has no row left to be asked`);
  return { questions, examples };
}

interface RowReader {
  read(values: Values, row: number): Pick<Question, "prompt" | "choices" | "target">;
  example(values: Values, row: number): Example;
}

interface Example {
  readonly question: string;
  readonly answer: string;
}

/** Throws `data` for choices that a model cannot choose from. */
function checkChoices({ name }: Task, answers: readonly string[], row: number): void {
  const refuse = (reason: string): never => {
    throw new LineageError("data", `${name}, row ${row + 1}: ${reason}`);
  };
  const empty = answers.findIndex((answer) => answer.trim() === "");
  if (empty >= 0) refuse(`choice ${empty + 1} of ${answers.length} is empty`);
  if (answers.length < 2)
    refuse(
      `there is one choice alone, ${JSON.stringify(answers[0])}; a template for all choices writes each on a line of its own`,
    );
  if (new Set(answers).size === 1)
    refuse(
      `all ${answers.length} choices are ${JSON.stringify(answers[0])}; look at the templates of choices`,
    );
}

function reader(task: Task): RowReader {
  const { declaration } = task;
  const { choices } = declaration;
  const prompt = compile(
    task,
    declaration.text === undefined ? "prompt" : "text",
    declaration.text ?? declaration.prompt!,
  );
  const target = compile(task, "target", declaration.target ?? "");
  const shown =
    declaration.shots && declaration.shots.target !== undefined
      ? compile(task, "shots.target", declaration.shots.target)
      : undefined;
  const all =
    typeof choices === "string"
      ? [compile(task, "choices", choices)]
      : (choices ?? []).map((choice, index) => compile(task, `choices[${index}]`, choice));
  const read: RowReader["read"] = (values, row) => {
    const texts = all.map((choice) => choice(values, row));
    const answers = typeof choices === "string" ? texts[0]!.trimEnd().split("\n") : texts;
    if (choices !== undefined) checkChoices(task, answers, row);
    const right = target(values, row).trim();
    return {
      prompt: prompt(values, row),
      choices: answers,
      target: choices === undefined ? right : place(answers, right, row),
    };
  };
  const place = (answers: readonly string[], right: string, row: number): number => {
    const found = answers.indexOf(right);
    if (found >= 0) return found;
    const number = /^\d+$/.test(right) ? Number(right) : NaN;
    if (number < answers.length) return number;
    throw new LineageError(
      "data",
      `${task.name}, row ${row + 1}: the target ${JSON.stringify(right)} is none of the choices ${answers.map((answer) => JSON.stringify(answer)).join(", ")}`,
    );
  };
  return {
    read,
    example: (values, row) => {
      const { prompt: question, choices: answers, target: right } = read(values, row);
      const answer = shown ? shown(values, row) : typeof right === "number" ? answers[right]! : right;
      return { question, answer };
    },
  };
}

/** The examples before every question, drawn once, so that a model reads them once. */
async function examplesOf(
  task: Task,
  ownRows: readonly Values[],
  asked: (row: number) => boolean,
  { example }: RowReader,
  { shots, seed }: { shots: number; seed: number },
): Promise<{ examples: number[]; shown: Example[]; own: boolean }> {
  const { declaration } = task;
  if (shots === 0) return { examples: [], shown: [], own: true };
  if (declaration.shots === false)
    throw new LineageError("argument", `${task.name} has no examples to show; run it with --shots 0`);
  const { data = declaration.data, columns, draw } = declaration.shots;
  const own = data === declaration.data;
  const rows = own ? ownRows : await readRows(task, data, columns);
  // Of rows that are not asked, all may be shown; of the others one is left to be asked.
  const kept = own && declaration.ask ? [...rows.keys()].filter((row) => !asked(row)) : [...rows.keys()];
  const most = own && !declaration.ask ? kept.length - 1 : kept.length;
  if (shots > most)
    throw new LineageError(
      "argument",
      `${task.name} has ${most} examples, which are fewer than --shots ${shots}`,
    );
  const order = draw === "first" ? kept.keys() : new Random(seed).permutation(kept.length);
  const examples = [...order].slice(0, shots).map((index) => kept[index]!);
  return { examples, shown: examples.map((row) => example(rows[row]!, row)), own };
}
