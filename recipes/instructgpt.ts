/**
 * InstructGPT: Ouyang et al. 2022, "Training language models to follow instructions with human feedback".
 *
 * Claims: each stage (demonstrations, then PPO against a reward model of rankings) is preferred to the one before; rewards
 * rise with the divergence from the start; and mixing in pretraining text (PPO-ptx) saves what PPO alone forgets.
 *
 * In small: a GPT-2 trained on the embedded stories continues the beginning of a story. "People" prefer, of several
 * continuations, the one that speaks of feelings, and of equals the one that ends a sentence: a rule that anybody can check,
 * which the reward model sees through rankings alone. Demonstrations are the continuations of held-back stories that the
 * rule likes best.
 *
 *   node dist/recipes/instructgpt.js
 */
import path from "node:path";
import {
  CompletionReader,
  type RankedRow,
  type Rollout,
  RolloutWriter,
  type RoundReport,
  Scorer,
  actorCriticWeights,
  completionBatch,
  measureRewards,
  ppo,
  rankingBatch,
  scoringNetwork,
} from "../src/alignment/index.js";
import { Random } from "../src/base/random.js";
import { writeJson } from "../src/base/files.js";
import { BucketedSource, DataLoader, stories } from "../src/data/index.js";
import { headOf, systems } from "../src/models/index.js";
import { DecoderBody, type Module, Weights } from "../src/nn/index.js";
import {
  ActorCritic,
  type Completion,
  completionObjective,
  nextTokenObjective,
  rankingObjective,
} from "../src/objectives/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { trainByteLevelBpe } from "../src/tokenizers/index.js";
import { Trainer, adamW, evaluatePerplexity, schedule } from "../src/training/index.js";
import { percent, plot, printTable, recipeOptions } from "./recipe.js";

const options = recipeOptions("instructgpt");
const { smoke, scale, out } = options;
const runtime = createRuntime({ threads: options.threads });
const steps = (count: number): number => (smoke ? 2 : Math.max(2, Math.round(count * scale)));

const plan = {
  seed: 1,
  system: systems.gpt2,
  sizes: { contextLength: 96, hiddenSize: 96, numLayers: 3, numHeads: 4 },
  vocabSize: 1024,
  stories: smoke ? 300 : 8000,
  pretraining: { steps: steps(900), batchSize: 16, learningRate: 2e-3 },
  promptTokens: 24,
  maxNewTokens: 24,
  demonstrations: { count: smoke ? 16 : 512, steps: steps(60), batch: 16, learningRate: 3e-4 },
  rankings: {
    prompts: smoke ? 8 : 320,
    answers: 4,
    heldOut: smoke ? 4 : 64,
    steps: steps(160),
    batch: 8,
    learningRate: 5e-4,
  },
  ppo: {
    rounds: steps(40),
    prompts: smoke ? 4 : 32,
    learningRate: 3e-4,
    coefficient: 0.05,
    pretrainingWeight: 0.5,
  },
  judged: smoke ? 8 : 128,
} as const;

// ---- The preference ------------------------------------------------------------------------------------------------

const feelings = /\b(happy|glad|smil\w*|laugh\w*|love\w*|proud|kind|joy\w*|friend\w*|thank\w*)\b/gi;
/** Feelings first, at most three of them; then whether the last sentence is whole. */
const liking = (text: string): number =>
  Math.min(3, text.match(feelings)?.length ?? 0) + (/[.!?"]\s*$/.test(text.trimEnd()) ? 0.5 : 0);

// ---- A base, trained on the stories --------------------------------------------------------------------------------

const all = [...stories({ seed: plan.seed, count: plan.stories })];
const tokenizer = trainByteLevelBpe(all.slice(0, 2000), { vocabSize: plan.vocabSize });
const end = tokenizer.endOfTextId!;
const encode = (story: string): number[] => [...tokenizer.encode(story), end];
const cut = Math.floor(all.length * 0.8);
const training = Int32Array.from(all.slice(0, cut).flatMap(encode));
const heldOut = Int32Array.from(all.slice(cut, cut + (smoke ? 40 : 400)).flatMap(encode));
/** Beginnings of stories that the base has not read, and how each goes on. */
const beginnings = all.slice(cut).flatMap((story) => {
  const ids = tokenizer.encode(story);
  return ids.length < plan.promptTokens + plan.maxNewTokens
    ? []
    : [
        {
          prompt: ids.slice(0, plan.promptTokens),
          completion: ids.slice(plan.promptTokens, plan.promptTokens + plan.maxNewTokens),
        },
      ];
});
const shares = { demonstrations: 0.35, rankings: 0.3, ppo: 0.25 };
const parts = Object.values(shares).reduce<number[]>(
  (ends, share) => [...ends, (ends.at(-1) ?? 0) + share],
  [],
);
const slice = (from: number, to: number) =>
  beginnings.slice(Math.floor(from * beginnings.length), Math.floor(to * beginnings.length));
const forDemonstrations = slice(0, parts[0]!);
const forRankings = slice(parts[0]!, parts[1]!);
const forPpo = slice(parts[1]!, parts[2]!);
const forJudging = slice(parts[2]!, 1).slice(0, plan.judged);

const config = plan.system.config.create({
  ...plan.sizes,
  vocabSize: tokenizer.vocabSize,
  dropout: 0,
  embeddingDropout: 0,
  attentionDropout: 0,
});
const base = plan.system.create(config);
const text = (tokens: Int32Array, seed: number) =>
  new DataLoader(tokens, {
    batchSize: plan.pretraining.batchSize,
    sequenceLength: plan.sizes.contextLength,
    seed,
  });

/** Trains and shows the loss now and then. */
async function learn(
  name: string,
  settings:
    Parameters<typeof Trainer.create>[0] | Omit<Parameters<typeof Trainer.create>[0], "seed" | "schedule">,
  count: number,
  learningRate: number,
): Promise<void> {
  using trainer = await Trainer.create({
    ...settings,
    seed: plan.seed,
    schedule: schedule("cosine", {
      learningRate,
      warmupSteps: Math.floor(count / 10),
      totalSteps: count + 1,
      minimum: learningRate / 10,
    }),
    optimizer: (weights, gradients) => adamW(weights, gradients, { weightDecay: 0 }),
  });
  for (let step = 1; step <= count; step++) {
    const { loss, parts: told } = await trainer.step();
    if (step % Math.ceil(count / 4) !== 0) continue;
    const others = Object.entries(told).length > 1 ? Object.entries(told) : [];
    console.log(
      `${name}: step ${step}/${count}, loss ${loss.toFixed(3)}${others.map(([part, value]) => `, ${part} ${value.toFixed(3)}`).join("")}`,
    );
  }
}

const baseWeights = Weights.initialize(runtime, base, plan.seed);
await learn(
  "base",
  { objective: nextTokenObjective(base), weights: baseWeights, source: text(training, 1) },
  plan.pretraining.steps,
  plan.pretraining.learningRate,
);

/** What weights write after prompts. */
async function write(
  weights: Weights,
  prompts: readonly (readonly number[])[],
  seed: number,
): Promise<Rollout[]> {
  using writer = await RolloutWriter.create({
    model: base,
    weights,
    stopIds: [end],
    maxNewTokens: plan.maxNewTokens,
    longestPrompt: plan.promptTokens,
  });
  return await writer.write(prompts, { seed });
}
const textOf = ({ completion }: Completion): string =>
  tokenizer.decode(completion.filter((id) => id !== end));

// ---- 1. Demonstrations ---------------------------------------------------------------------------------------------

const demonstrations = [...forDemonstrations]
  .sort((a, b) => liking(textOf(b)) - liking(textOf(a)))
  .slice(0, plan.demonstrations.count)
  .map(({ prompt, completion }): Completion => ({ prompt, completion }));
const sft = baseWeights.copy();
await learn(
  "demonstrations",
  {
    objective: completionObjective(base),
    weights: sft,
    source: new BucketedSource(demonstrations, {
      batchSize: plan.demonstrations.batch,
      seed: plan.seed,
      lengthOf: ({ completion }) => completion.length,
      collate: (rows) =>
        completionBatch(
          base,
          rows,
          {},
          { tokens: rows.reduce((sum, { completion }) => sum + completion.length, 0) },
        ),
    }),
  },
  plan.demonstrations.steps,
  plan.demonstrations.learningRate,
);

// ---- 2. A reward model from rankings -------------------------------------------------------------------------------

const { answers } = plan.rankings;
const asked = forRankings.slice(0, plan.rankings.prompts + plan.rankings.heldOut);
const written = await write(
  sft,
  asked.flatMap(({ prompt }) => Array.from({ length: answers }, () => prompt)),
  11,
);
const rankings: RankedRow[] = asked.flatMap((_, row) => {
  const group = written.slice(row * answers, (row + 1) * answers);
  const likings = group.map((one) => liking(textOf(one)));
  const ranks = likings.map((own) => likings.filter((other) => other > own).length);
  return new Set(ranks).size < 2
    ? []
    : [{ answers: group.map(({ prompt, completion }) => [...prompt, ...completion]), ranks }];
});
const judgedRankings = rankings.slice(-plan.rankings.heldOut);
const learnedRankings = rankings.slice(0, -plan.rankings.heldOut);
const rewardNetwork = {
  system: plan.system,
  model: headOf(plan.system, "classify").create(config, 1),
  tokenizer,
};
const rewardWeights = Weights.initialize(runtime, rewardNetwork.model, plan.seed);
for (const [name, tensor] of Object.entries(rewardWeights.tensors)) {
  const from = sft.tensors[name];
  if (from) tensor.write(from.view());
}
await learn(
  "reward model",
  {
    objective: rankingObjective(scoringNetwork(rewardNetwork)),
    weights: rewardWeights,
    source: new BucketedSource(learnedRankings, {
      batchSize: Math.min(plan.rankings.batch, learnedRankings.length),
      seed: plan.seed,
      lengthOf: ({ answers: list }) => list[0]!.length,
      collate: (rows) => rankingBatch(rewardNetwork, rows),
    }),
  },
  plan.rankings.steps,
  plan.rankings.learningRate,
);
const scorer = await Scorer.create({ ...rewardNetwork, weights: rewardWeights });
const score = (rows: readonly Completion[]) =>
  scorer.score(rows.map(({ prompt, completion }) => [...prompt, ...completion]));
const scoresOf = async (rows: readonly RankedRow[]) =>
  Promise.all(rows.map(({ answers: list }) => scorer.score(list)));
const reward = measureRewards(judgedRankings, await scoresOf(judgedRankings));
console.log(
  `reward model: ${percent(reward.accuracy)} of ${reward.pairs} held-out pairs in the right order, calibration error ${reward.calibrationError.toFixed(3)}`,
);
// Demonstrations score 0 on average, appendix C.2.
const shown = await score(demonstrations);
const offset = shown.reduce((sum, value) => sum + value, 0) / shown.length;

// ---- 3. PPO, without and with the pretraining mix ------------------------------------------------------------------

const frozen = sft.copy();
const reference = await CompletionReader.logProbs(plan.system.create(config), frozen);

async function align(name: string, pretrainingWeight: number) {
  const policy = plan.system.create(config);
  const model: ActorCritic & Module = new ActorCritic(policy, new DecoderBody(plan.system.create(config)));
  const weights = actorCriticWeights(model, sft, rewardWeights, plan.seed);
  const reports: RoundReport[] = [];
  using method = await ppo(model, weights, {
    prompts: forPpo.map(({ prompt }) => prompt),
    reward: async (samples) => (await score(samples)).map((value) => value - offset),
    reference,
    tokenizer,
    stopIds: [end],
    maxNewTokens: plan.maxNewTokens,
    promptsPerRound: plan.ppo.prompts,
    minibatch: plan.ppo.prompts / 2,
    epochs: 2,
    coefficient: plan.ppo.coefficient,
    seed: plan.seed,
    ...(pretrainingWeight > 0 && { pretraining: text(training, 2), pretrainingWeight }),
    onRound: (report) => {
      reports.push(report);
      if (report.round % 10 === 0 || report.round === 1)
        console.log(
          `${name}: round ${report.round}, reward ${report.reward.toFixed(3)}, divergence ${report.kl.toFixed(2)}`,
        );
    },
    onWarning: console.log,
  });
  await learn(name, { ...method, weights }, plan.ppo.rounds * 4, plan.ppo.learningRate);
  return { weights, reports };
}
const plain = await align("PPO", 0);
const mixed = await align("PPO-ptx", plan.ppo.pretrainingWeight);

// ---- What each stage is worth --------------------------------------------------------------------------------------

const prompts = forJudging.map(({ prompt }) => prompt);
const stages = { base: baseWeights, SFT: sft, PPO: plain.weights, "PPO-ptx": mixed.weights };
const texts = new Map<string, number[]>();
const rows: string[][] = [];
const results: Record<string, Record<string, number>> = {};
/** Share of the prompts whose answer is liked more than another stage's; a draw is half. */
const winRate = (own: readonly number[], other: readonly number[]): number =>
  own.reduce((sum, value, index) => sum + (value > other[index]! ? 1 : value === other[index] ? 0.5 : 0), 0) /
  own.length;
for (const [name, weights] of Object.entries(stages)) {
  const rollouts = await write(weights, prompts, 21);
  const likings = rollouts.map((one) => liking(textOf(one)));
  texts.set(name, likings);
  const { loss } = await evaluatePerplexity(base, weights, heldOut, {
    batchSize: 16,
    sequenceLength: plan.sizes.contextLength,
  });
  const before = { SFT: "base", PPO: "SFT", "PPO-ptx": "SFT" }[name];
  const scores = await score(rollouts);
  const meanReward = scores.reduce((sum, value) => sum + value, 0) / scores.length - offset;
  const win = before === undefined ? NaN : winRate(likings, texts.get(before)!);
  const mean = likings.reduce((sum, value) => sum + value, 0) / likings.length;
  results[name] = {
    reward: meanReward,
    liking: mean,
    heldOutLoss: loss,
    ...(before !== undefined && { win }),
  };
  rows.push([
    name,
    meanReward.toFixed(3),
    mean.toFixed(2),
    before === undefined ? "" : `${percent(win)} over ${before}`,
    loss.toFixed(3),
  ]);
}
printTable(["stage", "reward", "liking", "preferred", "held-out loss"], rows);
const sample = new Random(3).integer(prompts.length);
for (const [name, weights] of Object.entries(stages)) {
  const [one] = await write(weights, [prompts[sample]!], 21);
  console.log(
    `${name.padEnd(8)} ${JSON.stringify(tokenizer.decode(prompts[sample]!) + " | " + textOf(one!))}`,
  );
}

await writeJson(path.join(out, "results.json"), {
  rewardModel: { ...reward },
  stages: results,
  ppo: plain.reports,
  mixed: mixed.reports,
});
const curve = (label: string, reports: readonly RoundReport[]) => ({
  label,
  points: [...reports]
    .sort((a, b) => a.kl - b.kl)
    .map(({ kl, reward: value }) => ({ step: Math.max(0, kl), loss: value })),
});
await plot(path.join(out, "instructgpt.svg"), "Reward against the divergence from SFT, in nats", [
  curve("PPO", plain.reports),
  curve("PPO-ptx", mixed.reports),
]);
