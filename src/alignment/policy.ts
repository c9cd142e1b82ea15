import type { BatchSource } from "../data/index.js";
import { EncoderDecoder, type WeightSet, Weights } from "../nn/index.js";
import { LineageError } from "../base/errors.js";
import {
  ActorCritic,
  type Completion,
  type GrpoLossOptions,
  type PpoLossOptions,
  type Writer,
  completionObjective,
  grpoObjective,
  ppoObjective,
} from "../objectives/index.js";
import type { Tokenizer } from "../tokenizers/index.js";
import type { Metrics, Objective } from "../training/index.js";
import {
  type AdvantageOptions,
  KlControl,
  type KlControlOptions,
  generalizedAdvantages,
  groupAdvantages,
  moments,
  tokenRewards,
  whiten,
} from "./advantages.js";
import { CompletionReader, completionBatch } from "./forward.js";
import { OnlineSource, roundOf } from "./online.js";
import { floats } from "./pairs.js";
import { type RewardFunction, type Rollout, RolloutWriter, rewardsOf, samplesOf } from "./rollouts.js";
import { type RoundReport, RoundWatch, reportOf } from "./watch.js";

// PPO, GRPO and rejection sampling: each is an objective and a source of batches for the loop that everything trains in.

/** What every method that learns from its own completions is told. */
export interface OnlineRequest {
  /** Token ids of the prompts to write after; with an encoder-decoder, of the sources. */
  readonly prompts: readonly (readonly number[])[];
  readonly reward: RewardFunction;
  /** Log-probabilities under the model as it was. */
  readonly reference: CompletionReader;
  readonly tokenizer: Tokenizer;
  /** Ids that end a completion. */
  readonly stopIds: readonly number[];
  /** Tokens of a completion at most. Default 64. */
  readonly maxNewTokens?: number | undefined;
  /** Prompts of a round. Default 32. */
  readonly promptsPerRound?: number | undefined;
  /** Completions of each prompt. Default 1 for PPO, 8 for GRPO and rejection sampling. */
  readonly samplesPerPrompt?: number | undefined;
  /** Completions of one step. Default: all of a round. */
  readonly minibatch?: number | undefined;
  /** Times that a round is learned from. Default 4 for PPO, 1 for the others. */
  readonly epochs?: number | undefined;
  /** Taken from the reward of a completion that did not end by itself. Default 0. */
  readonly missingEndPenalty?: number | undefined;
  /** Completions that are written side by side. Default: `RolloutWriter`'s. */
  readonly slots?: number | undefined;
  readonly seed: number;
  readonly signal?: AbortSignal | undefined;
  /** Told what came of each round. */
  readonly onRound?: ((report: RoundReport) => void) | undefined;
  /** Told what looks wrong, with the likely cause. */
  readonly onWarning?: ((sentence: string) => void) | undefined;
}

/** A method ready to train: what `Trainer` and `runTraining` take, and a measure on other prompts. */
export interface OnlineTraining extends Disposable {
  readonly objective: Objective;
  readonly source: BatchSource;
  /** Mean reward, divergence and length of completions of prompts that nothing is learned from. `loss` is minus the reward. */
  evaluate(prompts: readonly (readonly number[])[], signal?: AbortSignal): Promise<Metrics>;
}

/** A rollout with its reward and what the reference thinks of it. */
interface Scored extends Rollout {
  readonly reward: number;
}

/** Writes, scores and watches; what PPO, GRPO and rejection sampling have in common. */
class Collector implements Disposable {
  private readonly watch: RoundWatch;

  private constructor(
    private readonly request: OnlineRequest,
    private readonly writer: RolloutWriter,
    klTarget: number | undefined,
  ) {
    this.watch = new RoundWatch(klTarget);
  }

  static async create(
    model: Writer,
    weights: WeightSet,
    request: OnlineRequest,
    klTarget?: number,
  ): Promise<Collector> {
    const { prompts, stopIds, maxNewTokens = 64, slots } = request;
    if (prompts.length === 0)
      throw new LineageError("data", "there is no prompt: learning from rewards needs some to write after");
    const empty = prompts.findIndex((ids) => ids.length === 0);
    if (empty >= 0) throw new LineageError("data", `prompt ${empty + 1} has no token`);
    const longestPrompt = prompts.reduce((most, { length }) => Math.max(most, length), 0);
    const writer = await RolloutWriter.create({
      model,
      weights,
      stopIds,
      vocabSize: request.tokenizer.target.vocabSize,
      maxNewTokens,
      longestPrompt,
      slots,
    });
    return new Collector(request, writer, klTarget);
  }

  /** Completions of a round's prompts, those of one prompt one after the other. */
  async round(round: number, samplesPerPrompt: number, sampling = {}): Promise<Scored[]> {
    const { prompts, promptsPerRound = 32, seed } = this.request;
    const chosen = roundOf(prompts.length, round, promptsPerRound, seed);
    const repeated = chosen.flatMap((index) =>
      Array.from({ length: samplesPerPrompt }, () => ({ index, ids: prompts[index]! })),
    );
    return this.score(repeated, seed + 7919 * (round + 1), this.request.signal, sampling);
  }

  async score(
    prompts: readonly { readonly index: number; readonly ids: readonly number[] }[],
    seed: number,
    signal: AbortSignal | undefined,
    sampling = {},
  ): Promise<Scored[]> {
    const { reward, tokenizer, missingEndPenalty = 0 } = this.request;
    const written = await this.writer.write(
      prompts.map(({ ids }) => ids),
      { ...sampling, seed, signal },
    );
    const rollouts = written.map((rollout, place) => ({ ...rollout, index: prompts[place]!.index }));
    const rewards = await rewardsOf(reward, samplesOf(rollouts, tokenizer));
    return rollouts.map((rollout, place) => ({
      ...rollout,
      reward: rewards[place]! - (rollout.finished ? 0 : missingEndPenalty),
    }));
  }

  /** Log-probabilities under the reference, by row. */
  async reference(rollouts: readonly Completion[]): Promise<Float32Array[]> {
    const { reference, signal } = this.request;
    return (await reference.read(rollouts, { signal })).map(({ logProbs }) => logProbs!);
  }

  tell(
    round: number,
    rollouts: readonly Scored[],
    divergences: readonly number[],
    coefficient: number,
  ): void {
    const rewards = rollouts.map(({ reward }) => reward);
    const report = reportOf(round + 1, rollouts, rewards, divergences, coefficient);
    this.request.onRound?.(report);
    for (const sentence of this.watch.look(report)) this.request.onWarning?.(sentence);
  }

  /** @param logProbs reads the policy's */
  async evaluate(
    logProbs: CompletionReader,
    prompts: readonly (readonly number[])[],
    signal: AbortSignal | undefined,
  ): Promise<Metrics> {
    const { seed } = this.request;
    const rollouts = await this.score(
      prompts.map((ids, index) => ({ index, ids })),
      seed + 1,
      signal,
    );
    const own = await logProbs.read(rollouts, { signal });
    const others = await this.reference(rollouts);
    const kls = own.map((row, index) => divergence(row["logProbs"]!, others[index]!));
    const reward = moments(rollouts.map((row) => row.reward)).mean;
    return {
      loss: -reward,
      reward,
      kl: moments(kls).mean,
      length: moments(rollouts.map(({ completion }) => completion.length)).mean,
    };
  }

  dispose(): void {
    this.writer.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** What every method has beside its rows: a measure on other prompts, and its end. `reader` reads the policy's log-probabilities. */
const measuredBy = (
  collector: Collector,
  reader: CompletionReader,
): Pick<OnlineTraining, "evaluate" | typeof Symbol.dispose> => ({
  evaluate: (prompts, signal) => collector.evaluate(reader, prompts, signal),
  [Symbol.dispose]: () => {
    reader.dispose();
    collector.dispose();
  },
});

/** log policy - log reference of a whole completion. */
const divergence = (own: ArrayLike<number>, reference: ArrayLike<number>): number => {
  let sum = 0;
  for (let t = 0; t < own.length; t++) sum += own[t]! - reference[t]!;
  return sum;
};

const rowCounts = (rows: readonly Completion[]) => {
  const tokens = rows.reduce((sum, { completion }) => sum + completion.length, 0);
  return { rows: rows.length, tokens };
};

// ---- PPO ----------------------------------------------------------------------------------------------------------

export interface PpoRequest
  extends OnlineRequest, PpoLossOptions, AdvantageOptions, Partial<Pick<KlControlOptions, "coefficient">> {
  /** Divergence of a completion that the coefficient is adapted to. Default: the coefficient stays. */
  readonly klTarget?: number | undefined;
  /** Completions over which the coefficient adapts. Default 10,000. */
  readonly klHorizon?: number | undefined;
  /** Divides each token's reward by the deviation of all. Default false. */
  readonly whitenRewards?: boolean | undefined;
  /** Text of the pretraining, `[texts, length]` at a time, where `pretrainingWeight` is above 0. */
  readonly pretraining?: BatchSource | undefined;
}

/** A completion with all that PPO learns from it. */
interface PpoRow extends Completion {
  readonly oldLogProbs: readonly number[];
  readonly advantages: readonly number[];
  readonly oldValues: readonly number[];
  readonly returns: readonly number[];
  readonly reward: number;
  readonly divergence: number;
}

/**
 * PPO as InstructGPT has it, Ouyang et al. 2022, section 3.5 and appendix C.4: completions sampled from the policy, a reward
 * for each, minus the coefficient times the divergence from the reference at every token; generalised advantages, whitened;
 * clipped losses of policy and value function; and, with a pretraining weight, the loss of pretraining text beside them.
 *
 *     const model = new ActorCritic(policy);
 *     using weights = actorCriticWeights(model, policyWeights);
 *     using method = await ppo(model, weights, { prompts, reward, reference, tokenizer, stopIds, seed: 1 });
 *     await runTraining({ ...method, weights, ... });
 */
export async function ppo(
  model: ActorCritic,
  weights: Weights,
  request: PpoRequest,
): Promise<OnlineTraining> {
  const { coefficient = 0.05, klTarget, klHorizon, samplesPerPrompt = 1, epochs = 4, pretraining } = request;
  if ((request.pretrainingWeight ?? 0) > 0) {
    if (!pretraining)
      throw new LineageError("argument", "a pretraining weight needs text of the pretraining to mix in");
    if (model.policy instanceof EncoderDecoder)
      throw new LineageError(
        "unsupported",
        "the pretraining mix is for decoders; an encoder-decoder goes without",
      );
  }
  const { policy } = model;
  const collector = await Collector.create(policy, weights, request, klTarget);
  const reader = await CompletionReader.create(policy, model, weights, (inputs, context) => ({
    ...model.forward(inputs, context),
  }));
  const control = new KlControl({ coefficient, target: klTarget, horizon: klHorizon });

  const collect = async (round: number): Promise<PpoRow[]> => {
    const rollouts = await collector.round(round, samplesPerPrompt);
    const own = await reader.read(rollouts, { signal: request.signal });
    const reference = await collector.reference(rollouts);
    const divergences = own.map(({ logProbs }, row) => divergence(logProbs!, reference[row]!));
    const used = control.coefficient;
    let rewards = rollouts.map(({ reward }, row) =>
      tokenRewards(reward, own[row]!["logProbs"]!, reference[row]!, used),
    );
    if (request.whitenRewards) rewards = whiten(rewards, { keepMean: true });
    const estimates = rewards.map((row, index) =>
      generalizedAdvantages(row, own[index]!["values"]!, request),
    );
    const advantages = whiten(estimates.map((one) => one.advantages));
    collector.tell(round, rollouts, divergences, used);
    control.update(moments(divergences).mean, rollouts.length);
    return rollouts.map(({ prompt, completion, reward }, row) => ({
      prompt,
      completion,
      oldLogProbs: [...own[row]!["logProbs"]!],
      oldValues: [...own[row]!["values"]!],
      advantages: advantages[row]!,
      returns: estimates[row]!.returns,
      reward,
      divergence: divergences[row]!,
    }));
  };

  const collate = async (rows: readonly PpoRow[]) => {
    const count = rowCounts(rows);
    const text = (request.pretrainingWeight ?? 0) > 0 ? await pretraining!.next() : undefined;
    return completionBatch(
      policy,
      rows,
      {
        oldLogProbs: floats(rows.flatMap((row) => row.oldLogProbs)),
        oldValues: floats(rows.flatMap((row) => row.oldValues)),
        advantages: floats(rows.flatMap((row) => row.advantages)),
        returns: floats(rows.flatMap((row) => row.returns)),
        rewards: floats(rows.map((row) => row.reward)),
        divergences: floats(rows.map((row) => row.divergence)),
        ...(text && {
          pretrainingIds: text.tensors["inputIds"]!,
          pretrainingLabels: text.tensors["labels"]!,
        }),
      },
      {
        policy: count.tokens,
        value: count.tokens,
        clipped: count.tokens,
        reward: count.rows,
        kl: count.rows,
        ...(text && { pretraining: text.counts["tokens"]! }),
      },
    );
  };

  const source = new OnlineSource<PpoRow>({
    collect,
    collate,
    epochs,
    minibatch: request.minibatch,
    seed: request.seed,
    memory: {
      get state() {
        return { coefficient: control.state, pretraining: pretraining?.state ?? null };
      },
      restore(state) {
        const { coefficient: known, pretraining: place } = (state ?? {}) as Record<string, unknown>;
        control.restore(known);
        pretraining?.restore(place);
      },
    },
  });
  return {
    objective: ppoObjective(model, request),
    source,
    ...measuredBy(collector, reader),
  };
}

/**
 * Weights of a policy that learns whole with its value function: the policy's own, and those of a reward model for the
 * critic's network and its head, Ouyang et al. 2022, appendix C.4. What neither has begins by the initialisers.
 */
export function actorCriticWeights(
  model: ActorCritic,
  policy: Weights,
  rewardModel?: WeightSet,
  seed = 0,
): Weights {
  const weights = Weights.initialize(policy.runtime, model, seed);
  for (const [name, tensor] of Object.entries(weights.tensors)) {
    const read = name.startsWith("critic.")
      ? (rewardModel ?? policy).tensors[name.slice("critic.".length)]
      : name === "value_head.weight"
        ? rewardModel?.tensors["score.weight"]
        : policy.tensors[name];
    if (read) tensor.write(read.contents() as Float32Array);
  }
  return weights;
}

// ---- GRPO ---------------------------------------------------------------------------------------------------------

export interface GrpoRequest extends OnlineRequest, GrpoLossOptions {
  /** Divides advantages by the deviation of their group. Default true; Dr. GRPO does not. */
  readonly byDeviation?: boolean | undefined;
  /** What losses are a mean over: completions of equal weight (the paper's), or tokens (DAPO's). Default completions. */
  readonly meanOver?: "completions" | "tokens" | undefined;
}

interface GrpoRow extends Completion {
  readonly oldLogProbs: readonly number[];
  readonly referenceLogProbs: readonly number[];
  readonly advantage: number;
  readonly reward: number;
  readonly divergence: number;
}

/**
 * GRPO: several completions of each prompt, whose rewards are compared with each other, so that no value function is needed.
 * Shao et al. 2024, section 4.1. Made for rewards by rule.
 */
export async function grpo(policy: Writer, weights: Weights, request: GrpoRequest): Promise<OnlineTraining> {
  const {
    samplesPerPrompt = 8,
    epochs = 1,
    beta = 0.04,
    meanOver = "completions",
    byDeviation = true,
  } = request;
  if (samplesPerPrompt < 2)
    throw new LineageError(
      "argument",
      "GRPO compares completions of one prompt with each other: it needs two or more of each",
    );
  const collector = await Collector.create(policy, weights, request);
  const reader = await CompletionReader.logProbs(policy, weights);

  const collect = async (round: number): Promise<GrpoRow[]> => {
    const rollouts = await collector.round(round, samplesPerPrompt);
    const own = await reader.read(rollouts, { signal: request.signal });
    const reference = await collector.reference(rollouts);
    const divergences = own.map(({ logProbs }, row) => divergence(logProbs!, reference[row]!));
    const groups = Array.from({ length: rollouts.length / samplesPerPrompt }, (_, group) =>
      rollouts.slice(group * samplesPerPrompt, (group + 1) * samplesPerPrompt).map(({ reward }) => reward),
    );
    const advantages = groupAdvantages(groups, { byDeviation }).flat();
    collector.tell(round, rollouts, divergences, beta);
    return rollouts.map(({ prompt, completion, reward }, row) => ({
      prompt,
      completion,
      oldLogProbs: [...own[row]!["logProbs"]!],
      referenceLogProbs: [...reference[row]!],
      advantage: advantages[row]!,
      reward,
      divergence: divergences[row]!,
    }));
  };

  const collate = (rows: readonly GrpoRow[]) => {
    const count = rowCounts(rows);
    const byTokens = meanOver === "tokens";
    const spread = (value: (row: GrpoRow) => number) =>
      floats(rows.flatMap((row) => row.completion.map(() => value(row))));
    const counted = byTokens ? count.tokens : count.rows;
    return completionBatch(
      policy,
      rows,
      {
        oldLogProbs: floats(rows.flatMap((row) => row.oldLogProbs)),
        referenceLogProbs: floats(rows.flatMap((row) => row.referenceLogProbs)),
        advantages: spread(({ advantage }) => advantage),
        tokenWeights: spread(({ completion }) => (byTokens ? 1 : 1 / completion.length)),
        rewards: floats(rows.map((row) => row.reward)),
        divergences: floats(rows.map((row) => row.divergence)),
      },
      { policy: counted, divergence: counted, clipped: count.tokens, reward: count.rows, kl: count.rows },
    );
  };

  return {
    objective: grpoObjective(policy, request),
    source: new OnlineSource<GrpoRow>({
      collect,
      collate,
      epochs,
      minibatch: request.minibatch,
      seed: request.seed,
    }),
    ...measuredBy(collector, reader),
  };
}

// ---- Rejection sampling -------------------------------------------------------------------------------------------

export interface RejectionRequest extends OnlineRequest {
  /** Temperature of the completions that are chosen from. Default 1. */
  readonly temperature?: number | undefined;
}

interface BestRow extends Completion {
  readonly reward: number;
}

/** The best of each prompt's completions; of equals the first. */
export function bestOfEach<R extends { readonly reward: number }>(
  rows: readonly R[],
  perPrompt: number,
): R[] {
  return Array.from({ length: rows.length / perPrompt }, (_, group) =>
    rows
      .slice(group * perPrompt, (group + 1) * perPrompt)
      .reduce((best, row) => (row.reward > best.reward ? row : best)),
  );
}

/**
 * Rejection sampling: of several completions of each prompt the one with the highest reward is learned like a demonstration.
 * Touvron et al. 2023 (LLaMA-2), section 3.2.3.
 */
export async function rejectionSampling(
  policy: Writer,
  weights: Weights,
  request: RejectionRequest,
): Promise<OnlineTraining> {
  const { samplesPerPrompt = 8, temperature = 1, epochs = 1 } = request;
  const collector = await Collector.create(policy, weights, request);
  const reader = await CompletionReader.logProbs(policy, weights);
  return {
    objective: completionObjective(policy),
    source: new OnlineSource<BestRow>({
      collect: async (round) => {
        const rollouts = await collector.round(round, samplesPerPrompt, { temperature });
        const own = await reader.read(rollouts, { signal: request.signal });
        const reference = await collector.reference(rollouts);
        const divergences = own.map(({ logProbs }, row) => divergence(logProbs!, reference[row]!));
        collector.tell(round, rollouts, divergences, 0);
        return bestOfEach(rollouts, samplesPerPrompt).map(({ prompt, completion, reward }) => ({
          prompt,
          completion,
          reward,
        }));
      },
      collate: (rows) => completionBatch(policy, rows, {}, { tokens: rowCounts(rows).tokens }),
      epochs,
      minibatch: request.minibatch,
      seed: request.seed,
    }),
    ...measuredBy(collector, reader),
  };
}
