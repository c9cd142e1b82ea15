import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { PackedLoader, documentsIn, packDocuments, packedBatches, tokenBatch } from "../../src/data/index.js";
import { Gpt2, gpt2Config, Llama, llamaConfig } from "../../src/models/index.js";
import { type CausalLm, type RotaryScaling, Weights, rotaryReach } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import {
  EvaluationStep,
  Trainer,
  TrainingStep,
  restoreTraining,
  saveTraining,
} from "../../src/training/index.js";
import { nextTokenObjective, packedAnswersObjective, packedObjective } from "../../src/objectives/index.js";

const runtime = createRuntime();
const sizes = { vocabSize: 40, contextLength: 24, hiddenSize: 32, numLayers: 2, numHeads: 2 };
const documents = [7, 24, 3, 11, 5, 13, 2, 9, 16, 4].map((length, document) =>
  Int32Array.from({ length }, (_, i) => (document * 17 + i * i * 3 + i) % 40),
);

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage é-"));
});
afterAll(() => rm(folder, { recursive: true }));

describe("packed documents", () => {
  it.each<[string, CausalLm, boolean]>([
    ["GPT-2", new Gpt2(gpt2Config({ ...sizes, dropout: 0 })), false],
    ["LLaMA", new Llama(llamaConfig(sizes)), false],
    ["LLaMA, some tokens trained alone", new Llama(llamaConfig(sizes)), true],
  ])("have the loss and gradient that they have in rows of their own: %s", async (_, model, partly) => {
    const trains = (index: number) => !partly || index % 3 === 1;
    using weights = Weights.initialize(runtime, model, 2);
    const [alone, packed] = [weights.like(), weights.like()];
    // Each document in a row of its own, padded to the longest.
    const [rows, width] = [documents.length, 24];
    const [inputIds, labels] = [new Int32Array(rows * width), new Int32Array(rows * width).fill(-100)];
    documents.forEach((document, row) => {
      inputIds.set(document, row * width);
      document.forEach((id, index) => {
        if (index > 0 && trains(index)) labels[row * width + index - 1] = id;
      });
    });
    const count = labels.filter((label) => label !== -100).length;
    using one = await TrainingStep.create(nextTokenObjective(model), weights, alone);
    const { tokens: wanted } = await one.run(tokenBatch(inputIds, labels, [rows, width]));
    // The same ones in five rows of 24.
    const [a, b, c, d, e, f, g, h, i, j] = documents.map((tokens) =>
      partly ? { tokens, trained: Uint8Array.from(tokens, (_id, index) => Number(trains(index))) } : tokens,
    );
    const batch = packDocuments([[b!], [a!, f!, c!], [h!, d!, j!], [i!, e!, g!]], width);
    using two = await TrainingStep.create(packedObjective(model), weights, packed);
    const { tokens: found } = await two.run(batch);
    expect(batch.counts).toEqual({ tokens: count });
    expect(found! / wanted!).toBeCloseTo(1, 5);
    const difference = () => {
      const [x, y] = [alone.flat.view(), packed.flat.view()];
      return Math.max(...x.map((value, index) => Math.abs(value - y[index]!)));
    };
    expect(difference()).toBeLessThan(2e-6);
    // With logits at the places alone that predict something.
    packed.clear();
    using three = await TrainingStep.create(packedAnswersObjective(model), weights, packed);
    expect((await three.run(batch))["tokens"]! / wanted!).toBeCloseTo(1, 5);
    expect(difference()).toBeLessThan(2e-6);
  });

  it("may hold nothing to predict in a batch", async () => {
    const model = new Llama(llamaConfig(sizes));
    using weights = Weights.initialize(runtime, model, 2);
    using step = await EvaluationStep.create(packedAnswersObjective(model), weights);
    const batch = packDocuments([[], []], 8);
    expect(batch.counts).toEqual({ tokens: 0 });
    expect(await step.run(batch)).toEqual({ tokens: 0 });
  });

  it.each<[string, RotaryScaling]>([
    ["dynamic", { kind: "dynamic", factor: 4 }],
    [
      "LongRoPE",
      {
        kind: "longrope",
        shortFactors: Array.from({ length: 8 }, () => 1),
        longFactors: Array.from({ length: 8 }, (_, pair) => 1 + pair),
        originalContextLength: 8,
        attentionFactor: 1,
      },
    ],
  ])("share a row with those whose positions turn by the same angles alone: %s", async (_, ropeScaling) => {
    const model = new Llama(llamaConfig({ ...sizes, contextLength: 8, ropeScaling, initializerRange: 0.5 }));
    using weights = Weights.initialize(runtime, model, 2);
    using step = await EvaluationStep.create(packedObjective(model), weights);
    // Every document in a row of its own length.
    const alone = await step.evaluate(documents.map((tokens) => packDocuments([[tokens]], tokens.length)));
    const packed = async (groupOf?: (length: number) => number) =>
      (await step.evaluate(packedBatches(documents, { batchSize: 2, sequenceLength: 48, groupOf }))).loss;
    expect(await packed((length) => rotaryReach(model.config, length))).toBeCloseTo(alone.loss, 5);
    expect(Math.abs((await packed()) - alone.loss)).toBeGreaterThan(1e-3);
  });

  it("are each given once an epoch, and what is cut is counted", () => {
    const long = [...documents, Int32Array.from({ length: 30 }, () => 1), Int32Array.of(1)];
    const loader = new PackedLoader(long, { batchSize: 1, sequenceLength: 24, seed: 3 });
    expect([loader.cutDocuments, loader.cutTokens]).toEqual([1, 6]);
    let [counted, rows] = [0, 0];
    for (let batch = loader.next(); loader.state.epoch === 0; batch = loader.next()) {
      counted += batch.counts["tokens"]!;
      rows++;
    }
    expect(counted).toBe(documents.reduce((sum, { length }) => sum + length - 1, 0) + 23);
    expect(rows).toBeLessThan(8);
  });

  it("are found in a run of tokens, long ones in pieces that predict each token once", () => {
    const end = 39;
    const lengths = [5, 1, 24, 25, 60, 2];
    const whole = lengths.map((length) =>
      Uint16Array.from({ length }, (_, i) => (i === length - 1 ? end : i % 30)),
    );
    // The last one is not closed.
    const tokens = Uint16Array.from([...whole.flatMap((document) => [...document]), 7, 8, 9]);
    const { pieces, documents: count } = documentsIn(tokens, end, 24);
    expect(count).toBe(7);
    const predictions = (rows: readonly ArrayLike<number>[]) =>
      rows.flatMap((row) =>
        Array.from(row)
          .slice(1)
          .map((id, index) => [row[index], id]),
      );
    expect(predictions(pieces)).toEqual(predictions([...whole, Uint16Array.of(7, 8, 9)]));
    expect(pieces.every(({ length }) => length <= 24)).toBe(true);
    expect(pieces.length).toBe(10);
  });

  it("are evaluated on once, in batches of one shape", () => {
    const batches = [...packedBatches(documents, { batchSize: 3, sequenceLength: 24 })];
    expect(batches.map(({ tensors }) => tensors["inputIds"]!.shape)).toEqual(batches.map(() => [3, 24]));
    const counted = batches.reduce((sum, { counts }) => sum + counts["tokens"]!, 0);
    expect(counted).toBe(documents.reduce((sum, { length }) => sum + length - 1, 0));
    expect(batches.length).toBe(2);
  });

  it("goes on after a resume in the middle of an epoch, with accumulation and an average, bit for bit", async () => {
    const model = new Gpt2(gpt2Config({ ...sizes, dropout: 0.1 }));
    const start = async () => {
      const weights = Weights.initialize(runtime, model, 3);
      return Trainer.create({
        objective: packedObjective(model),
        weights,
        source: new PackedLoader(documents, { batchSize: 2, sequenceLength: 24, seed: 5 }),
        accumulation: 3,
        averageDecay: 0.9,
        seed: 9,
        schedule: () => 1e-2,
      });
    };
    const whole = await start();
    const losses: number[] = [];
    for (let i = 0; i < 12; i++) losses.push((await whole.step()).loss);
    const first = await start();
    for (let i = 0; i < 5; i++) await first.step();
    expect((first.state.source as { position: number }).position).toBeGreaterThan(0);
    await saveTraining(folder, first, { evaluationsSinceBest: 0 });
    const second = await start();
    await restoreTraining(folder, second);
    const resumed: number[] = [];
    for (let i = 5; i < 12; i++) resumed.push((await second.step()).loss);
    expect(resumed).toEqual(losses.slice(5));
    expect(second.kept.flat.view()).toEqual(whole.kept.flat.view());
    expect(second.weights.flat.view()).toEqual(whole.weights.flat.view());
  });
});
