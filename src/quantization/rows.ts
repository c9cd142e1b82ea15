import { LineageError } from "../base/errors.js";
import { type RowWeight, compile, input, matmul, packedParts } from "../graph/index.js";
import type { DeviceTensor, Runtime } from "../runtime/types.js";
import { type MatrixSource, eachPanel, panel } from "./blocks.js";

/** The values of a matrix in 8 bits with one scale for each row, in ordinary memory. */
export interface RowArrays {
  /** `[columns, rows]`, from -127 to 127. */
  readonly values: Int8Array;
  /** `[rows]`. */
  readonly scales: Float32Array;
}

/** Rounds a matrix to 8 bits, each row by its largest magnitude. */
export function quantizeRows(source: MatrixSource): RowArrays {
  const { rows, columns } = source;
  const values = new Int8Array(rows * columns);
  const scales = new Float32Array(rows);
  const inverses = new Float64Array(panel);
  eachPanel(source, (first, count, data) => {
    for (let row = 0; row < count; row++) {
      let largest = 0;
      for (let at = row * columns; at < (row + 1) * columns; at++) {
        const size = Math.abs(data[at]!);
        // Written so that what is no number is found as well.
        if (!(size <= largest)) largest = size;
      }
      if (!Number.isFinite(largest))
        throw new LineageError("data", "a weight is not a finite number; it cannot be quantised");
      scales[first + row] = largest / 127;
      inverses[row] = largest === 0 ? 0 : 127 / largest;
    }
    // A panel's rows lie side by side in the result, so that memory is written in whole cache lines.
    for (let column = 0; column < columns; column++) {
      const target = column * rows + first;
      for (let row = 0; row < count; row++)
        values[target + row] = ((data[row * columns + column]! * inverses[row]! + 128.5) | 0) - 128;
    }
  });
  return { values, scales };
}

/** The matrix `[rows, columns]` that row arrays stand for. */
export function dequantizeRows({ values, scales }: RowArrays, columns: number): Float32Array {
  const rows = scales.length;
  return Float32Array.from({ length: rows * columns }, (_, index) => {
    const row = Math.floor(index / columns);
    return scales[row]! * values[(index % columns) * rows + row]!;
  });
}

/** Row arrays in the engine's memory. */
export const rowTensors = (
  runtime: Runtime,
  { values, scales }: RowArrays,
): { values: DeviceTensor<"int8">; scales: DeviceTensor<"float32"> } => ({
  values: runtime.createTensor("int8", [values.length / scales.length, scales.length], values),
  scales: runtime.createTensor("float32", [scales.length], scales),
});

/** A row weight over tensors, its numbers in the type that this device multiplies exactly. */
export async function rowWeight(
  runtime: Runtime,
  { values, scales }: { values: DeviceTensor<"int8">; scales: DeviceTensor<"float32"> },
  layout: Pick<RowWeight, "rows" | "columns" | "transposed">,
): Promise<RowWeight> {
  if (await multipliesSigned(runtime)) return { kind: "rows", ...layout, values, scales };
  const unsigned = runtime.createTensor("uint8", values.shape, turned(values.view()));
  values.dispose();
  return { kind: "rows", ...layout, values: unsigned, scales };
}

/** Whole numbers of a row weight as signed ones. */
export const signedValues = ({ values }: RowWeight): Int8Array =>
  values.dtype === "int8" ? values.view() : new Int8Array(turned(values.view()).buffer);

/** Signed numbers as unsigned ones 128 above, or back. */
const turned = (values: Int8Array | Uint8Array): Uint8Array =>
  Uint8Array.from(values, (value) => value ^ 128);

const signed = new WeakMap<Runtime, Promise<boolean>>();

/**
 * Whether the device multiplies unsigned by signed numbers without overflow. Processors without VNNI add pairs of such
 * products in 16 bits, which the largest numbers exceed; two unsigned factors take another, slower way there.
 */
function multipliesSigned(runtime: Runtime): Promise<boolean> {
  let known = signed.get(runtime);
  if (!known) signed.set(runtime, (known = multiplyLargest(runtime)));
  return known;
}

async function multiplyLargest(runtime: Runtime): Promise<boolean> {
  const [columns, rows] = [64, 16];
  const weight: RowWeight = {
    kind: "rows",
    rows,
    columns,
    transposed: false,
    values: runtime.createTensor("int8", [columns, rows], new Int8Array(columns * rows).fill(127)),
    scales: runtime.createTensor("float32", [rows], new Float32Array(rows).fill(1 / 127)),
  };
  const product = matmul(
    input("x", "float32", ["count", columns]),
    input("weight", "float32", [rows, columns]),
    {
      transposeB: true,
    },
  );
  const program = await compile(
    runtime,
    { product },
    { name: "check of whole-number products", constants: { tensors: {}, packed: { weight } } },
  );
  try {
    for (const count of [1, 16]) {
      using x = runtime.createTensor("float32", [count, columns], new Float32Array(count * columns).fill(1));
      const result = await program.run({ x });
      using sums = result["product"]!;
      const values = (await sums.read()) as Float32Array;
      if (values.some((value) => Math.abs(value - columns) > 0.01 * columns)) return false;
    }
    return true;
  } finally {
    program.dispose();
    for (const tensor of Object.values(packedParts(weight))) tensor.dispose();
  }
}
