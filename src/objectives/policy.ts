import {
  type Tensor,
  abs,
  add,
  cast,
  clip,
  exp,
  greater,
  maximum,
  minimum,
  mul,
  neg,
  squeeze,
  square,
  stopGradient,
  sub,
  sum,
} from "../graph/index.js";
import {
  CausalLm,
  type DecoderBody,
  type ForwardContext,
  Linear,
  Module,
  statesAt,
  zerosInit,
} from "../nn/index.js";
import type { InputSpec, Objective } from "../training/objective.js";
import { type Writer, completionInputs, completionStates, tokenLogProbs } from "./completions.js";

// Losses of policies: language models that learn from the rewards of what they wrote themselves.

/** A policy with the value function that its rewards are compared with. */
export class ActorCritic extends Module {
  /** The policy keeps its own names, so that decoders and files take it out of the weights of both. */
  static override readonly names = { policy: "", critic: "critic", value: "value_head" };
  /** Value of each state, `[..., hiddenSize]` -> `[..., 1]`; begins at zero where nothing else is loaded. */
  readonly value: Linear;

  /** @param critic the value function's own network, beside a decoder; without one it reads the policy's states */
  constructor(
    readonly policy: Writer,
    readonly critic?: DecoderBody,
  ) {
    super();
    this.value = new Linear((critic ?? policy).config.hiddenSize, 1, { initializer: zerosInit });
  }

  /** Log-probability and value at each token of the completions, `[tokens]` both. */
  override forward(
    inputs: Readonly<Record<string, Tensor>>,
    context: ForwardContext,
  ): { readonly logProbs: Tensor; readonly values: Tensor } {
    const states = completionStates(this.policy, inputs, context);
    const read = this.critic
      ? statesAt(this.critic.encode({ inputIds: inputs["inputIds"]! }, context), inputs["statePositions"]!)
      : states;
    return {
      logProbs: tokenLogProbs(this.policy, states, inputs),
      values: squeeze(this.value.forward(read), 1),
    };
  }
}

/**
 * The clipped surrogate of each token, Schulman et al. 2017, equation 7; to be made smaller.
 * @param clipHigh how far the ratio may rise, where that is not as far as it may fall: DAPO's "clip higher"
 */
export function clippedPolicyLosses(
  logProbs: Tensor,
  { oldLogProbs, advantages }: { readonly oldLogProbs: Tensor; readonly advantages: Tensor },
  range: number,
  clipHigh = range,
): Tensor {
  const ratio = exp(sub(logProbs, oldLogProbs));
  return neg(minimum(mul(ratio, advantages), mul(clip(ratio, 1 - range, 1 + clipHigh), advantages)));
}

/** Half the squared error of each value, that stays near what it was: as in OpenAI's and trl's PPO. */
export function clippedValueLosses(
  values: Tensor,
  { oldValues, returns }: { readonly oldValues: Tensor; readonly returns: Tensor },
  range: number,
): Tensor {
  const near = add(oldValues, clip(sub(values, oldValues), -range, range));
  return mul(maximum(square(sub(values, returns)), square(sub(near, returns))), 0.5);
}

/** exp(d) - d - 1 with d = other - logProbs: an unbiased estimate of KL(policy || other) that is never below zero. Schulman 2020. */
export function divergences(logProbs: Tensor, other: Tensor): Tensor {
  const d = sub(other, logProbs);
  return sub(sub(exp(d), d), 1);
}

const perToken: InputSpec = { dtype: "float32", shape: ["tokens"] };
const perRow: InputSpec = { dtype: "float32", shape: ["rows"] };

/** What is told of the rows of a batch: their rewards, and how far they are from the reference. */
const told = { rewards: perRow, divergences: perRow };
const toldParts = (inputs: Readonly<Record<string, Tensor>>) => ({
  reward: sum(inputs["rewards"]!),
  kl: sum(inputs["divergences"]!),
});

/** Share of the tokens whose ratio left the range. */
const clippedShare = (logProbs: Tensor, oldLogProbs: Tensor, range: number): Tensor =>
  sum(cast(greater(abs(sub(exp(sub(stopGradient(logProbs), oldLogProbs)), 1)), range), "float32"));

export interface PpoLossOptions {
  /** How far the ratio of a token's probabilities may move within a round. Default 0.2. */
  readonly clipRange?: number;
  /** The same for values. Default 0.2. */
  readonly valueClipRange?: number;
  /** Weight of the value function's loss. Default 0.1. */
  readonly valueWeight?: number;
  /** Weight of the loss of pretraining text, gamma of Ouyang et al. 2022, equation 2: PPO-ptx. Default 0, none. */
  readonly pretrainingWeight?: number;
}

/**
 * PPO on completions that the policy wrote. Inputs besides theirs: `oldLogProbs`, `advantages`, `oldValues` and `returns`
 * `[tokens]`, as they were when the completions were written; `rewards` and `divergences` `[rows]`, which are told; with a
 * pretraining weight `pretrainingIds` and `pretrainingLabels` `[texts, length]`. Parts: `policy`, `value` and `pretraining`;
 * told are `clipped`, a share of tokens, `reward` and `kl`. There is no dropout: ratios would not begin at 1.
 */
export function ppoObjective(model: ActorCritic, options: PpoLossOptions = {}): Objective {
  const { clipRange = 0.2, valueClipRange = 0.2, valueWeight = 0.1, pretrainingWeight = 0 } = options;
  const text: InputSpec = { dtype: "int32", shape: ["texts", "length"] };
  return {
    model,
    inputs: {
      ...completionInputs(model.policy),
      oldLogProbs: perToken,
      advantages: perToken,
      oldValues: perToken,
      returns: perToken,
      ...told,
      ...(pretrainingWeight > 0 && { pretrainingIds: text, pretrainingLabels: text }),
    },
    losses(inputs, given) {
      const context = { ...given, random: undefined };
      const { logProbs, values } = model.forward(inputs, context);
      const { oldLogProbs, advantages, oldValues, returns } = inputs as Record<string, Tensor>;
      const old = { oldLogProbs: oldLogProbs!, advantages: advantages! };
      return {
        policy: sum(clippedPolicyLosses(logProbs, old, clipRange)),
        value: sum(clippedValueLosses(values, { oldValues: oldValues!, returns: returns! }, valueClipRange)),
        ...(pretrainingWeight > 0 && { pretraining: sum(pretrainingLosses(model.policy, inputs, context)) }),
        clipped: clippedShare(logProbs, oldLogProbs!, clipRange),
        ...toldParts(inputs),
      };
    },
    lossWeights: { value: valueWeight, pretraining: pretrainingWeight, clipped: 0, reward: 0, kl: 0 },
  };
}

function pretrainingLosses(
  policy: Writer,
  { pretrainingIds, pretrainingLabels }: Readonly<Record<string, Tensor>>,
  context: ForwardContext,
): Tensor {
  if (policy instanceof CausalLm) return policy.losses(pretrainingIds!, pretrainingLabels!, context);
  // An encoder-decoder's pretraining has corruptions of its own; text alone is written about nothing.
  throw new TypeError("the pretraining mix is for decoders");
}

export interface GrpoLossOptions {
  /** Default 0.2. */
  readonly clipRange?: number;
  /** How far a ratio may rise, where that is not `clipRange`. */
  readonly clipHigh?: number;
  /** Weight of the divergence from the reference. Default 0.04, Shao et al. 2024, section 4.2; 0 needs no reference. */
  readonly beta?: number;
}

/**
 * GRPO, Shao et al. 2024, "DeepSeekMath", equation 3, on completions that the policy wrote. Inputs besides theirs:
 * `oldLogProbs`, `advantages`, `tokenWeights` and, where beta is not 0, `referenceLogProbs`, all `[tokens]`; `rewards` and
 * `divergences` `[rows]`. `tokenWeights` say what is averaged: 1 / length with a count of rows is the paper's, 1 with a count
 * of tokens DAPO's.
 */
export function grpoObjective(policy: Writer, options: GrpoLossOptions = {}): Objective {
  const { clipRange = 0.2, clipHigh = clipRange, beta = 0.04 } = options;
  return {
    model: policy,
    inputs: {
      ...completionInputs(policy),
      oldLogProbs: perToken,
      advantages: perToken,
      tokenWeights: perToken,
      ...(beta > 0 && { referenceLogProbs: perToken }),
      ...told,
    },
    losses(inputs, given) {
      const context = { ...given, random: undefined };
      const logProbs = tokenLogProbs(policy, completionStates(policy, inputs, context), inputs);
      const { oldLogProbs, advantages, tokenWeights, referenceLogProbs } = inputs as Record<string, Tensor>;
      const old = { oldLogProbs: oldLogProbs!, advantages: advantages! };
      const losses = clippedPolicyLosses(logProbs, old, clipRange, clipHigh);
      return {
        policy: sum(mul(losses, tokenWeights!)),
        ...(beta > 0 && { divergence: sum(mul(divergences(logProbs, referenceLogProbs!), tokenWeights!)) }),
        clipped: clippedShare(logProbs, oldLogProbs!, clipRange),
        ...toldParts(inputs),
      };
    },
    lossWeights: { divergence: beta, clipped: 0, reward: 0, kl: 0 },
  };
}
