import { z } from "zod";
import { adamWNames, learningPlans, scheduleNames } from "../training/index.js";
import { besideOptions } from "./adapter-options.js";

const { trainPairs, finetunePairs } = learningPlans;

/** What decides a run over pairs of texts, whether its model is new or not. */
const pairsShape = {
  task: z.literal("text").default("text"),
  /** A table with a source and a target in every row; or the sources, one a line, where `targets` is given. */
  data: z.string(),
  /** The targets, one a line. */
  targets: z.string().optional(),
  /** Columns of the table. Default: by their names. */
  source: z.string().optional(),
  target: z.string().optional(),
  /** Stands before every source: `translate English to German: `. */
  prefix: z.string().default(""),
  /** The same to evaluate on. Default: a share of `data` is held out. */
  eval: z.string().optional(),
  evalTargets: z.string().optional(),
  /** Share of `data` that is held out where there is no `eval`. */
  validation: z.number().positive().lt(1).default(0.05),
  encoding: z.string().optional(),
  skipBadRows: z.boolean().default(false),
  /** Tokens of either text at most. Default: what the model was made for. */
  maxLength: z.int().min(4).optional(),
  /**
   * What becomes of a pair with a longer text: its end is cut off, the pair is left out, it is split where source and target
   * have as many sentences as each other (else cut), or the file is refused.
   */
  long: z.enum(["cut", "skip", "split", "refuse"]).default("cut"),
  /** Rows of a batch times the longest text in it. */
  maxTokens: z.int().min(8).default(4096),
  /** Rows of a batch at most. */
  batch: z.int().positive().default(1024),
  accumulate: z.int().positive().default(1),
  /** Computes the insides of layers again in the backward pass instead of keeping them: less memory, a third more time. */
  gradientCheckpointing: z.boolean().default(false),
  /** Steps to train. Default: as many as the epochs have. */
  steps: z.int().positive().optional(),
  labelSmoothing: z.number().min(0).lt(1).default(0.1),
  clip: z.number().positive().default(1),
  /** `adamw8bit`: moments in 8 bits, Dettmers et al. 2022; `paged`: in a file of the run, Dettmers et al. 2023. */
  optimizer: z.enum([...adamWNames, "adafactor"]).default("adamw"),
  weightDecay: z.number().nonnegative().default(trainPairs.weightDecay),
  beta2: z.number().positive().lt(1).default(trainPairs.betas[1]),
  /** Target tokens over which the learning rate rises, counted in steps of mean size. Default: as `warmup` says. */
  warmupTokens: z.int().positive().optional(),
  /** Steps between evaluations. Default: once an epoch. */
  evalEvery: z.int().positive().optional(),
  /** Held-out texts that are written at an evaluation, the first ones; the loss is over all. */
  evalRows: z.int().nonnegative().default(200),
  /** Of them, how many are shown beside their references. */
  samples: z.int().nonnegative().default(3),
  /** Metric of the best checkpoint: loss, bleu, chrf, rouge1, rouge2, rougeL, exactMatch, tokenF1. */
  metric: z
    .enum(["loss", "bleu", "chrf", "rouge1", "rouge2", "rougeL", "exactMatch", "tokenF1"])
    .default("loss"),
  /** Evaluations without a better one after which training ends. Default: never. */
  patience: z.int().positive().optional(),
  /** Evaluates and saves the mean of the weights at this many last evaluations. Default: the weights themselves. */
  averageLast: z.int().positive().default(1),
  seed: z.int().nonnegative().default(1),
};

/** Everything that decides a run of fine-tuning on pairs of texts; kept beside the checkpoint. */
export const finetuneTextOptions = z.object({
  ...pairsShape,
  /** Folder of an encoder-decoder; with an adapter a GGUF, too. */
  model: z.string(),
  ...besideOptions,
  epochs: z.number().positive().default(3),
  /** Peak of the schedule. Default: 3e-4; an adapter 1e-3. */
  learningRate: z.number().positive().optional(),
  /** Share of the steps over which the learning rate rises. */
  warmup: z.number().min(0).lt(1).default(finetunePairs.warmup.share),
  schedule: z.enum(scheduleNames).default(finetunePairs.schedule),
});
export type FinetuneTextOptions = z.infer<typeof finetuneTextOptions>;

/** Everything that decides a run that makes an encoder-decoder from pairs of texts; kept beside the checkpoint. */
export const trainTextOptions = z.object({
  ...pairsShape,
  /** Name of an encoder-decoder. */
  system: z.string(),
  /** Fields of the system's configuration. Default: 4 layers, 128 wide, 4 heads; all else as published. */
  sizes: z.record(z.string(), z.unknown()).default({}),
  /** A folder with a tokenizer. Default: the system's own kind, learned from both sides together. */
  tokenizer: z.string().optional(),
  /** Tokens that the tokenizer learns. */
  vocabSize: z.int().min(64).default(8000),
  epochs: z.number().positive().default(20),
  learningRate: z.number().positive().default(trainPairs.learningRate),
  /** Steps of rising learning rate. Default: a tenth of the steps, 2,000 at most. */
  warmup: z.int().nonnegative().optional(),
  schedule: z.enum(scheduleNames).default(trainPairs.schedule),
});
export type TrainTextOptions = z.infer<typeof trainTextOptions>;

/** What a run is told, whether its model is new or not. */
export type TextOptions = FinetuneTextOptions | TrainTextOptions;
export type TextMetric = TextOptions["metric"];
