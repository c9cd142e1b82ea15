import { existsSync } from "node:fs";
import { appendFile, readFile } from "node:fs/promises";
import path from "node:path";
import { crc32 } from "node:zlib";
import { z } from "zod";
import { validated } from "../base/check.js";
import { FormatError, LineageError } from "../base/errors.js";
import { readJson, storageError, writeAtomically, writeJson } from "../base/files.js";
import { loadForInference } from "../checkpoints/index.js";
import { type Grown, type InstructionTask, growTasks, readSeedTasks } from "../data/index.js";
import { Decoder, endOfText, generateText } from "../generation/index.js";
import { scaledContext } from "../nn/index.js";
import { createRuntime } from "../runtime/index.js";
import { parseOptions } from "../training/index.js";
import type { RunControl } from "./run.js";

/** Everything that decides which tasks are written; kept beside them. */
export const growOptions = z.object({
  /** A decoder's folder or GGUF, which writes the tasks. */
  model: z.string(),
  /** Tasks that people wrote, as self-instruct publishes its 175. */
  seeds: z.string(),
  /** New tasks to write. */
  count: z.int().positive().default(20),
  /** Prompts at most. Default: ten for each task. */
  attempts: z.int().positive().optional(),
  /** ROUGE-L below which an instruction is new. */
  similarity: z.number().positive().max(1).default(0.7),
  temperature: z.number().nonnegative().default(0.8),
  seed: z.int().nonnegative().default(1),
});
export type GrowOptions = z.infer<typeof growOptions>;

/** A run that grows a list. `out` receives Alpaca's rows, `.jsonl`, and beside it lies what goes on with the run. */
export type GrowRequest = z.input<typeof growOptions> & { readonly out: string };

export interface GrowControl extends Pick<RunControl, "runtime" | "signal"> {
  readonly onTask?: (task: InstructionTask, grown: Grown) => void;
}

export interface GrowResult extends Grown {
  readonly options: GrowOptions;
  readonly outcome: "finished" | "interrupted";
}

/** Tokens of a prompt and what is written on it. */
const context = 2048;

/** Where a run stands: the rows themselves lie in its file, of which the first ones count. */
const stateSchema = z.object({
  options: z.unknown(),
  /** Checksum of the seeds. */
  seeds: z.int(),
  prompts: z.int().nonnegative(),
  counts: z.object({
    kept: z.int().nonnegative(),
    similar: z.int().nonnegative(),
    unfit: z.int().nonnegative(),
    withoutInstance: z.int().nonnegative(),
  }),
  /** Which of the tasks are classifications. */
  classifications: z.array(z.int().nonnegative()),
});

const stateFile = (out: string): string => {
  const { dir, name } = path.parse(out);
  return path.join(dir, `${name}.run.json`);
};

/**
 * Grows a list of instructions with a model of its own, Wang et al. 2023, and writes them as rows that `finetuneChat` reads. A
 * run that its signal stops keeps all tasks so far, and `resumeGrowing` goes on to the tasks of a run that was never stopped.
 * Throws `checkpoint` where the file belongs to such a run.
 */
export async function growInstructions(
  { out, ...given }: GrowRequest,
  control: GrowControl = {},
): Promise<GrowResult> {
  if (existsSync(stateFile(out)))
    throw new LineageError(
      "checkpoint",
      `${out} already holds a run; continue it with --resume, or choose another --out`,
    );
  return grow(out, parseOptions(growOptions, given), undefined, control);
}

/** Goes on with the run in a file, to exactly the tasks of a run that was never stopped. */
export async function resumeGrowing(out: string, control: GrowControl = {}): Promise<GrowResult> {
  const file = stateFile(out);
  if (!existsSync(file))
    throw new LineageError("checkpoint", `there is nothing to resume in ${out}: there is no ${file}`);
  const state = validated(stateSchema, await readJson(file), (problem) => new FormatError(file, problem));
  const options = parseOptions(growOptions, state.options);
  const tasks = await readGrown(out, state.counts.kept, new Set(state.classifications));
  const { prompts, counts, seeds } = state;
  return grow(out, options, { grown: { tasks, counts, prompts }, seeds }, control);
}

const rowSchema = z.object({ instruction: z.string(), input: z.string(), output: z.string() });
const rowOf = ({ instruction, input, output }: InstructionTask): string =>
  `${JSON.stringify({ instruction, input, output })}\n`;

/** The first rows of a file. Throws `FormatError` where there are fewer, or other ones. */
async function readGrown(
  file: string,
  count: number,
  classifications: ReadonlySet<number>,
): Promise<InstructionTask[]> {
  if (count === 0) return [];
  const text = await readFile(file, "utf8").catch((error: unknown) => {
    throw storageError("read", file, error);
  });
  const lines = text.split("\n").slice(0, -1);
  if (lines.length < count)
    throw new FormatError(file, `it has ${lines.length} whole rows, but the run had written ${count}`);
  return lines.slice(0, count).map((line, index) => {
    const wrong = (problem: string) => new FormatError(file, `row ${index + 1}: ${problem}`);
    let json: unknown;
    try {
      json = JSON.parse(line);
    } catch {
      throw wrong("is no JSON");
    }
    return { ...validated(rowSchema, json, wrong), isClassification: classifications.has(index) };
  });
}

async function grow(
  out: string,
  options: GrowOptions,
  before: { readonly grown: Grown; readonly seeds: number } | undefined,
  { runtime = createRuntime(), signal, onTask }: GrowControl,
): Promise<GrowResult> {
  const seeds = await readSeedTasks(options.seeds);
  const checksum = crc32(JSON.stringify(seeds));
  if (before && before.seeds !== checksum)
    throw new LineageError(
      "checkpoint",
      `${options.seeds} is not what it was when the run began; put it back, or begin another --out`,
    );
  const {
    model,
    weights,
    tokenizer,
    stopIds = endOfText(tokenizer),
  } = await loadForInference(runtime, options.model);
  try {
    using decoder = await Decoder.create({
      model,
      weights,
      capacity: Math.min(context, scaledContext(model.config)),
    });
    let last: Grown = before?.grown ?? { tasks: [], counts: noCounts, prompts: 0 };
    // Rows behind those that count are of a prompt that was cut off.
    await writeAtomically(out, [last.tasks.map(rowOf).join("")]);
    const keep = async (grown: Grown) => {
      const task = grown.tasks[last.tasks.length];
      last = grown;
      if (task) await appendFile(out, rowOf(task));
      await writeJson(stateFile(out), {
        options,
        seeds: checksum,
        prompts: grown.prompts,
        counts: grown.counts,
        classifications: [...grown.tasks.keys()].filter((index) => grown.tasks[index]!.isClassification),
      });
      // What slots hold of earlier prompts must not show in the last digits of later ones.
      decoder.forget();
      if (task) onTask?.(task, grown);
    };
    const { count, attempts, similarity, temperature, seed } = options;
    try {
      const grown = await growTasks(seeds, {
        count,
        seed,
        similarity,
        from: last,
        ...(attempts !== undefined && { attempts }),
        signal,
        write: async (prompt, { stop, maxNewTokens, stream }) => {
          const ids = tokenizer.encode(prompt).slice(-(decoder.capacity - maxNewTokens));
          const sampling = { temperature, topP: 0.95, seed, stream, stop, maxNewTokens, signal };
          return (await generateText({ decoder, tokenizer, stopIds }, ids, sampling).all()).text;
        },
        onPrompt: keep,
      });
      return { ...grown, options, outcome: "finished" };
    } catch (error) {
      if (!signal?.aborted) throw error;
      await keep(last);
      return { ...last, options, outcome: "interrupted" };
    }
  } finally {
    weights.dispose();
  }
}

const noCounts: Grown["counts"] = { kept: 0, similar: 0, unfit: 0, withoutInstance: 0 };
