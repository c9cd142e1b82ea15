import { onnxDataType } from "../../base/dtype.js";
import { LineageError } from "../../base/errors.js";
import { multiplyDims, productOf } from "../dims.js";
import type { Lowering, PackedInput } from "../lower.js";
import type { BlockWeight, NormalFloatWeight, PackedWeight, RowWeight } from "../packed.js";
import type { Tensor } from "../tensor.js";

/** How `matmul`, `linear` and `gather` are written over a weight in fewer bits; none of this has a derivative. */

const contrib = { domain: "com.microsoft" };

/** The engine computes in 8-bit whole numbers, with a scale for each block of the input as well. */
const integerAccuracy = 4;

/**
 * `x weight [+ bias]` where `weight` is packed. The rows of the packed matrix are the outputs, so the product must take the
 * parameter in that orientation.
 */
export function packedMatmul(
  onnx: Lowering,
  x: Tensor,
  { weight, part }: PackedInput,
  transposeWeight: boolean,
  bias?: string,
): string {
  if (transposeWeight === weight.transposed) {
    throw new LineageError(
      "unsupported",
      `a product reads a quantised weight along its other side; keep it in full precision`,
    );
  }
  const input = onnx.nameOf(x);
  if (weight.kind === "half") {
    const wide = onnx.op("Cast", [part("values")], { to: onnxDataType("float32") });
    const product = onnx.op("FusedMatMul", [input, wide], { transB: Number(transposeWeight) }, contrib);
    return bias === undefined ? product : onnx.op("Add", [product, bias]);
  }
  if (weight.kind === "nf4") {
    const product = onnx.op(
      "MatMulBnb4",
      [input, part("values"), part("scales")],
      { K: weight.columns, N: weight.rows, block_size: weight.blockSize, quant_type: 1 },
      contrib,
    );
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
      accuracy_level: integerAccuracy,
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
  refuseLookup(weight);
  return onnx.op(
    "GatherBlockQuantized",
    [part("table"), rows, part("scales"), ...(weight.zeroPoints ? [part("zeroPoints")] : [])],
    { gather_axis: 0, quantize_axis: 1, block_size: weight.blockSize, bits: weight.bits },
    contrib,
  );
}

function refuseLookup(weight: BlockWeight | RowWeight | NormalFloatWeight): asserts weight is BlockWeight {
  if (weight.kind !== "blocks" || weight.offsets) {
    const found = { nf4: "NF4", rows: "rows with one scale", blocks: "blocks with offsets" }[weight.kind];
    throw new LineageError(
      "unsupported",
      `the engine looks up rows only in blocks without offsets, not in ${found}`,
    );
  }
}
