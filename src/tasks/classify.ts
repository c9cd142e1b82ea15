import { LineageError } from "../base/errors.js";
import { indexOfLargest } from "../base/numbers.js";
import type { Example } from "../data/index.js";
import { mul, sum, tokenLosses } from "../graph/index.js";
import { ConfusionMatrix, bestThreshold } from "../training/index.js";
import {
  type Prediction,
  type Task,
  encodeTexts,
  float32,
  int32,
  oneRow,
  softmax,
  tokenShape,
} from "./task.js";

export const classification = (name: "classify" | "pair"): Task => ({
  name,
  head: "classify",
  shape: tokenShape,
  perToken: false,
  hasClasses: true,
  hasThreshold: true,
  defaultLength: 256,
  numLabels: ({ length }) => length,
  metric: "accuracy",
  targets: {
    labels: { dtype: "int32", shape: ["batch"] },
    labelWeights: { dtype: "float32", shape: ["batch"] },
  },
  prepare: (example, place, context) => [
    oneRow(
      place,
      encodeTexts(example, context),
      example.label === undefined ? undefined : context.labels.indexOf(example.label as string),
    ),
  ],
  collate: (items, _, { classWeights }) => {
    const labels = items.map(({ target }) => target as number);
    const weights = labels.map((label) => classWeights?.[label] ?? 1);
    return {
      tensors: {
        labels: int32(labels, [labels.length]),
        labelWeights: float32(weights, [labels.length]),
      },
      count: weights.reduce((a, b) => a + b, 0),
    };
  },
  loss: (logits, { labels, labelWeights }) => sum(mul(tokenLosses(logits, labels!), labelWeights!)),
  predict: (_, [found], { labels }, { threshold }) => {
    const probabilities = softmax(found!.logits);
    const best = indexOfLargest(probabilities);
    const chosen =
      threshold === undefined
        ? best
        : labels.length === 2
          ? Number(probabilities[1]! >= threshold)
          : probabilities[best]! >= threshold
            ? best
            : undefined;
    return {
      label: chosen === undefined ? null : labels[chosen]!,
      probability: probabilities[chosen ?? best]!,
      probabilities: Object.fromEntries(labels.map((label, id) => [label, probabilities[id]!])),
    };
  },
  measure: (examples, predictions, loss, { labels }) => {
    // A label that the threshold left open is an answer of its own, and a wrong one.
    const open = predictions.some(({ label }) => label === null);
    const classes = open ? [...labels, "(open)"] : labels;
    const confusion = ConfusionMatrix.of(
      classes,
      examples.map(({ label }) => labels.indexOf(label as string)),
      predictions.map(({ label }) => (label === null ? labels.length : labels.indexOf(label!))),
    );
    return { metrics: { loss, ...scoresOf(confusion, labels.length === 2) }, confusion };
  },
});

/** Of two classes the second is the positive one. */
function scoresOf(confusion: ConfusionMatrix, binary: boolean): Record<string, number> {
  const { accuracy, macroF1, matthews, byClass } = confusion;
  return { accuracy, macroF1, ...(binary && { f1: byClass[1]!.f1 }), matthews };
}

/**
 * The threshold at which predictions for labelled examples of two classes are best by a metric, which is F1 where `metric`
 * does not depend on it.
 */
export function thresholdFor(
  metric: string,
  examples: readonly Example[],
  predictions: readonly Prediction[],
  labels: readonly string[],
): number {
  const [, positive] = labels;
  const found = predictions.map(({ probabilities }) => probabilities?.[positive!] ?? 0);
  const truth = examples.map(({ label }) => label === positive);
  const decides = ["accuracy", "macroF1", "matthews"].includes(metric) ? metric : "f1";
  return bestThreshold(truth, found, (confusion) => scoresOf(confusion, true)[decides]!);
}

/** Throws `argument` for a threshold where nothing is decided by one. */
export function checkThreshold(
  threshold: number | "auto" | undefined,
  { name, hasThreshold }: Task,
  labels: readonly string[],
): void {
  if (threshold === undefined) return;
  if (!hasThreshold)
    throw new LineageError("argument", `the task ${name} has no threshold; leave out --threshold`);
  if (threshold === "auto" && labels.length !== 2)
    throw new LineageError(
      "argument",
      `a threshold is chosen between two classes, and there are ${labels.length}: ${labels.join(", ")}; give a number, from which on any of them is answered`,
    );
}
