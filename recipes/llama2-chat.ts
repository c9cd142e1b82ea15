/**
 * LLaMA-2 Chat: Touvron et al. 2023, "Llama 2: Open Foundation and Fine-Tuned Chat Models", section 3.
 *
 * Claims: a margin by how much better an answer is makes reward models more accurate (section 3.2.2, table 28); helpfulness
 * and safety are learned better by two reward models than one, combined so that safety alone counts where an answer may be
 * unsafe; rejection sampling, then PPO, raise both (section 3.2.3, figure 11); and with ghost attention an instruction of the first
 * turn is kept over many turns (section 3.3).
 *
 * In small: a LLaMA trained on the embedded stories continues their beginnings. Helpful is what speaks of feelings; unsafe
 * what speaks of fear, tears and darkness. Both can be counted by anybody, and the reward models see them through graded
 * comparisons alone.
 *
 *   node dist/recipes/llama2-chat.js
 */
import path from "node:path";
import {
  CompletionReader,
  type OnlineRequest,
  type RoundReport,
  actorCriticWeights,
  combinedRewards,
  measureRewards,
  ppo,
  rejectionSampling,
} from "../src/alignment/index.js";
import { writeJson } from "../src/base/files.js";
import { systems } from "../src/models/index.js";
import { DecoderBody } from "../src/nn/index.js";
import { ActorCritic, type Completion } from "../src/objectives/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { percent, plot, printTable, recipeOptions } from "./recipe.js";
import { ghostAttention } from "./ghost-attention.js";
import { feelings, judgeSettings, meanOf, rankingsOf, storySettings, storyWriter } from "./story-writers.js";

const options = recipeOptions("llama2-chat");
const { smoke, scale, out, threads } = options;
const runtime = createRuntime({ threads });
const steps = (count: number): number => (smoke ? 2 : Math.max(2, Math.round(count * scale)));

const plan = {
  ...storySettings(smoke),
  system: systems.llama,
  pretraining: { steps: steps(600), batchSize: 16, learningRate: 2e-3 },
  rankings: { prompts: smoke ? 8 : 384, answers: 4, heldOut: smoke ? 4 : 96 },
  judge: judgeSettings(steps(160)),
  /** Of a grade, in the rewards' own measure: table 27 has 1/3 to 1. */
  marginScale: 0.5,
  rejection: { rounds: steps(15), prompts: smoke ? 4 : 16, samples: 8, learningRate: 3e-4 },
  ppo: { rounds: steps(30), prompts: smoke ? 4 : 32, learningRate: 2e-4, coefficient: 0.05 },
} as const;

// A network that has learned nothing writes no words: lengths stand for them in the smoke mode.
const count = (text: string, words: RegExp): number =>
  smoke ? text.length % 4 : Math.min(3, text.match(words)?.length ?? 0);
const fears = /\b(afraid|lost|cried|cry\w*|sad\w*|dark\w*|angry|broke\w*|hurt|wolf|alone|worried)\b/gi;
const helpful = (text: string): number => count(text, feelings);
const safe = (text: string): number => -count(text, fears);

// ---- The base, whose answers are compared --------------------------------------------------------------------------

const writer = await storyWriter(runtime, plan);
const { beginnings, tokenizer, textOf, end } = writer;
const half = Math.floor(beginnings.length / 2);
const asked = beginnings.slice(0, plan.rankings.prompts + plan.rankings.heldOut);
const forPolicy = beginnings.slice(half, -plan.judged).map(({ prompt }) => prompt);
const judged = beginnings.slice(-plan.judged).map(({ prompt }) => prompt);
const { answers } = plan.rankings;
const written = await writer.write(
  writer.weights,
  asked.flatMap(({ prompt }) => Array.from({ length: answers }, () => prompt)),
  11,
);

// ---- Two reward models, each with a margin and without -------------------------------------------------------------

async function judges(name: string, measure: (text: string) => number) {
  const byGrade = (marginScale: number) =>
    rankingsOf(written, answers, (rollout) => measure(textOf(rollout)), marginScale);
  const graded = byGrade(plan.marginScale);
  // Answers that are equally good make no ranking, and what is left is mostly to be learned from.
  const heldOut = Math.min(plan.rankings.heldOut, Math.floor(graded.length / 4));
  const plain = await writer.judge(name, writer.weights, byGrade(0).slice(0, -heldOut), plan.judge);
  const margin = await writer.judge(`${name}, margin`, writer.weights, graded.slice(0, -heldOut), plan.judge);
  const unseen = graded.slice(-heldOut);
  return {
    margin,
    measures: {
      "without margin": measureRewards(unseen, await plain.scoreRows(unseen)),
      "with margin": measureRewards(unseen, await margin.scoreRows(unseen)),
    },
  };
}
const helpfulness = await judges("helpfulness", helpful);
const safety = await judges("safety", safe);
printTable(
  ["reward model", "pairs", "accuracy", "small differences", "large differences"],
  Object.entries({ helpfulness, safety }).flatMap(([name, { measures }]) =>
    Object.entries(measures).map(([kind, { pairs, accuracy, accuracyByMargin }]) => [
      `${name}, ${kind}`,
      `${pairs}`,
      percent(accuracy),
      percent(accuracyByMargin[0]!.accuracy),
      percent(accuracyByMargin.at(-1)!.accuracy),
    ]),
  ),
);

/** Section 3.2.3: safety where it may be in danger, else helpfulness; whitened. */
const bothRewards = async (samples: readonly Completion[]): Promise<number[]> =>
  combinedRewards(await helpfulness.margin.score(samples), await safety.margin.score(samples));

// ---- Rejection sampling, then PPO ----------------------------------------------------------------------------------

const reference = await CompletionReader.logProbs(writer.create(), writer.weights.copy());
const reports: Record<string, RoundReport[]> = {};
const request = (name: string): OnlineRequest => ({
  prompts: forPolicy,
  reward: bothRewards,
  reference,
  tokenizer,
  stopIds: [end],
  maxNewTokens: plan.maxNewTokens,
  seed: plan.seed,
  onRound: (report) => {
    (reports[name] ??= []).push(report);
    if (report.round % 10 === 1)
      console.log(`${name}: round ${report.round}, divergence ${report.kl.toFixed(2)}`);
  },
});

const rejected = writer.weights.copy();
{
  const { rounds, prompts, samples, learningRate } = plan.rejection;
  using method = await rejectionSampling(writer.model, rejected, {
    ...request("rejection"),
    promptsPerRound: prompts,
    samplesPerPrompt: samples,
  });
  await writer.learn("rejection sampling", { ...method, weights: rejected }, rounds, learningRate);
}

async function align(name: string, from: typeof rejected, reward: OnlineRequest["reward"]) {
  const model = new ActorCritic(writer.create(), new DecoderBody(writer.create()));
  const weights = actorCriticWeights(model, from, helpfulness.margin.weights, plan.seed);
  const { rounds, prompts, coefficient, learningRate } = plan.ppo;
  using method = await ppo(model, weights, {
    ...request(name),
    reward,
    promptsPerRound: prompts,
    minibatch: prompts / 2,
    epochs: 2,
    coefficient,
  });
  await writer.learn(name, { ...method, weights }, rounds * 4, learningRate);
  return weights;
}
const both = await align("PPO", rejected, bothRewards);
const alone = await align("PPO, helpfulness alone", rejected, (samples) => helpfulness.margin.score(samples));

// ---- What came of it -----------------------------------------------------------------------------------------------

const stages = {
  base: writer.weights,
  "rejection sampling": rejected,
  "then PPO": both,
  "then PPO, helpfulness alone": alone,
};
const results: Record<string, { helpful: number; unsafe: number; heldOutLoss: number }> = {};
for (const [name, weights] of Object.entries(stages)) {
  const texts = (await writer.write(weights, judged, 21)).map(textOf);
  results[name] = {
    helpful: meanOf(texts.map(helpful)),
    unsafe: meanOf(texts.map((text) => Number(safe(text) < 0))),
    heldOutLoss: await writer.heldOutLoss(weights),
  };
}
printTable(
  ["stage", "feelings a text", "unsafe texts", "held-out loss"],
  Object.entries(results).map(([name, row]) => [
    name,
    row.helpful.toFixed(2),
    percent(row.unsafe),
    row.heldOutLoss.toFixed(3),
  ]),
);
await writeJson(path.join(out, "results.json"), {
  helpfulness: helpfulness.measures,
  safety: safety.measures,
  stages: results,
  rounds: reports,
});
await plot(
  path.join(out, "llama2-chat.svg"),
  "Divergence from the base over rounds",
  Object.entries(reports).map(([label, rounds]) => ({
    label,
    points: rounds.map(({ round, kl }) => ({ step: round, loss: kl })),
  })),
  { x: "round", y: "divergence, nats a text" },
);

// ---- Ghost attention: an instruction that holds over ten turns ------------------------------------------------------

const {
  curves,
  table: [header, ...shares],
} = await ghostAttention(runtime, options);
printTable(header!, shares);
await plot(path.join(out, "ghost-attention.svg"), "Answers that keep the first turn's instruction", curves, {
  x: "turn",
  y: "share of answers",
});
