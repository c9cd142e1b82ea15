import { LineageError } from "../base/errors.js";
import { float16Bits } from "../base/half.js";
import {
  type BlockWeight,
  type ConstantWeights,
  type PackedWeight,
  type QuantizedWeight,
  type RowWeight,
  constantBytes,
  constantTensors,
  packedParts,
} from "../graph/index.js";
import {
  Embedding,
  Linear,
  type Module,
  RelativeBias,
  type WeightSet,
  allModules,
  namedParameters,
} from "../nn/index.js";
import type { DeviceTensor, Runtime } from "../runtime/types.js";
import {
  type BlockForm,
  type MatrixLayout,
  type MatrixSource,
  adjacentBlocks,
  blockArrays,
  blockSizes,
  layoutOf,
  matrixOf,
  quantizeBlocks,
} from "./blocks.js";
import { quantizeRows, rowTensors, rowWeight } from "./rows.js";
import { normalFloatWeight, quantizeNormalFloat } from "./normal-float.js";
import { verifyPacked } from "./verify.js";

/** How the matrices of a model are kept. */
export interface QuantizationScheme {
  /** Whole numbers of 4 or 8 bits, or 4-bit NormalFloat. */
  readonly bits: 4 | 8 | "nf4";
  /** Keeps the scales of NF4 in 8 bits themselves: 4.13 bits for a weight instead of 4.5. Default false. */
  readonly double?: boolean | undefined;
  /**
   * Columns that share a scale. Default 32 for 4 and 8 bits, 64 for NF4. `row`, with 8 bits, gives a whole row one scale
   * and makes products of whole numbers: over many rows, as when a prompt is read, they are about twice as fast, over one
   * row they are not.
   */
  readonly blockSize?: number | "row" | undefined;
  /** `false` gives every block of whole numbers a zero point. Default: 4 bits have them, which costs no time, 8 bits not. */
  readonly symmetric?: boolean | undefined;
  /** Scales tried for each block. Default 1. */
  readonly candidates?: number | undefined;
}

/** A parameter that packs into fewer bits: what reads it, and whether it is `[columns, rows]`. */
export interface Packable {
  readonly kind: "linear" | "embedding";
  readonly transposed: boolean;
}

/** What packs into fewer bits: the weights of products and of look-ups, by name. */
export function packableWeights(model: Module): Map<string, Packable> {
  namedParameters(model);
  const found = new Map<string, Packable>();
  for (const module of allModules(model)) {
    if (module instanceof Linear)
      found.set(module.weight.name, { kind: "linear", transposed: !module.transposeWeight });
    // A bias of scores is a small table, which is looked up once and is exact.
    else if (module instanceof Embedding && !(module instanceof RelativeBias))
      found.set(module.weight.name, { kind: "embedding", transposed: false });
  }
  return found;
}

/** A model's weights for inference: constants of the programs that use them, many of them in fewer bits. */
export class ModelWeights implements WeightSet, Disposable {
  /** Nothing is bound at a run: the programs hold all. */
  readonly tensors: Readonly<Record<string, DeviceTensor>> = {};
  /** @param promptWeights matrices once more, by name, for reading prompts */
  constructor(
    readonly runtime: Runtime,
    readonly constants: ConstantWeights,
    private readonly promptWeights?: Readonly<Record<string, RowWeight>>,
  ) {}

  get promptConstants(): ConstantWeights | undefined {
    const { constants, promptWeights } = this;
    if (!promptWeights) return undefined;
    const tensors = Object.entries(constants.tensors).filter(([name]) => !promptWeights[name]);
    return { tensors: Object.fromEntries(tensors), packed: { ...constants.packed, ...promptWeights } };
  }

  /** Bytes of all weights as they are kept; the engine rearranges matrices into copies of about the same size. */
  get byteLength(): number {
    return this.stepBytes + constantBytes({ tensors: {}, packed: this.promptWeights ?? {} });
  }

  /** Bytes of the weights that a step reads. */
  get stepBytes(): number {
    return constantBytes(this.constants);
  }

  /**
   * The same weights with some added or replaced in full precision, and some left out. What is replaced or left out is
   * disposed; all else belongs to the result.
   */
  with(added: Readonly<Record<string, DeviceTensor>>, left: readonly string[] = []): ModelWeights {
    const gone = new Set([...Object.keys(added), ...left]);
    const split = <T>(entries: Readonly<Record<string, T>>): { kept: Record<string, T>; dropped: T[] } => {
      const all = Object.entries(entries);
      return {
        kept: Object.fromEntries(all.filter(([name]) => !gone.has(name))),
        dropped: all.filter(([name]) => gone.has(name)).map(([, value]) => value),
      };
    };
    const tensors = split(this.constants.tensors);
    const packed = split(this.constants.packed);
    const prompt = this.promptWeights && split(this.promptWeights);
    for (const tensor of tensors.dropped) tensor.dispose();
    for (const weight of [...packed.dropped, ...(prompt?.dropped ?? [])])
      for (const tensor of Object.values(packedParts(weight))) tensor.dispose();
    return new ModelWeights(
      this.runtime,
      { tensors: { ...tensors.kept, ...added }, packed: packed.kept },
      prompt?.kept,
    );
  }

  dispose(): void {
    for (const tensor of Object.values(constantTensors(this.constants))) tensor.dispose();
    for (const weight of Object.values(this.promptWeights ?? {}))
      for (const tensor of Object.values(packedParts(weight))) tensor.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Look-ups read blocks, and large ones multiply faster. */
const tableBlock = 128;

/** The largest block size up to `wanted` that divides a row; undefined where none does. */
const fittingBlock = (columns: number, wanted: number): number | undefined =>
  blockSizes.findLast((size) => size <= wanted && columns % size === 0);

/** What a scheme makes of a matrix. */
type Packing =
  | { readonly kind: "blocks"; readonly form: BlockForm }
  | { readonly kind: "rows" }
  | { readonly kind: "nf4"; readonly blockSize: number; readonly double: boolean };

/** Undefined where the rows do not divide into blocks: the matrix stays as it is. */
function packingOf(
  { rows, columns, transposed }: MatrixLayout,
  kind: "linear" | "embedding",
  scheme: QuantizationScheme,
): Packing | undefined {
  let wanted = scheme.blockSize ?? (scheme.bits === "nf4" ? 64 : 32);
  if (wanted === "row") {
    if (scheme.bits !== 8)
      throw new LineageError("argument", `rows with one scale have 8 bits, not ${scheme.bits}`);
    if (kind === "linear") return { kind: "rows" };
    wanted = tableBlock;
  }
  const blockSize = fittingBlock(columns, wanted);
  if (blockSize === undefined) return undefined;
  // Rows of a table are added to the residual stream as they are, and a tied table gives the logits: 8 bits for it.
  const bits = kind === "embedding" ? 8 : scheme.bits;
  if (bits === "nf4") return { kind: "nf4", blockSize, double: scheme.double ?? false };
  const zeroPoints = !(scheme.symmetric ?? bits === 8);
  return {
    kind: "blocks",
    form: { rows, columns, transposed, bits, blockSize, zeroPoints, offsets: false },
  };
}

/** The blocks of whole numbers that a scheme makes of a matrix; undefined where it makes none. */
export function blockForm(
  matrix: MatrixLayout,
  kind: "linear" | "embedding",
  scheme: QuantizationScheme,
): BlockForm | undefined {
  const packing = packingOf(matrix, kind, scheme);
  return packing?.kind === "blocks" ? packing.form : undefined;
}

/** Fills a weight of zeros with a matrix, rounded as `scheme` says. */
export function fillBlocks(
  weight: BlockWeight,
  source: MatrixSource,
  { candidates }: QuantizationScheme,
): void {
  const { bits, blockSize, zeroPoints } = weight;
  quantizeBlocks(source, { bits, blockSize, symmetric: !zeroPoints, candidates }, blockArrays(weight));
}

/** One matrix in fewer bits; undefined where its rows do not divide into blocks, so that it stays as it is. */
export async function quantizeMatrix(
  runtime: Runtime,
  source: MatrixSource,
  kind: "linear" | "embedding",
  scheme: QuantizationScheme,
): Promise<QuantizedWeight | undefined> {
  const { rows, columns, transposed } = source;
  const packing = packingOf(source, kind, scheme);
  switch (packing?.kind) {
    case undefined:
      return undefined;
    case "rows":
      return rowWeight(runtime, rowTensors(runtime, quantizeRows(source)), { rows, columns, transposed });
    case "nf4": {
      const { blockSize, double } = packing;
      const arrays = quantizeNormalFloat(source, blockSize);
      return normalFloatWeight(runtime, arrays, { rows, columns, transposed, blockSize }, double);
    }
    case "blocks": {
      const [weight] = adjacentBlocks(runtime, [packing.form]);
      fillBlocks(weight!, source, scheme);
      return weight;
    }
  }
}

/**
 * Packs the matrices of a model. Other parameters are copied. Every kind of packed weight is checked against plain
 * arithmetic on this device.
 * @param options.whole parameters that stay in full precision; default none
 */
export async function quantizeWeights(
  model: Module,
  weights: WeightSet,
  scheme: QuantizationScheme,
  { whole = () => false }: { readonly whole?: ((name: string) => boolean) | undefined } = {},
): Promise<ModelWeights> {
  const { runtime } = weights;
  const packable = packableWeights(model);
  const tensors: Record<string, DeviceTensor> = {};
  const packed: Record<string, PackedWeight> = {};
  for (const [name, { shape }] of namedParameters(model)) {
    const data = fullPrecision(weights, name);
    const place = whole(name) ? undefined : packable.get(name);
    const weight =
      place && (await quantizeMatrix(runtime, matrixOf(data, shape, place.transposed), place.kind, scheme));
    if (weight) packed[name] = weight;
    else tensors[name] = runtime.createTensor("float32", shape, data);
  }
  await verifyPacked(runtime, Object.values(packed));
  return new ModelWeights(runtime, { tensors, packed });
}

/** The largest number of a 16-bit float. */
const largestHalf = 65_504;

/** A model's matrices in 16-bit floats, everything else as it is. Throws `data` for numbers that are too large for them. */
export function halveWeights(model: Module, weights: WeightSet): ModelWeights {
  const { runtime } = weights;
  const packable = packableWeights(model);
  const tensors: Record<string, DeviceTensor> = {};
  const packed: Record<string, PackedWeight> = {};
  for (const [name, { shape }] of namedParameters(model)) {
    const data = fullPrecision(weights, name);
    const place = packable.get(name);
    if (!place) {
      tensors[name] = runtime.createTensor("float32", shape, data);
      continue;
    }
    if (data.some((value) => !(Math.abs(value) <= largestHalf)))
      throw new LineageError("data", `${name} holds numbers that 16-bit floats do not have; keep 32 bits`);
    const values = runtime.createTensor("float16", shape, Uint16Array.from(data, float16Bits));
    packed[name] = { kind: "half", ...layoutOf(shape, place.transposed), values };
  }
  return new ModelWeights(runtime, { tensors, packed });
}

/** A parameter's numbers. Throws `argument` where they are in fewer bits already. */
function fullPrecision(weights: WeightSet, name: string): Float32Array {
  const tensor = weights.tensors[name] ?? weights.constants?.tensors[name];
  if (tensor?.dtype !== "float32")
    throw new LineageError("argument", `${name} is not in full precision; take the original weights`);
  return tensor.contents() as Float32Array;
}
