import type { Dim, Tensor } from "../graph/index.js";
import type { ForwardContext, Module } from "../nn/index.js";

/** A model that continues sequences with the help of a cache. */
export interface CausalModel extends Module {
  readonly config: {
    readonly vocabSize: number;
    readonly contextLength: number;
    readonly numLayers: number;
    /** Keys that a query looks back on, itself included; undefined for all. */
    readonly slidingWindow?: number | undefined;
  };
  hiddenStates(inputIds: Tensor, positionIds: Tensor, context: ForwardContext): Tensor;
  logits(hiddenStates: Tensor): Tensor;
  cacheShape(batch: Dim, capacity: Dim): Dim[];
}
