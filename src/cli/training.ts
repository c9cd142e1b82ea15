import type { Command, Option } from "commander";
import { z } from "zod";
import { type Device, createRuntime } from "../runtime/index.js";
import type { RunControl } from "../tasks/index.js";
import type { TrainingResult } from "../training/index.js";
import { type libraryOptions, option, threadsOption } from "./options.js";
import { interruptible, progressObserver } from "./progress.js";
import { Reporter, colors } from "./terminal.js";

// What `train`, `pretrain` and `finetune` have in common: a run in a folder, that is shown until it is done or stopped.

/** What a run is told on the command line that does not decide its losses. */
export interface RunCommand {
  readonly resume?: boolean;
  readonly json?: boolean;
  readonly threads?: number;
  readonly device?: Device;
}

/** Runs `body`, which Ctrl-C asks to stop and save, and shows what it tells. */
export async function shownRun<T>(
  { json = false, threads, device }: RunCommand,
  body: (control: Required<RunControl>, report: Reporter) => Promise<T>,
): Promise<T> {
  const report = await Reporter.create(json);
  try {
    const runtime = createRuntime({ threads, device });
    return await interruptible((signal) =>
      body(
        {
          runtime,
          signal,
          onMessage: (message, data) => {
            report.say(message, data);
          },
          observer: progressObserver(report),
        },
        report,
      ),
    );
  } finally {
    report.done();
  }
}

/** Options that are sizes of a model, by the field that each stands for. */
export const sizeOptions = {
  layers: "numLayers",
  hidden: "hiddenSize",
  heads: "numHeads",
  context: "contextLength",
} as const;

/** Says how a run ended, and how it goes on or what it has made. */
export function tellEnd(
  report: Reporter,
  {
    options: { patience },
    ...result
  }: TrainingResult & { readonly options: { readonly patience?: number | undefined } },
  {
    command,
    out,
    made,
  }: { readonly command: string; readonly out: string; readonly made: (bestLoss: number) => string },
): void {
  if (result.outcome === "interrupted") {
    report.say(
      `stopped after step ${result.step} and saved; continue with: lineage ${command} --resume --out ${out}`,
      { ...result },
    );
    return;
  }
  if (result.outcome === "stopped early")
    report.say(`stopped early: ${patience} evaluations without a better held-out loss`);
  report.say(`${colors.green("done")}: ${out} holds ${made(result.best ?? NaN)}`, { ...result });
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
    .addOption(
      of(
        "gradientCheckpointing",
        undefined,
        "compute layers again in the backward pass: less memory, more time",
      ),
    )
    .addOption(
      of(
        "batchRamp",
        "<rows>",
        "rows of a step that grow: 16,32@500 after step 500, or 16-64@2000000 evenly over so many tokens",
        { usual: "--batch times --accumulate" },
      ),
    )
    .addOption(of("steps", "<n>", "steps to train"))
    .addOption(of("learningRate", "<x>", "peak learning rate", { usual: usualLearningRate }))
    .addOption(of("warmup", "<n>", "warm-up steps, in which the learning rate rises", { usual: usualWarmup }))
    .addOption(of("weightDecay", "<x>", "weight decay of matrices", { usual: usualWeightDecay }))
    .addOption(of("clip", "<x>", "largest gradient norm"))
    .addOption(
      of(
        "skipSpikes",
        "<x>",
        "go back before a loss so many deviations too high and skip the batches, as PaLM did; 8 is a good start",
        { usual: "never" },
      ),
    );
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
