import type { Command, Option } from "commander";
import { z } from "zod";
import { RunFolder, type TrainingResult } from "../training/index.js";
import { type libraryOptions, option, threadsOption } from "./options.js";
import { interruptible } from "./progress.js";
import { Reporter, colors } from "./terminal.js";

// What `train` and `pretrain` have in common: they make a model from nothing, in a folder, until they are done or stopped.

/** Options of a run from scratch that are kept beside its checkpoint. */
export const runShape = {
  layers: z.int().positive().default(4),
  hidden: z.int().positive().default(128),
  heads: z.int().positive().default(4),
  batch: z.int().positive().default(16),
  accumulate: z.int().positive().default(1),
  steps: z.int().positive().default(1000),
  /** Default: a tenth of the steps. */
  warmup: z.int().nonnegative().optional(),
  clip: z.number().positive().default(1),
  evalEvery: z.int().positive().default(250),
  /** Evaluations without a better held-out loss after which training ends. Default: never. */
  patience: z.int().positive().optional(),
  seed: z.int().nonnegative().default(1),
};

/** What a run is told that does not decide its losses. */
export interface RunCommand {
  readonly out: string;
  readonly resume?: boolean;
  readonly json?: boolean;
  readonly threads?: number;
}

/** A run in its folder: what decides it, where it reports, and what asks it to stop. */
export interface Run<Options> {
  readonly folder: RunFolder<Options>;
  readonly report: Reporter;
  readonly signal: AbortSignal;
}

/** Opens a run's folder, by the options `given` or by those in it, and runs `body` there until Ctrl-C asks it to save. */
export async function runInFolder<Options, Result>(
  schema: z.ZodType<Options>,
  given: unknown,
  { out, resume = false, json = false }: RunCommand,
  body: (run: Run<Options>) => Promise<Result>,
): Promise<Result> {
  const report = await Reporter.create(json);
  const folder = await RunFolder.open(out, schema, { resume, given });
  try {
    return await interruptible((signal) => body({ folder, report, signal }));
  } finally {
    report.done();
    await folder.close();
  }
}

/** Says how a run ended, and how it goes on or what it has made. */
export function tellEnd(
  {
    folder: { path, options },
    report,
  }: {
    readonly folder: { readonly path: string; readonly options: { readonly patience?: number | undefined } };
    readonly report: Reporter;
  },
  result: TrainingResult,
  { command, made }: { readonly command: string; readonly made: (bestLoss: number) => string },
): void {
  if (result.outcome === "interrupted") {
    report.say(
      `stopped after step ${result.step} and saved; continue with: lineage ${command} --resume --out ${path}`,
      { ...result },
    );
    return;
  }
  if (result.outcome === "stopped early")
    report.say(`stopped early: ${options.patience} evaluations without a better held-out loss`);
  report.say(`${colors.green("done")}: ${path} holds ${made(result.best ?? NaN)}`, { ...result });
}

/** Adds to a command's options those of how a model is trained and of the run. */
export function addRunOptions(
  command: Command,
  of: ReturnType<typeof libraryOptions>,
  {
    usualWarmup,
    usualLearningRate,
    usualWeightDecay,
    out,
    more = [],
  }: {
    readonly usualWarmup: string;
    readonly usualLearningRate?: string;
    readonly usualWeightDecay?: string;
    readonly out: string | undefined;
    readonly more?: readonly Option[];
  },
): Command {
  command
    .optionsGroup("Training:")
    .addOption(of("batch", "<n>", "rows in a micro-batch"))
    .addOption(of("accumulate", "<n>", "micro-batches in a step"))
    .addOption(of("steps", "<n>", "steps to train"))
    .addOption(of("learningRate", "<x>", "peak learning rate", { usual: usualLearningRate }))
    .addOption(of("warmup", "<n>", "warm-up steps, in which the learning rate rises", { usual: usualWarmup }))
    .addOption(of("weightDecay", "<x>", "weight decay of matrices", { usual: usualWeightDecay }))
    .addOption(of("clip", "<x>", "largest gradient norm"));
  for (const one of more) command.addOption(one);
  return command
    .addOption(of("evalEvery", "<n>", "steps between evaluations"))
    .addOption(
      of("patience", "<n>", "stop after this many evaluations without a better held-out loss", {
        usual: "never",
      }),
    )
    .addOption(of("seed", "<n>", "the same seed gives the same losses"))
    .optionsGroup("Run:")
    .addOption(
      out === undefined
        ? option("out", "<folder>", "checkpoint folder", z.string(), { usual: "runs/MODEL" })
        : option("out", "<folder>", "checkpoint folder", z.string().default(out)),
    )
    .option("--resume", "continue the run in --out, with its own options")
    .option("--json", "one JSON object a line, for programs")
    .addOption(threadsOption());
}
