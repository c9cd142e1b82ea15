import { Command } from "commander";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import {
  type FinetuneResult,
  type FoldsResult,
  crossValidate,
  finetune,
  finetuneChat,
  finetuneChatOptions,
  finetuneOptions,
  finetuneText,
  finetuneTextOptions,
  holdsFolds,
  holdsChatRun,
  holdsTextRun,
  loraOptions,
  resumeChat,
  resumeCrossValidation,
  resumeFinetuning,
  resumeText,
} from "../tasks/index.js";
import { longFates, taskNames } from "../data/index.js";
import { parseOptions } from "../training/index.js";
import { modelFor } from "./model.js";
import { examples, flagOf, libraryOptions, option, threadsOption } from "./options.js";
import { addAdapterOptions, addChatOptions, tellChatRun } from "./chat-tuning.js";
import { type Reporter, colors, duration } from "./terminal.js";
import { addPairOptions, adapterUse, refuseOthers, tellTextRun } from "./text-pairs.js";
import { type RunCommand, shownRun } from "./training.js";

interface FinetuneCommand extends RunCommand {
  readonly out: string;
  readonly folds?: number;
  readonly [option: string]: unknown;
}

const shown = (metrics: Readonly<Record<string, number>>): string =>
  Object.entries(metrics)
    .map(([name, value]) => `${name} ${value.toFixed(4)}`)
    .join(", ");

const runFinetuning = ({ out, resume, folds, threads, json, ...options }: FinetuneCommand): Promise<void> =>
  shownRun({ threads, json }, async (control, report) => {
    const started = performance.now();
    const tellText = (result: Parameters<typeof tellTextRun>[1]) => {
      const seconds = (performance.now() - started) / 1000;
      tellTextRun(report, result, { command: "finetune", out, seconds });
    };
    if (resume && (await holdsTextRun(out))) return tellText(await resumeText(out, control));
    if (resume && (await holdsChatRun(out))) return tellChatRun(report, out, await resumeChat(out, control));
    if (resume)
      return holdsFolds(out)
        ? tellFolds(report, out, await resumeCrossValidation(out, control))
        : tellRun(report, out, await resumeFinetuning(out, control), started);
    for (const [option, example] of Object.entries({ model: "DIR", task: "classify", data: "train.csv" }))
      if (options[option] === undefined)
        throw new LineageError("argument", `finetune needs --${option}, such as --${option} ${example}`);
    const usual = options["task"] === "chat" ? "lora" : "none";
    if ((options["adapter"] ?? usual) === "none") refuseAdapterOptions(options);
    const { adapter } = options;
    if (usual === "none" && (adapter === "prompt" || adapter === "prefix"))
      throw new LineageError(
        "unsupported",
        `--adapter ${adapter} is for decoders that write: --task chat, and lineage train --base; take lora or qlora`,
      );
    if (options["task"] === "chat") {
      refuseOthers({ ...options, folds }, finetuneChatOptions.shape, "--task chat");
      const request = { ...options, model: await modelFor(String(options["model"])) };
      return tellChatRun(
        report,
        out,
        await finetuneChat({ ...parseOptions(finetuneChatOptions, request), out }, control),
      );
    }
    // A model that is not there is told before all data is read.
    const model = await modelFor(String(options["model"]), "fine-tuned");
    if (options["task"] === "text") {
      refuseOthers({ ...options, folds }, finetuneTextOptions.shape, "--task text");
      return tellText(
        await finetuneText({ ...parseOptions(finetuneTextOptions, { ...options, model }), out }, control),
      );
    }
    refuseOthers(options, finetuneOptions.shape, `--task ${String(options["task"])}`);
    const request = { ...parseOptions(finetuneOptions, { ...options, model }), out };
    if (folds === undefined) tellRun(report, out, await finetune(request, control), started);
    else tellFolds(report, out, await crossValidate({ ...request, folds }, control));
  });

/** Throws `argument` for an option of adapters where all weights learn. */
function refuseAdapterOptions(options: Readonly<Record<string, unknown>>): void {
  const given = Object.keys(loraOptions).find((name) => options[name] !== undefined);
  if (given !== undefined)
    throw new LineageError(
      "argument",
      `${flagOf(given)} is for an adapter, and here all weights learn; add --adapter lora, or leave it out`,
    );
}

function tellFolds(report: Reporter, out: string, { outcome, summary, folds, count }: FoldsResult): void {
  if (outcome === "interrupted") {
    report.say(
      `stopped in fold ${folds.length + 1} of ${count} and saved; continue with: lineage finetune --resume --out ${out}`,
      { outcome, done: folds.length, folds: count },
    );
    return;
  }
  const lines = Object.entries(summary).map(
    ([name, { mean, deviation }]) => `  ${name} ${mean.toFixed(4)} ± ${deviation.toFixed(4)}`,
  );
  report.say(`${colors.green("done")}: ${folds.length} folds in ${out}\n${lines.join("\n")}`, { summary });
}

function tellRun(report: Reporter, out: string, result: FinetuneResult, started: number): void {
  const { outcome, step, metrics, confusion, options } = result;
  if (outcome === "interrupted") {
    report.say(
      `stopped after step ${step} and saved; continue with: lineage finetune --resume --out ${out}`,
      {
        outcome,
        step,
      },
    );
    return;
  }
  const seconds = (performance.now() - started) / 1000;
  if (!report.json && confusion) report.say(`\n${confusion}\n`);
  const whole = options.adapter === "none";
  report.say(
    `${colors.green("done")} in ${duration(seconds)}${outcome === "stopped early" ? ", stopped early" : ""}: ${out} holds the best ${whole ? "checkpoint" : "adapter"} (step ${result.bestStep}): ${shown(metrics ?? {})}${whole ? "" : `; use it: lineage predict ${adapterUse(options, out)}`}`,
    { ...result, seconds },
  );
}

const of = libraryOptions(finetuneOptions.shape);
const taskName = z.enum([...taskNames, "text", "chat"]);

export const finetuneCommand = new Command("finetune")
  .description(
    "fine-tune an encoder or a decoder on a labelled table, an encoder-decoder on pairs of texts, or a decoder or an encoder-decoder on conversations",
  )
  .optionsGroup("Data:")
  .addOption(
    option(
      "task",
      "<name>",
      "what to learn; text: to write the target of each source; chat: to answer as in conversations",
      taskName,
      {
        required: true,
      },
    ),
  )
  .addOption(
    of("data", "<file>", "training rows: CSV, TSV, JSON, JSONL, Parquet, or SQuAD's JSON", {
      required: true,
    }),
  )
  .addOption(of("eval", "<file>", "rows to evaluate on", { usual: "a share of --data is held out" }))
  .addOption(
    of("validation", "<p>", "share of --data that is held out without --eval", {
      usual: "0.1; text and chat 0.05",
    }),
  )
  .addOption(
    of("textColumn", "<name>", "column of the text", {
      usual: "text, sentence, question, …, or the longest",
    }),
  )
  .addOption(of("pairColumn", "<name>", "column of the second text", { usual: "found by its name" }))
  .addOption(
    of("labelColumn", "<name>", "column of the label", { usual: "label, class, score, tags, answers, …" }),
  )
  .addOption(of("encoding", "<name>", "text encoding of the files", { usual: "UTF-8" }))
  .addOption(of("skipUnlabelled", undefined, "leave out rows without a label, and count them"))
  .addOption(of("skipBadRows", undefined, "leave out rows that cannot be read, and count them"))
  .addOption(
    of("maxLength", "<n>", "most tokens of a text; longer texts are cut and counted", {
      usual: "the model's, 512 at most",
    }),
  )
  .addOption(of("stride", "<n>", "tokens that two windows over a long context share"))
  .addOption(
    of(
      "bothOrders",
      undefined,
      "read each pair in both orders and add the answers, where the order says nothing (GPT-1's similarity)",
    ),
  )
  .addOption(
    option(
      "long",
      "<how>",
      "what becomes of a longer text or conversation; it is counted and told; split is for chat",
      z.enum(longFates),
      { usual: "cut" },
    ),
  )
  .optionsGroup("Model:")
  .addOption(
    of(
      "model",
      "<place>",
      "an encoder or a decoder, for text an encoder-decoder, for chat a decoder or an encoder-decoder: folder, ORG/NAME on the hub, or for chat a .gguf file",
      { required: true },
    ),
  )
  .addOption(of("newHead", undefined, "start with a new head even if the checkpoint has one"))
  .addOption(of("freezeEmbeddings", undefined, "do not train the embeddings"))
  .addOption(of("freezeLayers", "<n>", "do not train the embeddings and the first n layers"))
  .optionsGroup("Training:")
  .addOption(of("epochs", "<n>", "passes over the training rows"))
  .addOption(of("batch", "<n>", "rows in a batch"))
  .addOption(of("accumulate", "<n>", "batches in a step"))
  .addOption(
    of(
      "gradientCheckpointing",
      undefined,
      "compute layers again in the backward pass: less memory, more time",
    ),
  )
  .addOption(
    of("learningRate", "<x>", "peak learning rate", {
      usual: "5e-5; text 3e-4; chat 2e-5; of an adapter 5e-4; text 1e-3; chat 2e-4",
    }),
  )
  .addOption(of("warmup", "<p>", "share of the steps that are warm-up, in which the learning rate rises"))
  .addOption(of("schedule", "<name>", "schedule of the learning rate"))
  .addOption(of("weightDecay", "<x>", "weight decay of matrices"))
  .addOption(of("layerDecay", "<x>", "the learning rate of each layer is this times that of the layer above"))
  .addOption(of("clip", "<x>", "largest gradient norm"))
  .addOption(of("classWeights", "<kind>", "weights of the classes; balanced gives rare classes more weight"))
  .addOption(
    of("lmCoefficient", "<x>", "weight of the next-word loss beside the task's, for decoders", {
      usual: "0.5 for GPT-1, as published; else 0",
    }),
  )
  .addOption(of("seed", "<n>", "the same seed gives the same losses"))
  .optionsGroup("Evaluation:")
  .addOption(of("evalEvery", "<n>", "steps between evaluations", { usual: "once an epoch" }))
  .addOption(
    of("patience", "<n>", "stop after this many evaluations without a better one", { usual: "never" }),
  )
  .addOption(
    of(
      "metric",
      "<name>",
      "metric that chooses the best checkpoint: accuracy, macroF1, f1, matthews, pearson, loss, …",
      {
        usual: "accuracy, F1 or Pearson, by task",
      },
    ),
  )
  .addOption(
    of(
      "threshold",
      "<p>",
      "least probability to predict the second of two classes; with more classes, to predict any; auto finds the best on the held-out rows",
      { usual: "the most probable class" },
    ),
  )
  .addOption(
    option(
      "folds",
      "<k>",
      "cross-validation: k runs, each evaluated on another part of the rows",
      z.int().min(2),
      { usual: "off" },
    ),
  );
addAdapterOptions(
  finetuneCommand,
  "Adapter (a task's head learns whole beside it):",
  "lora for chat, else none",
);
addChatOptions(finetuneCommand);
addPairOptions(
  finetuneCommand,
  "Pairs of texts (--task text):",
  finetuneCommand.options.map((one) => one.attributeName()),
);
finetuneCommand
  .optionsGroup("Run:")
  .addOption(option("out", "<folder>", "checkpoint folder", z.string().default("runs/finetuned")))
  .option("--resume", "continue the run in --out, with its own options")
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
        "pairs of texts, five-fold cross-validation",
      ],
      [
        "lineage finetune --model runs/gpt1 --task regress --data sts.tsv --both-orders --lm-coefficient 0.5",
        "GPT-1's similarity of two texts, with its auxiliary loss",
      ],
      [
        "lineage finetune --model DIR --task span --data train-v2.0.json",
        "columns question, context and answers",
      ],
      [
        "lineage finetune --model t5-small --task text --data news.jsonl --source article --target summary --prefix 'summarize: '",
        "write summaries",
      ],
      [
        "lineage finetune --model DIR --task classify --data train.csv --adapter lora --rank 16",
        "an adapter and the head alone; use it with lineage predict --model DIR --adapter runs/finetuned",
      ],
      [
        "lineage finetune --model some.gguf --task chat --data chats.jsonl --adapter lora --rank 16",
        "conversations of any layout; talk with lineage chat --model some.gguf --adapter runs/finetuned",
      ],
      ["lineage finetune --resume --out runs/finetuned", "continue after Ctrl-C, with the same losses"],
    ),
  )
  .action(runFinetuning);
