import { type Dim, equal, sum, unsqueeze } from "../graph/index.js";
import type { InputSpec, LanguageModel, Objective } from "../training/objective.js";

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
