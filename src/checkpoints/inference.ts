import { existsSync } from "node:fs";
import path from "node:path";
import { z } from "zod";
import { elementCount } from "../base/dtype.js";
import { validated } from "../base/check.js";
import { LineageError } from "../base/errors.js";
import { requireMemory } from "../base/memory.js";
import { multipliesBytes } from "../base/processor.js";
import { Random } from "../base/random.js";
import { emitWarning } from "../base/warnings.js";
import { type BlockWeight, type PackedWeight, type QuantizedWeight, type RowWeight } from "../graph/index.js";
import {
  floatReaders,
  loadTokenizer,
  modelForm,
  type Place,
  type GgufFile,
  type GgufPlace,
  isRearranged,
  rearrange,
  rearrangeRows,
  SafetensorsFile,
  placeTensors,
  type LoadWeightsOptions,
} from "../formats/index.js";
import { type Module, type Parameter, firstValues, namedParameters } from "../nn/index.js";
import {
  type BlockForm,
  type MatrixLayout,
  type MatrixSource,
  ModelWeights,
  type Packable,
  type QuantizationScheme,
  adjacentBlocks,
  blockArrays,
  blockBytes,
  blockForm,
  fillBlocks,
  fromGgmlBlocks,
  ggmlForm,
  isGgmlBlockType,
  layoutOf,
  matrixOf,
  packedMatrix,
  packableWeights,
  quantizeMatrix,
  verifyPacked,
} from "../quantization/index.js";
import type { DeviceTensor, FileMapping, Runtime } from "../runtime/types.js";
import { type System, type SystemConfig, encoderDecoderOf, languageModelOf } from "../models/index.js";
import { loadAdapters } from "./adapter-bank.js";
import { loadAdapter, mergeAdapter } from "./adapter.js";
import type { DecoderCheckpoint, EncoderDecoderCheckpoint, LoadOptions } from "./checkpoint.js";
import { type Described, readFolder } from "./folder.js";
import { readGenerationConfig } from "./generation-config.js";
import { openGguf } from "./gguf.js";
import {
  type PackedEntry,
  type PartReader,
  mappedPart,
  packedEntry,
  weightFromParts,
} from "./packed-file.js";
import { type PreparedOptions, PreparedWeights, keepPrepared, preparedFile } from "./prepared.js";

/** A model that is only run: its weights lie in their files' memory or in fewer bits, and do not train. */
export interface InferenceCheckpoint extends DecoderCheckpoint<ModelWeights>, Kept {}
/** An encoder-decoder that is only run. */
export interface InferenceEncoderDecoder extends EncoderDecoderCheckpoint<ModelWeights>, Kept {}

/** The tokenizer and the ends of a text that an adapter brings, where it was trained with others than its base's. */
export type AdapterWords = Partial<Pick<DecoderCheckpoint, "tokenizer" | "stopIds">>;

interface Kept {
  /** Adapters that texts choose from, by name, each with what it brings. */
  readonly adapters?: ReadonlyMap<string, AdapterWords> | undefined;
  /** Settles when what was made of the weights is kept for the next load, or cannot be; it never rejects. */
  readonly kept?: Promise<void> | undefined;
}

/** Models that write, by kind. */
interface InferenceOfKind {
  readonly decoder: InferenceCheckpoint;
  readonly "encoder-decoder": InferenceEncoderDecoder;
}

export interface InferenceOptions extends LoadOptions {
  /** Packs matrices that the files hold in full or half precision. */
  readonly quantize?: QuantizationScheme | undefined;
  /**
   * Keeps the matrices once more in 8 bits, a byte for each weight, with which prompts are read about twice as fast as with
   * blocks. Texts are continued with the weights themselves. On a processor without instructions for 8-bit products, where
   * the copy is slow to make and slower to use than the weights, there is none, and `warn` is told so.
   */
  readonly fastPrompts?: boolean | undefined;
  /** Keeps what had to be made of the weights for the next load of the same files. Default: nothing is kept. */
  readonly prepared?: PreparedOptions | undefined;
  /** Folder of a LoRA adapter in peft's layout, which is computed beside the matrices. Default: none. */
  readonly adapter?: string | undefined;
  /** Adds the adapter to the matrices, in float32, instead. */
  readonly mergeAdapter?: boolean | undefined;
  /**
   * Folders of several LoRA adapters by the names that texts choose by: each text of a decoder has one of them, or none. They
   * need not have one rank or the same layers.
   */
  readonly adapters?: Readonly<Record<string, string>> | undefined;
  /** Parameters that are kept in float32, whatever `quantize` says and their file has. Default: none. */
  readonly inFull?: ((name: string) => boolean) | undefined;
}

/** How one parameter lies in a file. */
interface Source {
  /** Its values in float32. */
  readonly values: () => Float32Array | Promise<Float32Array>;
  /** The file's own memory, where the numbers lie there as the engine takes them. */
  readonly mapped?: () => DeviceTensor;
  /** The file's own memory, where a weight in fewer bits lies there as the engine takes it. */
  readonly packed?: () => Promise<QuantizedWeight>;
  /** The file's blocks, to be turned into the engine's. */
  readonly blocks?: BlockFill;
  /** What to pack the values into where nothing else is asked for. */
  readonly scheme?: QuantizationScheme;
}

/**
 * Reads a `.gguf` file or a checkpoint folder for inference. Weights in full and half precision are mapped into memory and
 * not copied; blocks of a GGUF in Q8_0, Q4_0 and Q4_1 and of a quantised folder that `saveModel` wrote are taken as they are.
 * A GGUF's other blocks become 8-bit ones. Throws where something is missing or does not fit, and for a model of another kind
 * than was asked for; without a kind, for any but a decoder.
 */
export async function loadForInference<K extends keyof InferenceOfKind = "decoder">(
  runtime: Runtime,
  source: string,
  options?: InferenceOptions & { readonly kind?: K },
): Promise<InferenceOfKind[K]>;
export async function loadForInference(
  runtime: Runtime,
  source: string,
  { kind = "decoder", ...options }: InferenceOptions & { readonly kind?: keyof InferenceOfKind } = {},
): Promise<InferenceCheckpoint | InferenceEncoderDecoder> {
  const { adapter, adapters, mergeAdapter: merges } = options;
  if (adapters && (adapter !== undefined || merges))
    throw new LineageError(
      "argument",
      `${merges ? "one adapter can be merged, and texts then have no choice" : "give one adapter, or several by name"}; leave out adapters or ${merges ? "mergeAdapter" : "adapter"}`,
    );
  checkMerge(options);
  const loaded = await loadBase(runtime, source, kind, options);
  if (adapter === undefined && !adapters) return loaded;
  try {
    const { vocabSize } = loaded.model.config;
    if (adapters) {
      const folders = new Map(Object.entries(adapters));
      const words = new Map<string, AdapterWords>();
      for (const [name, folder] of folders)
        words.set(name, await adapterWords(folder, vocabSize, options.warn));
      const { weights } = await loadAdapters(folders, loaded);
      return { ...loaded, weights, adapters: words };
    }
    if (adapter === undefined) return loaded;
    return { ...loaded, ...(await withSavedAdapter(loaded, adapter, merges, options.warn)) };
  } catch (error) {
    loaded.weights.dispose();
    throw error;
  }
}

/** Throws `argument` where nothing is there to be merged. */
export function checkMerge({
  adapter,
  mergeAdapter,
}: Pick<InferenceOptions, "adapter" | "mergeAdapter">): void {
  if (mergeAdapter && adapter === undefined)
    throw new LineageError("argument", "there is no adapter to merge: name its folder");
}

/** What an adapter's folder changes of a loaded model: its weights, and the words that lie beside the adapter. */
export async function withSavedAdapter(
  loaded: {
    readonly model: Module & { readonly config: { readonly vocabSize: number } };
    readonly weights: ModelWeights;
    readonly system: System;
  },
  folder: string,
  merges: boolean | undefined,
  warn: LoadOptions["warn"],
): Promise<{ readonly weights: ModelWeights } & Partial<Pick<DecoderCheckpoint, "tokenizer" | "stopIds">>> {
  const words = await adapterWords(folder, loaded.model.config.vocabSize, warn);
  const adapted = await loadAdapter(folder, loaded);
  return { ...words, weights: merges ? mergeAdapter(adapted) : adapted.weights };
}

/** The tokenizer and the ends of a text that lie beside an adapter: it may have been trained with a chat template of its own. */
async function adapterWords(
  folder: string,
  vocabSize: number,
  warn: LoadOptions["warn"],
): Promise<AdapterWords> {
  if (!existsSync(path.join(folder, "tokenizer_config.json"))) return {};
  const tokenizer = await loadTokenizer(folder);
  for (const warning of tokenizer.warnings) (warn ?? emitWarning)(warning);
  if (tokenizer.vocabSize > vocabSize)
    throw new LineageError(
      "checkpoint",
      `the tokenizer in ${folder} has ${tokenizer.vocabSize} tokens, but the model has embeddings for ${vocabSize}: the adapter was made for another base`,
    );
  const { stopIds } = await readGenerationConfig(folder, {});
  return { tokenizer, ...(stopIds && { stopIds }) };
}

async function loadBase(
  runtime: Runtime,
  source: string,
  kind: keyof InferenceOfKind,
  options: InferenceOptions,
): Promise<InferenceCheckpoint | InferenceEncoderDecoder> {
  const { systems } = options;
  const gguf = (await modelForm(source)) === "gguf";
  if (kind === "encoder-decoder")
    return gguf
      ? inferenceFromGguf(runtime, source, kind, options)
      : inferenceFromFolder(runtime, source, (json) => encoderDecoderOf(json, systems), options);
  return gguf
    ? inferenceFromGguf(runtime, source, kind, options)
    : inferenceFromFolder(runtime, source, (json) => languageModelOf(json, systems), options);
}

type SourceOf = (name: string, parameter: Parameter, transposed: boolean) => Source;

/** Takes every parameter from its source: in fewer bits where asked or where it lies so, mapped where it can be. */
async function assemble(
  runtime: Runtime,
  model: Module,
  sourceOf: SourceOf,
  files: ReadonlyMap<string, FileMapping>,
  { quantize, fastPrompts: wanted = false, prepared, warn = emitWarning, inFull }: InferenceOptions,
): Promise<Pick<InferenceCheckpoint, "weights" | "kept">> {
  const tensors: Record<string, DeviceTensor> = {};
  const packed: Record<string, PackedWeight> = {};
  const prompt: Record<string, RowWeight> = {};
  const fastPrompts = wanted && multipliesBytes() !== false;
  if (wanted && !fastPrompts)
    warn(
      "--fast-prompts is off: this processor has no 8-bit instructions (VNNI), so a copy in 8 bits would be slower",
    );
  const weights = new ModelWeights(runtime, { tensors, packed }, fastPrompts ? prompt : undefined);
  /** What was made here, and may be kept. */
  const made: Record<string, QuantizedWeight> = {};
  try {
    const groups = planGroups(model, sourceOf, quantize, inFull);
    const keptIn = prepared && (await preparedFile(prepared, [...files.keys()], quantize, wanted));
    using kept = keptIn === undefined ? undefined : await PreparedWeights.open(runtime, keptIn, prepared!);
    requireMemory(
      groups.flat().reduce((sum, plan) => sum + neededBytes(plan, fastPrompts, kept !== undefined), 0),
      "the weights and the engine's own arrangement of them",
      "use a smaller model, or fewer bits",
    );
    for (const plans of groups) {
      const filled = plans.filter(({ name, blocks }) => blocks && !kept?.has(name));
      const blocks = adjacentBlocks(
        runtime,
        filled.map((plan) => plan.blocks!.form),
      );
      filled.forEach(({ name }, index) => (packed[name] = blocks[index]!));
      for (const plan of plans) {
        const { name, shape, place, source } = plan;
        if (kept?.has(name))
          packed[name] = await kept.weight(name, layoutOf(shape, place?.transposed ?? false));
        else if (plan.blocks) {
          await plan.blocks.fill(packed[name] as BlockWeight);
          made[name] = packed[name] as BlockWeight;
        } else {
          const weight = await packedWeight(runtime, plan);
          if (weight && plan.scheme) made[name] = weight;
          if (weight) packed[name] = weight;
          else {
            const tensor = source.mapped?.() ?? runtime.createTensor("float32", shape, await source.values());
            if (tensor.dtype === "float32") tensors[name] = tensor;
            else packed[name] = halfWeight(tensor, shape, place!.transposed);
          }
        }
        if (fastPrompts && place?.kind === "linear" && packed[name]?.kind !== "rows") {
          const again = `prompt/${name}`;
          if (kept?.has(again))
            prompt[name] = (await kept.weight(
              again,
              layoutOf(shape, place?.transposed ?? false),
            )) as RowWeight;
          else {
            const matrix = await matrixAgain(packed[name], source, shape, place.transposed);
            prompt[name] = (await quantizeMatrix(runtime, matrix, "linear", wholeRows)) as RowWeight;
            made[again] = prompt[name];
          }
        }
      }
    }
    await verifyPacked(runtime, Object.values(prompt));
    await verifyPacked(runtime, Object.values(packed));
    return {
      weights,
      kept: keptIn !== undefined && !kept ? keepPrepared(keptIn, made, prepared!) : undefined,
    };
  } catch (error) {
    weights.dispose();
    throw error;
  } finally {
    // Tensors that lie in a file keep its memory.
    for (const mapping of files.values()) mapping.dispose();
  }
}

/** What becomes of one parameter. */
interface Plan {
  readonly name: string;
  readonly shape: readonly number[];
  readonly place: Packable | undefined;
  readonly source: Source;
  /** What its values are packed into, where they are. */
  readonly scheme: QuantizationScheme | undefined;
  readonly blocks: BlockFill | undefined;
}

/** Blocks that a parameter is to have, and what fills them. */
interface BlockFill {
  readonly form: BlockForm;
  readonly fill: (weight: BlockWeight) => void | Promise<void>;
}

/** What becomes of the parameters, those of one module's children at a time: some are multiplied by the same input. */
function planGroups(
  model: Module,
  sourceOf: SourceOf,
  quantize: QuantizationScheme | undefined,
  inFull: InferenceOptions["inFull"],
): Plan[][] {
  const packable = packableWeights(model);
  const groups: Plan[][] = [];
  let last: string | undefined;
  for (const [name, parameter] of namedParameters(model)) {
    const { shape } = parameter;
    const place = inFull?.(name) ? undefined : packable.get(name);
    const source = sourceOf(name, parameter, place?.transposed ?? false);
    const scheme = quantize ?? (source.packed || source.blocks ? undefined : source.scheme);
    const blocks = quantize ? undefined : source.blocks;
    const owner = name.split(".").slice(0, -2).join(".");
    if (owner !== last) groups.push([]);
    groups.at(-1)!.push({
      name,
      shape,
      place,
      source,
      scheme,
      blocks: blocks ?? blockFill(source, shape, place, scheme),
    });
    last = owner;
  }
  return groups;
}

/**
 * Bytes that a parameter takes besides the memory of files: its own, and as much for the engine where products read it.
 * @param kept whether its own lie in a file already
 */
function neededBytes(
  { shape, place, source, scheme, blocks }: Plan,
  fastPrompts: boolean,
  kept: boolean,
): number {
  const size = elementCount(shape);
  const linear = place?.kind === "linear";
  const copies = Number(!kept) + Number(linear);
  const again = fastPrompts && linear ? copies * size : 0;
  if (blocks) return again + blockBytes(blocks.form) * copies;
  const bytes = scheme?.bits === "nf4" ? size / 2 : scheme ? size : 4 * size;
  return again + (source.mapped || source.packed ? Number(linear) : copies) * bytes;
}

/** A parameter in fewer bits, as its file has it or as a scheme makes it; undefined where it stays in its own. */
async function packedWeight(
  runtime: Runtime,
  { shape, place, source, scheme }: Plan,
): Promise<QuantizedWeight | undefined> {
  if (!place) return undefined;
  if (!scheme) return source.packed?.();
  const matrix = matrixOf(await source.values(), shape, place.transposed);
  return quantizeMatrix(runtime, matrix, place.kind, scheme);
}

/** Undefined for a parameter that a scheme makes something else of than blocks. */
function blockFill(
  source: Source,
  shape: readonly number[],
  place: Packable | undefined,
  scheme: QuantizationScheme | undefined,
): BlockFill | undefined {
  if (!place || !scheme) return undefined;
  const { kind, transposed } = place;
  const form = blockForm(layoutOf(shape, transposed), kind, scheme);
  if (!form) return undefined;
  return {
    form,
    fill: async (weight) => {
      fillBlocks(weight, matrixOf(await source.values(), shape, transposed), scheme);
    },
  };
}

/** What prompts are read with where that is asked for. */
const wholeRows: QuantizationScheme = { bits: 8, blockSize: "row" };

/** The numbers of a matrix that has been loaded, in the form that its steps use. */
async function matrixAgain(
  packed: PackedWeight | undefined,
  source: Source,
  shape: readonly number[],
  transposed: boolean,
): Promise<MatrixSource> {
  return packed === undefined || packed.kind === "half"
    ? matrixOf(await source.values(), shape, transposed)
    : packedMatrix(packed);
}

function halfWeight(tensor: DeviceTensor, shape: readonly number[], transposed: boolean): PackedWeight {
  return { kind: "half", ...layoutOf(shape, transposed), values: tensor as DeviceTensor<"float16"> };
}

// ---- GGUF ---------------------------------------------------------------------------------------------------------

async function inferenceFromGguf<K extends keyof InferenceOfKind>(
  runtime: Runtime,
  file: string,
  kind: K,
  options: InferenceOptions,
) {
  const { gguf, places, ...opened } = await openGguf(file, kind, options);
  const { model } = opened;
  const parts = new Set([...gguf.tensors.values()].map((tensor) => tensor.file));
  const mappings = new Map([...parts].map((part) => [part, runtime.mapFile(part)]));
  const packable = packableWeights(model);
  const assembled = await assemble(
    runtime,
    model,
    (name, { shape }, transposed) => {
      return ggufSource(gguf, mappings, places.get(name)!, shape, transposed, packable.get(name)?.kind);
    },
    mappings,
    options,
  );
  return { ...opened, ...assembled };
}

/** Bytes of a tensor that is left in the file's memory. */
const worthMapping = 65_536;

/** Blocks that the engine has no kernel for, and tables with offsets, are rounded to these: finer than any of them. */
const requantized: QuantizationScheme = { bits: 8, blockSize: 32 };

function ggufSource(
  gguf: GgufFile,
  mappings: ReadonlyMap<string, FileMapping>,
  place: GgufPlace,
  shape: readonly number[],
  transposed: boolean,
  kind: "linear" | "embedding" | undefined,
): Source {
  const { format, shape: stored, file, byteOffset, byteLength } = gguf.tensor(place.name);
  const mapping = mappings.get(file)!;
  const values = async () => rearrange(await gguf.readValues(place.name), shape, place, "fromGguf");
  const reordered = isRearranged(place);
  // A few small ones would keep the whole file in memory.
  if (format.name === "F32" && !reordered && byteLength >= worthMapping)
    return { values, mapped: () => mapping.tensor("float32", shape, byteOffset) };
  if (kind && !reordered && (format.name === "F16" || format.name === "BF16")) {
    const dtype = format.name === "F16" ? "float16" : "bfloat16";
    return { values, mapped: () => mapping.tensor(dtype, shape, byteOffset) };
  }
  if (!kind || format.elements === 1) return { values };
  if (!isGgmlBlockType(format.name) || (kind === "embedding" && format.name === "Q4_1"))
    return { values, scheme: requantized };
  const type = format.name;
  const [rows, columns] = stored as readonly [number, number];
  return {
    values,
    blocks: {
      form: { rows, columns, transposed, ...ggmlForm(type) },
      fill: (weight) => {
        using bytes = mapping.tensor("uint8", [byteLength], byteOffset);
        const inOrder = rearrangeRows(bytes.view(), rows, place);
        fromGgmlBlocks(type, inOrder, { rows, columns }, gguf.path, blockArrays(weight));
      },
    },
  };
}

// ---- Folders ------------------------------------------------------------------------------------------------------

const quantizationConfig = z.object({
  quantization_config: z
    .object({ quant_method: z.literal("lineage"), tensors: z.record(z.string(), packedEntry) })
    .nullish(),
});

/** Which parameters of a folder are packed, and how. Throws `config` for a quantisation of another program's. */
export function packedEntries(file: string, json: unknown): Readonly<Record<string, PackedEntry>> {
  const { quantization_config: entries } = validated(
    quantizationConfig,
    json,
    (problem) => new LineageError("config", `${file} was not quantised by lineage: ${problem}`),
  );
  return entries?.tensors ?? {};
}

async function inferenceFromFolder<S, C extends SystemConfig, M extends Module>(
  runtime: Runtime,
  folder: string,
  find: (json: unknown) => S & Described<C> & LoadWeightsOptions & { create(config: C): M },
  options: InferenceOptions,
) {
  const { json, system, config, files, ...found } = await readFolder(folder, find, options);
  const model = system.create(config);
  const entries = packedEntries(path.join(folder, "config.json"), json);
  const { aliases, optional, unused = noTensor } = system;
  const layout = { ...(aliases && { aliases }), ...(optional && { optional }), unused };
  const assembled = await folderWeights(runtime, model, { folder, files, entries }, layout, options);
  return { ...found, system, model, ...assembled };
}

/** Matches the name of no tensor. */
const noTensor = /^$/;

/** The weight files of a folder, and which of its parameters they hold in fewer bits. */
export interface FolderFiles {
  readonly folder: string;
  readonly files: readonly SafetensorsFile[];
  readonly entries: Readonly<Record<string, PackedEntry>>;
}

/** A model's weights from a folder's files, as `loadForInference` takes them. */
export async function folderWeights(
  runtime: Runtime,
  model: Module,
  { folder, files, entries }: FolderFiles,
  { unused, aliases, optional, seed = 0 }: LoadWeightsOptions,
  options: InferenceOptions,
): Promise<{ readonly weights: ModelWeights } & Kept> {
  const parameters = namedParameters(model);
  const packedAs = (name: string): string | undefined =>
    (aliases?.(name) ?? [name]).find((alias) => Object.hasOwn(entries, alias));
  const plain = [...parameters].filter(([name]) => packedAs(name) === undefined);
  const places = placeTensors(
    files,
    plain.map(([name, { shape }]) => [name, shape] as const),
    "",
    { ...(aliases && { aliases }), ...(optional && { optional }) },
  );
  if (unused) refuseUnused(files, new Set([...places.values()].map(({ stored }) => stored)), entries, unused);
  const mappings = new Map(files.map((file) => [file, runtime.mapFile(file.path)]));
  const packable = packableWeights(model);
  return assemble(
    runtime,
    model,
    (name, parameter, transposed) => {
      const { shape } = parameter;
      const packed = packedAs(name);
      if (packed !== undefined) {
        if (!packable.has(name))
          throw new LineageError("checkpoint", `${folder}: ${name} is quantised, but no product reads it`);
        const layout = layoutOf(shape, transposed);
        return packedSource(runtime, files, mappings, packed, entries[packed]!, layout);
      }
      const stored = places.get(name);
      const half = packable.has(name) && !options.inFull?.(name);
      return stored
        ? floatSource(runtime, mappings, stored, shape, half)
        : { values: () => firstValues(parameter, name, new Random(seed)) };
    },
    new Map([...mappings].map(([{ path: place }, mapping]) => [place, mapping])),
    options,
  );
}

function refuseUnused(
  files: readonly SafetensorsFile[],
  taken: ReadonlySet<string>,
  entries: Readonly<Record<string, PackedEntry>>,
  unused: RegExp,
): void {
  const ours = (name: string) => Object.hasOwn(entries, name.slice(0, name.lastIndexOf(".")));
  for (const { path: file, header } of files) {
    const extra = [...header.tensors.keys()].find(
      (name) => !taken.has(name) && !unused.test(name) && !ours(name),
    );
    if (extra !== undefined)
      throw new LineageError(
        "checkpoint",
        `${file} holds the tensor ${extra}, for which the model of ${path.join(path.dirname(file), "config.json")} has no place: the configuration describes another model`,
      );
  }
}

function floatSource(
  runtime: Runtime,
  mappings: ReadonlyMap<SafetensorsFile, FileMapping>,
  { file, entry }: Place,
  shape: readonly number[],
  half: boolean,
): Source {
  const mapping = mappings.get(file)!;
  const { dtype, byteOffset, byteLength } = entry;
  if (dtype === "float32") {
    return {
      mapped: () => mapping.tensor("float32", shape, byteOffset),
      values: () => {
        using tensor = mapping.tensor("float32", shape, byteOffset);
        return tensor.view().slice();
      },
    };
  }
  const values = () => {
    using bytes = mapping.tensor("uint8", [byteLength], byteOffset);
    const target = new Float32Array(elementCount(shape));
    floatReaders[dtype]!(bytes.view() as Uint8Array<ArrayBuffer>, target);
    return target;
  };
  return half && (dtype === "float16" || dtype === "bfloat16")
    ? { values, mapped: () => mapping.tensor(dtype, shape, byteOffset) }
    : { values };
}

function packedSource(
  runtime: Runtime,
  files: readonly SafetensorsFile[],
  mappings: ReadonlyMap<SafetensorsFile, FileMapping>,
  name: string,
  entry: PackedEntry,
  layout: MatrixLayout,
): Source {
  const part: PartReader = (suffix, dtype, shape) => {
    const stored = `${name}.${suffix}`;
    const file = files.find(({ header }) => header.tensors.has(stored));
    if (!file)
      throw new LineageError("checkpoint", `there is no tensor ${stored}, a part of the quantised ${name}`);
    return mappedPart(file, mappings.get(file)!, stored, dtype, shape);
  };
  return {
    values: () => {
      throw new LineageError("unsupported", `${name} is quantised already; take the original model`);
    },
    packed: () => weightFromParts(runtime, name, entry, layout, part),
  };
}
