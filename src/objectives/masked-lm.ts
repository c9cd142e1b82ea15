import { type Tensor, sum, tokenLosses } from "../graph/index.js";
import { type EncoderInputs, type ForwardContext, type Module, statesAt } from "../nn/index.js";
import type { Objective } from "../training/index.js";
import { maskedLm, sentenceTask } from "./rows.js";

/** What an encoder is given; languages are XLM's own. */
export interface LanguageInputs extends EncoderInputs {
  /** Int32 `[batch, sequence]`. */
  readonly languageIds?: Tensor | undefined;
}

export interface MaskedLmParts {
  readonly model: Module;
  /** Hidden states `[batch, sequence, hiddenSize]`. */
  readonly encode: (inputs: LanguageInputs, context: ForwardContext) => Tensor;
  /** Losses `[masked]` of `hidden` at the places to predict, `[masked, hiddenSize]`, under `labels`, int32 `[masked]`. */
  readonly maskedLosses: (hidden: Tensor, labels: Tensor, context: ForwardContext) => Tensor;
  /** Logits `[batch, 2]` of the sentence task from the hidden states, where there is one. */
  readonly sentenceLogits?: (hidden: Tensor, context: ForwardContext) => Tensor;
  /** Which inputs the rows have besides ids, types and mask. */
  readonly extra?: readonly ("positionIds" | "languageIds" | "visible")[];
}

const perToken = { dtype: "int32", shape: ["batch", "sequence"] } as const;

/** The inputs of every masked batch. */
export const maskedInputs = {
  inputIds: perToken,
  tokenTypeIds: perToken,
  attentionMask: { dtype: "bool", shape: ["batch", "sequence"] },
  maskedPositions: { dtype: "int32", shape: ["masked"] },
  maskedLabels: { dtype: "int32", shape: ["masked"] },
} as const;

/**
 * Masked language modelling, with the sentence task beside it where `parts` has its head: the loss parts `maskedLm` and
 * `sentence`, of equal weight (Devlin et al. 2019, appendix A.2). Logits are computed at the places to predict alone.
 */
export function maskedLmObjective(parts: MaskedLmParts): Objective {
  const { model, encode, maskedLosses, sentenceLogits, extra = [] } = parts;
  return {
    model,
    inputs: {
      ...maskedInputs,
      ...(extra.includes("visible") && {
        attentionMask: { dtype: "bool", shape: ["batch", "sequence", "sequence"] },
      }),
      ...(extra.includes("positionIds") && { positionIds: perToken }),
      ...(extra.includes("languageIds") && { languageIds: perToken }),
      ...(sentenceLogits && { sentenceLabels: { dtype: "int32", shape: ["batch"] } }),
    },
    losses(inputs, context) {
      const { maskedPositions, maskedLabels, sentenceLabels, ...encoderInputs } = inputs;
      const hidden = encode(encoderInputs as unknown as LanguageInputs, context);
      const losses = maskedLosses(statesAt(hidden, maskedPositions!), maskedLabels!, context);
      return {
        [maskedLm]: sum(losses),
        ...(sentenceLogits && {
          [sentenceTask]: sum(tokenLosses(sentenceLogits(hidden, context), sentenceLabels!)),
        }),
      };
    },
  };
}
