import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { count } from "../base/numbers.js";
import { savePretrained } from "../checkpoints/index.js";
import { loadTokenizer, writeTokenizer } from "../formats/index.js";
import {
  type EncoderDecoderSystem,
  type EncoderSystem,
  type SystemName,
  systemsOfKind,
} from "../models/index.js";
import { Weights, countParameters } from "../nn/index.js";
import type { PretrainingCorpus, PretrainingRecipe } from "../objectives/index.js";
import { createRuntime } from "../runtime/index.js";
import { trainTokenizer } from "../tokenizers/index.js";
import {
  type RunFolder,
  type TrainingResult,
  adamWNames,
  chosenOptimizer,
  isAdamW,
  evaluate,
  learningPlans,
  optimizerRates,
  plannedSchedule,
  runTraining,
  scheduleNames,
} from "../training/index.js";
import { countDocuments, readCorpus, textsOf } from "./pretrain-corpus.js";
import { type RunControl, fromNothing, inRunFolder, smallSizes, stepsOf } from "./run.js";

const plan = learningPlans.pretrain;

/** Sizes of a model that are chosen; all else is as published. */
export const pretrainSizes = z.strictObject({
  hiddenSize: z.int().positive().default(smallSizes.hiddenSize),
  numLayers: z.int().positive().default(smallSizes.numLayers),
  numHeads: z.int().positive().default(smallSizes.numHeads),
  /** Longest row, special tokens included. */
  contextLength: z.int().min(16).default(smallSizes.contextLength),
  dropout: z.number().min(0).lt(1).default(0.1),
});

/** Everything that decides a run of pretraining; kept beside the checkpoint so that resuming needs nothing else. */
export const pretrainOptions = z.object({
  ...fromNothing,
  /** Name of a system that learns from plain text by an objective of its own. */
  system: z.string(),
  /** Text files, each `file` or `language=file`; or `stories` for the embedded corpus. */
  data: z.array(z.string()).min(1).readonly(),
  /** Pairs of files with one sentence a line: `en=train.en,de=train.de`. */
  parallel: z.array(z.string()).readonly().default([]),
  sizes: pretrainSizes.prefault({}),
  /** A folder with a tokenizer. Default: the system's own kind is trained on the data. */
  tokenizer: z.string().optional(),
  /** Tokens that the tokenizer learns. */
  vocabSize: z.int().min(64).default(4096),
  /** Peak of the schedule. Default: 1e-3 for AdamW, 1e-2 for Adafactor, whose steps are relative to a parameter's size. */
  learningRate: z.number().positive().optional(),
  weightDecay: z.number().nonnegative().optional(),
  /** Power of the languages' shares of the text by which an encoder-decoder samples them. Default: as its system has it. */
  exponent: z.number().nonnegative().optional(),
  /** `adamw8bit`: moments in 8 bits, Dettmers et al. 2022; `paged`: in a file of the run, Dettmers et al. 2023. */
  optimizer: z.enum([...adamWNames, "adafactor"]).default("adamw"),
  schedule: z.enum(scheduleNames).default(plan.schedule),
  /** Share of the documents that is held out. */
  validation: z.number().positive().lt(1).default(0.05),
});
export type PretrainOptions = z.infer<typeof pretrainOptions>;

/** A run of pretraining: what it is told, and where it is kept. */
export type PretrainRequest = Omit<z.input<typeof pretrainOptions>, "system"> & {
  /** A system of the library by name, or one of your own. */
  readonly system: SystemName<"encoder" | "encoder-decoder"> | PretrainedSystem;
  /** Checkpoint folder. */
  readonly out: string;
};

/** A system with an objective of its own. */
export type PretrainedSystem = (EncoderSystem | EncoderDecoderSystem) & {
  readonly pretraining: PretrainingRecipe;
};

/** The library's systems that `pretrain` knows. */
export const pretrainedSystems: readonly PretrainedSystem[] = [
  ...systemsOfKind("encoder"),
  ...systemsOfKind("encoder-decoder"),
].filter((system): system is PretrainedSystem => system.pretraining !== undefined);

function pretrainedSystem(name: string): PretrainedSystem {
  const found = pretrainedSystems.find((system) => system.name === name);
  if (!found)
    throw new LineageError(
      "argument",
      `there is no ${name} to pretrain; there are ${pretrainedSystems.map((system) => system.name).join(", ")}`,
    );
  return found;
}

export interface PretrainResult extends TrainingResult {
  readonly options: PretrainOptions;
  readonly parameters: number;
}

/**
 * Pretrains an encoder or an encoder-decoder from text on its own objective, to a checkpoint folder that `finetune` and Hugging Face transformers
 * load:
 *
 *     await pretrain({ system: "electra", data: ["my.txt"], sizes: { hiddenSize: 256 }, out: "runs/electra" });
 */
export async function pretrain(
  { out, system: asked, ...options }: PretrainRequest,
  control: RunControl = {},
): Promise<PretrainResult> {
  const system = typeof asked === "string" ? pretrainedSystem(asked) : asked;
  const given = { ...options, system: system.name };
  return inRunFolder(out, pretrainOptions, { resume: false, given }, (folder) =>
    run(folder, system, control),
  );
}

/**
 * Goes on with the run in a folder, to exactly the losses of a run that was never stopped.
 * @param own the system of a run that pretrains one of your own
 */
export const resumePretraining = (
  out: string,
  control: RunControl = {},
  own?: PretrainedSystem,
): Promise<PretrainResult> =>
  inRunFolder(out, pretrainOptions, { resume: true }, (folder) => {
    const { system } = folder.options;
    return run(folder, own?.name === system ? own : pretrainedSystem(system), control);
  });

async function run(
  folder: RunFolder<PretrainOptions>,
  system: PretrainedSystem,
  { runtime = createRuntime(), onMessage, observer, signal }: RunControl,
): Promise<PretrainResult> {
  const { options, path: out } = folder;
  const { batch: batchSize, seed, sizes, steps } = options;
  const { pretraining } = system;
  // What does not fit is refused before the text is read.
  stepsOf(options);
  if (options.parallel.length > 0 && !pretraining.readsTranslations)
    throw new LineageError(
      "argument",
      `only ${translators()} learns from --parallel; leave it out for ${system.name}`,
    );
  const { training, heldOut } = await readCorpus(options);
  const tokenizer = folder.resuming
    ? await loadTokenizer(out)
    : options.tokenizer === undefined
      ? trainTokenizer(system.tokenizer, textsOf(training), options.vocabSize)
      : await loadTokenizer(options.tokenizer);
  // Kept from the start: a run that is interrupted before its first evaluation goes on with the same tokens.
  if (!folder.resuming) await writeTokenizer(tokenizer, out);
  const documents = {
    trainingDocuments: countDocuments(training),
    heldOutDocuments: countDocuments(heldOut),
  };
  onMessage?.(
    `corpus: ${count(documents.trainingDocuments)} documents to train on, ${count(documents.heldOutDocuments)} held out` +
      `${describeLanguages(training)}; vocabulary ${count(tokenizer.vocabSize)}`,
    documents,
  );
  if (options.exponent !== undefined && system.kind === "encoder")
    throw new LineageError(
      "argument",
      `${system.title} samples languages as published; leave --exponent out`,
    );
  const { exponent } = options;
  const prepared = pretraining.prepare({
    ...sizes,
    tokenizer,
    training,
    heldOut,
    batchSize,
    seed,
    exponent,
  });
  const { model, objective, source, networks } = prepared;
  const parameters = countParameters(model);
  onMessage?.(
    `model: ${system.title} with ${count(parameters)} parameters (${sizes.numLayers} layers, ${sizes.hiddenSize} wide, ` +
      `${sizes.numHeads} heads); objective: ${pretraining.objective}`,
    { parameters },
  );
  using weights = Weights.initialize(runtime, model, seed);
  const result = await runTraining({
    folder,
    objective,
    weights,
    source,
    ...stepsOf(options),
    clipNorm: options.clip,
    seed,
    schedule: plannedSchedule(plan, steps, {
      ...options,
      learningRate: options.learningRate ?? optimizerRates[options.optimizer],
    }),
    optimizer: (...buffers) =>
      chosenOptimizer(
        {
          optimizer: options.optimizer,
          betas: plan.betas,
          weightDecay: options.weightDecay ?? (isAdamW(options.optimizer) ? plan.weightDecay : 0),
        },
        out,
        ...buffers,
      ),
    steps,
    evalEvery: options.evalEvery,
    patience: options.patience,
    evaluate: async (kept, { signal: stop }) => {
      const { loss, parts } = await evaluate(objective, kept, prepared.heldOut(), { signal: stop });
      return { loss, ...(Object.keys(parts).length > 1 ? parts : {}) };
    },
    save: (kept) => savePretrained(out, networks, tokenizer, kept),
    ...(signal && { signal }),
    ...(observer && { observer }),
  });
  return { ...result, options, parameters };
}

/** The systems that learn from translations. */
const translators = (): string =>
  pretrainedSystems
    .filter(({ pretraining }) => pretraining.readsTranslations)
    .map(({ name }) => name)
    .join(" or ");

function describeLanguages({ languages, parallel = [] }: PretrainingCorpus): string {
  if (languages.length < 2) return "";
  const pairs = parallel.reduce((sum, corpus) => sum + corpus.pairs.length, 0);
  return ` in ${languages.map(({ name }) => name).join(", ")}${pairs > 0 ? ` and ${count(pairs)} translated sentences` : ""}`;
}
