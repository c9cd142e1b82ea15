import { onnxDataType } from "../../base/dtype.js";
import { ShapeError } from "../../base/errors.js";
import { type Shape, equalShapes, formatShape } from "../dims.js";
import type { Lowering } from "../lower.js";
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
    const tuples = onnx.op("Unsqueeze", [wideIndices(indices!, onnx), onnx.ints([1])]);
    return onnx.op("ScatterND", [x!, tuples, rows!], { reduction: "add" });
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

const scatterOp = defineOp<{ readonly axis: number }>("scatter", {
  shape: ([x, indices, updates], { axis }) => {
    checkAlong(x!, indices!, axis);
    if (!equalShapes(indices!.shape, updates!.shape) || updates!.dtype !== x!.dtype) {
      throw new ShapeError(
        `the updates ${updates!.describe()} must have the indices' shape ${formatShape(indices!.shape)}`,
      );
    }
    return { dtype: x!.dtype, shape: x!.shape };
  },
  derivative: ({ inputs: [, indices, updates], gradient, attributes: { axis } }) => [
    scatter(gradient, indices!, zeros(updates!.shape, updates!.dtype), axis),
    undefined,
    gatherElements(gradient, indices!, axis),
  ],
  lower: ({ names, attributes: { axis } }, onnx) => onnx.op("ScatterElements", names, { axis }),
});
/** `x` with each update written over the element at its index along `axis`; no index may be named twice. */
export const scatter = (x: Tensor, indices: Tensor, updates: Tensor, axis = -1): Tensor =>
  scatterOp([x, indices, updates], { axis: normalizeAxis(axis, x.rank) });

/** The shape of what index tuples `[..., k]` pick from `x`: their own without the last axis, then x's without the first k. */
function pickedShape(x: Tensor, indices: Tensor): Shape {
  checkIndices(indices);
  const depth = indices.shape.at(-1);
  if (typeof depth !== "number" || depth < 1 || depth > x.rank) {
    throw new ShapeError(
      `the last dimension of the indices ${formatShape(indices.shape)} must be 1 to ${x.rank}, ` +
        `one number for each leading axis of ${formatShape(x.shape)}`,
    );
  }
  return [...indices.shape.slice(0, -1), ...x.shape.slice(depth)];
}

const gatherNdOp = defineOp("gatherNd", {
  shape: ([x, indices]) => ({ dtype: x!.dtype, shape: pickedShape(x!, indices!) }),
  derivative: ({ inputs: [x, indices], gradient }) => [
    scatterNdAdd(zeros(x!.shape, x!.dtype), indices!, gradient),
    undefined,
  ],
  lower: ({ names: [x, indices] }, onnx) => onnx.op("GatherND", [x!, wideIndices(indices!, onnx)]),
});
/** Slices of `x` picked by index tuples `[..., k]` over its first k axes: `y[i] = x[indices[i][0]][indices[i][1]]` for k = 2. */
export const gatherNd = (x: Tensor, indices: Tensor): Tensor => gatherNdOp([x, indices]);

const scatterNdAddOp = defineOp("scatterNdAdd", {
  shape: ([x, indices, updates]) => {
    const shape = pickedShape(x!, indices!);
    if (!equalShapes(updates!.shape, shape) || updates!.dtype !== x!.dtype) {
      throw new ShapeError(
        `the updates ${updates!.describe()} must have the shape ${formatShape(shape)} that the indices pick`,
      );
    }
    return { dtype: x!.dtype, shape: x!.shape };
  },
  derivative: ({ inputs: [, indices], gradient }) => [gradient, undefined, gatherNd(gradient, indices!)],
  lower: ({ names: [x, indices, updates] }, onnx) =>
    onnx.op("ScatterND", [x!, wideIndices(indices!, onnx), updates!], { reduction: "add" }),
});
/** `x` with each update added where its index tuple points; a place named twice gets both. */
export const scatterNdAdd = (x: Tensor, indices: Tensor, updates: Tensor): Tensor =>
  scatterNdAddOp([x, indices, updates]);

/** Index tuples as the engine's ND operators take them. */
const wideIndices = (indices: string, onnx: Lowering): string =>
  onnx.op("Cast", [indices], { to: onnxDataType("int64") });

/** 1 at each index along a new last axis of `depth`, 0 elsewhere; an index out of range gives zeros. */
export function oneHot(indices: Tensor, depth: number, dtype: Tensor["dtype"] = "float32"): Tensor {
  checkIndices(indices);
  return stopGradient(cast(equal(unsqueeze(indices, -1), range(depth, indices.dtype)), dtype));
}
