import { Command } from "commander";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import {
  type FinetuneControl,
  crossValidate,
  finetune,
  finetuneOptions,
  holdsFolds,
  resumeCrossValidation,
  resumeFinetuning,
} from "../tasks/index.js";
import { createRuntime } from "../runtime/index.js";
import { modelFor } from "./model.js";
import { examples, libraryOptions, option, threadsOption } from "./options.js";
import { interruptible, progressObserver } from "./progress.js";
import { Reporter, colors, duration } from "./terminal.js";

interface FinetuneCommand {
  readonly out: string;
  readonly resume?: boolean;
  readonly folds?: number;
  readonly threads?: number;
  readonly json?: boolean;
  readonly [option: string]: unknown;
}

const shown = (metrics: Readonly<Record<string, number>>): string =>
  Object.entries(metrics)
    .map(([name, value]) => `${name} ${value.toFixed(4)}`)
    .join(", ");

async function runFinetuning({
  out,
  resume = false,
  folds,
  threads,
  json = false,
  ...options
}: FinetuneCommand) {
  const report = await Reporter.create(json);
  const runtime = createRuntime({ threads });
  const started = performance.now();
  try {
    await interruptible(async (signal) => {
      const control: FinetuneControl = {
        runtime,
        signal,
        onMessage: (message, data) => {
          report.say(message, data);
        },
        observer: progressObserver(report),
      };
      if (!resume) {
        for (const [option, example] of Object.entries({ model: "DIR", task: "classify", data: "train.csv" }))
          if (options[option] === undefined)
            throw new LineageError("argument", `finetune needs --${option}, such as --${option} ${example}`);
      }
      // A model that is not there is told before all data is read.
      const model = resume ? undefined : await modelFor(String(options["model"]), "fine-tuned");
      const given = { ...options, ...(model !== undefined && { model }), out } as never;
      if (resume ? holdsFolds(out) : folds !== undefined) {
        const {
          outcome,
          summary,
          folds: done,
          count,
        } = await (resume
          ? resumeCrossValidation(out, control)
          : crossValidate({ ...(given as object), folds } as never, control));
        if (outcome === "interrupted") {
          report.say(
            `stopped in fold ${done.length + 1} of ${count} and saved; go on with: lineage finetune --resume --out ${out}`,
            { outcome, done: done.length, folds: count },
          );
          return;
        }
        const lines = Object.entries(summary).map(
          ([name, { mean, deviation }]) => `  ${name} ${mean.toFixed(4)} ± ${deviation.toFixed(4)}`,
        );
        report.say(`${colors.green("done")}: ${done.length} folds in ${out}\n${lines.join("\n")}`, {
          summary,
        });
        return;
      }
      const result = await (resume ? resumeFinetuning(out, control) : finetune(given, control));
      const { outcome, step, metrics, confusion } = result;
      if (outcome === "interrupted") {
        report.say(
          `stopped after step ${step} and saved; go on with: lineage finetune --resume --out ${out}`,
          {
            outcome,
            step,
          },
        );
        return;
      }
      const seconds = (performance.now() - started) / 1000;
      if (!json && confusion) report.say(`\n${confusion}\n`);
      report.say(
        `${colors.green("done")} in ${duration(seconds)}${outcome === "stopped early" ? ", stopped early" : ""}: ${out} holds the best checkpoint, of step ${result.bestStep}: ${shown(metrics ?? {})}`,
        { ...result, seconds },
      );
    });
  } finally {
    report.done();
  }
}

const of = libraryOptions(finetuneOptions.shape);

export const finetuneCommand = new Command("finetune")
  .description("fine-tune an encoder on your own rows, and keep the best checkpoint")
  .optionsGroup("Data:")
  .addOption(of("task", "<name>", "what is learned"))
  .addOption(of("data", "<file>", "CSV, TSV, JSONL or Parquet to learn from, or SQuAD's JSON"))
  .addOption(of("eval", "<file>", "the same to evaluate on", { usual: "a share of --data is held out" }))
  .addOption(of("validation", "<p>", "share held out where there is no --eval"))
  .addOption(
    of("textColumn", "<name>", "column of the text", {
      usual: "text, sentence, question, …, or the longest",
    }),
  )
  .addOption(of("pairColumn", "<name>", "column of the second text"))
  .addOption(
    of("labelColumn", "<name>", "column of the label", { usual: "label, class, score, tags, answers, …" }),
  )
  .addOption(of("encoding", "<name>", "of the files, where it is not UTF-8"))
  .addOption(of("skipUnlabelled", undefined, "leave rows without a label out, and say so"))
  .addOption(of("skipBadRows", undefined, "leave rows that cannot be read out, and count them"))
  .addOption(
    of("maxLength", "<n>", "tokens of a text; longer ones are cut and counted", {
      usual: "the model's, 512 at most",
    }),
  )
  .addOption(of("stride", "<n>", "tokens that windows over a long context share"))
  .optionsGroup("Model:")
  .addOption(of("model", "<place>", "an encoder: its folder, or a hub's ORG/NAME"))
  .addOption(of("newHead", undefined, "begin a new head even where the checkpoint has one"))
  .addOption(of("freezeEmbeddings", undefined, "keep the embeddings as they are"))
  .addOption(of("freezeLayers", "<n>", "keep the embeddings and the first n layers as they are"))
  .optionsGroup("Training:")
  .addOption(of("epochs", "<n>", "passes over the rows"))
  .addOption(of("batch", "<n>", "rows of a step"))
  .addOption(of("accumulate", "<n>", "batches of a step"))
  .addOption(of("learningRate", "<x>", "peak of the schedule"))
  .addOption(of("warmup", "<p>", "share of the steps with a rising learning rate"))
  .addOption(of("schedule", "<name>", "of the learning rate"))
  .addOption(of("weightDecay", "<x>", "decay of matrices"))
  .addOption(of("layerDecay", "<x>", "factor of the learning rate from each layer to the one below"))
  .addOption(of("clip", "<x>", "limit of the gradient norm"))
  .addOption(of("classWeights", "<kind>", "balanced: rare classes weigh more"))
  .addOption(of("seed", "<n>", "everything random follows from it"))
  .optionsGroup("Evaluation:")
  .addOption(of("evalEvery", "<n>", "steps between evaluations", { usual: "once an epoch" }))
  .addOption(
    of("patience", "<n>", "end after this many evaluations without a better one", { usual: "never" }),
  )
  .addOption(
    of("metric", "<name>", "of the best checkpoint: accuracy, macroF1, f1, matthews, pearson, loss, …", {
      usual: "as fits the task",
    }),
  )
  .addOption(
    of(
      "threshold",
      "<p>",
      "probability from which the second of two classes, or any of more, is answered; auto: the best on the held-out rows",
      { usual: "the most probable class" },
    ),
  )
  .addOption(
    option(
      "folds",
      "<k>",
      "cross-validation: k runs, each measured on another share of the rows",
      z.int().min(2),
    ),
  )
  .optionsGroup("Run:")
  .option("--out <folder>", "checkpoint folder", "runs/finetuned")
  .option("--resume", "go on with the run in --out; its own options apply")
  .addOption(threadsOption())
  .option("--json", "one JSON object a line, for programs")
  .addHelpText(
    "after",
    examples(
      [
        "lineage finetune --model DIR --task classify --data train.csv --eval dev.csv",
        "columns text and label",
      ],
      [
        "lineage finetune --model DIR --task pair --data nli.tsv --folds 5",
        "two texts, five-fold cross-validation",
      ],
      ["lineage finetune --model DIR --task span --data train-v2.0.json", "question, context and answers"],
      ["lineage finetune --resume --out runs/finetuned", "go on after Ctrl-C, to the same losses"],
    ),
  )
  .action(runFinetuning);
