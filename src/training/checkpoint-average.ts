import { mkdir, readdir, rm } from "node:fs/promises";
import path from "node:path";
import { LineageError } from "../base/errors.js";
import { SafetensorsFile, readWeights, tensorsToSave, writeSafetensors } from "../formats/index.js";
import type { Weights } from "../nn/index.js";

const nameOf = (step: number): string => `step-${String(step).padStart(8, "0")}.safetensors`;
const stepOf = (name: string): number | undefined => {
  const digits = /^step-(\d+)\.safetensors$/.exec(name)?.[1];
  return digits === undefined ? undefined : Number(digits);
};

/**
 * The mean of the weights at the last evaluations, Vaswani et al. 2017, section 6.1. They are kept as files, so that a run
 * that goes on averages what an uninterrupted one would have averaged.
 */
export class CheckpointAverage implements Disposable {
  private readonly mean: Weights;
  private readonly one: Weights;

  /**
   * @param folder for the weights that are averaged
   * @param count how many of them, at most
   */
  constructor(
    private readonly folder: string,
    private readonly weights: Weights,
    private readonly count: number,
  ) {
    if (!Number.isInteger(count) || count < 1)
      throw new LineageError("argument", `an average is over 1 checkpoint or more, not ${count}`);
    this.mean = weights.copy();
    this.one = weights.copy();
  }

  /** The mean of the last weights, those of this step included. It is overwritten by the next one. */
  async add(step: number): Promise<Weights> {
    await mkdir(this.folder, { recursive: true });
    await writeSafetensors(path.join(this.folder, nameOf(step)), tensorsToSave(this.weights));
    // Later ones are those of a run that ended before it was saved.
    const steps = (await readdir(this.folder)).flatMap((name) => stepOf(name) ?? []).sort((a, b) => a - b);
    // One more than is averaged: a run that ends before it is saved goes on from the evaluation before.
    const stays = steps.filter((known) => known <= step).slice(-this.count - 1);
    for (const known of steps)
      if (!stays.includes(known)) await rm(path.join(this.folder, nameOf(known)), { force: true });
    const kept = stays.slice(-this.count);
    const sum = new Float32Array(this.mean.flat.size);
    for (const known of kept) {
      const file = await SafetensorsFile.open(path.join(this.folder, nameOf(known)));
      await readWeights([file], this.one, "");
      const values = await this.one.flat.read();
      for (let index = 0; index < sum.length; index++) sum[index]! += values[index]! / kept.length;
    }
    this.mean.flat.write(sum);
    return this.mean;
  }

  dispose(): void {
    this.mean.dispose();
    this.one.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
