import path from "node:path";
import { existsSync } from "node:fs";
import { z } from "zod";
import { validated } from "../base/check.js";
import { FormatError, LineageError } from "../base/errors.js";
import { readJson, writeJson } from "../base/files.js";
import { type HeadCheckpoint, loadTaskForInference } from "../checkpoints/index.js";
import { type Batch, type BatchTensor, padRows } from "../data/index.js";
import { endOfText } from "../generation/index.js";
import type { Tensor } from "../graph/index.js";
import { type EncoderInputs, type WeightSet, scaledContext } from "../nn/index.js";
import { type ScoringNetwork, rankingPart } from "../objectives/index.js";
import type { Runtime, RunOptions } from "../runtime/types.js";
import { encoderInputSpecs, encoderInputsOf } from "../tasks/encoder-program.js";
import { moments } from "./advantages.js";
import { Forward, passesOf } from "./forward.js";
import { floats, ints } from "./pairs.js";
import { AnswerEncoder, type ScoredText } from "./texts.js";

// Reward models: an encoder or a decoder with a head of one number, learned from rankings.

type Network = Pick<HeadCheckpoint<WeightSet>, "model" | "system" | "tokenizer">;

/** A network with a head of one number as what scores texts. Throws `checkpoint` for a head of several classes. */
export function scoringNetwork({ model }: Network): ScoringNetwork {
  return {
    model,
    inputs: encoderInputSpecs(["rows", "sequence"]),
    scores: (inputs, context) => {
      const logits = model.forward(encoderInputsOf(inputs) as EncoderInputs, context) as unknown as Tensor;
      if (logits.shape[1] !== 1)
        throw new LineageError(
          "checkpoint",
          `a reward model gives one number, but the head of this one gives ${logits.shape[1]}; train one with lineage align reward`,
        );
      return logits.reshape([logits.shape[0]!]);
    },
  };
}

/** Rows of a scoring network: a decoder's are filled up behind their last token, which is the one that answers. */
export function scoringTensors(
  { model, system, tokenizer }: Network,
  rows: readonly ScoredText[],
): Record<string, BatchTensor> {
  const left = system.kind === "encoder" && tokenizer.config["padding_side"] === "left";
  const padId = tokenizer.padId ?? model.config.padTokenId;
  return padRows(
    rows.map(({ ids, typeIds }) => ({ ids: [...ids], typeIds: [...(typeIds ?? ids.map(() => 0))] })),
    { padId, left },
  );
}

/** The answers to one prompt, whole texts each, and which of them is better than which. */
export interface RankedRow {
  readonly answers: readonly (readonly number[])[];
  /** For an encoder: which of two texts, the prompt and the answer, each token is of. Default: all are of the first. */
  readonly typeIds?: readonly (readonly number[])[] | undefined;
  /** For each answer how many are better; equal for answers that are equally good. */
  readonly ranks: readonly number[];
  /**
   * By how much the better of two is to be better, the margin of LLaMA-2, equation 2: one for all, or a grade of each answer,
   * whose difference it is. Default 0.
   */
  readonly margin?: number | readonly number[] | undefined;
}

/** The margin between two answers of a row. */
const marginOf = ({ margin = 0 }: RankedRow, better: number, worse: number): number =>
  typeof margin === "number" ? margin : margin[better]! - margin[worse]!;

/** What `rankingObjective` takes: all pairs of a prompt, weighted so that each prompt counts once. */
export function rankingBatch(network: Network, rows: readonly RankedRow[]): Batch {
  const [better, worse, weights, margins]: number[][] = [[], [], [], []];
  let first = 0;
  for (const row of rows) {
    const { answers, ranks } = row;
    const pairs = answers.flatMap((_, a) =>
      answers.flatMap((__, b) => (ranks[a]! < ranks[b]! ? [[a, b] as const] : [])),
    );
    for (const [high, low] of pairs) {
      better!.push(first + high);
      worse!.push(first + low);
      weights!.push(1 / pairs.length);
      margins!.push(marginOf(row, high, low));
    }
    first += answers.length;
  }
  const texts = rows.flatMap(scoredTexts);
  return {
    tensors: {
      ...scoringTensors(network, texts),
      betterRows: ints(better!),
      worseRows: ints(worse!),
      pairWeights: floats(weights!),
      margins: floats(margins!),
    },
    counts: { [rankingPart]: rows.length, accuracy: better!.length, gap: better!.length, mean: first },
    tokens: texts.reduce((sum, { ids }) => sum + ids.length, 0),
  };
}

/** The texts of a row's answers. */
export const scoredTexts = ({ answers, typeIds }: RankedRow): ScoredText[] =>
  answers.map((ids, index) => ({ ids, typeIds: typeIds?.[index] }));

/** Scores texts with a network whose weights may go on changing. */
export class Scorer implements Disposable {
  private constructor(
    private readonly network: Network,
    private readonly forward: Forward,
  ) {}

  static async create(network: Network & { readonly weights: WeightSet }): Promise<Scorer> {
    const { model, inputs, scores } = scoringNetwork(network);
    const forward = await Forward.create(model, network.weights, inputs, (given, context) => ({
      scores: scores(given, context),
    }));
    return new Scorer(network, forward);
  }

  /** Raw numbers of the head, in the order of the texts. */
  async score(
    given: readonly (readonly number[] | ScoredText)[],
    options: RunOptions = {},
  ): Promise<number[]> {
    const texts = given.map((text) => ("ids" in text ? text : { ids: text }));
    const found = new Array<number>(texts.length);
    for (const places of passesOf(texts.map(({ ids }) => ids.length))) {
      const { scores } = await this.forward.run(
        scoringTensors(
          this.network,
          places.map((place) => texts[place]!),
        ),
        options,
      );
      places.forEach((place, index) => (found[place] = scores![index]!));
    }
    return found;
  }

  dispose(): void {
    this.forward.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** How often the model is right where it is so sure: predictions in bins by their probability. */
export interface CalibrationBin {
  /** Mean probability that the better answer is better. */
  readonly confidence: number;
  readonly accuracy: number;
  readonly pairs: number;
}

export interface RewardMeasure {
  readonly pairs: number;
  /** Share of the pairs in the right order. */
  readonly accuracy: number;
  /** The same by the margins that people gave, from the smallest; one entry where they gave none. */
  readonly accuracyByMargin: readonly {
    readonly margin: number;
    readonly accuracy: number;
    readonly pairs: number;
  }[];
  readonly calibration: readonly CalibrationBin[];
  /** Mean difference of confidence and accuracy, weighted by the pairs of each bin. */
  readonly calibrationError: number;
  /** Mean and deviation of the scores of all answers. */
  readonly mean: number;
  readonly deviation: number;
}

/** Measures a reward model's scores of rankings; `scores[i][j]` is that of answer `j` of row `i`. */
export function measureRewards(
  rows: readonly RankedRow[],
  scores: readonly (readonly number[])[],
  bins = 5,
): RewardMeasure {
  const pairs = rows.flatMap((row, index) =>
    row.ranks.flatMap((a, high) =>
      row.ranks.flatMap((b, low) =>
        a < b
          ? [{ gap: scores[index]![high]! - scores[index]![low]!, margin: marginOf(row, high, low) }]
          : [],
      ),
    ),
  );
  const accuracyOf = (list: readonly { readonly gap: number }[]) =>
    list.filter(({ gap }) => gap > 0).length / list.length;
  const margins = [...new Set(pairs.map(({ margin }) => margin))].sort((a, b) => a - b);
  // A grade for each of a few words has a group of its own; grades that are all different fall into thirds.
  const edges =
    margins.length <= 6
      ? margins
      : [0, 1, 2].map((third) => margins[Math.floor((third * margins.length) / 3)]!);
  const groups = edges.map((edge, index) => {
    const list = pairs.filter(({ margin }) => margin >= edge && margin < (edges[index + 1] ?? Infinity));
    return { margin: edge, accuracy: accuracyOf(list), pairs: list.length };
  });
  const sure = pairs.map(({ gap }) => ({
    confidence: 1 / (1 + Math.exp(-Math.abs(gap))),
    right: gap > 0,
  }));
  const calibration: CalibrationBin[] = [];
  for (let bin = 0; bin < bins; bin++) {
    const [low, high] = [0.5 + (0.5 * bin) / bins, 0.5 + (0.5 * (bin + 1)) / bins];
    const list = sure.filter(
      ({ confidence }) => confidence >= low && (confidence < high || bin === bins - 1),
    );
    if (list.length === 0) continue;
    calibration.push({
      confidence: list.reduce((sum, { confidence }) => sum + confidence, 0) / list.length,
      accuracy: list.filter(({ right }) => right).length / list.length,
      pairs: list.length,
    });
  }
  return {
    pairs: pairs.length,
    accuracy: accuracyOf(pairs),
    accuracyByMargin: groups,
    calibration,
    calibrationError: calibration.reduce(
      (sum, { confidence, accuracy, pairs: count }) =>
        sum + (count / pairs.length) * Math.abs(confidence - accuracy),
      0,
    ),
    ...moments(scores.flat()),
  };
}

const settingsSchema = z.object({
  /** Taken from every score, so that the better answers score 0 on average. Ouyang et al. 2022, appendix C.2. */
  offset: z.number(),
});

const settingsFile = (folder: string): string => path.join(folder, "reward.json");

/** Keeps a reward model's offset, with what was measured of it. */
export const writeRewardSettings = (folder: string, offset: number, measure: RewardMeasure): Promise<void> =>
  writeJson(settingsFile(folder), { offset, ...measure });

/** A finished reward model. */
export interface RewardModel extends HeadCheckpoint<WeightSet>, Disposable {
  /** Rewards of whole texts, in their order: the head's numbers less the offset. */
  rewards(texts: readonly (readonly number[] | ScoredText)[], options?: RunOptions): Promise<number[]>;
  readonly offset: number;
}

/** Throws `checkpoint` where the folder has no head of one number. */
const loadScorer = async (runtime: Runtime, folder: string) => {
  try {
    return await loadTaskForInference(runtime, folder, "classify", { numLabels: 1 });
  } catch (error) {
    if (!(error instanceof LineageError) || !["checkpoint", "unsupported"].includes(error.code)) throw error;
    throw new LineageError(
      error.code,
      `${folder} is no reward model; lineage align reward trains one (${error.message})`,
      { cause: error },
    );
  }
};

/** Opens what `align reward` wrote, or any `*ForSequenceClassification` with one label. */
export async function openRewardModel(runtime: Runtime, folder: string): Promise<RewardModel> {
  const loaded = await loadScorer(runtime, folder);
  const file = settingsFile(folder);
  const { offset } = existsSync(file)
    ? validated(settingsSchema, await readJson(file), (problem) => new FormatError(file, problem))
    : { offset: 0 };
  const scorer = await Scorer.create(loaded);
  return {
    ...loaded,
    offset,
    rewards: async (texts, options) => (await scorer.score(texts, options)).map((score) => score - offset),
    [Symbol.dispose]: () => {
      scorer.dispose();
      loaded.weights.dispose();
    },
  };
}

/**
 * Rewards of answers to prompts, in words: each as the model learned from them, by its chat template where it has one. An
 * empty answer is the end alone. Throws `data` where both together are longer than the model reads.
 */
export function answerRewards(model: RewardModel): (prompt: string, answer: string) => Promise<number> {
  const { tokenizer } = model;
  const stopIds = endOfText(tokenizer);
  const encoder = new AnswerEncoder(tokenizer, stopIds, model.system.kind);
  const most = scaledContext(model.model.config);
  return async (prompt, answer) => {
    const asked = [{ role: "user", content: prompt }] as const;
    const empty =
      answer === "" && model.system.kind === "decoder" && tokenizer.config.chat_template === undefined;
    const text = empty
      ? { ids: [...encoder.prompt(asked), ...stopIds.slice(0, 1)] }
      : encoder.whole(asked, [{ role: "assistant", content: answer }]);
    if (text.ids.length > most)
      throw new LineageError(
        "data",
        `a prompt and its answer have ${text.ids.length} tokens, but the reward model reads at most ${most}; take shorter prompts or shorter answers`,
      );
    const [reward] = await model.rewards([text]);
    if (!Number.isFinite(reward))
      throw new LineageError(
        "checkpoint",
        `the reward model gives ${reward} for the answer ${JSON.stringify(answer.slice(0, 200))}; its weights may hold NaN`,
      );
    return reward!;
  };
}
