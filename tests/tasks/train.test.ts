import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { SafetensorsFile } from "../../src/formats/index.js";
import { train } from "../../src/tasks/index.js";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-train-"));
  await writeFile(
    path.join(folder, "text.txt"),
    "the cat sat on the mat and the dog sat on the log.\n".repeat(60),
  );
});
afterAll(() => rm(folder, { recursive: true }));

/** The losses of the first step and of the held-out text after it. */
async function firstStep(zLoss: number): Promise<{ training: number; heldOut: number }> {
  const out = path.join(folder, String(zLoss));
  const result = await train({
    system: "palm",
    data: path.join(folder, "text.txt"),
    sizes: { hiddenSize: 32, numLayers: 1, numHeads: 2, contextLength: 32 },
    vocabSize: 300,
    steps: 1,
    // Nothing moves, so that both runs evaluate the same weights.
    learningRate: 1e-30,
    zLoss,
    out,
  });
  const [line] = (await readFile(path.join(out, "metrics.jsonl"), "utf8")).split("\n");
  return { training: (JSON.parse(line!) as { loss: number }).loss, heldOut: result.best! };
}

const small = {
  system: "palm",
  sizes: { hiddenSize: 32, numLayers: 1, numHeads: 2, contextLength: 32 },
  vocabSize: 300,
} as const;

it("trains a PaLM as PaLM was trained: its Adafactor, a batch that grows, and a watch for spikes", async () => {
  const request = {
    ...small,
    data: path.join(folder, "text.txt"),
    optimizer: "palm",
    ...{ batch: 4, batchRamp: "4-12@800", skipSpikes: 8, steps: 12, evalEvery: 4 },
  } as const;
  const reports: { rate: number; tokens: number; seen: number }[] = [];
  const result = await train(
    { ...request, out: path.join(folder, "palm") },
    {
      observer: {
        stepped: ({ learningRate: rate, tokens, tokensSeen: seen }) => reports.push({ rate, tokens, seen }),
      },
    },
  );
  expect(result).toMatchObject({ outcome: "finished", step: 12, spikes: [] });
  // 128 tokens a micro-batch, one more after each half of 800 tokens.
  const micro = [1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3];
  expect(reports.map(({ tokens }) => tokens)).toEqual(micro.map((count) => 128 * count));
  expect(reports.at(-1)!.seen).toBe(128 * micro.reduce((sum, count) => sum + count));
  expect(new Set(reports.map(({ rate }) => rate))).toEqual(new Set([1e-2]));
  // Weights, a momentum and squared gradients, all of one size.
  const file = await SafetensorsFile.open(path.join(folder, "palm", "training.safetensors"));
  const elements = (prefix: string): number =>
    [...file.header.tensors]
      .filter(([name]) => name.startsWith(prefix))
      .reduce((sum, [, { shape }]) => sum + shape.reduce((size, dim) => size * dim, 1), 0);
  expect(elements("firstMoment/")).toBe(elements("weights/"));
  expect(elements("secondMoment/")).toBe(elements("weights/"));
  const run = JSON.parse(await readFile(path.join(folder, "palm", "run.json"), "utf8")) as object;
  expect(run).toMatchObject({ optimizer: "palm", batchRamp: "4-12@800", skipSpikes: 8 });
});

it.each([
  [{ batchRamp: "4,6@3" }, /6 rows are no multiple of the 4 rows of a micro-batch/],
  [{ batchRamp: "4,8@3", accumulate: 2 }, /leave --accumulate out/],
  [{ skipSpikes: 0 }, /wrong options: skipSpikes/],
])("refuses %j before it reads anything", async (options, message) => {
  const out = path.join(folder, "refused");
  await expect(
    train({ ...small, data: path.join(folder, "none.txt"), batch: 4, ...options, out }),
  ).rejects.toThrow(message);
});

it("a z-loss is part of what trains, and not of the held-out loss", async () => {
  const [without, one, two] = [await firstStep(0), await firstStep(0.5), await firstStep(1)];
  expect(one.training).toBeGreaterThan(without.training + 1);
  // The square of the log-normaliser, once for each half.
  expect(two.training - one.training).toBeCloseTo(one.training - without.training, 3);
  expect(one.heldOut).toBe(without.heldOut);
});
