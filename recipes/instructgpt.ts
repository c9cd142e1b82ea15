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
  type RoundReport,
  actorCriticWeights,
  measureRewards,
  ppo,
} from "../src/alignment/index.js";
import { writeJson } from "../src/base/files.js";
import { systems } from "../src/models/index.js";
import { DecoderBody } from "../src/nn/index.js";
import { ActorCritic, type Completion } from "../src/objectives/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { percent, plot, printTable, recipeOptions } from "./recipe.js";
import {
  feelings,
  judgeSettings,
  meanOf,
  rankingsOf,
  storySettings,
  storyWriter,
  winRate,
} from "./story-writers.js";

const { smoke, scale, out, threads } = recipeOptions("instructgpt");
const runtime = createRuntime({ threads });
const steps = (count: number): number => (smoke ? 2 : Math.max(2, Math.round(count * scale)));

const plan = {
  ...storySettings(smoke),
  system: systems.gpt2,
  pretraining: { steps: steps(900), batchSize: 16, learningRate: 2e-3 },
  demonstrations: { count: smoke ? 16 : 512, steps: steps(60), batch: 16, learningRate: 3e-4 },
  rankings: { prompts: smoke ? 8 : 320, answers: 4, heldOut: smoke ? 4 : 64 },
  judge: judgeSettings(steps(160)),
  ppo: {
    rounds: steps(40),
    prompts: smoke ? 4 : 32,
    epochs: 2,
    learningRate: 3e-4,
    coefficient: 0.05,
    pretrainingWeight: 0.5,
  },
} as const;

// ---- The preference ------------------------------------------------------------------------------------------------

/** Feelings first, at most three of them; then whether the last sentence is whole. */
const liking = (text: string): number =>
  Math.min(3, text.match(feelings)?.length ?? 0) + (/[.!?"]\s*$/.test(text.trimEnd()) ? 0.5 : 0);

// ---- A base, and beginnings of stories for each stage --------------------------------------------------------------

const writer = await storyWriter(runtime, plan);
const { beginnings, tokenizer, textOf, end } = writer;
const share = (from: number, to: number) =>
  beginnings.slice(Math.floor(from * beginnings.length), Math.floor(to * beginnings.length));
const forDemonstrations = share(0, 0.35);
const forRankings = share(0.35, 0.65);
const forPpo = share(0.65, 0.9);
const judged = share(0.9, 1)
  .slice(0, plan.judged)
  .map(({ prompt }) => prompt);

// ---- 1. Demonstrations ---------------------------------------------------------------------------------------------

const demonstrations: Completion[] = [...forDemonstrations]
  .sort((a, b) => liking(textOf(b)) - liking(textOf(a)))
  .slice(0, plan.demonstrations.count);
const sft = await writer.imitate(writer.weights, demonstrations, plan.demonstrations);

// ---- 2. A reward model from rankings -------------------------------------------------------------------------------

const { answers, heldOut } = plan.rankings;
const asked = forRankings.slice(0, plan.rankings.prompts + heldOut);
const written = await writer.write(
  sft,
  asked.flatMap(({ prompt }) => Array.from({ length: answers }, () => prompt)),
  11,
);
const rankings = rankingsOf(written, answers, (rollout) => liking(textOf(rollout)));
const judge = await writer.judge("reward model", sft, rankings.slice(0, -heldOut), plan.judge);
const unseen = rankings.slice(-heldOut);
const reward = measureRewards(unseen, await judge.scoreRows(unseen));
console.log(
  `reward model: ${percent(reward.accuracy)} of ${reward.pairs} held-out pairs in the right order, calibration error ${reward.calibrationError.toFixed(3)}`,
);
// Demonstrations score 0 on average, appendix C.2.
const offset = meanOf(await judge.score(demonstrations));

// ---- 3. PPO, without and with the pretraining mix ------------------------------------------------------------------

const reference = await CompletionReader.logProbs(writer.create(), sft.copy());

async function align(name: string, pretrainingWeight: number) {
  const model = new ActorCritic(writer.create(), new DecoderBody(writer.create()));
  const weights = actorCriticWeights(model, sft, judge.weights, plan.seed);
  const { rounds, prompts, epochs, coefficient, learningRate } = plan.ppo;
  const reports: RoundReport[] = [];
  using method = await ppo(model, weights, {
    prompts: forPpo.map(({ prompt }) => prompt),
    reward: async (samples) => (await judge.score(samples)).map((score) => score - offset),
    reference,
    tokenizer,
    stopIds: [end],
    maxNewTokens: plan.maxNewTokens,
    promptsPerRound: prompts,
    minibatch: prompts / 2,
    epochs,
    coefficient,
    seed: plan.seed,
    ...(pretrainingWeight > 0 && { pretraining: writer.text(2), pretrainingWeight }),
    onRound: (report) => {
      reports.push(report);
      if (report.round % 10 === 1)
        console.log(
          `${name}: round ${report.round}, reward ${report.reward.toFixed(3)}, divergence ${report.kl.toFixed(2)}`,
        );
    },
  });
  await writer.learn(name, { ...method, weights }, rounds * 2 * epochs, learningRate);
  return { weights, reports };
}
const plain = await align("PPO", 0);
const mixed = await align("PPO-ptx", plan.ppo.pretrainingWeight);

// ---- What each stage is worth --------------------------------------------------------------------------------------

const stages = [
  { name: "base", weights: writer.weights },
  { name: "SFT", weights: sft, before: "base" },
  { name: "PPO", weights: plain.weights, before: "SFT" },
  { name: "PPO-ptx", weights: mixed.weights, before: "SFT" },
];
const likings = new Map<string, number[]>();
const rows: string[][] = [];
const results: Record<string, Record<string, number>> = {};
for (const { name, weights, before } of stages) {
  const rollouts = await writer.write(weights, judged, 21);
  const liked = rollouts.map((rollout) => liking(textOf(rollout)));
  likings.set(name, liked);
  const loss = await writer.heldOutLoss(weights);
  const mean = meanOf(await judge.score(rollouts)) - offset;
  const win = before === undefined ? undefined : winRate(liked, likings.get(before)!);
  results[name] = {
    reward: mean,
    liking: meanOf(liked),
    heldOutLoss: loss,
    ...(win !== undefined && { win }),
  };
  rows.push([
    name,
    mean.toFixed(3),
    meanOf(liked).toFixed(2),
    win === undefined ? "" : `${percent(win)} over ${before}`,
    loss.toFixed(3),
  ]);
}
printTable(["stage", "reward", "liking", "preferred", "held-out loss"], rows);
for (const { name, weights } of stages) {
  const [one] = await writer.write(weights, judged.slice(0, 1), 21);
  console.log(`${name.padEnd(8)} ${JSON.stringify(`${tokenizer.decode(judged[0]!)} | ${textOf(one!)}`)}`);
}

await writeJson(path.join(out, "results.json"), {
  rewardModel: reward,
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
await plot(
  path.join(out, "instructgpt.svg"),
  "Reward against the divergence from SFT",
  [curve("PPO", plain.reports), curve("PPO-ptx", mixed.reports)],
  { x: "divergence, nats a text", y: "reward" },
);
