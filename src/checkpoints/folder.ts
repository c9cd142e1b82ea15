import { existsSync } from "node:fs";
import path from "node:path";
import { z } from "zod";
import { FormatError, LineageError } from "../base/errors.js";
import { readJson } from "../base/files.js";
import { replaceFiles, settleFolder } from "../base/folders.js";
import { emitWarning } from "../base/warnings.js";
import {
  type SafetensorsFile,
  isTokenizerFile,
  isWeightFile,
  loadTokenizer,
  modelPlace,
  openWeightFiles,
} from "../formats/index.js";
import type { SystemConfig, SystemKind } from "../models/index.js";
import type { ConfigTable } from "../nn/index.js";
import type { Tokenizer } from "../tokenizers/index.js";
import type { LoadOptions } from "./checkpoint.js";
import { requireLayers } from "./counts.js";

/** The `config.json` of a checkpoint folder. */
export async function readConfig(folder: string): Promise<unknown> {
  if ((await modelPlace(folder)) === "gguf")
    throw new LineageError(
      "unsupported",
      `${folder} is a GGUF file, from which lineage reads decoders; take the model's checkpoint folder`,
    );
  await settleFolder(folder);
  const file = path.join(folder, "config.json");
  if (!existsSync(file))
    throw new LineageError("checkpoint", `${folder} is not a checkpoint: it has no config.json`);
  return readJson(file);
}

/** What a folder is read by: a system of any kind. */
export interface Described<C> {
  readonly kind: SystemKind;
  readonly title: string;
  readonly config: ConfigTable<C>;
  ownLayers?(config: C): number;
}

/** A checkpoint folder without its weights. */
export interface ModelFolder<S, C> {
  readonly json: unknown;
  readonly system: S & Described<C>;
  readonly config: C;
  readonly files: readonly SafetensorsFile[];
  readonly tokenizer: Tokenizer;
  readonly stopIds: readonly number[] | undefined;
}

/**
 * Reads all of a checkpoint folder but its weights, and checks that the parts fit each other. Throws where one is missing
 * or does not.
 * @param find the system that a `config.json` is of
 */
export async function readFolder<S, C extends SystemConfig>(
  folder: string,
  find: (json: unknown) => S & Described<C>,
  { warn = emitWarning }: LoadOptions,
): Promise<ModelFolder<S, C>> {
  const json = await readConfig(folder);
  const system = find(json);
  const config = system.config.read(json, warn);
  const files = await openWeightFiles(folder);
  const tensors = files.reduce((sum, { header }) => sum + header.tensors.size, 0);
  requireLayers(path.join(folder, "config.json"), system, config, tensors);
  const tokenizer = await loadTokenizer(folder);
  for (const warning of tokenizer.warnings) warn(warning);
  if (tokenizer.vocabSize > config.vocabSize)
    throw new LineageError(
      "tokenizer",
      `the tokenizer of ${folder} has ${tokenizer.vocabSize} tokens, but the model has embeddings for ${config.vocabSize}`,
    );
  const stopIds = system.kind === "encoder" ? undefined : await readStopIds(folder, json);
  return { json, system, config, files, tokenizer, stopIds };
}

/** Throws `checkpoint` for a folder in which weights are quantised, and so do not train. */
export function requireOriginal(folder: string, json: unknown): void {
  if ((json as { quantization_config?: unknown }).quantization_config)
    throw new LineageError(
      "checkpoint",
      `${folder} is quantised: it generates and chats, but training, evaluation and export need the original`,
    );
}

const endIds = z.looseObject({ eos_token_id: z.union([z.int(), z.array(z.int())]).nullish() });

/** What `generation_config.json`, or else `config.json`, names as the ends of a text. */
async function readStopIds(folder: string, config: unknown): Promise<readonly number[] | undefined> {
  const file = path.join(folder, "generation_config.json");
  for (const [source, json] of [
    [file, existsSync(file) ? await readJson(file) : {}],
    [path.join(folder, "config.json"), config],
  ] as const) {
    const parsed = endIds.safeParse(json);
    if (!parsed.success) throw new FormatError(source, z.prettifyError(parsed.error));
    const ids = parsed.data.eos_token_id;
    if (ids !== undefined && ids !== null) return typeof ids === "number" ? [ids] : ids;
  }
  return undefined;
}

const settings = /^(config|generation_config|preprocessor_config|task)\.json$/;

/**
 * Replaces the model in a folder as a whole: what `write` writes, and nothing that another model left, is there afterwards.
 * Other files of the folder, such as a run's log or a README, stay.
 */
export const replaceModel = (folder: string, write: (staging: string) => Promise<void>): Promise<void> =>
  replaceFiles(folder, write, {
    part: (name) => settings.test(name) || isWeightFile(name) || isTokenizerFile(name),
  });
