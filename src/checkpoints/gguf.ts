import path from "node:path";
import { FormatError, LineageError } from "../base/errors.js";
import { emitWarning } from "../base/warnings.js";
import { requireMemory } from "../base/memory.js";
import {
  GgufFile,
  type GgufPlace,
  type GgufTensorToSave,
  type GgufValue,
  checkGgufShape,
  checkMetadata,
  decimal,
  ggufFormat,
  ggufStopIds,
  ggufTokenizer,
  ggufTokenizerMetadata,
  rearrange,
  ropeKeys,
  tensorFormat,
  writeGguf,
} from "../formats/index.js";
import {
  type DecoderSystem,
  type EncoderDecoderSystem,
  type GgufLayout,
  type System,
  type SystemConfig,
  kindWords,
  systemsOfKind,
} from "../models/index.js";
import { type ConfigTable, type Parameter, type WeightSet, Weights, namedParameters } from "../nn/index.js";
import type { Runtime } from "../runtime/types.js";
import { requireLayers } from "./counts.js";
import type { CheckpointOfKind, LoadOptions } from "./checkpoint.js";
import { fullValues } from "./stored.js";

/** Tensors that a GGUF may hold besides the parameters: what positions are scaled by, and what is tied or never read. */
const unused = /^(rope_freqs|rope_factors_(long|short)|output|dec\.blk\.\d+\.cross_attn_rel_b)\.weight$/;

/** Kinds of models that lineage reads from a GGUF. */
export type GgufKind = "decoder" | "encoder-decoder";

/** A system that llama.cpp knows. */
export type KnownSystem = (DecoderSystem | EncoderDecoderSystem) & {
  readonly gguf: GgufLayout<SystemConfig>;
};
export const knownToLlamaCpp = (system: System): system is KnownSystem => system.gguf !== undefined;

/** The system whose model a GGUF holds. Throws `unsupported` for an architecture that lineage does not load. */
function systemOfGguf(file: GgufFile, { systems = [] }: LoadOptions): KnownSystem {
  const architecture = file.require("general.architecture", "string");
  if (file.get("general.type", "string") === "adapter")
    throw new LineageError(
      "checkpoint",
      `${file.path} holds an adapter and no model: name the base that it was trained beside as the model, and this file as the adapter`,
    );
  const known = [...systemsOfKind("decoder", systems), ...systemsOfKind("encoder-decoder", systems)].filter(
    knownToLlamaCpp,
  );
  // One that tells its files from others' goes before one that takes all.
  const found = known
    .filter(({ gguf }) => gguf.architecture === architecture)
    .sort((a, b) => Number(b.gguf.holds !== undefined) - Number(a.gguf.holds !== undefined))
    .find(({ gguf }) => gguf.holds?.(file) ?? true);
  if (found) return found;
  const names = new Map<string, string[]>();
  for (const { gguf, title } of known)
    names.set(gguf.architecture, [...(names.get(gguf.architecture) ?? []), title]);
  throw new LineageError(
    "unsupported",
    `${file.path} holds a model of the architecture ${architecture}; lineage loads ${Array.from(names, ([name, titles]) => `${name} (${titles.join(", ")})`).join(", ")}`,
  );
}

/** Which kind of model a GGUF holds. */
export const kindOfGguf = async (file: string, options: LoadOptions = {}): Promise<GgufKind> =>
  systemOfGguf(await GgufFile.open(file), options).kind;

/** The system and the configuration of the model that a GGUF holds. */
export async function describeGguf(
  file: GgufFile,
  options: LoadOptions = {},
): Promise<{ readonly system: DecoderSystem | EncoderDecoderSystem; readonly config: SystemConfig }> {
  const system = systemOfGguf(file, options);
  return { system, config: await configOfGguf(file, system) };
}

/** The configuration that a GGUF's metadata and tensors amount to. */
async function configOfGguf(
  file: GgufFile,
  { gguf, config }: { readonly gguf: GgufLayout<SystemConfig>; readonly config: ConfigTable<SystemConfig> },
): Promise<SystemConfig> {
  const read: Record<string, unknown> = {
    vocabSize: file.tensor("token_embd.weight").shape[0],
    ...(config.has("tieEmbeddings") && { tieEmbeddings: !file.tensors.has("output.weight") }),
  };
  for (const [field, entry] of Object.entries(gguf.metadata)) {
    if (field === "vocabSize") continue;
    const key = `${gguf.architecture}.${entry.key}`;
    const found = file.get(key, "number");
    const value =
      found === undefined && entry.absent
        ? entry.absent(read as unknown as SystemConfig)
        : (found ?? file.require(key, "number"));
    read[field] = entry.type === "float32" && typeof value === "number" ? decimal(value) : value;
  }
  const choices = read as unknown as SystemConfig;
  return config.create({ ...choices, ...(await gguf.read?.(file, choices)) });
}

/** Keys, without the architecture, of the entries that a system reads. */
const keysOf = ({ gguf }: KnownSystem): ReadonlySet<string> =>
  new Set([
    ...Object.values(gguf.metadata).flatMap(({ key, also = [] }) => [key, ...also]),
    ...(gguf.read ? ropeKeys : []),
    ...(gguf.withoutEffect ?? []),
  ]);

/** A layout's names of modules, as patterns. */
const patterns = new WeakMap<GgufLayout<SystemConfig>, readonly (readonly [RegExp, string, string])[]>();

function patternsOf(gguf: GgufLayout<SystemConfig>): readonly (readonly [RegExp, string, string])[] {
  let found = patterns.get(gguf);
  if (!found)
    patterns.set(
      gguf,
      (found = Object.entries(gguf.names).map(
        ([module, place]) =>
          [
            new RegExp(`^${module.replaceAll(".", "\\.").replaceAll("*", "(\\d+)")}$`),
            module,
            place,
          ] as const,
      )),
    );
  return found;
}

/**
 * Where llama.cpp keeps a parameter. Throws `unsupported` for one that it has no name for.
 * @param file the file that is read; undefined while one is written
 */
export function ggufPlaceOf(
  name: string,
  { gguf }: KnownSystem,
  config: SystemConfig,
  file: GgufFile | undefined,
): GgufPlace {
  const kind = name.slice(name.lastIndexOf(".") + 1);
  const named = name.slice(0, -kind.length - 1);
  const [pattern, module, place] = patternsOf(gguf).find(([one]) => one.test(named)) ?? [];
  if (!pattern) throw new LineageError("unsupported", `llama.cpp has no name for the parameter ${name}`);
  const numbers = pattern.exec(named)!.slice(1);
  const heads = gguf.rotaryHeads?.(module!, config);
  const factor = gguf.factor?.(module!, config, file);
  let index = 0;
  return {
    name: `${place!.replace(/\*/g, () => numbers[index++]!)}.${kind}`,
    ...(heads !== undefined && { rotaryHeads: heads }),
    ...(factor !== undefined && { factor }),
    ...(kind === "weight" && gguf.transposed?.includes(module!) && { transposed: true }),
  };
}

/** A GGUF's model without its numbers, and where they lie. */
type OpenedGguf<K extends GgufKind> = Omit<CheckpointOfKind[K], "weights"> & {
  readonly gguf: GgufFile;
  readonly parameters: ReadonlyMap<string, Parameter>;
  readonly places: ReadonlyMap<string, GgufPlace>;
};

/** Throws `unsupported` for a model of another kind. */
export async function openGguf<K extends GgufKind>(
  file: string,
  kind: K,
  options: LoadOptions,
): Promise<OpenedGguf<K>>;
export async function openGguf(
  file: string,
  kind: GgufKind,
  options: LoadOptions,
): Promise<OpenedGguf<"decoder"> | OpenedGguf<"encoder-decoder">> {
  const gguf = await GgufFile.open(file);
  const system = systemOfGguf(gguf, options);
  if (system.kind !== kind)
    throw new LineageError(
      "unsupported",
      `${file} holds a ${system.title}, ${kindWords[system.kind]}; ${kindWords[kind]} is needed here`,
    );
  checkMetadata(gguf, keysOf(system), options.warn ?? emitWarning);
  const config = await configOfGguf(gguf, system);
  requireLayers(file, system, config, gguf.tensors.size);
  const tokenizer = ggufTokenizer(gguf, options.warn);
  if (tokenizer.vocabSize > config.vocabSize)
    throw new FormatError(
      file,
      `the tokenizer has ${tokenizer.vocabSize} tokens, but the model has embeddings for ${config.vocabSize}`,
    );
  // Each kind by itself, so that a system and its model stay a pair.
  const own =
    system.kind === "decoder"
      ? { system, model: system.create(config) }
      : { system, model: system.create(config as Parameters<typeof system.create>[0]) };
  const { model } = own;
  const parameters = namedParameters(model);
  const places = new Map(
    Array.from(parameters.keys(), (name) => [name, ggufPlaceOf(name, system, config, gguf)]),
  );
  const taken = new Set<string>();
  for (const [name, place] of places) {
    checkGgufShape(gguf, place, parameters.get(name)!.shape);
    taken.add(place.name);
  }
  const extra = [...gguf.tensors.keys()].find((name) => !taken.has(name) && !unused.test(name));
  if (extra !== undefined)
    throw new FormatError(
      file,
      `the tensor ${extra} has no place in the model that the metadata describe: it is another architecture's`,
    );
  return { ...own, gguf, tokenizer, stopIds: ggufStopIds(gguf), parameters, places } as
    OpenedGguf<"decoder"> | OpenedGguf<"encoder-decoder">;
}

/**
 * Reads a GGUF of the architectures that systems name, llama, gpt2 and t5 among them: model, weights in float32 and tokenizer.
 * Throws FormatError where the file contradicts itself, `unsupported` for a model of another kind than was asked for (a decoder
 * where nothing is), `memory` before it begins what will not fit into what is free.
 */
export async function loadGguf<K extends GgufKind = "decoder">(
  runtime: Runtime,
  file: string,
  options?: LoadOptions & { readonly kind?: K },
): Promise<CheckpointOfKind[K]>;
export async function loadGguf(
  runtime: Runtime,
  file: string,
  { kind = "decoder", ...options }: LoadOptions & { readonly kind?: GgufKind } = {},
): Promise<CheckpointOfKind[GgufKind]> {
  const { gguf, parameters, places, ...opened } = await openGguf(file, kind, options);
  const size = [...parameters.values()].reduce((sum, parameter) => sum + parameter.size, 0);
  requireMemory(4 * size, `the weights of ${file} in float32`, "take a smaller model, or a quantised one");
  const weights = Weights.allocate(runtime, opened.model);
  try {
    for (const [name, place] of places) {
      const { shape } = parameters.get(name)!;
      const values = await gguf.readValues(place.name);
      weights.get(name).write(rearrange(values, shape, place, "fromGguf"));
    }
    return { ...opened, weights } as CheckpointOfKind[GgufKind];
  } catch (error) {
    weights.dispose();
    throw error;
  }
}

export interface SaveGgufOptions {
  /** How matrices are kept: F32, F16, Q8_0 or Q4_0, where their rows are whole blocks of it, else F16. Default F16. */
  readonly format?: string;
  /** What the model is called. Default: the file's name. */
  readonly name?: string;
}

/** Writes a GGUF that llama.cpp loads. Throws `unsupported` for a model or tokenizer that llama.cpp has no words for. */
export async function saveGguf(
  file: string,
  { system, model, weights, tokenizer, stopIds }: CheckpointOfKind<WeightSet>[GgufKind],
  { format = "F16", name = path.basename(file, ".gguf") }: SaveGgufOptions = {},
): Promise<void> {
  if (!ggufFormat(format).quantize)
    throw new LineageError("argument", `lineage does not write ${format}; it writes F32, F16, Q8_0 and Q4_0`);
  if (!knownToLlamaCpp(system))
    throw new LineageError("unsupported", `llama.cpp does not know ${system.title}`);
  const { config } = model;
  if ("prefixLm" in config && config.prefixLm)
    throw new LineageError(
      "unsupported",
      `llama.cpp reads prompts from left to right, but this ${system.title} is a prefix language model, which reads them both ways`,
    );
  const { metadata, tensors } = describe(system, config, name);
  metadata.set("general.file_type", { type: "uint32", value: fileTypes[format]! });
  for (const [key, value] of ggufTokenizerMetadata(tokenizer, config.vocabSize, stopIds ?? []))
    metadata.set(key, value);
  for (const [parameter, { shape }] of namedParameters(model)) {
    const place = ggufPlaceOf(parameter, system, config, undefined);
    tensors.push({
      name: place.name,
      format: ggufFormat(tensorFormat(place, shape, format)),
      shape: place.transposed ? [...shape].reverse() : shape,
      values: () => rearrange(fullValues(weights, parameter), shape, place, "toGguf"),
    });
  }
  await writeGguf(file, metadata, tensors);
}

/** The metadata of a model, and the tensors that stand for a part of them. */
function describe(
  { gguf }: KnownSystem,
  config: SystemConfig,
  name: string,
): { readonly metadata: Map<string, GgufValue>; readonly tensors: GgufTensorToSave[] } {
  const { architecture } = gguf;
  const text = (value: string): GgufValue => ({ type: "string", value });
  const metadata = new Map<string, GgufValue>([
    ["general.architecture", text(architecture)],
    ["general.type", text("model")],
    ["general.name", text(name)],
    ["general.quantization_version", { type: "uint32", value: 2 }],
  ]);
  const fields = new Map<string, unknown>(Object.entries(config));
  for (const [field, { key, also = [], type }] of Object.entries(gguf.metadata)) {
    const value = fields.get(field);
    if (value === undefined) continue;
    for (const each of [key, ...also])
      metadata.set(`${architecture}.${each}`, { type, value: value as number });
  }
  const more = gguf.write?.(config);
  for (const [key, value] of Object.entries(more?.metadata ?? {}))
    metadata.set(`${architecture}.${key}`, value);
  const tensors = Object.entries(more?.vectors ?? {}).map(([vector, values]) => ({
    name: vector,
    format: ggufFormat("F32"),
    shape: [values.length],
    values: () => values,
  }));
  return { metadata, tensors };
}

/** llama.h, enum llama_ftype. */
const fileTypes: Readonly<Record<string, number>> = { F32: 0, F16: 1, Q4_0: 2, Q8_0: 7 };
