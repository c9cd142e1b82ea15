/** What all recipes share: the options of their command lines, and how they print. */
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { type ParseArgsConfig, parseArgs } from "node:util";
import { writeAtomically } from "../src/base/files.js";
import { stories } from "../src/data/index.js";
import { type ChartOptions, type Curve, lossChart } from "../src/training/index.js";

export interface RecipeOptions {
  /** Folder of the real data; without it the embedded stories stand in. */
  readonly data: string;
  readonly out: string;
  /** Seconds instead of minutes: everything runs, nothing is learned. */
  readonly smoke: boolean;
  /** Factor of the numbers of steps. Default 1, some minutes on two free cores. */
  readonly scale: number;
  /** Threads of the engine. Default: the machine's cores. */
  readonly threads: number | undefined;
}

type OwnOptions = NonNullable<ParseArgsConfig["options"]>;
type OwnValues<Own extends OwnOptions> = ReturnType<typeof parseArgs<{ options: Own }>>["values"];

/**
 * Options of the command line: `--data FOLDER --out FOLDER --scale X --threads N --smoke`, and a recipe's own. Makes the
 * folder for what the recipe writes.
 */
export function recipeOptions<Own extends OwnOptions>(
  name: string,
  own: Own = {} as Own,
): RecipeOptions & OwnValues<Own> {
  const { values } = parsed({
    data: { type: "string" },
    out: { type: "string", default: `runs/${name}` },
    smoke: { type: "boolean", default: false },
    scale: { type: "string", default: "1" },
    threads: { type: "string" },
    help: { type: "boolean", default: false },
    ...own,
  });
  const given = values["data"];
  if (typeof given === "string" && given !== "stories" && !existsSync(given))
    refuse(`there is no folder ${given}; leave --data out for the embedded stories`);
  const { out, scale, threads } = values as { out: string; scale: string; threads?: string };
  for (const [option, value] of Object.entries({ scale, threads }))
    if (value !== undefined && !(Number(value) > 0))
      refuse(`--${option} must be a number above 0, not ${value}`);
  mkdirSync(out, { recursive: true });
  return {
    ...values,
    data: given ?? "../shared/data",
    threads: threads === undefined ? undefined : Number(threads),
    scale: Number(scale),
  } as RecipeOptions & OwnValues<Own>;
}

function parsed(options: OwnOptions) {
  try {
    const result = parseArgs({ options });
    if (!result.values["help"]) return result;
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    return refuse(error.message);
  }
  console.log(`Usage: ${usage(options)}

Shows the claim of a paper in small; docs/results.md says what came out.

  --data FOLDER  folder of the real data, or stories (default: ../shared/data if it is there, else the embedded stories)
  --out FOLDER   folder for models, tables and plots (default: ${String(options["out"]?.default)})
  --scale X      factor of the number of steps (default: 1, some minutes on two cores)
  --threads N    threads of the engine (default: one for each core)
  --smoke        run everything in seconds; nothing is learned
  --help         show this help`);
  process.exit(0);
}

const usage = (options: OwnOptions): string =>
  `node ${path.relative(".", process.argv[1]!)} ${Object.entries(options)
    .filter(([option]) => option !== "help")
    .map(([option, { type }]) => `[--${option}${type === "string" ? " X" : ""}]`)
    .join(" ")}`;

function refuse(sentence: string): never {
  console.error(`error: ${sentence}`);
  process.exit(1);
}

/** The plays of Tiny Shakespeare, or the embedded stories where the data folder has them not. */
export function shakespeareOrStories({ data, smoke }: RecipeOptions): { name: string; text: string } {
  const file = path.join(data, "tinyshakespeare.txt");
  return existsSync(file)
    ? { name: "Tiny Shakespeare", text: readFileSync(file, "utf8") }
    : { name: "stories", text: [...stories({ seed: 1, count: smoke ? 100 : 12_000 })].join("\n\n") };
}

/** Rows of a table under their header, in columns. */
export function printTable(header: readonly string[], rows: readonly (readonly string[])[]): void {
  const widths = header.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => row[column]!.length)),
  );
  const lineOf = (row: readonly string[]) =>
    row
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[column]!)))
      .join("  ");
  console.log(["", lineOf(header), ...rows.map(lineOf), ""].join("\n"));
}

/** Writes curves as a picture. */
export async function plot(
  file: string,
  title: string,
  curves: readonly Curve[],
  options?: ChartOptions,
): Promise<void> {
  await writeAtomically(file, [lossChart(title, curves, options)]);
  console.log(`wrote ${file}`);
}

export const percent = (share: number): string => `${(100 * share).toFixed(1)}%`;
export const millions = (count: number): string => `${(count / 1e6).toFixed(2)}M`;
