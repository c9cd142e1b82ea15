import type { DeviceTensor } from "../runtime/types.js";

/**
 * A matrix whose numbers are kept in fewer bits, in the form that the engine's weight-only operators read. It stands for
 * `[rows, columns]`, a row for each output of a product and its inputs along the columns; `transposed` where the model's
 * parameter is `[columns, rows]` instead, as GPT-2's is.
 */
interface PackedMatrix {
  readonly rows: number;
  readonly columns: number;
  readonly transposed: boolean;
}

/**
 * Whole numbers in blocks along each row, each block with a scale: `scale * (value - zeroPoint) [+ offset]`, the form of
 * `MatMulNBits` and `GatherBlockQuantized`.
 */
export interface BlockWeight extends PackedMatrix {
  readonly kind: "blocks";
  readonly bits: 4 | 8;
  /** Columns of a block: a power of two from 16 on that divides the columns. */
  readonly blockSize: number;
  /** `[rows, blocks, blockSize * bits / 8]`; of two 4-bit values in a byte, the first is the low half. */
  readonly values: DeviceTensor<"uint8">;
  /** The memory of the values as `[rows, columns * bits / 8]`, as look-ups want it. */
  readonly table: DeviceTensor<"uint8">;
  /** `[rows, blocks]`. */
  readonly scales: DeviceTensor<"float32">;
  /** `[rows, ceil(blocks * bits / 8)]`, packed like the values. Absent: 8 for 4 bits, 128 for 8. */
  readonly zeroPoints?: DeviceTensor<"uint8"> | undefined;
  /**
   * `[blocks, rows]`, added to every value of a block: for formats whose blocks have a smallest value that is no multiple
   * of the scale (GGUF's Q4_1). A product adds the sums of its input's blocks times these.
   */
  readonly offsets?: DeviceTensor<"float32"> | undefined;
}

/** 4-bit NormalFloat, Dettmers et al. 2023: the quantiles of a normal distribution, in blocks with a largest magnitude. */
export interface NormalFloatWeight extends PackedMatrix {
  readonly kind: "nf4";
  /** Elements of a block; blocks run over the rows one after the other. */
  readonly blockSize: number;
  /** Uint8 `[rows * columns / 2]`; of two values in a byte, the first is the high half. */
  readonly values: DeviceTensor<"uint8">;
  /** Largest magnitude of each block: `[rows * columns / blockSize]`; or in 8 bits, double quantisation. */
  readonly scales: DeviceTensor<"float32"> | DoubleScaleTensors;
}

/**
 * Scales in 8 bits, section 3, "Double Quantization": `map[code] * largest + offset`, where 256 of them share `largest`.
 */
export interface DoubleScaleTensors {
  /** Uint8 `[ceil(scales / 256) * 256]`: places in the signed dynamic map; what fills up the last block stands for nothing. */
  readonly codes: DeviceTensor<"uint8">;
  /** `[codes / 256]`. */
  readonly largest: DeviceTensor<"float32">;
  /** `[1]`. */
  readonly offset: DeviceTensor<"float32">;
}

export const isDouble = (scales: NormalFloatWeight["scales"]): scales is DoubleScaleTensors =>
  "codes" in scales;

/**
 * The 256 numbers of the 8-bit dynamic data type in rising order, as bitsandbytes has them: seven powers of ten, with ever
 * more bits for the fraction. Unsigned ones have a bit more.
 */
export function dynamicMap(signed: boolean): Float32Array {
  const { fround } = Math;
  const numbers = [0, 1];
  for (let power = 0; power < 7; power++) {
    const steps = 2 ** (power + Number(!signed));
    const step = fround(fround(fround(1) - fround(0.1)) / steps);
    // PyTorch's linspace counts its second half from the end.
    const boundary = (index: number): number =>
      index < (steps + 1) / 2 ? fround(fround(0.1) + step * index) : fround(1 - step * (steps - index));
    for (let index = 0; index < steps; index++) {
      const mean = fround(fround(boundary(index) + boundary(index + 1)) / 2);
      const number = fround(fround(10 ** (power - 6)) * mean);
      numbers.push(number, ...(signed ? [-number] : []));
    }
  }
  return Float32Array.from(numbers).sort();
}

/** The 16 values of NF4, Dettmers et al. 2023, appendix E: quantiles of a normal distribution with an exact zero. */
export const normalFloat4 = Float32Array.of(
  -1,
  -0.6961928009986877,
  -0.5250730514526367,
  -0.39491748809814453,
  -0.28444138169288635,
  -0.18477343022823334,
  -0.09105003625154495,
  0,
  0.07958029955625534,
  0.16093020141124725,
  0.24611230194568634,
  0.33791524171829224,
  0.44070982933044434,
  0.5626170039176941,
  0.7229568362236023,
  1,
);

/**
 * Whole numbers of 8 bits with one scale for each row of the matrix: `scale * value`. A product rounds its input to whole
 * numbers too, twice 8 bits of them: the engine's fastest products over many rows.
 */
export interface RowWeight extends PackedMatrix {
  readonly kind: "rows";
  /** `[columns, rows]`, as the engine's product takes its second factor. Unsigned numbers are 128 above what they stand for. */
  readonly values: DeviceTensor<"int8"> | DeviceTensor<"uint8">;
  /** `[rows]`. */
  readonly scales: DeviceTensor<"float32">;
}

/** 16-bit floats as a checkpoint holds them. */
export interface HalfWeight extends PackedMatrix {
  readonly kind: "half";
  /** `[rows, columns]`, or `[columns, rows]` when transposed. */
  readonly values: DeviceTensor<"float16"> | DeviceTensor<"bfloat16">;
}

/** A matrix in whole numbers or NormalFloat. */
export type QuantizedWeight = BlockWeight | RowWeight | NormalFloatWeight;

export type PackedWeight = QuantizedWeight | HalfWeight;

/** Weights that stay as they are for as long as a program lives: the engine may rearrange them for speed. */
export interface ConstantWeights {
  /** Parameters in full precision, by name. */
  readonly tensors: Readonly<Record<string, DeviceTensor>>;
  /** Parameters in fewer bits, by name. */
  readonly packed: Readonly<Record<string, PackedWeight>>;
}

/** The tensors that a packed weight consists of, by their part of the name: `h.0.mlp.up.weight` + `.scales`. */
export function packedParts(weight: PackedWeight): Record<string, DeviceTensor> {
  if (weight.kind === "half") return { values: weight.values };
  if (weight.kind === "nf4" && isDouble(weight.scales)) return { values: weight.values, ...weight.scales };
  if (weight.kind !== "blocks") return { values: weight.values, scales: weight.scales as DeviceTensor };
  const { values, table, scales, zeroPoints, offsets } = weight;
  return { values, table, scales, ...(zeroPoints && { zeroPoints }), ...(offsets && { offsets }) };
}

/** Bytes that a backward pass unpacks of a matrix at once; of a larger one it unpacks slices, one after the other. */
export const unpackedBytes = 2 ** 26;

export const packedBytes = (weight: PackedWeight): number =>
  Object.entries(packedParts(weight)).reduce(
    (sum, [part, { byteLength }]) => (part === "table" ? sum : sum + byteLength),
    0,
  );

/** Bytes of constant weights. */
export const constantBytes = ({ tensors, packed }: ConstantWeights): number =>
  Object.values(tensors).reduce((sum, { byteLength }) => sum + byteLength, 0) +
  Object.values(packed).reduce((sum, weight) => sum + packedBytes(weight), 0);

/** All tensors of constant weights by the names that programs give them. */
export function constantTensors({ tensors, packed }: ConstantWeights): Record<string, DeviceTensor> {
  const all: Record<string, DeviceTensor> = { ...tensors };
  for (const [name, weight] of Object.entries(packed))
    for (const [part, tensor] of Object.entries(packedParts(weight))) all[`${name}.${part}`] = tensor;
  return all;
}
