import { monitorEventLoopDelay } from "node:perf_hooks";
import { expect, it } from "vitest";
import { tokenBatch } from "../../src/data/index.js";
import { Decoder } from "../../src/generation/index.js";
import { Gpt2, gpt2Config } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { TrainingStep } from "../../src/training/index.js";
import { nextTokenObjective } from "../../src/objectives/index.js";

const runtime = createRuntime();
const model = new Gpt2(
  gpt2Config({
    hiddenSize: 512,
    numLayers: 6,
    numHeads: 8,
    vocabSize: 4096,
    contextLength: 1024,
    dropout: 0,
  }),
);

/** Runs `work`; the longest time that the event loop stood still meanwhile, and how long it took, in milliseconds. */
async function longestDelay(work: () => Promise<unknown>): Promise<{ delay: number; elapsed: number }> {
  const histogram = monitorEventLoopDelay({ resolution: 1 });
  histogram.enable();
  const started = performance.now();
  await work();
  const elapsed = performance.now() - started;
  histogram.disable();
  return { delay: histogram.max / 1e6, elapsed };
}

it("the event loop stays free while a prompt is read", async () => {
  using weights = Weights.initialize(runtime, model, 1);
  using decoder = await Decoder.create({ model, weights, capacity: 1024 });
  const prompt = Array.from({ length: 1000 }, (_, i) => (i * 31) % 4096);
  const { delay, elapsed } = await longestDelay(() => decoder.read(decoder.open(), prompt));
  expect(elapsed).toBeGreaterThan(100);
  expect(delay).toBeLessThan(Math.max(50, elapsed / 3));
});

it("the event loop gets its turns between brief steps", async () => {
  const tiny = new Gpt2(
    gpt2Config({ hiddenSize: 32, numLayers: 1, numHeads: 2, vocabSize: 64, contextLength: 2048 }),
  );
  using weights = Weights.initialize(runtime, tiny, 1);
  using decoder = await Decoder.create({ model: tiny, weights });
  const slot = decoder.open();
  await decoder.read(slot, [1]);
  let turns = 0;
  const count = () => {
    turns++;
    timer = setImmediate(count);
  };
  let timer = setImmediate(count);
  const { elapsed } = await longestDelay(async () => {
    for (let i = 0; i < 2000; i++) await decoder.step([slot], [i % 64]);
  });
  clearImmediate(timer);
  // A turn for every 8 ms, and a step over that may take 10 more; half of it for a machine that does other work as well.
  expect(turns).toBeGreaterThan(elapsed / 36);
});

it("the event loop stays free while a training step runs", async () => {
  using weights = Weights.initialize(runtime, model, 1);
  using gradients = weights.like();
  using step = await TrainingStep.create(nextTokenObjective(model), weights, gradients);
  const inputIds = Int32Array.from({ length: 512 }, (_, i) => (i * 31) % 4096);
  const batch = tokenBatch(inputIds, inputIds, [2, 256]);
  const { delay, elapsed } = await longestDelay(() => step.run(batch));
  expect(elapsed).toBeGreaterThan(100);
  expect(delay).toBeLessThan(Math.max(50, elapsed / 3));
});
