import { ShapeError } from "../../base/errors.js";
import {
  type Dim,
  type Shape,
  addDims,
  broadcastShapes,
  divideDims,
  equalShapes,
  formatShape,
  productOf,
  subtractDims,
} from "../dims.js";
import type { Lowering } from "../lower.js";
import { defineOp } from "../op.js";
import type { Tensor } from "../tensor.js";
import { normalizeAxis, sumTo } from "./reduce.js";
import { zeros } from "./leaf.js";

const reshapeOp = defineOp<{ readonly shape: Shape }>("reshape", {
  shape: ([x], { shape }) => {
    const from = productOf(x!.shape);
    const to = productOf(shape);
    if (from !== to) {
      throw new ShapeError(
        `${formatShape(x!.shape)} has ${from} elements and ${formatShape(shape)} has ${to}; they must be as many`,
      );
    }
    return { dtype: x!.dtype, shape };
  },
  derivative: ({ inputs: [x], gradient }) => [reshape(gradient, x!.shape)],
  lower: ({ names, attributes: { shape } }, onnx) => reshaped(names[0]!, shape, onnx),
});

/** A value of the program under another shape. */
export function reshaped(value: string, shape: Shape, onnx: Lowering): string {
  const symbols = shape.filter((dim) => typeof dim === "string");
  // A difference of lengths may be 0, by which the engine means "as it was" unless it is told.
  const mayBeEmpty = symbols.some((dim) => dim.includes("-"));
  // One unknown dimension is left to the engine, which saves reading it from the inputs.
  const left = symbols.length === 1 && !shape.includes(0) && !mayBeEmpty;
  const target = left ? shape.map((dim) => (typeof dim === "string" ? -1 : dim)) : shape;
  return onnx.op("Reshape", [value, onnx.shape(target)], mayBeEmpty ? { allowzero: 1 } : {});
}

/** The same elements in order under another shape; one dimension may be -1, which takes what is left. */
export function reshape(x: Tensor, shape: Shape): Tensor {
  const unknown = shape.indexOf(-1);
  let target = shape;
  if (unknown >= 0) {
    const known = productOf(shape.filter((_, index) => index !== unknown));
    const rest = divideDims(productOf(x.shape), known);
    if (rest === undefined || shape.lastIndexOf(-1) !== unknown) {
      throw new ShapeError(`reshape: ${formatShape(x.shape)} cannot become ${formatShape(shape)}`);
    }
    target = shape.map((dim, index) => (index === unknown ? rest : dim));
  }
  return equalShapes(x.shape, target) ? x : reshapeOp([x], { shape: target });
}

const transposeOp = defineOp<{ readonly permutation: readonly number[] }>("transpose", {
  shape: ([x], { permutation }) => {
    const seen = new Set(permutation);
    if (
      permutation.length !== x!.rank ||
      seen.size !== x!.rank ||
      permutation.some((axis) => axis < 0 || axis >= x!.rank)
    ) {
      throw new ShapeError(
        `[${permutation.join(", ")}] is not an order of the ${x!.rank} axes of ${formatShape(x!.shape)}`,
      );
    }
    return { dtype: x!.dtype, shape: permutation.map((axis) => x!.shape[axis]!) };
  },
  derivative: ({ gradient, attributes: { permutation } }) => [
    transpose(
      gradient,
      permutation.map((_, axis) => permutation.indexOf(axis)),
    ),
  ],
  lower: ({ names, attributes: { permutation } }, onnx) =>
    onnx.op("Transpose", names, { perm: { ints: permutation } }),
});

/** The axes in another order; without one, the last two change places. */
export function transpose(x: Tensor, permutation?: readonly number[]): Tensor {
  const axes = x.shape.map((_, axis) => axis);
  return transposeOp([x], {
    permutation: permutation ?? [...axes.slice(0, -2), ...axes.slice(-2).reverse()],
  });
}

const expandOp = defineOp<{ readonly shape: Shape }>("expand", {
  shape: ([x], { shape }) => {
    const result = broadcastShapes(x!.shape, shape);
    if (!result || !equalShapes(result, shape)) {
      throw new ShapeError(`${formatShape(x!.shape)} does not broadcast to ${formatShape(shape)}`);
    }
    return { dtype: x!.dtype, shape };
  },
  derivative: ({ inputs: [x], gradient }) => [sumTo(gradient, x!.shape)],
  lower: ({ names, attributes: { shape } }, onnx) => onnx.op("Expand", [names[0]!, onnx.shape(shape)]),
});
/** `x` repeated along its axes of size 1, and along new leading ones, to `shape`. */
export const expand = (x: Tensor, shape: Shape): Tensor =>
  equalShapes(x.shape, shape) ? x : expandOp([x], { shape });

interface SliceAttributes {
  readonly axis: number;
  readonly start: Dim;
  readonly end: Dim;
}
const sliceOp = defineOp<SliceAttributes>("slice", {
  shape: ([x], { axis, start, end }) => {
    const size = x!.shape[axis]!;
    const inside =
      typeof start !== "number" ||
      (start >= 0 &&
        (typeof end !== "number" || end >= start) &&
        !(typeof size === "number" && typeof end === "number" && end > size));
    if (!inside) {
      throw new ShapeError(`${start} to ${end} does not lie within axis ${axis} of ${formatShape(x!.shape)}`);
    }
    return {
      dtype: x!.dtype,
      shape: x!.shape.map((dim, index) => (index === axis ? subtractDims(end, start) : dim)),
    };
  },
  derivative: ({ inputs: [x], gradient, attributes: { axis, start, end } }) => [
    pad(gradient, axis, start, subtractDims(x!.shape[axis]!, end)),
  ],
  lower: ({ names, inputs: [x], attributes: { axis, start, end } }, onnx) => {
    const size = x!.shape[axis]!;
    // The engine would cut the range short and give another shape than this one.
    if (typeof size === "number") onnx.limit(end, size, x!);
    return onnx.op("Slice", [names[0]!, onnx.dim(start), onnx.dim(end), onnx.ints([axis])]);
  },
});

/**
 * Elements `start` to `end` (which is left out) along one axis. Negative numbers count from the end.
 * Throws ShapeError where the range does not lie within the axis.
 */
export function slice(
  x: Tensor,
  axis: number,
  start: Dim,
  end: Dim = x.shape[normalizeAxis(axis, x.rank)]!,
): Tensor {
  const place = normalizeAxis(axis, x.rank);
  const size = x.shape[place]!;
  const from = typeof start === "number" && start < 0 ? addDims(size, start) : start;
  const to = typeof end === "number" && end < 0 ? addDims(size, end) : end;
  return from === 0 && to === size ? x : sliceOp([x], { axis: place, start: from, end: to });
}

interface LimitAttributes {
  readonly axis: number;
  readonly atMost: number;
  readonly table: Tensor;
}
const limitOp = defineOp<LimitAttributes>("limit", {
  shape: ([x], { axis, atMost, table }) => {
    const size = x!.shape[axis]!;
    if (typeof size === "number" && size > atMost)
      throw new ShapeError(
        `${size} is more than the ${atMost} that ${formatShape(table.shape)} has room for`,
      );
    return { dtype: x!.dtype, shape: x!.shape };
  },
  derivative: ({ gradient }) => [gradient],
  lower: ({ names, inputs: [x], attributes: { axis, atMost, table } }, onnx) => {
    onnx.limit(x!.shape[axis]!, atMost, table);
    return names;
  },
});
/**
 * `x` itself, in a program that says in words when `axis` is longer than `atMost`: what is looked up in `table` by computed
 * places knows no more. Throws ShapeError where that is known already.
 */
export const limit = (x: Tensor, axis: number, atMost: number, table: Tensor): Tensor =>
  limitOp([x], { axis: normalizeAxis(axis, x.rank), atMost, table });

const flipOp = defineOp<{ readonly axis: number }>("flip", {
  shape: ([x]) => ({ dtype: x!.dtype, shape: x!.shape }),
  derivative: ({ gradient, attributes: { axis } }) => [flip(gradient, axis)],
  lower: ({ names, attributes: { axis } }, onnx) =>
    onnx.op("Slice", [
      names[0]!,
      onnx.ints([-1]),
      onnx.ints([-(2 ** 53)]),
      onnx.ints([axis]),
      onnx.ints([-1]),
    ]),
});
/** The elements along `axis` in reverse order. */
export const flip = (x: Tensor, axis: number): Tensor => flipOp([x], { axis: normalizeAxis(axis, x.rank) });

/** `x` with `before` and `after` zeros added along `axis`. */
export function pad(x: Tensor, axis: number, before: Dim, after: Dim): Tensor {
  const place = normalizeAxis(axis, x.rank);
  const blank = (size: Dim): Tensor[] =>
    size === 0
      ? []
      : [
          zeros(
            x.shape.map((dim, index) => (index === place ? size : dim)),
            x.dtype,
          ),
        ];
  return concat([...blank(before), x, ...blank(after)], place);
}

const concatOp = defineOp<{ readonly axis: number }>("concat", {
  shape: (inputs, { axis }) => {
    const [first, ...rest] = inputs;
    for (const other of rest) {
      const fits =
        other.rank === first!.rank &&
        other.shape.every((dim, index) => index === axis || dim === first!.shape[index]);
      if (!fits || other.dtype !== first!.dtype) {
        throw new ShapeError(
          `${first!.describe()} and ${other.describe()} do not join along axis ${axis}: the dtype and every other dimension must agree`,
        );
      }
    }
    const size = inputs.map((x) => x.shape[axis]!).reduce(addDims);
    return { dtype: first!.dtype, shape: first!.shape.map((dim, index) => (index === axis ? size : dim)) };
  },
  derivative: ({ inputs, gradient, attributes: { axis } }) =>
    split(
      gradient,
      inputs.map((x) => x.shape[axis]!),
      axis,
    ),
  lower: ({ names, attributes: { axis } }, onnx) => onnx.op("Concat", names, { axis }),
});
/** The tensors one after the other along `axis`. */
export function concat(tensors: readonly Tensor[], axis: number): Tensor {
  const [first] = tensors;
  if (!first) throw new ShapeError("concat: there is nothing to join");
  return tensors.length === 1 ? first : concatOp(tensors, { axis: normalizeAxis(axis, first.rank) });
}

const splitOp = defineOp<{ readonly sizes: readonly Dim[]; readonly axis: number }>("split", {
  shape: ([x], { sizes, axis }) => {
    const total = sizes.reduce(addDims);
    if (total !== x!.shape[axis]) {
      throw new ShapeError(
        `the parts [${sizes.join(", ")}] add up to ${total}, but axis ${axis} of ${formatShape(x!.shape)} has ${x!.shape[axis]}`,
      );
    }
    return sizes.map((size) => ({
      dtype: x!.dtype,
      shape: x!.shape.map((dim, index) => (index === axis ? size : dim)),
    }));
  },
  derivative: ({ outputs, gradients, attributes: { axis } }) => [
    concat(
      outputs.map((output, index) => gradients[index] ?? zeros(output.shape, output.dtype)),
      axis,
    ),
  ],
  lower: ({ names, inputs, attributes: { sizes, axis } }, onnx) =>
    onnx.cut(names[0]!, onnx.shape(sizes), axis - inputs[0]!.rank, sizes.length),
});
/** `x` cut along `axis` into parts of the given sizes; a number means that many equal parts. */
export function split(x: Tensor, sizes: readonly Dim[] | number, axis = -1): Tensor[] {
  const place = normalizeAxis(axis, x.rank);
  if (typeof sizes === "number") {
    const part = divideDims(x.shape[place]!, sizes);
    if (part === undefined) {
      throw new ShapeError(
        `split: axis ${place} of ${formatShape(x.shape)} does not divide into ${sizes} equal parts`,
      );
    }
    return split(
      x,
      Array.from({ length: sizes }, () => part),
      place,
    );
  }
  return sizes.length === 1 ? [x] : [...splitOp([x], { sizes, axis: place }).node.outputs];
}

/** `x` with a new axis of size 1 at `axis`. */
export function unsqueeze(x: Tensor, axis: number): Tensor {
  const place = normalizeAxis(axis, x.rank + 1);
  return reshape(x, [...x.shape.slice(0, place), 1, ...x.shape.slice(place)]);
}

/** `x` without its axis `axis`, whose size must be 1. */
export function squeeze(x: Tensor, axis: number): Tensor {
  const place = normalizeAxis(axis, x.rank);
  if (x.shape[place] !== 1)
    throw new ShapeError(`squeeze: axis ${axis} of ${formatShape(x.shape)} is not of size 1`);
  return reshape(
    x,
    x.shape.filter((_, index) => index !== place),
  );
}

/** Each element along `axis` `count` times in a row: key-value heads shared by a group of query heads. */
export function repeat(x: Tensor, count: number, axis: number): Tensor {
  if (count === 1) return x;
  const place = normalizeAxis(axis, x.rank);
  const [before, size, after] = [x.shape.slice(0, place), x.shape[place]!, x.shape.slice(place + 1)];
  const wide = expand(unsqueeze(x, place + 1), [...before, size, count, ...after]);
  return reshape(wide, [...before, -1, ...after]);
}

/** `x` as a whole `count` times one after the other along `axis`. */
export const tile = (x: Tensor, count: number, axis: number): Tensor =>
  concat(
    Array.from({ length: count }, () => x),
    axis,
  );

/** Several tensors of one shape along a new axis. */
export const stack = (tensors: readonly Tensor[], axis = 0): Tensor =>
  concat(
    tensors.map((x) => unsqueeze(x, axis)),
    axis,
  );
