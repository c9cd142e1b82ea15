import { LineageError } from "../base/errors.js";
import {
  type BlockWeight,
  type NormalFloatWeight,
  type PackedWeight,
  type QuantizedWeight,
  compile,
  input,
  isDouble,
  matmul,
  packedParts,
} from "../graph/index.js";
import type { DeviceTensor, Runtime } from "../runtime/types.js";
import { type MatrixSource, blockArrays, dequantizeBlocks, matrixOf } from "./blocks.js";
import { dynamicBlock } from "./dynamic.js";
import { dequantizeNormalFloat, scalesOf } from "./normal-float.js";
import { dequantizeRows, rowTensors, rowWeight, signedValues } from "./rows.js";

/** Rows of a weight that a check computes. */
const checkedRows = 64;

/** Kinds of packed weight that have been found right, by runtime. */
const verified = new WeakMap<Runtime, Set<string>>();

/** What decides which of the engine's kernels runs. */
const kernelOf = (weight: PackedWeight): string =>
  weight.kind === "blocks"
    ? `${weight.bits}-bit blocks of ${weight.blockSize}${weight.zeroPoints ? " with zero points" : ""}${weight.offsets ? " with offsets" : ""}`
    : weight.kind === "nf4"
      ? `NF4 blocks of ${weight.blockSize}${isDouble(weight.scales) ? " with scales in 8 bits" : ""}`
      : weight.kind === "rows"
        ? `${weight.values.dtype} rows`
        : `${weight.values.dtype} weights`;

/**
 * Holds the engine's kernels on this device to plain arithmetic, once for each kind of packed weight: the first rows of
 * one weight of the kind, over one input row and over several. Throws `unsupported` where they disagree by more than the
 * rounding of the inputs to 8 bits explains.
 */
export async function verifyPacked(runtime: Runtime, weights: Iterable<PackedWeight>): Promise<void> {
  const known = verified.get(runtime) ?? new Set<string>();
  verified.set(runtime, known);
  for (const weight of weights) {
    const kernel = kernelOf(weight);
    if (known.has(kernel) || weight.kind === "half") continue;
    const error = await kernelError(runtime, weight);
    if (!(error < tolerance)) {
      throw new LineageError(
        "unsupported",
        `the engine computes ${kernel} wrongly on this device (${runtime.device}): its products differ from plain arithmetic by ${(100 * error).toFixed(1)}%; use other bits or none`,
      );
    }
    known.add(kernel);
  }
}

/** Relative to the largest product. The 8-bit inputs alone make about 0.003. */
const tolerance = 0.02;

async function kernelError(runtime: Runtime, weight: QuantizedWeight): Promise<number> {
  const rows = Math.min(checkedRows, weight.rows);
  const { columns } = weight;
  const part = { ...(await firstRows(runtime, weight, rows)), transposed: false };
  const plain = dequantizeWeight(part);
  const count = 5;
  const x = Float32Array.from(
    { length: count * columns },
    (_, i) => Math.sin(0.37 * i) + 0.5 * Math.cos(0.011 * i),
  );
  const weightTensor = input("weight", "float32", [rows, columns]);
  const program = await compile(
    runtime,
    { y: matmul(input("x", "float32", ["count", columns]), weightTensor, { transposeB: true }) },
    { name: "check of a kernel", constants: { tensors: {}, packed: { weight: part } } },
  );
  try {
    const check = async (given: number): Promise<number> => {
      using inputs = runtime.createTensor("float32", [given, columns], x.subarray(0, given * columns));
      const { y } = await program.run({ x: inputs });
      const result = (await y!.read()) as Float32Array;
      y!.dispose();
      let [difference, largest] = [0, 0];
      for (let i = 0; i < given; i++) {
        for (let row = 0; row < rows; row++) {
          let sum = 0;
          for (let k = 0; k < columns; k++) sum += x[i * columns + k]! * plain[row * columns + k]!;
          difference = Math.max(difference, Math.abs(sum - result[i * rows + row]!));
          largest = Math.max(largest, Math.abs(sum));
        }
      }
      return largest === 0 ? difference : difference / largest;
    };
    return Math.max(await check(1), await check(count));
  } finally {
    program.dispose();
    for (const tensor of Object.values(packedParts(part))) tensor.dispose();
  }
}

async function firstRows(runtime: Runtime, weight: QuantizedWeight, rows: number): Promise<QuantizedWeight> {
  const share = <T extends DeviceTensor>(tensor: T): T => {
    const shape = [rows, ...tensor.shape.slice(1)];
    return tensor.slice(0, shape) as T;
  };
  if (weight.kind === "nf4") {
    const { columns, blockSize } = weight;
    return {
      ...weight,
      rows,
      values: weight.values.slice(0, [(rows * columns) / 2]),
      scales: firstScales(weight.scales, (rows * columns) / blockSize),
    };
  }
  if (weight.kind === "rows") {
    const { columns, rows: all } = weight;
    const signed = signedValues(weight);
    const values = new Int8Array(columns * rows);
    for (let column = 0; column < columns; column++)
      values.set(signed.subarray(column * all, column * all + rows), column * rows);
    return rowWeight(runtime, rowTensors(runtime, { values, scales: weight.scales.view().slice(0, rows) }), {
      ...weight,
      rows,
    });
  }
  return {
    ...weight,
    rows,
    values: share(weight.values),
    table: share(weight.table),
    scales: share(weight.scales),
    zeroPoints: weight.zeroPoints && share(weight.zeroPoints),
    offsets: weight.offsets && firstColumns(runtime, weight, rows),
  };
}

function firstScales(scales: NormalFloatWeight["scales"], count: number): NormalFloatWeight["scales"] {
  if (!isDouble(scales)) return scales.slice(0, [count]);
  const blocks = Math.ceil(count / dynamicBlock);
  return {
    codes: scales.codes.slice(0, [blocks * dynamicBlock]),
    largest: scales.largest.slice(0, [blocks]),
    offset: scales.offset.slice(0, [1]),
  };
}

/** Offsets lie by block first, so that those of the first rows have to be gathered. */
function firstColumns(
  runtime: Runtime,
  { offsets, rows: all }: BlockWeight,
  rows: number,
): DeviceTensor<"float32"> {
  const blocks = offsets!.shape[0]!;
  const data = offsets!.view();
  const picked = new Float32Array(blocks * rows);
  for (let block = 0; block < blocks; block++)
    picked.set(data.subarray(block * all, block * all + rows), block * rows);
  return runtime.createTensor("float32", [blocks, rows], picked);
}

/** The matrix `[rows, columns]` that whole numbers or NF4 stand for. */
export const dequantizeWeight = (weight: QuantizedWeight): Float32Array =>
  weight.kind === "nf4"
    ? dequantizeNormalFloat({ values: weight.values.view(), scales: scalesOf(weight) }, weight.blockSize)
    : weight.kind === "rows"
      ? dequantizeRows({ values: signedValues(weight), scales: weight.scales.view() }, weight.columns)
      : dequantizeBlocks(blockArrays(weight), weight);

/** The matrix that whole numbers or NF4 stand for, to be read a panel at a time. */
export function packedMatrix(weight: QuantizedWeight): MatrixSource {
  const { rows, columns, transposed } = weight;
  if (weight.kind !== "blocks")
    return { ...matrixOf(dequantizeWeight(weight), [rows, columns], false), transposed };
  const arrays = blockArrays(weight);
  return {
    rows,
    columns,
    transposed,
    read: (first, count, target) => {
      dequantizeBlocks(arrays, weight, target.subarray(0, count * columns), first);
    },
  };
}
