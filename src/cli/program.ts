import { readFileSync } from "node:fs";
import { Command } from "commander";
import { LineageError } from "../base/errors.js";
import { chatCommand } from "./chat.js";
import { convertCommand } from "./convert.js";
import { demoCommand } from "./demo.js";
import { embedCommand } from "./embed.js";
import { evalCommand } from "./eval.js";
import { exportCommand } from "./export.js";
import { fillMaskCommand } from "./fill-mask.js";
import { finetuneCommand } from "./finetune.js";
import { generateCommand } from "./generate.js";
import { inspectCommand } from "./inspect.js";
import { examples } from "./options.js";
import { predictCommand } from "./predict.js";
import { pretrainCommand } from "./pretrain.js";
import { pullCommand } from "./pull.js";
import { quantizeCommand } from "./quantize.js";
import { searchCommand } from "./search.js";
import { colors } from "./terminal.js";
import { trainCommand } from "./train.js";

/** As installed: the manifest lies three folders above the compiled file, in the repository as in the packed library. */
const { version } = JSON.parse(readFileSync(new URL("../../../package.json", import.meta.url), "utf8")) as {
  version: string;
};

const program = new Command("lineage")
  .description("Train Transformer language models and write with them, in TypeScript.")
  .version(version, "--version", "print the version")
  .addCommand(chatCommand)
  .addCommand(convertCommand)
  .addCommand(demoCommand)
  .addCommand(embedCommand)
  .addCommand(evalCommand)
  .addCommand(exportCommand)
  .addCommand(fillMaskCommand)
  .addCommand(finetuneCommand)
  .addCommand(generateCommand)
  .addCommand(inspectCommand)
  .addCommand(predictCommand)
  .addCommand(pretrainCommand)
  .addCommand(pullCommand)
  .addCommand(quantizeCommand)
  .addCommand(searchCommand)
  .addCommand(trainCommand)
  .addHelpText(
    "after",
    `
A run of its own: train learns a tokenizer and a model from a text and keeps both in one folder; every other command takes
that folder as --model. lineage COMMAND --help shows a command's options with examples. Every command takes --json for
programs, writes what it has to say to standard error, and ends with exit code 1 and one sentence when it cannot go on.
${examples(
  ["lineage demo", "train on the embedded stories, then write one"],
  ["lineage train --data my.txt --out runs/mine", "your own text"],
  ["lineage train --resume --out runs/mine", "go on after Ctrl-C, to the same losses"],
  ['lineage generate --model runs/mine --prompt "Once"', "write"],
  ["lineage eval --model runs/mine --data held-out.txt", "perplexity"],
  [
    "lineage finetune --model DIR --task classify --data train.csv",
    "learn from labelled rows; then lineage predict",
  ],
  ['lineage search notes "renewing a passport" --model DIR', "find passages by meaning"],
)}`,
  );

/** One sentence and a non-zero exit for what a person can mend; the whole trace for a mistake of ours. */
program.parseAsync().catch((error: unknown) => {
  if (error instanceof LineageError && error.code !== "internal")
    process.stderr.write(`${colors.red("error")}: ${error.message}\n`);
  else if (error instanceof DOMException && error.name === "AbortError") process.stderr.write("stopped\n");
  else console.error(error);
  process.exitCode = 1;
});
