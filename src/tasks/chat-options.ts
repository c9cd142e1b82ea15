import { z } from "zod";
import { conversationLayouts, longFates, trainedParts } from "../data/index.js";
import { adamWNames, learningPlans, scheduleNames } from "../training/index.js";
import { loraOptions } from "./adapter-options.js";

const { adapter } = learningPlans;

/** Everything that decides a run of fine-tuning on conversations; kept beside the checkpoint. */
export const finetuneChatOptions = z.object({
  task: z.literal("chat").default("chat"),
  /** A decoder's or an encoder-decoder's folder or GGUF. */
  model: z.string(),
  /** Conversations: JSON, JSONL, CSV or Parquet. */
  data: z.string(),
  /** How they are written. Default: told by looking. */
  format: z.enum(conversationLayouts).optional(),
  encoding: z.string().optional(),
  skipBadRows: z.boolean().default(false),
  /** The same to evaluate on. Default: a share of `data` is held out. */
  eval: z.string().optional(),
  validation: z.number().positive().lt(1).default(0.05),
  /** What is learned: the assistant's turns, the last of them alone, or every token. */
  train: z.enum(trainedParts).default("assistant"),
  /** A file with a chat template in Jinja. Default: the base's own, else a plain one, which is told. */
  template: z.string().optional(),
  /** Tokens of a conversation at most; of an encoder-decoder those of what it reads, and of an answer. Default: the model's context, 1,024 at most. */
  maxLength: z.int().min(8).optional(),
  /**
   * What becomes of a longer one: cut, left out, split between exchanges, or the file refused. An encoder-decoder forgets the oldest
   * exchanges where it is cut, and splits nothing.
   */
  long: z.enum(longFates).default("cut"),
  /** Tokens of a batch, in rows of several conversations of which none sees another. */
  maxTokens: z.int().min(8).default(2048),
  accumulate: z.int().positive().default(1),
  /** Computes the insides of layers again in the backward pass instead of keeping them: less memory, a third more time. */
  gradientCheckpointing: z.boolean().default(false),
  /** `qlora` keeps the base's matrices in 4-bit NormalFloat, `lora` as its files have them; `prompt` and `prefix` learn virtual tokens before them; `none` trains all weights. */
  adapter: z.enum(["lora", "qlora", "prompt", "prefix", "none"]).default("lora"),
  /** Virtual tokens of a soft prompt or a prefix. */
  virtualTokens: z.int().positive().default(20),
  /** What a soft prompt begins as. Default: tokens of the vocabulary at random, from the seed. */
  promptInit: z.string().min(1).optional(),
  ...loraOptions,
  epochs: z.number().positive().default(3),
  /** Steps to train. Default: as many as the epochs have. */
  steps: z.int().positive().optional(),
  /** Peak of the schedule. Default: 2e-4 for LoRA, 2e-5 for all weights, the plan's for a soft prompt. */
  learningRate: z.number().positive().optional(),
  /** Share of the steps over which the learning rate rises. */
  warmup: z.number().min(0).lt(1).default(adapter.warmup.share),
  schedule: z.enum(scheduleNames).default(adapter.schedule),
  weightDecay: z.number().nonnegative().default(adapter.weightDecay),
  beta2: z.number().positive().lt(1).default(adapter.betas[1]),
  /** `adamw8bit`: moments in 8 bits, Dettmers et al. 2022; `paged`: in a file of the run, Dettmers et al. 2023. */
  optimizer: z.enum([...adamWNames, "adafactor"]).default("adamw"),
  clip: z.number().positive().default(1),
  /** Steps between evaluations. Default: once an epoch. */
  evalEvery: z.int().positive().optional(),
  /** Held-out conversations whose last answer is written at an evaluation, beside what was wanted. */
  samples: z.int().nonnegative().default(2),
  /** Tokens of such an answer at most. */
  sampleTokens: z.int().positive().default(64),
  /** Evaluations without a better held-out loss after which training ends. Default: never. */
  patience: z.int().positive().optional(),
  seed: z.int().nonnegative().default(1),
});
export type FinetuneChatOptions = z.infer<typeof finetuneChatOptions>;
