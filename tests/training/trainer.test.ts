import { mkdtemp, readFile, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { DataLoader, tokenBatch } from "../../src/data/index.js";
import { Gpt2, gpt2Config } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import {
  Trainer,
  TrainingStep,
  evaluatePerplexity,
  lockFolder,
  restoreTraining,
  saveTraining,
  schedule,
} from "../../src/training/index.js";
import { nextTokenObjective } from "../../src/objectives/index.js";
import { laterGrowth } from "../memory.js";

const runtime = createRuntime();
const config = gpt2Config({
  hiddenSize: 32,
  numLayers: 2,
  numHeads: 2,
  vocabSize: 50,
  contextLength: 16,
  dropout: 0.2,
});
const undropped = { dropout: 0, embeddingDropout: 0, attentionDropout: 0 };
const model = new Gpt2(config);
const tokens = Int32Array.from({ length: 2000 }, (_, i) => (i * i + (i >> 3)) % 50);
const shape = { batchSize: 4, sequenceLength: 16 };

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage é-"));
});
afterAll(() => rm(folder, { recursive: true }));

async function start(learningRate = 1e-2) {
  const weights = Weights.initialize(runtime, model, 3);
  const source = new DataLoader(tokens, { ...shape, seed: 5 });
  const rates = schedule("cosine", { learningRate, warmupSteps: 3, totalSteps: 60 });
  const averageDecay = 0.9;
  const trainer = await Trainer.create({
    averageDecay,
    objective: nextTokenObjective(model, shape),
    weights,
    source,
    accumulation: 2,
    seed: 9,
    schedule: rates,
  });
  return { weights, trainer };
}

describe("training", () => {
  it("goes on after a resume, in the middle of an epoch with dropout and accumulation, to bit-equal losses", async () => {
    const whole = await start();
    const losses: number[] = [];
    for (let i = 0; i < 30; i++) losses.push((await whole.trainer.step()).loss);

    const first = await start();
    for (let i = 0; i < 17; i++) await first.trainer.step();
    await saveTraining(folder, first.trainer, { best: 1.5, bestStep: 10, evaluationsSinceBest: 1 });
    const second = await start();
    expect(await restoreTraining(folder, second.trainer)).toEqual({
      best: 1.5,
      bestStep: 10,
      evaluationsSinceBest: 1,
    });
    const resumed: number[] = [];
    for (let i = 17; i < 30; i++) resumed.push((await second.trainer.step()).loss);
    expect(resumed).toEqual(losses.slice(17));
    expect(second.trainer.average!.weights.flat.view()).toEqual(whole.trainer.average!.weights.flat.view());
    expect(losses.at(-1)!).toBeLessThan(losses[0]!);
  });

  it("gives accumulated micro-batches the loss and gradient of one big batch, whatever the labels left out", async () => {
    const quiet = new Gpt2({ ...config, ...undropped });
    using weights = Weights.initialize(runtime, quiet, 3);
    const [big, small] = [weights.like(), weights.like()];
    const inputIds = tokens.slice(0, 64);
    const labels = tokens.slice(1, 65).map((label, i) => (i < 20 ? -100 : label));
    const objective = nextTokenObjective(quiet);
    const counts = { tokens: 44 };
    using step = await TrainingStep.create(objective, weights, big);
    using parts = await TrainingStep.create(objective, weights, small);
    const { tokens: whole } = await step.run(tokenBatch(inputIds, labels, [4, 16]), { counts });
    // Rows of 1, 2 and 1, so that the program meets another shape on the way.
    let total = 0;
    for (const [from, to] of [
      [0, 1],
      [1, 3],
      [3, 4],
    ] as const) {
      const cut = (data: Int32Array) => data.slice(from * 16, to * 16);
      const micro = tokenBatch(cut(inputIds), cut(labels), [to - from, 16]);
      total += (await parts.run(micro, { counts, accumulate: from > 0 }))["tokens"]!;
    }
    expect(total / 44).toBeCloseTo(whole! / 44, 5);
    const [a, b] = [big.flat.view(), small.flat.view()];
    expect(Math.max(...a.map((value, i) => Math.abs(value - b[i]!)))).toBeLessThan(1e-6);
  });

  it("averages the weights of its steps exponentially", async () => {
    const { weights, trainer } = await start();
    let expected = Array.from(weights.flat.view());
    for (let i = 0; i < 3; i++) {
      await trainer.step();
      const now = weights.flat.view();
      expected = expected.map((value, index) => 0.9 * value + 0.1 * now[index]!);
    }
    const average = trainer.average!.weights.flat.view();
    expect(Math.max(...expected.map((value, index) => Math.abs(value - average[index]!)))).toBeLessThan(1e-6);
  });

  it("stops at a loss that is not finite, naming step and gradient, and keeps the weights", async () => {
    const { weights, trainer } = await start();
    await trainer.step();
    const bad = weights.get("transformer.h.1.mlp.c_fc.weight").view();
    bad[0] = NaN;
    const before = weights.flat.view().slice();
    await expect(trainer.step()).rejects.toThrow(
      /step 2: the loss is NaN; the first value that is not finite is in the parameter transformer\.h\.1\.mlp\.c_fc\.weight\. The weights/,
    );
    expect(weights.flat.view()).toEqual(before);
    expect(trainer.state.step).toBe(1);
  });

  it("leaves weights and position alone when a step is aborted", async () => {
    const { weights, trainer } = await start();
    await trainer.step();
    const [before, state] = [weights.flat.view().slice(), trainer.state];
    await expect(trainer.step({ signal: AbortSignal.abort(new Error("enough")) })).rejects.toThrow("enough");
    expect(weights.flat.view()).toEqual(before);
    expect(trainer.state).toEqual(state);
  });

  it("keeps native memory flat over a thousand steps", async () => {
    const { trainer } = await start();
    for (let i = 0; i < 50; i++) await trainer.step();
    const native = runtime.allocatedBytes;
    expect(await laterGrowth(12, 250, () => trainer.step())).toBeLessThan(12);
    expect(runtime.allocatedBytes).toBe(native);
  });

  it("evaluates every token once, the last short batch included", async () => {
    using weights = Weights.initialize(runtime, new Gpt2({ ...config, ...undropped }), 3);
    const whole = await evaluatePerplexity(model, weights, tokens.slice(0, 150), {
      batchSize: 3,
      sequenceLength: 16,
    });
    const parts = await evaluatePerplexity(model, weights, tokens.slice(0, 150), {
      batchSize: 1,
      sequenceLength: 16,
    });
    expect(whole.tokens).toBe(149);
    expect(whole.loss).toBeCloseTo(parts.loss, 5);
  });
});

describe("a checkpoint folder", () => {
  it("lets one process in at a time", async () => {
    const lock = await lockFolder(folder);
    await expect(lockFolder(folder)).rejects.toThrow(
      new RegExp(`another process \\(number ${process.pid}\\) is training in .*lineage é-`),
    );
    await lock.release();
    await (await lockFolder(folder)).release();
  });

  it("keeps the old file when a write fails half-way", async () => {
    const { trainer } = await start();
    await saveTraining(folder, trainer, { evaluationsSinceBest: 0 });
    const file = path.join(folder, "training.safetensors");
    const before = await readFile(file);
    const { writeAtomically } = await import("../../src/base/files.js");
    const failing = (function* () {
      yield "half";
      throw Object.assign(new Error("no space"), { code: "ENOSPC" });
    })();
    await expect(writeAtomically(file, failing)).rejects.toThrow(/cannot write .*: the disk is full/);
    expect(await readFile(file)).toEqual(before);
  });
});
