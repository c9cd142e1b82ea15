import { Command, CommanderError } from "commander";
import { LineageError } from "../base/errors.js";
import { requireHere } from "../base/packages.js";
import { examples } from "./options.js";
import { colors, print, tell } from "./terminal.js";

const { version } = requireHere("lineage/package.json") as { readonly version: string };

type Commands = Readonly<Record<string, () => Promise<Command>>>;

/** The commands, by the groups and in the order of the help. */
const groups: Readonly<Record<string, Commands>> = {
  "Train:": {
    demo: async () => (await import("./demo.js")).demoCommand,
    train: async () => (await import("./train.js")).trainCommand,
    pretrain: async () => (await import("./pretrain.js")).pretrainCommand,
    data: async () => (await import("./data.js")).dataCommand,
    finetune: async () => (await import("./finetune.js")).finetuneCommand,
    align: async () => (await import("./align.js")).alignCommand,
  },
  "Use:": {
    generate: async () => (await import("./generate.js")).generateCommand,
    chat: async () => (await import("./chat.js")).chatCommand,
    transform: async () => (await import("./transform.js")).transformCommand,
    predict: async () => (await import("./predict.js")).predictCommand,
    infill: async () => (await import("./infill.js")).infillCommand,
    "fill-mask": async () => (await import("./fill-mask.js")).fillMaskCommand,
    embed: async () => (await import("./embed.js")).embedCommand,
    search: async () => (await import("./search.js")).searchCommand,
  },
  "Measure:": {
    evaluate: async () => (await import("./evaluate.js")).evaluateCommand,
    arena: async () => (await import("./arena.js")).arenaCommand,
    scaling: async () => (await import("./scaling.js")).scalingCommand,
    score: async () => (await import("./score.js")).scoreCommand,
    look: async () => (await import("./look.js")).lookCommand,
    inspect: async () => (await import("./inspect.js")).inspectCommand,
  },
  "Convert:": {
    convert: async () => (await import("./convert.js")).convertCommand,
    merge: async () => (await import("./merge.js")).mergeCommand,
    quantize: async () => (await import("./quantize.js")).quantizeCommand,
    export: async () => (await import("./export.js")).exportCommand,
  },
  "Hub:": {
    pull: async () => (await import("./pull.js")).pullCommand,
    list: async () => (await import("./list.js")).listCommand,
    rm: async () => (await import("./list.js")).rmCommand,
  },
};

const makeProgram = (): Command =>
  new Command("lineage")
    .description("Train, fine-tune and run Transformer language models.")
    .version(version, "--version", "print the version")
    // Options belong to the command that they stand after.
    .enablePositionalOptions()
    .exitOverride()
    .commandsGroup("Help:")
    .configureOutput({ writeOut: print, writeErr: tell, outputError: tellError })
    .addHelpText(
      "after",
      `
lineage COMMAND --help shows the options of a command, with examples.

A model is a folder (what train wrote, or one of Hugging Face), a .gguf file, or ORG/NAME on the hub, which is pulled.
Answers go to standard output, messages to standard error; --json prints JSON for programs.
Exit codes: 0 done, 1 failed (one sentence says why), 130 stopped by Ctrl-C.
Environment: LINEAGE_THREADS, LINEAGE_CACHE (folder of pulled models), HF_TOKEN, HF_ENDPOINT, NO_COLOR.
${examples(
  ["lineage demo", "train a small model on the embedded stories; it writes one"],
  ["lineage train --data my.txt --out runs/mine", "train on your own text"],
  ["lineage train --resume --out runs/mine", "continue after Ctrl-C, with the same losses"],
  ['lineage generate --model runs/mine --prompt "Once"', "continue a prompt"],
  ["lineage evaluate --model runs/mine --text held-out.txt", "perplexity; --tasks for accuracies"],
  [
    "lineage finetune --model DIR --task classify --data train.csv",
    "learn from labelled rows; then run lineage predict",
  ],
  ['lineage transform --model runs/de-en "Ein Hund rennt."', "translate, summarise, answer"],
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
  // them, and an unknown command is answered with the nearest.
  const [asked = ""] = args;
  const all = Object.entries(groups).flatMap(([group, commands]) =>
    Object.entries(commands).map(([name, load]) => ({ group, name, load })),
  );
  const named = all.filter(({ name }) => name === asked);
  const needed = asked === "--version" ? [] : named.length > 0 ? named : all;
  for (const [index, command] of (await Promise.all(needed.map(({ load }) => load()))).entries()) {
    program.addCommand(command.copyInheritedSettings(program).helpGroup(needed[index]!.group));
    for (const method of command.commands) method.copyInheritedSettings(program);
  }
  await program.parseAsync(args, { from: "user" });
}
