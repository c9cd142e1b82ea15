import { GgufFile, type LoadWeightsOptions, loadWeights, modelForm } from "../formats/index.js";
import {
  type System,
  type SystemConfig,
  type SystemKind,
  languageModelOf,
  encoderDecoderOf,
  systemOf,
} from "../models/index.js";
import type { Module } from "../nn/index.js";
import type { Runtime } from "../runtime/types.js";
import type { CheckpointOfKind, LoadOptions } from "./checkpoint.js";
import { type Described, readConfig, readFolder, requireOriginal } from "./folder.js";
import { describeGguf, kindOfGguf, loadGguf } from "./gguf.js";
import { loadEncoder } from "./load-encoder.js";

/**
 * Reads a `.gguf` file, or a checkpoint folder: `config.json`, `model.safetensors` or its shards, and the tokenizer. An
 * encoder comes without a head: `loadForTask` gives it one. Throws where a file is missing or they do not fit, where
 * the model is not of the kind that was asked for, and `memory` before it begins what will not fit into what is free.
 */
export async function loadModel<K extends SystemKind>(
  runtime: Runtime,
  place: string,
  options: LoadOptions & { readonly kind: K },
): Promise<CheckpointOfKind[K]>;
export async function loadModel(
  runtime: Runtime,
  place: string,
  options?: LoadOptions,
): Promise<CheckpointOfKind[SystemKind]>;
export async function loadModel(
  runtime: Runtime,
  place: string,
  { kind, ...options }: LoadOptions & { readonly kind?: SystemKind } = {},
): Promise<CheckpointOfKind[SystemKind]> {
  if (kind !== "encoder" && (await modelForm(place)) === "gguf")
    return loadGguf(runtime, place, { ...options, kind: kind ?? (await kindOfGguf(place, options)) });
  return loaders[kind ?? (await kindIn(place, options))](runtime, place, options);
}

/** The system and the configuration of the model in a GGUF file or a checkpoint folder, without its weights. */
export async function describeModel(
  place: string,
  { systems, warn = () => undefined }: LoadOptions = {},
): Promise<{ readonly system: System; readonly config: SystemConfig }> {
  if ((await modelForm(place)) === "gguf") return describeGguf(await GgufFile.open(place), { systems });
  const json = await readConfig(place);
  const system = systemOf(json, systems);
  return { system, config: system.config.read(json, warn) };
}

/** Which kind of model a GGUF file or a checkpoint folder holds. */
export const kindIn = async (
  place: string,
  { systems }: Pick<LoadOptions, "systems"> = {},
): Promise<SystemKind> =>
  (await modelForm(place)) === "gguf"
    ? kindOfGguf(place, { systems })
    : systemOf(await readConfig(place), systems).kind;

/** Loaders by kind. What a kind's files need besides, such as other names of tensors, stands in its own file. */
const loaders: {
  readonly [K in SystemKind]: (
    runtime: Runtime,
    folder: string,
    options: LoadOptions,
  ) => Promise<CheckpointOfKind[K]>;
} = {
  decoder: (runtime, folder, options) =>
    loadWhole(runtime, folder, (json) => languageModelOf(json, options.systems), options),
  encoder: loadEncoder,
  "encoder-decoder": (runtime, folder, options) =>
    loadWhole(runtime, folder, (json) => encoderDecoderOf(json, options.systems), options),
};

/** A model whose files hold all of its parameters, but for those that its system says they may do without. */
async function loadWhole<S, C extends SystemConfig, M extends Module>(
  runtime: Runtime,
  folder: string,
  find: (json: unknown) => S & Described<C> & LoadWeightsOptions & { create(config: C): M },
  options: LoadOptions,
) {
  const { json, system, config, tokenizer, stopIds, generation } = await readFolder(folder, find, options);
  requireOriginal(folder, json);
  const model = system.create(config);
  const { unused, aliases, optional } = system;
  const weights = await loadWeights(runtime, model, folder, {
    ...(unused && { unused }),
    ...(aliases && { aliases }),
    ...(optional && { optional }),
  });
  return { system, model, weights, tokenizer, stopIds, generation };
}
