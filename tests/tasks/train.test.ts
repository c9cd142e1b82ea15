import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
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

it("a z-loss is part of what trains, and not of the held-out loss", async () => {
  const [without, one, two] = [await firstStep(0), await firstStep(0.5), await firstStep(1)];
  expect(one.training).toBeGreaterThan(without.training + 1);
  // The square of the log-normaliser, once for each half.
  expect(two.training - one.training).toBeCloseTo(one.training - without.training, 3);
  expect(one.heldOut).toBe(without.heldOut);
});
