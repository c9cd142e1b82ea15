import { InvalidArgumentError, Option } from "commander";

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

/** Where the engine runs; a device is compared with the CPU before its first program. */
export const deviceOption = (): Option =>
  new Option("--device <name>", "where the engine runs (default: cpu)").choices(["cpu", "webgpu", "cuda"]);

/** An option that may be given again: all its values. */
export const list = (text: string, before: string[] = []): string[] => [...before, text];

/** Examples at the end of a command's help, each with what it does. */
export function examples(...lines: readonly (readonly [command: string, effect: string])[]): string {
  const width = Math.max(...lines.map(([command]) => command.length));
  return `\nExamples:\n${lines.map(([command, effect]) => `  ${command.padEnd(width)}   ${effect}`).join("\n")}`;
}
