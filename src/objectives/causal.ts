import { type Dim, type Tensor, equal, sum, unsqueeze } from "../graph/index.js";
import { type CausalLm, type ForwardContext, statesAt } from "../nn/index.js";
import type { InputSpec, LanguageModel, Objective } from "../training/objective.js";

export interface NextTokenOptions {
  readonly batchSize?: Dim;
  readonly sequenceLength?: Dim;
  /**
   * Factor of the square of the softmax's log-normaliser, which training adds to the loss and evaluation does not. PaLM's
   * is 1e-4, Chowdhery et al. 2022, section 5, as in T5X's configuration of decoders. Default 0.
   */
  readonly zLoss?: number;
}

/** Random numbers are there in training alone. */
export const withZLoss = ({ random }: ForwardContext, zLoss = 0): { readonly zLoss: number } => ({
  zLoss: random ? zLoss : 0,
});

/**
 * Next-token prediction: inputs `inputIds` and `labels`, int32 `[batch, sequence]`, and one part, `tokens`. Sizes that are
 * given as numbers make a program for them alone, which the engine plans a little better; names take batches of any size.
 */
export function nextTokenObjective(
  model: LanguageModel,
  { batchSize = "batch", sequenceLength = "sequence", zLoss = 0 }: NextTokenOptions = {},
): Objective {
  const tokens: InputSpec = { dtype: "int32", shape: [batchSize, sequenceLength] };
  return {
    model,
    inputs: { inputIds: tokens, labels: tokens },
    losses: ({ inputIds, labels }, context) => ({
      tokens: sum(model.losses(inputIds!, labels!, context, withZLoss(context, zLoss))),
    }),
  };
}

/** Whether a token may look at another: bool `[batch, 1, sequence, sequence]`, from int32 `[batch, sequence]`. */
export function withinDocuments(documentIds: Tensor): Tensor {
  const ids = unsqueeze(documentIds, 1);
  return equal(unsqueeze(ids, 3), unsqueeze(ids, 2));
}

/**
 * Next-token prediction on rows of several documents, none of which sees another: the same loss and gradient as with each
 * in a row of its own. Inputs as `PackedLoader` gives them.
 */
export function packedObjective(model: LanguageModel, options: NextTokenOptions = {}): Objective {
  const next = nextTokenObjective(model, options);
  const perToken = next.inputs["inputIds"]!;
  return {
    model,
    inputs: { ...next.inputs, positionIds: perToken, documentIds: perToken },
    losses: ({ inputIds, labels, positionIds, documentIds }, context) => {
      const masked = { ...context, positionIds, attentionMask: withinDocuments(documentIds!) };
      return { tokens: sum(model.losses(inputIds!, labels!, masked, withZLoss(context, options.zLoss))) };
    },
  };
}

/**
 * The same where some tokens alone are to be predicted, such as the answers of conversations: logits are computed at the places
 * that predict one, `trained` of them in a batch, and nowhere else.
 */
export function packedAnswersObjective(model: CausalLm, options: NextTokenOptions = {}): Objective {
  const perToken = nextTokenObjective(model, options).inputs["inputIds"]!;
  const perTrained: InputSpec = { dtype: "int32", shape: ["trained"] };
  return {
    model,
    inputs: {
      inputIds: perToken,
      positionIds: perToken,
      documentIds: perToken,
      trainedPositions: perTrained,
      trainedLabels: perTrained,
    },
    losses: ({ inputIds, positionIds, documentIds, trainedPositions, trainedLabels }, context) => {
      const masked = { ...context, positionIds, attentionMask: withinDocuments(documentIds!) };
      const states = statesAt(model.hiddenStates(inputIds!, positionIds, masked), trainedPositions!);
      return { tokens: sum(model.lossesOf(states, trainedLabels!, withZLoss(context, options.zLoss))) };
    },
  };
}
