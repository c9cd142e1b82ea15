import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { allocate, bytesPerElement, elementCount } from "../base/dtype.js";
import { FormatError, LineageError } from "../base/errors.js";
import { readJson, writeJson } from "../base/files.js";
import { replaceFiles, settleFolder } from "../base/folders.js";
import { bfloat16Bits, float16Bits } from "../base/half.js";
import { requireMemory } from "../base/memory.js";
import { type Module, Weights, namedParameters } from "../nn/index.js";
import type { DeviceTensor, Runtime } from "../runtime/types.js";
import {
  floatReaders,
  type SafetensorsEntry,
  SafetensorsFile,
  type TensorToSave,
  writeSafetensors,
} from "./safetensors.js";

/** Tensors by name: weights, moments, or codes in 8 bits. */
interface TensorSet {
  readonly tensors: Readonly<Record<string, DeviceTensor<"float32" | "uint8">>>;
}

/** A buffer's tensors as they go into a file; `prefix` keeps moments and weights of one file apart. */
export const tensorsToSave = (weights: TensorSet, prefix = ""): TensorToSave[] =>
  Object.entries(weights.tensors).map(([name, tensor]) => {
    const view = tensor.contents();
    const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
    return { name: prefix + name, dtype: tensor.dtype, shape: tensor.shape, bytes };
  });

export interface SaveWeightsOptions {
  /** Default float32. */
  readonly dtype?: "float32" | "float16" | "bfloat16";
  /** Bytes that a file may have; more weights are shared out among several, with an index. Default 5 GB. */
  readonly shardBytes?: number;
}

const narrow = { float16: float16Bits, bfloat16: bfloat16Bits } as const;

/** Writes tensors of floats into a checkpoint folder: `model.safetensors`, or shards and their index. */
export async function saveWeightFiles(
  folder: string,
  tensors: readonly TensorToSave[],
  { dtype = "float32", shardBytes = 5e9 }: SaveWeightsOptions = {},
): Promise<void> {
  const shards: TensorToSave[][] = [];
  const size = ({ shape }: TensorToSave) => elementCount(shape) * bytesPerElement(dtype);
  let room = 0;
  for (const tensor of tensors) {
    if (size(tensor) > room || shards.length === 0) {
      shards.push([]);
      room = shardBytes;
    }
    shards.at(-1)!.push(tensor);
    room -= size(tensor);
  }
  const converted = (tensor: TensorToSave): TensorToSave => {
    if (tensor.dtype === dtype) return tensor;
    const values = new Float32Array(elementCount(tensor.shape));
    floatReaders[tensor.dtype]!(tensor.bytes, values);
    const { buffer } = dtype === "float32" ? values : Uint16Array.from(values, narrow[dtype]);
    return { ...tensor, dtype, bytes: new Uint8Array(buffer) };
  };
  const number = (value: number) => String(value).padStart(5, "0");
  const names = shards.map((_, shard) =>
    shards.length === 1 ? singleFile : `model-${number(shard + 1)}-of-${number(shards.length)}.safetensors`,
  );
  await replaceFiles(
    folder,
    async (staging) => {
      // One shard at a time is in memory twice.
      for (const [shard, part] of shards.entries())
        await writeSafetensors(path.join(staging, names[shard]!), part.map(converted));
      if (shards.length === 1) return;
      await writeJson(path.join(staging, indexFile), {
        metadata: { total_size: tensors.reduce((sum, tensor) => sum + size(tensor), 0) },
        weight_map: Object.fromEntries(
          shards.flatMap((part, shard) => part.map(({ name }) => [name, names[shard]])),
        ),
      });
    },
    { part: isWeightFile },
  );
}

const singleFile = "model.safetensors";
const indexFile = `${singleFile}.index.json`;

/** Whether a file of this name holds weights of the model in its folder. */
export const isWeightFile = (name: string): boolean =>
  name === singleFile || name === indexFile || /^model-\d{5}-of-\d{5}\.safetensors$/.test(name);

/** Where a parameter's numbers lie. */
export interface Place {
  readonly file: SafetensorsFile;
  /** The tensor's name in the file. */
  readonly stored: string;
  readonly entry: SafetensorsEntry;
}

/** How the names and tensors of files may differ from a model's. */
export interface FileLayout {
  /** Names under which files may hold a parameter, the likeliest first. Default: its own, and without `transformer.`. */
  readonly aliases?: (name: string) => readonly string[];
  /** Whether a parameter may be missing; it then gets its first values from `seed`. Default: none may. */
  readonly optional?: (name: string) => boolean;
  /** Whether a parameter may have more rows than files hold; those behind get their first values. Default: none may. */
  readonly grows?: (name: string) => boolean;
}

/** OpenAI's own GPT-2 files leave the `transformer.` out. */
const defaultAliases = (name: string): readonly string[] => [name, name.replace(/^transformer\./, "")];

/**
 * Where each parameter's numbers lie. Throws `checkpoint` naming the first tensor that is missing, has another shape or a
 * dtype that is no float, where one of floats is wanted.
 */
export function placeTensors(
  files: readonly SafetensorsFile[],
  shapes: Iterable<readonly [name: string, shape: readonly number[], dtype?: "float32" | "uint8"]>,
  prefix: string,
  { aliases = defaultAliases, optional = () => false, grows = () => false }: FileLayout = {},
): Map<string, Place> {
  const places = new Map<string, Place>();
  for (const [name, shape, dtype = "float32"] of shapes) {
    const place = findTensor(
      files,
      aliases(name).map((alias) => prefix + alias),
    );
    if (!place && optional(name)) continue;
    if (!place) {
      const where = files.map((file) => file.path).join(", ");
      throw new LineageError("checkpoint", `${where} has no tensor ${prefix + name}, which the model needs`);
    }
    const { file, stored, entry } = place;
    const [rows = 0, ...rest] = shape;
    const fits =
      entry.shape.join() === shape.join() ||
      (grows(name) && entry.shape.slice(1).join() === rest.join() && (entry.shape[0] ?? 0) < rows);
    if (!(dtype === "uint8" ? entry.dtype === dtype : floatReaders[entry.dtype]) || !fits) {
      throw new LineageError(
        "checkpoint",
        `${file.path}: ${stored} is ${entry.dtype} [${entry.shape.join(", ")}], but the configuration makes it ${dtype} [${shape.join(", ")}]`,
      );
    }
    places.set(name, place);
  }
  return places;
}

/** Fills `weights` from files that share the tensors out. Throws as `placeTensors` does. */
export async function readWeights(
  files: readonly SafetensorsFile[],
  weights: TensorSet,
  prefix = "",
): Promise<void> {
  const shapes = Object.entries(weights.tensors).map(
    ([name, { shape, dtype }]) => [name, shape, dtype] as const,
  );
  await readPlaces(placeTensors(files, shapes, prefix), weights);
}

async function readPlaces(places: ReadonlyMap<string, Place>, weights: TensorSet): Promise<void> {
  for (const [name, { file, stored, entry }] of places) {
    // Rows that the file does not hold stay as they are.
    const tensor = weights.tensors[name]!;
    const size = elementCount(entry.shape);
    const view = tensor.apart ? allocate(tensor.dtype, size) : tensor.view().subarray(0, size);
    if (!(view instanceof Float32Array) || entry.dtype === "float32") {
      await file.readInto(stored, new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
    } else {
      const bytes = new Uint8Array(entry.byteLength);
      await file.readInto(stored, bytes);
      floatReaders[entry.dtype]!(bytes, view);
    }
    if (tensor.apart) {
      using read = tensor.slice(0, entry.shape);
      read.write(view);
    }
  }
}

function findTensor(files: readonly SafetensorsFile[], names: readonly string[]): Place | undefined {
  for (const stored of names) {
    for (const file of files) {
      const entry = file.header.tensors.get(stored);
      if (entry) return { file, stored, entry };
    }
  }
  return undefined;
}

/** The tensors of files that share them out, before a model takes them. */
export class StoredTensors {
  constructor(private readonly files: readonly SafetensorsFile[]) {}

  has(name: string): boolean {
    return this.files.some(({ header }) => header.tensors.has(name));
  }

  /** Whether two tensors hold the same numbers. */
  async same(one: string, other: string): Promise<boolean> {
    const [a, b] = [one, other].map((name) => findTensor(this.files, [name]));
    if (!a || !b) return false;
    const { dtype, shape, byteLength } = a.entry;
    if (b.entry.dtype !== dtype || b.entry.shape.join() !== shape.join()) return false;
    for (let start = 0; start < byteLength; start += comparedBytes) {
      const [left, right] = await Promise.all(
        [a, b].map(({ file, stored }) =>
          file.readPart(stored, start, Math.min(byteLength, start + comparedBytes)),
        ),
      );
      if (Buffer.compare(left!, right!) !== 0) return false;
    }
    return true;
  }
}

/** Of two tensors that are compared, so many are in memory. */
const comparedBytes = 2 ** 24;

const indexSchema = z.object({ weight_map: z.record(z.string(), z.string()) });

/**
 * The weight files of a checkpoint folder: `model.safetensors`, or the shards that its index names, or else those that their own
 * numbers say are all. Throws for a missing one.
 */
export async function openWeightFiles(folder: string): Promise<SafetensorsFile[]> {
  await settleFolder(folder);
  const single = path.join(folder, singleFile);
  if (existsSync(single)) return [await SafetensorsFile.open(single)];
  const index = path.join(folder, indexFile);
  const names = existsSync(index) ? await indexedShards(index) : await numberedShards(folder);
  const files = await Promise.all(names.map((name) => SafetensorsFile.open(path.join(folder, name))));
  const holders = new Map<string, string>();
  for (const { path: file, header } of files) {
    for (const name of header.tensors.keys()) {
      const before = holders.get(name);
      if (before !== undefined)
        throw new FormatError(file, `the tensor ${JSON.stringify(name)} is in ${before}, too`);
      holders.set(name, file);
    }
  }
  return files;
}

/** The shards that an index names. Throws for one that is not there. */
async function indexedShards(index: string): Promise<string[]> {
  const folder = path.dirname(index);
  const parsed = indexSchema.safeParse(await readJson(index));
  if (!parsed.success)
    throw new FormatError(index, "it must have a weight_map from tensor names to file names");
  const names = [...new Set(Object.values(parsed.data.weight_map))];
  if (names.length === 0) throw new FormatError(index, "its weight_map names no tensor");
  for (const name of names) {
    if (name !== path.basename(name) || /^\.{0,2}$|[\\\0]/.test(name))
      throw new FormatError(index, `the shard ${JSON.stringify(name)} must be a file of the same folder`);
    if (!existsSync(path.join(folder, name)))
      throw new LineageError("checkpoint", `${folder} has no ${name}, a shard that its index names`);
  }
  return names;
}

/** The shards of a folder without an index, where their own numbers say that they are all, and of one model. */
async function numberedShards(folder: string): Promise<string[]> {
  const sets = new Map<string, { readonly count: number; readonly names: Map<number, string> }>();
  for (const name of await readdir(folder)) {
    const [, stem, number, count] = /^(.+)-(\d{5})-of-(\d{5})\.safetensors$/.exec(name) ?? [];
    if (stem === undefined) continue;
    const key = `${stem}-*-of-${count!}.safetensors`;
    if (!sets.has(key)) sets.set(key, { count: Number(count), names: new Map() });
    sets.get(key)!.names.set(Number(number), name);
  }
  const [first, second] = sets;
  if (!first)
    throw new LineageError(
      "checkpoint",
      `${folder} is not a checkpoint: it has no ${singleFile}, nor shards of one`,
    );
  if (second)
    throw new LineageError(
      "checkpoint",
      `${folder} has shards of several models (${[...sets.keys()].join(", ")}) and no ${indexFile} that says which are meant`,
    );
  const [, { count, names }] = first;
  const given = Array.from({ length: Math.max(names.size, Math.min(count, mostShards)) }, (_, i) =>
    names.get(i + 1),
  );
  const missing = given.flatMap((name, i) => (name === undefined ? [String(i + 1)] : []));
  if (missing.length > 0 || count !== names.size)
    throw new LineageError(
      "checkpoint",
      `${folder} has ${names.size} of ${count} shards and no ${indexFile}; missing: ${missing.slice(0, 10).join(", ")}${missing.length > 10 ? ", ..." : ""}`,
    );
  return given as string[];
}

const mostShards = 10_000;

export interface LoadWeightsOptions extends FileLayout {
  /** Of the first values of parameters that the files do not have. Default 0. */
  readonly seed?: number;
  /**
   * Tensors that the files may hold and the model does not need: buffers, copies of tied weights. Any other one that no
   * parameter takes throws `checkpoint`: the configuration describes another model. Default: all of them may be there.
   */
  readonly unused?: RegExp;
}

/**
 * A model's weights from a checkpoint folder. What can be known from the files' headers is checked before memory is taken.
 * Throws `checkpoint` where files and model do not fit, `memory` where the weights do not fit into what is free.
 */
export async function loadWeights(
  runtime: Runtime,
  model: Module,
  folder: string,
  options: LoadWeightsOptions = {},
): Promise<Weights> {
  const { unused, seed = 0 } = options;
  const files = await openWeightFiles(folder);
  const parameters = namedParameters(model);
  const places = placeTensors(
    files,
    [...parameters].map(([name, { shape }]) => [name, shape] as const),
    "",
    options,
  );
  if (unused) {
    const taken = new Set([...places.values()].map(({ stored }) => stored));
    for (const { path: file, header } of files) {
      const extra = [...header.tensors.keys()].find((name) => !taken.has(name) && !unused.test(name));
      if (extra !== undefined)
        throw new LineageError(
          "checkpoint",
          `${file} holds the tensor ${extra}, for which the model of ${path.join(folder, "config.json")} has no place: the configuration describes another model`,
        );
    }
  }
  const bytes = [...parameters.values()].reduce((sum, { size }) => sum + 4 * size, 0);
  requireMemory(bytes, `the weights of ${folder} in float32`, "take a smaller model, or a quantised one");
  const isWhole = (name: string): boolean =>
    places.get(name)?.entry.shape.join() === parameters.get(name)?.shape.join();
  const weights = Weights.initialize(runtime, model, seed, (name) => !isWhole(name));
  try {
    await readPlaces(places, weights);
    return weights;
  } catch (error) {
    weights.dispose();
    throw error;
  }
}
