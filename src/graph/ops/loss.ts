import { ShapeError } from "../../base/errors.js";
import { equalShapes, formatShape } from "../dims.js";
import { defineOp } from "../op.js";
import type { Tensor } from "../tensor.js";
import { softmax, logSoftmax } from "./activation.js";
import { add, cast, div, equal, exp, log, logicalNot, mul, neg, square, sub, where } from "./elementwise.js";
import { addRows, gather, gatherElements, scatterAdd } from "./indexing.js";
import { linear, matmul } from "./matmul.js";
import { max, mean, sum } from "./reduce.js";
import { reshape, squeeze, unsqueeze } from "./shape.js";

/** The label of a position that counts for nothing, as PyTorch has it. */
export const ignoredLabel = -100;

export interface CrossEntropyOptions {
  /** Labels of this value count for nothing. Default -100. */
  readonly ignoreIndex?: number;
  /** Share of the target spread evenly over all classes, Szegedy et al. 2016. Default 0. */
  readonly labelSmoothing?: number;
}

interface LossAttributes {
  readonly labelSmoothing: number;
}

interface LinearLossAttributes extends LossAttributes {
  readonly zLoss: number;
}

/** Loss of every row, `[rows]`, and the log-probabilities that its gradient uses again. */
const rowLossesOp = defineOp<LossAttributes>("crossEntropy", {
  shape: ([logits, labels], { labelSmoothing }) => {
    if (logits!.rank !== 2 || !equalShapes(labels!.shape, [logits!.shape[0]!])) {
      throw new ShapeError(`the labels ${labels!.describe()} do not fit the logits ${logits!.describe()}`);
    }
    if (labelSmoothing !== 0 && typeof logits!.shape[1] !== "number") {
      throw new ShapeError(`label smoothing needs a number of classes, not ${logits!.describe()}`);
    }
    return [
      { dtype: logits!.dtype, shape: [logits!.shape[0]!] },
      { dtype: logits!.dtype, shape: logits!.shape },
    ];
  },
  derivative: ({
    inputs: [logits, labels],
    outputs: [, logProbabilities],
    gradients: [gradient],
    attributes: { labelSmoothing },
  }) => {
    if (!gradient) return [undefined, undefined];
    const weight = unsqueeze(gradient, 1);
    const probabilities = exp(logProbabilities!);
    const spread =
      labelSmoothing === 0 ? probabilities : sub(probabilities, labelSmoothing / Number(logits!.shape[1]));
    return [
      scatterAdd(mul(spread, weight), unsqueeze(labels!, 1), mul(weight, labelSmoothing - 1), 1),
      undefined,
    ];
  },
  decompose: ([logits, labels], { labelSmoothing }) => {
    const logProbabilities = logSoftmax(logits!, 1);
    const picked = squeeze(gatherElements(logProbabilities, unsqueeze(labels!, 1), 1), 1);
    const losses =
      labelSmoothing === 0
        ? neg(picked)
        : neg(add(mul(picked, 1 - labelSmoothing), mul(mean(logProbabilities, { axes: 1 }), labelSmoothing)));
    return [losses, logProbabilities];
  },
});

/** Where a label counts (`[rows]`, 1 or 0), and labels in which the ignored ones are class 0. */
function countedLabels(
  labels: Tensor,
  dtype: Tensor["dtype"],
  ignoreIndex: number,
): { counted: Tensor; safe: Tensor } {
  const counted = logicalNot(equal(labels, ignoreIndex));
  return { counted: cast(counted, dtype), safe: where(counted, labels, 0) };
}

/**
 * Cross-entropy of every position: logits `[..., numClasses]`, integer labels `[...]` -> `[...]`, 0 where a label is
 * ignored.
 */
export function tokenLosses(logits: Tensor, labels: Tensor, options: CrossEntropyOptions = {}): Tensor {
  if (!equalShapes(logits.shape.slice(0, -1), labels.shape)) {
    throw new ShapeError(
      `crossEntropy: labels ${formatShape(labels.shape)} must have the shape of the logits ${formatShape(logits.shape)} without the last dimension`,
    );
  }
  const flat = reshape(labels, [-1]);
  const { counted, safe } = countedLabels(flat, logits.dtype, options.ignoreIndex ?? ignoredLabel);
  const losses = rowLossesOp([reshape(logits, [-1, logits.shape.at(-1)!]), safe], {
    labelSmoothing: options.labelSmoothing ?? 0,
  });
  return reshape(mul(losses, counted), labels.shape);
}

/** The number of labels that count: a scalar of `dtype`. */
export const countLabels = (
  labels: Tensor,
  dtype: Tensor["dtype"] = "float32",
  ignoreIndex = ignoredLabel,
): Tensor => sum(countedLabels(labels, dtype, ignoreIndex).counted);

/** Mean cross-entropy over the labels that count; a scalar. */
export function crossEntropy(logits: Tensor, labels: Tensor, options: CrossEntropyOptions = {}): Tensor {
  return div(
    sum(tokenLosses(logits, labels, options)),
    countLabels(labels, logits.dtype, options.ignoreIndex),
  );
}

/**
 * Loss of every row of `hidden weightᵀ`, with what its gradient uses again. The gradient of the logits, probability less
 * one-hot, is never formed: both of its terms go straight to the hidden states and the weight, so that the widest tensor
 * of a language model is written twice and no more.
 */
const linearRowLossesOp = defineOp<LinearLossAttributes>("linearCrossEntropy", {
  shape: ([hidden, weight, labels, bias]) => {
    if (
      hidden!.rank !== 2 ||
      weight!.rank !== 2 ||
      hidden!.shape[1] !== weight!.shape[1] ||
      !equalShapes(labels!.shape, [hidden!.shape[0]!]) ||
      (bias && !equalShapes(bias.shape, [weight!.shape[0]!]))
    ) {
      throw new ShapeError(
        `hidden states ${hidden!.describe()}, output embeddings ${weight!.describe()}${bias ? `, bias ${bias.describe()}` : ""} and labels ${labels!.describe()} do not fit`,
      );
    }
    const rows = hidden!.shape[0]!;
    return [
      { dtype: hidden!.dtype, shape: [rows] },
      { dtype: hidden!.dtype, shape: [rows, weight!.shape[0]!] },
      { dtype: hidden!.dtype, shape: [rows] },
    ];
  },
  derivative: ({
    inputs: [hidden, weight, labels, bias],
    outputs: [, probabilities, normalizer],
    gradients: [gradient],
    attributes: { labelSmoothing, zLoss },
  }) => {
    if (!gradient) return [];
    const scale = unsqueeze(gradient, 1);
    const scaled = mul(hidden!, scale);
    const picked = 1 - labelSmoothing;
    // The square of the normaliser pulls at every logit by its probability, like the normaliser itself.
    const pull = zLoss === 0 ? undefined : unsqueeze(add(mul(normalizer!, 2 * zLoss), 1), 1);
    const pulled = (x: Tensor): Tensor => (pull ? mul(x, pull) : x);
    const gradients = [
      sub(pulled(matmul(probabilities!, weight!)), mul(gather(weight!, labels!), picked)),
      addRows(matmul(probabilities!, pulled(scaled), { transposeA: true }), labels!, mul(scaled, -picked)),
      bias &&
        addRows(
          reshape(matmul(probabilities!, pulled(scale), { transposeA: true }), bias.shape),
          labels!,
          mul(gradient, -picked),
        ),
    ] as const;
    if (labelSmoothing === 0) return [mul(gradients[0], scale), gradients[1], undefined, gradients[2]];
    // The target's share of every class: the same for all, so a mean of the weight and a sum of the states.
    const each = labelSmoothing / Number(weight!.shape[0]);
    return [
      mul(sub(gradients[0], mul(mean(weight!, { axes: 0, keepDims: true }), labelSmoothing)), scale),
      sub(gradients[1], mul(sum(scaled, { axes: 0, keepDims: true }), each)),
      undefined,
      gradients[2] && sub(gradients[2], mul(sum(gradient), each)),
    ];
  },
  decompose: ([hidden, weight, labels, bias], { labelSmoothing, zLoss }) => {
    const logits = linear(hidden!, weight!, bias, { transposeWeight: true });
    const probabilities = softmax(logits, 1);
    // log sum exp, from the largest logit and its probability: that one is never below 1 / vocabSize.
    const normalizer = sub(max(logits, { axes: 1 }), log(max(probabilities, { axes: 1 })));
    const picked = squeeze(gatherElements(logits, unsqueeze(labels!, 1), 1), 1);
    const target =
      labelSmoothing === 0
        ? picked
        : add(mul(picked, 1 - labelSmoothing), mul(mean(logits, { axes: 1 }), labelSmoothing));
    const losses = sub(normalizer, target);
    const drift = zLoss === 0 ? losses : add(losses, mul(square(normalizer), zLoss));
    return [drift, probabilities, normalizer];
  },
});

export interface LinearLossOptions extends CrossEntropyOptions {
  /** `[vocabSize]`; default none. */
  readonly bias?: Tensor;
  /**
   * Factor of the square of the softmax's log-normaliser, which is added so that it stays near 0; Chowdhery et al. 2022,
   * section 5. Default 0.
   */
  readonly zLoss?: number;
}

/**
 * Cross-entropy of every position under the logits `hidden weightᵀ + bias`: hidden `[..., hiddenSize]`, weight
 * `[vocabSize, hiddenSize]`, bias `[vocabSize]` or none, labels `[...]` -> `[...]`, 0 where a label is ignored. The same as
 * `tokenLosses` of the product, for less.
 */
export function linearTokenLosses(
  hidden: Tensor,
  weight: Tensor,
  labels: Tensor,
  { ignoreIndex = ignoredLabel, labelSmoothing = 0, zLoss = 0, bias }: LinearLossOptions = {},
): Tensor {
  const flat = reshape(labels, [-1]);
  const { counted, safe } = countedLabels(flat, hidden.dtype, ignoreIndex);
  const losses = linearRowLossesOp(
    [reshape(hidden, [-1, hidden.shape.at(-1)!]), weight, safe, ...(bias ? [bias] : [])],
    { labelSmoothing, zLoss },
  );
  return reshape(mul(losses, counted), labels.shape);
}
