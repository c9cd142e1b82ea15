import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { Gpt2, gpt2Config } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { nextTokenObjective } from "../../src/objectives/index.js";
import { DataLoader } from "../../src/data/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import {
  type AdamWName,
  Trainer,
  chosenOptimizer,
  isAdamW,
  restoreTraining,
  saveTraining,
} from "../../src/training/index.js";

const runtime = createRuntime();
const folder = mkdtempSync(path.join(os.tmpdir(), "lineage-moments-"));
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const config = gpt2Config({ vocabSize: 300, contextLength: 16, hiddenSize: 64, numLayers: 2, numHeads: 2 });
const tokens = Uint16Array.from({ length: 3000 }, (_, i) => (i * i + 7 * i) % 300);

function trainer(name: AdamWName): Promise<Trainer> {
  const model = new Gpt2(config);
  return Trainer.create({
    objective: nextTokenObjective(model),
    weights: Weights.initialize(runtime, model, 3),
    source: new DataLoader(tokens, { batchSize: 4, sequenceLength: 16, seed: 1 }),
    schedule: () => 1e-3,
    seed: 5,
    optimizer: (weights, gradients) =>
      chosenOptimizer(
        { optimizer: name, betas: [0.9, 0.999], weightDecay: 0.01 },
        folder,
        weights,
        gradients,
      ),
  });
}

async function steps(trained: Trainer, count: number): Promise<number[]> {
  const losses: number[] = [];
  for (let step = 0; step < count; step++) losses.push((await trained.step()).loss);
  return losses;
}

describe("paged moments", () => {
  it.each(["adamw", "adamw8bit"] as const)("take the steps of %s, bit for bit", async (name) => {
    using inMemory = await trainer(name);
    const before = runtime.allocatedBytes;
    using paged = await trainer(`paged-${name}`);
    expect(await steps(paged, 6)).toEqual(await steps(inMemory, 6));
    expect(await paged.weights.flat.read()).toEqual(await inMemory.weights.flat.read());
    for (const [kind, { tensors }] of Object.entries(inMemory.optimizer.state))
      for (const [parameter, tensor] of Object.entries(tensors))
        expect(paged.optimizer.state[kind]!.tensors[parameter]!.view()).toEqual(tensor.view());
    // Weights and gradients are in memory, and of moments in 8 bits a chunk in float32; two moments would be as much again.
    if (name === "adamw")
      expect(runtime.allocatedBytes - before).toBeLessThan(2.5 * paged.weights.flat.byteLength);
  });

  it("leave nothing in the run's folder, which a process that is killed would leave behind", async () => {
    using paged = await trainer("paged-adamw");
    expect(paged.optimizer.steps).toBe(0);
    expect(readdirSync(folder).filter((file) => file.startsWith(".paged"))).toEqual([]);
  });

  it("go on after a resume to bit-equal losses, from moments that were in memory too", async () => {
    using whole = await trainer("paged-adamw");
    await steps(whole, 3);
    await saveTraining(folder, whole, { evaluationsSinceBest: 0 });
    const wanted = await steps(whole, 3);
    for (const name of ["paged-adamw", "adamw"] as const) {
      using resumed = await trainer(name);
      await restoreTraining(folder, resumed);
      expect(await steps(resumed, 3)).toEqual(wanted);
    }
  });

  it("are one of four ways to keep AdamW's", () => {
    expect(["adamw", "paged-adamw8bit", "sgd", "adafactor"].map(isAdamW)).toEqual([true, true, false, false]);
  });
});
