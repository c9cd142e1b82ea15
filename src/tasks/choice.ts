import { indexOfLargest } from "../base/numbers.js";
import { sum, tokenLosses, where } from "../graph/index.js";
import { type Task, int32, mostRows, never, softmax } from "./task.js";

export const choice: Task = {
  name: "choice",
  head: "choice",
  shape: ["batch", "choices", "sequence"],
  perToken: false,
  hasClasses: false,
  hasThreshold: false,
  defaultLength: 256,
  numLabels: () => undefined,
  metric: "accuracy",
  targets: {
    labels: { dtype: "int32", shape: ["batch"] },
    offered: { dtype: "bool", shape: ["batch", "choices"] },
  },
  prepare: ({ text, choices, label }, place, { tokenizer, maxLength }) => {
    const rows = choices!.map((other) => tokenizer.encodePair(text, other, { maxLength }));
    return [
      {
        place,
        rows,
        length: Math.max(...rows.map(({ ids }) => ids.length)),
        truncated: rows.reduce((total, { truncated }) => total + truncated, 0),
        ...(label !== undefined && { target: label as number }),
      },
    ];
  },
  collate: (items) => {
    const most = mostRows(items);
    return {
      tensors: {
        labels: int32(
          items.map(({ target }) => (target as number | undefined) ?? 0),
          [items.length],
        ),
        offered: {
          data: Uint8Array.from(
            items.flatMap(({ rows }) =>
              Array.from({ length: most }, (_, place) => Number(place < rows.length)),
            ),
          ),
          shape: [items.length, most],
        },
      },
      count: items.length,
    };
  },
  loss: (logits, { labels, offered }) => sum(tokenLosses(where(offered!, logits, never), labels!)),
  predict: ({ choices }, [found]) => {
    const probabilities = softmax(found!.logits);
    const best = indexOfLargest(probabilities);
    return {
      choice: best,
      label: choices![best]!,
      probability: probabilities[best]!,
      probabilities: Object.fromEntries(probabilities.map((probability, place) => [place, probability])),
    };
  },
  measure: (examples, predictions, loss) => {
    const right = examples.filter(({ label }, place) => predictions[place]!.choice === label).length;
    return { metrics: { loss, accuracy: right / examples.length } };
  },
};
