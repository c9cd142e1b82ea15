import { type Schedule, type ScheduleName, schedule } from "./schedules.js";

/** How a run learns where nobody says: its learning rate over the steps, and what AdamW does with it. */
export interface LearningPlan {
  readonly schedule: ScheduleName;
  /** Peak of the schedule with AdamW. */
  readonly learningRate: number;
  /** Share of the steps over which the rate rises, and how many steps that is at most. */
  readonly warmup: { readonly share: number; readonly most?: number };
  /** Rate after the last step, as a share of the peak. */
  readonly floor: number;
  readonly betas: readonly [number, number];
  readonly weightDecay: number;
}

/** Peaks that suit each optimiser in a decoder from nothing: Adafactor's is relative to the size of a parameter. */
export const optimizerRates = {
  adamw: 1e-3,
  adamw8bit: 1e-3,
  "paged-adamw": 1e-3,
  "paged-adamw8bit": 1e-3,
  sgd: 0.1,
  adafactor: 1e-2,
  palm: 1e-2,
} as const;

/** The plan of each kind of run. */
export const learningPlans = {
  /**
   * A decoder from nothing. The rate falls along a cosine to a tenth, and weights decay by 0.1, as in Brown et al. 2020,
   * appendix B; models as small as these bear 1e-3. Runs are short: with a warm-up of a tenth, a small GPT-2 on characters
   * jumps from a loss of 3.5 to 4.1 in its 11th step, in PyTorch too; with a third it does not, and ends lower.
   */
  train: {
    schedule: "cosine",
    learningRate: optimizerRates.adamw,
    warmup: { share: 1 / 3, most: 100 },
    floor: 0.1,
    betas: [0.9, 0.99],
    weightDecay: 0.1,
  },
  /**
   * A decoder from nothing with PaLM's Adafactor, Chowdhery et al. 2022, section 5: 1e-2 for 10,000 steps and the inverse root of the
   * steps from then on, without a warm-up. The optimiser's weight decay is the rate squared.
   */
  palm: {
    schedule: "relative",
    learningRate: optimizerRates.palm,
    warmup: { share: 0 },
    floor: 0,
    betas: [0.9, 0],
    weightDecay: 0,
  },
  /**
   * A decoder's adapter: the rate of Hu et al. 2021, table 11, and of Dettmers et al. 2023, table 9. A warm-up of a tenth; the update
   * itself begins at zero and does not decay.
   */
  adapter: {
    schedule: "cosine",
    learningRate: 2e-4,
    warmup: { share: 0.1, most: 100 },
    floor: 0.1,
    betas: [0.9, 0.99],
    weightDecay: 0,
  },
  /**
   * An adapter of an encoder that knows its language, with a new head: the rate of Hu et al. 2021, table 9, ten times that of all
   * weights. The head begins at random and is learned whole.
   */
  finetuneAdapter: {
    schedule: "linear",
    learningRate: 5e-4,
    warmup: { share: 0.1 },
    floor: 0,
    betas: [0.9, 0.999],
    weightDecay: 0.01,
  },
  /** An adapter of an encoder-decoder, which bears more than one of an encoder, as its weights do. */
  finetunePairsAdapter: {
    schedule: "linear",
    learningRate: 1e-3,
    warmup: { share: 0.1 },
    floor: 0,
    betas: [0.9, 0.98],
    weightDecay: 0,
  },
  /** A soft prompt or a prefix: few numbers, which have far to go; Lester et al. 2021, section 3.2, take higher rates still. */
  softPrompt: {
    schedule: "cosine",
    learningRate: 1e-2,
    warmup: { share: 0.1, most: 100 },
    floor: 0.1,
    betas: [0.9, 0.99],
    weightDecay: 0,
  },
  /**
   * A decoder that goes on, with another objective perhaps: Tay et al. 2022 (UL2R), section 3.4, continue with a cosine that ends at a
   * hundredth of its peak. Theirs is 1e-4 for billions of parameters; small models bear more.
   */
  further: {
    schedule: "cosine",
    learningRate: 3e-4,
    warmup: { share: 0.05, most: 100 },
    floor: 0.01,
    betas: [0.9, 0.99],
    weightDecay: 0.1,
  },
  /**
   * An encoder from nothing: a warm-up and a line down to nothing, Devlin et al. 2019, appendix A.2, with the second beta of
   * Liu et al. 2019, section 3.1, whose losses jump less. Small models bear ten times BERT's 1e-4.
   */
  pretrain: {
    schedule: "linear",
    learningRate: 1e-3,
    warmup: { share: 0.1 },
    floor: 0,
    betas: [0.9, 0.98],
    weightDecay: 0.01,
  },
  /** An encoder that knows its language: the largest rate of Devlin et al. 2019, appendix A.3; more would undo what it knows. */
  finetune: {
    schedule: "linear",
    learningRate: 5e-5,
    warmup: { share: 0.1 },
    floor: 0,
    betas: [0.9, 0.999],
    weightDecay: 0.01,
  },
  /**
   * An encoder-decoder from nothing: the root of the steps after a warm-up, and the betas of Vaswani et al. 2017, section
   * 5.3. Runs are shorter than theirs, and networks smaller.
   */
  trainPairs: {
    schedule: "inverse-root",
    learningRate: 2e-3,
    warmup: { share: 0.1, most: 2000 },
    floor: 0,
    betas: [0.9, 0.98],
    weightDecay: 0,
  },
  /** An encoder-decoder that knows its language: T5 bears more than an encoder, whose rates would take it many epochs. */
  finetunePairs: {
    schedule: "linear",
    learningRate: 3e-4,
    warmup: { share: 0.1 },
    floor: 0,
    betas: [0.9, 0.98],
    weightDecay: 0,
  },
} as const satisfies Readonly<Record<string, LearningPlan>>;

/** Steps of rising learning rate. */
export const warmupSteps = ({ warmup: { share, most = Infinity } }: LearningPlan, steps: number): number =>
  Math.min(most, Math.floor(steps * share));

/** What a person chose of a plan. */
export interface PlanChoices {
  readonly schedule?: ScheduleName | undefined;
  readonly learningRate?: number | undefined;
  /** In steps. */
  readonly warmup?: number | undefined;
}

/** The learning rate of a run of so many steps: by its plan, but for what was chosen. */
export function plannedSchedule(plan: LearningPlan, steps: number, choices: PlanChoices = {}): Schedule {
  const learningRate = choices.learningRate ?? plan.learningRate;
  return schedule(choices.schedule ?? plan.schedule, {
    learningRate,
    warmupSteps: choices.warmup ?? warmupSteps(plan, steps),
    // A rate that ends at nothing ends after the last step, from which something is to be learned, too.
    totalSteps: plan.floor === 0 ? steps + 1 : steps,
    minimum: plan.floor * learningRate,
  });
}
