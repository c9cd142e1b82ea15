import { existsSync, statSync } from "node:fs";
import path from "node:path";
import { z } from "zod";
import { elementCount } from "../base/dtype.js";
import { either, validated } from "../base/check.js";
import { LineageError } from "../base/errors.js";
import { readJson, writeJson } from "../base/files.js";
import { replaceFiles } from "../base/folders.js";
import { SafetensorsFile, type TensorToSave, floatReaders, writeSafetensors } from "../formats/index.js";
import {
  type Adapter,
  CausalLm,
  EncoderDecoder,
  type HeadName,
  type Linear,
  type LoraAdapter,
  type LoraOptions,
  type LoraTargets,
  type Module,
  type SoftPromptAdapter,
  type WeightSet,
  addLora,
  addSoftPrompt,
  keyValueShape,
  namedParameters,
  targetNames,
  wholeNames,
} from "../nn/index.js";
import { ModelWeights, dequantizeWeight } from "../quantization/index.js";
import type { DeviceTensor } from "../runtime/types.js";
import type { System, SystemConfig } from "../models/index.js";
import { isGgufAdapter, readGgufAdapter } from "./gguf-adapter.js";
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
  modules_to_save: z.array(z.string().min(1)).nullish(),
  use_dora: z.boolean().default(false),
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

/** What peft calls the kinds of adapters. */
const peftTypes = { LORA: "lora", PROMPT_TUNING: "prompt", PREFIX_TUNING: "prefix" } as const;

/** Puts the adapter that peft's configuration describes beside or before a model's layers. Throws `config` for what lineage does not compute. */
function addDescribed(model: Module, file: string, json: unknown): Adapter {
  const fail = (problem: string) => new LineageError("config", `${file}: ${problem}`);
  const { peft_type: type } = validated(z.object({ peft_type: z.string() }), json, fail);
  if (!Object.hasOwn(peftTypes, type))
    throw fail(`the adapter is of the type ${type}; lineage reads ${either(Object.keys(peftTypes))}`);
  const kind = peftTypes[type as keyof typeof peftTypes];
  if (kind === "lora") {
    const options = readOptions(json, fail);
    try {
      return addLora(model, options);
    } catch (error) {
      if (!(error instanceof LineageError)) throw error;
      throw fail(error.message);
    }
  }
  if (!(model instanceof CausalLm))
    throw new LineageError(
      "unsupported",
      `${file}: the adapter is a ${kind === "prompt" ? "soft prompt" : "prefix"}, which lineage computes for decoders alone; this model is another one`,
    );
  const { num_virtual_tokens: tokens } = readSoftPrompt(json, fail);
  return addSoftPrompt(model, { kind, tokens });
}

/** Reads peft's configuration of a LoRA adapter. Throws `config` for what lineage does not compute, naming the entry. */
function readOptions(json: unknown, fail: Fail): LoraOptions {
  const config = validated(readEntries, json, fail);
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
    dora: config.use_dora,
    targets: targetsOf(config.target_modules, fail),
    whole: config.modules_to_save ?? [],
    exclude:
      isOff(config.exclude_modules) || config.exclude_modules == null
        ? undefined
        : patternOf(config.exclude_modules, fail),
    ranks: patternsOf(config.rank_pattern, fail),
    alphas: patternsOf(config.alpha_pattern, fail),
  };
}

const softPromptEntries = z.object({
  num_virtual_tokens: z.int().positive(),
  num_transformer_submodules: z.literal(1).nullish(),
});

/** Where a soft prompt came from and whom it fits, which the file's shape says; a projection is done when peft saves. */
const softPromptWithoutEffect = new Set([
  ...withoutEffect,
  "peft_type",
  "token_dim",
  "num_attention_heads",
  "num_layers",
  "encoder_hidden_size",
  "prefix_projection",
  "prompt_tuning_init",
  "prompt_tuning_init_text",
  "tokenizer_name_or_path",
  "tokenizer_kwargs",
  "init_weights",
]);

/** Reads peft's configuration of a soft prompt or a prefix. */
function readSoftPrompt(json: unknown, fail: Fail): z.infer<typeof softPromptEntries> {
  for (const [entry, value] of Object.entries(json as object))
    if (
      !Object.hasOwn(softPromptEntries.shape, entry) &&
      !softPromptWithoutEffect.has(entry) &&
      !isOff(value)
    )
      throw fail(`${entry} is ${JSON.stringify(value)}, which is not supported`);
  return validated(softPromptEntries, json, fail);
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
const configJson = (
  { model, adapter, head }: Pick<AdapterToSave, "model" | "adapter" | "head">,
  base: string | undefined,
): Record<string, unknown> => ({
  ...(adapter.kind === "lora" ? loraJson(model, adapter, head) : softPromptJson(model, adapter)),
  base_model_name_or_path: base ?? null,
  inference_mode: true,
});

function softPromptJson(model: Module, { prompt }: SoftPromptAdapter): Record<string, unknown> {
  const { numLayers, ...config } = (model as CausalLm).config;
  const { numKeyValueHeads, headSize } = keyValueShape({ numLayers, ...config });
  const shared = {
    task_type: "CAUSAL_LM",
    num_virtual_tokens: prompt.tokens,
    num_layers: numLayers,
    num_transformer_submodules: 1,
    modules_to_save: null,
  };
  if (prompt.kind === "prompt")
    return {
      peft_type: "PROMPT_TUNING",
      ...shared,
      token_dim: config.hiddenSize,
      num_attention_heads: config.numHeads,
      prompt_tuning_init: "RANDOM",
      prompt_tuning_init_text: null,
      tokenizer_name_or_path: null,
    };
  return {
    peft_type: "PREFIX_TUNING",
    ...shared,
    token_dim: numKeyValueHeads * headSize,
    num_attention_heads: numKeyValueHeads,
    encoder_hidden_size: numKeyValueHeads * headSize,
    prefix_projection: false,
  };
}

/** What peft calls the tasks of heads; choices have no word. */
const taskTypes: Readonly<Partial<Record<HeadName, string>>> = {
  classify: "SEQ_CLS",
  tag: "TOKEN_CLS",
  span: "QUESTION_ANS",
};

const taskType = (model: Module, head: HeadName | undefined): string | null =>
  model instanceof CausalLm
    ? "CAUSAL_LM"
    : model instanceof EncoderDecoder
      ? "SEQ_2_SEQ_LM"
      : ((head && taskTypes[head]) ?? null);

function loraJson(model: Module, adapter: LoraAdapter, head: HeadName | undefined): Record<string, unknown> {
  const { rank, alpha, dropout = 0, rankStabilized = false, dora = false, ranks, alphas } = adapter.options;
  const layouts = [...adapter.layers.values()].map(({ linear }) => linear.transposeWeight);
  return {
    peft_type: "LORA",
    task_type: taskType(model, head),
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
    modules_to_save: adapter.whole.size > 0 ? wholeNames(model, adapter.whole.keys()) : null,
    use_dora: dora,
  };
}

// ---- Files --------------------------------------------------------------------------------------------------------

/** A model with an adapter beside its layers, and the weights of both. */
export interface Adapted<W extends WeightSet, A extends Adapter = Adapter> {
  readonly adapter: A;
  readonly weights: W;
}

/** A parameter's name in an adapter's file. */
const storedName = ({ kind }: Adapter, name: string): string =>
  kind === "lora" ? prefix + name : "prompt_embeddings";

/** An adapter with its model. */
export interface AdapterToSave extends Adapted<WeightSet> {
  readonly model: Module;
  /** The name or folder of the base, for whoever loads the adapter. */
  readonly base?: string | undefined;
  /** The head that the model has. Default: none. */
  readonly head?: HeadName | undefined;
}

/** Writes an adapter as peft does. What was there of an adapter is replaced as a whole; other files of the folder stay. */
export async function saveAdapter(
  folder: string,
  { model, adapter, weights, base, head }: AdapterToSave,
): Promise<void> {
  const tensors = [...adapter.parameters.keys()].map((name): TensorToSave => {
    const stored = storedWeight(weights, name);
    if ("quantized" in stored)
      throw new LineageError("argument", `${name} is quantised; an adapter is saved in full precision`);
    return { ...stored.tensor, name: storedName(adapter, name) };
  });
  await replaceFiles(
    folder,
    async (staging) => {
      await writeJson(path.join(staging, configFile), configJson({ model, adapter, head }, base));
      await writeSafetensors(path.join(staging, weightFile), tensors);
    },
    { part: (name) => name === configFile || name === weightFile },
  );
}

export interface LoadAdapterOptions {
  /** Refuses an adapter that changes more than a sum beside each layer: DoRA, or modules that learned whole. Default false. */
  readonly updatesAlone?: boolean;
}

/** A model that an adapter is loaded for. */
export interface AdapterBase {
  readonly model: Module;
  readonly weights: ModelWeights;
  /** What the model is of, which an adapter in a GGUF needs. */
  readonly system?: System;
}

/**
 * Puts the adapter in a folder of peft's, or in a `.gguf` file of llama.cpp's, beside the layers of a model that is only run;
 * the weights returned are those given and the adapter's. Throws FormatError for a GGUF that contradicts itself, `config` for an adapter that lineage does not compute, `checkpoint` where a tensor is missing,
 * is not used, or has another shape than the base wants.
 */
export async function loadAdapter(
  place: string,
  base: AdapterBase,
  { updatesAlone = false }: LoadAdapterOptions = {},
): Promise<Adapted<ModelWeights>> {
  const opened = await (isFile(place) ? openGguf(place, base) : openFolder(place));
  const { model, weights } = base;
  const trainable = new Map([...namedParameters(model).values()].map((one) => [one, one.trainable]));
  const adapter = opened.add(model);
  // Whether the base's parameters learn is not for a loaded adapter to say.
  for (const [parameter, before] of trainable) parameter.trainable = before;
  try {
    if (updatesAlone && adapter.kind === "lora") checkUpdatesAlone(place, adapter);
    const tensors = await opened.tensors(adapter, weights.runtime);
    return { adapter, weights: weights.with({ ...rowNorms(adapter, weights, "fixed"), ...tensors }) };
  } catch (error) {
    adapter.remove();
    throw error;
  }
}

/** An adapter that was read but for its numbers. */
interface OpenedAdapter {
  /** Puts it beside a model. */
  readonly add: (model: Module) => Adapter;
  /** Its parameters by name. */
  readonly tensors: (
    adapter: Adapter,
    runtime: WeightSet["runtime"],
  ) => Promise<Record<string, DeviceTensor>>;
}

const isFile = (place: string): boolean => statSync(place, { throwIfNoEntry: false })?.isFile() === true;

async function openFolder(folder: string): Promise<OpenedAdapter> {
  const json = await readConfig(folder);
  const file = await SafetensorsFile.open(path.join(folder, weightFile));
  return {
    add: (model) => addDescribed(model, path.join(folder, configFile), json),
    tensors: (adapter, runtime) => readTensors(file, adapter, runtime),
  };
}

async function openGguf(file: string, { model, system }: AdapterBase): Promise<OpenedAdapter> {
  if (!system || !("config" in model))
    throw new LineageError(
      "argument",
      `${file} is a GGUF, whose names follow from the model's system: name that, too`,
    );
  const { options, layers } = await readGgufAdapter(file, {
    system,
    model: model as typeof model & { readonly config: SystemConfig },
  });
  return {
    add: (beside) => addLora(beside, options),
    tensors: (adapter, runtime) => {
      const found: Record<string, DeviceTensor> = {};
      for (const [layer, { lora }] of (adapter as LoraAdapter).layers)
        for (const part of ["down", "up"] as const) {
          const { name, shape } = lora[part].weight;
          found[name] = runtime.createTensor("float32", shape, layers.get(layer)![part]);
        }
      return Promise.resolve(found);
    },
  };
}

async function readConfig(folder: string): Promise<unknown> {
  const file = path.join(folder, configFile);
  if (existsSync(file)) return readJson(file);
  throw new LineageError(
    "checkpoint",
    existsSync(folder)
      ? `${folder} is not an adapter of peft's: it has no ${configFile}`
      : `there is no adapter in ${folder}: there is no such file or folder`,
  );
}

/** Shapes of the tensors in an adapter's folder, by the names that the model has for them. */
export async function adapterShapes(folder: string): Promise<ReadonlyMap<string, readonly number[]>> {
  await readConfig(folder);
  const { header } = await SafetensorsFile.open(path.join(folder, weightFile));
  return new Map(
    [...header.tensors].flatMap(([name, { shape }]) =>
      name.startsWith(prefix) ? [[name.slice(prefix.length), shape] as const] : [],
    ),
  );
}

/** The files of an adapter in a folder of peft's. */
export const adapterFiles = (folder: string): { readonly config: string; readonly weights: string } => ({
  config: path.join(folder, configFile),
  weights: path.join(folder, weightFile),
});

/** Whether a place holds an adapter and no model. */
export async function holdsAdapter(place: string): Promise<boolean> {
  if (!existsSync(place)) return false;
  if (isFile(place)) return place.endsWith(".gguf") && (await isGgufAdapter(place));
  return existsSync(path.join(place, configFile)) && !existsSync(path.join(place, "config.json"));
}

/** What an adapter's files say that its base is; undefined where they do not say it. */
export async function adapterBase(place: string): Promise<string | undefined> {
  if (isFile(place)) return undefined;
  const file = path.join(place, configFile);
  const { base_model_name_or_path: base } = validated(
    z.object({ base_model_name_or_path: z.string().nullish() }),
    await readConfig(place),
    (problem) => new LineageError("config", `${file}: ${problem}`),
  );
  return base ?? undefined;
}

/** The head that an adapter was trained with, as peft names its task; undefined where it says none. */
export async function adapterHead(folder: string): Promise<HeadName | undefined> {
  const file = path.join(folder, configFile);
  const { task_type: task } = validated(
    z.object({ task_type: z.string().nullish() }),
    await readConfig(folder),
    (problem) => new LineageError("config", `${file}: ${problem}`),
  );
  const found = Object.entries(taskTypes).find(([, name]) => name === task);
  return found?.[0] as HeadName | undefined;
}

function checkUpdatesAlone(folder: string, { options, whole }: LoraAdapter): void {
  if (!options.dora && whole.size === 0) return;
  throw new LineageError(
    "unsupported",
    `${folder} ${options.dora ? "is of DoRA" : `holds modules that learned whole (${[...whole.keys()].join(", ")})`}, which is more than an update beside each layer; load it alone, or merge it first`,
  );
}

async function readTensors(
  file: SafetensorsFile,
  adapter: Adapter,
  runtime: WeightSet["runtime"],
): Promise<Record<string, DeviceTensor>> {
  const { tensors } = file.header;
  const { parameters } = adapter;
  const wanted = new Set([...parameters.keys()].map((name) => storedName(adapter, name)));
  for (const name of tensors.keys())
    if (!wanted.has(name))
      throw new LineageError(
        "checkpoint",
        `${file.path} holds the tensor ${name}, for which this model and ${configFile} have no place: the adapter was made for another base`,
      );
  const read: Record<string, DeviceTensor> = {};
  for (const [name, { shape }] of parameters) {
    const stored = storedName(adapter, name);
    const entry = tensors.get(stored);
    if (!entry)
      throw new LineageError(
        "checkpoint",
        `${file.path} has no tensor ${stored}, which ${configFile} asks for in this model: the adapter was made for another base`,
      );
    if (entry.shape.join() !== shape.join())
      throw new LineageError(
        "checkpoint",
        `${file.path}: ${stored} is [${entry.shape.join(", ")}], but this model wants [${shape.join(", ")}]: the adapter was made for another base`,
      );
    const reader = floatReaders[entry.dtype];
    if (!reader)
      throw new LineageError("checkpoint", `${file.path}: ${stored} is ${entry.dtype}, not floats`);
    const bytes = new Uint8Array(entry.byteLength);
    await file.readInto(stored, bytes);
    const values = new Float32Array(elementCount(shape));
    reader(bytes, values);
    read[name] = runtime.createTensor("float32", shape, values);
  }
  return read;
}

/** The embeddings of some tokens, `[ids.length, hiddenSize]`: what a soft prompt may begin as. */
export function embeddingsOf(
  { model, weights }: { readonly model: CausalLm; readonly weights: WeightSet },
  ids: readonly number[],
): Float32Array {
  namedParameters(model);
  const { weight, hiddenSize } = model.transformer.tokenEmbedding;
  const table = valuesOf(weights, weight.name);
  const rows = new Float32Array(ids.length * hiddenSize);
  for (const [index, id] of ids.entries())
    rows.set(table.subarray(id * hiddenSize, (id + 1) * hiddenSize), index * hiddenSize);
  return rows;
}

// ---- Merging ------------------------------------------------------------------------------------------------------

/**
 * Adds an adapter's update to the matrices that it stands beside, and takes it off the model. Matrices in fewer bits are
 * dequantised first: the sum is that of the base that the adapter was trained on, in float32. Throws `unsupported` for a
 * soft prompt.
 */
export function mergeAdapter({ adapter, weights }: Adapted<ModelWeights>): ModelWeights {
  if (adapter.kind !== "lora")
    throw new LineageError(
      "unsupported",
      "a soft prompt stands before the text and has no matrices to merge; load it beside the model",
    );
  const merged: Record<string, DeviceTensor> = {};
  const unwanted: string[] = [];
  for (const { linear, lora } of adapter.layers.values()) {
    const { name, shape } = linear.weight;
    const values = valuesOf(weights, name);
    const [down, up, magnitude] = lora.parameters.map((one) => valuesOf(weights, one.name)) as [
      Float32Array,
      Float32Array,
      Float32Array?,
    ];
    addUpdate(values, linear, { down, up, rank: lora.rank, scaling: lora.scaling });
    if (magnitude) setRowLengths(values, linear, magnitude);
    merged[name] = weights.runtime.createTensor("float32", shape, values);
    unwanted.push(...lora.parameters.map((one) => one.name));
    if (lora.baseNorms) unwanted.push(lora.baseNorms.name);
  }
  adapter.remove();
  return weights.with(merged, unwanted);
}

/**
 * Weights of a base with what DoRA begins as: the lengths of the rows of every matrix that the adapter stands beside, once as
 * they are and once to be learned. Unchanged for another adapter.
 */
export const withRowNorms = (adapter: Adapter, weights: ModelWeights): ModelWeights =>
  weights.with(rowNorms(adapter, weights, "first"));

/** @param use whether the lengths that learn begin so, too, or are the adapter's */
function rowNorms(
  adapter: Adapter,
  weights: ModelWeights,
  use: "first" | "fixed",
): Record<string, DeviceTensor> {
  const found: Record<string, DeviceTensor> = {};
  if (adapter.kind !== "lora") return found;
  for (const { linear, lora } of adapter.layers.values()) {
    if (!lora.baseNorms || !lora.magnitude) continue;
    const norms = rowLengths(valuesOf(weights, linear.weight.name), linear);
    for (const { name } of [lora.baseNorms, ...(use === "first" ? [lora.magnitude] : [])])
      found[name] = weights.runtime.createTensor("float32", [norms.length], norms);
  }
  return found;
}

/** Lengths of the rows of a linear layer's matrix, a row for each output. */
function rowLengths(weight: Float32Array, { outSize, transposeWeight }: Linear): Float32Array<ArrayBuffer> {
  const squares = new Float64Array(outSize);
  const inSize = weight.length / outSize;
  weight.forEach((value, at) => {
    squares[transposeWeight ? Math.floor(at / inSize) : at % outSize]! += value * value;
  });
  return Float32Array.from(squares, Math.sqrt);
}

/** Makes the rows of a matrix as long as `lengths` says, in place. */
function setRowLengths(weight: Float32Array, linear: Linear, lengths: Float32Array): void {
  const { outSize, transposeWeight } = linear;
  const inSize = weight.length / outSize;
  const before = rowLengths(weight, linear);
  weight.forEach((value, at) => {
    const row = transposeWeight ? Math.floor(at / inSize) : at % outSize;
    weight[at] = (value * lengths[row]!) / before[row]!;
  });
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
