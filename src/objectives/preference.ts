import {
  type Tensor,
  add,
  cast,
  div,
  exp,
  gather,
  greater,
  log,
  logSigmoid,
  maximum,
  mul,
  neg,
  ones,
  relu,
  sigmoid,
  square,
  stopGradient,
  sub,
  sum,
} from "../graph/index.js";
import type { Objective } from "../training/objective.js";
import { type Writer, completionInputs, completionLogProbs } from "./completions.js";

// Losses on pairs of completions of one prompt, a better and a worse one, and on single ones that were liked or not.

/** What a loss on pairs is made of; every tensor is `[pairs]`. */
export interface PairLogProbs {
  /** Log-probabilities of the whole completions under the model that learns. */
  readonly chosen: Tensor;
  readonly rejected: Tensor;
  /** The same under the model as it was; zeros for losses without a reference. */
  readonly referenceChosen: Tensor;
  readonly referenceRejected: Tensor;
  /** Tokens of the completions. */
  readonly chosenLength: Tensor;
  readonly rejectedLength: Tensor;
}

/** A loss on pairs: its name, what it makes of each pair, and what a completion is worth to it. */
export interface PairLoss {
  readonly name: string;
  /** Whether it looks at the model as it was. */
  readonly needsReference: boolean;
  /** Loss of each pair, `[pairs]`. */
  losses(pairs: PairLogProbs): Tensor;
  /** Implicit rewards `[pairs]` of the chosen and the rejected completions: their order is the accuracy. */
  rewards(pairs: PairLogProbs): readonly [chosen: Tensor, rejected: Tensor];
  /** Weight of the chosen completions' own loss (the mean over their tokens) beside it. Default 0. */
  readonly chosenWeight?: number;
}

interface Beta {
  /** How far the model may move: the inverse temperature of the implicit reward. Default 0.1. */
  readonly beta?: number;
}
interface Smoothed extends Beta {
  /** Share of the preferences that are taken to be the wrong way round. Default 0. */
  readonly labelSmoothing?: number;
}

/** Rewards of DPO: beta times how much likelier a completion has become. Rafailov et al. 2023, section 4. */
const logRatios =
  (beta: number): PairLoss["rewards"] =>
  ({ chosen, rejected, referenceChosen, referenceRejected }) => [
    mul(sub(chosen, referenceChosen), beta),
    mul(sub(rejected, referenceRejected), beta),
  ];

/** Log-probabilities of a token on average. */
const means = ({ chosen, rejected, chosenLength, rejectedLength }: PairLogProbs): [Tensor, Tensor] => [
  div(chosen, chosenLength),
  div(rejected, rejectedLength),
];

/** -log sigmoid(x) for a share of 1 - e, -log sigmoid(-x) for e. */
const smoothed = (x: Tensor, e: number): Tensor =>
  e === 0 ? neg(logSigmoid(x)) : neg(add(mul(logSigmoid(x), 1 - e), mul(logSigmoid(neg(x)), e)));

const difference = ([chosen, rejected]: readonly [Tensor, Tensor]): Tensor => sub(chosen, rejected);

/** Rafailov et al. 2023, "Direct Preference Optimization", equation 7; with label smoothing the conservative one. */
export function dpo({ beta = 0.1, labelSmoothing = 0 }: Smoothed = {}): PairLoss {
  const rewards = logRatios(beta);
  return {
    name: "dpo",
    needsReference: true,
    rewards,
    losses: (pairs) => smoothed(difference(rewards(pairs)), labelSmoothing),
  };
}

/** Chowdhury et al. 2024, "Provably Robust DPO", equation 8: unbiased where a share of the preferences is the wrong way round. */
export function robustDpo({ beta = 0.1, labelSmoothing = 0.1 }: Smoothed = {}): PairLoss {
  const rewards = logRatios(beta);
  return {
    name: "robust",
    needsReference: true,
    rewards,
    losses: (pairs) => {
      const x = difference(rewards(pairs));
      const flipped = mul(logSigmoid(neg(x)), labelSmoothing);
      return div(sub(flipped, mul(logSigmoid(x), 1 - labelSmoothing)), 1 - 2 * labelSmoothing);
    },
  };
}

/** Zhao et al. 2023, "SLiC-HF": the hinge loss of the same difference, as trl has it. */
export function hinge({ beta = 0.1 }: Beta = {}): PairLoss {
  const rewards = logRatios(beta);
  return {
    name: "hinge",
    needsReference: true,
    rewards,
    losses: (pairs) => relu(sub(1, difference(rewards(pairs)))),
  };
}

/** Azar et al. 2023, "A General Theoretical Paradigm", equation 17, on log-probabilities of a token on average as its authors advise. */
export function ipo({ beta = 0.1 }: Beta = {}): PairLoss {
  return {
    name: "ipo",
    needsReference: true,
    rewards: logRatios(beta),
    losses: ({ chosen, rejected, referenceChosen, referenceRejected, chosenLength, rejectedLength }) => {
      const gained = div(sub(chosen, referenceChosen), chosenLength);
      const lost = div(sub(rejected, referenceRejected), rejectedLength);
      return square(sub(sub(gained, lost), 1 / (2 * beta)));
    },
  };
}

/** Meng et al. 2024, "SimPO", equation 6: no reference, a margin of `gamma` between mean log-probabilities times beta. */
export function simpo({
  beta = 2,
  gamma = 1,
  labelSmoothing = 0,
}: Smoothed & {
  /** Target margin of the rewards. Default 1. */
  readonly gamma?: number;
} = {}): PairLoss {
  const rewards = (pairs: PairLogProbs): [Tensor, Tensor] => {
    const [chosen, rejected] = means(pairs);
    return [mul(chosen, beta), mul(rejected, beta)];
  };
  return {
    name: "simpo",
    needsReference: false,
    rewards,
    losses: (pairs) => smoothed(sub(difference(rewards(pairs)), gamma), labelSmoothing),
  };
}

/** Xu et al. 2024, "Contrastive Preference Optimization", equation 5: DPO without a reference, and the chosen completions' own loss. */
export function cpo({
  beta = 0.1,
  labelSmoothing = 0,
  chosenWeight = 1,
}: Smoothed & {
  /** Weight of the chosen completions' own loss. Default 1. */
  readonly chosenWeight?: number;
} = {}): PairLoss {
  const rewards = ({ chosen, rejected }: PairLogProbs): [Tensor, Tensor] => [
    mul(chosen, beta),
    mul(rejected, beta),
  ];
  return {
    name: "cpo",
    needsReference: false,
    rewards,
    losses: (pairs) => smoothed(difference(rewards(pairs)), labelSmoothing),
    chosenWeight,
  };
}

/** Hong et al. 2024, "ORPO", equations 6 and 7: the chosen completions' own loss, and beta times that of the odds ratio. */
export function orpo({ beta = 0.1 }: Beta = {}): PairLoss {
  return {
    name: "orpo",
    needsReference: false,
    rewards: (pairs) => {
      const [chosen, rejected] = means(pairs);
      return [mul(chosen, beta), mul(rejected, beta)];
    },
    losses: (pairs) => {
      const [chosen, rejected] = means(pairs);
      const odds = sub(sub(chosen, rejected), sub(logOneMinusExp(chosen), logOneMinusExp(rejected)));
      return mul(logSigmoid(odds), -beta);
    },
    chosenWeight: 1,
  };
}

/** log(1 - exp(x)) for x < 0; a certainty counts as all but one. */
const logOneMinusExp = (x: Tensor): Tensor => log(maximum(sub(1, exp(x)), 1e-7));

/** Loss of the pairs, its parts beside it, and what is told of it without being learned from. */
export const preferencePart = "preference";
export const chosenPart = "chosenTokens";

/**
 * A loss on pairs: of each pair the row of the chosen completion and of the rejected one, `[pairs]`. Parts
 * without weight are told alone: `accuracy` (share of pairs in the right order of rewards), `margin` of the rewards,
 * log-probabilities of the `chosen` and `rejected` completions, and `kl`, by how much completions have become less likely
 * than they were, which estimates the divergence from the reference where they are its own. There is no dropout, in training
 * either: the reference has none.
 */
export function preferenceObjective(model: Writer, loss: PairLoss): Objective {
  const { chosenWeight = 0 } = loss;
  return {
    model,
    inputs: {
      ...completionInputs(model),
      referenceLogProbs: { dtype: "float32", shape: ["rows"] },
      chosenRows: { dtype: "int32", shape: ["pairs"] },
      rejectedRows: { dtype: "int32", shape: ["pairs"] },
    },
    losses(inputs, context) {
      const both = (values: Tensor): [Tensor, Tensor] => [
        gather(values, inputs["chosenRows"]!),
        gather(values, inputs["rejectedRows"]!),
      ];
      const logProbs = completionLogProbs(model, inputs, { ...context, random: undefined });
      const [chosen, rejected] = both(logProbs);
      const [referenceChosen, referenceRejected] = both(inputs["referenceLogProbs"]!);
      const [chosenLength, rejectedLength] = both(inputs["completionLengths"]!);
      const pairs = { chosen, rejected, referenceChosen, referenceRejected, chosenLength, rejectedLength };
      const told = Object.fromEntries(
        Object.entries({ chosen, rejected }).map(([name, values]) => [name, stopGradient(sum(values))]),
      );
      const margin = stopGradient(difference(loss.rewards(pairs)));
      const drift = mul(
        sub(add(referenceChosen, referenceRejected), stopGradient(add(chosen, rejected))),
        0.5,
      );
      return {
        [preferencePart]: sum(loss.losses(pairs)),
        ...(chosenWeight > 0 && { [chosenPart]: neg(sum(chosen)) }),
        accuracy: sum(cast(greater(margin, 0), "float32")),
        margin: sum(margin),
        ...told,
        ...(loss.needsReference && { kl: sum(drift) }),
      };
    },
    lossWeights: {
      ...(chosenWeight > 0 && { [chosenPart]: chosenWeight }),
      accuracy: 0,
      margin: 0,
      chosen: 0,
      rejected: 0,
      kl: 0,
    },
  };
}

export interface KtoOptions extends Beta {
  /** Weight of completions that were liked. Default 1. */
  readonly desirableWeight?: number;
  /** Weight of those that were not. Default 1. */
  readonly undesirableWeight?: number;
}

/** What KTO is made of: log-ratios `[rows]` of completions to the reference, and their labels, 1 for liked and 0. */
export interface KtoRatios {
  readonly ratios: Tensor;
  readonly liked: Tensor;
  /** Scalar: log-ratios of completions of other prompts on average, which estimate the divergence; no gradient flows there. */
  readonly divergence: Tensor;
}

/** Ethayarajh et al. 2024, "KTO", equation 8: loss of each completion, `[rows]`. */
export function ktoLosses(
  { ratios, liked, divergence }: KtoRatios,
  { beta = 0.1, desirableWeight = 1, undesirableWeight = 1 }: KtoOptions = {},
): Tensor {
  const anchor = stopGradient(maximum(divergence, 0));
  const gain = mul(sub(ratios, anchor), beta);
  const good = mul(sub(1, sigmoid(gain)), desirableWeight);
  const bad = mul(sub(1, sigmoid(neg(gain))), undesirableWeight);
  return add(mul(liked, good), mul(sub(1, liked), bad));
}

/**
 * KTO on single completions with a thumb up or down: of each example the row of its completion, `ownRows`, and that of its
 * prompt with another one's completion, `otherRows`, whose log-ratios estimate the divergence from the reference (their
 * section 4.1), and `liked`, 1 or 0; all `[examples]`. Parts without weight: `likedReward` and `dislikedReward`, counted by labels, and `kl`.
 */
export function ktoObjective(model: Writer, options: KtoOptions = {}): Objective {
  const { beta = 0.1 } = options;
  return {
    model,
    inputs: {
      ...completionInputs(model),
      referenceLogProbs: { dtype: "float32", shape: ["rows"] },
      ownRows: { dtype: "int32", shape: ["examples"] },
      otherRows: { dtype: "int32", shape: ["examples"] },
      liked: { dtype: "float32", shape: ["examples"] },
    },
    losses(inputs, context) {
      const logProbs = completionLogProbs(model, inputs, { ...context, random: undefined });
      const ratios = sub(logProbs, inputs["referenceLogProbs"]!);
      const own = gather(ratios, inputs["ownRows"]!);
      const other = gather(ratios, inputs["otherRows"]!);
      const liked = inputs["liked"]!;
      const divergence = div(sum(other), sum(ones(liked.shape)));
      const rewards = mul(stopGradient(own), beta);
      return {
        [preferencePart]: sum(ktoLosses({ ratios: own, liked, divergence }, options)),
        likedReward: sum(mul(rewards, liked)),
        dislikedReward: sum(mul(rewards, sub(1, liked))),
        kl: sum(stopGradient(other)),
      };
    },
    lossWeights: { likedReward: 0, dislikedReward: 0, kl: 0 },
  };
}
