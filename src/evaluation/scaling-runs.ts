import { createHash } from "node:crypto";
import { existsSync, statSync } from "node:fs";
import path from "node:path";
import { z } from "zod";
import { validated } from "../base/check.js";
import { FormatError, LineageError } from "../base/errors.js";
import { readBytes, readJson, readText } from "../base/files.js";
import { readTable } from "../data/index.js";
import { decoderOf } from "../models/index.js";
import { countParameters } from "../nn/index.js";
import type { ScalingRun } from "./scaling.js";

const columns = {
  parameters: ["parameters", "params", "n", "model_size", "num_parameters"],
  tokens: ["tokens", "d", "training_tokens", "num_tokens"],
  loss: ["loss", "validationloss", "validation_loss", "val_loss", "held_out_loss", "final_loss"],
} as const;

/**
 * Training runs as `fitScaling` takes them: folders that `train` wrote, and tables (CSV, TSV, JSONL, Parquet) with the columns
 * parameters, tokens and loss. Throws `data` for what cannot be read, and for runs of different text or tokenizers, whose
 * losses do not compare.
 */
export async function readScalingRuns(places: readonly string[]): Promise<ScalingRun[]> {
  const found = await Promise.all(
    places.map(async (place) => {
      if (!existsSync(place)) throw new LineageError("data", `there is no ${place}`);
      return statSync(place).isDirectory()
        ? [await readRun(place)]
        : (await readRows(place)).map((run) => ({ run, data: undefined, tokenizer: undefined }));
    }),
  );
  const runs = found.flat();
  for (const [what, of] of [
    ["text", ({ data }: Read) => data],
    ["tokenizer", ({ tokenizer }: Read) => tokenizer],
  ] as const) {
    const known = runs.filter((read) => of(read) !== undefined);
    const other = known.find((read) => of(read) !== of(known[0]!));
    if (other)
      throw new LineageError(
        "data",
        `${known[0]!.run.name} and ${other.run.name} have another ${what} each, so their losses do not compare; fit runs of one ${what}`,
      );
  }
  return runs.map(({ run }) => run);
}

interface Read {
  readonly run: ScalingRun;
  readonly data: string | undefined;
  /** A hash of the tokenizer's file. */
  readonly tokenizer: string | undefined;
}

const optionsSchema = z.looseObject({ data: z.string().optional() });
const recordSchema = z.looseObject({
  step: z.number(),
  tokens: z.number().optional(),
  validationLoss: z.number().nullish(),
});

async function readRun(folder: string): Promise<Read> {
  const file = (name: string): string => {
    const place = path.join(folder, name);
    if (existsSync(place)) return place;
    throw new LineageError(
      "data",
      `${folder} is not a run of lineage train: it has no ${name}; give its folder, or a table with parameters, tokens and loss`,
    );
  };
  const options = file("run.json");
  const { data } = validated(
    optionsSchema,
    await readJson(options),
    (problem) => new FormatError(options, problem),
  );
  const json = await readJson(file("config.json"));
  const system = decoderOf(json);
  const metrics = file("metrics.jsonl");
  const curve: { tokens: number; loss: number }[] = [];
  let tokens = 0;
  for (const [place, line] of (await readText(metrics)).split("\n").entries()) {
    if (line.trim() === "") continue;
    const record = validated(
      recordSchema,
      parsed(line, metrics, place + 1),
      (problem) => new FormatError(metrics, `line ${place + 1}: ${problem}`),
    );
    tokens += record.tokens ?? 0;
    if (record.validationLoss !== undefined)
      curve.push({ tokens, loss: record.validationLoss ?? Number.NaN });
  }
  const last = curve.at(-1);
  if (!last)
    throw new LineageError("data", `${folder} has no held-out loss yet; let the run reach an evaluation`);
  const tokenizer = path.join(folder, "tokenizer.json");
  return {
    run: {
      name: folder,
      parameters: countParameters(system.create(system.config.read(json))),
      tokens: last.tokens,
      loss: last.loss,
      curve,
    },
    data,
    tokenizer: existsSync(tokenizer)
      ? createHash("sha256")
          .update(await readBytes(tokenizer))
          .digest("hex")
      : undefined,
  };
}

function parsed(line: string, file: string, number: number): unknown {
  try {
    return JSON.parse(line);
  } catch {
    throw new FormatError(
      file,
      `line ${number} is no JSON: the run was cut off while it wrote; resume it, or remove the line`,
    );
  }
}

async function readRows(file: string): Promise<ScalingRun[]> {
  const table = await readTable(file, {
    header: (cells) =>
      columns.loss.some((name) => cells.map((cell) => cell.trim().toLowerCase()).includes(name)),
  });
  const named = Object.entries(columns).map(([what, names]) => {
    const column = table.columns.find((name) =>
      (names as readonly string[]).includes(name.trim().toLowerCase()),
    );
    if (column === undefined)
      throw new LineageError(
        "data",
        `${file} has no column ${what}; it has ${table.columns.join(", ")}, and a fit needs parameters, tokens and loss`,
      );
    return [what, column] as const;
  });
  return table.rows.map(({ number, values }) => {
    const cell = Object.fromEntries(
      named.map(([what, column]) => [
        what,
        Number(String(values[column] ?? "").replaceAll("_", "") || Number.NaN),
      ]),
    );
    return {
      name: `${file}: row ${number}`,
      parameters: cell["parameters"]!,
      tokens: cell["tokens"]!,
      loss: cell["loss"]!,
    };
  });
}
