import { tokenBatch } from "../src/data/index.js";
import { type CausalLm, Weights } from "../src/nn/index.js";
import { nextTokenObjective } from "../src/objectives/index.js";
import type { Runtime } from "../src/runtime/types.js";
import { GradientNorm, TrainingStep, adamW, clippingFactor } from "../src/training/index.js";
import { median, timed } from "./harness.js";

export interface StepTimes<Memory> {
  readonly seconds: number;
  /** Milliseconds of its parts. */
  readonly parts: Readonly<Record<"forward and backward" | "norm" | "update", number>>;
  /** Memory while everything is still held. */
  readonly memoryMiB: Memory;
}

/** A training step over one batch, forward, backward, clipping and AdamW: medians of `repeats` steps after some that do not count. */
export async function timedStep<Memory>(
  runtime: Runtime,
  model: CausalLm,
  inputIds: Int32Array,
  {
    batch,
    sequence,
    warmUps,
    repeats,
    memoryMiB,
  }: { batch: number; sequence: number; warmUps: number; repeats: number; memoryMiB: () => Memory },
): Promise<StepTimes<Memory>> {
  using weights = Weights.initialize(runtime, model, 1);
  using gradients = weights.like();
  const objective = nextTokenObjective(model, { batchSize: batch, sequenceLength: sequence });
  using step = await TrainingStep.create(objective, weights, gradients);
  using optimizer = await adamW(weights, gradients);
  using norm = await GradientNorm.create(runtime, gradients);
  const labels = inputIds.map((id) => (id * 3 + 1) % model.config.vocabSize);
  const parts = { "forward and backward": [] as number[], norm: [] as number[], update: [] as number[] };
  const run = async (): Promise<void> => {
    const start = performance.now();
    await step.run(tokenBatch(inputIds, labels, [batch, sequence]));
    const passed = performance.now();
    const length = await norm.measure();
    const measured = performance.now();
    await optimizer.update({ learningRate: 1e-4, gradientScale: clippingFactor(length, 1) });
    parts["forward and backward"].push(passed - start);
    parts.norm.push(measured - passed);
    parts.update.push(performance.now() - measured);
  };
  await timed(warmUps, run);
  for (const times of Object.values(parts)) times.length = 0;
  const seconds = median(await timed(repeats, run));
  return {
    seconds,
    parts: {
      "forward and backward": median(parts["forward and backward"]),
      norm: median(parts.norm),
      update: median(parts.update),
    },
    memoryMiB: memoryMiB(),
  };
}
