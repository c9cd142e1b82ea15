import { mkdir } from "node:fs/promises";
import path from "node:path";
import { writeJson } from "../base/files.js";
import { type CausalModel, decoderOutputs } from "../generation/index.js";
import { saveOnnx, type SaveOnnxOptions, writeTokenizer } from "../formats/index.js";
import type { WeightSet } from "../nn/index.js";
import { configJson } from "../models/index.js";
import type { DecoderCheckpoint } from "./checkpoint.js";
import { replaceModel } from "./folder.js";

/** Writes `decoderOutputs` of a model with its weights, as `saveOnnx` does. */
export const saveDecoderOnnx = (
  file: string,
  model: CausalModel,
  weights: WeightSet,
  options: Omit<SaveOnnxOptions, "weights"> = {},
): Promise<void> => saveOnnx(file, decoderOutputs(model), { name: "decoder", ...options, weights });

/**
 * Writes a folder that transformers.js loads: the decoder in `onnx/model.onnx`, its weights in `onnx/model.onnx_data`,
 * configuration and tokenizer beside them.
 */
export async function exportForTransformersJs(
  folder: string,
  { system, model, weights, tokenizer }: DecoderCheckpoint<WeightSet>,
): Promise<void> {
  await replaceModel(folder, async (staging) => {
    const onnx = path.join(staging, "onnx");
    await mkdir(onnx);
    await saveDecoderOnnx(path.join(onnx, "model.onnx"), model, weights);
    await writeTokenizer(tokenizer, staging);
    await writeJson(path.join(staging, "config.json"), {
      ...configJson(system, model.config),
      "transformers.js_config": { use_external_data_format: true },
    });
  });
}
