import { onnxDataType } from "../../base/dtype.js";
import { LineageError } from "../../base/errors.js";
import { multiplyDims, productOf } from "../dims.js";
import type { Lowering, PackedInput } from "../lower.js";
import {
  type BlockWeight,
  type NormalFloatWeight,
  type PackedWeight,
  type QuantizedWeight,
  type RowWeight,
  dynamicMap,
  isDouble,
  normalFloat4,
  unpackedBytes,
} from "../packed.js";
import type { Tensor } from "../tensor.js";

/** How `matmul`, `linear` and `gather` are written over a weight in fewer bits, which takes no gradient itself. */

const contrib = { domain: "com.microsoft" };

/** `accuracy_level` of block products: in float32, or in 8-bit whole numbers with a scale for each block of the input too. */
const accuracy = { exact: 1, rounded: 4 };

/**
 * `x weight [+ bias]` where `weight` is packed. The engine's products take the rows of the packed matrix for outputs; along
 * the other side, which is the gradient of `x`, the matrix is unpacked first.
 */
export function packedMatmul(
  onnx: Lowering,
  x: Tensor,
  { weight, part }: PackedInput,
  transposeWeight: boolean,
  bias?: string,
): string {
  const input = onnx.nameOf(x);
  if (weight.kind === "half") {
    const wide = onnx.op("Cast", [part("values")], { to: onnxDataType("float32") });
    const product = onnx.op("FusedMatMul", [input, wide], { transB: Number(transposeWeight) }, contrib);
    return bias === undefined ? product : onnx.op("Add", [product, bias]);
  }
  const byRows = transposeWeight !== weight.transposed;
  if (weight.kind === "nf4" && byRows) {
    const product = onnx.op(
      "MatMulBnb4",
      [input, part("values"), normalFloatScales(onnx, weight, part)],
      {
        K: weight.columns,
        N: weight.rows,
        block_size: weight.blockSize,
        quant_type: 1,
      },
      contrib,
    );
    return bias === undefined ? product : onnx.op("Add", [product, bias]);
  }
  if (!byRows || weight.kind === "nf4") {
    const product =
      weight.kind === "rows" ? overWholeRows(onnx, x, weight, part) : overUnpackedRows(onnx, x, weight, part);
    return bias === undefined ? product : onnx.op("Add", [product, bias]);
  }
  const group =
    bias === undefined ? onnx.packedProducts(x).filter((other) => alike(other.weight, weight)) : [];
  if (group.length > 1) {
    const names = group.map(({ name }) => name).join();
    const products = onnx.once(`${input} by ${names}`, () => mergedProduct(onnx, x, weight, group));
    return products[group.findIndex((other) => other.weight === weight)]!;
  }
  if (weight.kind === "blocks") return blockProduct(onnx, x, weight, part, bias);
  const product = wholeProduct(onnx, x, weight, part);
  return bias === undefined ? product : onnx.op("Add", [product, bias]);
}

/** Whether two matrices can be parts of one. */
const alike = (a: PackedWeight, b: BlockWeight | RowWeight): boolean =>
  a.transposed === b.transposed &&
  (a.kind === "blocks"
    ? b.kind === "blocks" &&
      a.bits === b.bits &&
      a.blockSize === b.blockSize &&
      Boolean(a.zeroPoints) === Boolean(b.zeroPoints) &&
      Boolean(a.offsets) === Boolean(b.offsets)
    : a.kind === "rows" && b.kind === "rows" && a.values.dtype === b.values.dtype);

/**
 * Several products of one input as one, and its parts: a step waits for the engine's threads once instead of three times for
 * queries, keys and values. Matrices that do not lie side by side the engine puts together when the program is made.
 */
function mergedProduct(
  onnx: Lowering,
  x: Tensor,
  kind: BlockWeight | RowWeight,
  group: readonly PackedInput[],
): string[] {
  const sizes = group.map(({ weight }) => weight.rows);
  const rows = sizes.reduce((sum, count) => sum + count, 0);
  const outputsLast = kind.kind === "blocks" ? "offsets" : "values";
  const part = (name: string): string => onnx.packedParts(group, name, name === outputsLast ? 1 : 0);
  const product =
    kind.kind === "blocks"
      ? blockProduct(onnx, x, { ...kind, rows }, part)
      : wholeProduct(onnx, x, { ...kind, rows }, part);
  return onnx.cut(product, onnx.ints(sizes), -1, sizes.length);
}

function blockProduct(
  onnx: Lowering,
  x: Tensor,
  weight: BlockWeight,
  part: PackedInput["part"],
  bias?: string,
): string {
  const input = onnx.nameOf(x);
  const zeroPoints = weight.zeroPoints ? part("zeroPoints") : "";
  const inputs = [input, part("values"), part("scales"), zeroPoints, "", bias ?? ""];
  while (inputs.at(-1) === "") inputs.pop();
  const product = onnx.op(
    "MatMulNBits",
    inputs,
    {
      K: weight.columns,
      N: weight.rows,
      bits: weight.bits,
      block_size: weight.blockSize,
      accuracy_level: onnx.exactProducts ? accuracy.exact : accuracy.rounded,
    },
    contrib,
  );
  if (!weight.offsets) return product;
  // One operator and no reshaping: pooling takes [batch, channels, length], here [batch, sequence, columns].
  const means = onnx.once(`${input} in means of ${weight.blockSize}`, () => {
    const rows = x.rank === 3 ? input : onnx.op("Reshape", [input, onnx.ints([1, -1, weight.columns])]);
    const pooled = onnx.op("AveragePool", [rows], {
      kernel_shape: { ints: [weight.blockSize] },
      strides: { ints: [weight.blockSize] },
    });
    if (x.rank === 3) return pooled;
    const blocks = weight.columns / weight.blockSize;
    return onnx.op("Reshape", [pooled, onnx.shape([...x.shape.slice(0, -1), blocks])]);
  });
  const offset = onnx.op(
    "FusedMatMul",
    [means, part("offsets")],
    { alpha: { float: weight.blockSize } },
    contrib,
  );
  return onnx.op("Add", [product, offset]);
}

/** Whole numbers of an input: 1 to 255 around 128, unsigned as the engine's fastest products want them. */
const [middle, largest] = [128, 127];
/** How much finer the second whole number is than the first. */
const finer = 2 * largest;

/**
 * A product of whole numbers. A row of the input becomes two rows: its values in 8 bits, by the largest of the row, and what
 * they miss, in 8 bits more. Outliers of activations would leave the other values few of the first 8 bits; the second cost a
 * product of twice as many rows, which is still about twice as fast as one over blocks.
 */
function wholeProduct(
  onnx: Lowering,
  x: Tensor,
  { values, rows, columns }: RowWeight,
  part: PackedInput["part"],
): string {
  const input = onnx.nameOf(x);
  // The engine has no product of whole numbers there.
  if (onnx.device === "cuda")
    return onnx.op("Mul", [
      onnx.op("MatMul", [input, signed(onnx, part("values"), values.dtype)]),
      part("scales"),
    ]);
  const float = (value: number): string => onnx.scalar("float32", value);
  const zeroPoint = onnx.scalar("uint8", middle);
  const axis = 0;
  const count = productOf(x.shape.slice(0, -1));
  // Products of one input share what it is rounded to.
  const rounded = onnx.once(`${input} in whole numbers`, () => {
    const flat =
      x.rank === 2
        ? input
        : onnx.shaped(onnx.op("Reshape", [input, onnx.ints([-1, columns])]), "float32", [count, columns]);
    const peak = onnx.op("ReduceMax", [onnx.op("Abs", [flat]), onnx.ints([-1])], { keepdims: 1 });
    // A row of zeros stays one.
    const size = onnx.op("Max", [peak, float(1e-30)]);
    const unit = onnx.shaped(
      onnx.op("Reshape", [onnx.op("Mul", [size, float(1 / largest)]), onnx.ints([-1])]),
      "float32",
      [count],
    );
    const zero = onnx.shaped(onnx.op("Expand", [zeroPoint, onnx.op("Shape", [unit])]), "uint8", [count]);
    const coarse = onnx.op("QuantizeLinear", [flat, unit, zero], { axis });
    const rest = onnx.op("Sub", [flat, onnx.op("DequantizeLinear", [coarse, unit, zero], { axis })]);
    const fine = onnx.op("QuantizeLinear", [rest, onnx.op("Mul", [unit, float(1 / finer)]), zero], { axis });
    return {
      values: onnx.shaped(onnx.op("Concat", [coarse, fine], { axis }), "uint8", [
        multiplyDims(2, count),
        columns,
      ]),
      size,
    };
  });
  const both = onnx.op(
    "MatMulIntegerToFloat",
    [
      rounded.values,
      part("values"),
      float(1 / largest),
      part("scales"),
      zeroPoint,
      ...(values.dtype === "uint8" ? [zeroPoint] : []),
    ],
    {},
    contrib,
  );
  const [coarse, fine] = onnx.ops("Split", [both], { axis, num_outputs: 2 }, { outputs: 2 });
  onnx.shaped(coarse!, "float32", [count, rows]);
  onnx.shaped(fine!, "float32", [count, rows]);
  const sum = onnx.op("Add", [coarse!, onnx.op("Mul", [fine!, float(1 / finer)])]);
  const product = onnx.op("Mul", [sum, rounded.size]);
  if (x.rank === 2) return product;
  const shape = [...x.shape.slice(0, -1), rows];
  return onnx.shaped(onnx.op("Reshape", [product, onnx.shape(shape)]), "float32", shape);
}

/**
 * The numbers 0 to `count - 1` in slices, which the engine cannot compute before the run: it would unpack the whole matrix
 * for good when the program is made.
 * @param write is given the numbers of a slice, where it begins and ends, and makes the value after which the next one is
 *   computed: only one slice is unpacked at a time
 */
function inSlices(
  onnx: Lowering,
  count: number,
  bytesEach: number,
  after: string,
  write: (indices: string, start: number, end: number) => string,
): string[] {
  const slices = Math.ceil((count * bytesEach) / unpackedBytes);
  const size = Math.ceil(count / slices);
  const results: string[] = [];
  for (let start = 0; start < count; start += size) {
    const end = Math.min(count, start + size);
    const flat = onnx.op("Reshape", [results.at(-1) ?? after, onnx.ints([-1])]);
    const element = onnx.op("Slice", [flat, onnx.ints([0]), onnx.ints([1]), onnx.ints([0])]);
    const zero = onnx.op("Mul", [onnx.op("Cast", [element], { to: onnxDataType("int64") }), onnx.ints([0])]);
    const range = onnx.op(
      "Range",
      [start, end, 1].map((value) => onnx.scalar("int64", value)),
    );
    results.push(write(onnx.op("Add", [range, zero]), start, end));
  }
  return results;
}

/** `x matrix` where the rows of the matrix are in blocks: `[..., rows] x [rows, columns]`. */
function overUnpackedRows(
  onnx: Lowering,
  x: Tensor,
  weight: BlockWeight | NormalFloatWeight,
  part: PackedInput["part"],
): string {
  const { rows, columns } = weight;
  const input = onnx.nameOf(x);
  const products = inSlices(onnx, rows, 4 * columns, input, (indices, start, end) => {
    const whole = start === 0 && end === rows;
    const own = whole
      ? input
      : onnx.op("Slice", [input, onnx.ints([start]), onnx.ints([end]), onnx.ints([-1])]);
    return onnx.op("MatMul", [own, unpackedRows(onnx, weight, part, indices)]);
  });
  return products.reduce((sum, product) => onnx.op("Add", [sum, product]));
}

/** `x matrix` where the matrix is in whole rows: `[..., rows] x [rows, columns]`. */
function overWholeRows(
  onnx: Lowering,
  x: Tensor,
  { values, rows, columns }: RowWeight,
  part: PackedInput["part"],
): string {
  const scaled = onnx.op("Mul", [onnx.nameOf(x), part("scales")]);
  const products = inSlices(onnx, columns, 4 * rows, scaled, (indices) => {
    const picked = onnx.op("Gather", [part("values"), indices], { axis: 0 });
    const matrix = signed(onnx, picked, values.dtype);
    return onnx.op("FusedMatMul", [scaled, matrix], { transB: 1 }, contrib);
  });
  return products.length === 1 ? products[0]! : onnx.op("Concat", products, { axis: -1 });
}

/** Rows of a packed table. */
export function packedGather(
  onnx: Lowering,
  { weight, part }: PackedInput,
  indices: Tensor,
  axis: number,
): string {
  if (axis !== 0 || weight.transposed) {
    throw new LineageError(
      "unsupported",
      `a look-up in a quantised table must be of whole rows; keep it in full precision`,
    );
  }
  const rows = onnx.nameOf(indices);
  if (weight.kind === "half") {
    const picked = onnx.op("Gather", [part("values"), rows], { axis: 0 });
    return onnx.op("Cast", [picked], { to: onnxDataType("float32") });
  }
  if (weight.kind === "blocks" && !weight.offsets) return blockRows(onnx, weight, part, rows);
  const flat = indices.rank === 1 ? rows : onnx.op("Reshape", [rows, onnx.ints([-1])]);
  const picked = unpackedRows(onnx, weight, part, flat);
  if (indices.rank === 1) return picked;
  return onnx.op("Reshape", [picked, onnx.shape([...indices.shape, weight.columns])]);
}

/**
 * A small packed matrix in full precision, as the model's parameter has it, for what reads it otherwise than products and
 * look-ups do: the engine unpacks it when the program is made. Throws `unsupported` for a large one.
 */
export function unpackedWhole(onnx: Lowering, { name, weight, part }: PackedInput): string {
  const { rows, columns, transposed } = weight;
  if (weight.kind === "half") return onnx.op("Cast", [part("values")], { to: onnxDataType("float32") });
  if (4 * rows * columns > unpackedBytes)
    throw new LineageError(
      "unsupported",
      `${name} is quantised, and only products and look-ups of rows read it so: keep it in full precision`,
    );
  const indices = onnx.op(
    "Range",
    [0, rows, 1].map((value) => onnx.scalar("int64", value)),
  );
  const matrix = unpackedRows(onnx, weight, part, indices);
  return transposed ? onnx.op("Transpose", [matrix], { perm: { ints: [1, 0] } }) : matrix;
}

/** `[count]` -> `[count, columns]`. */
const unpackedRows = (
  onnx: Lowering,
  weight: QuantizedWeight,
  part: PackedInput["part"],
  indices: string,
): string =>
  weight.kind === "blocks"
    ? blockRows(onnx, weight, part, indices)
    : weight.kind === "rows"
      ? wholeRows(onnx, weight, part, indices)
      : normalFloatRows(onnx, weight, part, indices);

/** Rows of a matrix in blocks: `[...]` -> `[..., columns]`; with offsets the indices have one axis. */
function blockRows(
  onnx: Lowering,
  { columns, blockSize, bits, zeroPoints, offsets }: BlockWeight,
  part: PackedInput["part"],
  indices: string,
): string {
  const rows = onnx.op(
    "GatherBlockQuantized",
    [part("table"), indices, part("scales"), ...(zeroPoints ? [part("zeroPoints")] : [])],
    { gather_axis: 0, quantize_axis: 1, block_size: blockSize, bits },
    contrib,
  );
  if (!offsets) return rows;
  const own = onnx.op("Gather", [part("offsets"), indices], { axis: 1 });
  const perBlock = onnx.op("Transpose", [own], { perm: { ints: [1, 0] } });
  const blocks = onnx.op("Reshape", [rows, onnx.ints([-1, columns / blockSize, blockSize])]);
  const shifted = onnx.op("Add", [blocks, onnx.op("Unsqueeze", [perBlock, onnx.ints([2])])]);
  return onnx.op("Reshape", [shifted, onnx.ints([-1, columns])]);
}

/** `[count]` -> `[count, columns]`. */
function wholeRows(
  onnx: Lowering,
  { values }: RowWeight,
  part: PackedInput["part"],
  indices: string,
): string {
  const picked = onnx.op("Gather", [part("values"), indices], { axis: 1 });
  const rows = onnx.op("Transpose", [signed(onnx, picked, values.dtype)], { perm: { ints: [1, 0] } });
  const scales = onnx.op("Gather", [part("scales"), indices], { axis: 0 });
  return onnx.op("Mul", [rows, onnx.op("Unsqueeze", [scales, onnx.ints([1])])]);
}

/** What 8-bit numbers stand for, as float32. */
function signed(onnx: Lowering, values: string, dtype: "int8" | "uint8"): string {
  const floats = onnx.op("Cast", [values], { to: onnxDataType("float32") });
  return dtype === "uint8" ? onnx.op("Sub", [floats, onnx.scalar("float32", middle)]) : floats;
}

/** `[count]` -> `[count, columns]`. */
function normalFloatRows(
  onnx: Lowering,
  weight: NormalFloatWeight,
  part: PackedInput["part"],
  indices: string,
): string {
  const { columns, blockSize } = weight;
  const wide = onnx.op("Cast", [indices], { to: onnxDataType("int64") });
  const first = onnx.op("Unsqueeze", [wide, onnx.ints([1])]);
  const along = (flat: string, each: number): string => {
    const places = onnx.op("Add", [
      onnx.op("Mul", [first, onnx.ints([each])]),
      onnx.op(
        "Range",
        [0, each, 1].map((value) => onnx.scalar("int64", value)),
      ),
    ]);
    return onnx.op("Gather", [flat, places], { axis: 0 });
  };
  const bytes = along(part("values"), columns / 2);
  const table = onnx.constant("float32", [normalFloat4.length], normalFloat4);
  const halves = [
    onnx.op("BitShift", [bytes, onnx.scalar("uint8", 4)], { direction: "RIGHT" }),
    onnx.op("BitwiseAnd", [bytes, onnx.scalar("uint8", 15)]),
  ].map((codes) => {
    const values = onnx.op("Gather", [table, onnx.op("Cast", [codes], { to: onnxDataType("int32") })]);
    return onnx.op("Unsqueeze", [values, onnx.ints([-1])]);
  });
  const pairs = onnx.op("Concat", halves, { axis: -1 });
  const blocks = columns / blockSize;
  const scaled = onnx.op("Mul", [
    onnx.op("Reshape", [pairs, onnx.ints([-1, blocks, blockSize])]),
    onnx.op("Unsqueeze", [along(normalFloatScales(onnx, weight, part), blocks), onnx.ints([2])]),
  ]);
  return onnx.op("Reshape", [scaled, onnx.ints([-1, columns])]);
}

/** Largest magnitudes of an NF4 matrix's blocks, in float32. */
function normalFloatScales(onnx: Lowering, weight: NormalFloatWeight, part: PackedInput["part"]): string {
  const { scales, rows, columns, blockSize } = weight;
  if (!isDouble(scales)) return part("scales");
  const codes = part("codes");
  return onnx.once(`scales of ${codes}`, () => {
    const map = onnx.constant("float32", [256], dynamicMap(true));
    const numbers = onnx.op("Gather", [map, onnx.op("Cast", [codes], { to: onnxDataType("int32") })]);
    const scaled = onnx.op("Mul", [
      onnx.op("Reshape", [numbers, onnx.ints([-1, 256])]),
      onnx.op("Unsqueeze", [part("largest"), onnx.ints([1])]),
    ]);
    const all = onnx.op("Add", [onnx.op("Reshape", [scaled, onnx.ints([-1])]), part("offset")]);
    const count = (rows * columns) / blockSize;
    return [count === scales.codes.size ? all : onnx.op("Slice", [all, onnx.ints([0]), onnx.ints([count])])];
  })[0]!;
}
