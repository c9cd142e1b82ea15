import { mkdtemp, readdir, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Gpt2, gpt2Config } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { CheckpointAverage } from "../../src/training/index.js";

const runtime = createRuntime();
const model = new Gpt2(
  gpt2Config({ hiddenSize: 8, numLayers: 1, numHeads: 2, vocabSize: 11, contextLength: 8 }),
);
let root = "";
beforeAll(async () => {
  root = await mkdtemp(path.join(os.tmpdir(), "average-"));
});
afterAll(() => rm(root, { recursive: true }));

/** Sets every weight to one value. */
const fill = (weights: Weights, value: number) => weights.flat.view().fill(value);
const valueOf = (weights: Weights) => {
  const values = new Set(Object.values(weights.tensors).flatMap((tensor) => [...tensor.view()]));
  expect(values.size).toBe(1);
  return [...values][0];
};

describe("CheckpointAverage", () => {
  it("gives the mean of the last weights, and keeps one more of them", async () => {
    const folder = path.join(root, "last");
    using weights = Weights.allocate(runtime, model);
    using average = new CheckpointAverage(folder, weights, 3);
    const means: unknown[] = [];
    for (const [step, value] of [1, 2, 6, 10].entries()) {
      fill(weights, value);
      means.push(valueOf(await average.add(10 * (step + 1))));
    }
    expect(means).toEqual([1, 1.5, 3, 6]);
    expect(valueOf(weights)).toBe(10);
    expect(await readdir(folder)).toHaveLength(4);
  });

  it("goes on from the files, without those of steps that are taken again", async () => {
    const folder = path.join(root, "resumed");
    using weights = Weights.allocate(runtime, model);
    {
      using first = new CheckpointAverage(folder, weights, 2);
      for (const [step, value] of [
        [5, 4],
        [10, 8],
        [15, 100],
      ] as const) {
        fill(weights, value);
        await first.add(step);
      }
    }
    // The run was last saved before step 10.
    using second = new CheckpointAverage(folder, weights, 2);
    fill(weights, 8);
    expect(valueOf(await second.add(10))).toBe(6);
    fill(weights, 12);
    expect(valueOf(await second.add(15))).toBe(10);
    expect(() => new CheckpointAverage(folder, weights, 0)).toThrow("over 1 checkpoint or more");
  });
});
