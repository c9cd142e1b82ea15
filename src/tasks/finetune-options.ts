import { z } from "zod";
import { taskNames } from "../data/index.js";
import { learningPlans } from "../training/index.js";
import { besideOptions } from "./adapter-options.js";

const plan = learningPlans.finetune;

/** Everything that decides a run of fine-tuning; kept beside the checkpoint so that resuming needs nothing else. */
export const finetuneOptions = z.object({
  /** Folder of an encoder or a decoder. */
  model: z.string(),
  task: z.enum(taskNames),
  /** CSV, TSV, JSONL or Parquet to learn from. */
  data: z.string(),
  /** The same to evaluate on. Default: a share of `data` is held out. */
  eval: z.string().optional(),
  /** Share of `data` that is held out where there is no `eval`. */
  validation: z.number().positive().lt(1).default(0.1),
  textColumn: z.string().optional(),
  pairColumn: z.string().optional(),
  labelColumn: z.string().optional(),
  /** Encoding of the files, where it is not UTF-8. */
  encoding: z.string().optional(),
  /** Leaves rows without a label out; they are refused otherwise. */
  skipUnlabelled: z.boolean().default(false),
  skipBadRows: z.boolean().default(false),
  /** Begins a new head even where the checkpoint has one. */
  newHead: z.boolean().default(false),
  ...besideOptions,
  epochs: z.number().positive().default(3),
  batch: z.int().positive().default(16),
  accumulate: z.int().positive().default(1),
  /** Computes the insides of layers again in the backward pass instead of keeping them: less memory, a third more time. */
  gradientCheckpointing: z.boolean().default(false),
  /** Peak of the schedule. Default: 5e-5; an adapter 5e-4. */
  learningRate: z.number().positive().optional(),
  /** Share of the steps over which the learning rate rises. */
  warmup: z.number().min(0).lt(1).default(plan.warmup.share),
  schedule: z.enum(["constant", "linear", "cosine"]).default(plan.schedule),
  weightDecay: z.number().nonnegative().default(plan.weightDecay),
  clip: z.number().positive().default(1),
  /** Factor of the learning rate from each layer to the one below it. */
  layerDecay: z.number().positive().max(1).default(1),
  /** Keeps the embeddings as they are. */
  freezeEmbeddings: z.boolean().default(false),
  /** Keeps the embeddings and this many of the first layers as they are. */
  freezeLayers: z.int().nonnegative().default(0),
  /** `balanced` weighs each class by the inverse of its frequency. */
  classWeights: z.enum(["none", "balanced"]).default("none"),
  /** Steps between evaluations. Default: once an epoch. */
  evalEvery: z.int().positive().optional(),
  /** Evaluations without a better one after which training ends. Default: never. */
  patience: z.int().positive().optional(),
  /** Metric of the best checkpoint. Default: accuracy, F1 or Pearson's correlation, as fits the task. `loss` for the least loss. */
  metric: z.string().optional(),
  /**
   * Probability from which on the second of two classes, or any of more, is answered; kept for predicting. `auto`: that at
   * which the held-out rows are answered best by `metric`, or by F1. Default: the most probable class is answered.
   */
  threshold: z.union([z.number().min(0).max(1), z.literal("auto")]).optional(),
  maxLength: z.int().min(4).optional(),
  /** Tokens that windows over a long context share. */
  stride: z.int().nonnegative().default(64),
  /**
   * Weight of the language-model loss of the rows beside the task's, for decoders; Radford et al. 2018, section 3.2. Default:
   * as the system's paper has it, 0.5 for GPT-1, else 0.
   */
  lmCoefficient: z.number().nonnegative().optional(),
  /** Reads pairs in both orders and adds what they give, where the order says nothing. */
  bothOrders: z.boolean().default(false),
  seed: z.int().nonnegative().default(1),
});
export type FinetuneOptions = z.infer<typeof finetuneOptions>;
