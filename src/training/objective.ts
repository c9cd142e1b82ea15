import type { DType } from "../base/dtype.js";
import type { Shape, Tensor } from "../graph/index.js";
import type { ForwardContext, Module } from "../nn/index.js";

/** An input of a training program. A dimension may be a name: batches may then differ in it, and equal names are equal numbers in one batch. */
export interface InputSpec {
  readonly dtype: DType;
  readonly shape: Shape;
}

/**
 * What training makes smaller: a model, the inputs of one forward pass, and its loss in parts.
 *
 *     total = sum over parts of weight * (sum of the part) / (count of the part)
 *
 * with sums and counts over all micro-batches of a step, so that however a step is cut into micro-batches, or shared out
 * over workers, its loss and its gradient are those of the one big batch. Counts come with the batches, by part; where they have a
 * single one, it is every part's.
 */
export interface Objective {
  /** Its parameters are trained, those with `trainable = false` excepted. */
  readonly model: Module;
  readonly inputs: Readonly<Record<string, InputSpec>>;
  /**
   * Sums (not means) of each part of the loss over the positions that count: scalars by the part's name.
   * @param context `random` is there in training and absent in evaluation
   */
  losses(inputs: Readonly<Record<string, Tensor>>, context: ForwardContext): Readonly<Record<string, Tensor>>;
  /** Weights of the parts in the total. Default 1 each. */
  readonly lossWeights?: Readonly<Record<string, number>>;
}

/** A model that can be trained on next tokens: the loss of every position, `[batch, sequence]`. */
export interface LanguageModel extends Module {
  losses(
    inputIds: Tensor,
    labels: Tensor,
    context?: ForwardContext,
    options?: { readonly zLoss?: number },
  ): Tensor;
}
