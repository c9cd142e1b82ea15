import { mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { temporaryName } from "../../src/base/temporary.js";
import { z } from "zod";
import { DataLoader } from "../../src/data/index.js";
import { Gpt2, gpt2Config } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { type TrainingRun, RunFolder, runTraining } from "../../src/training/index.js";
import { nextTokenObjective } from "../../src/objectives/index.js";

const runtime = createRuntime();
const model = new Gpt2(
  gpt2Config({ hiddenSize: 16, numLayers: 1, numHeads: 2, vocabSize: 20, contextLength: 8, dropout: 0.1 }),
);
const tokens = Int32Array.from({ length: 500 }, (_, i) => (i * i + (i >> 2)) % 20);
const schema = z.object({ name: z.string() });

let parent = "";
beforeAll(async () => {
  parent = await mkdtemp(path.join(os.tmpdir(), "lineage é-"));
});
afterAll(() => rm(parent, { recursive: true }));

/** Trains in a folder of that name; evaluations give `values` one after another. */
async function train(
  name: string,
  values: readonly number[],
  options: Partial<TrainingRun> = {},
  resume = false,
) {
  const folder = await RunFolder.open(path.join(parent, name), schema, { resume, given: { name } });
  try {
    using weights = Weights.initialize(runtime, model, 1);
    const saved: number[] = [];
    let evaluations = 0;
    const result = await runTraining({
      folder,
      objective: nextTokenObjective(model),
      weights,
      source: new DataLoader(tokens, { batchSize: 2, sequenceLength: 8, seed: 1 }),
      schedule: () => 1e-3,
      seed: 1,
      steps: 12,
      evalEvery: 2,
      evaluate: () => Promise.resolve({ loss: values[evaluations++]!, accuracy: 1 }),
      save: () => {
        saved.push(evaluations);
        return Promise.resolve();
      },
      ...options,
    });
    return { result, saved };
  } finally {
    await folder.close();
  }
}

const records = async (name: string) =>
  (await readFile(path.join(parent, name, "metrics.jsonl"), "utf8"))
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { step: number; loss?: number; validationLoss?: number });

describe("a training run", () => {
  it("saves the model at every best evaluation, and at no other", async () => {
    const { result, saved } = await train("best", [5, 4, 4.5, 3, 6, 7]);
    expect(saved).toEqual([1, 2, 4]);
    expect(result).toMatchObject({ outcome: "finished", step: 12, best: 3, bestStep: 8 });
    expect((await records("best")).filter(({ loss }) => loss !== undefined)).toHaveLength(12);
  });

  it("can be best in another metric, by its largest value", async () => {
    const evaluate = (() => {
      const accuracies = [0.2, 0.5, 0.4, 0.5, 0.6, 0.1];
      return () => Promise.resolve({ loss: 1, accuracy: accuracies.shift()! });
    })();
    const { result } = await train("metric", [], { evaluate, best: { metric: "accuracy", mode: "most" } });
    expect(result).toMatchObject({ best: 0.6, bestStep: 10 });
  });

  it("stops early, counting through a resume", async () => {
    const { result } = await train("early", [5, 6, 7, 8, 9, 9], { patience: 3 });
    expect(result).toMatchObject({ outcome: "stopped early", step: 8, best: 5, bestStep: 2 });
    const again = await train("early", [], { patience: 3 }, true);
    expect(again.result).toMatchObject({ outcome: "stopped early", step: 8, tokens: 0 });
    const patient = await train("early", [8], { patience: 4 }, true);
    expect(patient.result).toMatchObject({ outcome: "stopped early", step: 10 });
  });

  it("goes on to the same losses after its process was killed, and writes each step down once", async () => {
    await train("whole", [6, 5, 4, 3, 2, 1]);
    const controller = new AbortController();
    const interrupted = await train("killed", [6, 5, 4], {
      signal: controller.signal,
      observer: {
        stepped: ({ step }) => {
          if (step === 7) controller.abort();
        },
      },
    });
    expect(interrupted.result).toMatchObject({ outcome: "interrupted", step: 7 });
    // What a process writes after its last save, up to a line that is cut off, and the file that it was writing.
    const file = path.join(parent, "killed", "metrics.jsonl");
    await writeFile(file, `${await readFile(file, "utf8")}{"step":8,"loss":99}\n{"step":9,"lo`);
    // A name that a process of this number had before.
    const leftBehind = temporaryName("tmp").replace(/-[0-9a-f]{8}-/, "-00000000-");
    await writeFile(path.join(parent, "killed", leftBehind), "half");
    await train("killed", [3, 2, 1], {}, true);
    const losses = async (name: string) => (await records(name)).map(({ step, loss }) => [step, loss]);
    expect(await losses("killed")).toEqual(await losses("whole"));
    expect((await readdir(path.join(parent, "killed"))).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });

  it("ends at an evaluation that is not finite, with the checkpoint before it", async () => {
    await expect(train("nan", [5, NaN])).rejects.toThrow(
      /step 4: the held-out loss is NaN.*nan keeps the checkpoint of step 2/,
    );
  });
});
