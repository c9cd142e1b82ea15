import type { Adapter } from "../nn/index.js";
import type { Objective } from "../training/objective.js";

/** An objective whose model has an adapter: the adapter's dropout draws from the numbers of each step. */
export const withAdapter = (objective: Objective, adapter: Adapter): Objective =>
  adapter.kind === "lora"
    ? {
        ...objective,
        losses: (inputs, context) => adapter.drawing(context.random, () => objective.losses(inputs, context)),
      }
    : objective;
