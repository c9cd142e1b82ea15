import type { z } from "zod";
import { LineageError } from "../base/errors.js";
import { count } from "../base/numbers.js";
import { Random } from "../base/random.js";
import { type HeadCheckpoint, loadForTask, saveModel } from "../checkpoints/index.js";
import {
  type Batch,
  type BatchSource,
  BucketedSource,
  readPreferences,
  readRankings,
  readVerdicts,
} from "../data/index.js";
import { endOfText } from "../generation/index.js";
import { type Weights, scaledContext } from "../nn/index.js";
import {
  type PairLoss,
  cpo,
  dpo,
  hinge,
  ipo,
  ktoObjective,
  orpo,
  preferenceObjective,
  rankingObjective,
  robustDpo,
  simpo,
} from "../objectives/index.js";
import { createRuntime } from "../runtime/index.js";
import { type RunControl, inRunFolder } from "../tasks/run.js";
import {
  EvaluationStep,
  type Objective,
  type Optimizer,
  type RunFolder,
  type TrainingResult,
  adamW,
  runTraining,
  schedule,
} from "../training/index.js";
import type { CompletionReader } from "./forward.js";
import { keptReference } from "./reference.js";
import { openLearner } from "./learner.js";
import { type PreferenceOptions, type RewardOptions, preferenceOptions, rewardOptions } from "./options.js";
import { type Liked, type Pair, likedBatch, pairBatch } from "./pairs.js";
import {
  type RankedRow,
  type RewardMeasure,
  Scorer,
  measureRewards,
  rankingBatch,
  scoredTexts,
  scoringNetwork,
  writeRewardSettings,
} from "./reward-model.js";
import { AnswerEncoder, encodePreferences, encodeRankings, encodeVerdicts } from "./texts.js";

/** What a run on preferences did. */
export interface AlignResult<Options> extends TrainingResult {
  readonly options: Options;
  readonly rows: number;
  readonly heldOutRows: number;
  /** Metrics of the last evaluation. */
  readonly metrics: Readonly<Record<string, number>>;
}

export type PreferenceRequest = z.input<typeof preferenceOptions> & { readonly out: string };
export type RewardRequest = z.input<typeof rewardOptions> & { readonly out: string };

/**
 * Learns from pairs of a chosen and a rejected answer (DPO and its kin), or from thumbs (KTO):
 *
 *     await alignPreferences({ model: "some-model", data: "prefs.jsonl", adapter: "lora", out: "runs/dpo" });
 */
export const alignPreferences = (
  { out, ...given }: PreferenceRequest,
  control: RunControl = {},
): Promise<AlignResult<PreferenceOptions>> =>
  inRunFolder(out, preferenceOptions, { resume: false, given }, (folder) => runPreferences(folder, control));

export const resumePreferences = (
  out: string,
  control: RunControl = {},
): Promise<AlignResult<PreferenceOptions>> =>
  inRunFolder(out, preferenceOptions, { resume: true }, (folder) => runPreferences(folder, control));

/** Trains a reward model from rankings or pairs, with all answers to a prompt in one batch. */
export const alignReward = (
  { out, ...given }: RewardRequest,
  control: RunControl = {},
): Promise<AlignResult<RewardOptions>> =>
  inRunFolder(out, rewardOptions, { resume: false, given }, (folder) => runReward(folder, control));

export const resumeReward = (out: string, control: RunControl = {}): Promise<AlignResult<RewardOptions>> =>
  inRunFolder(out, rewardOptions, { resume: true }, (folder) => runReward(folder, control));

/** Learning rates where nobody says. */
const usualRates = { adapter: 5e-5, whole: 5e-6 };

function lossOfName({ loss, beta, labelSmoothing, gamma }: PreferenceOptions): PairLoss | undefined {
  const common = {
    ...(beta !== undefined && { beta }),
    ...(labelSmoothing !== undefined && { labelSmoothing }),
  };
  if (labelSmoothing !== undefined && ["ipo", "hinge", "orpo", "kto"].includes(loss))
    throw new LineageError("argument", `the loss ${loss} has no label smoothing; leave it out`);
  const made: Readonly<Record<string, () => PairLoss>> = {
    dpo: () => dpo(common),
    ipo: () => ipo(common),
    hinge: () => hinge(common),
    robust: () => robustDpo(common),
    simpo: () => simpo({ ...common, gamma }),
    cpo: () => cpo(common),
    orpo: () => orpo(common),
  };
  return made[loss]?.();
}

/** The longest row that a model takes where nobody says. */
export function rowLength(asked: number | undefined, contextLength: number): number {
  if (asked !== undefined && asked > contextLength)
    throw new LineageError(
      "length",
      `--max-length must be at most ${contextLength}, the tokens that the model reads, not ${asked}`,
    );
  return asked ?? Math.min(1024, contextLength);
}

type Tell = RunControl["onMessage"];

export function tellLong(file: string, long: readonly number[], all: number, most: number, tell: Tell): void {
  if (long.length === 0) return;
  const shown = long.slice(0, 5).join(", ") + (long.length > 5 ? ", …" : "");
  tell?.(
    `${file}: ${long.length} of ${all} rows have more than ${most} tokens and are left out (rows ${shown}); a larger --max-length keeps them`,
    { file, longRows: long.length },
  );
}

/** Rows to learn from and to evaluate on. What stands in one row of the file, the pairs of a ranking, stays together. */
export function heldOut<Row>(
  rows: readonly Row[],
  share: number,
  seed: number,
  name: string,
  rowOf: (row: Row, index: number) => number = (_, index) => index,
): [Row[], Row[]] {
  const numbers = [...new Set(rows.map(rowOf))];
  if (numbers.length < 2)
    throw new LineageError(
      "data",
      `${name} has ${numbers.length} usable rows; two or more are needed, of which one is held out`,
    );
  const held = Math.min(numbers.length - 1, Math.max(1, Math.round(numbers.length * share)));
  const order = new Random(seed).fork("held out").permutation(numbers.length);
  const chosen = new Set(Array.from(order.subarray(0, held), (place) => numbers[place]));
  return [
    rows.filter((row, index) => !chosen.has(rowOf(row, index))),
    rows.filter((row, index) => chosen.has(rowOf(row, index))),
  ];
}

/** All rows once, some at a time. */
function* inBatches<Row>(rows: readonly Row[], size: number, collate: (rows: readonly Row[]) => Batch) {
  for (let start = 0; start < rows.length; start += size) yield collate(rows.slice(start, start + size));
}

interface OfflineRun {
  readonly folder: RunFolder<PreferenceOptions | RewardOptions>;
  readonly objective: Objective;
  readonly weights: Weights;
  readonly source: BatchSource & { readonly batches: number };
  readonly learningRate: number;
  readonly evaluate: (
    weights: Weights,
    signal?: AbortSignal,
  ) => Promise<{ readonly loss: number } & Record<string, number>>;
  readonly save: (weights: Weights) => Promise<void>;
  readonly control: RunControl;
}

export const optimizerOf =
  (weightDecay: number) =>
  (weights: Weights, gradients: Weights): Promise<Optimizer> =>
    adamW(weights, gradients, { betas: [0.9, 0.999], weightDecay });

async function train({ folder, control, evaluate, ...run }: OfflineRun) {
  const { options } = folder;
  const perEpoch = Math.max(1, Math.floor(run.source.batches / options.accumulate));
  const steps = options.steps ?? Math.max(1, Math.round(perEpoch * options.epochs));
  let metrics: Readonly<Record<string, number>> = {};
  const result = await runTraining({
    ...run,
    folder,
    steps,
    accumulation: options.accumulate,
    gradientCheckpointing: options.gradientCheckpointing,
    clipNorm: options.clip,
    seed: options.seed,
    schedule: schedule(options.schedule, {
      learningRate: run.learningRate,
      warmupSteps: Math.floor(steps * options.warmup),
      totalSteps: steps + 1,
    }),
    optimizer: optimizerOf(options.weightDecay),
    evalEvery: options.evalEvery ?? Math.min(steps, Math.max(1, perEpoch)),
    patience: options.patience,
    evaluate: async (kept, { signal }) => {
      const found = await evaluate(kept, signal);
      metrics = found;
      return found;
    },
    ...(control.signal && { signal: control.signal }),
    ...(control.observer && { observer: control.observer }),
  });
  return { ...result, metrics };
}

async function runPreferences(
  folder: RunFolder<PreferenceOptions>,
  control: RunControl,
): Promise<AlignResult<PreferenceOptions>> {
  const { options } = folder;
  const tell = control.onMessage;
  const loss = lossOfName(options);
  using learner = await openLearner(control.runtime ?? createRuntime(), options);
  const { model, tokenizer, stopIds } = learner;
  const encoder = new AnswerEncoder(tokenizer, stopIds, learner.system.kind);
  const most = rowLength(options.maxLength, scaledContext(model.config));
  const [training, held] = loss
    ? await readPairs(options, encoder, most, tell)
    : await readThumbs(options, encoder, most, tell);
  tell?.(
    `${count(training.length)} ${loss ? "pairs" : "answers"} to learn from, ${count(held.length)} held out` +
      (learner.adapter
        ? `; an adapter of rank ${options.rank} beside ${learner.adapter.layers.size} layers learns`
        : "; all weights learn"),
    { rows: training.length, heldOut: held.length },
  );
  const weights = learner.learning(model, options.seed);
  const needed = loss?.needsReference ?? true;
  const known = needed
    ? await withReference(folder, learner.reference, [...training, ...held], tell, control.signal)
    : [...training, ...held];
  const rows = known.slice(0, training.length);
  const others = known.slice(training.length);
  const objective = loss ? preferenceObjective(model, loss) : ktoObjective(model, options);
  const collate = (list: readonly (Pair | Liked)[]): Batch =>
    loss ? pairBatch(model, list as readonly Pair[]) : likedBatch(model, list as readonly Liked[]);
  const source = new BucketedSource<Pair | Liked>(rows, {
    batchSize: options.batch,
    seed: options.seed,
    lengthOf: (row) => row.prompt.length + answersOf(row).reduce((sum, ids) => sum + ids.length, 0),
    collate,
  });
  let step: EvaluationStep | undefined;
  const result = await train({
    folder,
    objective,
    weights,
    source,
    learningRate: options.learningRate ?? (learner.adapter ? usualRates.adapter : usualRates.whole),
    control,
    evaluate: async (kept, signal) => {
      step ??= await EvaluationStep.create(objective, kept);
      const { loss: value, parts } = await step.evaluate(inBatches(others, options.batch, collate), {
        signal,
      });
      return { ...parts, loss: value };
    },
    save: (kept) => learner.save(folder.path, kept),
  }).finally(() => step?.dispose());
  return { ...result, options, rows: training.length, heldOutRows: held.length };
}

const answersOf = (row: Pair | Liked): readonly (readonly number[])[] =>
  "chosen" in row ? [row.chosen, row.rejected] : [row.completion, row.other];

/** Log-probabilities of all answers under the model as it is: computed once, and kept with the run. */
async function withReference<Row extends Pair | Liked>(
  { path: out }: RunFolder,
  reference: CompletionReader,
  rows: readonly Row[],
  tell: Tell,
  signal: AbortSignal | undefined,
): Promise<Row[]> {
  const found = await keptReference(out, rows, async () => {
    tell?.(`log-probabilities under the reference: ${count(2 * rows.length)} answers, once`, {});
    const read = await reference.read(
      rows.flatMap((row) => answersOf(row).map((completion) => ({ prompt: row.prompt, completion }))),
      { signal },
    );
    return read.map(({ logProbs }) => logProbs!.reduce((sum, value) => sum + value, 0));
  });
  return rows.map((row, index) => ({ ...row, reference: [found[2 * index]!, found[2 * index + 1]!] }));
}

/** The pairs of the data, those to learn from and those held out. */
async function readPairs(options: PreferenceOptions, encoder: AnswerEncoder, most: number, tell: Tell) {
  const read = async (file: string) => {
    const { rows } = await readPreferences(file, options);
    const { pairs, long } = encodePreferences(file, rows, encoder, most);
    tellLong(file, long, rows.length, most, tell);
    return pairs;
  };
  const all = await read(options.data);
  if (options.eval !== undefined) return [all, await read(options.eval)] as const;
  return heldOut(all, options.validation, options.seed, options.data, ({ row }) => row);
}

async function readThumbs(options: PreferenceOptions, encoder: AnswerEncoder, most: number, tell: Tell) {
  const read = async (file: string) => {
    const { rows } = await readVerdicts(file, options);
    const { pairs, long } = encodeVerdicts(file, rows, encoder, most);
    tellLong(file, long, rows.length, most, tell);
    if (pairs.length < 2)
      throw new LineageError(
        "data",
        `${file} has ${pairs.length} usable answers; KTO compares each with another one's`,
      );
    return pairs.map(({ prompt, completion, good }, index): Liked => ({
      prompt,
      completion,
      liked: good,
      other: pairs[(index + 1) % pairs.length]!.completion,
    }));
  };
  const all = await read(options.data);
  if (options.eval !== undefined) return [all, await read(options.eval)] as const;
  return heldOut(all, options.validation, options.seed, options.data);
}

async function runReward(
  folder: RunFolder<RewardOptions>,
  control: RunControl,
): Promise<AlignResult<RewardOptions>> {
  const { options } = folder;
  const tell = control.onMessage;
  const loaded: HeadCheckpoint = await loadForTask(
    control.runtime ?? createRuntime(),
    options.model,
    "classify",
    {
      numLabels: 1,
      newHead: "if missing",
      seed: options.seed,
    },
  );
  using weights = loaded.weights;
  if (loaded.statement !== undefined) tell?.(loaded.statement, {});
  const { tokenizer } = loaded;
  const encoder = new AnswerEncoder(tokenizer, endOfText(tokenizer), loaded.system.kind);
  const most = rowLength(options.maxLength, scaledContext(loaded.model.config));
  const read = async (file: string) => {
    const { rows } = await readRankings(file, options);
    const { rankings, long } = encodeRankings(file, rows, encoder, {
      maxLength: most,
      marginScale: options.margin,
    });
    tellLong(file, long, rows.length, most, tell);
    return rankings;
  };
  const all = await read(options.data);
  const [training, held] =
    options.eval === undefined
      ? heldOut(all, options.validation, options.seed, options.data)
      : [all, await read(options.eval)];
  tell?.(`${count(training.length)} prompts to learn from, ${count(held.length)} held out`, {
    rows: training.length,
    heldOut: held.length,
  });
  const objective = rankingObjective(scoringNetwork(loaded));
  const source = new BucketedSource<RankedRow>(training, {
    batchSize: options.batch,
    seed: options.seed,
    lengthOf: ({ answers }) => Math.max(...answers.map(({ length }) => length)),
    collate: (rows) => rankingBatch(loaded, rows),
  });
  using scorer = await Scorer.create(loaded);
  const score = async (rows: readonly RankedRow[], signal?: AbortSignal) => {
    const flat = await scorer.score(rows.flatMap(scoredTexts), { signal });
    let start = 0;
    return rows.map(({ answers }) => flat.slice(start, (start += answers.length)));
  };
  let measure: RewardMeasure | undefined;
  const save = async () => {
    // Whole texts of the best answers stand for demonstrations, which score 0 on average.
    const shown = training.slice(0, 256);
    const best = (await score(shown)).map((scores, row) => scores[shown[row]!.ranks.indexOf(0)]!);
    const offset = best.reduce((sum, value) => sum + value, 0) / best.length;
    const measured = measure ?? measureRewards(held, await score(held));
    await saveModel(
      folder.path,
      { ...loaded, labels: ["reward"] },
      {
        beside: (staging) => writeRewardSettings(staging, offset, measured),
      },
    );
  };
  using step = await EvaluationStep.create(objective, weights);
  const result = await train({
    folder,
    objective,
    weights,
    source,
    learningRate: options.learningRate,
    control,
    evaluate: async (_, signal) => {
      const collate = (rows: readonly RankedRow[]) => rankingBatch(loaded, rows);
      const { loss, parts } = await step.evaluate(inBatches(held, options.batch, collate), { signal });
      measure = measureRewards(held, await score(held, signal));
      return { ...parts, loss, calibrationError: measure.calibrationError };
    },
    save,
  });
  return { ...result, options, rows: training.length, heldOutRows: held.length };
}
