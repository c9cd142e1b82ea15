import { Command } from "commander";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import type { SystemName } from "../models/index.js";
import {
  pretrain,
  pretrainOptions,
  pretrainSizes,
  pretrainedSystems,
  resumePretraining,
} from "../tasks/index.js";
import { parseOptions } from "../training/index.js";
import { examples, libraryOptions, option } from "./options.js";
import { type RunCommand, addRunOptions, shownRun, sizeOptions, tellEnd } from "./training.js";

const names = pretrainedSystems.map(({ name }) => name);
const of = libraryOptions(pretrainOptions.shape);
const { shape } = pretrainSizes;
const sizes = { ...sizeOptions, dropout: "dropout" } as const;
const size = libraryOptions(
  Object.fromEntries(Object.entries(sizes).map(([option, field]) => [option, shape[field]])),
);

interface PretrainArguments extends RunCommand {
  readonly out: string;
  readonly model?: SystemName<"encoder" | "encoder-decoder">;
  readonly [option: string]: unknown;
}

export const pretrainCommand = new Command("pretrain")
  .description("pretrain an encoder or an encoder-decoder from scratch on its own objective")
  .optionsGroup("Data:")
  .addOption(
    option(
      "data",
      "<file>",
      'UTF-8 text, or "stories" for the embedded corpus; of several languages language=file; may be repeated',
      z.string(),
      { again: true, required: true },
    ),
  )
  .addOption(
    option(
      "parallel",
      "<files>",
      "translations for XLM, one sentence a line: en=train.en,de=train.de; may be repeated",
      z.string(),
      { again: true },
    ),
  )
  .addOption(
    of(
      "exponent",
      "<x>",
      "T5, mT5, MASS, BART: languages are sampled by their share of the text to this power",
      { usual: "mT5 0.3, the others 1" },
    ),
  )
  .addOption(of("validation", "<p>", "share of the documents that is held out"))
  .addOption(of("tokenizer", "<folder>", "folder of a tokenizer", { usual: "one is trained on the data" }))
  .addOption(of("vocabSize", "<n>", "tokens of the vocabulary that is learned"))
  .optionsGroup("Model:")
  .addOption(option("model", "<name>", "architecture", z.enum(names), { required: true }))
  .addOption(size("context", "<n>", "context length in tokens"))
  .addOption(size("layers", "<n>", "number of layers"))
  .addOption(size("hidden", "<n>", "width of the hidden states"))
  .addOption(size("heads", "<n>", "attention heads"))
  .addOption(size("dropout", "<p>", "dropout probability"));
addRunOptions(pretrainCommand, of, {
  usualWarmup: "a tenth of the steps",
  usualLearningRate: "1e-3; adafactor 1e-2",
  usualWeightDecay: "0.01; adafactor 0",
  out: "runs/encoder",
  more: [
    of(
      "optimizer",
      "<name>",
      "optimizer; adamw8bit keeps AdamW's moments in 8 bits, paged in a file of --out; adafactor with steps relative to a parameter's size, as T5 trained",
    ),
    of("schedule", "<name>", "schedule of the learning rate"),
  ],
})
  .addHelpText(
    "after",
    examples(
      ["lineage pretrain --model bert --data my.txt --out runs/bert", "masked tokens and next sentence"],
      ["lineage pretrain --resume --out runs/bert", "continue after Ctrl-C, with the same losses"],
      [
        "lineage pretrain --model xlm --data en=a.en --data de=a.de --parallel en=b.en,de=b.de",
        "two languages and their translations",
      ],
      [
        "lineage pretrain --model mt5 --data en=a.en --data ja=a.ja --optimizer adafactor",
        "hidden spans in languages that are sampled by their share to the power 0.3",
      ],
    ),
  )
  .action(async ({ out, resume, json, threads, model, ...options }: PretrainArguments) => {
    if (!resume && model === undefined)
      throw new LineageError("argument", `pretrain needs --model, one of ${names.join(", ")}`);
    if (!resume && options["data"] === undefined)
      throw new LineageError(
        "argument",
        "pretrain needs --data FILE, or --data stories for the embedded corpus",
      );
    const given = Object.fromEntries(
      Object.entries(sizes).map(([option, field]) => [field, options[option]]),
    );
    await shownRun({ json, threads }, async (control, report) => {
      const result = await (model === undefined || resume
        ? resumePretraining(out, control)
        : pretrain(
            {
              ...parseOptions(pretrainOptions, { ...options, system: model, sizes: given }),
              system: model,
              out,
            },
            control,
          ));
      tellEnd(report, result, {
        command: "pretrain",
        out,
        made: (best) => `the model (best held-out loss ${best.toFixed(4)}), its tokenizer and loss.svg`,
      });
    });
  });
