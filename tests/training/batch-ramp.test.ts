import { describe, expect, it } from "vitest";
import { DataLoader } from "../../src/data/index.js";
import { Gpt2, gpt2Config } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { nextTokenObjective } from "../../src/objectives/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { type BatchRamp, Trainer, batchRamp } from "../../src/training/index.js";

const sizes = { hiddenSize: 16, numLayers: 1, numHeads: 2, vocabSize: 20, contextLength: 8 };
const runtime = createRuntime();

describe("a batch that grows", () => {
  it("grows after steps, as PaLM's: 512 sequences until step 50k, 1,024 until 115k, then 2,048", () => {
    const ramp = batchRamp("512,1024@50000,2048@115000", 32);
    const rows = (step: number) => 32 * ramp.microBatches(step, 0);
    expect([1, 50_000, 50_001, 115_000, 115_001, 255_000].map(rows)).toEqual([
      512, 512, 1024, 1024, 2048, 2048,
    ]);
    expect(ramp.most).toBe(64);
  });

  it("grows evenly over tokens, as GPT-3's, in whole micro-batches", () => {
    const ramp = batchRamp("16-64@4000000000", 16);
    const rows = [0, 1e9, 4e9 / 3 - 1, 4e9 / 3 + 1, 3e9, 4e9, 9e9].map(
      (seen) => 16 * ramp.microBatches(7, seen),
    );
    expect(rows).toEqual([16, 16, 16, 32, 48, 64, 64]);
  });

  it.each([
    ["", /not a list/],
    ["16@5", /not a list/],
    ["16,32", /not a list/],
    ["16,24@5", /24 rows are no multiple of the 16 rows/],
    ["16,32@9,64@9", /later and larger/],
    ["32,16@9", /later and larger/],
    ["64-16@100", /16 rows are not more than 64/],
    ["16-64@0", /some tokens/],
    ["0-64@9", /0 rows/],
    ["many", /write 16,32@500/],
  ])("refuses %j", (text, message) => {
    expect(() => batchRamp(text, 16)).toThrow(message);
  });

  const model = new Gpt2(gpt2Config({ ...sizes, dropout: 0.1 }));
  const tokens = Int32Array.from({ length: 500 }, (_, i) => (i * i + (i >> 2)) % 20);
  const start = async (accumulation: number | BatchRamp) => {
    const weights = Weights.initialize(runtime, model, 1);
    const source = new DataLoader(tokens, { batchSize: 2, sequenceLength: 8, seed: 1 });
    const trainer = await Trainer.create({
      ...{ objective: nextTokenObjective(model), weights, source, accumulation },
      ...{ schedule: () => 1e-2, seed: 1 },
    });
    return { weights, trainer };
  };
  const steps = async ({ trainer }: Awaited<ReturnType<typeof start>>, count: number) => {
    const reports = [];
    for (let i = 0; i < count; i++) reports.push(await trainer.step());
    return reports;
  };

  it("counts the tokens of every step, and goes on in the middle of its growth to bit-equal losses", async () => {
    // 16 tokens a micro-batch: 1 of them until 48 tokens have been read, 2 until 96, 3 then.
    const ramp = batchRamp("2-6@96", 2);
    const whole = await start(ramp);
    const reports = await steps(whole, 8);
    expect(reports.map(({ tokens: own }) => own)).toEqual([16, 16, 16, 32, 32, 48, 48, 48]);
    expect(reports.map(({ microBatches }) => microBatches)).toEqual([1, 1, 1, 2, 2, 3, 3, 3]);
    expect(reports.at(-1)!.tokensSeen).toBe(256);

    const first = await start(ramp);
    await steps(first, 4);
    const second = await start(ramp);
    const kept = structuredClone(first.trainer.state);
    second.weights.flat.write(first.weights.flat.view());
    for (const [name, state] of Object.entries(second.trainer.optimizer.state))
      for (const [key, tensor] of Object.entries(state.tensors))
        tensor.write(first.trainer.optimizer.state[name]!.tensors[key]!.view());
    second.trainer.restore(kept);
    const rest = await steps(second, 4);
    expect(rest.map(({ loss, tokensSeen }) => [loss, tokensSeen])).toEqual(
      reports.slice(4).map(({ loss, tokensSeen }) => [loss, tokensSeen]),
    );
  });

  it("takes the same steps as a constant batch while it has that size", async () => {
    const growing = await steps(await start(batchRamp("2,4@3", 2)), 3);
    const constant = await steps(await start(1), 3);
    // The same rows; dropout draws other numbers where a run may have more micro-batches.
    expect(growing.map(({ counts }) => counts)).toEqual(constant.map(({ counts }) => counts));
    expect(growing.map(({ tokensSeen }) => tokensSeen)).toEqual(constant.map(({ tokensSeen }) => tokensSeen));
  });
});
