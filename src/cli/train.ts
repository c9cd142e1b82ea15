import { Command } from "commander";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { formatBytes, requireMemory } from "../base/memory.js";
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
import { Tokenizer, characterTokenizer, trainByteLevelBpe } from "../tokenizers/index.js";
import { type DecoderSystem, type SystemName, systems, systemsOfKind } from "../models/index.js";
import { saveModel } from "../checkpoints/index.js";
import { type CausalLm, Weights, countParameters } from "../nn/index.js";
import { type Device, type Runtime, createRuntime } from "../runtime/index.js";
import {
  EvaluationStep,
  type Objective,
  type Optimizer,
  type TrainingResult,
  adafactor,
  adamW,
  optimizerStateSize,
  runTraining,
  schedule,
  sgd,
  trainingMemory,
} from "../training/index.js";
import { nextTokenObjective, packedObjective } from "../objectives/index.js";
import { deviceOption, examples, number, withTrainingOptions } from "./options.js";
import { progressObserver } from "./progress.js";
import { type Reporter, bar, count } from "./terminal.js";
import { type Run, type RunCommand, runInFolder, runShape, tellEnd } from "./training.js";
import { loadTokenizer } from "../formats/index.js";

type DecoderName = SystemName<"decoder">;
const decoderNames = systemsOfKind("decoder").map(({ name }) => name);

/** Everything that decides a run; kept beside the checkpoint so that `--resume` needs nothing else. */
export const trainOptions = z.object({
  ...runShape,
  /** A text file, or `stories` for the embedded corpus. */
  data: z.string(),
  model: z.enum(decoderNames as [DecoderName, ...DecoderName[]]).default("gpt2"),
  tokenizer: z.string().default("bpe"),
  vocabSize: z.int().min(258).default(4096),
  /** Heads of keys and values, shared by groups of heads. Default: as many as heads; a quarter in Mistral. */
  keyValueHeads: z.int().positive().optional(),
  /** Mistral: tokens that each one looks back on. Default: half the context. */
  window: z.int().positive().optional(),
  /** LLaMA: whether the output embeddings are the token embeddings. GPT-2's always are, Mistral's never. */
  tieEmbeddings: z.boolean().default(false),
  context: z.int().min(2).default(128),
  /** Rows are blocks of one long run of tokens, or hold whole documents, none of which sees another. */
  packing: z.enum(["blocks", "documents"]).default("blocks"),
  dropout: z.number().min(0).lt(1).default(0),
  /** Worker threads that share the micro-batches of a step out. Default: none. */
  workers: z.int().positive().optional(),
  optimizer: z.enum(["adamw", "sgd", "adafactor"]).default("adamw"),
  /** Peak of the schedule. Default: 1e-3 for AdamW, 0.1 for SGD, 1e-2 for Adafactor. */
  learningRate: z.number().positive().optional(),
  schedule: z.enum(["constant", "linear", "cosine", "inverse-root"]).default("cosine"),
  /** Default: 0.1 for AdamW, none for the others. */
  weightDecay: z.number().nonnegative().optional(),
  beta2: z.number().positive().lt(1).default(0.99),
  validation: z.number().positive().lt(1).default(0.1),
  /** Evaluates and saves the exponential moving average of the weights with this decay. Default: the weights themselves. */
  ema: z.number().positive().lt(1).optional(),
  precision: z.enum(["float32", "bfloat16", "float16"]).default("float32"),
});
export type TrainOptions = z.infer<typeof trainOptions>;

export interface TrainCommand extends RunCommand {
  readonly device?: Device;
}

/** What a run did, and with what. */
export interface TrainResult extends TrainingResult {
  readonly parameters: number;
  readonly trainingTokens: number;
  readonly validationTokens: number;
  /** Tokens at the end of the training part that fill no row. */
  readonly droppedTokens: number;
}

/** Stories of the embedded corpus: enough that a run of minutes sees each about once. */
const embeddedStories = 12_000;

/** Trains a model from text to a checkpoint folder. Ctrl-C saves; `resume` goes on to exactly the same losses. */
export const train = (
  given: z.input<typeof trainOptions> | undefined,
  command: TrainCommand,
): Promise<TrainResult> =>
  runInFolder(trainOptions, given, command, (started) => run(started, createRuntime(command)));

async function run(started: Run<TrainOptions>, runtime: Runtime): Promise<TrainResult> {
  const { folder, report, signal } = started;
  const { options, path: out } = folder;
  if (options.precision !== "float32")
    throw new LineageError(
      "unsupported",
      `training in ${options.precision} is not supported on the device ${runtime.device}; leave --precision out to train in float32`,
    );
  if (options.workers !== undefined && runtime.device !== "cpu")
    throw new LineageError(
      "argument",
      `workers share out the CPU; leave --workers out to train on the device ${runtime.device}`,
    );
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
    : await makeTokenizer(options, corpus, alphabet ?? "", report);

  const system = systems[options.model];
  const model = newModel(options, tokenizer.vocabSize);
  const shape = { batchSize: options.batch, sequenceLength: options.context };
  const objective = objectiveOf(model, options);
  const parameters = countParameters(model);
  const memory = trainingMemory(
    objective,
    {},
    {
      optimizer: optimizerStateSize[options.optimizer],
      average: options.ema !== undefined,
      workers: options.workers,
    },
  );
  report.say(
    `model: ${system.title} with ${count(parameters)} parameters (${options.layers} layers, ${options.hidden} wide, ${options.heads} heads); ` +
      `training takes about ${formatBytes(memory.total)} of memory: weights ${formatBytes(memory.weights)}, gradients ${formatBytes(memory.gradients)}, ` +
      `optimizer ${formatBytes(memory.optimizer + memory.average)}, a batch ${formatBytes(memory.activations)}`,
    { parameters, memory },
  );
  requireMemory(
    memory.total,
    `${system.title} and a batch of ${options.batch} x ${options.context} tokens`,
    "use a smaller --batch with more --accumulate, or a smaller model",
  );

  if (size) await tokenize(tokensFolder, corpus, size, tokenizer, options, signal, report);
  // Tokens are read by JavaScript, wherever the model runs.
  using tokens = await openTokens(runtime.cpu, tokensFolder, tokenizer.vocabSize);
  const packed =
    options.packing === "documents" ? packedData(tokens, tokenizer, options, corpus.name) : undefined;
  const source = packed
    ? new PackedLoader(packed.training.pieces, { ...shape, seed: options.seed }, corpus.name)
    : new DataLoader(tokens.training, { ...shape, seed: options.seed }, corpus.name);
  if (tokens.validation.length < 2)
    throw new LineageError(
      "data",
      `the held-out part of ${corpus.name} has ${tokens.validation.length} tokens, and a loss needs two or more; use more text or a larger --validation`,
    );
  const counts = {
    trainingTokens: tokens.training.length,
    validationTokens: tokens.validation.length,
    droppedTokens: source instanceof DataLoader ? source.droppedTokens : 0,
  };
  report.say(
    `corpus: ${size ? `${count(size.characters)} characters, ` : ""}${count(counts.trainingTokens)} tokens to learn from, ${count(counts.validationTokens)} held out; vocabulary ${count(tokenizer.vocabSize)}` +
      (packed
        ? `; ${count(packed.training.documents)} documents (${count(packed.training.pieces.length)} pieces of at most ${options.context} tokens), each seen alone`
        : "") +
      (counts.droppedTokens > 0
        ? `; the last ${count(counts.droppedTokens)} fill no row of ${options.context} and are left out`
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
      warmupSteps: options.warmup ?? Math.min(100, Math.floor(options.steps / 10)),
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
    observer: progressObserver(report),
  }).finally(() => evaluation?.dispose());
  const results = { ...result, ...counts, parameters };
  tellEnd(started, results, {
    command: "train",
    made: (best) =>
      `the model (best held-out loss ${best.toFixed(4)}, perplexity ${Math.exp(best).toFixed(2)}), its tokenizer and loss.svg`,
  });
  return results;
}

interface ObjectiveArgument {
  readonly options: TrainOptions;
  readonly vocabSize: number;
}

/** The objective of a run, made again in each of its workers. */
export const trainObjective = ({ options, vocabSize }: ObjectiveArgument): Objective =>
  objectiveOf(newModel(options, vocabSize), options);

function objectiveOf(model: CausalLm, { packing, batch, context }: TrainOptions): Objective {
  const sizes = { batchSize: batch, sequenceLength: context };
  return packing === "documents" ? packedObjective(model, sizes) : nextTokenObjective(model, sizes);
}

/** The documents of both parts. Throws where nothing tells one from the next. */
function packedData(tokens: TokenizedCorpus, tokenizer: Tokenizer, { context }: TrainOptions, name: string) {
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

/** The model that the options describe. Throws `argument` for an option that its system does not have. */
function newModel(options: TrainOptions, vocabSize: number): CausalLm {
  const { model: name, keyValueHeads, window, dropout, tieEmbeddings } = options;
  const system: DecoderSystem = systems[name];
  const sizes = {
    vocabSize,
    contextLength: options.context,
    hiddenSize: options.hidden,
    numLayers: options.layers,
    numHeads: options.heads,
  };
  const own = {
    keyValueHeads,
    window,
    dropout: dropout > 0 ? dropout : undefined,
    tieEmbeddings: tieEmbeddings ? true : undefined,
  };
  const { options: known = {} } = system;
  const choices = new Map<string, unknown>(Object.entries(sizes));
  for (const [option, { field, fallback }] of Object.entries(known)) {
    const value = Object.entries(own).find(([key]) => key === option)?.[1] ?? fallback?.(sizes);
    if (value !== undefined) choices.set(field, value);
  }
  for (const [option, value] of Object.entries(own))
    if (value !== undefined && !Object.hasOwn(known, option))
      throw new LineageError(
        "argument",
        `${system.title} has no ${option.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)}${ownersOf(option)}; leave it out`,
      );
  return system.create(system.config.create({ ...sizes, ...Object.fromEntries(choices) }));
}

/** The systems that have an option, as the rest of a sentence. */
function ownersOf(option: string): string {
  const owners = systemsOfKind("decoder").filter(({ options = {} }) => Object.hasOwn(options, option));
  return owners.length === 0
    ? ""
    : `: ${owners.map(({ name }) => name).join(" and ")} ${owners.length === 1 ? "has" : "have"} it`;
}

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
  { tokenizer, vocabSize }: TrainOptions,
  corpus: Corpus,
  alphabet: string,
  report: Reporter,
): Promise<Tokenizer> {
  if (tokenizer === "characters") return characterTokenizer(alphabet);
  if (tokenizer !== "bpe") return loadTokenizer(tokenizer);
  return trainByteLevelBpe(sampleOf(corpus, report), { vocabSize });
}

function* sampleOf(corpus: Corpus, report: Reporter): Generator<string> {
  let characters = 0;
  for (const part of corpus.parts()) {
    if (characters > tokenizerSample) {
      report.say(`tokenizer: learned from the first ${count(characters)} characters`, { characters });
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
  report: Reporter,
): Promise<void> {
  await tokenizeCorpus(folder, corpus, size, {
    encode: (text) => tokenizer.encode(text),
    vocabSize: tokenizer.vocabSize,
    endOfText: tokenizer.endOfTextId,
    heldOut: options.validation,
    signal,
    onProgress: (characters) => {
      const share = characters / size.characters;
      report.progress(`${bar(share)} tokenizing: ${Math.floor(share * 100)}%`, {
        tokenizedCharacters: characters,
        characters: size.characters,
      });
    },
  });
}

export const trainCommand = withTrainingOptions(
  new Command("train")
    .description("train a model from scratch on a text file")
    .option("--data <file>", 'UTF-8 text, or "stories" for the embedded corpus')
    .option("--out <folder>", "checkpoint folder; default: runs/ and the model's name")
    .option("--model <name>", "gpt2, llama or mistral", "gpt2")
    .option("--tokenizer <kind>", "bpe, characters, or a folder with a tokenizer", "bpe")
    .option("--vocab-size <n>", "tokens that bpe learns", number)
    .option("--key-value-heads <n>", "heads of keys and values, shared by groups of heads", number)
    .option("--window <n>", "mistral: tokens that each one looks back on", number)
    .option("--tie-embeddings", "llama: one matrix for the embeddings of input and output")
    .option("--context <n>", "tokens that the model sees at once", number)
    .option("--packing <kind>", "blocks of one long text (default), or documents, none of which sees another")
    .option("--workers <n>", "worker threads that share the micro-batches of a step", number)
    .option("--optimizer <name>", "adamw, sgd or adafactor")
    .option("--schedule <name>", "constant, linear, cosine or inverse-root")
    .option("--beta2 <x>", "AdamW's memory of squared gradients", number)
    .option("--validation <p>", "share of the text that is held out", number)
    .option("--ema <decay>", "evaluate and save the moving average of the weights", number)
    .option(
      "--precision <dtype>",
      "of the arithmetic: float32; 16-bit ones are refused where the device has none",
    )
    .addOption(deviceOption()),
)
  .addHelpText(
    "after",
    examples(
      ["lineage train --data my.txt --out runs/mine", "learn your own text"],
      ["lineage train --resume --out runs/mine", "go on after Ctrl-C, to the same losses"],
      [
        "lineage train --data my.txt --tokenizer characters",
        "one token a character, as nanoGPT's small recipes",
      ],
      ["lineage train --data my.txt --layers 6 --hidden 384 --heads 6", "a larger model"],
      ["lineage train --data stories --model llama --key-value-heads 2", "a LLaMA with grouped queries"],
    ),
  )
  .action(async ({ resume, json, threads, device, ...options }: Record<string, unknown>) => {
    const { out = `runs/${String(options["model"])}`, ...rest } = options;
    if (!resume && options["data"] === undefined)
      throw new LineageError("argument", "train needs --data FILE, or --data stories");
    await train(rest as { data: string }, { out, resume, json, threads, device } as never);
  });
