import type { DType } from "../base/dtype.js";
import { type Dim, type Shape, type Tensor, equal, sum, unsqueeze } from "../graph/index.js";
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
 * over workers, its loss and its gradient are those of the one big batch. Counts come with the batches.
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
  losses(inputIds: Tensor, labels: Tensor, context?: ForwardContext): Tensor;
}

/**
 * Next-token prediction: inputs `inputIds` and `labels`, int32 `[batch, sequence]`, and one part, `tokens`. Sizes that are
 * given as numbers make a program for them alone, which the engine plans a little better; names take batches of any size.
 */
export function nextTokenObjective(
  model: LanguageModel,
  { batchSize = "batch", sequenceLength = "sequence" }: { batchSize?: Dim; sequenceLength?: Dim } = {},
): Objective {
  const tokens: InputSpec = { dtype: "int32", shape: [batchSize, sequenceLength] };
  return {
    model,
    inputs: { inputIds: tokens, labels: tokens },
    losses: ({ inputIds, labels }, context) => ({ tokens: sum(model.losses(inputIds!, labels!, context)) }),
  };
}

/**
 * Next-token prediction on rows of several documents, none of which sees another: the same loss and gradient as with each
 * in a row of its own. Inputs as `PackedLoader` gives them.
 */
export function packedObjective(
  model: LanguageModel,
  sizes: { batchSize?: Dim; sequenceLength?: Dim } = {},
): Objective {
  const next = nextTokenObjective(model, sizes);
  const perToken = next.inputs["inputIds"]!;
  return {
    model,
    inputs: { ...next.inputs, positionIds: perToken, documentIds: perToken },
    losses: ({ inputIds, labels, positionIds, documentIds }, context) => {
      // [batch, 1, sequence, 1] against [batch, 1, 1, sequence].
      const ids = unsqueeze(documentIds!, 1);
      const attentionMask = equal(unsqueeze(ids, 3), unsqueeze(ids, 2));
      return { tokens: sum(model.losses(inputIds!, labels!, { ...context, positionIds, attentionMask })) };
    },
  };
}
