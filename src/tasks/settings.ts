import { existsSync } from "node:fs";
import path from "node:path";
import { z } from "zod";
import { validated } from "../base/check.js";
import { FormatError, LineageError } from "../base/errors.js";
import { readJson, writeJson } from "../base/files.js";
import { type TaskName, taskNames, paddingOf } from "../data/index.js";
import { type HeadCheckpoint, adapterHead, classesOf } from "../checkpoints/index.js";
import { headOfConfig, headSystemOf } from "../models/index.js";
import { type WeightSet, scaledContext } from "../nn/index.js";
import type { TaskContext } from "./task.js";
import { tasks } from "./tasks.js";

const settingsSchema = z.object({
  task: z.enum(taskNames),
  maxLength: z.int().positive(),
  stride: z.int().nonnegative(),
  /** Probability from which on the second of two classes, or any of more, is answered. */
  threshold: z.number().min(0).max(1).optional(),
  /** Whether a pair is read in both orders. */
  bothOrders: z.boolean().optional(),
  /** Names of the classes beside an adapter, in the order of its head's. */
  labels: z.array(z.string()).optional(),
});
/** What predicting needs to know of fine-tuning and Hugging Face's files do not say: `task.json` beside them. */
export type TaskSettings = z.infer<typeof settingsSchema>;

const settingsFile = (folder: string): string => path.join(folder, "task.json");

export const writeSettings = (folder: string, settings: TaskSettings): Promise<void> =>
  writeJson(settingsFile(folder), settings);

/** Reads `task.json`, or tells the task from the class that transformers names in `config.json`. */
export async function readSettings(
  folder: string,
  task?: TaskName,
): Promise<Partial<TaskSettings> & { task: TaskName }> {
  const file = settingsFile(folder);
  if (existsSync(file)) {
    const settings = validated(
      settingsSchema,
      await readJson(file),
      (problem) => new FormatError(file, problem),
    );
    if (task !== undefined && tasks[task].head !== tasks[settings.task].head)
      throw new LineageError("argument", `${folder} was fine-tuned for ${settings.task}, not for ${task}`);
    return settings;
  }
  if (task !== undefined) return { task };
  const config = path.join(folder, "config.json");
  if (!existsSync(config))
    throw new LineageError("checkpoint", `${folder} is not a model: it has no config.json`);
  const json = await readJson(config);
  const head = headOfConfig(headSystemOf(json), json);
  const {
    architectures,
    id2label,
    problem_type: problem,
  } = json as { architectures?: string[]; id2label?: Record<string, string>; problem_type?: string };
  const numbers = problem === "regression" || (id2label !== undefined && Object.keys(id2label).length === 1);
  if (head === "classify") return { task: numbers ? "regress" : "classify" };
  if (head !== undefined && head !== "fill-mask") return { task: head };
  const name = architectures?.[0];
  throw new LineageError(
    "checkpoint",
    `${folder} is not fine-tuned for a task${name ? `: it holds a ${name}` : ""}; fine-tune it with lineage finetune`,
  );
}

/**
 * The settings of a base with an adapter: `task.json` beside the adapter, or the task that peft names. An adapter without a
 * head is for the base's own task.
 */
export async function readAdapterSettings(
  adapter: string,
  base: string,
  task?: TaskName,
): Promise<Partial<TaskSettings> & { task: TaskName }> {
  if (existsSync(settingsFile(adapter))) return readSettings(adapter, task);
  const head = await adapterHead(adapter);
  if (head === undefined || head === "fill-mask") return readSettings(base, task);
  if (task === undefined) return { task: head };
  if (tasks[task].head !== head)
    throw new LineageError("argument", `${adapter} was trained for ${head}, not for ${task}`);
  return { task };
}

/** The names of classes that lie beside an adapter. Throws `checkpoint` where its head has another number of them. */
export function labelsOf(
  { labels }: Partial<TaskSettings>,
  loaded: HeadCheckpoint<WeightSet>,
): readonly string[] | undefined {
  const classes = classesOf(loaded);
  if (labels && labels.length !== classes)
    throw new LineageError(
      "checkpoint",
      `the adapter's task.json names ${labels.length} classes (${labels.join(", ")}), but its head tells ${classes} apart`,
    );
  return labels;
}

/** A loaded model's context for a task. Throws `argument` for a length that the model does not know. */
export function contextOf(
  { system, tokenizer, model, labels }: Pick<HeadCheckpoint, "system" | "tokenizer" | "model" | "labels">,
  task: TaskName,
  { maxLength, stride = 64 }: { maxLength?: number; stride?: number },
  more: Partial<TaskContext> = {},
): TaskContext {
  const { padTokenId } = model.encoder.config;
  const contextLength = scaledContext(model.encoder.config);
  const causal = system.kind === "decoder";
  const length = maxLength ?? Math.min(tasks[task].defaultLength, contextLength);
  if (length > contextLength)
    throw new LineageError(
      "length",
      `--max-length must be at most ${contextLength}, the tokens that the model reads, not ${length}`,
    );
  return {
    tokenizer,
    // A decoder's rows are filled up behind, whatever its tokenizer does to prompts.
    padding: causal ? { ...paddingOf(tokenizer, padTokenId), left: false } : paddingOf(tokenizer, padTokenId),
    causal,
    maxLength: length,
    stride: Math.min(stride, Math.floor(length / 4)),
    labels: labels ?? [],
    ...more,
  };
}
