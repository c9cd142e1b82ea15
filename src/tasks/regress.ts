import type { Example } from "../data/index.js";
import { squeeze, sum } from "../graph/index.js";
import { pearson, rootMeanSquaredError, spearman } from "../training/index.js";
import { type Task, encodeTexts, float32, oneRow, tokenShape } from "./task.js";

export const regress: Task = {
  name: "regress",
  head: "classify",
  shape: tokenShape,
  perToken: false,
  hasClasses: false,
  hasThreshold: false,
  defaultLength: 256,
  numLabels: () => 1,
  metric: "pearson",
  targets: { values: { dtype: "float32", shape: ["batch"] } },
  prepare: (example, place, context) => {
    const { mean, deviation } = context.scale ?? { mean: 0, deviation: 1 };
    const target = example.label === undefined ? undefined : ((example.label as number) - mean) / deviation;
    return [oneRow(place, encodeTexts(example, context), target)];
  },
  collate: (items) => ({
    tensors: {
      values: float32(
        items.map(({ target }) => target as number),
        [items.length],
      ),
    },
    count: items.length,
  }),
  loss: (logits, { values }) => sum(squeeze(logits, 1).sub(values!).square()),
  predict: (_, [found], { scale }) => ({
    value: found!.logits[0]! * (scale?.deviation ?? 1) + (scale?.mean ?? 0),
  }),
  measure: (examples, predictions, loss) => {
    const truth = examples.map(({ label }) => label as number);
    const values = predictions.map(({ value }) => value!);
    // Where nothing varies there is no correlation to speak of.
    const defined = (value: number) => (Number.isFinite(value) ? value : 0);
    return {
      metrics: {
        loss,
        pearson: defined(pearson(truth, values)),
        spearman: defined(spearman(truth, values)),
        rmse: rootMeanSquaredError(truth, values),
      },
    };
  },
};

/** Mean and standard deviation of the labels; around 0 for a head that has no bias to take the mean. */
export function scaleOf(
  examples: readonly Example[],
  { centred }: { readonly centred: boolean },
): { mean: number; deviation: number } {
  const values = examples.map(({ label }) => label as number);
  const mean = centred ? values.reduce((a, b) => a + b, 0) / values.length : 0;
  const deviation = Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length);
  return { mean, deviation: deviation || 1 };
}
