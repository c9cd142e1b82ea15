import { existsSync } from "node:fs";
import { copyFile } from "node:fs/promises";
import path from "node:path";
import { emitWarning } from "../base/warnings.js";
import {
  type EncoderComparison,
  type HeldEncoder,
  type MakeVector,
  type OnnxDtype,
  compareEncoders,
  dequantizeWeights,
  encoderOutputs,
  exportEncoderForTransformersJs,
  loadHeldEncoder,
  loadHeldForInference,
  onnxFileOf,
  quantizeEncoder,
  saveModel,
} from "../checkpoints/index.js";
import { type SaveWeightsOptions, saveOnnx } from "../formats/index.js";
import type { QuantizationScheme } from "../quantization/index.js";
import type { Runtime } from "../runtime/types.js";
import { Predictor } from "../tasks/index.js";
import { copyModules, readModules, sentenceVector, textLimit } from "../search/index.js";

/** How encoders leave, each with a comparison of what was written with its source. */

interface Source extends Disposable {
  readonly held: HeldEncoder;
  /** Makes texts' vectors as the folder's sentence-transformers modules say, where it has some. */
  readonly vector: MakeVector | undefined;
  /** Tokens to which sentence-transformers cuts a text, where it is one of its folders. */
  readonly maxLength: number | undefined;
  /** Copies what the folder says besides encoder and tokenizer. */
  readonly beside: (staging: string) => Promise<void>;
}

async function openSource(runtime: Runtime, folder: string): Promise<Source> {
  const sentences = existsSync(path.join(folder, "modules.json"));
  const modules = sentences ? await readModules(folder, emitWarning) : undefined;
  const held = await loadHeldEncoder(runtime, modules?.encoder ?? folder);
  const alone = "head" in held ? undefined : held;
  return {
    held,
    vector: modules && alone ? (hidden, mask) => sentenceVector(hidden, mask, modules) : undefined,
    maxLength: modules && alone && textLimit(modules, alone),
    [Symbol.dispose]: () => {
      held.weights.dispose();
    },
    beside: async (staging) => {
      await copyModules(folder, staging);
      const task = path.join(folder, "task.json");
      if (existsSync(task)) await copyFile(task, path.join(staging, "task.json"));
    },
  };
}

/**
 * Writes an encoder, alone or with its head, as a folder that transformers.js loads.
 * @param dtypes a file for each. Default: fp32 and q8, which transformers.js takes in Node and in a page
 */
export async function exportEncoder(
  runtime: Runtime,
  from: string,
  to: string,
  dtypes: readonly OnnxDtype[] = ["fp32", "q8"],
): Promise<ReadonlyMap<OnnxDtype, EncoderComparison>> {
  using source = await openSource(runtime, from);
  const { held, vector, maxLength, beside } = source;
  await exportEncoderForTransformersJs(to, held, { dtypes, vector, maxLength, beside });
  const compared = new Map<OnnxDtype, EncoderComparison>();
  for (const dtype of dtypes)
    compared.set(dtype, await compareEncoders(runtime, held, onnxFileOf(to, dtype), vector));
  return compared;
}

/** Writes an encoder, alone or with its head, as one ONNX file, with its weights in `_data` beside it. */
export async function saveEncoderOnnx(
  runtime: Runtime,
  from: string,
  file: string,
): Promise<EncoderComparison> {
  using source = await openSource(runtime, from);
  const { held, vector } = source;
  const { system, weights } = held;
  await saveOnnx(file, encoderOutputs(held, vector), { name: system.title, weights });
  return await compareEncoders(runtime, held, file, vector);
}

/** Writes an encoder's folder anew, in another dtype or in shards. */
export async function convertEncoder(
  runtime: Runtime,
  from: string,
  to: string,
  options: SaveWeightsOptions,
): Promise<EncoderComparison> {
  using source = await openSource(runtime, from);
  const { held, beside } = source;
  await saveModel(to, held, { ...options, beside });
  return await compareWritten(runtime, source, to);
}

/** What quantising an encoder made. */
export interface QuantizedEncoder {
  readonly byteLength: number;
  /** Matrices in fewer bits, and tensors in full precision. */
  readonly packed: number;
  readonly inFull: number;
  readonly comparison: EncoderComparison;
}

/** Writes an encoder's folder with its matrices in fewer bits: it embeds, predicts and fills masks like the original. */
export async function quantizeEncoderFolder(
  runtime: Runtime,
  from: string,
  to: string,
  scheme: QuantizationScheme,
): Promise<QuantizedEncoder> {
  using source = await openSource(runtime, from);
  const { held, beside } = source;
  const quantized = await quantizeEncoder(held, scheme);
  using weights = quantized.weights;
  await saveModel(to, quantized, { beside });
  return {
    byteLength: weights.byteLength,
    packed: Object.keys(weights.constants.packed).length,
    inFull: Object.keys(weights.constants.tensors).length,
    comparison: await compareWritten(runtime, source, to),
  };
}

/**
 * Writes a base with a task's adapter as one folder, which predicts like the two.
 * @param options.quantize the bits of the base that the adapter was trained on, which is dequantised
 */
export async function mergeTask(
  runtime: Runtime,
  base: string,
  adapter: string,
  to: string,
  {
    quantize,
    ...options
  }: Pick<SaveWeightsOptions, "dtype"> & { readonly quantize?: QuantizationScheme | undefined } = {},
): Promise<EncoderComparison> {
  using beside = await Predictor.load(base, { adapter, quantize, runtime });
  const merged = await Predictor.load(base, { adapter, quantize, runtime, mergeAdapter: true });
  using weights = dequantizeWeights(merged.loaded.weights);
  const { task, labels: named } = merged;
  const labels = named.length > 0 ? named : task === "regress" ? ["LABEL_0"] : undefined;
  await saveModel(
    to,
    { ...merged.loaded, labels, weights },
    {
      ...options,
      beside: async (staging) => {
        const settings = path.join(adapter, "task.json");
        if (existsSync(settings)) await copyFile(settings, path.join(staging, "task.json"));
      },
    },
  );
  const result = await loadHeldForInference(runtime, to);
  using resultWeights = result.weights;
  return await compareEncoders(runtime, beside.loaded, { ...result, weights: resultWeights });
}

async function compareWritten(
  runtime: Runtime,
  { held, vector }: Source,
  to: string,
): Promise<EncoderComparison> {
  const result = await loadHeldForInference(runtime, to);
  using weights = result.weights;
  return await compareEncoders(runtime, held, { ...result, weights }, vector);
}
