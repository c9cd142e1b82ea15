import path from "node:path";
import { z } from "zod";
import { checkedValue, either, nearest, validated } from "../base/check.js";
import { FormatError, LineageError } from "../base/errors.js";
import { readJson, readText } from "../base/files.js";
import { builtInTasks } from "./built-in.js";

/** Jinja, as chat templates are; it sees the columns of a row. */
const template = z.string().max(100_000);
/** A file of rows: JSONL, JSON, CSV, TSV or Parquet, packed or not. */
const source = {
  data: z.string().min(1),
  /** Names for the columns of a CSV or TSV without a header. */
  columns: z.array(z.string().min(1)).min(1).optional(),
};
const pattern = z.string().refine(isPattern, { error: "must be a regular expression" });

function isPattern(text: string): boolean {
  try {
    new RegExp(text, "u");
    return true;
  } catch (error) {
    if (error instanceof SyntaxError) return false;
    throw error;
  }
}

const generate = z.strictObject({
  maxNewTokens: z.int().positive().default(256),
  /** Texts that end the answer. */
  stop: z.array(z.string().min(1)).default([]),
  /** What of the written text is the answer: the first group of this pattern, or the whole match. Default: all. */
  extract: pattern.optional(),
  /** Which match counts. */
  take: z.enum(["first", "last"]).default("first"),
  /** A second pattern, whose last match counts as `flexible_match`: lm-evaluation-harness's flexible-extract. */
  flexible: pattern.optional(),
  /** Parts of answer and target that are removed before they are compared. */
  ignore: z.array(pattern).default([]),
});

const shots = z.strictObject({
  data: source.data.optional(),
  columns: source.columns,
  /** `first` takes the first rows, `random` draws by the seed; every question has the same examples. */
  draw: z.enum(["first", "random"]).default("random"),
  separator: z.string().default("\n\n"),
  /** What an example shows as its answer. Default: the target. */
  target: template.optional(),
});

const taskSchema = z
  .strictObject({
    revision: z.string().min(1).default("1"),
    ...source,
    /** Which rows are asked: those whose key is in a JSON file, an array or the names of an object. Default: all. */
    ask: z.strictObject({ data: z.string().min(1), key: template }).optional(),
    /** A text before the examples and the question. */
    instructions: z.string().default(""),
    prompt: template.optional(),
    /** What stands between a prompt and its answer. */
    delimiter: z.string().default(" "),
    /** Answers to choose from: a template for each, or one template that writes one on each line. */
    choices: z.union([template, z.array(template).min(2)]).optional(),
    /** The prompt whose likelihoods `acc_mutual_info` divides by; "" for the token that begins a text. */
    unconditional: z.string().optional(),
    generate: generate.optional(),
    /** A text whose perplexity is measured. */
    text: template.optional(),
    /** The right answer: the text of a choice, or its place from 0. */
    target: template.optional(),
    /** Where the examples of a few-shot prompt come from. Default: the task's own rows; false where there are none. */
    shots: z.union([shots, z.literal(false)]).default(shots.parse({})),
  })
  .superRefine((task, context) => {
    const kinds = (["choices", "generate", "text"] as const).filter((kind) => task[kind] !== undefined);
    if (kinds.length !== 1)
      context.addIssue({ code: "custom", message: "must have one of choices, generate and text" });
    else if (kinds[0] !== "text" && (task.prompt === undefined || task.target === undefined))
      context.addIssue({ code: "custom", message: `must have prompt and target beside ${kinds[0]}` });
    if (task.unconditional !== undefined && task.choices === undefined)
      context.addIssue({ code: "custom", message: "has unconditional, which is for choices" });
  });

export type TaskDeclaration = z.output<typeof taskSchema>;
/** A task as it is written down: what has a default may be left out. */
export type TaskInput = z.input<typeof taskSchema>;

/** A task with its place: where its data are. */
export interface Task {
  readonly name: string;
  readonly declaration: TaskDeclaration;
  /** The folder that `data` is relative to. */
  readonly folder: string;
  /** Rows that are there already, instead of those of `data`. */
  readonly rows?: readonly Readonly<Record<string, unknown>>[];
}

/** A task that is declared in code. Throws `argument` for a declaration that is none. */
export const taskOf = (name: string, input: TaskInput, folder: string): Task => ({
  name,
  declaration: checkedValue(taskSchema, input, `the task ${name}`),
  folder,
});

export interface TaskPlaces {
  /** The folder of the data of built-in tasks. */
  readonly data?: string | undefined;
}

/**
 * A built-in task by its name, or the task that a `.json` file declares, whose `data` are beside it. Throws `argument` for
 * an unknown name, FormatError for a file that declares no task.
 */
export async function findTask(name: string, { data }: TaskPlaces = {}): Promise<Task> {
  if (name.endsWith(".json")) {
    const declaration = validated(
      taskSchema,
      await readJson(name),
      (problem) => new FormatError(name, `the task ${problem}`),
    );
    return { name: path.basename(name, ".json"), declaration, folder: path.dirname(name) };
  }
  const input = builtInTasks.get(name);
  if (!input) {
    const names = [...builtInTasks.keys()];
    const meant = nearest(name, names);
    throw new LineageError(
      "argument",
      `there is no task ${JSON.stringify(name)}; ${meant === undefined ? `give ${either(names)}, or a .json file that declares one` : `did you mean ${meant}?`}`,
    );
  }
  if (data === undefined)
    throw new LineageError(
      "argument",
      `the task ${name} needs --data FOLDER, the folder that has ${input.data}`,
    );
  return { name, declaration: taskSchema.parse(input), folder: data };
}

/** The perplexity of a whole text file. Throws as `readText` does. */
export async function textTask(file: string): Promise<Task> {
  const text = await readText(file);
  return {
    name: path.basename(file, path.extname(file)),
    declaration: taskSchema.parse({ data: path.basename(file), text: "{{ text }}", shots: false }),
    folder: path.dirname(file),
    rows: [{ text }],
  };
}
