import type { DType } from "./dtype.js";

/** The value of IEEE half-precision bits. */
export function float16Value(bits: number): number {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
  const size =
    exponent === 31
      ? fraction === 0
        ? Infinity
        : NaN
      : exponent === 0
        ? fraction * 2 ** -24
        : (1 + fraction / 1024) * 2 ** (exponent - 15);
  return bits & 0x8000 ? -size : size;
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
