import path from "node:path";
import { readJson, writeAtomically, writeJson } from "../base/files.js";
import type { Metrics } from "../training/index.js";
import { confusionPicture } from "../pictures/index.js";
import type { Measured } from "./task.js";

/** What `evaluation.json` says of the checkpoint beside it. */
export interface KeptEvaluation {
  readonly metrics: Metrics;
  readonly confusion?: string;
}

/** Writes `evaluation.json` and, for classes, `confusion.svg`. */
export async function writeEvaluation(out: string, { metrics, confusion }: Measured): Promise<void> {
  await writeJson(path.join(out, "evaluation.json"), {
    metrics,
    ...(confusion && {
      confusion: confusion.toString(),
      classes: confusion.classes,
      counts: confusion.counts.map((row) => [...row]),
      byClass: confusion.byClass,
    }),
  });
  if (confusion)
    await writeAtomically(path.join(out, "confusion.svg"), [
      confusionPicture(`Held-out rows of ${path.basename(path.resolve(out))}`, confusion),
    ]);
}

export const readEvaluation = async (out: string): Promise<KeptEvaluation> =>
  (await readJson(path.join(out, "evaluation.json"))) as KeptEvaluation;
