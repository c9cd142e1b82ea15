import { readFileSync } from "node:fs";
import { Command } from "commander";
import { LineageError } from "../base/errors.js";
import { examples } from "./options.js";
import { colors } from "./terminal.js";

/** As installed: the manifest lies three folders above the compiled file, in the repository as in the packed library. */
const { version } = JSON.parse(readFileSync(new URL("../../../package.json", import.meta.url), "utf8")) as {
  version: string;
};

const commands: Readonly<Record<string, () => Promise<Command>>> = {
  chat: async () => (await import("./chat.js")).chatCommand,
  convert: async () => (await import("./convert.js")).convertCommand,
  demo: async () => (await import("./demo.js")).demoCommand,
  embed: async () => (await import("./embed.js")).embedCommand,
  eval: async () => (await import("./eval.js")).evalCommand,
  export: async () => (await import("./export.js")).exportCommand,
  "fill-mask": async () => (await import("./fill-mask.js")).fillMaskCommand,
  finetune: async () => (await import("./finetune.js")).finetuneCommand,
  generate: async () => (await import("./generate.js")).generateCommand,
  inspect: async () => (await import("./inspect.js")).inspectCommand,
  predict: async () => (await import("./predict.js")).predictCommand,
  pretrain: async () => (await import("./pretrain.js")).pretrainCommand,
  pull: async () => (await import("./pull.js")).pullCommand,
  quantize: async () => (await import("./quantize.js")).quantizeCommand,
  score: async () => (await import("./score.js")).scoreCommand,
  search: async () => (await import("./search.js")).searchCommand,
  train: async () => (await import("./train.js")).trainCommand,
};

const program = new Command("lineage")
  .description("Train Transformer language models and write with them, in TypeScript.")
  .version(version, "--version", "print the version")
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

// One command needs a part of the library, and loading all of it can take longer than the command. Help shows all of
// them, and what is no command is answered with the nearest.
const asked = process.argv[2] ?? "";
const needed = asked === "--version" ? [] : Object.hasOwn(commands, asked) ? [asked] : Object.keys(commands);
for (const command of await Promise.all(needed.map((name) => commands[name]!()))) program.addCommand(command);

/** One sentence and a non-zero exit for what a person can mend; the whole trace for a mistake of ours. */
program.parseAsync().catch((error: unknown) => {
  if (error instanceof LineageError && error.code !== "internal")
    process.stderr.write(`${colors.red("error")}: ${error.message}\n`);
  else if (error instanceof DOMException && error.name === "AbortError") process.stderr.write("stopped\n");
  else console.error(error);
  process.exitCode = 1;
});
