import { onnxDataType } from "../../base/dtype.js";
import { ShapeError } from "../../base/errors.js";
import { equalShapes, formatShape } from "../dims.js";
import { defineOp } from "../op.js";
import type { Tensor } from "../tensor.js";
import { cast, equal, stopGradient } from "./elementwise.js";
import { range, zeros } from "./leaf.js";
import { packedGather } from "./packed.js";
import { normalizeAxis } from "./reduce.js";
import { reshape, transpose, unsqueeze } from "./shape.js";

function checkIndices(indices: Tensor): void {
  if (indices.dtype !== "int32" && indices.dtype !== "int64") {
    throw new ShapeError(`indices must be int32 or int64, not ${indices.describe()}`);
  }
}

const gatherOp = defineOp<{ readonly axis: number }>("gather", {
  shape: ([x, indices], { axis }) => {
    checkIndices(indices!);
    return {
      dtype: x!.dtype,
      shape: [...x!.shape.slice(0, axis), ...indices!.shape, ...x!.shape.slice(axis + 1)],
    };
  },
  derivative: ({ inputs: [x, indices], gradient, attributes: { axis } }) => {
    // The gathered axis comes first, so that whole rows are added at once.
    const rank = indices!.rank;
    const lead = Array.from({ length: rank }, (_, index) => axis + index);
    const rest = gradient.shape.map((_, index) => index).filter((index) => !lead.includes(index));
    const rows = axis === 0 ? gradient : transpose(gradient, [...lead, ...rest]);
    const front = [x!.shape[axis]!, ...x!.shape.filter((_, index) => index !== axis)];
    const summed = addRows(
      zeros(front, x!.dtype),
      reshape(indices!, [-1]),
      reshape(rows, [-1, ...front.slice(1)]),
    );
    const order = front.slice(1).map((_, index) => index + 1);
    return [
      axis === 0 ? summed : transpose(summed, [...order.slice(0, axis), 0, ...order.slice(axis)]),
      undefined,
    ];
  },
  lower: (context, onnx) => {
    const { axis } = context.attributes;
    const packed = onnx.packedWeight(context.inputs[0]!);
    if (packed) return packedGather(onnx, packed, context.inputs[1]!, axis);
    return onnx.op("Gather", context.names, { axis });
  },
});

/**
 * Slices of `x` along `axis` picked by an integer tensor of any shape, which takes the place of that axis:
 * an embedding look-up is `gather(weight, ids)`: `[vocabSize, hiddenSize]`, `[batch, sequence]` -> `[batch, sequence, hiddenSize]`.
 */
export const gather = (x: Tensor, indices: Tensor, axis = 0): Tensor =>
  gatherOp([x, indices], { axis: normalizeAxis(axis, x.rank) });

const addRowsOp = defineOp("addRows", {
  shape: ([x, indices, rows]) => {
    checkIndices(indices!);
    if (
      indices!.rank !== 1 ||
      !equalShapes(rows!.shape, [indices!.shape[0]!, ...x!.shape.slice(1)]) ||
      rows!.dtype !== x!.dtype
    ) {
      throw new ShapeError(`${rows!.describe()} by ${indices!.describe()} are not rows of ${x!.describe()}`);
    }
    return { dtype: x!.dtype, shape: x!.shape };
  },
  derivative: ({ inputs: [, indices], gradient }) => [gradient, undefined, gather(gradient, indices!)],
  lower: ({ names: [x, indices, rows] }, onnx) => {
    const wide = onnx.op("Cast", [indices!], { to: onnxDataType("int64") });
    return onnx.op("ScatterND", [x!, onnx.op("Unsqueeze", [wide, onnx.ints([1])]), rows!], {
      reduction: "add",
    });
  },
});
/** `x` with `rows[i]` added to its row `indices[i]`; a row named twice gets both. */
export const addRows = (x: Tensor, indices: Tensor, rows: Tensor): Tensor => addRowsOp([x, indices, rows]);

function checkAlong(x: Tensor, indices: Tensor, axis: number): void {
  checkIndices(indices);
  const fits =
    indices.rank === x.rank && indices.shape.every((dim, index) => index === axis || dim === x.shape[index]);
  if (!fits) {
    throw new ShapeError(
      `the indices ${formatShape(indices.shape)} must have the shape ${formatShape(x.shape)} but for axis ${axis}`,
    );
  }
}

const gatherElementsOp = defineOp<{ readonly axis: number }>("gatherElements", {
  shape: ([x, indices], { axis }) => {
    checkAlong(x!, indices!, axis);
    return { dtype: x!.dtype, shape: indices!.shape };
  },
  derivative: ({ inputs: [x, indices], gradient, attributes: { axis } }) => [
    scatterAdd(zeros(x!.shape, x!.dtype), indices!, gradient, axis),
    undefined,
  ],
  lower: ({ names, attributes: { axis } }, onnx) => onnx.op("GatherElements", names, { axis }),
});
/** One element per index along `axis`: `y[i][j] = x[i][indices[i][j]]` for the last of two axes. */
export const gatherElements = (x: Tensor, indices: Tensor, axis = -1): Tensor =>
  gatherElementsOp([x, indices], { axis: normalizeAxis(axis, x.rank) });

const scatterAddOp = defineOp<{ readonly axis: number }>("scatterAdd", {
  shape: ([x, indices, updates], { axis }) => {
    checkAlong(x!, indices!, axis);
    if (!equalShapes(indices!.shape, updates!.shape) || updates!.dtype !== x!.dtype) {
      throw new ShapeError(
        `the updates ${updates!.describe()} must have the indices' shape ${formatShape(indices!.shape)}`,
      );
    }
    return { dtype: x!.dtype, shape: x!.shape };
  },
  derivative: ({ inputs: [, indices], gradient, attributes: { axis } }) => [
    gradient,
    undefined,
    gatherElements(gradient, indices!, axis),
  ],
  lower: ({ names, attributes: { axis } }, onnx) =>
    onnx.op("ScatterElements", names, { axis, reduction: "add" }),
});
/** `x` with each update added at its index along `axis`; an index named twice gets both. */
export const scatterAdd = (x: Tensor, indices: Tensor, updates: Tensor, axis = -1): Tensor =>
  scatterAddOp([x, indices, updates], { axis: normalizeAxis(axis, x.rank) });

/** 1 at each index along a new last axis of `depth`, 0 elsewhere; an index out of range gives zeros. */
export function oneHot(indices: Tensor, depth: number, dtype: Tensor["dtype"] = "float32"): Tensor {
  checkIndices(indices);
  return stopGradient(cast(equal(unsqueeze(indices, -1), range(depth, indices.dtype)), dtype));
}
