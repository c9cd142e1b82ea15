import { Argument, Command } from "commander";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { writeAtomically } from "../base/files.js";
import {
  type ComputeOptimal,
  type Estimate,
  type Fitted,
  type PowerLaw,
  computeOptimal,
  fitScaling,
  isoFlopChart,
  powerLawOptimal,
  predictedLoss,
  readScalingRuns,
} from "../evaluation/index.js";
import { examples, option } from "./options.js";
import { print } from "./terminal.js";

interface ScalingCommand {
  readonly budget?: number;
  readonly parameters?: number;
  readonly tokens?: number;
  readonly bootstrap: number;
  readonly out?: string;
  readonly json?: boolean;
}

const shown = ({ value, interval }: Estimate): string =>
  value.toFixed(3) + (interval ? ` (${interval.map((end) => end.toFixed(3)).join(" to ")})` : "");

const amount = (value: number): string => value.toExponential(2);

const sentence = (optimal: ComputeOptimal): string =>
  `${amount(optimal.parameters)} parameters, ${amount(optimal.tokens)} tokens`;

const lawLines = (name: string, law: Fitted<PowerLaw>, budget: number | undefined): string[] =>
  "missing" in law
    ? [`${name}  none: ${law.missing}`]
    : [
        `${name}  a ${shown(law.a)}, b ${shown(law.b)}, from ${law.points.length} optima`,
        ...(budget === undefined
          ? []
          : [`           at ${amount(budget)} FLOPs: ${sentence(powerLawOptimal(law, budget))}`]),
      ];

async function scaling(_action: string, places: readonly string[], command: ScalingCommand): Promise<void> {
  const { budget, parameters, tokens, bootstrap, out, json } = command;
  if ((parameters === undefined) !== (tokens === undefined))
    throw new LineageError("argument", "a prediction needs both --parameters and --tokens");
  const runs = await readScalingRuns(places);
  const fit = fitScaling(runs, { bootstrap });
  const { parametric, envelope, isoFlop } = fit;
  const optimal =
    budget === undefined
      ? undefined
      : {
          envelope: "missing" in envelope ? undefined : powerLawOptimal(envelope, budget),
          isoFlop: "missing" in isoFlop ? undefined : powerLawOptimal(isoFlop, budget),
          parametric: computeOptimal(parametric, budget),
        };
  const predicted =
    parameters !== undefined && tokens !== undefined
      ? { parameters, tokens, loss: predictedLoss(parametric, parameters, tokens) }
      : undefined;
  if (out !== undefined) await writeAtomically(out, [isoFlopChart(fit)]);
  if (json) {
    print(
      `${JSON.stringify({ runs: runs.length, envelope, isoFlop, parametric, optimal, predicted, out })}\n`,
    );
    return;
  }
  const { E, A, B, alpha, beta, a, b } = parametric;
  const lines = [
    `${runs.length} runs; N grows as C^a and D as C^b, with the 10th and 90th percentiles of fits to runs drawn again`,
    ...lawLines("envelope ", envelope, budget),
    ...lawLines("isoFLOP  ", isoFlop, budget),
    `parametric  a ${shown(a)}, b ${shown(b)}`,
    `           loss = ${E.value.toFixed(4)} + ${A.toPrecision(4)} / N^${alpha.value.toFixed(4)} + ${B.toPrecision(4)} / D^${beta.value.toFixed(4)}`,
    ...(optimal ? [`           at ${amount(budget!)} FLOPs: ${sentence(optimal.parametric)}`] : []),
    ...(predicted
      ? [
          `predicted loss of ${amount(predicted.parameters)} parameters after ${amount(predicted.tokens)} tokens: ${predicted.loss.toFixed(4)}`,
        ]
      : []),
    ...(out === undefined ? [] : [`wrote ${out}`]),
  ];
  print(`${lines.join("\n")}\n`);
}

const positive = z.number().positive();

export const scalingCommand = new Command("scaling")
  .description("fit a scaling law to training runs: compute-optimal size and data, the loss of a larger run")
  .addArgument(new Argument("<action>", "what to do").choices(["fit"]))
  .argument("<runs...>", "folders that train wrote, or tables with the columns parameters, tokens and loss")
  .addOption(
    option(
      "budget",
      "<flops>",
      "find the best size and amount of data for this compute, 6 parameters tokens",
      positive,
      {
        usual: "none",
      },
    ),
  )
  .addOption(
    option("parameters", "<n>", "predict the loss of a model of this size, with --tokens", positive, {
      usual: "none",
    }),
  )
  .addOption(option("tokens", "<n>", "tokens of the predicted run", positive, { usual: "none" }))
  .addOption(
    option(
      "bootstrap",
      "<n>",
      "fits to runs drawn with replacement, for the intervals; 0 for none",
      z.int().nonnegative().default(100),
    ),
  )
  .addOption(
    option("out", "<file>", "draw the isoFLOP curves as an SVG", z.string(), { usual: "no picture" }),
  )
  .option("--json", "one JSON object")
  .addHelpText(
    "after",
    `
Parameters include the embeddings. The three methods are those of Hoffmann et al. 2022.
${examples(
  ["lineage scaling fit runs/* --budget 1e18", "exponents, and the best model for a budget"],
  [
    "lineage scaling fit runs.csv --parameters 7e9 --tokens 1.4e11 --json",
    "predict a larger run's loss, for a program",
  ],
  ["lineage scaling fit runs/* --out isoflop.svg", "a picture of the isoFLOP curves"],
)}`,
  )
  .action(scaling);
