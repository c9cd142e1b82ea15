import { Command, Option } from "commander";
import { LineageError } from "../base/errors.js";
import { taskNames } from "../data/index.js";
import {
  type FinetuneControl,
  crossValidate,
  finetune,
  holdsFolds,
  resumeCrossValidation,
  resumeFinetuning,
} from "../tasks/index.js";
import { createRuntime } from "../runtime/index.js";
import { examples, number, threshold } from "./options.js";
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
      const given = { ...options, out } as never;
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

export const finetuneCommand = new Command("finetune")
  .description("fine-tune an encoder on your own rows, and keep the best checkpoint")
  .option("--model <folder>", "an encoder: BERT, RoBERTa, ALBERT, ELECTRA, DeBERTa, XLM, XLNet, …")
  .addOption(
    new Option(
      "--task <name>",
      "classify a text; pair: classify two; regress to a number; tag words; span: find answers; choice among several",
    ).choices(taskNames),
  )
  .option("--data <file>", "CSV, TSV, JSONL or Parquet to learn from, or SQuAD's JSON")
  .option("--eval <file>", "the same to evaluate on; default: a tenth of --data is held out")
  .option("--out <folder>", "checkpoint folder", "runs/finetuned")
  .option("--resume", "go on with the run in --out; its own options apply")
  .option("--text-column <name>", "default: text, sentence, question, … by name, or the longest column")
  .option("--pair-column <name>", "column of the second text")
  .option("--label-column <name>", "default: label, class, score, tags, answers, … by name")
  .option("--encoding <name>", "of the files, where it is not UTF-8")
  .option("--skip-unlabelled", "leave rows without a label out, and say so")
  .option("--skip-bad-rows", "leave rows that cannot be read out, and count them")
  .option("--new-head", "begin a new head even where the checkpoint has one")
  .option("--epochs <n>", "passes over the rows (default: 3)", number)
  .option("--batch <n>", "rows of a step (default: 16)", number)
  .option("--accumulate <n>", "batches of a step", number)
  .option("--learning-rate <x>", "peak of the schedule (default: 5e-5)", number)
  .option("--warmup <p>", "share of the steps with a rising learning rate (default: 0.1)", number)
  .option("--schedule <name>", "linear, cosine or constant")
  .option("--weight-decay <x>", "decay of matrices", number)
  .option("--layer-decay <x>", "factor of the learning rate from each layer to the one below", number)
  .option("--freeze-embeddings", "keep the embeddings as they are")
  .option("--freeze-layers <n>", "keep the embeddings and the first n layers as they are", number)
  .addOption(
    new Option("--class-weights <kind>", "balanced: rare classes weigh more").choices(["none", "balanced"]),
  )
  .option(
    "--threshold <p>",
    "probability from which the second of two classes, or any of more, is answered; auto: the best on the held-out rows",
    threshold,
  )
  .option("--eval-every <n>", "steps between evaluations; default: once an epoch", number)
  .option("--patience <n>", "end after this many evaluations without a better one", number)
  .option("--metric <name>", "of the best checkpoint: accuracy, macroF1, f1, matthews, pearson, loss, …")
  .option("--validation <p>", "share held out where there is no --eval", number)
  .option("--folds <k>", "cross-validation: k runs, each measured on another share of the rows", number)
  .option("--max-length <n>", "tokens of a text; longer ones are cut and counted", number)
  .option("--stride <n>", "tokens that windows over a long context share", number)
  .option("--seed <n>", "everything random follows from it", number)
  .option("--threads <n>", "threads of the engine", number)
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
