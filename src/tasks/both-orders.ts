import { LineageError } from "../base/errors.js";
import type { TaskName } from "../data/index.js";
import { sum } from "../graph/index.js";
import type { Item, ItemLogits, Task } from "./task.js";
import { tasks } from "./tasks.js";

/** A task by its name, its pairs in both orders where they are read so. */
export const taskOf = (
  name: TaskName,
  { bothOrders = false }: { readonly bothOrders?: boolean | undefined } = {},
): Task => (bothOrders ? inBothOrders(tasks[name]) : tasks[name]);

/**
 * A task over pairs whose order says nothing: both orders are read, and what they give is added, Radford et al. 2018, section
 * 3.3. The sum is that of the answers, which for a layer without a bias is the answer of the summed states.
 */
function inBothOrders(task: Task): Task {
  if (task.name !== "pair" && task.name !== "regress")
    throw new LineageError(
      "argument",
      `both orders are read of two texts, in the tasks pair and regress, not in ${task.name}; leave out --both-orders`,
    );
  return {
    ...task,
    shape: ["batch", "orders", "sequence"],
    prepare: (example, place, context) => {
      const { text, pair } = example;
      if (pair === undefined)
        throw new LineageError("data", `row ${example.row} has one text only, and --both-orders needs two`);
      const orders = [example, { ...example, text: pair, pair: text }].flatMap((one) =>
        task.prepare(one, place, context),
      );
      return [
        {
          ...orders[0]!,
          rows: orders.flatMap(({ rows }) => rows),
          length: Math.max(...orders.map(({ length }) => length)),
          truncated: orders.reduce((total, { truncated }) => total + truncated, 0),
        } satisfies Item,
      ];
    },
    loss: (logits, inputs) => task.loss(sum(logits, { axes: 1 }), inputs),
    predict: (example, found, context, options) => task.predict(example, found.map(added), context, options),
  };
}

/** The answers of two orders, added. */
function added({ item, logits }: ItemLogits): ItemLogits {
  const half = logits.length / 2;
  return { item, logits: logits.subarray(0, half).map((value, place) => value + logits[half + place]!) };
}
