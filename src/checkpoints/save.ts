import path from "node:path";
import { LineageError } from "../base/errors.js";
import { writeJson } from "../base/files.js";
import {
  type SaveWeightsOptions,
  type TensorToSave,
  saveWeightFiles,
  writeSafetensors,
  writeTokenizer,
} from "../formats/index.js";
import type { QuantizedWeight } from "../graph/index.js";
import { type System, type SystemConfig, configJson } from "../models/index.js";
import type { Tokenizer } from "../tokenizers/index.js";
import { CausalLm, Linear, type Module, type WeightSet, allModules, namedParameters } from "../nn/index.js";
import type { Checkpoint, HeadCheckpoint } from "./checkpoint.js";
import { replaceModel } from "./folder.js";
import { writeGenerationConfig } from "./generation-config.js";
import { entryOf, inPackedOrder, partsOf } from "./packed-file.js";
import { storedWeight } from "./stored.js";

/** A checkpoint of any kind, with a head or without. */
export type CheckpointToSave = Checkpoint<System, WeightSet, Module & { readonly config: SystemConfig }> &
  Partial<Pick<HeadCheckpoint, "head" | "labels">>;

export interface SaveOptions extends SaveWeightsOptions {
  /** Writes further files of the model beside its own. Default: none. */
  readonly beside?: (staging: string) => Promise<void>;
}

/**
 * Writes what `loadModel`, and Hugging Face transformers, read: a model that was there is replaced as a whole. Frozen
 * weights are written with those that learn. Where some are quantised they stay so, and the folder is for
 * `loadForInference`. Throws `argument` for a parameter without values, and for quantised weights that are to be written in
 * another dtype or in shards.
 */
export async function saveModel(
  folder: string,
  { system, model, weights, tokenizer, stopIds, generation, head, labels }: CheckpointToSave,
  { beside, ...options }: SaveOptions = {},
): Promise<void> {
  const { tensors, quantized } = storedWeights(model, weights);
  const [first] = Object.keys(quantized);
  if (first !== undefined && (options.dtype ?? options.shardBytes) !== undefined)
    throw new LineageError(
      "argument",
      `${first} is quantised, and quantised weights are written as they are, into one file; save the original model`,
    );
  const json = {
    ...configJson(system, model.config, { head, labels }),
    // By it transformers finds the last token of a row, from which a decoder's head answers.
    ...(system.kind === "decoder" && head && { pad_token_id: rowFiller(tokenizer) }),
  };
  await replaceModel(folder, async (staging) => {
    const config = path.join(staging, "config.json");
    await writeTokenizer(tokenizer, staging);
    await beside?.(staging);
    if (system.kind === "encoder-decoder") {
      const described = system.config.read(json);
      const [startId, padId] = [system.startId(described), described.padTokenId];
      await writeGenerationConfig(staging, tokenizer, {
        stopIds,
        generation: { startId, ...generation },
        padId,
      });
    } else if (stopIds && system.kind === "decoder")
      await writeGenerationConfig(staging, tokenizer, { stopIds });
    if (first === undefined) {
      await writeJson(config, { ...json, torch_dtype: options.dtype ?? "float32" });
      await saveWeightFiles(staging, tensors, options);
      return;
    }
    const entries = Object.entries(quantized);
    await writeJson(config, {
      ...json,
      quantization_config: {
        quant_method: "lineage",
        tensors: Object.fromEntries(entries.map(([name, weight]) => [name, entryOf(weight)])),
      },
    });
    const parts = entries.flatMap(([name, weight]) => partsOf(name, weight));
    await writeSafetensors(path.join(staging, "model.safetensors"), inPackedOrder([...tensors, ...parts]));
  });
}

/** The id that fills up rows of a decoder: one that stands at the end of none. */
const rowFiller = (tokenizer: Tokenizer): number => tokenizer.padId ?? tokenizer.endOfTextId ?? 0;

/** The values of every parameter: in full or half precision, or quantised. */
function storedWeights(
  model: Module,
  weights: WeightSet,
): { readonly tensors: TensorToSave[]; readonly quantized: Readonly<Record<string, QuantizedWeight>> } {
  const tensors: TensorToSave[] = [];
  const quantized: Record<string, QuantizedWeight> = {};
  // Matrices come first, so that those that multiply the same input lie side by side in the file.
  const parameters = [...namedParameters(model)].sort(
    ([, a], [, b]) => Number(a.shape.length < 2) - Number(b.shape.length < 2),
  );
  for (const module of allModules(model))
    if (module instanceof Linear && module.adapter)
      throw new LineageError(
        "argument",
        `${module.path} has an adapter: merge it first, or save the adapter alone with saveAdapter`,
      );
  if (model instanceof CausalLm && model.softPrompt)
    throw new LineageError(
      "argument",
      "the model has a soft prompt: take it off first, or save it alone with saveAdapter",
    );
  for (const [name] of parameters) {
    const stored = storedWeight(weights, name);
    if ("tensor" in stored) tensors.push(stored.tensor);
    else quantized[name] = stored.quantized;
  }
  return { tensors, quantized };
}
