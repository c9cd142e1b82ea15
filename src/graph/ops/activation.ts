import { defineOp } from "../op.js";
import type { Tensor } from "../tensor.js";
import { abs, add, div, erf, exp, log, maximum, mul, neg, sigmoid, square, sub } from "./elementwise.js";
import { max, normalizeAxis, sum } from "./reduce.js";

const same = ([x]: readonly Tensor[]) => ({ dtype: x!.dtype, shape: x!.shape });

interface GeluAttributes {
  readonly approximate: "none" | "tanh";
}

const geluOp = defineOp<GeluAttributes>("gelu", {
  shape: same,
  derivative: ({ inputs: [x], gradient, attributes: { approximate } }) => {
    if (approximate === "none") {
      const density = mul(exp(mul(square(x!), -0.5)), 1 / Math.sqrt(2 * Math.PI));
      const cumulative = mul(add(erf(mul(x!, Math.SQRT1_2)), 1), 0.5);
      return [mul(gradient, add(cumulative, mul(x!, density)))];
    }
    const xx = square(x!);
    const gate = sigmoid(mul(x!, add(mul(xx, 2 * tanhScale * tanhCubic), 2 * tanhScale)));
    const slope = mul(x!, add(mul(xx, 6 * tanhScale * tanhCubic), 2 * tanhScale));
    return [mul(gradient, mul(gate, add(mul(slope, sub(1, gate)), 1)))];
  },
  lower: ({ names, inputs, attributes: { approximate } }, onnx) =>
    inputs[0]!.dtype === "float32" ? onnx.op("Gelu", names, { approximate }) : undefined,
  decompose: ([x], { approximate }) =>
    approximate === "none"
      ? mul(mul(x!, 0.5), add(erf(mul(x!, Math.SQRT1_2)), 1))
      : mul(x!, sigmoid(mul(x!, add(mul(square(x!), 2 * tanhScale * tanhCubic), 2 * tanhScale)))),
});

const tanhScale = Math.sqrt(2 / Math.PI);
const tanhCubic = 0.044715;

/**
 * Gaussian error linear unit, Hendrycks & Gimpel 2016: `x Φ(x)`. `tanh` is its approximation in section 2, GPT-2's
 * `gelu_new`; since `(1 + tanh u) / 2 = sigmoid(2u)` it costs one sigmoid.
 */
export const gelu = (x: Tensor, approximate: "none" | "tanh" = "none"): Tensor =>
  geluOp([x], { approximate });

const siluOp = defineOp("silu", {
  shape: same,
  derivative: ({ inputs: [x], gradient }) => {
    const gate = sigmoid(x!);
    return [mul(gradient, mul(gate, add(mul(x!, sub(1, gate)), 1)))];
  },
  lower: ({ names, inputs }, onnx) =>
    inputs[0]!.dtype === "float32"
      ? onnx.op("QuickGelu", names, { alpha: { float: 1 } }, { domain: "com.microsoft" })
      : undefined,
  // Not as x sigmoid(x), which the engine would fuse into an operator that it has for float32 alone.
  decompose: ([x]) => div(x!, add(exp(neg(x!)), 1)),
});
/** `x sigmoid(x)`, the Swish of SwiGLU. */
export const silu = (x: Tensor): Tensor => siluOp([x]);

const softplusOp = defineOp("softplus", {
  shape: same,
  derivative: ({ inputs: [x], gradient }) => [mul(gradient, sigmoid(x!))],
  lower: ({ names, inputs }, onnx) =>
    inputs[0]!.dtype === "float32" ? onnx.op("Softplus", names) : undefined,
  decompose: ([x]) => add(maximum(x!, 0), log(add(exp(neg(abs(x!))), 1))),
});
/** `log(1 + exp(x))`, without overflow. */
export const softplus = (x: Tensor): Tensor => softplusOp([x]);
/** `log(sigmoid(x))`, without loss of precision: the loss of a preference or of a yes-or-no question. */
export const logSigmoid = (x: Tensor): Tensor => neg(softplus(neg(x)));

interface AxisAttributes {
  readonly axis: number;
}

const softmaxOp = defineOp<AxisAttributes>("softmax", {
  shape: same,
  derivative: ({ outputs: [y], gradient, attributes: { axis } }) => {
    const weighted = mul(gradient, y!);
    return [sub(weighted, mul(y!, sum(weighted, { axes: axis, keepDims: true })))];
  },
  lower: ({ names, attributes: { axis } }, onnx) => onnx.op("Softmax", names, { axis }),
  decompose: ([x], { axis }) => {
    const exponentials = exp(sub(x!, max(x!, { axes: axis, keepDims: true })));
    return div(exponentials, sum(exponentials, { axes: axis, keepDims: true }));
  },
});
/** Exponentials along `axis`, scaled to sum to 1. */
export const softmax = (x: Tensor, axis = -1): Tensor =>
  softmaxOp([x], { axis: normalizeAxis(axis, x.rank) });

const logSoftmaxOp = defineOp<AxisAttributes>("logSoftmax", {
  shape: same,
  derivative: ({ outputs: [y], gradient, attributes: { axis } }) => [
    sub(gradient, mul(exp(y!), sum(gradient, { axes: axis, keepDims: true }))),
  ],
  lower: ({ names, attributes: { axis } }, onnx) => onnx.op("LogSoftmax", names, { axis }),
  decompose: ([x], { axis }) => {
    const shifted = sub(x!, max(x!, { axes: axis, keepDims: true }));
    return sub(shifted, log(sum(exp(shifted), { axes: axis, keepDims: true })));
  },
});
/** The logarithm of `softmax`, without the loss of precision. */
export const logSoftmax = (x: Tensor, axis = -1): Tensor =>
  logSoftmaxOp([x], { axis: normalizeAxis(axis, x.rank) });
