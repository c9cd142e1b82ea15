import { z } from "zod";
import { conversationLayouts } from "../data/index.js";
import { scheduleNames } from "../training/index.js";

const data = {
  /** Preferences, rankings, verdicts or prompts: JSON, JSONL, CSV or Parquet. */
  data: z.string(),
  encoding: z.string().optional(),
  skipBadRows: z.boolean().default(false),
  /** The same to evaluate on. Default: a share of `data` is held out. */
  eval: z.string().optional(),
  validation: z.number().positive().lt(1).default(0.1),
};

const learning = {
  accumulate: z.int().positive().default(1),
  /** Computes the insides of layers again in the backward pass instead of keeping them: less memory, a third more time. */
  gradientCheckpointing: z.boolean().default(false),
  /** Share of the steps over which the learning rate rises. */
  warmup: z.number().min(0).lt(1).default(0.1),
  schedule: z.enum(scheduleNames).default("linear"),
  weightDecay: z.number().nonnegative().default(0),
  clip: z.number().positive().default(1),
  /** Evaluations without a better one after which training ends. Default: never. */
  patience: z.int().positive().optional(),
  seed: z.int().nonnegative().default(1),
};

const adapter = {
  /** A decoder's or an encoder-decoder's folder, or a GGUF. */
  model: z.string(),
  /** `none` trains all weights, `lora` an adapter beside them, `qlora` one beside weights in 4-bit NormalFloat. */
  adapter: z.enum(["lora", "qlora", "none"]).default("lora"),
  rank: z.int().positive().default(16),
  alpha: z.number().positive().default(32),
  rsLora: z.boolean().default(false),
  loraTargets: z.string().default("all-linear"),
};

/** Everything that decides a run of learning from pairs; kept beside the checkpoint. */
export const preferenceOptions = z.object({
  method: z.literal("dpo").default("dpo"),
  ...adapter,
  ...data,
  format: z.enum(conversationLayouts).optional(),
  loss: z.enum(["dpo", "ipo", "hinge", "robust", "simpo", "cpo", "orpo", "kto"]).default("dpo"),
  /** Default: 0.1; SimPO 2. */
  beta: z.number().positive().optional(),
  /** Share of the preferences that are taken to be the wrong way round. Default 0; robust 0.1. */
  labelSmoothing: z.number().min(0).lt(0.5).optional(),
  /** SimPO's target margin. */
  gamma: z.number().nonnegative().default(1),
  /** Weights of liked and of disliked answers, KTO. */
  desirableWeight: z.number().positive().default(1),
  undesirableWeight: z.number().positive().default(1),
  /** Tokens of a prompt and an answer at most; rows that are longer are left out and told. Default: the model's context, 1,024 at most. */
  maxLength: z.int().min(4).optional(),
  /** Pairs of a batch. */
  batch: z.int().positive().default(8),
  epochs: z.number().positive().default(1),
  steps: z.int().positive().optional(),
  /** Default: 5e-5 for an adapter, 5e-6 for all weights. */
  learningRate: z.number().positive().optional(),
  evalEvery: z.int().positive().optional(),
  ...learning,
});
export type PreferenceOptions = z.infer<typeof preferenceOptions>;

/** Everything that decides a run that trains a reward model. */
export const rewardOptions = z.object({
  method: z.literal("reward").default("reward"),
  /** Folder of a decoder or an encoder. */
  model: z.string(),
  ...data,
  format: z.enum(conversationLayouts).optional(),
  /** Whether grades of the data are margins, LLaMA-2's equation 2, and what they are multiplied by. 0: they are not. */
  margin: z.number().nonnegative().default(0),
  maxLength: z.int().min(4).optional(),
  /** Prompts of a batch, each with all of its answers. */
  batch: z.int().positive().default(8),
  epochs: z.number().positive().default(1),
  steps: z.int().positive().optional(),
  learningRate: z.number().positive().default(1e-5),
  evalEvery: z.int().positive().optional(),
  ...learning,
});
export type RewardOptions = z.infer<typeof rewardOptions>;

const online = {
  ...adapter,
  ...data,
  /** A reward model's folder: what `align reward` writes, or any `*ForSequenceClassification` with one label. */
  reward: z.string().optional(),
  /** A second reward model, for safety: combined with the first as in LLaMA-2. */
  safety: z.string().optional(),
  /** A JavaScript module whose default function gives rewards: `(samples) => numbers`. */
  rule: z.string().optional(),
  /** Rounds of writing and learning. */
  rounds: z.int().positive().default(50),
  /** Prompts of a round. */
  prompts: z.int().positive().default(32),
  /** Tokens of a completion at most. */
  maxNewTokens: z.int().positive().default(64),
  /** Tokens of a prompt at most; longer ones are left out and told. */
  maxPrompt: z.int().positive().default(512),
  /** Taken from the reward of a completion that did not end by itself. */
  missingEndPenalty: z.number().nonnegative().default(0),
  /** Default: 1e-4 for an adapter, 1e-5 for all weights. */
  learningRate: z.number().positive().optional(),
  /** Rounds between evaluations. Default: a tenth of them. */
  evalEvery: z.int().positive().optional(),
  /** Held-out prompts that are written after at an evaluation. */
  evalPrompts: z.int().positive().default(32),
  ...learning,
  schedule: z.enum(scheduleNames).default("constant"),
  warmup: z.number().min(0).lt(1).default(0),
};

/** Everything that decides a run of PPO. */
export const ppoOptions = z.object({
  method: z.literal("ppo").default("ppo"),
  ...online,
  samples: z.int().positive().default(1),
  /** Completions of one step. */
  batch: z.int().positive().default(16),
  /** Times that a round is learned from. */
  epochs: z.int().positive().default(2),
  /** Coefficient of the divergence at each token. */
  klCoefficient: z.number().nonnegative().default(0.05),
  /** Divergence of a completion, in nats, that the coefficient is adapted to. Default: it stays. */
  klTarget: z.number().positive().optional(),
  clipRange: z.number().positive().default(0.2),
  valueWeight: z.number().nonnegative().default(0.1),
  /** `shared` reads the policy's states; `own` is a network of its own, the reward model's at first where there is one. Default: shared with an adapter, own without. */
  value: z.enum(["shared", "own"]).optional(),
  gamma: z.number().min(0).max(1).default(1),
  lambda: z.number().min(0).max(1).default(0.95),
  whitenRewards: z.boolean().default(false),
  /** A text whose loss is mixed in: PPO-ptx. Default: none. */
  pretraining: z.string().optional(),
  pretrainingWeight: z.number().positive().default(1),
});
export type PpoOptions = z.infer<typeof ppoOptions>;

/** Everything that decides a run of GRPO. */
export const grpoOptions = z.object({
  method: z.literal("grpo").default("grpo"),
  ...online,
  prompts: z.int().positive().default(8),
  /** Completions of each prompt. */
  samples: z.int().min(2).default(8),
  batch: z.int().positive().default(64),
  epochs: z.int().positive().default(1),
  /** Weight of the divergence from the reference. */
  beta: z.number().nonnegative().default(0.04),
  clipRange: z.number().positive().default(0.2),
  /** What losses are a mean over. */
  meanOver: z.enum(["completions", "tokens"]).default("completions"),
});
export type GrpoOptions = z.infer<typeof grpoOptions>;

/** Everything that decides a run of rejection sampling. */
export const rejectionOptions = z.object({
  method: z.literal("rejection").default("rejection"),
  ...online,
  /** Completions of each prompt, of which the best is learned. */
  samples: z.int().min(2).default(8),
  temperature: z.number().positive().default(1),
  batch: z.int().positive().default(16),
  epochs: z.int().positive().default(1),
});
export type RejectionOptions = z.infer<typeof rejectionOptions>;
export type OnlineOptionsOf = PpoOptions | GrpoOptions | RejectionOptions;
