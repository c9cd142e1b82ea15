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

/** Upper bits of a float32 by which its code is looked up. */
const keyBits = 16;

/** Numbers in 8 bits and back, many at a time and in place: the same codes as of `quantizeDynamic`, by a table. */
export class DynamicRounding {
  private readonly map: Float32Array;
  /** The largest float32 that each code but the last is the nearest of. */
  private readonly borders: Float32Array;
  /** The code of the least number with these upper bits: that of the number itself, or the one before. */
  private readonly codes = new Uint8Array(2 ** keyBits);
  private readonly scaled = new Float32Array(dynamicBlock);
  private readonly bits = new Uint32Array(this.scaled.buffer);

  constructor(signed: boolean) {
    const map = (this.map = dynamicMap(signed));
    this.borders = map.map((low, place) => (place < 255 ? lastBelow(low, map[place + 1]!) : Infinity));
    const word = new DataView(new ArrayBuffer(4));
    for (let key = 0; key < this.codes.length; key++) {
      // Of negative numbers the least is the one with all lower bits.
      word.setUint16(0, key);
      word.setUint16(2, key >= 2 ** (keyBits - 1) ? 2 ** 16 - 1 : 0);
      const least = word.getFloat32(0);
      let code = 0;
      while (least > this.borders[code]!) code++;
      this.codes[key] = code;
    }
  }

  /** Writes the numbers that codes stand for. */
  widen({ codes, largest }: DynamicArrays, values: Float32Array): void {
    const { map } = this;
    for (let start = 0, block = 0; start < codes.length; start += dynamicBlock, block++) {
      const end = Math.min(codes.length, start + dynamicBlock);
      const scale = largest[block]!;
      for (let i = start; i < end; i++) values[i] = map[codes[i]!]! * scale;
    }
  }

  /** Writes the codes of numbers, which have to be finite, and the largest magnitude of every block. */
  round(values: Float32Array, { codes, largest }: DynamicArrays): void {
    const { borders, scaled, bits, codes: known } = this;
    for (let start = 0, block = 0; start < codes.length; start += dynamicBlock, block++) {
      const count = Math.min(dynamicBlock, codes.length - start);
      let most = 0;
      for (let i = 0; i < count; i++) {
        const magnitude = Math.abs(values[start + i]!);
        if (magnitude > most) most = magnitude;
      }
      largest[block] = most;
      const divisor = most === 0 ? 1 : most;
      for (let i = 0; i < count; i++) scaled[i] = values[start + i]! / divisor;
      for (let i = 0; i < count; i++) {
        let code = known[bits[i]! >>> (32 - keyBits)]!;
        while (scaled[i]! > borders[code]!) code++;
        codes[start + i] = code;
      }
    }
  }
}

/** The largest float32 that is as near to `low` as to `high`, or nearer: `nearest` gives it the former. */
function lastBelow(low: number, high: number): number {
  const isBelow = (value: number): boolean => Math.fround(value - low) <= Math.fround(high - value);
  let [below, above] = [low, high];
  for (;;) {
    const middle = Math.fround((below + above) / 2);
    if (middle === below || middle === above) return below;
    if (isBelow(middle)) below = middle;
    else above = middle;
  }
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
