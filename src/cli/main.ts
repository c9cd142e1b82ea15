#!/usr/bin/env node
import { rm } from "node:fs/promises";
import { Command, InvalidArgumentError } from "commander";
import colors from "picocolors";
import { LineageError } from "../base/errors.js";
import { generateText } from "./generate.js";
import { exportOnnx } from "./export.js";
import { evaluateCheckpoint, train } from "./train.js";

const number = (text: string): number => {
  const value = Number(text);
  if (text.trim() === "" || Number.isNaN(value)) throw new InvalidArgumentError("it must be a number.");
  return value;
};
const list = (text: string, before: string[] = []): string[] => [...before, text];

const program = new Command("lineage")
  .description("Train Transformer language models and write with them, in TypeScript.")
  .addHelpText(
    "after",
    `
Examples:
  lineage demo                                              train on the embedded stories, then write one
  lineage train --data my.txt --out runs/mine               your own text
  lineage train --resume --out runs/mine                    go on after Ctrl-C, to the same losses
  lineage generate --checkpoint runs/mine --prompt "Once"   write
  lineage eval --checkpoint runs/mine --data held-out.txt   perplexity`,
  );

program
  .command("train")
  .description("train a GPT-2 from scratch on a text file")
  .option("--data <file>", 'UTF-8 text, or "stories" for the embedded corpus')
  .option("--out <folder>", "checkpoint folder", "runs/gpt2")
  .option("--resume", "go on with the run in --out; its own options apply")
  .option("--model <name>", "architecture", "gpt2")
  .option("--tokenizer <kind>", "bpe, characters, or a folder with a tokenizer", "bpe")
  .option("--vocab-size <n>", "tokens that bpe learns", number)
  .option("--layers <n>", "blocks", number)
  .option("--hidden <n>", "width of the hidden states", number)
  .option("--heads <n>", "attention heads", number)
  .option("--context <n>", "tokens that the model sees at once", number)
  .option("--dropout <p>", "probability", number)
  .option("--batch <n>", "rows of a micro-batch", number)
  .option("--accumulate <n>", "micro-batches of a step", number)
  .option("--steps <n>", "steps to train", number)
  .option("--learning-rate <x>", "peak of the schedule", number)
  .option("--warmup <n>", "steps of rising learning rate", number)
  .option("--schedule <name>", "constant, linear, cosine or inverse-root")
  .option("--weight-decay <x>", "decay of matrices", number)
  .option("--beta2 <x>", "AdamW's memory of squared gradients", number)
  .option("--clip <x>", "limit of the gradient norm", number)
  .option("--validation <p>", "share of the text that is held out", number)
  .option("--eval-every <n>", "steps between evaluations", number)
  .option("--ema <decay>", "evaluate and save the moving average of the weights", number)
  .option("--patience <n>", "end after this many evaluations without a better held-out loss", number)
  .option("--seed <n>", "everything random follows from it", number)
  .option("--threads <n>", "threads of the engine", number)
  .option("--json", "one JSON object a line, for programs")
  .action(async ({ out, resume, json, threads, model, ...options }: Record<string, unknown>) => {
    if (model !== "gpt2")
      throw new LineageError(
        "argument",
        `there is no architecture ${String(model)} yet; this version trains gpt2`,
      );
    if (!resume && options["data"] === undefined)
      throw new LineageError("argument", "train needs --data FILE, or --data stories");
    await train(options as { data: string }, { out, resume, json, threads } as never);
  });

program
  .command("generate")
  .description("continue a prompt")
  .requiredOption("--checkpoint <folder>", "what train wrote, or a GPT-2 of Hugging Face")
  .option("--prompt <text>", "what to continue", "")
  .option("--max-new-tokens <n>", "tokens to write at most", number, 200)
  .option("--temperature <x>", "0 takes the most probable token every time", number, 0.8)
  .option("--top-k <n>", "keep the k most probable tokens", number)
  .option("--top-p <p>", "keep the most probable tokens up to this probability", number)
  .option("--min-p <p>", "keep tokens this probable beside the first", number)
  .option("--repetition-penalty <x>", "above 1 avoids tokens seen before", number)
  .option("--frequency-penalty <x>", "subtracted for every time that a token was written", number)
  .option("--presence-penalty <x>", "subtracted from tokens that were written", number)
  .option("--stop <text>", "end before this text; may be given again", list)
  .option("--seed <n>", "the same seed writes the same text", number, 0)
  .option("--threads <n>", "threads of the engine", number)
  .option("--json", "one JSON object with the text and its counts")
  .action((options: unknown) => generateText(options as Parameters<typeof generateText>[0]));

program
  .command("eval")
  .description("loss and perplexity of a checkpoint on a text")
  .requiredOption("--checkpoint <folder>", "what train wrote")
  .requiredOption("--data <file>", "UTF-8 text")
  .option("--batch <n>", "rows evaluated at once", number, 8)
  .option("--threads <n>", "threads of the engine", number)
  .option("--json", "one JSON object")
  .action((options: unknown) => evaluateCheckpoint(options as Parameters<typeof evaluateCheckpoint>[0]));

program
  .command("export")
  .description("write a checkpoint as an ONNX model: inputIds [batch, sequence] -> logits")
  .requiredOption("--checkpoint <folder>", "what train wrote")
  .requiredOption("--out <file>", "model.onnx; large tensors go to model.onnx.data beside it")
  .action((options: unknown) => exportOnnx(options as Parameters<typeof exportOnnx>[0]));

program
  .command("demo")
  .description("the whole path in minutes: embedded stories, tokenizer, training, perplexity, a story")
  .option("--out <folder>", "checkpoint folder, replaced", "runs/demo")
  .option("--steps <n>", "steps to train", number, 1500)
  .action(async ({ out, steps }: { out: string; steps: number }) => {
    await rm(out, { recursive: true, force: true });
    await train(
      {
        data: "stories",
        vocabSize: 2048,
        steps,
        evalEvery: Math.max(1, Math.ceil(steps / 4)),
        learningRate: 2e-3,
        validation: 0.02,
      },
      { out },
    );
    process.stderr.write(`\n${colors.bold("A story by the model:")}\n\n`);
    await generateText({
      checkpoint: out,
      prompt: "Once upon a time, there was a",
      maxNewTokens: 110,
      temperature: 0.7,
      seed: 3,
    });
    process.stderr.write(
      `\nWrite more: npm run lineage -- generate --checkpoint ${out} --prompt "Long ago" --seed 4\n`,
    );
  });

/** One sentence and a non-zero exit for what a person can mend; the whole trace for a mistake of ours. */
program.parseAsync().catch((error: unknown) => {
  if (error instanceof LineageError && error.code !== "internal")
    process.stderr.write(`${colors.red("error")}: ${error.message}\n`);
  else if (error instanceof DOMException && error.name === "AbortError") process.stderr.write("stopped\n");
  else console.error(error);
  process.exitCode = 1;
});
