/**
 * PaLM 2 (Anil et al. 2023), section 2: how large a model and how much data a budget of compute should buy. Twenty small
 * PaLMs, five sizes for each of four budgets, are trained on the characters of Tiny Shakespeare; the three methods of Hoffmann et
 * al. 2022 find how the best size and the best amount of data grow with compute (PaLM 2: in equal proportions). The law then
 * predicts the loss of a run with four times the compute of any of them, at the size that it thinks best, and the run is made.
 *
 * The text is in characters: with a vocabulary of 65 the embeddings are a small part of a model of a few thousand parameters, and the
 * sizes of each budget lie on both sides of the best. With pieces of words they were most of the model, and the smallest size won
 * wherever anybody looked.
 *
 * It shows: the exponents of the size are 0.45, 0.60 and 0.45 by the three methods, and the larger run came to 1.880 where the law says 1.937.
 *
 *   node dist/recipes/palm2.js [--data FOLDER] [--out FOLDER] [--scale X] [--threads N] [--smoke]
 */
import { writeFileSync } from "node:fs";
import path from "node:path";
import {
  type Estimate,
  type ScalingRun,
  computeOptimal,
  fitScaling,
  isoFlopChart,
  powerLawOptimal,
  predictedLoss,
} from "../src/evaluation/index.js";
import { Palm, palmConfig } from "../src/models/index.js";
import { Weights, countParameters } from "../src/nn/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { trainDecoder } from "./decoders.js";
import { printTable, recipeOptions, shakespeareOrStories } from "./recipe.js";

const options = recipeOptions("palm2");
const { out, smoke, scale, threads } = options;
const setup = {
  /** Widths of two layers with heads of 8 channels; a budget's sizes are some of them. */
  widths: [8, 16, 24, 32, 48, 64, 96, 128],
  /** Floating-point operations of a run, 6 parameters tokens, and the widths that are tried with them. */
  budgets: [
    { compute: 1e10, widths: [8, 16, 24, 32, 48] },
    { compute: 3e10, widths: [8, 16, 24, 32, 48] },
    { compute: 9e10, widths: [16, 24, 32, 48, 64] },
    { compute: 2.7e11, widths: [16, 24, 32, 48, 64] },
  ].map(({ compute, widths }) => ({ compute: (smoke ? 1e-3 : scale) * compute, widths })),
  /** Compute of the larger run beside the largest budget. */
  larger: 4,
  batchSize: 4,
  sequenceLength: 64,
};
const { batchSize, sequenceLength } = setup;
const runtime = createRuntime({ threads });

const { name, text } = shakespeareOrStories(options);
const characters = [...new Set(text)].sort();
const idOf = new Map(characters.map((character, id) => [character, id]));
const ids = Int32Array.from(text, (character) => idOf.get(character)!);
const split = ids.length - (smoke ? 1000 : 40_000);
const tokens = { training: ids.subarray(0, split), heldOut: ids.subarray(split) };
console.log(`${name}: ${ids.length} characters, ${characters.length} of them different`);

const palmOf = (width: number): Palm =>
  new Palm(
    palmConfig({
      ...{ hiddenSize: width, numLayers: 2, numHeads: width / 8, headSize: 8 },
      ...{ vocabSize: characters.length, contextLength: sequenceLength },
    }),
  );
const sizeOf = (width: number): number => countParameters(palmOf(width));

async function run(width: number, compute: number): Promise<ScalingRun & { readonly seconds: number }> {
  const model = palmOf(width);
  const parameters = countParameters(model);
  const perStep = batchSize * sequenceLength;
  const steps = Math.max(2, Math.round(compute / (6 * parameters * perStep)));
  using weights = Weights.initialize(runtime, model, 1);
  const { points, seconds } = await trainDecoder({
    ...{ label: `${parameters} parameters, ${compute.toExponential(1)} FLOPs`, model, weights, tokens },
    ...{ steps, batchSize, sequenceLength, evalEvery: Math.max(1, Math.ceil(steps / 8)) },
    /** The narrower, the higher; the schedule of each run ends with its budget, without which the methods err. */
    learningRate: 0.06 / Math.sqrt(width),
  });
  const curve = points.map(({ step, loss }) => ({ tokens: step * perStep, loss }));
  return { parameters, tokens: steps * perStep, loss: curve.at(-1)!.loss, curve, seconds };
}

// ---- Twenty runs -------------------------------------------------------------------------------------------------------------

const runs: Awaited<ReturnType<typeof run>>[] = [];
const table = new Map<number, string[]>();
for (const [column, { compute, widths }] of setup.budgets.entries())
  for (const width of widths) {
    const one = await run(width, compute);
    runs.push(one);
    const row = table.get(one.parameters) ?? setup.budgets.map(() => "");
    row[column] = one.loss.toFixed(4);
    table.set(one.parameters, row);
  }
writeFileSync(
  path.join(out, "runs.csv"),
  `parameters,tokens,loss\n${runs.map((one) => `${one.parameters},${one.tokens},${one.loss}`).join("\n")}\n`,
);
printTable(
  ["parameters", ...setup.budgets.map(({ compute }) => `${compute.toExponential(1)} FLOPs`)],
  [...table].map(([parameters, row]) => [String(parameters), ...row]),
);

// ---- Three methods ------------------------------------------------------------------------------------------------------------

const fit = fitScaling(runs);
const { parametric, envelope, isoFlop } = fit;
const shown = ({ value, interval }: Estimate): string =>
  value.toFixed(2) + (interval ? ` (${interval.map((end) => end.toFixed(2)).join(" to ")})` : "");
const most = Math.max(...setup.budgets.map(({ compute }) => compute)) * setup.larger;
const size = (parameters: number): string => `${(parameters / 1e3).toFixed(0)}k`;
printTable(
  ["method", "a (parameters)", "b (tokens)", `best size at ${most.toExponential(1)} FLOPs`],
  [
    ...Object.entries({ envelope, isoFLOP: isoFlop }).map(([name, law]) =>
      "missing" in law
        ? [name, "-", "-", law.missing]
        : [name, shown(law.a), shown(law.b), size(powerLawOptimal(law, most).parameters)],
    ),
    [
      "parametric",
      shown(parametric.a),
      shown(parametric.b),
      size(computeOptimal(parametric, most).parameters),
    ],
  ],
);
writeFileSync(path.join(out, "isoflop.svg"), isoFlopChart(fit));

// ---- The prediction, and the run ----------------------------------------------------------------------------------------------

const best = computeOptimal(parametric, most).parameters;
const distance = (width: number): number => Math.abs(Math.log(sizeOf(width) / best));
const width = setup.widths.reduce((x, y) => (distance(y) < distance(x) ? y : x));
const larger = await run(width, most);
const predicted = predictedLoss(parametric, larger.parameters, larger.tokens);
const seconds = [...runs, larger].reduce((sum, one) => sum + one.seconds, 0);
console.log(
  `a run of ${larger.parameters} parameters and ${larger.tokens} tokens, ${setup.larger} times the largest budget: ` +
    `predicted ${predicted.toFixed(4)}, found ${larger.loss.toFixed(4)} (${((100 * (predicted - larger.loss)) / larger.loss).toFixed(1)}%); ` +
    `the best of the others ${Math.min(...runs.map(({ loss }) => loss)).toFixed(4)}; ${seconds.toFixed(0)} s of training`,
);
