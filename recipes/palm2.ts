/**
 * PaLM 2 (Anil et al. 2023), section 2: how large a model and how much data a budget of compute should buy. Twelve small
 * PaLMs, four sizes for each of three budgets, are trained on the embedded stories; the three methods of Hoffmann et al. 2022
 * find how the best size and the best amount of data grow with compute (PaLM 2: in equal proportions). The law then predicts
 * the loss of a run with more compute than any of them, and the run is made.
 *
 *   node dist/recipes/palm2.js [--out FOLDER] [--scale X] [--threads N] [--smoke]
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
import { storyTokens, trainDecoder } from "./decoders.js";
import { printTable, recipeOptions } from "./recipe.js";

const { out, smoke, scale, threads } = recipeOptions("palm2");
const setup = {
  /** Width by size; two layers of heads of 16 channels. */
  widths: [16, 32, 48, 80],
  /** Floating-point operations of a run, 6 parameters tokens. */
  budgets: (smoke ? [1e8, 2e8, 4e8] : [1e10, 3e10, 9e10]).map((budget) => budget * scale),
  /** The larger run: its width, and its compute beside the largest budget. */
  larger: { width: 80, factor: 2.5 },
  batchSize: 4,
  sequenceLength: 64,
};
const runtime = createRuntime({ threads });
const tokens = storyTokens({ count: smoke ? 400 : 12_000, vocabSize: 512, heldOut: smoke ? 0.02 : 0.003 });
const { vocabSize } = tokens.tokenizer;
const { batchSize, sequenceLength } = setup;

async function run(width: number, compute: number): Promise<ScalingRun & { readonly seconds: number }> {
  const model = new Palm(
    palmConfig({
      ...{ hiddenSize: width, numLayers: 2, numHeads: width / 16, headSize: 16 },
      ...{ vocabSize, contextLength: sequenceLength },
    }),
  );
  const parameters = countParameters(model);
  const perStep = batchSize * sequenceLength;
  const steps = Math.max(2, Math.round(compute / (6 * parameters * perStep)));
  using weights = Weights.initialize(runtime, model, 1);
  const { points, seconds } = await trainDecoder({
    ...{
      label: `${parameters} parameters, ${compute.toExponential(1)} FLOPs`,
      model,
      weights,
      tokens,
      steps,
    },
    ...{ batchSize, sequenceLength, evalEvery: Math.max(1, Math.ceil(steps / 8)) },
    /** The narrower, the higher; the schedule of each run ends with its budget, without which the methods err. */
    learningRate: 0.03 / Math.sqrt(width),
  });
  const curve = points.map(({ step, loss }) => ({ tokens: step * perStep, loss }));
  return { parameters, tokens: steps * perStep, loss: curve.at(-1)!.loss, curve, seconds };
}

// ---- Twelve runs -------------------------------------------------------------------------------------------------------------

const runs: Awaited<ReturnType<typeof run>>[] = [];
for (const budget of setup.budgets) for (const width of setup.widths) runs.push(await run(width, budget));
writeFileSync(
  path.join(out, "runs.csv"),
  `parameters,tokens,loss\n${runs.map((one) => `${one.parameters},${one.tokens},${one.loss}`).join("\n")}\n`,
);
printTable(
  ["parameters", ...setup.budgets.map((budget) => `${budget.toExponential(1)} FLOPs`)],
  setup.widths.map((_, size) => [
    String(runs[size]!.parameters),
    ...setup.budgets.map((_, budget) => runs[budget * setup.widths.length + size]!.loss.toFixed(4)),
  ]),
);

// ---- Three methods ------------------------------------------------------------------------------------------------------------

const fit = fitScaling(runs);
const { parametric, envelope, isoFlop } = fit;
const shown = ({ value, interval }: Estimate): string =>
  value.toFixed(2) + (interval ? ` (${interval.map((end) => end.toFixed(2)).join(" to ")})` : "");
const most = Math.max(...setup.budgets) * setup.larger.factor;
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

const larger = await run(setup.larger.width, most);
const predicted = predictedLoss(parametric, larger.parameters, larger.tokens);
const seconds = [...runs, larger].reduce((sum, one) => sum + one.seconds, 0);
console.log(
  `a run of ${larger.parameters} parameters and ${larger.tokens} tokens, ${setup.larger.factor} times the largest budget: ` +
    `predicted ${predicted.toFixed(4)}, found ${larger.loss.toFixed(4)} (${((100 * (predicted - larger.loss)) / larger.loss).toFixed(1)}%); ` +
    `the best of the twelve ${Math.min(...runs.map(({ loss }) => loss)).toFixed(4)}; ${seconds.toFixed(0)} s of training`,
);
