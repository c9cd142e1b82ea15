import { LineageError } from "../base/errors.js";
import { type DoubleScaleTensors, type NormalFloatWeight, isDouble, normalFloat4 } from "../graph/index.js";
import type { Runtime } from "../runtime/types.js";
import { type MatrixSource, checkBlocks, eachRow } from "./blocks.js";
import { dequantizeScales, dynamicBlock, quantizeScales } from "./dynamic.js";

export { normalFloat4 };

/** Where the nearest value changes. */
const borders = Float32Array.from({ length: 15 }, (_, i) => (normalFloat4[i]! + normalFloat4[i + 1]!) / 2);

export interface NormalFloatArrays {
  /** Two values a byte, the first in the high half. */
  readonly values: Uint8Array;
  /** Largest magnitude of each block. */
  readonly scales: Float32Array;
}

/** Rounds a matrix to NF4 in blocks of `blockSize`, published: 64. */
export function quantizeNormalFloat(source: MatrixSource, blockSize = 64): NormalFloatArrays {
  checkBlocks(source, blockSize);
  const { rows, columns } = source;
  const blocks = columns / blockSize;
  const values = new Uint8Array((rows * columns) / 2);
  const scales = new Float32Array(rows * blocks);
  eachRow(source, (row, data) => {
    for (let block = 0; block < blocks; block++) {
      const start = block * blockSize;
      let largest = 0;
      for (let i = start; i < start + blockSize; i++) largest = Math.max(largest, Math.abs(data[i]!));
      if (!Number.isFinite(largest))
        throw new LineageError("data", "a weight is not a finite number; it cannot be quantised");
      scales[row * blocks + block] = largest;
      const inverse = largest === 0 ? 0 : 1 / largest;
      for (let i = 0; i < blockSize; i += 2) {
        const at = start + i;
        values[(row * columns + at) / 2] =
          (nearest(data[at]! * inverse) << 4) | nearest(data[at + 1]! * inverse);
      }
    }
  });
  return { values, scales };
}

function nearest(value: number): number {
  let code = value > borders[7]! ? 8 : 0;
  for (let step = 4; step > 0; step >>= 1) if (value > borders[code + step - 1]!) code += step;
  return code;
}

/** The matrix `[rows, columns]` that NF4 arrays stand for. */
export function dequantizeNormalFloat(
  { values, scales }: NormalFloatArrays,
  blockSize: number,
): Float32Array {
  return Float32Array.from({ length: 2 * values.length }, (_, i) => {
    const code = i % 2 === 0 ? values[i >> 1]! >> 4 : values[i >> 1]! & 15;
    return normalFloat4[code]! * scales[Math.floor(i / blockSize)]!;
  });
}

/** The scales of an NF4 weight in float32. */
export function scalesOf({ scales, rows, columns, blockSize }: NormalFloatWeight): Float32Array {
  if (!isDouble(scales)) return scales.view();
  const { codes, largest, offset } = scales;
  const all = dequantizeScales({
    codes: codes.view(),
    largest: largest.view(),
    offset: offset.view()[0]!,
  });
  return all.subarray(0, (rows * columns) / blockSize);
}

/** A weight over NF4 arrays, whose memory it takes over. @param double whether its scales are kept in 8 bits */
export function normalFloatWeight(
  runtime: Runtime,
  { values, scales }: NormalFloatArrays,
  layout: Pick<NormalFloatWeight, "rows" | "columns" | "transposed" | "blockSize">,
  double = false,
): NormalFloatWeight {
  return {
    kind: "nf4",
    ...layout,
    values: runtime.wrapTensor("uint8", [values.length], values),
    scales: double ? doubleTensors(runtime, scales) : runtime.wrapTensor("float32", [scales.length], scales),
  };
}

function doubleTensors(runtime: Runtime, scales: Float32Array): DoubleScaleTensors {
  const { codes, largest, offset } = quantizeScales(scales);
  const whole = new Uint8Array(largest.length * dynamicBlock);
  whole.set(codes);
  return {
    codes: runtime.wrapTensor("uint8", [whole.length], whole),
    largest: runtime.wrapTensor("float32", [largest.length], largest),
    offset: runtime.wrapTensor("float32", [1], Float32Array.of(offset)),
  };
}
