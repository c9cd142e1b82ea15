import { ShapeError } from "../../base/errors.js";
import { type Dim, type Shape, equalShapes, formatShape, productOf } from "../dims.js";
import { type DerivativeContext, defineOp } from "../op.js";
import type { Tensor } from "../tensor.js";
import { add, cast, div, equal, exp, log, mul, sub } from "./elementwise.js";
import { scatterAdd } from "./indexing.js";
import { zeros } from "./leaf.js";
import { expand, flip, reshape } from "./shape.js";

/** The place of `axis`, which may count from the end, among `rank` axes. */
export function normalizeAxis(axis: number, rank: number): number {
  const place = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(axis) || place < 0 || place >= rank) {
    throw new ShapeError(`there is no axis ${axis} in a tensor of rank ${rank}`);
  }
  return place;
}

export interface ReduceOptions {
  /** Axes to reduce; negative ones count from the end. Default: all. */
  readonly axes?: number | readonly number[];
  /** Whether the reduced axes stay, with size 1. Default false. */
  readonly keepDims?: boolean;
}

interface Reduction {
  readonly axes: readonly number[];
  readonly keepDims: boolean;
}

const reducedShape = (shape: Shape, { axes, keepDims }: Reduction): Dim[] =>
  shape.flatMap((dim, axis) => (axes.includes(axis) ? (keepDims ? [1] : []) : [dim]));

/** A reduced tensor or its gradient, with the reduced axes back as ones. */
const restored = (reduced: Tensor, x: Tensor, { axes, keepDims }: Reduction): Tensor =>
  keepDims ? reduced : reshape(reduced, reducedShape(x.shape, { axes, keepDims: true }));

function defineReduction(
  name: string,
  type: string,
  derivative: (context: DerivativeContext<Reduction>) => Tensor | undefined,
): (x: Tensor, options?: ReduceOptions) => Tensor {
  const apply = defineOp<Reduction>(name, {
    shape: ([x], reduction) => ({ dtype: x!.dtype, shape: reducedShape(x!.shape, reduction) }),
    derivative: (context) => [derivative(context)],
    lower: ({ names, attributes: { axes, keepDims } }, onnx) =>
      onnx.op(type, [names[0]!, onnx.ints(axes)], { keepdims: Number(keepDims) }),
  });
  return (x, { axes, keepDims = false } = {}) => {
    const list =
      axes === undefined ? x.shape.map((_, axis) => axis) : typeof axes === "number" ? [axes] : axes;
    if (list.length === 0) return x;
    const places = list.map((axis) => {
      const place = axis < 0 ? axis + x.rank : axis;
      if (place < 0 || place >= x.rank)
        throw new ShapeError(`${name}: there is no axis ${axis} in ${x.describe()}`);
      return place;
    });
    return apply([x], { axes: places.sort((a, b) => a - b), keepDims });
  };
}

export const sum = defineReduction("sum", "ReduceSum", ({ inputs: [x], gradient, attributes }) =>
  expand(restored(gradient, x!, attributes), x!.shape),
);

export const mean = defineReduction("mean", "ReduceMean", ({ inputs: [x], gradient, attributes }) => {
  const count = productOf(attributes.axes.map((axis) => x!.shape[axis]!));
  if (typeof count !== "number") {
    throw new ShapeError(
      `mean: its gradient over the symbolic dimensions ${count} needs sum and an explicit division`,
    );
  }
  return expand(div(restored(gradient, x!, attributes), count), x!.shape);
});

/** Elements that share the extreme value share its gradient equally, as PyTorch's `amax` has it. */
function extremeDerivative({
  inputs: [x],
  outputs: [y],
  gradient,
  attributes,
}: DerivativeContext<Reduction>): Tensor {
  const chosen = cast(equal(x!, restored(y!, x!, attributes)), x!.dtype);
  const share = div(chosen, sum(chosen, { axes: attributes.axes, keepDims: true }));
  return mul(share, restored(gradient, x!, attributes));
}
export const max = defineReduction("max", "ReduceMax", extremeDerivative);
export const min = defineReduction("min", "ReduceMin", extremeDerivative);

/** The product; its gradient divides by each element, so none may be zero where it is differentiated. */
export const prod = defineReduction(
  "prod",
  "ReduceProd",
  ({ inputs: [x], outputs: [y], gradient, attributes }) =>
    div(restored(mul(gradient, y!), x!, attributes), x!),
);

/** log(sum(exp(x))), without overflow. */
export function logSumExp(x: Tensor, options: ReduceOptions = {}): Tensor {
  const peak = max(x, { ...options, keepDims: true });
  const total = log(sum(exp(sub(x, peak)), { ...options, keepDims: true }));
  const result = add(total, peak);
  return options.keepDims ? result : reshape(result, sum(x, options).shape);
}

/** Sums the axes along which `x` was broadcast from `shape`: the gradient of broadcasting. */
export function sumTo(x: Tensor, shape: Shape): Tensor {
  if (equalShapes(x.shape, shape)) return x;
  const lead = x.rank - shape.length;
  const axes = x.shape.flatMap((dim, axis) =>
    axis < lead || (shape[axis - lead] === 1 && dim !== 1) ? [axis] : [],
  );
  const reduced = axes.length > 0 ? sum(x, { axes, keepDims: true }) : x;
  return equalShapes(reduced.shape, shape) ? reduced : reshape(reduced, shape);
}

interface ArgAttributes {
  readonly axis: number;
  readonly keepDims: boolean;
}
function defineArg(name: string, type: string) {
  const apply = defineOp<ArgAttributes>(name, {
    shape: ([x], { axis, keepDims }) => ({
      dtype: "int64",
      shape: reducedShape(x!.shape, { axes: [axis], keepDims }),
    }),
    lower: ({ names, attributes: { axis, keepDims } }, onnx) =>
      onnx.op(type, names, { axis, keepdims: Number(keepDims) }),
  });
  return (x: Tensor, axis = -1, { keepDims = false } = {}): Tensor =>
    apply([x], { axis: normalizeAxis(axis, x.rank), keepDims });
}
/** Index of the largest element along `axis`, the first of equals; int64. */
export const argMax = defineArg("argMax", "ArgMax");
/** Index of the smallest element along `axis`, the first of equals; int64. */
export const argMin = defineArg("argMin", "ArgMin");

const cumulativeSumOp = defineOp<{ readonly axis: number; readonly exclusive: boolean }>("cumulativeSum", {
  shape: ([x]) => ({ dtype: x!.dtype, shape: x!.shape }),
  derivative: ({ gradient, attributes: { axis, exclusive } }) => [
    flip(cumulativeSum(flip(gradient, axis), axis, { exclusive }), axis),
  ],
  lower: ({ names, attributes: { axis, exclusive } }, onnx) =>
    onnx.op("CumSum", [names[0]!, onnx.scalar("int64", axis)], { exclusive: Number(exclusive) }),
});
/** Running sum along `axis`; `exclusive` leaves each element itself out. */
export const cumulativeSum = (x: Tensor, axis = -1, { exclusive = false } = {}): Tensor =>
  cumulativeSumOp([x], { axis: normalizeAxis(axis, x.rank), exclusive });

const topKOp = defineOp<{ readonly k: number; readonly axis: number; readonly largest: boolean }>("topK", {
  shape: ([x], { k, axis }) => {
    const size = x!.shape[axis]!;
    if (typeof size === "number" && k > size) {
      throw new ShapeError(
        `k = ${k} is more than the ${size} elements along axis ${axis} of ${formatShape(x!.shape)}`,
      );
    }
    const shape = x!.shape.map((dim, index) => (index === axis ? k : dim));
    return [
      { dtype: x!.dtype, shape },
      { dtype: "int64", shape },
    ];
  },
  derivative: ({ inputs: [x], outputs: [, indices], gradients: [gradient], attributes: { axis } }) => [
    gradient && scatterAdd(zeros(x!.shape, x!.dtype), indices!, gradient, axis),
  ],
  lower: ({ names, attributes: { k, axis, largest } }, onnx) =>
    onnx.ops(
      "TopK",
      [names[0]!, onnx.ints([k])],
      { axis, largest: Number(largest), sorted: 1 },
      { outputs: 2 },
    ),
});
/** The `k` largest (or smallest) elements along `axis` in order, and their int64 indices. */
export function topK(
  x: Tensor,
  k: number,
  { axis = -1, largest = true } = {},
): { values: Tensor; indices: Tensor } {
  const [values, indices] = topKOp([x], { k, axis: normalizeAxis(axis, x.rank), largest }).node.outputs;
  return { values: values!, indices: indices! };
}
