import { existsSync } from "node:fs";
import path from "node:path";
import { z } from "zod";
import { FormatError, LineageError } from "../base/errors.js";
import { readJson, writeJson } from "../base/files.js";
import { settleFolder } from "../base/folders.js";
import {
  modelPlace,
  loadTokenizer,
  loadWeights,
  openWeightFiles,
  writeTokenizer,
  saveWeightFiles,
  type SaveWeightsOptions,
} from "../formats/index.js";
import { Tokenizer } from "../tokenizers/index.js";
import type { Runtime } from "../runtime/types.js";
import { type DecoderSystem, decoderConfigJson, decoderOf } from "../models/index.js";
import type { CausalLm } from "../nn/index.js";
import { emitWarning } from "../base/warnings.js";
import { requireLayers } from "./counts.js";
import { replaceModel } from "./folder.js";
import { loadGguf } from "./gguf.js";
import type { LoadOptions, LoadedModel } from "./loaded.js";

/**
 * Reads a `.gguf` file, or a checkpoint folder: `config.json`, `model.safetensors` or its shards, and the tokenizer. Throws
 * where one is missing or they do not fit, and `memory` before it begins what will not fit into what is free.
 */
export async function loadModel(
  runtime: Runtime,
  folder: string,
  options: LoadOptions = {},
): Promise<LoadedModel> {
  if ((await modelPlace(folder)) === "gguf") return loadGguf(runtime, folder, options);
  const { json, system, model, tokenizer, stopIds } = await readCheckpoint(folder, options);
  if ((json as { quantization_config?: unknown }).quantization_config)
    throw new LineageError(
      "checkpoint",
      `${folder} is quantised: it generates and chats, but training, evaluation and export need the original`,
    );
  const { unused } = system;
  const weights = await loadWeights(runtime, model, folder, unused ? { unused } : {});
  return { system, model, tokenizer, stopIds, weights };
}

/** A checkpoint folder without its weights. */
export async function readCheckpoint(
  folder: string,
  { warn = emitWarning, systems = [] }: LoadOptions,
): Promise<{
  readonly json: unknown;
  readonly system: DecoderSystem;
  readonly model: CausalLm;
  readonly tokenizer: Tokenizer;
  readonly stopIds: readonly number[] | undefined;
}> {
  await settleFolder(folder);
  const configFile = path.join(folder, "config.json");
  if (!existsSync(configFile)) {
    throw new LineageError("checkpoint", `${folder} is not a checkpoint: it has no config.json`);
  }
  const json = await readJson(configFile);
  const system = decoderOf(json, systems);
  const config = system.config.read(json, warn);
  requireLayers(configFile, system, config, await countTensors(folder));
  const model = system.create(config);
  const tokenizer = await loadTokenizer(folder);
  for (const warning of tokenizer.warnings) warn(warning);
  if (tokenizer.vocabSize > model.config.vocabSize) {
    throw new LineageError(
      "tokenizer",
      `the tokenizer of ${folder} has ${tokenizer.vocabSize} tokens, but the model has embeddings for ${model.config.vocabSize}`,
    );
  }
  return { json, system, model, tokenizer, stopIds: await readStopIds(folder, json) };
}

/** How many tensors the weight files of a folder have. */
async function countTensors(folder: string): Promise<number> {
  const files = await openWeightFiles(folder);
  return files.reduce((sum, { header }) => sum + header.tensors.size, 0);
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

/** Writes what `loadModel`, and Hugging Face transformers, read: a model that was there is replaced as a whole. */
export async function saveModel(
  folder: string,
  { system, model, weights, tokenizer, stopIds }: LoadedModel,
  options: SaveWeightsOptions = {},
): Promise<void> {
  await replaceModel(folder, async (staging) => {
    await writeJson(path.join(staging, "config.json"), {
      ...decoderConfigJson(system, model),
      torch_dtype: options.dtype ?? "float32",
    });
    await saveTokenizer(staging, tokenizer, stopIds);
    await saveWeightFiles(staging, weights, options);
  });
}

/** Writes a tokenizer and the ends of a text beside a model. */
export async function saveTokenizer(
  folder: string,
  tokenizer: Tokenizer,
  stopIds: readonly number[] | undefined,
): Promise<void> {
  await writeTokenizer(tokenizer, folder);
  if (stopIds)
    await writeJson(path.join(folder, "generation_config.json"), {
      bos_token_id: tokenizer.bosId,
      eos_token_id: stopIds.length === 1 ? stopIds[0] : stopIds,
      pad_token_id: tokenizer.padId,
    });
}
