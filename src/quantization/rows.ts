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
  const peaks = new Float32Array(panel);
  eachPanel(source, (first, count, data) => {
    findPeaks(data, columns, count, peaks);
    for (let row = 0; row < count; row++) scales[first + row] = peaks[row]! / 127;
    for (const group of groupsOfFour(count)) {
      const inverses = group.map((row) => (peaks[row] === 0 ? 0 : 127 / peaks[row]!)) as Four;
      roundFour(data, columns, group, inverses, values, rows, first);
    }
  });
  return { values, scales };
}

/** Rounds four rows of a panel into columns of the result, where they lie side by side. */
function roundFour(
  data: Float32Array,
  columns: number,
  group: Four,
  inverses: Four,
  values: Int8Array,
  rows: number,
  first: number,
): void {
  const [a, b, c, d] = group.map((row) => row * columns) as Four;
  const [inverseA, inverseB, inverseC, inverseD] = inverses;
  const [toA, toB, toC, toD] = group.map((row) => first + row) as Four;
  for (let column = 0, to = 0; column < columns; column++, to += rows) {
    values[to + toA] = ((data[a + column]! * inverseA + 128.5) | 0) - 128;
    values[to + toB] = ((data[b + column]! * inverseB + 128.5) | 0) - 128;
    values[to + toC] = ((data[c + column]! * inverseC + 128.5) | 0) - 128;
    values[to + toD] = ((data[d + column]! * inverseD + 128.5) | 0) - 128;
  }
}

type Four = [number, number, number, number];

/** Numbers below `count` by fours; the last one again where they do not suffice. */
const groupsOfFour = (count: number): Four[] =>
  Array.from({ length: Math.ceil(count / 4) }, (_, group) => {
    const at = (index: number) => Math.min(4 * group + index, count - 1);
    return [at(0), at(1), at(2), at(3)];
  });

/** The largest magnitude of each row. Throws `data` for what is not finite. */
function findPeaks(data: Float32Array, columns: number, count: number, peaks: Float32Array): void {
  // Magnitudes are in the order of their bits, and what is no number comes after all of them.
  const bits = new Int32Array(data.buffer, data.byteOffset, data.length);
  const found = new Int32Array(peaks.buffer, peaks.byteOffset, peaks.length);
  const magnitude = 0x7fffffff;
  for (const group of groupsOfFour(count)) {
    const [a, b, c, d] = group.map((row) => row * columns) as Four;
    let [peakA, peakB, peakC, peakD] = [0, 0, 0, 0];
    for (let column = 0; column < columns; column++) {
      const ofA = bits[a + column]! & magnitude;
      const ofB = bits[b + column]! & magnitude;
      const ofC = bits[c + column]! & magnitude;
      const ofD = bits[d + column]! & magnitude;
      if (ofA > peakA) peakA = ofA;
      if (ofB > peakB) peakB = ofB;
      if (ofC > peakC) peakC = ofC;
      if (ofD > peakD) peakD = ofD;
    }
    [peakA, peakB, peakC, peakD].forEach((peak, index) => (found[group[index]!] = peak));
  }
  if (peaks.subarray(0, count).some((peak) => !Number.isFinite(peak)))
    throw new LineageError("data", "a weight is not a finite number; it cannot be quantised");
}

/** The matrix `[rows, columns]` that row arrays stand for. */
export function dequantizeRows({ values, scales }: RowArrays, columns: number): Float32Array {
  const rows = scales.length;
  return Float32Array.from({ length: rows * columns }, (_, index) => {
    const row = Math.floor(index / columns);
    return scales[row]! * values[(index % columns) * rows + row]!;
  });
}

/** Tensors over row arrays, whose memory they take over. */
export const rowTensors = (
  runtime: Runtime,
  { values, scales }: RowArrays,
): { values: DeviceTensor<"int8">; scales: DeviceTensor<"float32"> } => ({
  values: runtime.wrapTensor("int8", [values.length / scales.length, scales.length], values),
  scales: runtime.wrapTensor("float32", [scales.length], scales),
});

/** A row weight over tensors, its numbers in the type that this device multiplies exactly. */
export async function rowWeight(
  runtime: Runtime,
  { values, scales }: { values: DeviceTensor<"int8">; scales: DeviceTensor<"float32"> },
  layout: Pick<RowWeight, "rows" | "columns" | "transposed">,
): Promise<RowWeight> {
  if (await multipliesSigned(runtime)) return { kind: "rows", ...layout, values, scales };
  const unsigned = runtime.wrapTensor("uint8", values.shape, turned(values.view()));
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
