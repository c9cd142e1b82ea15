import { existsSync } from "node:fs";
import path from "node:path";
import { LineageError } from "../base/errors.js";
import { readJson } from "../base/files.js";
import { replaceFiles, settleFolder } from "../base/folders.js";
import { emitWarning } from "../base/warnings.js";
import {
  type SafetensorsFile,
  StoredTensors,
  isTokenizerFile,
  isWeightFile,
  loadTokenizer,
  modelForm,
  openWeightFiles,
} from "../formats/index.js";
import type { SystemConfig, SystemKind } from "../models/index.js";
import type { ConfigTable } from "../nn/index.js";
import type { Tokenizer } from "../tokenizers/index.js";
import type { LoadOptions } from "./checkpoint.js";
import { requireLayers } from "./counts.js";
import { type GenerationDefaults, readGenerationConfig } from "./generation-config.js";

/** The `config.json` of a checkpoint folder. */
export async function readConfig(folder: string): Promise<unknown> {
  if ((await modelForm(folder)) === "gguf")
    throw new LineageError(
      "unsupported",
      `${folder} is a GGUF file, from which lineage reads decoders and T5; take the model's checkpoint folder`,
    );
  await settleFolder(folder);
  const file = path.join(folder, "config.json");
  if (!existsSync(file) && existsSync(path.join(folder, "adapter_config.json")))
    throw new LineageError(
      "checkpoint",
      `${folder} holds an adapter and no model: name the base that it was trained beside as the model, and this folder as the adapter`,
    );
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
  settle?(config: C, stored: StoredTensors): Promise<C>;
}

/** A checkpoint folder without its weights. */
export interface ModelFolder<S, C> {
  readonly json: unknown;
  readonly system: S & Described<C>;
  readonly config: C;
  readonly files: readonly SafetensorsFile[];
  readonly tokenizer: Tokenizer;
  readonly stopIds: readonly number[] | undefined;
  readonly generation?: GenerationDefaults;
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
  const described = system.config.read(json, warn);
  const files = await openWeightFiles(folder);
  const config = (await system.settle?.(described, new StoredTensors(files))) ?? described;
  const tensors = files.reduce((sum, { header }) => sum + header.tensors.size, 0);
  requireLayers(path.join(folder, "config.json"), system, config, tensors);
  const tokenizer = await loadTokenizer(folder);
  for (const warning of tokenizer.warnings) warn(warning);
  if (tokenizer.vocabSize > config.vocabSize)
    throw new LineageError(
      "tokenizer",
      `the tokenizer of ${folder} has ${tokenizer.vocabSize} tokens, but the model has embeddings for ${config.vocabSize}`,
    );
  if (system.kind === "encoder") return { json, system, config, files, tokenizer, stopIds: undefined };
  const { stopIds, generation } = await readGenerationConfig(folder, json);
  const writes = system.kind === "encoder-decoder" ? { stopIds, generation } : { stopIds };
  return { json, system, config, files, tokenizer, ...writes };
}

/** Throws `checkpoint` for a folder in which weights are quantised, and so do not train. */
export function requireOriginal(folder: string, json: unknown): void {
  if ((json as { quantization_config?: unknown }).quantization_config)
    throw new LineageError(
      "checkpoint",
      `${folder} is quantised: it can be run, but training, evaluation, conversion and export need the original`,
    );
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
