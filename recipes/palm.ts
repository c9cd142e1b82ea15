/**
 * PaLM (Chowdhery et al. 2022) on Tiny Shakespeare: parallel layers beside layers one after the other, and a spike of the loss survived.
 *
 * Two claims in miniature. Section 2, "Parallel Layers": attention and feed-forward layer that read one norm and are added together train
 * about 15% faster at large scales, and lose little quality in a model of 8B and none in one of 62B. Both networks here see the same
 * batches in the same order, and are trained as PaLM was (section 5): Adafactor without factorisation and with momentum, 1e-2 and steps
 * relative to the size of each parameter, a weight decay of the learning rate squared, a z-loss of 1e-4, and a batch that grows.
 *
 * Section 5.1: the loss spikes now and then, gradient clipping or not; going back to a checkpoint before the spike and skipping the batches
 * around it cures it. A small model gives no spikes of its own, so a stretch of batches is poisoned: its labels are random. Three runs have
 * the same batches: without the poison, with it, and with it while `spikes` watches the loss.
 *
 * Parallel layers lose nothing here: held-out loss 3.896 after 300 steps, serial layers 3.910. They are not faster on two cores, where
 * products do not run side by side (docs/speed.md). The spike is survived: 12 poisoned batches of 240 lift the held-out loss to 6.87, and
 * 120 steps later it is still 4.328, without them 4.237; the run that went back three times is at 4.238 and never above 4.68.
 *
 *   node dist/recipes/palm.js [--data FOLDER] [--out FOLDER] [--scale X] [--threads N] [--smoke]
 */
import { rm } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { Random } from "../src/base/random.js";
import { type Batch, type BatchSource, DataLoader, evaluationBatches } from "../src/data/index.js";
import { Palm, palmConfig } from "../src/models/index.js";
import { Weights, countParameters } from "../src/nn/index.js";
import { nextTokenObjective } from "../src/objectives/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { trainByteLevelBpe } from "../src/tokenizers/index.js";
import {
  type Curve,
  RunFolder,
  type Spike,
  Trainer,
  type TrainingRun,
  adafactor,
  batchRamp,
  evaluate,
  learningPlans,
  palmAdafactor,
  plannedSchedule,
  runTraining,
} from "../src/training/index.js";
import { millions, plot, printTable, recipeOptions, shakespeareOrStories } from "./recipe.js";

const options = recipeOptions("palm");
const { out, smoke, scale, threads } = options;
const steps = smoke ? 8 : Math.round(300 * scale);
const [batchSize, sequenceLength] = smoke ? [4, 32] : [8, 128];
const sizes = smoke
  ? { hiddenSize: 32, numLayers: 2, numHeads: 2 }
  : { hiddenSize: 192, numLayers: 6, numHeads: 6 };

const { name, text } = shakespeareOrStories(options);
const split = Math.floor(text.length * 0.95);
const tokenizer = trainByteLevelBpe([text.slice(0, split)], { vocabSize: smoke ? 300 : 1024 });
const training = Int32Array.from(tokenizer.encode(text.slice(0, split)));
const heldOut = Int32Array.from(tokenizer.encode(text.slice(split, smoke ? split + 2000 : undefined)));
const rows = { batchSize, sequenceLength };
console.log(`${name}: ${training.length} tokens to learn from, ${heldOut.length} held out`);

const runtime = createRuntime({ threads });
const objectiveOf = (model: Palm) => nextTokenObjective(model, { ...rows, zLoss: 1e-4 });
const learning = {
  optimizer: (weights: Weights, gradients: Weights) => adafactor(weights, gradients, palmAdafactor),
  schedule: plannedSchedule(learningPlans.palm, steps),
  clipNorm: 1,
  seed: 1,
};

// ---- Parallel and serial layers, the same batches ---------------------------------------------------------------------

const evalEvery = Math.max(1, Math.round(steps / 10));
// One micro-batch, after a fifth of the steps two.
const ramp = batchRamp(`${batchSize},${2 * batchSize}@${Math.round(steps / 5)}`, batchSize);
const networks = [];
for (const [label, parallelLayers] of [
  ["parallel", true],
  ["serial", false],
] as const) {
  const model = new Palm(
    palmConfig({ ...sizes, parallelLayers, vocabSize: tokenizer.vocabSize, contextLength: sequenceLength }),
  );
  const weights = Weights.initialize(runtime, model, 1);
  const objective = objectiveOf(model);
  const source = new DataLoader(training, { ...rows, seed: 1 }, name);
  const trainer = await Trainer.create({ objective, weights, source, accumulation: ramp, ...learning });
  const points: { step: number; loss: number }[] = [];
  networks.push({ label, model, weights, objective, trainer, points, seconds: 0, tokens: 0 });
}
for (let step = 1; step <= steps; step++)
  // In turns, so that what else the machine does slows both.
  for (const network of networks) {
    const { label, objective, trainer, weights, points } = network;
    const report = await trainer.step();
    network.seconds += report.seconds;
    network.tokens = report.tokensSeen;
    if (step % evalEvery !== 0 && step !== steps) continue;
    const { loss } = await evaluate(objective, weights, evaluationBatches(heldOut, rows));
    points.push({ step, loss });
    process.stderr.write(`${label}: step ${step} of ${steps}, held-out loss ${loss.toFixed(4)}\n`);
  }
const summary = networks.map(({ label, model, points, tokens, seconds }) => [
  `${label}, ${millions(countParameters(model))}`,
  points.at(-1)!.loss.toFixed(4),
  tokens.toLocaleString("en-US"),
  Math.round(tokens / seconds).toLocaleString("en-US"),
]);
for (const { trainer, weights } of networks) {
  trainer.dispose();
  weights.dispose();
}
printTable(["layers", "held-out loss", "tokens", "tokens/s"], summary);
await plot(path.join(out, "loss.svg"), `PaLM's layers on ${name}: held-out loss`, networks);

// ---- A spike ------------------------------------------------------------------------------------------------------------

const spikeSteps = smoke ? 60 : Math.round(240 * scale);
const spikeEvery = smoke ? 10 : 20;
/** Batches whose labels are random. */
const [poisonFrom, poisonTo] = [Math.round(spikeSteps * 0.45), Math.round(spikeSteps * 0.45) + 12];

/** Batches of a loader, of which a stretch has random labels. */
class Poisoned implements BatchSource {
  private readonly loader = new DataLoader(training, { ...rows, seed: 2 }, name);
  private read = 0;
  constructor(private readonly poisoned: boolean) {}

  next(): Batch {
    const batch = this.loader.next();
    const number = this.read++;
    if (this.poisoned && number >= poisonFrom && number < poisonTo) {
      const random = new Random(3).fork(number);
      const { data } = batch.tensors.labels;
      data.forEach((_, index) => (data[index] = random.integer(tokenizer.vocabSize)));
    }
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

const small = smoke ? sizes : { hiddenSize: 96, numLayers: 3, numHeads: 3 };
interface Run {
  readonly label: string;
  readonly poisoned: boolean;
  readonly spikes?: TrainingRun["spikes"];
}
const runs: readonly Run[] = [
  { label: "no poison", poisoned: false },
  { label: "poison", poisoned: true },
  { label: "poison, skipped", poisoned: true, spikes: { deviations: 8 } },
];
const trainingLosses: Curve[] = [];
const spikeRows: string[][] = [];
for (const { label, poisoned, spikes } of runs) {
  const folderName = path.join(out, label.replace(/\W+/g, "-"));
  await rm(folderName, { recursive: true, force: true });
  const folder = await RunFolder.open(folderName, z.object({}), { resume: false, given: {} });
  const model = new Palm(
    palmConfig({ ...small, vocabSize: tokenizer.vocabSize, contextLength: sequenceLength }),
  );
  using weights = Weights.initialize(runtime, model, 1);
  const objective = objectiveOf(model);
  const points: { step: number; loss: number }[] = [];
  const found: Spike[] = [];
  let [read, worst, last] = [0, 0, NaN];
  try {
    await runTraining({
      ...{ folder, objective, weights, source: new Poisoned(poisoned), spikes, ...learning },
      steps: spikeSteps,
      evalEvery: spikeEvery,
      evaluate: async (kept, { step }) => {
        const { loss } = await evaluate(objective, kept, evaluationBatches(heldOut, rows));
        if (step > poisonFrom) worst = Math.max(worst, loss);
        last = loss;
        return { loss };
      },
      save: () => Promise.resolve(),
      observer: {
        // In the order in which batches were read: steps that the run went back from as well.
        stepped: ({ loss }) => points.push({ step: ++read, loss }),
        spiked: (spike) => {
          found.push(spike);
          process.stderr.write(
            `${label}: spike at step ${spike.since}, back to step ${spike.backTo}, ${spike.skippedTokens} tokens skipped\n`,
          );
        },
      },
    });
  } finally {
    await folder.close();
  }
  trainingLosses.push({ label, points });
  spikeRows.push([
    label,
    worst.toFixed(4),
    last.toFixed(4),
    found.length === 0
      ? "-"
      : found.map(({ since, backTo }) => `step ${since}, back to ${backTo}`).join("; "),
    Math.round(
      found.reduce((sum, { skippedTokens }) => sum + skippedTokens, 0) / (batchSize * sequenceLength),
    ).toString(),
  ]);
}
printTable(
  [
    `${spikeSteps} steps, random labels in ${poisonTo - poisonFrom} batches`,
    "worst held-out loss after",
    "last",
    "spikes",
    "batches skipped",
  ],
  spikeRows,
);
await plot(path.join(out, "spike.svg"), `A spike on ${name}: training loss`, trainingLosses, {
  x: "batches read",
});
