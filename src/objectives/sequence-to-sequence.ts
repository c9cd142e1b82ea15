import { type Dim, type Shape, sum } from "../graph/index.js";
import type { EncoderDecoder } from "../nn/index.js";
import type { Objective } from "../training/objective.js";

export interface SequenceToSequenceOptions {
  /** Share of the target spread evenly over the vocabulary. Vaswani et al. 2017, section 5.4: 0.1. Default 0. */
  readonly labelSmoothing?: number;
  /** Whether batches say where the tokens of the decoder stand, as MASS's do: `decoderPositionIds` `[batch, target]`. */
  readonly positions?: boolean;
  readonly batchSize?: Dim;
  readonly sourceLength?: Dim;
  readonly targetLength?: Dim;
}

/**
 * Every token of the target from the source and the tokens before: the loss part `tokens`. Inputs: `inputIds` and
 * `attentionMask` `[batch, source]`, `decoderInputIds` and `labels` `[batch, target]`; a label of -100 counts for nothing.
 * Smoothing is for training alone: an evaluation measures the plain cross-entropy.
 */
export function sequenceToSequenceObjective(
  model: EncoderDecoder,
  {
    labelSmoothing = 0,
    positions = false,
    batchSize = "batch",
    sourceLength = "source",
    targetLength = "target",
  }: SequenceToSequenceOptions = {},
): Objective {
  const source: Shape = [batchSize, sourceLength];
  const target: Shape = [batchSize, targetLength];
  return {
    model,
    inputs: {
      inputIds: { dtype: "int32", shape: source },
      attentionMask: { dtype: "bool", shape: source },
      decoderInputIds: { dtype: "int32", shape: target },
      labels: { dtype: "int32", shape: target },
      ...(positions && { decoderPositionIds: { dtype: "int32", shape: target } }),
    },
    losses: ({ inputIds, attentionMask, decoderInputIds, labels, decoderPositionIds }, context) => ({
      tokens: sum(
        model.losses(
          { inputIds: inputIds!, attentionMask },
          decoderInputIds!,
          labels!,
          { ...context, positionIds: decoderPositionIds },
          { labelSmoothing: context.random ? labelSmoothing : 0 },
        ),
      ),
    }),
  };
}
