import { type DType, isFloating, onnxDataType } from "../../base/dtype.js";
import { ShapeError } from "../../base/errors.js";
import { broadcastShapes, formatShape } from "../dims.js";
import { type DerivativeContext, type TensorSpec, defineOp } from "../op.js";
import { Tensor } from "../tensor.js";
import { scalar, uniformValue } from "./leaf.js";
import { sumTo } from "./reduce.js";

/** A tensor, or a number that takes the other operand's dtype. */
export type Operand = Tensor | number;

function broadcastSpec(a: Tensor, b: Tensor, dtype: DType = a.dtype): TensorSpec {
  if (a.dtype !== b.dtype) {
    throw new ShapeError(`the dtypes differ: ${a.describe()} and ${b.describe()}; cast one of them`);
  }
  const shape = broadcastShapes(a.shape, b.shape);
  if (!shape) {
    throw new ShapeError(
      `${formatShape(a.shape)} and ${formatShape(b.shape)} do not broadcast: each pair of dimensions, from the last, ` +
        `must be equal or have a 1`,
    );
  }
  return { dtype, shape };
}

/** Both operands as tensors. */
function pair(name: string, a: Operand, b: Operand): [Tensor, Tensor] {
  if (a instanceof Tensor) return [a, b instanceof Tensor ? b : scalar(b, a.dtype)];
  if (b instanceof Tensor) return [scalar(a, b.dtype), b];
  throw new ShapeError(`${name}: one of the operands must be a tensor`);
}

function defineBinary(
  name: string,
  type: string,
  derivative: (context: DerivativeContext<undefined>) => readonly [Tensor | undefined, Tensor | undefined],
): (a: Operand, b: Operand) => Tensor {
  const apply = defineOp(name, {
    shape: ([a, b]) => broadcastSpec(a!, b!),
    derivative: (context) =>
      derivative(context).map((gradient, index) => gradient && sumTo(gradient, context.inputs[index]!.shape)),
    lower: ({ names }, onnx) => onnx.op(type, names),
  });
  return (a, b) => apply(pair(name, a, b));
}

const defineAdd = defineBinary("add", "Add", ({ gradient }) => [gradient, gradient]);
const defineSub = defineBinary("sub", "Sub", ({ gradient }) => [gradient, neg(gradient)]);
const defineMul = defineBinary("mul", "Mul", ({ inputs: [a, b], gradient }) => [
  mul(gradient, b!),
  mul(gradient, a!),
]);
const defineDiv = defineBinary("div", "Div", ({ inputs: [, b], outputs: [y], gradient }) => {
  const quotient = div(gradient, b!);
  return [quotient, neg(mul(quotient, y!))];
});

// The gradient of a scalar multiple or sum writes many neutral factors; leaving them out keeps graphs small.
const isUniform = (x: Operand, value: number): boolean =>
  (x instanceof Tensor ? uniformValue(x) : x) === value;
const isPlain = (x: Operand, other: Operand): other is Tensor =>
  other instanceof Tensor && (!(x instanceof Tensor) || (x.dtype === other.dtype && x.rank === 0));

export function add(a: Operand, b: Operand): Tensor {
  if (isUniform(a, 0) && isPlain(a, b)) return b;
  if (isUniform(b, 0) && isPlain(b, a)) return a;
  return defineAdd(a, b);
}
export function sub(a: Operand, b: Operand): Tensor {
  return isUniform(b, 0) && isPlain(b, a) ? a : defineSub(a, b);
}
export function mul(a: Operand, b: Operand): Tensor {
  if (isUniform(a, 1) && isPlain(a, b)) return b;
  if (isUniform(b, 1) && isPlain(b, a)) return a;
  return defineMul(a, b);
}
export function div(a: Operand, b: Operand): Tensor {
  return isUniform(b, 1) && isPlain(b, a) ? a : defineDiv(a, b);
}

/** `a` to the power `b`, element by element. */
export const pow = defineBinary("pow", "Pow", ({ inputs: [a, b], outputs: [y], gradient }) => [
  mul(gradient, mul(b!, pow(a!, sub(b!, 1)))),
  uniformValue(b!) === undefined ? mul(gradient, mul(y!, log(a!))) : undefined,
]);

/** Where the two are equal, the gradient goes to the first. */
export const maximum = defineBinary("maximum", "Max", ({ inputs: [a, b], gradient }) => {
  const first = cast(greaterEqual(a!, b!), gradient.dtype);
  return [mul(gradient, first), mul(gradient, sub(1, first))];
});
export const minimum = defineBinary("minimum", "Min", ({ inputs: [a, b], gradient }) => {
  const first = cast(lessEqual(a!, b!), gradient.dtype);
  return [mul(gradient, first), mul(gradient, sub(1, first))];
});

function defineUnary(
  name: string,
  type: string,
  derivative: (x: Tensor, y: Tensor, gradient: Tensor) => Tensor | undefined,
): (x: Tensor) => Tensor {
  const apply = defineOp(name, {
    shape: ([x]) => ({ dtype: x!.dtype, shape: x!.shape }),
    derivative: ({ inputs: [x], outputs: [y], gradient }) => [derivative(x!, y!, gradient)],
    lower: ({ names }, onnx) => onnx.op(type, names),
  });
  return (x) => apply([x]);
}

export const neg = defineUnary("neg", "Neg", (_, __, gradient) => neg(gradient));
export const abs = defineUnary("abs", "Abs", (x, _, gradient) => mul(gradient, sign(x)));
export const sign = defineUnary("sign", "Sign", () => undefined);
export const exp = defineUnary("exp", "Exp", (_, y, gradient) => mul(gradient, y));
export const log = defineUnary("log", "Log", (x, _, gradient) => div(gradient, x));
export const sqrt = defineUnary("sqrt", "Sqrt", (_, y, gradient) => div(mul(gradient, 0.5), y));
export const reciprocal = defineUnary("reciprocal", "Reciprocal", (_, y, gradient) =>
  neg(mul(gradient, square(y))),
);
export const sin = defineUnary("sin", "Sin", (x, _, gradient) => mul(gradient, cos(x)));
export const cos = defineUnary("cos", "Cos", (x, _, gradient) => neg(mul(gradient, sin(x))));
export const tanh = defineUnary("tanh", "Tanh", (_, y, gradient) => mul(gradient, sub(1, square(y))));
export const sigmoid = defineUnary("sigmoid", "Sigmoid", (_, y, gradient) =>
  mul(gradient, mul(y, sub(1, y))),
);
/** The error function. */
export const erf = defineUnary("erf", "Erf", (x, _, gradient) =>
  mul(gradient, mul(2 / Math.sqrt(Math.PI), exp(neg(square(x))))),
);
/** max(0, x); its gradient at 0 is 0. */
export const relu = defineUnary("relu", "Relu", (x, _, gradient) =>
  mul(gradient, cast(greater(x, 0), x.dtype)),
);
export const floor = defineUnary("floor", "Floor", () => undefined);
export const ceil = defineUnary("ceil", "Ceil", () => undefined);
/** The nearest whole number, ties to even. */
export const round = defineUnary("round", "Round", () => undefined);

export const square = (x: Tensor): Tensor => mul(x, x);
/** `1 / sqrt(x)`. */
export const rsqrt = (x: Tensor): Tensor => reciprocal(sqrt(x));
/** `x` limited to `low` … `high`; the gradient passes where `x` lies within. */
export const clip = (x: Tensor, low: number, high: number): Tensor => minimum(maximum(x, low), high);

function defineComparison(name: string, type: string): (a: Operand, b: Operand) => Tensor {
  const apply = defineOp(name, {
    shape: ([a, b]) => broadcastSpec(a!, b!, "bool"),
    lower: ({ names }, onnx) => onnx.op(type, names),
  });
  return (a, b) => apply(pair(name, a, b));
}

export const equal = defineComparison("equal", "Equal");
export const less = defineComparison("less", "Less");
export const lessEqual = defineComparison("lessEqual", "LessOrEqual");
export const greater = defineComparison("greater", "Greater");
export const greaterEqual = defineComparison("greaterEqual", "GreaterOrEqual");
export const logicalAnd = defineComparison("logicalAnd", "And");
export const logicalOr = defineComparison("logicalOr", "Or");
export const logicalXor = defineComparison("logicalXor", "Xor");

const logicalNotOp = defineOp("logicalNot", {
  shape: ([x]) => {
    if (x!.dtype !== "bool") throw new ShapeError(`needs a bool tensor, not ${x!.describe()}`);
    return { dtype: "bool", shape: x!.shape };
  },
  lower: ({ names }, onnx) => onnx.op("Not", names),
});
export const logicalNot = (x: Tensor): Tensor => logicalNotOp([x]);

const isNaNOp = defineOp("isNaN", {
  shape: ([x]) => ({ dtype: "bool", shape: x!.shape }),
  lower: ({ names }, onnx) => onnx.op("IsNaN", names),
});
export const isNaN = (x: Tensor): Tensor => isNaNOp([x]);

const castOp = defineOp<{ readonly dtype: DType }>("cast", {
  shape: ([x], { dtype }) => ({ dtype, shape: x!.shape }),
  derivative: ({ inputs: [x], gradient }) => [isFloating(x!.dtype) ? cast(gradient, x!.dtype) : undefined],
  lower: ({ names, attributes: { dtype } }, onnx) => onnx.op("Cast", names, { to: onnxDataType(dtype) }),
});
/** `x` converted to `dtype`; unchanged where it has it already. */
export const cast = (x: Tensor, dtype: DType): Tensor => (x.dtype === dtype ? x : castOp([x], { dtype }));

const whereOp = defineOp("where", {
  shape: ([condition, a, b]) => {
    if (condition!.dtype !== "bool")
      throw new ShapeError(`the condition must be bool, not ${condition!.describe()}`);
    const { dtype, shape } = broadcastSpec(a!, b!);
    const all = broadcastShapes(condition!.shape, shape);
    if (!all) {
      throw new ShapeError(
        `the condition ${formatShape(condition!.shape)} does not broadcast with ${formatShape(shape)}`,
      );
    }
    return { dtype, shape: all };
  },
  derivative: ({ inputs: [condition, a, b], gradient }) => [
    undefined,
    sumTo(where(condition!, gradient, 0), a!.shape),
    sumTo(where(condition!, 0, gradient), b!.shape),
  ],
  lower: ({ names }, onnx) => onnx.op("Where", names),
});
/** `a` where the condition holds, `b` elsewhere; all three broadcast. */
export const where = (condition: Tensor, a: Operand, b: Operand): Tensor =>
  whereOp([condition, ...pair("where", a, b)]);

const stopGradientOp = defineOp("stopGradient", {
  shape: ([x]) => ({ dtype: x!.dtype, shape: x!.shape }),
  derivative: () => [undefined],
  lower: ({ names }) => names,
});
/** The same value, through which no gradient flows. */
export const stopGradient = (x: Tensor): Tensor => stopGradientOp([x]);
