import { existsSync, statSync } from "node:fs";
import { readdir } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { validated } from "../base/check.js";
import { FormatError, LineageError } from "../base/errors.js";
import { readJson } from "../base/files.js";
import type { Curve } from "../pictures/index.js";

const score = z.object({ value: z.number(), stderr: z.number().optional() });
const summarySchema = z.object({
  model: z.string(),
  parameters: z.int().positive().optional(),
  task: z.string(),
  shots: z.int().nonnegative(),
  rows: z.int().nonnegative(),
  complete: z.boolean(),
  scores: z.record(z.string(), score),
});

/** What a model got in a task. */
export type TaskSummary = Readonly<z.output<typeof summarySchema>>;

/** What a results file says besides its predictions. */
export interface Summary extends TaskSummary {
  readonly file: string;
}

/** Of each place as many of its last names as tell it from the others, without the ending of a file. */
export function shortNames(places: readonly string[]): string[] {
  const parts = places.map((place) =>
    place
      .replace(/\.gguf$/, "")
      .split(/[\\/]+/)
      .filter((part) => part !== "" && part !== "."),
  );
  const short = (names: readonly string[], length: number): string => names.slice(-length).join("-");
  return parts.map((names, own) => {
    let length = 1;
    while (
      length < names.length &&
      parts.some((others, index) => index !== own && short(others, length) === short(names, length))
    )
      length++;
    return short(names, length);
  });
}

/** The results in a folder, or in its folders: there are several where several models were measured. */
async function resultFiles(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true });
  const own = entries.filter((entry) => entry.isFile() && /-\d+-shot\.json$/.test(entry.name));
  if (own.length > 0) return own.map(({ name }) => path.join(folder, name));
  const files: string[] = [];
  for (const entry of entries.filter((each) => each.isDirectory())) {
    const within = path.join(folder, entry.name);
    for (const name of await readdir(within))
      if (/-\d+-shot\.json$/.test(name)) files.push(path.join(within, name));
  }
  return files;
}

/** The results in some folders or files. Throws `data` for a place without results, FormatError for a file that is none. */
export async function readSummaries(places: readonly string[]): Promise<Summary[]> {
  const found: Summary[] = [];
  for (const place of places) {
    if (!existsSync(place)) throw new LineageError("data", `there are no results ${place}`);
    const files = statSync(place).isDirectory() ? await resultFiles(place) : [place];
    if (files.length === 0)
      throw new LineageError("data", `${place} has no results: lineage evaluate --out ${place} writes them`);
    for (const file of files.sort()) {
      const read = validated(
        summarySchema,
        await readJson(file),
        (problem) => new FormatError(file, `this is no result of lineage evaluate: it ${problem}`),
      );
      found.push({ ...read, file });
    }
  }
  return found;
}

/** The metric that a task is judged by: the first of its scores. */
const metricOf = ({ scores }: TaskSummary): string | undefined => Object.keys(scores)[0];

/**
 * Scores as curves with standard errors: over shots, a curve for each model and task; over parameters where there are several
 * sizes and one number of shots.
 * @param metric default: the first of each task
 */
export function scoreCurves(
  summaries: readonly TaskSummary[],
  by: "shots" | "parameters",
  metric?: string,
): Curve[] {
  const curves = new Map<string, { step: number; loss: number; error?: number }[]>();
  for (const summary of summaries) {
    const name = metric ?? metricOf(summary);
    const found = name === undefined ? undefined : summary.scores[name];
    const step = by === "shots" ? summary.shots : summary.parameters;
    if (!found || step === undefined) continue;
    const label =
      by === "shots"
        ? `${path.basename(summary.model)}, ${summary.task} (${name})`
        : `${summary.task}, ${summary.shots}-shot (${name})`;
    const points = curves.get(label) ?? [];
    points.push({ step, loss: found.value, ...(found.stderr !== undefined && { error: found.stderr }) });
    curves.set(label, points);
  }
  return [...curves].map(([label, points]) => ({ label, points: points.sort((a, b) => a.step - b.step) }));
}
