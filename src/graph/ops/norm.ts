import { ShapeError } from "../../base/errors.js";
import { equalShapes, formatShape } from "../dims.js";
import { type TensorSpec, defineOp } from "../op.js";
import type { Tensor } from "../tensor.js";
import { add, mul, rsqrt, square, sub } from "./elementwise.js";
import { mean, sum } from "./reduce.js";
import { reshape } from "./shape.js";

interface NormAttributes {
  readonly epsilon: number;
}

/** Row sums over everything but the last axis: the gradient of a weight or bias of the norm. */
const sumRows = (x: Tensor): Tensor => sum(reshape(x, [-1, x.shape.at(-1)!]), { axes: 0 });

function normSpec([x, ...parameters]: readonly Tensor[], statistics: number): TensorSpec[] {
  const size = x!.shape.at(-1)!;
  for (const parameter of parameters) {
    if (!equalShapes(parameter.shape, [size])) {
      throw new ShapeError(
        `${formatShape(x!.shape)} needs a weight and bias of [${size}], not ${formatShape(parameter.shape)}`,
      );
    }
  }
  const reduced = [...x!.shape.slice(0, -1), 1];
  return [
    { dtype: x!.dtype, shape: x!.shape },
    ...Array.from({ length: statistics }, () => ({ dtype: x!.dtype, shape: reduced })),
  ];
}

const layerNormOp = defineOp<NormAttributes>("layerNorm", {
  shape: (inputs) => normSpec(inputs, 2),
  derivative: ({ inputs: [x, weight, bias], outputs: [, average, inverseDeviation], gradient }) => {
    const normalized = mul(sub(x!, average!), inverseDeviation!);
    const scaled = mul(gradient, weight!);
    const centred = sub(scaled, mean(scaled, { axes: -1, keepDims: true }));
    const along = mul(normalized, mean(mul(scaled, normalized), { axes: -1, keepDims: true }));
    return [
      mul(sub(centred, along), inverseDeviation!),
      sumRows(mul(gradient, normalized)),
      bias && sumRows(gradient),
    ];
  },
  // Its statistics are float32 whatever the input is.
  lower: ({ names, inputs, attributes: { epsilon } }, onnx) =>
    inputs[0]!.dtype === "float32"
      ? onnx.ops("LayerNormalization", names, { axis: -1, epsilon: { float: epsilon } }, { outputs: 3 })
      : undefined,
  decompose: ([x, weight, bias], { epsilon }) => {
    const average = mean(x!, { axes: -1, keepDims: true });
    const centred = sub(x!, average);
    const inverseDeviation = rsqrt(add(mean(square(centred), { axes: -1, keepDims: true }), epsilon));
    const scaled = mul(mul(centred, inverseDeviation), weight!);
    return [bias ? add(scaled, bias) : scaled, average, inverseDeviation];
  },
});

/**
 * Layer normalisation over the last axis, Ba et al. 2016: `(x - mean) / sqrt(variance + epsilon) * weight + bias`.
 * `x` `[..., hiddenSize]`; weight and bias `[hiddenSize]`.
 */
export const layerNorm = (x: Tensor, weight: Tensor, bias?: Tensor, epsilon = 1e-5): Tensor =>
  layerNormOp(bias ? [x, weight, bias] : [x, weight], { epsilon });

const rmsNormOp = defineOp<NormAttributes>("rmsNorm", {
  shape: (inputs) => normSpec(inputs, 1),
  derivative: ({ inputs: [x, weight], outputs: [, inverseRms], gradient }) => {
    const normalized = mul(x!, inverseRms!);
    const scaled = mul(gradient, weight!);
    const along = mul(normalized, mean(mul(scaled, normalized), { axes: -1, keepDims: true }));
    return [mul(sub(scaled, along), inverseRms!), sumRows(mul(gradient, normalized))];
  },
  lower: ({ names, inputs, attributes: { epsilon } }, onnx) =>
    inputs[0]!.dtype === "float32"
      ? onnx.ops(
          "SimplifiedLayerNormalization",
          names,
          { axis: -1, epsilon: { float: epsilon } },
          { outputs: 2 },
        )
      : undefined,
  decompose: ([x, weight], { epsilon }) => {
    const inverseRms = rsqrt(add(mean(square(x!), { axes: -1, keepDims: true }), epsilon));
    return [mul(mul(x!, inverseRms), weight!), inverseRms];
  },
});

/** Root-mean-square normalisation, Zhang & Sennrich 2019: `x / sqrt(mean(x²) + epsilon) * weight`, over the last axis. */
export const rmsNorm = (x: Tensor, weight: Tensor, epsilon = 1e-6): Tensor =>
  rmsNormOp([x, weight], { epsilon });
