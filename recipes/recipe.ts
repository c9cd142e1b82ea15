/** What all recipes share: the options of their command lines, and how they print. */
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { type ParseArgsConfig, parseArgs } from "node:util";
import { writeAtomically } from "../src/base/files.js";
import { stories } from "../src/data/index.js";
import { type Curve, lossChart } from "../src/training/index.js";

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
  const { values } = parseArgs({
    options: {
      data: { type: "string", default: "../shared/data" },
      out: { type: "string", default: `runs/${name}` },
      smoke: { type: "boolean", default: false },
      scale: { type: "string", default: "1" },
      threads: { type: "string" },
      ...own,
    },
  });
  const { out, scale, threads } = values as { out: string; scale: string; threads?: string };
  mkdirSync(out, { recursive: true });
  return {
    ...values,
    threads: threads === undefined ? undefined : Number(threads),
    scale: Number(scale),
  } as RecipeOptions & OwnValues<Own>;
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
  axis?: string,
): Promise<void> {
  await writeAtomically(file, [lossChart(title, curves, axis)]);
  console.log(`wrote ${file}`);
}

export const percent = (share: number): string => `${(100 * share).toFixed(1)}%`;
export const millions = (count: number): string => `${(count / 1e6).toFixed(2)}M`;
