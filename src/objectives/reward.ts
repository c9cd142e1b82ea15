import {
  type Tensor,
  cast,
  gather,
  greater,
  logSigmoid,
  mul,
  neg,
  stopGradient,
  sub,
  sum,
} from "../graph/index.js";
import type { ForwardContext, Module } from "../nn/index.js";
import type { InputSpec, Objective } from "../training/objective.js";

/** A network that gives each text one number. */
export interface ScoringNetwork {
  readonly model: Module;
  readonly inputs: Readonly<Record<string, InputSpec>>;
  /** `[rows]`. */
  scores(inputs: Readonly<Record<string, Tensor>>, context: ForwardContext): Tensor;
}

/** Loss of the pairs of a batch; its count is that of the prompts. */
export const rankingPart = "ranking";

const perPair = { shape: ["pairs"] } as const;

/**
 * A reward model's loss on rankings: of every two answers to one prompt, the better one is to have the higher reward. Ouyang
 * et al. 2022, equation 1: each prompt counts once, its pairs by `pairWeights`, 1 / C(K, 2); Touvron et al. 2023 (LLaMA-2),
 * equation 2: by `margins` at least. All answers to a prompt are in one batch, and each is read once. Inputs besides the
 * network's: rows `betterRows` and `worseRows`, `pairWeights` and `margins`, all `[pairs]`. Told beside the loss: `accuracy`,
 * the `gap` of the rewards, and their mean.
 */
export function rankingObjective({ model, inputs: own, scores }: ScoringNetwork): Objective {
  return {
    model,
    inputs: {
      ...own,
      betterRows: { dtype: "int32", ...perPair },
      worseRows: { dtype: "int32", ...perPair },
      pairWeights: { dtype: "float32", ...perPair },
      margins: { dtype: "float32", ...perPair },
    },
    losses(inputs, context) {
      const rewards = scores(inputs, { ...context, random: undefined });
      const better = gather(rewards, inputs["betterRows"]!);
      const worse = gather(rewards, inputs["worseRows"]!);
      const gap = sub(better, worse);
      return {
        [rankingPart]: neg(sum(mul(logSigmoid(sub(gap, inputs["margins"]!)), inputs["pairWeights"]!))),
        accuracy: sum(cast(greater(stopGradient(gap), 0), "float32")),
        gap: sum(stopGradient(gap)),
        mean: sum(stopGradient(rewards)),
      };
    },
    lossWeights: { accuracy: 0, gap: 0, mean: 0 },
  };
}
