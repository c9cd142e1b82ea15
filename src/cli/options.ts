import path from "node:path";
import { Option } from "commander";
import { z } from "zod";
import { checkedValue, either } from "../base/check.js";
import type { PreparedOptions } from "../checkpoints/index.js";
import { cacheFolder } from "../library/source.js";

type Schema = z.core.$ZodType;

/** A schema without what makes it optional, and the value that stands for a missing one. */
function opened(schema: Schema): { readonly inner: Schema; readonly fallback: unknown } {
  let fallback: unknown;
  let inner = schema;
  for (;;) {
    if (inner instanceof z.ZodDefault) fallback ??= inner.def.defaultValue;
    else if (!(inner instanceof z.ZodOptional)) return { inner, fallback };
    inner = inner.def.innerType;
  }
}

/** The name of an option as it is typed: `--learning-rate` for `learningRate`. */
export const flagOf = (name: string): string =>
  `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;

/** What was typed, by a schema. Throws `argument` with the option's name as it is typed. */
function parsed(flag: string, schema: Schema, text: string): unknown {
  const check = schema as z.ZodType;
  if (check.safeParse(text).success) return check.parse(text);
  const number = text.trim() === "" ? NaN : Number(text);
  return checkedValue(check, Number.isNaN(number) ? text : number, flag);
}

/** More about an option than its schema says. */
interface Hints {
  /** What happens where it is not given, when the schema does not know. */
  readonly usual?: string;
  /** It may be repeated: all its values. */
  readonly again?: boolean;
  /** The command, or the library, refuses to go on without it. */
  readonly required?: boolean;
}

/**
 * An option that a schema checks before anything is loaded. Its help shows the words that the schema allows and the
 * default. `value` is what stands for it in the help, such as `<n>`; none for a flag.
 */
function described(
  name: string,
  value: string | undefined,
  help: string,
  schema: Schema,
  hints: Hints,
): Option {
  const { inner, fallback } = opened(schema);
  const words = inner instanceof z.ZodEnum ? inner.options.map(String) : [];
  const usual = hints.usual ?? (value === undefined || fallback === undefined ? undefined : String(fallback));
  const note = hints.required ? " (required)" : usual === undefined ? "" : ` (default: ${usual})`;
  const text = `${help}${words.length > 0 ? `: ${either(words)}` : ""}${note}`;
  const flag = flagOf(name);
  const option = new Option(value === undefined ? flag : `${flag} ${value}`, text);
  if (value === undefined) return option;
  return option.argParser((typed: string, before: unknown) =>
    hints.again
      ? [...((before as unknown[] | undefined) ?? []), parsed(flag, inner, typed)]
      : parsed(flag, inner, typed),
  );
}

/** Options whose checks and defaults are the library's: what is not given stays open, and the library fills it in. */
export const libraryOptions =
  (shape: Readonly<Record<string, Schema>>) =>
  (name: string, value: string | undefined, help: string, hints: Hints = {}): Option =>
    described(name, value, help, shape[name]!, hints);

/** An option of the command line alone, with the schema's default where it is not given. */
export function option(
  name: string,
  value: string | undefined,
  help: string,
  schema: Schema = z.string(),
  hints: Hints = {},
): Option {
  const { inner, fallback } = opened(schema);
  const made = described(name, value, help, inner, hints);
  return fallback === undefined ? made : made.default(fallback, String(fallback));
}

const positive = z.int().positive();
/** A whole number above 0. */
export const countOption = (name: string, help: string, fallback?: number, hints: Hints = {}): Option =>
  option(name, "<n>", help, fallback === undefined ? positive : positive.default(fallback), hints);

/** An option that a command does not run without. */
export const requiredOption = (name: string, value: string, help: string): Option =>
  option(name, value, help, z.string(), { required: true }).makeOptionMandatory();

export const threadsOption = (): Option =>
  countOption("threads", "threads of the engine", undefined, {
    usual: "LINEAGE_THREADS, else one for each core",
  });
export const cacheOption = (): Option =>
  option("cache", "<folder>", "folder of pulled models", z.string().default(cacheFolder()));

/** Where the engine runs; a device is compared with the CPU before its first program. */
export const deviceOption = (): Option =>
  option("device", "<name>", "device that computes", z.enum(["cpu", "cuda"]), { usual: "cpu" });

const preparedFolder = (): string => path.join(cacheFolder(), "prepared");

export const preparedOption = (): Option =>
  new Option(
    "--no-prepared",
    `do not cache converted weights (default: they are cached in ${preparedFolder()})`,
  );

/**
 * How a command keeps prepared weights.
 * @param notes gets what is to be said of them at the end, when nothing else is being written
 */
export const preparedWeights = (wanted: boolean | undefined, notes: string[]): PreparedOptions | undefined =>
  wanted ? { folder: preparedFolder(), report: (sentence) => void notes.push(sentence) } : undefined;

/** Examples at the end of a command's help, each with what it does beneath. */
export const examples = (...lines: readonly (readonly [command: string, effect: string])[]): string =>
  `\nExamples:\n${lines.map(([command, effect]) => `  ${command}\n      ${effect}`).join("\n")}`;
