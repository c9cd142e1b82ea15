import { existsSync } from "node:fs";
import path from "node:path";
import { z } from "zod";
import { validated } from "../base/check.js";
import { FormatError, LineageError } from "../base/errors.js";
import { readJson, writeJson } from "../base/files.js";
import { Random } from "../base/random.js";
import { RunFolder, lockFolder, parseOptions, trainingFile } from "../training/index.js";
import { type FinetuneData, readData } from "./finetune-data.js";
import { finetuneOptions } from "./finetune-options.js";
import { type FinetuneRequest, runFinetuning } from "./finetune.js";
import type { RunControl } from "./run.js";

const foldSchema = z.object({ metrics: z.record(z.string(), z.number()), rows: z.int().positive() });
/** One share of the rows: how well it was answered by the run that did not see it. */
export type Fold = z.infer<typeof foldSchema>;

/** A cross-validation in its folder, `folds.json`: what decides it, and the folds that are done. */
const foldsSchema = z.object({
  options: finetuneOptions,
  count: z.int().min(2),
  /** Rows of the data, by which a file that has changed meanwhile is told. */
  rows: z.int().positive().optional(),
  folds: z.array(foldSchema),
  summary: z.record(z.string(), z.object({ mean: z.number(), deviation: z.number() })),
});
type Folds = z.infer<typeof foldsSchema>;

export interface FoldsResult {
  readonly outcome: "finished" | "interrupted";
  /** Those that are done. */
  readonly folds: readonly Fold[];
  /** How many there are in all. */
  readonly count: number;
  /** Mean and standard deviation over the folds that are done, by metric. */
  readonly summary: Readonly<Record<string, { readonly mean: number; readonly deviation: number }>>;
}

const foldsFile = (out: string): string => path.join(out, "folds.json");

/** Whether a folder is that of a cross-validation. */
export const holdsFolds = (out: string): boolean => existsSync(foldsFile(out));

/**
 * Cross-validation: `folds` runs, each on all but one of as many shares of the data and measured on that one. `out`
 * receives the runs in `fold-1`, `fold-2`, … and the summary in `folds.json`. What was interrupted goes on with
 * `resumeCrossValidation`.
 */
export async function crossValidate(
  { out, folds: count, ...given }: FinetuneRequest & { readonly folds: number },
  control: RunControl = {},
): Promise<FoldsResult> {
  if (!(Number.isInteger(count) && count >= 2))
    throw new LineageError("argument", `cross-validation needs at least two folds, not ${count}`);
  return inFolder(out, () => {
    if (holdsFolds(out))
      throw new LineageError(
        "checkpoint",
        `${out} already holds a cross-validation; continue it with --resume, or choose another --out`,
      );
    return runFolds(
      out,
      { options: parseOptions(finetuneOptions, given), count, folds: [], summary: {} },
      control,
    );
  });
}

/** Goes on with the cross-validation in a folder: folds that are done are not run again, one that was interrupted goes on. */
export async function resumeCrossValidation(out: string, control: RunControl = {}): Promise<FoldsResult> {
  if (!holdsFolds(out))
    throw new LineageError("checkpoint", `there is nothing to resume in ${out}: it has no folds.json`);
  return inFolder(out, async () => {
    const file = foldsFile(out);
    const begun = validated(foldsSchema, await readJson(file), (problem) => new FormatError(file, problem));
    return await runFolds(out, begun, control);
  });
}

async function inFolder<T>(out: string, body: () => Promise<T>): Promise<T> {
  const lock = await lockFolder(out);
  try {
    return await body();
  } finally {
    await lock.release();
  }
}

async function runFolds(out: string, begun: Folds, control: RunControl): Promise<FoldsResult> {
  const { options, count } = begun;
  const { file, training } = await readData({ ...options, eval: undefined, validation: 0 }, control);
  if (training.length < count)
    throw new LineageError("data", `${file} has ${training.length} rows, too few for ${count} folds`);
  if (begun.rows !== undefined && begun.rows !== training.length)
    throw new LineageError(
      "data",
      `${file} has ${training.length} rows, but had ${begun.rows} when the cross-validation in ${out} started; restore the file, or start again in another --out`,
    );
  const order = new Random(options.seed).fork("folds").permutation(training.length);
  const folds = [...begun.folds];
  const state = (): Folds => ({ ...begun, rows: training.length, folds, summary: summaryOf(folds) });
  await writeJson(foldsFile(out), state());
  if (folds.length > 0)
    control.onMessage?.(`resumed after fold ${folds.length} of ${count}`, {
      folds: count,
      done: folds.length,
    });
  while (folds.length < count) {
    const fold = folds.length;
    const held = new Set(order.filter((_, place) => place % count === fold));
    const data: FinetuneData = {
      file,
      training: training.filter((_, place) => !held.has(place)),
      held: training.filter((_, place) => held.has(place)),
      heldFile: file,
    };
    const place = path.join(out, `fold-${fold + 1}`);
    const folder = await RunFolder.open(place, finetuneOptions, {
      resume: existsSync(trainingFile(place)),
      given: options,
    });
    try {
      control.onMessage?.(`fold ${fold + 1} of ${count}`, { fold: fold + 1, folds: count });
      const { outcome, metrics } = await runFinetuning(folder, data, control);
      if (outcome === "interrupted") return { outcome, count, folds, summary: summaryOf(folds) };
      folds.push({ metrics: { ...metrics! }, rows: data.held.length });
      await writeJson(foldsFile(out), state());
    } finally {
      await folder.close();
    }
  }
  return { outcome: "finished", count, folds, summary: summaryOf(folds) };
}

function summaryOf(folds: readonly Fold[]): Folds["summary"] {
  return Object.fromEntries(
    Object.keys(folds[0]?.metrics ?? {}).map((name) => {
      const values = folds.map(({ metrics }) => metrics[name]!);
      const mean = values.reduce((a, b) => a + b, 0) / values.length;
      const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / Math.max(1, values.length - 1);
      return [name, { mean, deviation: Math.sqrt(variance) }];
    }),
  );
}
