import { loadWeights } from "../formats/index.js";
import { type EncoderSystem, encoderOf, systemsOfKind } from "../models/index.js";
import { type Encoder, type EncoderConfig, namedParameters } from "../nn/index.js";
import type { ModelWeights } from "../quantization/index.js";
import type { Runtime } from "../runtime/types.js";
import type { EncoderCheckpoint, LoadOptions } from "./checkpoint.js";
import { requireOriginal } from "./folder.js";
import { folderWeights } from "./inference.js";
import { type NamesOf, type NetworkFolder, encoderNames, holds, openNetwork } from "./network-folder.js";

/** `model_type`s of encoders. */
export const encoderModelTypes: readonly string[] = [
  ...new Set(systemsOfKind("encoder").map(({ type }) => type)),
];

const openEncoder = (folder: string, options: LoadOptions): Promise<NetworkFolder<EncoderSystem>> =>
  openNetwork(folder, (json) => encoderOf(json, options.systems), options);

/** The encoder of a folder, with a pooler where the folder has one. */
function bareEncoder(opened: NetworkFolder<EncoderSystem>): {
  readonly model: Encoder;
  readonly aliases: NamesOf;
} {
  const { system } = opened;
  const config = opened.config as typeof opened.config & EncoderConfig;
  const aliases = encoderNames(system.prefix);
  const full = system.create(config, { pooler: true });
  const pooler = [...namedParameters(full).keys()]
    .filter((name) => name.startsWith("pooler."))
    .every((name) => holds(opened, aliases(name)));
  return { model: pooler ? full : system.create(config, { pooler: false }), aliases };
}

/**
 * Reads an encoder's folder without any head. Its tensors' names may have the family's prefix or not; it has a pooler where
 * the checkpoint has one.
 */
export async function loadEncoder(
  runtime: Runtime,
  folder: string,
  options: LoadOptions = {},
): Promise<EncoderCheckpoint> {
  const opened = await openEncoder(folder, options);
  const { json, system, tokenizer } = opened;
  requireOriginal(folder, json);
  const { model, aliases } = bareEncoder(opened);
  const weights = await loadWeights(runtime, model, folder, { aliases });
  return { system, model, weights, tokenizer };
}

/** As `loadEncoder`, for an encoder that is only run: its weights are mapped from their file, or quantised. */
export async function loadEncoderForInference(
  runtime: Runtime,
  folder: string,
  options: LoadOptions = {},
): Promise<EncoderCheckpoint<ModelWeights>> {
  const opened = await openEncoder(folder, options);
  const { system, tokenizer } = opened;
  const { model, aliases } = bareEncoder(opened);
  const { weights } = await folderWeights(runtime, model, opened, { aliases }, options);
  return { system, model, weights, tokenizer };
}
