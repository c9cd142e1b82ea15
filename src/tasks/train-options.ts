import { z } from "zod";
import type { DecoderSystem, SystemName, systems } from "../models/index.js";
import { type TrainingResult, adamWNames, learningPlans, scheduleNames } from "../training/index.js";
import { loraOptions } from "./adapter-options.js";
import { type RunControl, fromNothing } from "./run.js";

const plan = learningPlans.train;

/** Everything that decides a run of training; kept beside the checkpoint so that resuming needs nothing else. */
export const trainOptions = z.object({
  ...fromNothing,
  /** Name of a decoder. */
  system: z.string().default("gpt2"),
  /** A text file, or `stories` for the embedded corpus; several files are `language=file` each. */
  data: z.union([z.string(), z.array(z.string()).min(1)]),
  /** Power of the languages' shares of the text by which they are sampled: 1 keeps them, 0 makes all alike. */
  exponent: z.number().nonnegative().default(1),
  /** Column with the labels of documents, of which some are marked by a token; the data is then a table. */
  controlColumn: z.string().min(1).optional(),
  /** Share of the documents that are marked. */
  controlRate: z.number().positive().max(1).default(0.1),
  /**
   * What is predicted from what: `causal`, `prefix` (the end of a text from its beginning, read both ways), `spans` (hidden spans),
   * `ul2` and `ul2r` (mixtures of denoisers), or several with weights: `causal=0.5,prefix=0.25,spans=0.25`.
   */
  objective: z.string().default("causal"),
  /** Fields of the system's configuration. Default: 4 layers, 128 wide, 4 heads, a context of 128; all else as published. */
  sizes: z.record(z.string(), z.unknown()).default({}),
  /** `bpe`: the system's own, learned from the text; `characters`; or a folder with a tokenizer. */
  tokenizer: z.string().default("bpe"),
  /** Tokens that the tokenizer learns. One of bytes needs 257, one of characters as many as the text has. */
  vocabSize: z.int().min(64).default(4096),
  /** Rows are blocks of one long run of tokens, or hold whole documents, none of which sees another. */
  packing: z.enum(["blocks", "documents"]).default("blocks"),
  /** Worker threads that share the micro-batches of a step out. Default: none. */
  workers: z.int().positive().optional(),
  /** A decoder's folder or GGUF that is trained further, or beside whose frozen weights an adapter is. Default: a model from nothing. */
  base: z.string().optional(),
  /**
   * `qlora` keeps the base's matrices in 4-bit NormalFloat, Dettmers et al. 2023; `lora` as its files have them. `prompt` learns
   * embeddings of virtual tokens before every text, Lester et al. 2021; `prefix` keys and values of every layer, Li & Liang 2021. With
   * `none` there is no adapter, and all weights learn. Default: `lora` for the causal objective, `none` for others.
   */
  adapter: z.enum(["lora", "qlora", "prompt", "prefix", "none"]).optional(),
  /** Virtual tokens of a soft prompt or a prefix. */
  virtualTokens: z.int().positive().default(20),
  /** What a soft prompt begins as. Default: tokens of the vocabulary at random, from the seed. */
  promptInit: z.string().min(1).optional(),
  /** Keeps the scales of qlora's base in 8 bits themselves, Dettmers et al. 2023, section 3. */
  doubleQuantization: z.boolean().default(false),
  ...loraOptions,
  /**
   * `adamw8bit`: moments in 8 bits, Dettmers et al. 2022; `paged`: in a file of the run, Dettmers et al. 2023. `palm`: Adafactor as PaLM set it, unfactored, with momentum, and a
   * weight decay of the rate squared.
   */
  optimizer: z.enum([...adamWNames, "sgd", "adafactor", "palm"]).default("adamw"),
  /** Peak of the schedule. Default: 1e-3 for AdamW, 0.1 for SGD, 1e-2 for Adafactor and PaLM's; an adapter 2e-4. */
  learningRate: z.number().positive().optional(),
  /** Default: `cosine`; for PaLM's Adafactor `relative`, 1 over the root of the steps, but no more than the peak. */
  schedule: z.enum(scheduleNames).optional(),
  /** Default: 0.1 for AdamW, none for the others and for an adapter. */
  weightDecay: z.number().nonnegative().optional(),
  beta2: z.number().positive().lt(1).default(plan.betas[1]),
  /** Factor of the square of the softmax's log-normaliser in the loss that trains; PaLM's is 1e-4. */
  zLoss: z.number().nonnegative().default(0),
  /** Share of the text that is held out. */
  validation: z.number().positive().lt(1).default(0.1),
  /** Evaluates and saves the exponential moving average of the weights with this decay. Default: the weights themselves. */
  ema: z.number().positive().lt(1).optional(),
});
export type TrainOptions = z.infer<typeof trainOptions>;

/** Sizes of a system that a person may choose; those left out are as published, or small where nothing is published. */
export type TrainSizes<S> =
  S extends SystemName<"decoder">
    ? Partial<Omit<ReturnType<(typeof systems)[S]["config"]["create"]>, "vocabSize">>
    : S extends DecoderSystem<infer C>
      ? Partial<Omit<C, "vocabSize">>
      : never;

/** A run of training: what it is told, and where it is kept. */
export type TrainRequest<S extends SystemName<"decoder"> | DecoderSystem = SystemName<"decoder">> = Omit<
  z.input<typeof trainOptions>,
  "system" | "sizes"
> & {
  /** A decoder of the library by name, or one of your own. */
  readonly system: S;
  readonly sizes?: TrainSizes<S>;
  /** Checkpoint folder. */
  readonly out: string;
};

/** A run that trains an adapter. */
export type AdapterRequest = BaseRequest & {
  /** Folder of the adapter, in peft's layout. */
  readonly out: string;
};

/** A run that goes on from a finished model. */
type BaseRequest = Omit<z.input<typeof trainOptions>, "system" | "sizes" | "tokenizer" | "base"> & {
  /** A decoder's folder or GGUF. */
  readonly base: string;
  /** Tokens of a row. Default 128. */
  readonly sizes?: { readonly contextLength?: number };
};

/** A run that trains all weights of a finished model further. */
export type FurtherRequest = Omit<
  BaseRequest,
  "adapter" | keyof typeof loraOptions | "virtualTokens" | "promptInit"
> & {
  /** Checkpoint folder. */
  readonly out: string;
};

/** The adapter that a run trains. */
export const adapterOf = ({
  base,
  adapter,
  objective,
}: Pick<TrainOptions, "base" | "adapter" | "objective">): NonNullable<TrainOptions["adapter"]> =>
  base === undefined ? "none" : (adapter ?? (objective === "causal" ? "lora" : "none"));

/** What a run is told that does not decide its losses. */
export interface TrainControl extends RunControl {
  /** Told how much of the corpus has been tokenized, in characters. */
  readonly onTokenized?: (characters: number, total: number) => void;
}

/** What a run did, and with what. */
export interface TrainResult extends TrainingResult {
  readonly options: TrainOptions;
  /** Elements of the model, and those of them that learn. */
  readonly parameters: number;
  readonly trainedParameters: number;
  readonly trainingTokens: number;
  readonly validationTokens: number;
  /** Tokens at the end of the training part that fill no row. */
  readonly droppedTokens: number;
}
