import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { collectGarbage } from "../base/garbage.js";
import { formatBytes, requireMemory } from "../base/memory.js";
import { saveModel } from "../checkpoints/index.js";
import {
  type Corpus,
  type CorpusSize,
  DataLoader,
  PackedLoader,
  type TokenizedCorpus,
  documentsIn,
  evaluationBatches,
  hasTokens,
  measureCorpus,
  openTokens,
  packedBatches,
  storyCorpus,
  textCorpus,
  tokenizeCorpus,
} from "../data/index.js";
import { loadTokenizer } from "../formats/index.js";
import { type DecoderSystem, type SystemName, systems, systemsOfKind } from "../models/index.js";
import { type CausalLm, Weights, countParameters } from "../nn/index.js";
import { nextTokenObjective, packedObjective } from "../objectives/index.js";
import { createRuntime } from "../runtime/index.js";
import type { Runtime } from "../runtime/types.js";
import { type Tokenizer, characterTokenizer, trainTokenizer } from "../tokenizers/index.js";
import {
  EvaluationStep,
  type Objective,
  type Optimizer,
  RunFolder,
  type TrainingObserver,
  type TrainingResult,
  adafactor,
  adamW,
  defaultWarmup,
  optimizerStateSize,
  runTraining,
  schedule,
  sgd,
  trainingMemory,
} from "../training/index.js";

const count = (value: number): string => value.toLocaleString("en-US");

/** Everything that decides a run of training; kept beside the checkpoint so that resuming needs nothing else. */
export const trainOptions = z.object({
  /** Name of a decoder. */
  system: z.string().default("gpt2"),
  /** A text file, or `stories` for the embedded corpus. */
  data: z.string(),
  /** Fields of the system's configuration. Default: 4 layers, 128 wide, 4 heads, a context of 128; all else as published. */
  sizes: z.record(z.string(), z.unknown()).default({}),
  /** `bpe`: the system's own, learned from the text; `characters`; or a folder with a tokenizer. */
  tokenizer: z.string().default("bpe"),
  /** Tokens that the tokenizer learns. */
  vocabSize: z.int().min(258).default(4096),
  /** Rows are blocks of one long run of tokens, or hold whole documents, none of which sees another. */
  packing: z.enum(["blocks", "documents"]).default("blocks"),
  batch: z.int().positive().default(16),
  accumulate: z.int().positive().default(1),
  steps: z.int().positive().default(1000),
  /** Steps of rising learning rate. Default: a third of the steps, 100 at most. */
  warmup: z.int().nonnegative().optional(),
  clip: z.number().positive().default(1),
  evalEvery: z.int().positive().default(250),
  /** Evaluations without a better held-out loss after which training ends. Default: never. */
  patience: z.int().positive().optional(),
  seed: z.int().nonnegative().default(1),
  /** Worker threads that share the micro-batches of a step out. Default: none. */
  workers: z.int().positive().optional(),
  optimizer: z.enum(["adamw", "sgd", "adafactor"]).default("adamw"),
  /** Peak of the schedule. Default: 1e-3 for AdamW, 0.1 for SGD, 1e-2 for Adafactor. */
  learningRate: z.number().positive().optional(),
  schedule: z.enum(["constant", "linear", "cosine", "inverse-root"]).default("cosine"),
  /** Default: 0.1 for AdamW, none for the others. */
  weightDecay: z.number().nonnegative().optional(),
  beta2: z.number().positive().lt(1).default(0.99),
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

/** What a run is told that does not decide its losses. */
export interface TrainControl {
  readonly runtime?: Runtime;
  /** Told in sentences of the model, the corpus and what becomes of them. */
  readonly onMessage?: (message: string, data: Readonly<Record<string, unknown>>) => void;
  /** Told how much of the corpus has been tokenized, in characters. */
  readonly onTokenized?: (characters: number, total: number) => void;
  readonly observer?: TrainingObserver;
  /** Stops after the step under way, and saves. */
  readonly signal?: AbortSignal;
}

/** What a run did, and with what. */
export interface TrainResult extends TrainingResult {
  readonly options: TrainOptions;
  readonly parameters: number;
  readonly trainingTokens: number;
  readonly validationTokens: number;
  /** Tokens at the end of the training part that fill no row. */
  readonly droppedTokens: number;
}

/** Stories of the embedded corpus: enough that a run of minutes sees each about once. */
const embeddedStories = 12_000;

/**
 * Trains a decoder from text to a checkpoint folder:
 *
 *     await train({ system: "llama", data: "my.txt", sizes: { hiddenSize: 384 }, out: "runs/mine" });
 */
export async function train<S extends SystemName<"decoder"> | DecoderSystem>(
  request: TrainRequest<S>,
  control: TrainControl = {},
): Promise<TrainResult> {
  const {
    out,
    system: asked,
    ...options
  }: { readonly out: string; readonly system: string | DecoderSystem } = request;
  const system = typeof asked === "string" ? namedSystem(asked) : asked;
  return inFolder(out, { resume: false, given: { ...options, system: system.name } }, (folder) =>
    run(folder, system, control),
  );
}

/**
 * Goes on with the run in a folder, to exactly the losses of a run that was never stopped.
 * @param own the system of a run that trains one of your own
 */
export const resumeTraining = (
  out: string,
  control: TrainControl = {},
  own?: DecoderSystem,
): Promise<TrainResult> =>
  inFolder(out, { resume: true }, (folder) => {
    const { system } = folder.options;
    return run(folder, own?.name === system ? own : namedSystem(system), control);
  });

async function inFolder<T>(
  out: string,
  options: { readonly resume: boolean; readonly given?: unknown },
  body: (folder: RunFolder<TrainOptions>) => Promise<T>,
): Promise<T> {
  const folder = await RunFolder.open(out, trainOptions, options);
  try {
    return await body(folder);
  } finally {
    await folder.close();
  }
}

function namedSystem(name: string): DecoderSystem {
  const decoders = systemsOfKind("decoder");
  const found = decoders.find((system) => system.name === name);
  if (!found)
    throw new LineageError(
      "argument",
      `there is no decoder ${name}; there are ${decoders.map((system) => system.name).join(", ")}`,
    );
  return found;
}

async function run(
  folder: RunFolder<TrainOptions>,
  system: DecoderSystem,
  {
    runtime = createRuntime(),
    onMessage,
    onTokenized,
    observer,
    signal = new AbortController().signal,
  }: TrainControl,
): Promise<TrainResult> {
  const { options, path: out } = folder;
  if (options.workers !== undefined && runtime.device !== "cpu")
    throw new LineageError(
      "argument",
      `workers share out the CPU; leave them out to train on the device ${runtime.device}`,
    );
  if (options.workers !== undefined && !systemsOfKind("decoder").includes(system))
    throw new LineageError("argument", "workers know the library's systems alone; leave them out");
  const sizes = sizesOf(system, options);
  const corpus =
    options.data === "stories"
      ? storyCorpus({ seed: options.seed, count: embeddedStories })
      : textCorpus(options.data);
  // A run that goes on has its tokens beside it and needs neither the text nor its tokenizer's making.
  const tokensFolder = folder.file("tokens");
  const tokenized = folder.resuming && hasTokens(tokensFolder);
  const { size, alphabet } = tokenized ? {} : await survey(corpus, options, signal);
  const tokenizer = folder.resuming
    ? await loadTokenizer(out)
    : await makeTokenizer(system, options, corpus, alphabet ?? "", onMessage);

  const model = newModel(system, sizes, tokenizer.vocabSize);
  const { contextLength, hiddenSize, numLayers, numHeads } = model.config;
  const shape = { batchSize: options.batch, sequenceLength: contextLength };
  const objective = objectiveOf(model, options);
  const parameters = countParameters(model);
  // What learning a tokenizer has left behind is no part of what training takes.
  collectGarbage();
  const resident = process.memoryUsage.rss();
  const memory = trainingMemory(
    objective,
    {},
    {
      optimizer: optimizerStateSize[options.optimizer],
      average: options.ema !== undefined,
      workers: options.workers,
      resident,
    },
  );
  onMessage?.(
    `model: ${system.title} with ${count(parameters)} parameters (${numLayers} layers, ${hiddenSize} wide, ${numHeads} heads); ` +
      `training takes about ${formatBytes(memory.total)} of memory: weights ${formatBytes(memory.weights)}, gradients ${formatBytes(memory.gradients)}, ` +
      `optimizer ${formatBytes(memory.optimizer + memory.average)}, a batch ${formatBytes(memory.activations)}, evaluation ${formatBytes(memory.evaluation)}, the process itself ${formatBytes(memory.process)}`,
    { parameters, memory },
  );
  requireMemory(
    memory.total - resident,
    `${system.title} and a batch of ${options.batch} x ${contextLength} tokens`,
    "use a smaller batch that is accumulated more often, or a smaller model",
  );

  if (size) await tokenize(tokensFolder, corpus, size, tokenizer, options, signal, onTokenized);
  // Tokens are read by JavaScript, wherever the model runs.
  using tokens = await openTokens(runtime.cpu, tokensFolder, tokenizer.vocabSize);
  // The text's words lie in JavaScript's heap, and nothing needs them any more.
  collectGarbage();
  const packed =
    options.packing === "documents" ? packedData(tokens, tokenizer, contextLength, corpus.name) : undefined;
  const source = packed
    ? new PackedLoader(packed.training.pieces, { ...shape, seed: options.seed }, corpus.name)
    : new DataLoader(tokens.training, { ...shape, seed: options.seed }, corpus.name);
  if (tokens.validation.length < 2)
    throw new LineageError(
      "data",
      `the held-out part of ${corpus.name} has ${tokens.validation.length} tokens, and a loss needs two or more; use more text or a larger share (--validation)`,
    );
  const counts = {
    trainingTokens: tokens.training.length,
    validationTokens: tokens.validation.length,
    droppedTokens: source instanceof DataLoader ? source.droppedTokens : 0,
  };
  onMessage?.(
    `corpus: ${size ? `${count(size.characters)} characters, ` : ""}${count(counts.trainingTokens)} tokens to learn from, ${count(counts.validationTokens)} held out; vocabulary ${count(tokenizer.vocabSize)}` +
      (packed
        ? `; ${count(packed.training.documents)} documents (${count(packed.training.pieces.length)} pieces of at most ${contextLength} tokens), each seen alone`
        : "") +
      (counts.droppedTokens > 0
        ? `; the last ${count(counts.droppedTokens)} fill no row of ${contextLength} and are left out`
        : ""),
    counts,
  );

  using weights = Weights.initialize(runtime, model, options.seed);
  let evaluation: EvaluationStep | undefined;
  const result = await runTraining({
    folder,
    objective,
    weights,
    source,
    accumulation: options.accumulate,
    workers:
      options.workers === undefined
        ? undefined
        : {
            workers: options.workers,
            module: import.meta.url,
            name: trainObjective.name,
            argument: { options, vocabSize: tokenizer.vocabSize } satisfies ObjectiveArgument,
            threads: Math.max(1, Math.floor(runtime.threads / options.workers)),
          },
    clipNorm: options.clip,
    seed: options.seed,
    averageDecay: options.ema,
    schedule: schedule(options.schedule, {
      learningRate: learningRateOf(options),
      warmupSteps: options.warmup ?? defaultWarmup(options.steps),
      totalSteps: options.steps,
      minimum: learningRateOf(options) / 10,
    }),
    optimizer: (...buffers) => makeOptimizer(options, ...buffers),
    steps: options.steps,
    evalEvery: options.evalEvery,
    patience: options.patience,
    evaluate: async (kept, { signal: stop }) => {
      evaluation ??= await EvaluationStep.create(objective, kept);
      const batches = packed
        ? packedBatches(packed.validation.pieces, shape)
        : evaluationBatches(tokens.validation, shape);
      const { loss } = await evaluation.evaluate(batches, { signal: stop });
      return { loss, perplexity: Math.exp(loss) };
    },
    save: (kept) => saveModel(out, { system, model, weights: kept, tokenizer }),
    signal,
    ...(observer && { observer }),
  }).finally(() => evaluation?.dispose());
  return { ...result, ...counts, parameters, options };
}

interface ObjectiveArgument {
  readonly options: TrainOptions;
  readonly vocabSize: number;
}

/** The objective of a run, made again in each of its workers. */
export function trainObjective({ options, vocabSize }: ObjectiveArgument): Objective {
  const system = namedSystem(options.system);
  return objectiveOf(newModel(system, sizesOf(system, options), vocabSize), options);
}

function objectiveOf(model: CausalLm, { packing, batch }: TrainOptions): Objective {
  const sizes = { batchSize: batch, sequenceLength: model.config.contextLength };
  return packing === "documents" ? packedObjective(model, sizes) : nextTokenObjective(model, sizes);
}

/** The documents of both parts. Throws where nothing tells one from the next. */
function packedData(tokens: TokenizedCorpus, tokenizer: Tokenizer, context: number, name: string) {
  const { endOfTextId } = tokenizer;
  if (endOfTextId === undefined)
    throw new LineageError(
      "tokenizer",
      "packing documents needs a token that ends one, which this tokenizer does not have; leave --packing out",
    );
  const training = documentsIn(tokens.training, endOfTextId, context);
  if (training.documents < 2)
    throw new LineageError(
      "data",
      `${name} is one document; write ${tokenizer.idToToken(endOfTextId)} between documents to pack them, or leave --packing out`,
    );
  return { training, validation: documentsIn(tokens.validation, endOfTextId, context) };
}

/** Sizes where nothing is chosen and nothing published. */
export const smallSizes = { contextLength: 128, hiddenSize: 128, numLayers: 4, numHeads: 4 };

/** What a person chose of a model, small sizes where nothing was, and what a system's own options are for such a model. */
function sizesOf(system: DecoderSystem, { sizes }: TrainOptions): Readonly<Record<string, unknown>> {
  const base = { ...smallSizes, ...sizes };
  const unknown = Object.keys(base).find((field) => !system.config.has(field));
  if (unknown !== undefined)
    throw new LineageError("argument", `${system.title} has no ${unknown}; leave it out`);
  const chosen: Record<string, unknown> = { ...base };
  for (const { field, fallback } of Object.values(system.options ?? {}))
    if (chosen[field] === undefined && fallback) chosen[field] = fallback({ vocabSize: 0, ...base });
  // A model without words is checked before the text is read.
  newModel(system, chosen, 1);
  return chosen;
}

const newModel = (
  system: DecoderSystem,
  sizes: Readonly<Record<string, unknown>>,
  vocabSize: number,
): CausalLm => system.create(system.config.create({ ...smallSizes, ...sizes, vocabSize }));

/** Rates that suit each optimiser: Adafactor's is relative to the size of a parameter. */
const learningRateOf = ({ learningRate, optimizer }: TrainOptions): number =>
  learningRate ?? { adamw: 1e-3, sgd: 0.1, adafactor: 1e-2 }[optimizer];

function makeOptimizer(options: TrainOptions, weights: Weights, gradients: Weights): Promise<Optimizer> {
  const { optimizer, beta2 } = options;
  const weightDecay = options.weightDecay ?? (optimizer === "adamw" ? 0.1 : 0);
  if (optimizer === "sgd") return sgd(weights, gradients, { momentum: 0.9, weightDecay });
  if (optimizer === "adafactor") return adafactor(weights, gradients, { weightDecay });
  return adamW(weights, gradients, { betas: [0.9, beta2], weightDecay });
}

/** How long the corpus is, and what characters it has where that is the tokenizer. */
async function survey(
  corpus: Corpus,
  { tokenizer }: TrainOptions,
  signal: AbortSignal,
): Promise<{ size: CorpusSize; alphabet: string }> {
  const characters = new Set<string>();
  const size = await measureCorpus(corpus, {
    signal,
    ...(tokenizer === "characters" && {
      onPart: (text: string) => {
        for (const character of text) characters.add(character);
      },
    }),
  });
  return { size, alphabet: [...characters].join("") };
}

/** Characters from which bpe learns its tokens; what comes after them in a larger corpus is tokenized, not learned from. */
const tokenizerSample = 2 ** 26;

async function makeTokenizer(
  { tokenizer: recipe }: DecoderSystem,
  { tokenizer, vocabSize }: TrainOptions,
  corpus: Corpus,
  alphabet: string,
  onMessage: TrainControl["onMessage"],
): Promise<Tokenizer> {
  if (tokenizer === "characters") return characterTokenizer(alphabet);
  if (tokenizer !== "bpe") return loadTokenizer(tokenizer);
  return trainTokenizer(recipe, sampleOf(corpus, onMessage), vocabSize);
}

function* sampleOf(corpus: Corpus, onMessage: TrainControl["onMessage"]): Generator<string> {
  let characters = 0;
  for (const part of corpus.parts()) {
    if (characters > tokenizerSample) {
      onMessage?.(`tokenizer: learned from the first ${count(characters)} characters`, { characters });
      return;
    }
    characters += part.length;
    yield part;
  }
}

async function tokenize(
  folder: string,
  corpus: Corpus,
  size: CorpusSize,
  tokenizer: Tokenizer,
  options: TrainOptions,
  signal: AbortSignal,
  onTokenized: TrainControl["onTokenized"],
): Promise<void> {
  await tokenizeCorpus(folder, corpus, size, {
    encode: (text) => tokenizer.encode(text),
    vocabSize: tokenizer.vocabSize,
    endOfText: tokenizer.endOfTextId,
    heldOut: options.validation,
    signal,
    onProgress: (characters) => onTokenized?.(characters, size.characters),
  });
}
