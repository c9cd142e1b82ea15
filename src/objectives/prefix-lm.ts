import { LineageError } from "../base/errors.js";
import { sum } from "../graph/index.js";
import type { CausalLm } from "../nn/index.js";
import type { Objective } from "../training/objective.js";
import { type NextTokenOptions, nextTokenObjective, withinDocuments, withZLoss } from "./causal.js";

/**
 * A prefix language model: the tokens of a row's prefix see one another both ways, those after it what is before them, and
 * only these are predicted. Raffel et al. 2020, section 3.2.1; Tay et al. 2022 (U-PaLM), section 3.2. Inputs as `prefixBatch`
 * gives them. Throws `argument` for a model whose configuration does not say `prefixLm`: it would be loaded as another one.
 */
export function prefixObjective(model: CausalLm, options: NextTokenOptions = {}): Objective {
  if (!model.config.prefixLm)
    throw new LineageError(
      "argument",
      "the model is no prefix language model: set prefixLm in its configuration",
    );
  const next = nextTokenObjective(model, options);
  const { shape } = next.inputs["inputIds"]!;
  return {
    model,
    inputs: { ...next.inputs, prefix: { dtype: "bool", shape } },
    losses: ({ inputIds, labels, prefix }, context) => ({
      tokens: sum(
        model.losses(inputIds!, labels!, { ...context, prefix }, withZLoss(context, options.zLoss)),
      ),
    }),
  };
}

/**
 * A prefix language model on rows of several documents, none of which sees another: the same loss and gradient as with each in
 * a row of its own. Inputs as `packedPrefixBatch` gives them. Throws as `prefixObjective` does.
 */
export function packedPrefixObjective(model: CausalLm, options: NextTokenOptions = {}): Objective {
  const { inputs, losses } = prefixObjective(model, options);
  const perToken = inputs["inputIds"]!;
  return {
    model,
    inputs: { ...inputs, positionIds: perToken, documentIds: perToken },
    losses: ({ documentIds, positionIds, ...given }, context) =>
      losses(given, { ...context, positionIds, attentionMask: withinDocuments(documentIds!) }),
  };
}
