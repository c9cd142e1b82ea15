import type { DType } from "./dtype.js";

let valuesOfHalves: Float32Array | undefined;

/** The value of IEEE half-precision bits. */
export function float16Value(bits: number): number {
  valuesOfHalves ??= computeValues();
  return valuesOfHalves[bits]!;
}

function computeValues(): Float32Array {
  const values = new Float32Array(0x10000);
  const words = new Uint32Array(values.buffer);
  const smallest = 2 ** -24;
  for (let bits = 0; bits < 0x10000; bits++) {
    const size = bits & 0x7fff;
    // Exponents begin 112 lower than in float32; the highest one, of infinity and what is no number, is the highest there.
    if (size < 0x400) values[bits] = size * (bits & 0x8000 ? -smallest : smallest);
    else words[bits] = ((bits & 0x8000) << 16) | ((size << 13) + (size < 0x7c00 ? 0x38000000 : 0x70000000));
  }
  return values;
}

/** The float32 values of 16-bit floating dtypes; every 16-bit value has one exactly. */
export const widen: Partial<Record<DType, (bits: Uint16Array, target: Float32Array) => void>> = {
  bfloat16: (bits, target) => {
    const words = new Uint32Array(target.buffer, target.byteOffset, target.length);
    for (let i = 0; i < bits.length; i++) words[i] = bits[i]! << 16;
  },
  float16: (bits, target) => {
    for (let i = 0; i < bits.length; i++) target[i] = float16Value(bits[i]!);
  },
};

const float = new Float32Array(1);
const word = new Uint32Array(float.buffer);

/** The bits of the nearest half, the even one of two equally near; infinity beyond the largest. */
export function float16Bits(value: number): number {
  float[0] = value;
  const bits = word[0]!;
  const sign = (bits >>> 16) & 0x8000;
  const size = bits & 0x7fff_ffff;
  if (size > 0x7f80_0000) return sign | 0x7e00;
  // From 65520 on, the nearest would be 65536, which there is not.
  if (size >= 0x477f_f000) return sign | 0x7c00;
  if (size < 0x3880_0000) return sign | roundHalfToEven(Math.abs(float[0]) * 2 ** 24);
  return sign | ((size + 0xfff + ((size >>> 13) & 1) - 0x3800_0000) >>> 13);
}

function roundHalfToEven(value: number): number {
  const below = Math.floor(value);
  const rest = value - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below;
}

/** The bits of the nearest bfloat16, the even one of two equally near. */
export function bfloat16Bits(value: number): number {
  float[0] = value;
  const bits = word[0]!;
  if ((bits & 0x7fff_ffff) > 0x7f80_0000) return (bits >>> 16) | 0x40;
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}
