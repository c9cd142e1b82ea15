import { LineageError } from "../base/errors.js";

// What PPO and GRPO make of rewards before anything is learned from them: plain functions over plain numbers.

export interface AdvantageOptions {
  /** Discount of later rewards. Default 1: a text is one episode. */
  readonly gamma?: number;
  /** How far rewards are trusted over values, from 0 (values) to 1 (rewards). Default 0.95. */
  readonly lambda?: number;
}

/**
 * Generalised advantage estimates of one episode, Schulman et al. 2015, equation 16, and the returns that values are to
 * learn. `rewards[t]` follows the action at `t`, whose state had the value `values[t]`; after the last one nothing comes.
 */
export function generalizedAdvantages(
  rewards: ArrayLike<number>,
  values: ArrayLike<number>,
  { gamma = 1, lambda = 0.95 }: AdvantageOptions = {},
): { readonly advantages: number[]; readonly returns: number[] } {
  const advantages = new Array<number>(rewards.length);
  let later = 0;
  for (let t = rewards.length - 1; t >= 0; t--) {
    const next = t + 1 < rewards.length ? values[t + 1]! : 0;
    later = rewards[t]! + gamma * next - values[t]! + gamma * lambda * later;
    advantages[t] = later;
  }
  return { advantages, returns: advantages.map((advantage, t) => advantage + values[t]!) };
}

/** Mean and standard deviation (of the numbers themselves, not an estimate of others'). */
export function moments(values: readonly number[]): { readonly mean: number; readonly deviation: number } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
  return { mean, deviation: Math.sqrt(variance) };
}

/**
 * Numbers with a mean of 0 and a variance of 1, over all rows together.
 * @param keepMean divides by the deviation alone: what rewards are whitened by, whose sign means something
 */
export function whiten(
  rows: readonly (readonly number[])[],
  { keepMean = false }: { readonly keepMean?: boolean } = {},
): number[][] {
  const { mean, deviation } = moments(rows.flat());
  const scale = 1 / Math.sqrt(deviation ** 2 + 1e-8);
  return rows.map((row) => row.map((value) => (value - mean) * scale + (keepMean ? mean : 0)));
}

/** What each token earns: minus the coefficient times its part of the divergence, and at the last one the reward of the text. */
export function tokenRewards(
  reward: number,
  logProbs: ArrayLike<number>,
  referenceLogProbs: ArrayLike<number>,
  coefficient: number,
): number[] {
  const last = logProbs.length - 1;
  return Array.from(
    { length: logProbs.length },
    (_, t) => -coefficient * (logProbs[t]! - referenceLogProbs[t]!) + (t === last ? reward : 0),
  );
}

export interface KlControlOptions {
  /** Coefficient of the divergence at the start. */
  readonly coefficient: number;
  /** Divergence of a whole text, in nats, that the coefficient is adapted to. Default: it stays as it is. */
  readonly target?: number | undefined;
  /** Texts over which it adapts. Default 10,000. */
  readonly horizon?: number | undefined;
}

/** The coefficient of the divergence, adapted in proportion to how far it is from its target. Ziegler et al. 2019, section 2.2. */
export class KlControl {
  private current: number;

  constructor(private readonly options: KlControlOptions) {
    this.current = options.coefficient;
  }

  get coefficient(): number {
    return this.current;
  }

  /** Goes on by the mean divergence of so many texts. */
  update(divergence: number, texts: number): void {
    const { target, horizon = 10_000 } = this.options;
    if (target === undefined) return;
    const error = Math.min(0.2, Math.max(-0.2, divergence / target - 1));
    this.current *= 1 + (error * texts) / horizon;
  }

  get state(): number {
    return this.current;
  }
  restore(state: unknown): void {
    if (typeof state !== "number" || !Number.isFinite(state))
      throw new LineageError("checkpoint", "the checkpoint does not hold the coefficient of the divergence");
    this.current = state;
  }
}

/**
 * Advantages of GRPO: each reward against those of the other completions of its prompt, Shao et al. 2024, section 4.1. Groups
 * of equal rewards teach nothing: their advantages are zero.
 * @param byDeviation divides by the group's deviation. Without it: Liu et al. 2025, "Dr. GRPO", section 3.2
 */
export function groupAdvantages(
  groups: readonly (readonly number[])[],
  { byDeviation = true }: { readonly byDeviation?: boolean } = {},
): number[][] {
  return groups.map((rewards) => {
    const { mean, deviation } = moments(rewards);
    return rewards.map((reward) =>
      byDeviation ? (deviation < 1e-8 ? 0 : (reward - mean) / (deviation + 1e-4)) : reward - mean,
    );
  });
}

export interface CombinedRewardOptions {
  /** Probability of being safe below which safety alone counts. Default 0.15, LLaMA-2, section 3.2.3. */
  readonly threshold?: number;
  /** Prompts of which it is known that they ask for something unsafe: safety alone counts for them. Default: none. */
  readonly unsafePrompts?: readonly boolean[];
}

/**
 * Two rewards as one, Touvron et al. 2023 (LLaMA-2), section 3.2.3: the safety reward where the prompt is unsafe or the
 * answer may be, else the helpfulness reward; then whitened over the batch. Scores are those of the models' last layers,
 * whose sigmoids are probabilities.
 */
export function combinedRewards(
  helpfulness: readonly number[],
  safety: readonly number[],
  { threshold = 0.15, unsafePrompts = [] }: CombinedRewardOptions = {},
): number[] {
  const chosen = helpfulness.map((score, index) => {
    const probability = 1 / (1 + Math.exp(-safety[index]!));
    return unsafePrompts[index] || probability < threshold ? safety[index]! : score;
  });
  return whiten([chosen])[0]!;
}
