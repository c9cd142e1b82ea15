import { mkdir } from "node:fs/promises";
import path from "node:path";
import lockfile from "proper-lockfile";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { storageError } from "../base/files.js";
import { SafetensorsFile, readWeights, tensorsToSave, writeSafetensors } from "../io/index.js";
import type { Weights } from "../nn/index.js";
import type { Trainer } from "./trainer.js";

/** Everything that a run needs to go on, in one file: it is whole and of one step, or it is not there. */
export const trainingFile = (folder: string): string => path.join(folder, "training.safetensors");

const stateSchema = z.object({
  step: z.int().nonnegative(),
  loader: z.object({ epoch: z.int().nonnegative(), position: z.int().nonnegative() }),
  bestLoss: z.number().nullable(),
});

/** Saves weights, moments and position of a run. */
export async function saveTraining(
  folder: string,
  trainer: Trainer,
  weights: Weights,
  bestLoss: number | undefined,
): Promise<void> {
  const tensors = [
    ...tensorsToSave(weights, "weights/"),
    ...Object.entries(trainer.optimizer.state).flatMap(([name, moments]) =>
      tensorsToSave(moments, `${name}/`),
    ),
  ];
  if (trainer.average) tensors.push(...tensorsToSave(trainer.average.weights, "average/"));
  const state = { ...trainer.state, bestLoss: bestLoss ?? null };
  await writeSafetensors(trainingFile(folder), tensors, { lineage: JSON.stringify(state) });
}

/** Goes on exactly where `saveTraining` left off; the best validation loss until then. */
export async function restoreTraining(
  folder: string,
  trainer: Trainer,
  weights: Weights,
): Promise<number | undefined> {
  const file = await SafetensorsFile.open(trainingFile(folder));
  const parsed = stateSchema.safeParse(JSON.parse(file.header.metadata["lineage"] ?? "null"));
  if (!parsed.success)
    throw new LineageError("checkpoint", `${file.path} does not hold the state of a training run`);
  await readWeights([file], weights, "weights/");
  for (const [name, moments] of Object.entries(trainer.optimizer.state))
    await readWeights([file], moments, `${name}/`);
  if (trainer.average) await readWeights([file], trainer.average.weights, "average/");
  trainer.restore(parsed.data);
  return parsed.data.bestLoss ?? undefined;
}

/**
 * Makes the folder and keeps every other process out of it until the returned function is called. Throws `locked` when
 * another process is in it.
 */
export async function lockFolder(folder: string): Promise<() => Promise<void>> {
  try {
    await mkdir(folder, { recursive: true });
  } catch (error) {
    throw storageError("make the folder", folder, error);
  }
  try {
    return await lockfile.lock(folder, { stale: 15_000 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ELOCKED") {
      throw new LineageError(
        "locked",
        `another process is training in ${folder}; wait for it, or choose another folder with --out`,
        { cause: error },
      );
    }
    throw storageError("lock", folder, error);
  }
}
