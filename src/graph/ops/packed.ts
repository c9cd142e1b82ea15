import { onnxDataType } from "../../base/dtype.js";
import { LineageError } from "../../base/errors.js";
import type { Lowering } from "../lower.js";
import type { BlockWeight, NormalFloatWeight } from "../packed.js";
import type { Tensor } from "../tensor.js";

/** How `matmul`, `linear` and `gather` are written over a weight in fewer bits; none of this has a derivative. */

type Packed = NonNullable<ReturnType<Lowering["packedWeight"]>>;

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
  { weight, part }: Packed,
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
  const blocks = weight.columns / weight.blockSize;
  const lead = x.shape.slice(0, -1).map((_, axis) => axis);
  const inBlocks = onnx.op("Reshape", [input, onnx.ints([...lead.map(() => 0), blocks, weight.blockSize])]);
  const sums = onnx.op("ReduceSum", [inBlocks, onnx.ints([-1])], { keepdims: 0 });
  return onnx.op("Add", [product, onnx.op("MatMul", [sums, part("offsets")])]);
}

/** Rows of a packed table. */
export function packedGather(
  onnx: Lowering,
  { weight, part }: Packed,
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

function refuseLookup(weight: BlockWeight | NormalFloatWeight): asserts weight is BlockWeight {
  if (weight.kind === "nf4" || weight.offsets) {
    throw new LineageError(
      "unsupported",
      `the engine looks up rows only in blocks without offsets, not in ${weight.kind === "nf4" ? "NF4" : "blocks with offsets"}`,
    );
  }
}
