import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { type System, type SystemKind, systemsOfKind } from "../models/index.js";
import type { Runtime } from "../runtime/types.js";
import {
  type BatchRamp,
  RunFolder,
  type SpikeOptions,
  type TrainerOptions,
  type TrainingObserver,
  batchRamp,
} from "../training/index.js";

// What runs of every kind have in common, and those from nothing besides.

/** What a run is told that does not decide its losses. */
export interface RunControl {
  readonly runtime?: Runtime;
  /** Told in sentences of the data, the model and what becomes of them. */
  readonly onMessage?: (message: string, data: Readonly<Record<string, unknown>>) => void;
  readonly observer?: TrainingObserver;
  /** Stops after the step under way, and saves. */
  readonly signal?: AbortSignal;
}

/** Options of a run from nothing. */
export const fromNothing = {
  batch: z.int().positive().default(16),
  accumulate: z.int().positive().default(1),
  /** Computes the insides of layers again in the backward pass instead of keeping them: less memory, a third more time. */
  gradientCheckpointing: z.boolean().default(false),
  /**
   * Rows of a step that grow: `16,32@500,64@1150` are 16, after step 500 they are 32, and after step 1,150 64; `16-64@2000000` grow
   * evenly from 16 to 64 over the first 2,000,000 tokens. Multiples of `batch`. Default: `batch` times `accumulate` throughout.
   */
  batchRamp: z.string().optional(),
  /**
   * Goes back to the last checkpoint before a spike of the loss and skips the batches since then: where the loss is this many standard
   * deviations above its median of the last 64 steps for three steps, or is not finite. Default: never.
   */
  skipSpikes: z.number().positive().optional(),
  steps: z.int().positive().default(1000),
  /** Steps of rising learning rate. Default: as the kind of run has it, in `learningPlans`. */
  warmup: z.int().nonnegative().optional(),
  clip: z.number().positive().default(1),
  evalEvery: z.int().positive().default(250),
  /** Evaluations without a better held-out loss after which training ends. Default: never. */
  patience: z.int().positive().optional(),
  seed: z.int().nonnegative().default(1),
};

/** What a run's options say of its steps: how many micro-batches they have, and when a loss is a spike. */
export function stepsOf({
  batch,
  accumulate,
  batchRamp: ramp,
  skipSpikes,
  gradientCheckpointing,
}: {
  readonly batch: number;
  readonly accumulate: number;
  readonly batchRamp?: string | undefined;
  readonly skipSpikes?: number | undefined;
  readonly gradientCheckpointing: boolean;
}): Pick<TrainerOptions, "gradientCheckpointing"> & {
  readonly accumulation: number | BatchRamp;
  readonly spikes: SpikeOptions | undefined;
} {
  if (ramp !== undefined && accumulate !== 1)
    throw new LineageError("argument", "--batch-ramp says how many rows a step has; leave --accumulate out");
  return {
    gradientCheckpointing,
    accumulation: ramp === undefined ? accumulate : batchRamp(ramp, batch),
    spikes: skipSpikes === undefined ? undefined : { deviations: skipSpikes },
  };
}

/** Sizes of a model from nothing where nobody says: minutes of training on a laptop. */
export const smallSizes = { contextLength: 128, hiddenSize: 128, numLayers: 4, numHeads: 4 };

/** Opens a run's folder, by the options `given` or by those in it, for as long as `body` runs. */
export async function inRunFolder<Options, Result>(
  out: string,
  schema: z.ZodType<Options>,
  options: { readonly resume: boolean; readonly given?: unknown },
  body: (folder: RunFolder<Options>) => Promise<Result>,
): Promise<Result> {
  const folder = await RunFolder.open(out, schema, options);
  try {
    return await body(folder);
  } finally {
    await folder.close();
  }
}

/** The library's system of a kind by its name. Throws `argument` where there is none. */
export function namedSystem<K extends SystemKind>(kind: K, name: string): Extract<System, { kind: K }> {
  const known = systemsOfKind(kind);
  const found = known.find((system) => system.name === name);
  if (!found)
    throw new LineageError(
      "argument",
      `there is no ${kind} ${name}; there are ${known.map((system) => system.name).join(", ")}`,
    );
  return found;
}
