import { ShapeError } from "../../base/errors.js";
import { broadcastShapes, equalShapes, formatShape } from "../dims.js";
import { defineOp } from "../op.js";
import type { Tensor } from "../tensor.js";
import { packedMatmul } from "./packed.js";
import { sum, sumTo } from "./reduce.js";
import { reshape, reshaped } from "./shape.js";

export interface MatmulOptions {
  /** Reads the last two axes of the first operand in the other order. */
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
  /** Factor of the product. Default 1. */
  readonly alpha?: number;
}

type MatmulAttributes = Required<MatmulOptions>;

const matmulOp = defineOp<MatmulAttributes>("matmul", {
  shape: ([a, b], { transposeA, transposeB }) => {
    const text = `${formatShape(a!.shape)}${transposeA ? " transposed" : ""} x ${formatShape(b!.shape)}${transposeB ? " transposed" : ""}`;
    if (a!.rank < 2 || b!.rank < 2)
      throw new ShapeError(`both operands need two dimensions or more: ${text}`);
    if (a!.dtype !== b!.dtype) throw new ShapeError(`the dtypes differ: ${a!.describe()} x ${b!.describe()}`);
    const [m, k] = transposeA ? [a!.shape.at(-1)!, a!.shape.at(-2)!] : [a!.shape.at(-2)!, a!.shape.at(-1)!];
    const [inner, n] = transposeB
      ? [b!.shape.at(-1)!, b!.shape.at(-2)!]
      : [b!.shape.at(-2)!, b!.shape.at(-1)!];
    if (k !== inner) {
      const hint =
        k === n
          ? "; did you mean to transpose the second?"
          : m === inner
            ? "; did you mean to transpose the first?"
            : "";
      throw new ShapeError(`the inner dimensions differ: ${text}${hint}`);
    }
    const batch = broadcastShapes(a!.shape.slice(0, -2), b!.shape.slice(0, -2));
    if (!batch) throw new ShapeError(`the leading dimensions do not broadcast: ${text}`);
    return { dtype: a!.dtype, shape: [...batch, m, n] };
  },
  derivative: ({ inputs: [a, b], gradient: dy, attributes: { transposeA, transposeB, alpha } }) => {
    // A weight under a batch: one product over all rows instead of one for each batch element and a sum.
    if (b!.rank === 2 && a!.rank > 2 && !transposeA) {
      return [matmul(dy, b!, { transposeB: !transposeB, alpha }), weightGradient(a!, dy, transposeB, alpha)];
    }
    const da = transposeA
      ? matmul(b!, dy, { transposeA: transposeB, transposeB: true, alpha })
      : matmul(dy, b!, { transposeB: !transposeB, alpha });
    const db = transposeB
      ? matmul(dy, a!, { transposeA: true, transposeB: transposeA, alpha })
      : matmul(a!, dy, { transposeA: !transposeA, alpha });
    return [sumTo(da, a!.shape), sumTo(db, b!.shape)];
  },
  lower: (context, onnx) => {
    const { inputs, attributes } = context;
    const { transposeA, transposeB, alpha } = attributes;
    const packed = onnx.packedWeight(inputs[1]!);
    if (packed) {
      if (transposeA) return undefined;
      const product = packedMatmul(onnx, inputs[0]!, packed, transposeB);
      return alpha === 1 ? product : onnx.op("Mul", [product, onnx.scalar("float32", alpha)]);
    }
    const [a, b] = context.names;
    if (!transposeA && !transposeB && alpha === 1) return onnx.op("MatMul", [a!, b!]);
    const [left, right] = inputs as readonly [Tensor, Tensor];
    if (left.dtype === "float32") {
      return onnx.op(
        "FusedMatMul",
        [a!, b!],
        { transA: Number(transposeA), transB: Number(transposeB), alpha: { float: alpha } },
        { domain: "com.microsoft" },
      );
    }
    const swapped = (name: string, rank: number): string => {
      const axes = Array.from({ length: rank }, (_, axis) => axis);
      return onnx.op("Transpose", [name], { perm: { ints: [...axes.slice(0, -2), rank - 1, rank - 2] } });
    };
    const product = onnx.op("MatMul", [
      transposeA ? swapped(a!, left.rank) : a!,
      transposeB ? swapped(b!, right.rank) : b!,
    ]);
    return alpha === 1 ? product : onnx.op("Mul", [product, onnx.scalar(left.dtype, alpha)]);
  },
});

/**
 * Matrix product over the last two axes, the others broadcast: `[..., m, k] x [..., k, n] -> [..., m, n]`.
 * Throws ShapeError with both shapes where they do not fit.
 */
export const matmul = (
  a: Tensor,
  b: Tensor,
  { transposeA = false, transposeB = false, alpha = 1 }: MatmulOptions = {},
): Tensor => matmulOp([a, b], { transposeA, transposeB, alpha });

/** The gradient of a weight `[in, out]` (`[out, in]` when it is applied transposed) from all rows of `x` and `dy`. */
function weightGradient(x: Tensor, dy: Tensor, transposed: boolean, alpha = 1): Tensor {
  const rows = reshape(x, [-1, x.shape.at(-1)!]);
  const gradientRows = reshape(dy, [-1, dy.shape.at(-1)!]);
  return transposed
    ? matmul(gradientRows, rows, { transposeA: true, alpha })
    : matmul(rows, gradientRows, { transposeA: true, alpha });
}

const linearOp = defineOp<{ readonly transposeWeight: boolean }>("linear", {
  shape: ([x, weight, bias], { transposeWeight }) => {
    const [inSize, outSize] = transposeWeight ? [weight!.shape[1], weight!.shape[0]] : weight!.shape;
    if (weight!.rank !== 2 || x!.shape.at(-1) !== inSize || x!.dtype !== weight!.dtype) {
      throw new ShapeError(
        `${x!.describe()} does not fit the weight ${weight!.describe()}, which takes ${inSize} and gives ${outSize}`,
      );
    }
    if (!equalShapes(bias!.shape, [outSize!])) {
      throw new ShapeError(`the bias ${bias!.describe()} must have the shape [${outSize}]`);
    }
    return { dtype: x!.dtype, shape: [...x!.shape.slice(0, -1), outSize!] };
  },
  derivative: ({ inputs: [x, weight], gradient, attributes: { transposeWeight } }) => [
    matmul(gradient, weight!, { transposeB: !transposeWeight }),
    weightGradient(x!, gradient, transposeWeight),
    sum(reshape(gradient, [-1, gradient.shape.at(-1)!]), { axes: 0 }),
  ],
  lower: (context, onnx) => {
    const { inputs, outputs } = context;
    const { transposeWeight } = context.attributes;
    const packed = onnx.packedWeight(inputs[1]!);
    if (packed) return packedMatmul(onnx, inputs[0]!, packed, transposeWeight, onnx.nameOf(inputs[2]!));
    const [x, weight, bias] = context.names;
    const flat =
      inputs[0]!.rank === 2
        ? x!
        : onnx.op("Reshape", [x!, onnx.ints([-1, inputs[0]!.shape.at(-1) as number])]);
    const product = onnx.op("Gemm", [flat, weight!, bias!], { transB: Number(transposeWeight) });
    return inputs[0]!.rank === 2 ? product : reshaped(product, outputs[0]!.shape, onnx);
  },
});

/**
 * `x weight + bias`: `[..., inSize]`, `[inSize, outSize]`, `[outSize]` -> `[..., outSize]`. `transposeWeight` takes the
 * weight as `[outSize, inSize]`, as PyTorch's `nn.Linear` stores it.
 */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor, { transposeWeight = false } = {}): Tensor {
  return bias
    ? linearOp([x, weight, bias], { transposeWeight })
    : matmul(x, weight, { transposeB: transposeWeight });
}
