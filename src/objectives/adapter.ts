import type { LoraAdapter } from "../nn/index.js";
import type { Objective } from "../training/objective.js";

/** An objective whose model has an adapter: the adapter's dropout draws from the numbers of each step. */
export const withAdapter = (objective: Objective, adapter: LoraAdapter): Objective => ({
  ...objective,
  losses: (inputs, context) => adapter.drawing(context.random, () => objective.losses(inputs, context)),
});
