import { InvalidArgumentError } from "commander";

/** An option's number. */
export function number(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || Number.isNaN(value)) throw new InvalidArgumentError("it must be a number.");
  return value;
}

/** An option that may be given again: all its values. */
export const list = (text: string, before: string[] = []): string[] => [...before, text];

/** Examples at the end of a command's help, each with what it does. */
export function examples(...lines: readonly (readonly [command: string, effect: string])[]): string {
  const width = Math.max(...lines.map(([command]) => command.length));
  return `\nExamples:\n${lines.map(([command, effect]) => `  ${command.padEnd(width)}   ${effect}`).join("\n")}`;
}
