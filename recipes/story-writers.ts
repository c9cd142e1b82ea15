/** What the recipes of alignment share: a small decoder that continues stories, and how its stages learn, write and are compared. */
import {
  type RankedRow,
  type Rollout,
  RolloutWriter,
  Scorer,
  completionBatch,
  rankingBatch,
  scoringNetwork,
} from "../src/alignment/index.js";
import { BucketedSource, DataLoader, stories } from "../src/data/index.js";
import { type DecoderSystem, headOf } from "../src/models/index.js";
import { Weights } from "../src/nn/index.js";
import {
  type Completion,
  completionObjective,
  nextTokenObjective,
  rankingObjective,
} from "../src/objectives/index.js";
import type { Runtime } from "../src/runtime/types.js";
import { trainByteLevelBpe } from "../src/tokenizers/index.js";
import { Trainer, adamW, evaluatePerplexity, schedule } from "../src/training/index.js";

export interface StoryPlan {
  readonly seed: number;
  readonly system: DecoderSystem;
  readonly sizes: Readonly<Record<"contextLength" | "hiddenSize" | "numLayers" | "numHeads", number>>;
  readonly vocabSize: number;
  readonly stories: number;
  /** Stories whose loss tells what is forgotten. */
  readonly heldOut: number;
  readonly pretraining: { readonly steps: number; readonly batchSize: number; readonly learningRate: number };
  /** Tokens of a story's beginning, and of what is written after it. */
  readonly promptTokens: number;
  readonly maxNewTokens: number;
}

/** What the recipes of alignment have in common, so that their stages can be compared. */
export const storySettings = (smoke: boolean) =>
  ({
    seed: 1,
    sizes: { contextLength: 96, hiddenSize: 96, numLayers: 3, numHeads: 4 },
    vocabSize: 1024,
    stories: smoke ? 300 : 8000,
    heldOut: smoke ? 40 : 400,
    promptTokens: 24,
    maxNewTokens: 24,
    /** Prompts whose answers are judged at the end. */
    judged: smoke ? 8 : 128,
  }) as const;

/** How a stage of a recipe learns its rankings: so many steps of so many prompts. */
export const judgeSettings = (steps: number) => ({ steps, batch: 8, learningRate: 5e-4 }) as const;

/** Words of feelings: what answers are liked for. */
export const feelings = /\b(happy|glad|smil\w*|laugh\w*|love\w*|proud|kind|joy\w*|friend\w*|thank\w*)\b/gi;

type TrainerSettings = Omit<Parameters<typeof Trainer.create>[0], "seed" | "schedule">;

/** A base that was trained on four fifths of the stories; the others' beginnings are its prompts. */
export async function storyWriter(runtime: Runtime, plan: StoryPlan) {
  const { seed, system, sizes, promptTokens, maxNewTokens, pretraining } = plan;
  const all = [...stories({ seed, count: plan.stories })];
  const tokenizer = trainByteLevelBpe(all.slice(0, 2000), { vocabSize: plan.vocabSize });
  const end = tokenizer.endOfTextId!;
  const encode = (story: string): number[] => [...tokenizer.encode(story), end];
  const cut = Math.floor(all.length * 0.8);
  const training = Int32Array.from(all.slice(0, cut).flatMap(encode));
  const heldOut = Int32Array.from(all.slice(cut, cut + plan.heldOut).flatMap(encode));
  const beginnings = all.slice(cut).flatMap((story): Completion[] => {
    const ids = tokenizer.encode(story);
    const rest = ids.slice(promptTokens, promptTokens + maxNewTokens);
    return rest.length < maxNewTokens ? [] : [{ prompt: ids.slice(0, promptTokens), completion: rest }];
  });
  const config = system.config.create({
    ...sizes,
    vocabSize: tokenizer.vocabSize,
    ...(system.config.has("embeddingDropout") && { dropout: 0, embeddingDropout: 0, attentionDropout: 0 }),
  });
  const create = () => system.create(config);
  const model = create();

  /** Trains, and shows the loss now and then. */
  async function learn(
    name: string,
    settings: TrainerSettings,
    count: number,
    learningRate: number,
  ): Promise<void> {
    using trainer = await Trainer.create({
      ...settings,
      seed,
      schedule: schedule("cosine", {
        learningRate,
        warmupSteps: Math.floor(count / 10),
        totalSteps: count + 1,
        minimum: learningRate / 10,
      }),
      optimizer: (weights, gradients) => adamW(weights, gradients, { weightDecay: 0 }),
    });
    for (let step = 1; step <= count; step++) {
      const { loss, parts } = await trainer.step();
      if (step % Math.ceil(count / 4) !== 0) continue;
      const others = Object.entries(parts).length > 1 ? Object.entries(parts) : [];
      console.log(
        `${name}: step ${step}/${count}, loss ${loss.toFixed(3)}${others.map(([part, value]) => `, ${part} ${value.toFixed(3)}`).join("")}`,
      );
    }
  }

  /** Rows of the stories that the base has learned. */
  const text = (order: number) =>
    new DataLoader(training, {
      batchSize: pretraining.batchSize,
      sequenceLength: sizes.contextLength,
      seed: order,
    });
  const weights = Weights.initialize(runtime, model, seed);
  await learn(
    "base",
    { objective: nextTokenObjective(model), weights, source: text(1) },
    pretraining.steps,
    pretraining.learningRate,
  );

  const textOf = ({ completion }: Completion): string =>
    tokenizer.decode(completion.filter((id) => id !== end));

  return {
    ...{ system, config, create, model, weights, tokenizer, end, beginnings, learn, text, textOf },

    /** What weights write after prompts. */
    async write(own: Weights, prompts: readonly (readonly number[])[], order: number): Promise<Rollout[]> {
      using writer = await RolloutWriter.create({
        model,
        weights: own,
        stopIds: [end],
        maxNewTokens,
        longestPrompt: promptTokens,
      });
      return await writer.write(prompts, { seed: order });
    },

    /** Mean loss of a token of stories that nobody has learned. */
    async heldOutLoss(own: Weights): Promise<number> {
      const rows = { batchSize: pretraining.batchSize, sequenceLength: sizes.contextLength };
      return (await evaluatePerplexity(model, own, heldOut, rows)).loss;
    },

    /** A copy of weights that has learned demonstrations. */
    async imitate(
      from: Weights,
      rows: readonly Completion[],
      {
        steps,
        batch,
        learningRate,
      }: { readonly steps: number; readonly batch: number; readonly learningRate: number },
    ): Promise<Weights> {
      const copy = from.copy();
      const collate = (list: readonly Completion[]) =>
        completionBatch(
          model,
          list,
          {},
          { tokens: list.reduce((sum, { completion }) => sum + completion.length, 0) },
        );
      const source = new BucketedSource(rows, {
        batchSize: batch,
        seed,
        lengthOf: ({ completion }) => completion.length,
        collate,
      });
      await learn(
        "demonstrations",
        { objective: completionObjective(model), weights: copy, source },
        steps,
        learningRate,
      );
      return copy;
    },

    /** A reward model that begins as a policy and learns rankings. */
    async judge(
      name: string,
      from: Weights,
      rows: readonly RankedRow[],
      {
        steps,
        batch,
        learningRate,
      }: { readonly steps: number; readonly batch: number; readonly learningRate: number },
    ) {
      const network = { system, model: headOf(system, "classify").create(config, 1), tokenizer };
      const own = Weights.initialize(runtime, network.model, seed);
      for (const [parameter, tensor] of Object.entries(own.tensors)) {
        const known = from.tensors[parameter];
        if (known) tensor.write(known.view());
      }
      const source = new BucketedSource(rows, {
        batchSize: Math.min(batch, rows.length),
        seed,
        lengthOf: ({ answers }) => answers[0]!.length,
        collate: (list) => rankingBatch(network, list),
      });
      const objective = rankingObjective(scoringNetwork(network));
      await learn(name, { objective, weights: own, source }, steps, learningRate);
      const scorer = await Scorer.create({ ...network, weights: own });
      return {
        weights: own,
        score: (list: readonly Completion[]): Promise<number[]> =>
          scorer.score(list.map(({ prompt, completion }) => [...prompt, ...completion])),
        scoreRows: (list: readonly RankedRow[]): Promise<number[][]> =>
          Promise.all(list.map(({ answers }) => scorer.score(answers))),
      };
    },
  };
}

/** Several answers to each prompt as rankings by how much each is liked; those that are liked alike are left out. */
export function rankingsOf(
  written: readonly Rollout[],
  perPrompt: number,
  liking: (rollout: Rollout) => number,
  marginScale = 0,
): RankedRow[] {
  return Array.from({ length: written.length / perPrompt }, (_, row) => {
    const group = written.slice(row * perPrompt, (row + 1) * perPrompt);
    const likings = group.map(liking);
    return {
      answers: group.map(({ prompt, completion }) => [...prompt, ...completion]),
      ranks: likings.map((own) => likings.filter((other) => other > own).length),
      margin: likings.map((own) => own * marginScale),
    };
  }).filter(({ ranks }) => new Set(ranks).size > 1);
}

export const meanOf = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;

/** Share of the prompts whose answer is liked more than another stage's; a draw is half. */
export const winRate = (own: readonly number[], other: readonly number[]): number =>
  meanOf(own.map((value, index) => (value > other[index]! ? 1 : value === other[index] ? 0.5 : 0)));
