import { mkdtemp, readFile, readdir, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { z } from "zod";
import { type Batch, type BatchSource, DataLoader, evaluationBatches } from "../../src/data/index.js";
import { Gpt2, gpt2Config } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { nextTokenObjective } from "../../src/objectives/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import {
  RunFolder,
  type Spike,
  SpikeWatch,
  type TrainingRun,
  evaluate,
  runTraining,
} from "../../src/training/index.js";

const runtime = createRuntime();
const model = new Gpt2(
  gpt2Config({ hiddenSize: 16, numLayers: 1, numHeads: 2, vocabSize: 20, contextLength: 8, dropout: 0.1 }),
);
const tokens = Int32Array.from({ length: 4000 }, (_, i) => (i * 7) % 20);
const shape = { batchSize: 4, sequenceLength: 8 };
const schema = z.object({ name: z.string() });

let parent = "";
beforeAll(async () => {
  parent = await mkdtemp(path.join(os.tmpdir(), "lineage é-"));
});
afterAll(() => rm(parent, { recursive: true }));

/** Batches of a loader, of which those numbered in `poisoned` have one wrong answer for every token. */
class PoisonedSource implements BatchSource {
  private readonly loader = new DataLoader(tokens, { ...shape, seed: 1 });
  private read = 0;
  /** Numbers of the batches that were given, in order. */
  readonly given: number[] = [];

  constructor(private readonly poisoned: (batch: number) => boolean) {}

  next(): Batch {
    const batch = this.loader.next();
    const number = this.read++;
    this.given.push(number);
    if (this.poisoned(number)) batch.tensors.labels.data.fill(3);
    return batch;
  }
  get state(): unknown {
    return { read: this.read, loader: this.loader.state };
  }
  restore(state: unknown): void {
    const { read, loader } = state as { read: number; loader: unknown };
    this.read = read;
    this.loader.restore(loader);
  }
}

interface Asked {
  readonly poisoned?: (batch: number) => boolean;
  readonly resume?: boolean;
  readonly stopAfter?: number;
  readonly options?: Partial<TrainingRun>;
}

/** Trains in a folder of that name for 100 steps, evaluating every 20; what it told. */
async function train(
  name: string,
  { poisoned = () => false, resume = false, stopAfter, options }: Asked = {},
) {
  const folder = await RunFolder.open(path.join(parent, name), schema, { resume, given: { name } });
  const controller = new AbortController();
  const losses: [step: number, loss: number][] = [];
  const spikes: Spike[] = [];
  const source = new PoisonedSource(poisoned);
  const objective = nextTokenObjective(model);
  try {
    using weights = Weights.initialize(runtime, model, 1);
    const result = await runTraining({
      ...{ folder, objective, weights, source, seed: 1 },
      schedule: () => 1e-2,
      steps: 100,
      evalEvery: 20,
      evaluate: async (kept) => {
        const { loss } = await evaluate(objective, kept, evaluationBatches(tokens.subarray(0, 400), shape));
        return { loss };
      },
      save: () => Promise.resolve(),
      spikes: { deviations: 8 },
      signal: controller.signal,
      observer: {
        stepped: ({ step, loss }) => {
          losses.push([step, loss]);
          if (step === stopAfter) controller.abort();
        },
        spiked: (spike) => spikes.push(spike),
      },
      ...options,
    });
    return { result, losses, spikes, given: source.given, weights: Float32Array.from(weights.flat.view()) };
  } finally {
    await folder.close();
  }
}

const records = async (name: string) =>
  (await readFile(path.join(parent, name, "metrics.jsonl"), "utf8"))
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { step: number; loss?: number; spike?: Spike });

describe("a spike of the loss", () => {
  const poisoned = (batch: number): boolean => batch >= 70 && batch < 85;

  it("is survived: the run goes back to the last checkpoint before it, and skips the batches since then", async () => {
    const { result, losses, spikes, given } = await train("spike", { poisoned });
    expect(result.outcome).toBe("finished");
    // Batch 70 is step 71's. Three steps make it certain, the last checkpoint is of step 60.
    expect(spikes[0]).toMatchObject({ since: 71, step: 73, backTo: 60, skippedTokens: 13 * 32 });
    expect(spikes[0]!.loss!).toBeGreaterThan(2 * spikes[0]!.level);
    // More poison follows: going back from there skips twice as many.
    expect(spikes).toHaveLength(2);
    expect(spikes[1]!.skippedTokens).toBe(2 * 32 * (spikes[1]!.step - spikes[1]!.backTo!));
    expect(result.spikes).toEqual(spikes);
    // No batch is read twice, the poisoned ones included; all steps are taken.
    expect(given).toEqual(given.map((_, index) => index));
    expect(given).toHaveLength(100 + spikes.reduce((sum, { skippedTokens }) => sum + skippedTokens / 32, 0));
    const final = Object.fromEntries(losses);
    const clean = Object.fromEntries((await train("clean")).losses);
    expect(final[100]!).toBeLessThan(1.2 * clean[100]! + 0.05);
    // Without watching, the poison has been learned.
    const poisonedRun = await train("unwatched", { poisoned, options: { spikes: undefined, steps: 86 } });
    expect(poisonedRun.losses.at(-1)![1]).toBeGreaterThan(3 * final[86]!);
    // metrics.jsonl tells each step of the run that stands once, and the spike.
    const lines = await records("spike");
    expect(lines.flatMap(({ step, loss }) => (loss === undefined ? [] : [step]))).toEqual(
      Array.from({ length: 100 }, (_, index) => index + 1),
    );
    expect(lines.flatMap(({ spike }) => spike ?? [])).toEqual(spikes);
    // A run that is done keeps no checkpoints to go back to.
    expect((await readdir(path.join(parent, "spike"))).filter((name) => name.includes(".step-"))).toEqual([]);
  });

  it.each([
    ["before it", 65],
    ["in it", 72],
    ["after it", 90],
  ])("leads to bit-equal losses where the run is interrupted %s", async (where, stopAfter) => {
    const whole = await train(`whole ${where}`, { poisoned });
    const first = await train(`stopped ${where}`, { poisoned, stopAfter });
    expect(first.result.outcome).toBe("interrupted");
    const second = await train(`stopped ${where}`, { poisoned, resume: true });
    expect([...first.losses, ...second.losses]).toEqual(whole.losses);
    expect(second.weights).toEqual(whole.weights);
    expect(second.result.spikes).toEqual(whole.result.spikes);
    const plain = (lines: readonly object[]) => lines.map((line) => ({ ...line, seconds: 0 }));
    expect(plain(await records(`stopped ${where}`))).toEqual(plain(await records(`whole ${where}`)));
  });

  it("that is not finite is gone back from at once, and its batch is skipped too", async () => {
    // A learning rate without end in step 31 leaves weights that are no numbers: step 32's loss is none.
    let broken = false;
    const schedule = (step: number): number => {
      if (step !== 31 || broken) return 1e-2;
      broken = true;
      return Infinity;
    };
    const { result, spikes, given } = await train("nan", { options: { schedule } });
    expect(result).toMatchObject({ outcome: "finished", step: 100 });
    expect(spikes).toMatchObject([{ since: 32, step: 32, loss: null, backTo: 20, skippedTokens: 12 * 32 }]);
    expect(given.filter((batch) => batch === 31)).toHaveLength(2); // Read, given back, and skipped.
    expect(Math.max(...given)).toBe(111);
  });

  it("that comes again whatever is skipped ends the run in the end, with its last checkpoint", async () => {
    const schedule = (step: number): number => (step === 31 ? Infinity : 1e-2);
    await expect(train("always", { options: { schedule } })).rejects.toMatchObject({
      code: "diverged",
      message: expect.stringMatching(/step 32: the loss is NaN.*keeps the checkpoint of step 20/) as string,
    });
  });
});

describe("the watch for spikes", () => {
  const watched = (losses: readonly number[], options = { deviations: 8 }) => {
    const watch = new SpikeWatch(options);
    return losses.map((loss, index) => watch.see(index + 1, loss));
  };
  const noisy = (count: number) => Array.from({ length: count }, (_, i) => 2 + 0.1 * Math.sin(i * 12.9898));

  it("finds none in a falling loss, in noise, and in one or two high steps", () => {
    const falling = Array.from({ length: 200 }, (_, i) => 2 + 6 * Math.exp(-i / 30) + 0.2 * Math.sin(i * 7));
    expect(watched(falling).filter(Boolean)).toEqual([]);
    expect(watched([...noisy(50), 9, 9, ...noisy(50)]).filter(Boolean)).toEqual([]);
  });

  it("finds a loss that stays high at its third step, and tells where it began and the level before it", () => {
    const found = watched([...noisy(40), 5, 6, 7]);
    expect(found.filter(Boolean)).toHaveLength(1);
    const sorted = noisy(40).sort((a, b) => a - b);
    expect(found.at(-1)).toEqual({ since: 41, step: 43, loss: 7, level: (sorted[19]! + sorted[20]!) / 2 });
  });

  it("goes back further where going back twice was no help, and on through the spike in the end", () => {
    const watch = new SpikeWatch({ deviations: 8 });
    const spike = { since: 50, step: 52 };
    const targets = Array.from({ length: 6 }, () => watch.target(spike, [20, 40, 60]));
    expect(targets).toEqual([40, 40, 20, 20, 20, undefined]);
    expect(watch.target({ since: 90, step: 92 }, [60, 80])).toBe(80);
  });
});
