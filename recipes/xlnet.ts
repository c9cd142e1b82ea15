/**
 * XLNet (Yang et al. 2019): permutation language modelling with memory on a long text.
 *
 * The claim in miniature (sections 2.3 and 2.4): a model that predicts tokens in random orders can carry the hidden states of
 * earlier segments along, as Transformer-XL does, and a long text then becomes easier to predict than segments on their
 * own. Two networks of one size read the same number of tokens of a novel under the same objective; one learns with the
 * memory of the segment before (two segments a row), the baseline without (one segment a row, twice the rows). On held-out
 * text both then predict the same tokens in the same orders, without memory and with the memory of three segments before.
 *
 * What came out, in two minutes of training (600 steps, 0.7 million tokens each): memory takes 0.037 nats off the loss of the
 * network that learned with it (5.204 to 5.167), and is in the way of the one that did not (5.128 to 5.172). The claim shows
 * within a network and not between them: rows of two segments hold fewer different texts, and cost more than memory gives back.
 * With a longer text and more steps (Tiny Shakespeare, 3,000 at 2e-3) they come out even: 4.186 and 4.238 with memory for seeds
 * 1 and 2, 4.238 and 4.186 without; within the networks memory's gain is 0.027 and 0.024.
 *
 *   node dist/recipes/xlnet.js [--data FOLDER with botchan.txt, default ../shared/data] [--out FOLDER] [--smoke]
 *
 * Without the folder, the embedded stories are the text.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { Random } from "../src/base/random.js";
import { stories, ExampleSource } from "../src/data/index.js";
import { compile, input, sum } from "../src/graph/index.js";
import { trainUnigram } from "../src/tokenizers/index.js";
import { xlnetConfig, xlnetForPretraining } from "../src/models/index.js";
import { Weights, countParameters } from "../src/nn/index.js";
import {
  type PermutationOptions,
  permutationBatch,
  permutationObjective,
  permutedSegment,
  targetsOf,
  vocabularyOf,
} from "../src/objectives/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { Trainer, lossChart, schedule } from "../src/training/index.js";
import { recipeOptions } from "./recipe.js";

const { smoke, data: folder, out, threads } = recipeOptions("xlnet");
const settings = {
  vocabSize: smoke ? 300 : 1500,
  hiddenSize: smoke ? 32 : 128,
  numLayers: smoke ? 1 : 3,
  numHeads: 4,
  /** Tokens of a segment; the first half goes on with the text and becomes memory. */
  sequenceLength: 48,
  reuseLength: 24,
  /** Segments of one step, in rows of two with memory and of one without. */
  segmentsPerStep: smoke ? 8 : 24,
  steps: smoke ? 10 : 600,
  learningRate: 1.5e-3,
  seed: 1,
};
const segment: PermutationOptions = settings;

// ---- Data: one long text -----------------------------------------------------------------------------------------

const file = path.join(folder, "botchan.txt");
const real = existsSync(file);
const text = real ? readFileSync(file, "utf8") : [...stories({ seed: 1, count: 400 })].join("\n\n");
const cut = Math.floor(text.length * 0.9);
const tokenizer = trainUnigram([text.slice(0, cut)], { vocabSize: settings.vocabSize, style: "xlnet" });
const vocabulary = vocabularyOf(tokenizer, {
  first: "<cls>",
  separator: "<sep>",
  padding: "<pad>",
  mask: "<mask>",
  startsWord: (token) => token.startsWith("▁"),
});
const [training, heldOut] = [text.slice(0, cut), text.slice(cut)].map((part) =>
  Int32Array.from(part.split(/\n\s*\n/).flatMap((paragraph) => tokenizer.encode(paragraph))),
) as [Int32Array, Int32Array];
console.log(
  `${real ? "botchan.txt" : "embedded stories"}: ${training.length} tokens to learn from, ${heldOut.length} held out`,
);

// ---- Training, with memory and without -------------------------------------------------------------------------------

const runtime = createRuntime({ threads });
const config = xlnetConfig({
  vocabSize: tokenizer.vocabSize,
  contextLength: settings.sequenceLength,
  hiddenSize: settings.hiddenSize,
  numLayers: settings.numLayers,
  numHeads: settings.numHeads,
  dropout: 0,
  reuseLength: settings.reuseLength,
  memoryLength: 3 * settings.reuseLength,
});

/** Rows of consecutive segments, each with an order of its own. */
function source(segments: number) {
  const stride = segments * settings.reuseLength;
  return new ExampleSource({
    batchSize: settings.segmentsPerStep / segments,
    seed: settings.seed,
    examples: (random) => {
      const offset = random.integer(stride);
      const count = Math.floor((training.length - settings.sequenceLength - offset) / stride);
      return Array.from({ length: count }, (_, index) => offset + index * stride);
    },
    transform: (start: number, random) =>
      Array.from({ length: segments }, (_, index) =>
        permutedSegment(
          training,
          start + index * settings.reuseLength,
          vocabulary,
          segment,
          random.fork(index),
        ),
      ),
    collate: permutationBatch,
  });
}

async function train(name: string, segments: number) {
  const model = xlnetForPretraining(config);
  const weights = Weights.initialize(runtime, model, settings.seed);
  using trainer = await Trainer.create({
    objective: permutationObjective(
      {
        model,
        segment: (inputs, context) => model.encoder.streams(inputs, context),
        losses: (hidden, labels) => model.head.losses(hidden, labels),
      },
      { ...segment, segments },
    ),
    weights,
    source: source(segments),
    seed: settings.seed,
    schedule: schedule("linear", {
      learningRate: settings.learningRate,
      warmupSteps: settings.steps / 10,
      totalSteps: settings.steps,
      minimum: 0,
    }),
  });
  const started = performance.now();
  const points: { step: number; loss: number }[] = [];
  let tokens = 0;
  let recent = 0;
  const every = Math.ceil(settings.steps / 20);
  for (let step = 1; step <= settings.steps; step++) {
    const report = await trainer.step();
    tokens += report.tokens;
    recent += report.loss / every;
    if (step % every === 0) {
      points.push({ step, loss: recent });
      recent = 0;
    }
  }
  const seconds = (performance.now() - started) / 1000;
  console.log(`  ${name}: ${settings.steps} steps, training loss ${points.at(-1)?.loss.toFixed(3)}`);
  return { name, model, weights, points, tokens, seconds };
}

// ---- Held-out loss of the same tokens, with and without the text before ------------------------------------------------

/** Segments whose loss is asked for, each after three that fill the memory. */
const before = 3;

async function heldOutLosses({ model, weights }: Awaited<ReturnType<typeof train>>) {
  const { sequenceLength } = settings;
  const inputs = Array.from({ length: before + 1 }, (_, index) => ({
    inputIds: input(`inputIds${index}`, "int32", ["batch", sequenceLength]),
    tokenTypeIds: input(`tokenTypeIds${index}`, "int32", ["batch", sequenceLength]),
    visible: input(`visible${index}`, "bool", ["batch", sequenceLength, sequenceLength]),
    targets: input(`targets${index}`, "int32", ["batch", targetsOf(segment)]),
  }));
  const labels = input("labels", "int32", ["batch", targetsOf(segment)]);
  let memory;
  for (const given of inputs.slice(0, before)) ({ memory } = model.encoder.streams({ ...given, memory }));
  const last = inputs[before]!;
  const loss = (states: { hidden: typeof labels }) => sum(model.head.losses(states.hidden, labels));
  using program = await compile(runtime, {
    with: loss(model.encoder.streams({ ...last, memory })),
    without: loss(model.encoder.streams(last)),
  });
  const random = new Random(settings.seed).fork("held out");
  const starts: number[] = [];
  const span = (before + 1) * settings.reuseLength;
  for (let start = 0; start + span + sequenceLength <= heldOut.length; start += settings.reuseLength)
    starts.push(start);
  const sums = { with: 0, without: 0, count: 0 };
  for (let first = 0; first < starts.length; first += 32) {
    const rows = starts
      .slice(first, first + 32)
      .map((start) =>
        Array.from({ length: before + 1 }, (_, index) =>
          permutedSegment(
            heldOut,
            start + index * settings.reuseLength,
            vocabulary,
            segment,
            random.fork(start).fork(index),
          ),
        ),
      );
    const given = Object.fromEntries(
      program.inputs.flatMap(({ name, dtype }) => {
        const found = /^(inputIds|tokenTypeIds|visible|targets)(\d)$/.exec(name);
        if (!found && name !== "labels") return [];
        const { tensors } = permutationBatch(rows.map((row) => [row[found ? Number(found[2]) : before]!]));
        const { data, shape } = tensors[found ? found[1]! : "labels"]!;
        return [[name, runtime.createTensor(dtype, [shape[0]!, ...shape.slice(2)], data)]];
      }),
    );
    const results = await program.run({ ...weights.tensors, ...given });
    for (const key of ["with", "without"] as const) sums[key] += Number((await results[key]!.read())[0]);
    sums.count += rows.length * targetsOf(segment);
    for (const tensor of [...Object.values(results), ...Object.values(given)]) tensor.dispose();
  }
  return { with: sums.with / sums.count, without: sums.without / sums.count, count: sums.count };
}

// ---- Figures ------------------------------------------------------------------------------------------------------

const runs = [await train("without memory", 1), await train("with memory", 2)];
console.log(
  `XLNet with ${countParameters(runs[0]!.model).toLocaleString("en-US")} parameters; each run reads ${runs[0]!.tokens.toLocaleString("en-US")} tokens`,
);
console.log(
  `\n${"trained".padEnd(18)}${"held out, alone".padStart(18)}${"with memory".padStart(16)}${"gain".padStart(10)}${"seconds".padStart(10)}`,
);
let counted = 0;
for (const run of runs) {
  const loss = await heldOutLosses(run);
  counted = loss.count;
  console.log(
    `${run.name.padEnd(18)}${loss.without.toFixed(4).padStart(18)}${loss.with.toFixed(4).padStart(16)}${(loss.without - loss.with).toFixed(4).padStart(10)}${run.seconds.toFixed(0).padStart(10)}`,
  );
}
console.log(
  `nats a predicted token over ${counted} of them; knowing nothing costs ${Math.log(tokenizer.vocabSize).toFixed(2)}`,
);
writeFileSync(
  path.join(out, "loss.svg"),
  lossChart(
    "Training loss by step, nats a predicted token",
    runs.map(({ name, points }) => ({ label: name, points })),
  ),
);
console.log(`${out}/loss.svg shows the training losses`);
