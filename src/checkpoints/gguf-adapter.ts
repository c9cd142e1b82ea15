import path from "node:path";
import { FormatError, LineageError } from "../base/errors.js";
import { emitWarning } from "../base/warnings.js";
import {
  GgufFile,
  type GgufPlace,
  type GgufTensorToSave,
  type GgufValue,
  ggufFormat,
  rearrange,
  tensorFormat,
  writeGguf,
} from "../formats/index.js";
import type { System, SystemConfig } from "../models/index.js";
import {
  type LoraAdapter,
  type LoraOptions,
  type Module,
  type WeightSet,
  linearLayers,
} from "../nn/index.js";
import { type KnownSystem, ggufPlaceOf, knownToLlamaCpp } from "./gguf.js";
import { fullValues } from "./stored.js";

// LoRA adapters as llama.cpp keeps them: llama-adapter.cpp, and convert_lora_to_gguf.py.

/** A model of which adapters may lie in a GGUF. */
export interface GgufBase {
  readonly system: System;
  readonly model: Module & { readonly config: SystemConfig };
}

/** The base's system. Throws `unsupported` for one that llama.cpp does not know. */
function known({ system }: GgufBase): KnownSystem {
  if (!knownToLlamaCpp(system))
    throw new LineageError("unsupported", `llama.cpp does not know ${system.title}`);
  return system;
}

/** Where llama.cpp keeps the weight that a layer's update belongs to. A and B lie `[rank, in]` and `[out, rank]`, as in peft. */
function placeOf(layer: string, system: KnownSystem, config: SystemConfig): GgufPlace {
  const { name, rotaryHeads, factor } = ggufPlaceOf(`${layer}.weight`, system, config, undefined);
  return { name, ...(rotaryHeads !== undefined && { rotaryHeads }), ...(factor !== undefined && { factor }) };
}

// ---- Writing ------------------------------------------------------------------------------------------------------

export interface SaveGgufAdapterOptions {
  /** How matrices are kept, F32, F16, Q8_0 or Q4_0, where their rows are whole blocks of it, else F16. Default F32. */
  readonly format?: string;
  /** What the adapter is called. Default: the file's name. */
  readonly name?: string;
}

/**
 * Writes a LoRA adapter that llama.cpp loads beside its base. A scale that is not alpha / rank lies in the numbers of B. Throws
 * `unsupported` for what llama.cpp has no words for: DoRA, and modules that learned whole.
 */
export async function saveGgufAdapter(
  file: string,
  { adapter, weights, ...base }: GgufBase & { readonly adapter: LoraAdapter; readonly weights: WeightSet },
  { format = "F32", name = path.basename(file, ".gguf") }: SaveGgufAdapterOptions = {},
): Promise<void> {
  const system = known(base);
  const { options, whole, layers } = adapter;
  if (options.dora || whole.size > 0)
    throw new LineageError(
      "unsupported",
      `llama.cpp has no adapters with ${options.dora ? "DoRA" : `modules that learned whole (${[...whole.keys()].join(", ")})`}; merge the adapter into its base, and convert that`,
    );
  const [first] = layers.values();
  // One alpha is for all layers, whose ranks may differ.
  const alpha = Math.fround(first!.lora.scaling * first!.lora.rank);
  const tensors = [...layers].flatMap(([layer, { lora }]): GgufTensorToSave[] => {
    const place = placeOf(layer, system, base.model.config);
    const factor = (lora.scaling * lora.rank) / alpha;
    const values = (part: "down" | "up") => () => {
      const found = fullValues(weights, lora[part].weight.name);
      if (part === "down") return found;
      const { shape } = lora.up.weight;
      const placed = rearrange(found, shape, place, "toGguf");
      return Math.abs(factor - 1) < 1e-6 ? placed : placed.map((value) => factor * value);
    };
    return (["down", "up"] as const).map((part) => {
      const { shape } = lora[part].weight;
      const stored = `${place.name}.lora_${part === "down" ? "a" : "b"}`;
      const kept = tensorFormat({ name: stored }, shape, format);
      return { name: stored, format: ggufFormat(kept), shape, values: values(part) };
    });
  });
  const text = (value: string): GgufValue => ({ type: "string", value });
  const metadata = new Map<string, GgufValue>([
    ["general.architecture", text(system.gguf.architecture)],
    ["general.type", text("adapter")],
    ["general.name", text(name)],
    ["general.quantization_version", { type: "uint32", value: 2 }],
    ["adapter.type", text("lora")],
    ["adapter.lora.alpha", { type: "float32", value: alpha }],
  ]);
  await writeGguf(file, metadata, tensors);
}

// ---- Reading ------------------------------------------------------------------------------------------------------

/** A LoRA adapter of a GGUF: what to put beside the base, and A's and B's numbers by the dotted path of their layer. */
export interface GgufAdapter {
  readonly options: LoraOptions;
  readonly layers: ReadonlyMap<string, { readonly down: Float32Array; readonly up: Float32Array }>;
}

/** Whether a GGUF holds an adapter and no model. */
export const isGgufAdapter = async (file: string): Promise<boolean> =>
  (await GgufFile.open(file)).get("general.type", "string") === "adapter";

/** Entries about adapters that change nothing of what one computes. */
const withoutEffect = new Set(["adapter.lora.task_name", "adapter.lora.prompt_prefix"]);

/**
 * Reads llama.cpp's LoRA adapter for a base. Throws FormatError where the file contradicts itself, `unsupported` for an adapter
 * of another type, `checkpoint` for one that was made for another base.
 */
export async function readGgufAdapter(
  file: string,
  base: GgufBase,
  warn: (warning: string) => void = emitWarning,
): Promise<GgufAdapter> {
  const system = known(base);
  const gguf = await GgufFile.open(file);
  const alpha = alphaOf(gguf, system, warn);
  const linears = linearLayers(base.model);
  const layerOf = new Map(
    [...linears.keys()].map((layer) => [placeOf(layer, system, base.model.config).name, layer] as const),
  );
  const ranks = new Map<string, number>();
  const layers = new Map<string, { down: Float32Array; up: Float32Array }>();
  for (const [target, layer] of targetsOf(gguf, layerOf)) {
    const { inSize, outSize } = linears.get(layer)!;
    const rank = rankOf(gguf, target, [inSize, outSize]);
    const place = placeOf(layer, system, base.model.config);
    const down = await finiteValues(gguf, `${target}.lora_a`);
    const up = await finiteValues(gguf, `${target}.lora_b`);
    ranks.set(layer, rank);
    layers.set(layer, { down, up: rearrange(up, [outSize, rank], place, "fromGguf") });
  }
  const patterns = (value: (rank: number) => number) =>
    new Map(Array.from(ranks, ([layer, rank]) => [layer.replaceAll(".", "\\."), value(rank)]));
  const [rank] = ranks.values();
  return {
    options: {
      rank: rank!,
      alpha,
      targets: [...ranks.keys()],
      ranks: patterns((one) => one),
      // llama.cpp takes no alpha for a scale of 1.
      ...(alpha === 0 && { alphas: patterns((one) => one) }),
    },
    layers,
  };
}

/** What the update's scale is made of. */
function alphaOf(
  gguf: GgufFile,
  { gguf: layout, title }: KnownSystem,
  warn: (warning: string) => void,
): number {
  const kind = gguf.require("general.type", "string");
  if (kind !== "adapter")
    throw new FormatError(gguf.path, `it holds a ${kind}, and an adapter is needed here`);
  const type = gguf.require("adapter.type", "string");
  if (type !== "lora")
    throw new LineageError(
      "unsupported",
      `${gguf.path}: the adapter is of the type ${type}; lineage reads lora`,
    );
  const architecture = gguf.require("general.architecture", "string");
  if (architecture !== layout.architecture)
    throw new LineageError(
      "checkpoint",
      `${gguf.path} is for the architecture ${architecture}, but the model is a ${title} (${layout.architecture}): the adapter was made for another base`,
    );
  for (const key of gguf.header.metadata.keys()) {
    if (!key.startsWith("adapter.") || key === "adapter.type" || key === "adapter.lora.alpha") continue;
    if (!withoutEffect.has(key))
      throw new LineageError("unsupported", `${gguf.path}: ${key} is set, which lineage does not compute`);
    warn(`${gguf.path} has the entry ${key}, which lineage ignores`);
  }
  const alpha = gguf.require("adapter.lora.alpha", "number");
  if (!Number.isFinite(alpha)) throw new FormatError(gguf.path, `adapter.lora.alpha is ${alpha}`);
  return alpha;
}

/** The weights that have updates, with their layers. Every tensor must be the half of an update of one. */
function targetsOf(gguf: GgufFile, layerOf: ReadonlyMap<string, string>): Map<string, string> {
  const found = new Map<string, string>();
  for (const name of gguf.tensors.keys()) {
    const [, target, part] = /^(.+)\.lora_([ab])$/.exec(name) ?? [];
    if (target === undefined)
      throw new FormatError(gguf.path, `the tensor ${name} is no half of a LoRA update (….lora_a, ….lora_b)`);
    const other = `${target}.lora_${part === "a" ? "b" : "a"}`;
    if (!gguf.tensors.has(other)) throw new FormatError(gguf.path, `there is ${name}, but no ${other}`);
    const layer = layerOf.get(target);
    if (layer === undefined)
      throw new LineageError(
        /^(token_embd|output)\./.test(target) ? "unsupported" : "checkpoint",
        /^(token_embd|output)\./.test(target)
          ? `${gguf.path} updates ${target}; lineage has no adapters of embeddings`
          : `${gguf.path} updates ${target}, for which this model has no place: the adapter was made for another base`,
      );
    found.set(target, layer);
  }
  if (found.size === 0) throw new FormatError(gguf.path, "the adapter has no tensors");
  return found;
}

function rankOf(gguf: GgufFile, target: string, [inSize, outSize]: readonly [number, number]): number {
  const [down, up] = ["a", "b"].map((part) => gguf.tensor(`${target}.lora_${part}`).shape) as [
    readonly number[],
    readonly number[],
  ];
  const words = (shape: readonly number[]) => `[${shape.join(", ")}]`;
  const [rank = 0] = down;
  if (down.length !== 2 || up.length !== 2 || rank < 1 || up[1] !== rank)
    throw new FormatError(
      gguf.path,
      `the update of ${target} has ${words(down)} and ${words(up)}, which are not [rank, in] and [out, rank]`,
    );
  if (down[1] !== inSize || up[0] !== outSize)
    throw new LineageError(
      "checkpoint",
      `${gguf.path}: the update of ${target} is from ${down[1]} to ${up[0]} numbers, but this model's layer is from ${inSize} to ${outSize}: the adapter was made for another base`,
    );
  return rank;
}

async function finiteValues(gguf: GgufFile, name: string): Promise<Float32Array> {
  const values = await gguf.readValues(name);
  if (!values.every(Number.isFinite))
    throw new FormatError(gguf.path, `the tensor ${name} has numbers that are not finite`);
  return values;
}
