import { type DType, type TypedArray, allocate, elementCount, onnxDataType } from "../../base/dtype.js";
import { ShapeError } from "../../base/errors.js";
import { storedAs } from "../../onnx/builder.js";
import { type Dim, type Shape, checkSymbol, formatShape, isStatic } from "../dims.js";
import { type Node, defineOp } from "../op.js";
import type { Tensor } from "../tensor.js";

/** Who gives an input its name; a parameter is named by its place in the model, which is known only later. */
export interface InputSource {
  readonly name: string;
}

interface InputAttributes {
  readonly source: InputSource;
  readonly dtype: DType;
  readonly shape: Shape;
}

const inputOp = defineOp<InputAttributes>("input", {
  shape: (_, { dtype, shape }) => ({ dtype, shape }),
});

/**
 * A value given when the program runs. A dimension may be a name (`"batch"`): equal names are equal numbers in one run.
 * @param source its name, or an object that knows its name by the time that the program is written
 */
export function input(source: string | InputSource, dtype: DType, shape: Shape): Tensor {
  for (const dim of shape) {
    if (typeof dim === "string") checkSymbol(dim);
    else if (!Number.isInteger(dim) || dim < 0) {
      throw new ShapeError(
        `input: ${formatShape(shape)} is not a shape: a dimension is a whole number or a name`,
      );
    }
  }
  return inputOp([], { source: typeof source === "string" ? { name: source } : source, dtype, shape });
}

/** The source of an input node; undefined for every other node. */
export function inputSource(node: Node): InputSource | undefined {
  return node.op.name === "input" ? (node.attributes as InputAttributes).source : undefined;
}

interface ConstantAttributes {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: TypedArray;
}

const constantOp = defineOp<ConstantAttributes>("constant", {
  shape: (_, { dtype, shape, data }) => {
    if (data.length !== elementCount(shape)) {
      throw new ShapeError(`${data.length} elements cannot have the shape ${formatShape(shape)}`);
    }
    return { dtype, shape };
  },
  derivative: () => [],
  lower: ({ attributes: { dtype, shape, data } }, onnx) => onnx.constant(dtype, shape, data),
});

/** A value written into the program itself. */
export function constant(
  dtype: DType,
  shape: readonly number[],
  data: TypedArray | readonly number[],
): Tensor {
  return constantOp([], {
    dtype,
    shape,
    data: Array.isArray(data) ? arrayOf(dtype, data as number[]) : (data as TypedArray),
  });
}

/** A constant without dimensions. */
export const scalar = (value: number, dtype: DType = "float32"): Tensor => constant(dtype, [], [value]);

function arrayOf(dtype: DType, values: readonly number[]): TypedArray {
  const data = allocate(dtype, values.length);
  if (data instanceof BigInt64Array) values.forEach((value, index) => (data[index] = BigInt(value)));
  else data.set(values.map(storedAs(dtype)));
  return data;
}

interface FullAttributes {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly value: number;
}

const fullOp = defineOp<FullAttributes>("full", {
  shape: (_, { dtype, shape }) => ({ dtype, shape }),
  derivative: () => [],
  lower: ({ attributes: { dtype, shape, value } }, onnx) =>
    isStatic(shape) && shape.length === 0
      ? onnx.scalar(dtype, value)
      : onnx.op("Expand", [onnx.scalar(dtype, value), onnx.shape(shape)]),
});

/** A tensor that holds `value` everywhere. */
export const full = (shape: Shape, value: number, dtype: DType = "float32"): Tensor =>
  fullOp([], { dtype, shape, value });
export const zeros = (shape: Shape, dtype: DType = "float32"): Tensor => full(shape, 0, dtype);
export const ones = (shape: Shape, dtype: DType = "float32"): Tensor => full(shape, 1, dtype);

/** The value of a `full` or one-element constant node that is the same everywhere; undefined for any other. */
export function uniformValue(tensor: Tensor): number | undefined {
  if (tensor.node.op.name === "full") return (tensor.node.attributes as FullAttributes).value;
  if (tensor.node.op.name !== "constant") return undefined;
  const { data, dtype } = tensor.node.attributes as ConstantAttributes;
  // The data of 16-bit floats are their bits.
  if (data.length !== 1 || dtype === "float16" || dtype === "bfloat16") return undefined;
  return Number(data[0]);
}

const rangeOp = defineOp<{ readonly length: Dim; readonly dtype: DType }>("range", {
  shape: (_, { length, dtype }) => ({ dtype, shape: [length] }),
  derivative: () => [],
  lower: ({ attributes: { length, dtype } }, onnx) => {
    const limit = onnx.op("Squeeze", [onnx.dim(length), onnx.ints([0])]);
    const range = onnx.op("Range", [onnx.scalar("int64", 0), limit, onnx.scalar("int64", 1)]);
    return dtype === "int64" ? range : onnx.op("Cast", [range], { to: onnxDataType(dtype) });
  },
});

/** The numbers 0 to `length - 1`: `[length]`. */
export const range = (length: Dim, dtype: DType = "int32"): Tensor => rangeOp([], { length, dtype });
