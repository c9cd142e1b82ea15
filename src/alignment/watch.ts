import { moments } from "./advantages.js";

/** What came of a round. */
export interface RoundReport {
  readonly round: number;
  /** Completions. */
  readonly completions: number;
  /** Mean reward, and how far rewards are from each other. */
  readonly reward: number;
  readonly rewardDeviation: number;
  /** Divergence of a whole completion from the reference, in nats: the mean of log policy - log reference. */
  readonly kl: number;
  /** Coefficient of the divergence in this round. */
  readonly klCoefficient: number;
  /** Tokens of a completion on average, and the share that ended by themselves. */
  readonly length: number;
  readonly finished: number;
  /** Different completions among all. */
  readonly distinct: number;
}

interface Written {
  readonly completion: readonly number[];
  readonly finished: boolean;
}

export function reportOf(
  round: number,
  rollouts: readonly Written[],
  rewards: readonly number[],
  divergences: readonly number[],
  klCoefficient: number,
): RoundReport {
  const { mean, deviation } = moments(rewards);
  const share = (count: number) => count / rollouts.length;
  return {
    round,
    completions: rollouts.length,
    reward: mean,
    rewardDeviation: deviation,
    kl: moments(divergences).mean,
    klCoefficient,
    length: moments(rollouts.map(({ completion }) => completion.length)).mean,
    finished: share(rollouts.filter(({ finished }) => finished).length),
    distinct: share(new Set(rollouts.map(({ completion }) => completion.join())).size),
  };
}

/** Divergence of a text from which on it has most often left the language that it knew, whatever rewards say. */
const explodedKl = 50;

/** Looks at round after round for what goes wrong without an error, and says it once with the likely cause. */
export class RoundWatch {
  private best = -Infinity;
  private spread = 0;
  private readonly said = new Set<string>();

  /** @param klTarget the divergence that is aimed at, where there is one */
  constructor(private readonly klTarget?: number) {}

  /** Sentences for a person; mostly none. */
  look({ round, completions, reward, rewardDeviation, kl, finished, distinct }: RoundReport): string[] {
    const found: [kind: string, sentence: string][] = [];
    const limit = Math.min(explodedKl, 10 * (this.klTarget ?? Infinity));
    if (kl > limit)
      found.push([
        "kl",
        `the divergence from the reference is ${kl.toFixed(1)} nats a completion: the policy leaves the language that it knew, and rewards no longer mean what they did. A lower learning rate, a larger --kl-coefficient, or fewer --epochs would hold it`,
      ]);
    if (kl < -5)
      found.push([
        "negative",
        `the divergence from the reference is ${kl.toFixed(1)} nats, which an honest estimate is not for long: completions are likelier under the reference than under the policy that wrote them. Sample at temperature 1, without top-k or top-p`,
      ]);
    if (completions > 1 && rewardDeviation < 1e-9)
      found.push([
        "equal",
        `every completion of round ${round} has the reward ${reward}: there is nothing to learn from the difference. The rule may be too hard (or met by all), or the reward model reads only what all have in common`,
      ]);
    if (this.best - reward > 3 * this.spread && this.spread > 0 && round > 2)
      found.push([
        "fell",
        `the reward fell from ${this.best.toFixed(3)} to ${reward.toFixed(3)}: the policy has collapsed, most often by steps that are too large. A lower learning rate or a larger batch would help; the best checkpoint so far is kept`,
      ]);
    if (completions >= 8 && distinct < 0.125)
      found.push([
        "same",
        `only ${Math.round(distinct * completions)} of ${completions} completions are different: the policy says the same to everything. A larger --kl-coefficient keeps it from narrowing`,
      ]);
    if (finished === 0 && round >= 2)
      found.push([
        "endless",
        `no completion ends by itself: rewards are of texts that were cut off. Allow more --max-new-tokens, give --missing-end-penalty, or fine-tune the base until it ends its answers`,
      ]);
    if (reward > this.best) {
      this.best = reward;
      this.spread = rewardDeviation;
    }
    return found.flatMap(([kind, sentence]) => {
      if (this.said.has(kind)) return [];
      this.said.add(kind);
      return [`warning, round ${round}: ${sentence}`];
    });
  }
}
