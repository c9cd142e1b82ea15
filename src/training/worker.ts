import { parentPort, workerData } from "node:worker_threads";
import type { Batch } from "../data/index.js";
import { Weights } from "../nn/index.js";
import { createRuntime } from "../runtime/index.js";
import type { Objective } from "./objective.js";
import { type PartValues, type PassOptions, TrainingStep, addParts } from "./step.js";

// One worker of `WorkerGroup`: its share of a step's micro-batches, through a model of its own.

/** @internal What a worker is started with. */
export interface WorkerStart extends PassOptions {
  /** Module and export that make the objective, and what they are given. */
  readonly module: string;
  readonly name: string;
  readonly argument: unknown;
  readonly threads: number;
  /** Weights of the step, which all workers read, and this worker's gradients; in the layout of the model. */
  readonly weights: SharedArrayBuffer;
  readonly gradients: SharedArrayBuffer;
}

/** @internal One step's share of a worker. */
export interface WorkerShare {
  readonly batches: readonly { readonly batch: Batch; readonly seed: number }[];
  readonly counts: PartValues;
}

/** @internal */
export type WorkerAnswer = { readonly sums: PartValues } | { readonly error: unknown };

const start = workerData as WorkerStart;
const made = (await import(start.module)) as Record<string, (argument: unknown) => Objective>;
const objective = made[start.name]!(start.argument);
const runtime = createRuntime({ threads: start.threads });
const weights = Weights.allocate(runtime, objective.model);
const gradients = weights.like((_, parameter) => parameter.trainable);
const step = await TrainingStep.create(objective, weights, gradients, {
  accumulates: true,
  gradientCheckpointing: start.gradientCheckpointing,
});

async function work({ batches, counts }: WorkerShare): Promise<PartValues> {
  weights.flat.write(new Float32Array(start.weights));
  gradients.clear();
  const sums: Record<string, number> = {};
  for (const { batch, seed } of batches) {
    addParts(sums, await step.run(batch, { counts, seed, accumulate: true }));
  }
  new Float32Array(start.gradients).set(gradients.flat.contents());
  return sums;
}

parentPort!.on("message", (share: WorkerShare) => {
  work(share).then(
    (sums) => {
      parentPort!.postMessage({ sums } satisfies WorkerAnswer);
    },
    (error: unknown) => {
      parentPort!.postMessage({ error } satisfies WorkerAnswer);
    },
  );
});
