import type { Dim, Tensor } from "../graph/index.js";
import type { ForwardContext, LayerType, Module, RotaryScaling } from "../nn/index.js";

/** A model that continues sequences with the help of a cache. */
export interface CausalModel extends Module {
  readonly config: {
    readonly vocabSize: number;
    readonly contextLength: number;
    readonly numLayers: number;
    /** Channels of a head, where the cache may have more. */
    readonly headSize?: number | undefined;
    /** Keys that a query looks back on, itself included; undefined for all. */
    readonly slidingWindow?: number | undefined;
    /** Which layers have the window, by transformers' words for them. Default: all. */
    readonly layerTypes?: readonly LayerType[] | undefined;
    /** How positions reach beyond `contextLength`. */
    readonly ropeScaling?: RotaryScaling | undefined;
  };
  hiddenStates(inputIds: Tensor, positionIds: Tensor, context: ForwardContext): Tensor;
  logits(hiddenStates: Tensor): Tensor;
  cacheShape(batch: Dim, capacity: Dim): Dim[];
}
