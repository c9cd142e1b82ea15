import path from "node:path";
import { z } from "zod";
import { elementCount } from "../base/dtype.js";
import { validated } from "../base/check.js";
import { LineageError } from "../base/errors.js";
import { readJson, writeJson } from "../base/files.js";
import { replaceFiles } from "../base/folders.js";
import { SafetensorsFile, type TensorToSave, floatReaders, writeSafetensors } from "../formats/index.js";
import {
  CausalLm,
  type Linear,
  type LoraAdapter,
  type LoraOptions,
  type LoraTargets,
  type Module,
  type WeightSet,
  addLora,
  namedParameters,
  targetNames,
} from "../nn/index.js";
import { ModelWeights, dequantizeWeight } from "../quantization/index.js";
import type { DeviceTensor } from "../runtime/types.js";
import { storedWeight } from "./stored.js";

// Adapters in the folders of Hugging Face's peft: adapter_config.json and adapter_model.safetensors.

const configFile = "adapter_config.json";
const weightFile = "adapter_model.safetensors";
/** Before every name in the file: peft's own model, and the model in it. */
const prefix = "base_model.model.";

// ---- adapter_config.json ------------------------------------------------------------------------------------------

const names = z.union([z.string(), z.array(z.string())]);
const numbers = z.record(z.string(), z.number().positive()).nullish();

/** Entries that decide what an adapter computes. */
const readEntries = z.object({
  peft_type: z.string(),
  r: z.int().positive(),
  lora_alpha: z.number(),
  lora_dropout: z.number().min(0).lt(1).default(0),
  use_rslora: z.boolean().default(false),
  target_modules: names,
  exclude_modules: names.nullish(),
  rank_pattern: z.record(z.string(), z.int().positive()).nullish(),
  alpha_pattern: numbers,
  bias: z.string().default("none"),
  init_lora_weights: z.union([z.boolean(), z.string()]).nullish(),
});

/**
 * Entries without effect on what a saved adapter computes: where it came from, and options of others that are refused where
 * they are on. `fan_in_fan_out` is how the base stores its matrices, which the base itself says.
 */
const withoutEffect = new Set([
  "task_type",
  "auto_mapping",
  "peft_version",
  "base_model_name_or_path",
  "revision",
  "inference_mode",
  "fan_in_fan_out",
  "megatron_core",
  "qalora_group_size",
  "layers_pattern",
]);

/** First values that leave the base as it is; the others (pissa, olora, loftq, ...) change its matrices as well. */
const plainBeginnings: readonly unknown[] = [undefined, null, true, false, "gaussian", "orthogonal", "eva"];

const isOff = (value: unknown): boolean =>
  value === null ||
  value === false ||
  (typeof value === "object" && Object.keys(value as object).length === 0);

/** Reads peft's configuration. Throws `config` for what lineage does not compute, naming the entry. */
function readOptions(file: string, json: unknown): LoraOptions {
  const fail = (problem: string) => new LineageError("config", `${file}: ${problem}`);
  const config = validated(readEntries, json, fail);
  if (config.peft_type !== "LORA")
    throw fail(`the adapter is of the type ${config.peft_type}; lineage reads LORA`);
  if (config.bias !== "none")
    throw fail(`bias is ${JSON.stringify(config.bias)}: adapters that train biases are not supported`);
  if (!plainBeginnings.includes(config.init_lora_weights))
    throw fail(
      `init_lora_weights is ${JSON.stringify(config.init_lora_weights)}, which changes the base as well; convert the adapter to plain LoRA in peft first`,
    );
  for (const [entry, value] of Object.entries(json as object))
    if (!Object.hasOwn(readEntries.shape, entry) && !withoutEffect.has(entry) && !isOff(value))
      throw fail(`${entry} is ${JSON.stringify(value)}, which is not supported`);
  return {
    rank: config.r,
    alpha: config.lora_alpha,
    rankStabilized: config.use_rslora,
    dropout: config.lora_dropout,
    targets: targetsOf(config.target_modules, fail),
    exclude:
      isOff(config.exclude_modules) || config.exclude_modules == null
        ? undefined
        : patternOf(config.exclude_modules, fail),
    ranks: patternsOf(config.rank_pattern, fail),
    alphas: patternsOf(config.alpha_pattern, fail),
  };
}

type Fail = (problem: string) => LineageError;

const targetsOf = (given: string | readonly string[], fail: Fail): LoraTargets =>
  given === "all-linear" ? given : patternOf(given, fail);

/** A text is a regular expression, as in Python; a list has names. */
const patternOf = (given: string | readonly string[], fail: Fail): readonly string[] | RegExp =>
  typeof given === "string" ? expression(given, fail) : given;

function expression(source: string, fail: Fail): RegExp {
  try {
    return new RegExp(source);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw fail(`${JSON.stringify(source)} is no regular expression that JavaScript knows`);
  }
}

function patternsOf(
  patterns: Readonly<Record<string, number>> | null | undefined,
  fail: Fail,
): ReadonlyMap<string, number> {
  const entries = Object.entries(patterns ?? {});
  for (const [pattern] of entries) expression(pattern, fail);
  return new Map(entries);
}

const patternsJson = (patterns: ReadonlyMap<string, number> | undefined) =>
  Object.fromEntries(patterns ?? []);

/** The configuration as peft writes it. */
function configJson(model: Module, adapter: LoraAdapter, base: string | undefined): Record<string, unknown> {
  const { rank, alpha, dropout = 0, rankStabilized = false, ranks, alphas } = adapter.options;
  const layouts = [...adapter.layers.values()].map(({ linear }) => linear.transposeWeight);
  return {
    peft_type: "LORA",
    task_type: model instanceof CausalLm ? "CAUSAL_LM" : null,
    base_model_name_or_path: base ?? null,
    inference_mode: true,
    r: rank,
    lora_alpha: alpha,
    lora_dropout: dropout,
    use_rslora: rankStabilized,
    // The layers themselves: a pattern or an exclusion has done its work.
    target_modules: targetNames(model, adapter),
    rank_pattern: patternsJson(ranks),
    alpha_pattern: patternsJson(alphas),
    fan_in_fan_out: layouts.every((transposed) => !transposed),
    bias: "none",
    init_lora_weights: true,
    modules_to_save: null,
    use_dora: false,
  };
}

// ---- Files --------------------------------------------------------------------------------------------------------

/** A model with an adapter beside its layers, and the weights of both. */
export interface Adapted<W extends WeightSet> {
  readonly adapter: LoraAdapter;
  readonly weights: W;
}

/**
 * Writes an adapter as peft does. What was there of an adapter is replaced as a whole; other files of the folder stay.
 * @param base the name or folder of the base, for whoever loads the adapter
 */
export async function saveAdapter(
  folder: string,
  {
    model,
    adapter,
    weights,
    base,
  }: Adapted<WeightSet> & { readonly model: Module; readonly base?: string | undefined },
): Promise<void> {
  const tensors = [...adapter.parameters.keys()].map((name): TensorToSave => {
    const stored = storedWeight(weights, name);
    if ("quantized" in stored)
      throw new LineageError("argument", `${name} is quantised; an adapter is saved in full precision`);
    return { ...stored.tensor, name: prefix + name };
  });
  await replaceFiles(
    folder,
    async (staging) => {
      await writeJson(path.join(staging, configFile), configJson(model, adapter, base));
      await writeSafetensors(path.join(staging, weightFile), tensors);
    },
    { part: (name) => name === configFile || name === weightFile },
  );
}

/**
 * Puts the adapter in a folder of peft's beside the layers of a model that is only run; the weights returned are those given
 * and the adapter's. Throws `config` for an adapter that lineage does not compute, `checkpoint` where a tensor is missing,
 * is not used, or has another shape than the base wants.
 */
export async function loadAdapter(
  folder: string,
  { model, weights }: { readonly model: Module; readonly weights: ModelWeights },
): Promise<Adapted<ModelWeights>> {
  const configPath = path.join(folder, configFile);
  const options = readOptions(configPath, await readJson(configPath));
  const file = await SafetensorsFile.open(path.join(folder, weightFile));
  const trainable = new Map([...namedParameters(model).values()].map((one) => [one, one.trainable]));
  const adapter = addLora(model, options);
  // Whether the base's parameters learn is not for a loaded adapter to say.
  for (const [parameter, before] of trainable) parameter.trainable = before;
  try {
    const tensors = await readTensors(file, adapter, weights.runtime);
    return { adapter, weights: weights.with(tensors) };
  } catch (error) {
    adapter.remove();
    throw error;
  }
}

async function readTensors(
  file: SafetensorsFile,
  adapter: LoraAdapter,
  runtime: WeightSet["runtime"],
): Promise<Record<string, DeviceTensor>> {
  const { tensors } = file.header;
  const { parameters } = adapter;
  for (const name of tensors.keys())
    if (!name.startsWith(prefix) || !parameters.has(name.slice(prefix.length)))
      throw new LineageError(
        "checkpoint",
        `${file.path} holds the tensor ${name}, for which this model and ${configFile} have no place: the adapter was made for another base`,
      );
  const read: Record<string, DeviceTensor> = {};
  for (const [name, { shape }] of parameters) {
    const entry = tensors.get(prefix + name);
    if (!entry)
      throw new LineageError(
        "checkpoint",
        `${file.path} has no tensor ${prefix}${name}, which ${configFile} asks for in this model: the adapter was made for another base`,
      );
    if (entry.shape.join() !== shape.join())
      throw new LineageError(
        "checkpoint",
        `${file.path}: ${prefix}${name} is [${entry.shape.join(", ")}], but this model wants [${shape.join(", ")}]: the adapter was made for another base`,
      );
    const reader = floatReaders[entry.dtype];
    if (!reader)
      throw new LineageError("checkpoint", `${file.path}: ${prefix}${name} is ${entry.dtype}, not floats`);
    const bytes = new Uint8Array(entry.byteLength);
    await file.readInto(prefix + name, bytes);
    const values = new Float32Array(elementCount(shape));
    reader(bytes, values);
    read[name] = runtime.createTensor("float32", shape, values);
  }
  return read;
}

// ---- Merging ------------------------------------------------------------------------------------------------------

/**
 * Adds an adapter's update to the matrices that it stands beside, and takes it off the model. Matrices in fewer bits are
 * dequantised first: the sum is that of the base that the adapter was trained on, in float32.
 */
export function mergeAdapter({ adapter, weights }: Adapted<ModelWeights>): ModelWeights {
  const merged: Record<string, DeviceTensor> = {};
  for (const { linear, lora } of adapter.layers.values()) {
    const { name, shape } = linear.weight;
    const values = valuesOf(weights, name);
    const [down, up] = [lora.down, lora.up].map(({ weight }) => valuesOf(weights, weight.name)) as [
      Float32Array,
      Float32Array,
    ];
    addUpdate(values, linear, { down, up, rank: lora.rank, scaling: lora.scaling });
    merged[name] = weights.runtime.createTensor("float32", shape, values);
  }
  const parameters = [...adapter.parameters.keys()];
  adapter.remove();
  return weights.with(merged, parameters);
}

/** The same weights without matrices in few bits: each as the numbers that it stands for, in float32. */
export function dequantizeWeights(weights: ModelWeights): ModelWeights {
  const { packed } = weights.constants;
  const full: Record<string, DeviceTensor> = {};
  for (const [name, weight] of Object.entries(packed)) {
    if (weight.kind === "half") continue;
    const { rows, columns } = weight;
    const shape = weight.transposed ? [columns, rows] : [rows, columns];
    full[name] = weights.runtime.createTensor("float32", shape, valuesOf(weights, name));
  }
  return weights.with(full);
}

/** A copy of a parameter's values in float32, in its own layout. */
function valuesOf(weights: WeightSet, name: string): Float32Array {
  const stored = storedWeight(weights, name);
  if ("quantized" in stored) {
    const { quantized } = stored;
    const values = dequantizeWeight(quantized);
    return quantized.transposed ? transposed(values, quantized.rows, quantized.columns) : values;
  }
  const { dtype, shape, bytes } = stored.tensor;
  const values = new Float32Array(elementCount(shape));
  floatReaders[dtype]!(bytes, values);
  return values;
}

function transposed(values: Float32Array, rows: number, columns: number): Float32Array {
  const turned = new Float32Array(values.length);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++)
      turned[column * rows + row] = values[row * columns + column]!;
  return turned;
}

interface Update {
  readonly down: Float32Array;
  readonly up: Float32Array;
  readonly rank: number;
  readonly scaling: number;
}

/** Adds `scaling * B A` to a weight in place: a row of `[outSize, inSize]` is a sum of A's rows, a row of `[inSize, outSize]` one of B's columns. */
function addUpdate(
  weight: Float32Array,
  { transposeWeight }: Linear,
  { down, up, rank, scaling }: Update,
): void {
  const [inSize, outSize] = [down.length / rank, up.length / rank];
  const [rows, columns] = transposeWeight ? [outSize, inSize] : [inSize, outSize];
  const [perRow, perColumn] = transposeWeight
    ? [up, down]
    : [transposed(down, rank, inSize), transposed(up, outSize, rank)];
  for (let row = 0; row < rows; row++) {
    const target = weight.subarray(row * columns, (row + 1) * columns);
    for (let k = 0; k < rank; k++) {
      const factor = scaling * perRow[row * rank + k]!;
      const line = perColumn.subarray(k * columns, (k + 1) * columns);
      for (let column = 0; column < columns; column++) target[column]! += factor * line[column]!;
    }
  }
}
