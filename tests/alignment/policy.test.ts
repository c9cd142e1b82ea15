import fc from "fast-check";
import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { describe, expect, it } from "vitest";
import {
  CompletionReader,
  KlControl,
  type OnlineRequest,
  type OnlineTraining,
  type PpoRequest,
  RolloutWriter,
  type RoundReport,
  RoundWatch,
  actorCriticWeights,
  bestOfEach,
  combinedRewards,
  generalizedAdvantages,
  groupAdvantages,
  grpo,
  ppo,
  rejectionSampling,
  rewardsOf,
  roundOf,
  whiten,
} from "../../src/alignment/index.js";
import { Gpt2, gpt2Config } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { ActorCritic } from "../../src/objectives/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { characterTokenizer } from "../../src/tokenizers/index.js";
import { Trainer, EvaluationStep, adamW, restoreTraining, saveTraining } from "../../src/training/index.js";

const numbers = fc.array(fc.double({ min: -5, max: 5, noNaN: true }), { minLength: 1, maxLength: 12 });

describe("advantages", () => {
  it("are those computed by hand", () => {
    // Deltas: 1 + 0.5 * 2 - 1 = 1; 0 + 0.5 * 4 - 2 = 0; 3 - 4 = -1. Factor 0.5 * 0.5.
    const { advantages, returns } = generalizedAdvantages([1, 0, 3], [1, 2, 4], { gamma: 0.5, lambda: 0.5 });
    expect(advantages).toEqual([1 + 0.25 * -0.25, -0.25, -1]);
    expect(returns).toEqual([1.9375, 1.75, 3]);
  });

  it("are returns minus values with lambda 1, and one step's surprise with lambda 0", () => {
    fc.assert(
      fc.property(numbers, fc.double({ min: 0, max: 1, noNaN: true }), (rewards, gamma) => {
        const values = rewards.map((reward, t) => Math.sin(3 * reward + t));
        const monte = generalizedAdvantages(rewards, values, { gamma, lambda: 1 });
        const surprise = generalizedAdvantages(rewards, values, { gamma, lambda: 0 });
        rewards.forEach((reward, t) => {
          const sum = rewards.slice(t).reduce((total, one, k) => total + gamma ** k * one, 0);
          expect(monte.returns[t]).toBeCloseTo(sum, 8);
          expect(surprise.advantages[t]).toBeCloseTo(reward + gamma * (values[t + 1] ?? 0) - values[t]!, 8);
        });
      }),
    );
  });

  it("are whitened over all rows together", () => {
    const white = whiten([[1, 2], [3], [4, 8]]);
    const flat = white.flat();
    expect(flat.reduce((a, b) => a + b) / 5).toBeCloseTo(0, 8);
    expect(flat.reduce((a, b) => a + b * b, 0) / 5).toBeCloseTo(1, 6);
    const kept = whiten([[1, 2], [3], [4, 8]], { keepMean: true }).flat();
    expect(kept.reduce((a, b) => a + b) / 5).toBeCloseTo(3.6, 8);
  });

  it("of a group compare its rewards, and are nothing where all are equal", () => {
    const [first, equal] = groupAdvantages([
      [0, 1, 1, 2],
      [3, 3, 3, 3],
    ]);
    expect(first![3]! / Math.SQRT2).toBeCloseTo(1, 3);
    expect(first!.reduce((a, b) => a + b)).toBeCloseTo(0, 8);
    expect(equal).toEqual([0, 0, 0, 0]);
    expect(groupAdvantages([[0, 4]], { byDeviation: false })).toEqual([[-2, 2]]);
  });
});

describe("the coefficient of the divergence", () => {
  it("moves by at most a fifth of the texts' share of the horizon", () => {
    const control = new KlControl({ coefficient: 0.1, target: 6, horizon: 1000 });
    control.update(60, 100);
    expect(control.coefficient).toBeCloseTo(0.1 * (1 + (0.2 * 100) / 1000), 12);
    control.restore(0.1);
    control.update(5.4, 100);
    expect(control.coefficient).toBeCloseTo(0.1 * (1 - (0.1 * 100) / 1000), 12);
  });
});

describe("two rewards", () => {
  it("are safety's where an answer may be unsafe, whitened", () => {
    // Sigmoid of -2 is 0.119, below 0.15; of -1 it is 0.269.
    const chosen = [-2, 4, 7, -1];
    const [wanted] = whiten([chosen]);
    const got = combinedRewards([5, 4, 7, 3], [-2, -1, 3, -1], {
      unsafePrompts: [false, false, false, true],
    });
    expect(got).toEqual(wanted);
  });
});

// ---- A toy: the letters after a capital are to be capitals, after a small letter small ones -----------------------

const letters = "abcdABCD";
const tokenizer = characterTokenizer(letters);
const runtime = createRuntime();
const config = gpt2Config({
  hiddenSize: 16,
  numLayers: 1,
  numHeads: 2,
  vocabSize: letters.length,
  contextLength: 8,
  dropout: 0,
  embeddingDropout: 0,
  attentionDropout: 0,
});
const prompts = Array.from(letters, (letter) => tokenizer.encode(letter));
const isCapital = (letter: string) => letter === letter.toUpperCase();
const fitting: OnlineRequest["reward"] = (samples) =>
  samples.map(({ promptText, text }) => {
    const right = Array.from(text).filter((letter) => isCapital(letter) === isCapital(promptText)).length;
    return right / text.length;
  });

async function toy(seed: number) {
  const policy = new Gpt2(config);
  const start = Weights.initialize(runtime, policy, seed);
  const frozen = start.copy();
  const reference = await CompletionReader.logProbs(policy, frozen);
  const request = {
    prompts,
    reward: fitting,
    reference,
    tokenizer,
    stopIds: [],
    maxNewTokens: 4,
    promptsPerRound: 32,
    seed,
  } satisfies OnlineRequest;
  return { policy, start, reference, request };
}

const trainerOf = (method: OnlineTraining, weights: Weights, seed: number, learningRate: number) =>
  Trainer.create({
    objective: method.objective,
    weights,
    source: method.source,
    schedule: () => learningRate,
    optimizer: (all, gradients) => adamW(all, gradients, { weightDecay: 0 }),
    seed,
  });

async function ppoToy(seed: number, more: Partial<PpoRequest> = {}) {
  const { policy, start, reference, request } = await toy(seed);
  const model = new ActorCritic(policy);
  const weights = actorCriticWeights(model, start);
  const reports: RoundReport[] = [];
  const method = await ppo(model, weights, {
    ...request,
    coefficient: 0.02,
    minibatch: 16,
    epochs: 2,
    onRound: (report) => void reports.push(report),
    ...more,
  });
  const trainer = await trainerOf(method, weights, seed, 5e-3);
  return { method, trainer, weights, reports, model, reference };
}

describe("PPO", () => {
  it("begins with a divergence of 0, ratios of 1 and advantages that sum to nothing", async () => {
    const { method, trainer, reports } = await ppoToy(1, { minibatch: undefined });
    const { parts } = await trainer.step();
    expect(reports[0]!.kl).toBeCloseTo(0, 5);
    expect(parts["kl"]).toBeCloseTo(0, 5);
    expect(parts["clipped"]).toBe(0);
    // With ratios of 1 the loss is minus the mean of whitened advantages.
    expect(parts["policy"]).toBeCloseTo(0, 5);
    expect(parts["reward"]).toBeCloseTo(reports[0]!.reward, 5);
    // Half the variance of the returns around values of 0.
    expect(parts["value"]).toBeGreaterThan(0);
    trainer.dispose();
    method[Symbol.dispose]();
  });

  it.each([1, 2, 3, 4])("reaches the full reward at a bounded divergence, seed %i", async (seed) => {
    const { method, trainer, reports } = await ppoToy(seed);
    for (let step = 0; step < 320; step++) await trainer.step();
    const metrics = await method.evaluate(Array.from({ length: 16 }, () => prompts).flat());
    expect(reports[0]!.reward).toBeLessThan(0.7);
    expect(metrics["reward"]).toBeGreaterThan(0.97);
    // Half the letters are right at each of four places: 4 ln 2 = 2.8 nats. One text alone would be 4 ln 8 = 8.3.
    expect(metrics["kl"]).toBeLessThan(5);
    trainer.dispose();
    method[Symbol.dispose]();
  });

  it("goes on after a resume in the middle of a round to bit-equal losses", async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), "lineage-ppo-"));
    const options = { klTarget: 1, klHorizon: 100 };
    const whole = await ppoToy(5, options);
    const losses: number[] = [];
    for (let step = 0; step < 15; step++) losses.push((await whole.trainer.step()).loss);
    const first = await ppoToy(5, options);
    for (let step = 0; step < 6; step++) await first.trainer.step();
    await saveTraining(folder, first.trainer, { evaluationsSinceBest: 0 });
    const second = await ppoToy(5, options);
    await restoreTraining(folder, second.trainer);
    const resumed: number[] = [];
    for (let step = 6; step < 15; step++) resumed.push((await second.trainer.step()).loss);
    expect(resumed).toEqual(losses.slice(6));
    expect(second.reports.at(-1)).toEqual(whole.reports.at(-1));
    await rm(folder, { recursive: true });
  });

  it("loses the same on rows of different lengths side by side as on each alone", async () => {
    const { method, weights } = await ppoToy(6);
    const row = (completion: string, offset: number) => {
      const { length } = completion;
      const values = (factor: number) => Array.from({ length }, (_, t) => Math.sin(factor * (t + offset)));
      return {
        prompt: tokenizer.encode("aB".slice(offset % 2)),
        completion: tokenizer.encode(completion),
        oldLogProbs: values(0.1).map((x) => x - 2),
        advantages: values(1),
        oldValues: values(2),
        returns: values(3),
        reward: offset,
        divergence: 0,
      };
    };
    const rows = [row("abCD", 1), row("a", 2), row("BB", 3)];
    const restore = (list: typeof rows) => {
      method.source.restore({
        round: 1,
        position: 0,
        rows: list,
        memory: { coefficient: 1, pretraining: null },
      });
    };
    using step = await EvaluationStep.create(method.objective, weights);
    const sums = async (list: typeof rows) => {
      restore(list);
      return step.run(await method.source.next());
    };
    const together = await sums(rows);
    const total: Record<string, number> = {};
    for (const one of rows)
      for (const [part, sum] of Object.entries(await sums([one]))) total[part] = (total[part] ?? 0) + sum;
    for (const [part, sum] of Object.entries(together)) expect(sum).toBeCloseTo(total[part]!, 4);
  });

  it("mixes pretraining text in, whose place is kept", async () => {
    let given = 0;
    const text = {
      next: () => {
        given++;
        const data = Int32Array.from([0, 1, 2, 3]);
        return {
          tensors: { inputIds: { data, shape: [1, 4] }, labels: { data, shape: [1, 4] } },
          counts: { tokens: 4 },
        };
      },
      get state() {
        return { given };
      },
      restore: (state: unknown) => {
        given = (state as { given: number }).given;
      },
    };
    const { trainer } = await ppoToy(7, { pretraining: text, pretrainingWeight: 0.5 });
    const { parts, loss } = await trainer.step();
    expect(given).toBe(1);
    expect(parts["pretraining"]).toBeCloseTo(Math.log(8), 0);
    expect(loss).toBeCloseTo(parts["policy"]! + 0.1 * parts["value"]! + 0.5 * parts["pretraining"]!, 5);
    expect(trainer.state.source).toMatchObject({ memory: { pretraining: { given: 1 } } });
    await expect(ppoToy(7, { pretrainingWeight: 1 })).rejects.toThrow("needs text of the pretraining");
  });

  it("refuses a reward that is not finite, with the text, and leaves the run as it was", async () => {
    const { trainer } = await ppoToy(8, {
      reward: (samples) => samples.map((_, row) => (row === 3 ? NaN : 1)),
    });
    await expect(trainer.step()).rejects.toThrow(/the reward of ".{4}" after ".{1}" is NaN/);
    expect(trainer.state.step).toBe(0);
    expect(trainer.state.source).toMatchObject({ round: 0 });
    await expect(rewardsOf(() => [1], [])).rejects.toThrow("1 numbers for 0 completions");
  });
});

describe("GRPO", () => {
  it.each([1, 2, 3, 4])("reaches the full reward by rule at a bounded divergence, seed %i", async (seed) => {
    const { policy, start, request } = await toy(seed);
    const reports: RoundReport[] = [];
    using method = await grpo(policy, start, {
      ...request,
      promptsPerRound: 8,
      samplesPerPrompt: 8,
      onRound: (report) => void reports.push(report),
    });
    using trainer = await trainerOf(method, start, seed, 5e-3);
    const first = await trainer.step();
    expect(first.parts["policy"]).toBeCloseTo(0, 5);
    expect(first.parts["divergence"]).toBeCloseTo(0, 5);
    expect(first.parts["clipped"]).toBe(0);
    for (let step = 1; step < 160; step++) await trainer.step();
    const metrics = await method.evaluate(Array.from({ length: 16 }, () => prompts).flat());
    expect(metrics["reward"]).toBeGreaterThan(0.97);
    expect(metrics["kl"]).toBeLessThan(5);
    start.dispose();
  });

  it("needs several completions of each prompt", async () => {
    const { policy, start, request } = await toy(1);
    await expect(grpo(policy, start, { ...request, samplesPerPrompt: 1 })).rejects.toThrow("two or more");
  });
});

describe("rejection sampling", () => {
  it("learns from the best of each prompt's completions", async () => {
    const rows = [1, 3, 3, 0, -1, -2].map((reward, index) => ({ reward, index }));
    expect(bestOfEach(rows, 3).map(({ index }) => index)).toEqual([1, 3]);
    const { policy, start, request } = await toy(2);
    using method = await rejectionSampling(policy, start, {
      ...request,
      samplesPerPrompt: 8,
      promptsPerRound: 16,
    });
    using trainer = await trainerOf(method, start, 2, 1e-2);
    const before = await method.evaluate(prompts);
    for (let step = 0; step < 60; step++) await trainer.step();
    const after = await method.evaluate([...prompts, ...prompts, ...prompts, ...prompts]);
    expect(before["reward"]).toBeLessThan(0.75);
    expect(after["reward"]).toBeGreaterThan(0.95);
  });
});

describe("rollouts", () => {
  it("are the same whatever is written beside them, and end with the token that ended them", async () => {
    const { policy, start } = await toy(3);
    using writer = await RolloutWriter.create({
      model: policy,
      weights: start,
      stopIds: [3],
      maxNewTokens: 6,
      longestPrompt: 1,
      slots: 3,
    });
    const all = await writer.write(prompts, { seed: 4 });
    const few = await writer.write(prompts.slice(0, 2), { seed: 4 });
    expect(few).toEqual(all.slice(0, 2));
    for (const { completion, finished } of all) {
      expect(completion.length).toBeLessThanOrEqual(7);
      expect(finished).toBe(completion.at(-1) === 3);
      expect(completion.slice(0, -1)).not.toContain(3);
    }
    expect(all.some(({ finished }) => finished)).toBe(true);
    await expect(
      RolloutWriter.create({ model: policy, weights: start, stopIds: [], maxNewTokens: 8, longestPrompt: 1 }),
    ).rejects.toThrow("do not fit the model's context of 8");
  });

  it("take every prompt once before any again", () => {
    const order = [0, 1, 2].flatMap((round) => roundOf(6, round, 4, 9));
    expect(order.slice(0, 6).sort()).toEqual([0, 1, 2, 3, 4, 5]);
    expect(order.slice(6).sort()).toEqual([0, 1, 2, 3, 4, 5]);
  });
});

describe("watching rounds", () => {
  const round: RoundReport = {
    round: 1,
    completions: 32,
    reward: 0.5,
    rewardDeviation: 0.1,
    kl: 1,
    klCoefficient: 0.1,
    length: 10,
    finished: 1,
    distinct: 1,
  };

  it.each([
    [{ kl: 200 }, "leaves the language"],
    [{ kl: -20 }, "temperature 1"],
    [{ rewardDeviation: 0 }, "nothing to learn"],
    [{ distinct: 0.03 }, "the same to everything"],
    [{ round: 3, finished: 0 }, "ends by itself"],
    [{ round: 4, reward: -1 }, "collapsed"],
  ])("says once what %j means", (change, words) => {
    const watch = new RoundWatch();
    expect(watch.look(round)).toEqual([]);
    const said = watch.look({ ...round, ...change });
    expect(said).toHaveLength(1);
    expect(said[0]).toContain(words);
    expect(watch.look({ ...round, ...change })).toEqual([]);
  });
});
