import { LineageError } from "../base/errors.js";
import { dynamicMap } from "../graph/index.js";

export { dynamicMap };

// Blocks of numbers in 8 bits of a dynamic data type, Dettmers 2016 and Dettmers et al. 2022, "8-bit Optimizers via Block-wise
// Quantization", with the numbers of bitsandbytes.

/** Numbers in 8 bits, and the largest magnitude of each block of them. */
export interface DynamicArrays {
  readonly codes: Uint8Array;
  readonly largest: Float32Array;
}

/** Numbers of one block in bitsandbytes. */
export const dynamicBlock = 256;

/** Rounds numbers to the nearest of a map, each block scaled to its largest magnitude; the last block may be short. */
export function quantizeDynamic(
  values: Float32Array,
  map: Float32Array,
  blockSize = dynamicBlock,
): DynamicArrays {
  const codes = new Uint8Array(values.length);
  const largest = new Float32Array(Math.ceil(values.length / blockSize));
  for (let block = 0; block < largest.length; block++) {
    const start = block * blockSize;
    const own = values.subarray(start, start + blockSize);
    let most = 0;
    for (const value of own) most = Math.max(most, Math.abs(value));
    if (!Number.isFinite(most))
      throw new LineageError("data", "a number is not finite; it cannot be quantised");
    largest[block] = most;
    for (const [index, value] of own.entries())
      codes[start + index] = nearest(map, most === 0 ? 0 : Math.fround(value / most));
  }
  return { codes, largest };
}

/** Place of the value of a rising map that is nearest. */
function nearest(map: Float32Array, value: number): number {
  let [low, high] = [0, map.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (map[middle]! <= value) low = middle;
    else high = middle;
  }
  return Math.fround(value - map[low]!) <= Math.fround(map[high]! - value) ? low : high;
}

/** The numbers that codes stand for. */
export function dequantizeDynamic(
  { codes, largest }: DynamicArrays,
  map: Float32Array,
  blockSize = dynamicBlock,
): Float32Array {
  return Float32Array.from(codes, (code, index) => map[code]! * largest[Math.floor(index / blockSize)]!);
}

/** The scales of blocks in 8 bits, Dettmers et al. 2023, section 3, "Double Quantization": their mean is taken off first. */
export interface DoubleScales extends DynamicArrays {
  readonly offset: number;
}

/** @param offset what is taken off. Default: the mean */
export function quantizeScales(scales: Float32Array, offset = meanOf(scales)): DoubleScales {
  return {
    ...quantizeDynamic(
      scales.map((scale) => scale - offset),
      dynamicMap(true),
    ),
    offset,
  };
}

const meanOf = (values: Float32Array): number =>
  Math.fround(values.reduce((sum, value) => sum + value, 0) / values.length);

export function dequantizeScales({ offset, ...arrays }: DoubleScales): Float32Array {
  return dequantizeDynamic(arrays, dynamicMap(true)).map((scale) => scale + offset);
}
