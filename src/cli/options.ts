import path from "node:path";
import { type Command, InvalidArgumentError, Option } from "commander";
import type { PreparedOptions } from "../checkpoints/index.js";
import { cacheFolder } from "../library/source.js";

/** An option's number. */
export function number(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || Number.isNaN(value)) throw new InvalidArgumentError("it must be a number.");
  return value;
}

/** A probability, or `auto` for one that is chosen. */
export function threshold(text: string): number | "auto" {
  return text === "auto" ? text : number(text);
}

const numeric = (flags: string, description: string): Option =>
  new Option(flags, description).argParser(number);

/** Adds to a command what everything that trains from scratch takes, in the order of its help. */
export function withTrainingOptions(command: Command): Command {
  const options = [
    new Option("--resume", "go on with the run in --out; its own options apply"),
    numeric("--layers <n>", "layers"),
    numeric("--hidden <n>", "width of the hidden states"),
    numeric("--heads <n>", "attention heads"),
    numeric("--dropout <p>", "probability"),
    numeric("--batch <n>", "rows of a micro-batch"),
    numeric("--accumulate <n>", "micro-batches of a step"),
    numeric("--steps <n>", "steps to train"),
    numeric("--learning-rate <x>", "peak of the schedule"),
    numeric("--warmup <n>", "steps of rising learning rate"),
    numeric("--weight-decay <x>", "decay of matrices"),
    numeric("--clip <x>", "limit of the gradient norm"),
    numeric("--eval-every <n>", "steps between evaluations"),
    numeric("--patience <n>", "end after this many evaluations without a better held-out loss"),
    numeric("--seed <n>", "everything random follows from it"),
    numeric("--threads <n>", "threads of the engine"),
    new Option("--json", "one JSON object a line, for programs"),
  ];
  for (const option of options) command.addOption(option);
  return command;
}

/** Where the engine runs; a device is compared with the CPU before its first program. */
export const deviceOption = (): Option =>
  new Option("--device <name>", "where the engine runs (default: cpu)").choices(["cpu", "webgpu", "cuda"]);

export const preparedOption = (): Option =>
  new Option(
    "--no-prepared",
    `prepare the weights anew: they are else kept in ${path.join(cacheFolder(), "prepared")} for the next start`,
  );

/**
 * How a command keeps prepared weights.
 * @param notes gets what is to be said of them at the end, when nothing else is being written
 */
export const preparedWeights = (wanted: boolean | undefined, notes: string[]): PreparedOptions | undefined =>
  wanted
    ? { folder: path.join(cacheFolder(), "prepared"), report: (sentence) => void notes.push(sentence) }
    : undefined;

/** An option that may be given again: all its values. */
export const list = (text: string, before: string[] = []): string[] => [...before, text];

/** Examples at the end of a command's help, each with what it does. */
export function examples(...lines: readonly (readonly [command: string, effect: string])[]): string {
  const width = Math.max(...lines.map(([command]) => command.length));
  return `\nExamples:\n${lines.map(([command, effect]) => `  ${command.padEnd(width)}   ${effect}`).join("\n")}`;
}
