import { mkdir } from "node:fs/promises";
import path from "node:path";
import { z } from "zod";
import { type TypedArray, bytesPerElement, elementCount } from "../base/dtype.js";
import { FormatError, LineageError } from "../base/errors.js";
import { writeJson } from "../base/files.js";
import { widen } from "../base/half.js";
import { requireMemory } from "../base/memory.js";
import {
  type BlockWeight,
  type HalfWeight,
  type PackedWeight,
  type RowWeight,
  packedParts,
} from "../graph/index.js";
import {
  type GgufFile,
  type GgufPlace,
  SafetensorsFile,
  type TensorToSave,
  openWeightFiles,
  placeTensors,
  rearrange,
  rearrangeRows,
  writeSafetensors,
} from "../io/index.js";
import { type Parameter, namedParameters } from "../nn/index.js";
import {
  type BlockForm,
  type MatrixSource,
  ModelWeights,
  type Packable,
  type QuantizationScheme,
  adjacentBlocks,
  blockArrays,
  blockBytes,
  blockForm,
  blockSizes,
  fillBlocks,
  fromGgmlBlocks,
  ggmlForm,
  isGgmlBlockType,
  matrixOf,
  packedMatrix,
  packableWeights,
  quantizeMatrix,
  rowWeight,
  signedValues,
  verifyPacked,
} from "../quantization/index.js";
import type { DeviceTensor, FileMapping, Runtime } from "../runtime/types.js";
import { type CausalLanguageModel, type LoadedModel, causalModelConfig } from "./architectures.js";
import { openGguf } from "./gguf.js";
import { readCheckpoint, saveTokenizer } from "./load.js";

/** A model that is only run: its weights lie in their files' memory or in fewer bits, and do not train. */
export type InferenceModel = LoadedModel<ModelWeights>;

export interface InferenceOptions {
  /** Packs matrices that the files hold in full or half precision. */
  readonly quantize?: QuantizationScheme | undefined;
  /**
   * Keeps the matrices once more in 8 bits, a byte for each weight, with which prompts are read about twice as fast as with
   * blocks. Texts are continued with the weights themselves.
   */
  readonly fastPrompts?: boolean | undefined;
}

/** How one parameter lies in a file. */
interface Source {
  /** Its values in float32. */
  readonly values: () => Float32Array | Promise<Float32Array>;
  /** The file's own memory, where the numbers lie there as the engine takes them. */
  readonly mapped?: () => DeviceTensor;
  /** The file's own memory, where a weight in fewer bits lies there as the engine takes it. */
  readonly packed?: () => PackedWeight | Promise<PackedWeight>;
  /** The file's blocks, to be turned into the engine's. */
  readonly blocks?: BlockFill;
  /** What to pack the values into where nothing else is asked for. */
  readonly scheme?: QuantizationScheme;
}

/**
 * Reads a `.gguf` file or a checkpoint folder for inference. Weights in full and half precision are mapped into memory and
 * not copied; blocks of a GGUF in Q8_0, Q4_0 and Q4_1 and of a folder that `saveQuantized` wrote are taken as they are.
 * A GGUF's other blocks become 8-bit ones. Throws where something is missing or does not fit.
 */
export async function loadForInference(
  runtime: Runtime,
  source: string,
  options: InferenceOptions = {},
): Promise<InferenceModel> {
  return source.endsWith(".gguf")
    ? inferenceFromGguf(runtime, source, options)
    : inferenceFromFolder(runtime, source, options);
}

type SourceOf = (name: string, parameter: Parameter, transposed: boolean) => Source;

/** Takes every parameter from its source: in fewer bits where asked or where it lies so, mapped where it can be. */
async function assemble(
  runtime: Runtime,
  model: CausalLanguageModel,
  sourceOf: SourceOf,
  mappings: readonly FileMapping[],
  { quantize, fastPrompts = false }: InferenceOptions,
): Promise<ModelWeights> {
  const tensors: Record<string, DeviceTensor> = {};
  const packed: Record<string, PackedWeight> = {};
  const prompt: Record<string, RowWeight> = {};
  const weights = new ModelWeights(runtime, { tensors, packed }, fastPrompts ? prompt : undefined);
  try {
    const groups = planGroups(model, sourceOf, quantize);
    requireMemory(
      groups.flat().reduce((sum, plan) => sum + neededBytes(plan, fastPrompts), 0),
      "the weights and the engine's own arrangement of them",
      "take a smaller model, or one in fewer bits",
    );
    for (const plans of groups) {
      const filled = plans.filter(({ blocks }) => blocks);
      const blocks = adjacentBlocks(
        runtime,
        filled.map((plan) => plan.blocks!.form),
      );
      filled.forEach(({ name }, index) => (packed[name] = blocks[index]!));
      for (const plan of plans) {
        const { name, shape, place, source } = plan;
        if (plan.blocks) await plan.blocks.fill(packed[name] as BlockWeight);
        else {
          const weight = await packedWeight(runtime, plan);
          if (weight) packed[name] = weight;
          else {
            const tensor = source.mapped?.() ?? runtime.createTensor("float32", shape, await source.values());
            if (tensor.dtype === "float32") tensors[name] = tensor;
            else packed[name] = halfWeight(tensor, shape, place!.transposed);
          }
        }
        if (fastPrompts && place?.kind === "linear" && packed[name]?.kind !== "rows") {
          const matrix = await matrixAgain(packed[name], source, shape, place.transposed);
          prompt[name] = (await quantizeMatrix(runtime, matrix, "linear", wholeRows)) as RowWeight;
        }
      }
    }
    await verifyPacked(runtime, Object.values(prompt));
    await verifyPacked(runtime, Object.values(packed));
    return weights;
  } catch (error) {
    weights.dispose();
    throw error;
  } finally {
    // Tensors that lie in a file keep its memory.
    for (const mapping of mappings) mapping.dispose();
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
  model: CausalLanguageModel,
  sourceOf: SourceOf,
  quantize: QuantizationScheme | undefined,
): Plan[][] {
  const packable = packableWeights(model);
  const groups: Plan[][] = [];
  let last: string | undefined;
  for (const [name, parameter] of namedParameters(model)) {
    const { shape } = parameter;
    const place = packable.get(name);
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

/** Bytes that a parameter takes besides its file's memory: its own, and as much for the engine where products read it. */
function neededBytes({ shape, place, source, scheme, blocks }: Plan, fastPrompts: boolean): number {
  const size = elementCount(shape);
  const linear = place?.kind === "linear";
  const again = fastPrompts && linear ? 2 * size : 0;
  if (blocks) return again + blockBytes(blocks.form) * (linear ? 2 : 1);
  const bytes = scheme?.bits === "nf4" ? size / 2 : scheme ? size : 4 * size;
  return again + (source.mapped || source.packed ? 0 : bytes) + (linear ? bytes : 0);
}

/** A parameter in fewer bits, as its file has it or as a scheme makes it; undefined where it stays in its own. */
async function packedWeight(
  runtime: Runtime,
  { shape, place, source, scheme }: Plan,
): Promise<PackedWeight | undefined> {
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
  const [rows, columns] = (transposed ? [shape[1], shape[0]] : shape) as [number, number];
  const form = blockForm({ rows, columns, transposed }, kind, scheme);
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
  const [rows, columns] = (transposed ? [shape[1], shape[0]] : shape) as [number, number];
  return { kind: "half", rows, columns, transposed, values: tensor as DeviceTensor<"float16"> };
}

// ---- GGUF ---------------------------------------------------------------------------------------------------------

async function inferenceFromGguf(
  runtime: Runtime,
  file: string,
  options: InferenceOptions,
): Promise<InferenceModel> {
  const { gguf, model, tokenizer, stopIds, places } = await openGguf(file);
  const mapping = runtime.mapFile(file);
  const packable = packableWeights(model);
  const weights = await assemble(
    runtime,
    model,
    (name, { shape }, transposed) => {
      return ggufSource(gguf, mapping, places.get(name)!, shape, transposed, packable.get(name)?.kind);
    },
    [mapping],
    options,
  );
  return { model, weights, tokenizer, stopIds };
}

/** Bytes of a tensor that is left in the file's memory. */
const worthMapping = 65_536;

/** Blocks that the engine has no kernel for, and tables with offsets, are rounded to these: finer than any of them. */
const requantized: QuantizationScheme = { bits: 8, blockSize: 32 };

function ggufSource(
  gguf: GgufFile,
  mapping: FileMapping,
  place: GgufPlace,
  shape: readonly number[],
  transposed: boolean,
  kind: "linear" | "embedding" | undefined,
): Source {
  const { format, shape: stored, byteOffset, byteLength } = gguf.tensor(place.name);
  const values = async () => rearrange(await gguf.readValues(place.name), shape, place, "fromGguf");
  const reordered = place.rotaryHeads !== undefined || place.transposed === true;
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

const packedEntry = z.discriminatedUnion("kind", [
  z.object({
    kind: z.literal("blocks"),
    bits: z.union([z.literal(4), z.literal(8)]),
    block_size: z.int().refine((size) => blockSizes.includes(size)),
    zero_points: z.boolean().default(false),
    offsets: z.boolean().default(false),
  }),
  z.object({ kind: z.literal("rows") }),
  z.object({ kind: z.literal("nf4"), block_size: z.int().refine((size) => blockSizes.includes(size)) }),
]);
type PackedEntry = z.infer<typeof packedEntry>;

const quantizationConfig = z.object({
  quantization_config: z
    .object({ quant_method: z.literal("lineage"), tensors: z.record(z.string(), packedEntry) })
    .nullish(),
});

/** Which parameters of a folder are packed, and how. Throws `config` for a quantisation of another program's. */
function packedEntries(file: string, json: unknown): Readonly<Record<string, PackedEntry>> {
  const parsed = quantizationConfig.safeParse(json);
  if (!parsed.success)
    throw new LineageError(
      "config",
      `${file}: the quantization_config is none that lineage wrote: ${z.prettifyError(parsed.error)}`,
    );
  return parsed.data.quantization_config?.tensors ?? {};
}

async function inferenceFromFolder(
  runtime: Runtime,
  folder: string,
  options: InferenceOptions,
): Promise<InferenceModel> {
  const { json, model, tokenizer, stopIds, unused } = await readCheckpoint(folder);
  const entries = packedEntries(path.join(folder, "config.json"), json);
  const files = await openWeightFiles(folder);
  const parameters = namedParameters(model);
  const plain = [...parameters].filter(([name]) => !Object.hasOwn(entries, name));
  const places = placeTensors(
    files,
    plain.map(([name, { shape }]) => [name, shape] as const),
    "",
  );
  refuseUnused(files, new Set([...places.values()].map(({ stored }) => stored)), entries, unused);
  const mappings = new Map(files.map((file) => [file, runtime.mapFile(file.path)]));
  const packable = packableWeights(model);
  const weights = await assemble(
    runtime,
    model,
    (name, { shape }, transposed) => {
      const entry = Object.hasOwn(entries, name) ? entries[name] : undefined;
      if (entry) {
        if (!packable.has(name))
          throw new LineageError("checkpoint", `${folder}: ${name} is quantised, but no product reads it`);
        const [rows, columns] = (transposed ? [shape[1], shape[0]] : shape) as [number, number];
        return packedSource(runtime, files, mappings, name, entry, { rows, columns, transposed });
      }
      return floatSource(runtime, mappings, places.get(name)!, shape, packable.has(name));
    },
    [...mappings.values()],
    options,
  );
  return { model, weights, tokenizer, stopIds };
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
  { file, entry }: { file: SafetensorsFile; entry: { dtype: string; byteOffset: number } },
  shape: readonly number[],
  half: boolean,
): Source {
  const mapping = mappings.get(file)!;
  const { byteOffset } = entry;
  const dtype = entry.dtype as "float32" | "float16" | "bfloat16";
  const mapped = () => mapping.tensor(dtype, shape, byteOffset);
  if (dtype === "float32") {
    return {
      mapped,
      values: () => {
        using tensor = mapping.tensor("float32", shape, byteOffset);
        return tensor.view().slice();
      },
    };
  }
  const values = () => {
    using tensor = mapping.tensor(dtype, shape, byteOffset);
    const target = new Float32Array(tensor.size);
    widen[dtype]!(tensor.view(), target);
    return target;
  };
  return half ? { values, mapped } : { values };
}

function packedSource(
  runtime: Runtime,
  files: readonly SafetensorsFile[],
  mappings: ReadonlyMap<SafetensorsFile, FileMapping>,
  name: string,
  entry: PackedEntry,
  layout: { rows: number; columns: number; transposed: boolean },
): Source {
  const { rows, columns } = layout;
  const part = <D extends "uint8" | "int8" | "float32">(
    suffix: string,
    dtype: D,
    shape: readonly number[],
  ): DeviceTensor<D> => {
    const stored = `${name}.${suffix}`;
    const file = files.find(({ header }) => header.tensors.has(stored));
    const found = file?.header.tensors.get(stored);
    if (!file || !found)
      throw new LineageError("checkpoint", `there is no tensor ${stored}, a part of the quantised ${name}`);
    if (found.dtype !== dtype || found.shape.join() !== shape.join())
      throw new FormatError(
        file.path,
        `${stored} is ${found.dtype} [${found.shape.join(", ")}], but the configuration makes it ${dtype} [${shape.join(", ")}]`,
      );
    return mappings.get(file)!.tensor(dtype, shape, found.byteOffset);
  };
  const values = () => {
    throw new LineageError("unsupported", `${name} is quantised already; take the original model`);
  };
  if (entry.kind === "rows")
    return {
      values,
      packed: () =>
        rowWeight(
          runtime,
          { values: part("values", "int8", [columns, rows]), scales: part("scales", "float32", [rows]) },
          layout,
        ),
    };
  const { block_size: blockSize } = entry;
  if (columns % blockSize !== 0)
    throw new LineageError(
      "checkpoint",
      `blocks of ${blockSize} do not divide the rows of ${name}, ${columns} long`,
    );
  const blocks = columns / blockSize;
  return {
    values,
    packed: () => {
      if (entry.kind === "nf4")
        return {
          kind: "nf4",
          ...layout,
          blockSize,
          values: part("values", "uint8", [(rows * columns) / 2]),
          scales: part("scales", "float32", [rows * blocks]),
        };
      const { bits } = entry;
      const values = part("values", "uint8", [rows, blocks, (blockSize * bits) / 8]);
      return {
        kind: "blocks",
        ...layout,
        bits,
        blockSize,
        values,
        table: values.slice(0, [rows, (columns * bits) / 8]),
        scales: part("scales", "float32", [rows, blocks]),
        zeroPoints: entry.zero_points
          ? part("zeroPoints", "uint8", [rows, Math.ceil((blocks * bits) / 8)])
          : undefined,
        offsets: entry.offsets ? part("offsets", "float32", [blocks, rows]) : undefined,
      };
    },
  };
}

/**
 * Writes a folder that `loadForInference` reads: the tensors of every packed weight in `model.safetensors`, and how they
 * are packed in `config.json`. Throws `unsupported` for weights in half precision, which need no folder of their own.
 */
export async function saveQuantized(
  folder: string,
  { model, weights, tokenizer, stopIds }: InferenceModel,
): Promise<void> {
  const { tensors, packed } = weights.constants;
  const entries: Record<string, PackedEntry> = {};
  const parts = Object.entries(tensors).map(([name, tensor]) => storedPart(name, tensor));
  for (const [name, weight] of Object.entries(packed)) {
    if (weight.kind === "half")
      throw new LineageError("unsupported", `${name} is in half precision; quantise it to save it`);
    entries[name] = entryOf(weight);
    for (const [part, tensor] of Object.entries(packedParts(weight))) {
      if (part === "table") continue;
      const stored = storedPart(`${name}.${part}`, tensor);
      // Unsigned numbers are this device's matter, not the folder's.
      parts.push(
        weight.kind === "rows" && part === "values"
          ? { ...stored, dtype: "int8", bytes: bytesOf(signedValues(weight)) }
          : stored,
      );
    }
  }
  // Floats first: each tensor then lies at a multiple of its element's size, so that it can be mapped. Parts of one kind
  // follow each other, so that the engine can take several matrices as one.
  const kindOf = ({ name }: TensorToSave): string => name.slice(name.lastIndexOf(".") + 1);
  parts.sort(
    (a, b) =>
      bytesPerElement(b.dtype) - bytesPerElement(a.dtype) ||
      (kindOf(a) < kindOf(b) ? -1 : Number(kindOf(a) > kindOf(b))),
  );
  await mkdir(folder, { recursive: true });
  await writeJson(path.join(folder, "config.json"), {
    ...causalModelConfig(model),
    quantization_config: { quant_method: "lineage", tensors: entries },
  });
  await saveTokenizer(folder, tokenizer, stopIds);
  await writeSafetensors(path.join(folder, "model.safetensors"), parts);
}

/** How `config.json` says that a parameter is packed. */
function entryOf(weight: Exclude<PackedWeight, HalfWeight>): PackedEntry {
  if (weight.kind === "rows") return { kind: "rows" };
  if (weight.kind === "nf4") return { kind: "nf4", block_size: weight.blockSize };
  return {
    kind: "blocks",
    bits: weight.bits,
    block_size: weight.blockSize,
    zero_points: weight.zeroPoints !== undefined,
    offsets: weight.offsets !== undefined,
  };
}

/** A tensor as a file holds it. */
const storedPart = (name: string, tensor: DeviceTensor): TensorToSave => ({
  name,
  dtype: tensor.dtype,
  shape: tensor.shape,
  bytes: bytesOf(tensor.view()),
});

const bytesOf = ({ buffer, byteOffset, byteLength }: TypedArray): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);
