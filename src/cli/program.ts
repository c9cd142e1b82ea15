import { Command, CommanderError } from "commander";
import { LineageError } from "../base/errors.js";
import { requireHere } from "../base/packages.js";
import { examples } from "./options.js";
import { colors, print, tell } from "./terminal.js";

const { version } = requireHere("lineage/package.json") as { readonly version: string };

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
  list: async () => (await import("./list.js")).listCommand,
  predict: async () => (await import("./predict.js")).predictCommand,
  pretrain: async () => (await import("./pretrain.js")).pretrainCommand,
  pull: async () => (await import("./pull.js")).pullCommand,
  quantize: async () => (await import("./quantize.js")).quantizeCommand,
  rm: async () => (await import("./list.js")).rmCommand,
  score: async () => (await import("./score.js")).scoreCommand,
  search: async () => (await import("./search.js")).searchCommand,
  train: async () => (await import("./train.js")).trainCommand,
};

const makeProgram = (): Command =>
  new Command("lineage")
    .description("Train Transformer language models and write with them, in TypeScript.")
    .version(version, "--version", "print the version")
    .exitOverride()
    .configureOutput({ writeOut: print, writeErr: tell, outputError: tellError })
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

/** Characters of an error: what a file from outside wrote into it may be long. */
const longestError = 2000;

function tellError(message: string): void {
  const text = message.replace(/^error: /, "").trimEnd();
  const shown =
    text.length > longestError ? `${text.slice(0, longestError)} … (${text.length} characters)` : text;
  tell(`${colors.red("error")}: ${shown}\n`);
}

/**
 * Runs one command to its end, with what it prints on standard output and standard error.
 * @param args as typed after `lineage`
 * @returns the exit code: 0, 1 with one sentence for what a person can mend, 130 after Ctrl-C
 */
export async function runCommand(args: readonly string[]): Promise<number> {
  const before = process.exitCode;
  process.exitCode = undefined;
  try {
    await parse(args);
  } catch (error) {
    // Help and the version end a command by an error of code 0.
    if (error instanceof CommanderError) return error.exitCode;
    if (error instanceof LineageError && error.code !== "internal") tellError(error.message);
    else if (error instanceof DOMException && error.name === "AbortError") tell("stopped\n");
    else tell(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
    process.exitCode ??= 1;
  }
  const code = Number(process.exitCode ?? 0);
  process.exitCode = before;
  return code;
}

async function parse(args: readonly string[]): Promise<void> {
  const program = makeProgram();
  // One command needs a part of the library, and loading all of it can take longer than the command. Help shows all of
  // them, and what is no command is answered with the nearest.
  const [asked = ""] = args;
  const needed =
    asked === "--version" ? [] : Object.hasOwn(commands, asked) ? [asked] : Object.keys(commands);
  for (const command of await Promise.all(needed.map((name) => commands[name]!())))
    program.addCommand(command.copyInheritedSettings(program));
  await program.parseAsync(args, { from: "user" });
}
