import { LineageError } from "../base/errors.js";
import { collectGarbage } from "../base/garbage.js";
import { formatBytes, requireMemory } from "../base/memory.js";
import { count } from "../base/numbers.js";
import { describeModel, saveModel } from "../checkpoints/index.js";
import { type Corpus, hasTokens } from "../data/index.js";
import { loadTokenizer } from "../formats/index.js";
import { type DecoderSystem, type SystemName, systemsOfKind } from "../models/index.js";
import { type CausalLm, Weights, countParameters, namedParameters, rotaryReach } from "../nn/index.js";
import {
  isCausal,
  mixtureOf,
  nextTokenObjective,
  packedObjective,
  packedPrefixObjective,
  prefixObjective,
  withAdapter,
} from "../objectives/index.js";
import { createRuntime } from "../runtime/index.js";
import {
  EvaluationStep,
  type LearningPlan,
  type Objective,
  type Optimizer,
  type RunFolder,
  adafactor,
  chosenOptimizer,
  isAdamW,
  learningPlans,
  optimizerRates,
  optimizerStateSize,
  palmAdafactor,
  plannedSchedule,
  runTraining,
  sgd,
  trainingMemory,
} from "../training/index.js";
import { inRunFolder, namedSystem, smallSizes, stepsOf } from "./run.js";
import { type Asked, openBase, tokenizerFor } from "./train-base.js";
import { type TrainText, openTexts, trainBatches, trainTexts } from "./train-data.js";
import {
  type AdapterRequest,
  type FurtherRequest,
  type TrainControl,
  type TrainOptions,
  type TrainRequest,
  type TrainResult,
  adapterOf,
  trainOptions,
} from "./train-options.js";
import { makeTokenizer, survey, tokenize } from "./train-text.js";

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
  const system = typeof asked === "string" ? namedSystem("decoder", asked) : asked;
  return inRunFolder(
    out,
    trainOptions,
    { resume: false, given: { ...options, system: system.name } },
    (folder) => run(folder, system, control),
  );
}

/**
 * Trains a LoRA adapter beside the frozen weights of a decoder, and writes it to a folder of peft's:
 *
 *     await trainAdapter({ base: "some-llama", adapter: "qlora", data: "my.txt", out: "runs/mine" });
 *
 * Throws `argument` for a target that matches no linear layer, with those that there are.
 */
export const trainAdapter = (
  { out, ...options }: AdapterRequest,
  control: TrainControl = {},
): Promise<TrainResult> => runFrom(out, options, control);

/**
 * Trains all weights of a finished decoder further, by another objective perhaps. With UL2R a causal model becomes a prefix
 * language model that fills gaps, too:
 *
 *     await trainFurther({ base: "runs/palm", objective: "ul2r", data: "my.txt", out: "runs/u-palm" });
 *
 * Tokens that the objective needs are added to the tokenizer and to the embeddings (`widenDecoder`). Throws `argument` for an
 * objective that there is not, `unsupported` for a system that cannot read prompts both ways.
 */
export const trainFurther = (
  { out, ...options }: FurtherRequest,
  control: TrainControl = {},
): Promise<TrainResult> => runFrom(out, { ...options, adapter: "none" }, control);

/** A run that begins with a finished model, whose system is kept with its options. */
async function runFrom(
  out: string,
  options: Omit<AdapterRequest, "out">,
  control: TrainControl,
): Promise<TrainResult> {
  const { system } = await describeModel(options.base);
  const given = { ...options, system: system.name };
  return inRunFolder(out, trainOptions, { resume: false, given }, (folder) =>
    run(folder, undefined, control),
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
  inRunFolder(out, trainOptions, { resume: true }, (folder) => {
    const { system, base } = folder.options;
    if (base !== undefined) return run(folder, undefined, control);
    return run(folder, own?.name === system ? own : namedSystem("decoder", system), control);
  });

async function run(
  folder: RunFolder<TrainOptions>,
  /** Undefined for a run that begins with a finished model: the base has one. */
  asked: DecoderSystem | undefined,
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
      `--workers is for the CPU; leave it out to train on ${runtime.device}`,
    );
  if (options.workers !== undefined && asked && !systemsOfKind("decoder").includes(asked))
    throw new LineageError("argument", "workers know the library's systems alone; leave them out");
  const sizes = asked && sizesOf(asked, options);
  // What does not fit is refused before the text is read.
  stepsOf(options);
  const mixture = mixtureOf(options.objective);
  const { texts, markers, statement: marked } = await trainTexts(options);
  if (marked !== undefined) onMessage?.(`control tokens: ${marked}`, { markers });
  const needs: Asked = { mixture, markers };
  using base = asked ? undefined : await openBase(runtime, options.base!, out, options, needs);
  const system = asked ?? base!.system;
  // A run that goes on has its tokens beside it and needs neither the text nor its tokenizer's making.
  const tokensOf = ({ language }: TrainText): string =>
    folder.file(language === "" ? "tokens" : `tokens-${language}`);
  const tokenized = folder.resuming && texts.every((text) => hasTokens(tokensOf(text)));
  const surveyed = [];
  if (!tokenized) for (const { corpus } of texts) surveyed.push(await survey(corpus, options, signal));
  const rowLength = sizes ? Number(sizes["contextLength"]) : base!.sequenceLength;
  const alphabet = surveyed.map((one) => one.alphabet).join("");
  const tokenizer =
    base?.tokenizer ??
    (folder.resuming
      ? await loadTokenizer(out)
      : tokenizerFor(
          await makeTokenizer(system, options, together(texts), alphabet, onMessage),
          needs,
          rowLength,
        ));

  const model = base?.model ?? newModel(system, sizes!, tokenizer.vocabSize);
  const { hiddenSize, numLayers, numHeads } = model.config;
  const contextLength = base?.sequenceLength ?? model.config.contextLength;
  const plain = objectiveOf(model, options, contextLength);
  const adapter = base?.adapter;
  const objective = adapter ? withAdapter(plain, adapter) : plain;
  const parameters = countParameters(model);
  const trainedParameters = [...namedParameters(model).values()].reduce(
    (sum, { trainable, size: own }) => sum + (trainable ? own : 0),
    0,
  );
  // What learning a tokenizer has left behind is no part of what training takes.
  collectGarbage();
  const resident = process.memoryUsage.rss();
  const memory = trainingMemory(
    objective,
    {},
    {
      optimizer: optimizerStateSize[options.optimizer],
      average: options.ema !== undefined,
      gradientCheckpointing: options.gradientCheckpointing,
      frozen: adapter && base?.weights.constants,
      workers: options.workers,
      resident,
    },
  );
  onMessage?.(
    `model: ${system.title} with ${count(parameters)} parameters (${numLayers} layers, ${hiddenSize} wide, ${numHeads} heads)${adapter ? `, of which ${count(trainedParameters)} learn, in ${adapter.kind === "lora" ? `an adapter beside ${adapter.layers.size} layers` : `a ${adapter.kind === "prompt" ? "soft prompt" : "prefix"} of ${adapter.prompt.tokens} tokens`}` : ""}; ` +
      `training takes about ${formatBytes(memory.total)} of memory: weights ${formatBytes(memory.weights + memory.frozen)}, gradients ${formatBytes(memory.gradients)}, ` +
      `optimizer ${options.optimizer.startsWith("paged") ? `in a file of ${out}` : formatBytes(memory.optimizer + memory.average)}, a batch ${formatBytes(memory.activations)}, evaluation ${formatBytes(memory.evaluation)}, the process itself ${formatBytes(memory.process)}`,
    { parameters, trainedParameters, memory },
  );
  requireMemory(
    memory.total - resident,
    `${system.title} and a batch of ${options.batch} x ${contextLength} tokens`,
    "use a smaller --batch with a larger --accumulate, --gradient-checkpointing, or a smaller model",
  );

  for (const [index, { size }] of surveyed.entries())
    await tokenize(
      tokensOf(texts[index]!),
      texts[index]!.corpus,
      size,
      tokenizer,
      options,
      signal,
      onTokenized,
    );
  // Tokens are read by JavaScript, wherever the model runs.
  using opened = await openTexts(runtime.cpu, texts, tokensOf, tokenizer.vocabSize);
  const read = opened.texts;
  // The text's words lie in JavaScript's heap, and nothing needs them any more.
  collectGarbage();
  const batches = trainBatches(read, {
    ...{ options, mixture, tokenizer },
    sequenceLength: contextLength,
    groupOf: (length) => rotaryReach(model.config, length),
  });
  for (const { tokens, corpus } of read)
    if (tokens.validation.length < 2)
      throw new LineageError(
        "data",
        `the held-out part of ${corpus.name} has ${tokens.validation.length} tokens, but a loss needs at least two; use more text or a larger --validation`,
      );
  const sum = (part: "training" | "validation") =>
    read.reduce((all, { tokens }) => all + tokens[part].length, 0);
  const counts = {
    trainingTokens: sum("training"),
    validationTokens: sum("validation"),
    droppedTokens: batches.droppedTokens,
  };
  const characters = surveyed.reduce((all, { size }) => all + size.characters, 0);
  onMessage?.(
    `corpus: ${characters > 0 ? `${count(characters)} characters, ` : ""}${count(counts.trainingTokens)} tokens to train on, ${count(counts.validationTokens)} held out; vocabulary ${count(tokenizer.vocabSize)}` +
      batches.statement +
      (counts.droppedTokens > 0
        ? `; the last ${count(counts.droppedTokens)} do not fill a row of ${contextLength} and are left out`
        : ""),
    counts,
  );

  using weights = base?.weights ?? Weights.initialize(runtime, model, options.seed);
  let evaluation: EvaluationStep | undefined;
  const result = await runTraining({
    folder,
    objective,
    weights,
    source: batches.source,
    ...stepsOf(options),
    workers:
      options.workers === undefined
        ? undefined
        : {
            workers: options.workers,
            module: import.meta.url,
            name: trainObjective.name,
            argument: {
              options,
              system: system.name,
              config: system.config.write(model.config),
              sequenceLength: contextLength,
            } satisfies ObjectiveArgument,
            threads: Math.max(1, Math.floor(runtime.threads / options.workers)),
          },
    clipNorm: options.clip,
    seed: options.seed,
    averageDecay: options.ema,
    schedule: plannedSchedule(planOf(options), options.steps, {
      ...options,
      learningRate:
        options.learningRate ??
        (adapter || (base && isAdamW(options.optimizer))
          ? planOf(options).learningRate
          : optimizerRates[options.optimizer]),
    }),
    optimizer: (...buffers) => makeOptimizer(options, out, ...buffers),
    steps: options.steps,
    evalEvery: options.evalEvery,
    patience: options.patience,
    evaluate: async (kept, { signal: stop }) => {
      evaluation ??= await EvaluationStep.create(objective, kept);
      const { loss } = await evaluation.evaluate(batches.heldOut(), { signal: stop });
      return { loss, perplexity: Math.exp(loss) };
    },
    save: base?.save ?? ((kept) => saveModel(out, { system, model, weights: kept, tokenizer })),
    signal,
    ...(observer && { observer }),
  }).finally(() => evaluation?.dispose());
  return { ...result, ...counts, parameters, trainedParameters, options };
}

interface ObjectiveArgument {
  readonly options: TrainOptions;
  readonly system: string;
  /** The model's `config.json`. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly sequenceLength: number;
}

/** The objective of a run, made again in each of its workers. */
export function trainObjective({
  options,
  system: name,
  config,
  sequenceLength,
}: ObjectiveArgument): Objective {
  const system = namedSystem("decoder", name);
  return objectiveOf(system.create(system.config.read(config)), options, sequenceLength);
}

/** All texts one after the other: what a tokenizer learns from. */
const together = (texts: readonly TrainText[]): Corpus => ({
  name: texts.map(({ corpus }) => corpus.name).join(", "),
  documents: texts.every(({ corpus }) => corpus.documents),
  *parts() {
    for (const { corpus } of texts) yield* corpus.parts();
  },
});

/** How a run learns where nobody says. */
function planOf(options: TrainOptions): LearningPlan {
  const adapter = adapterOf(options);
  if (adapter !== "none")
    return learningPlans[adapter === "prompt" || adapter === "prefix" ? "softPrompt" : "adapter"];
  if (options.optimizer === "palm") return learningPlans.palm;
  return options.base === undefined ? learningPlans.train : learningPlans.further;
}

function objectiveOf(
  model: CausalLm,
  { packing, batch, zLoss, objective }: TrainOptions,
  sequenceLength: number,
): Objective {
  const chosen = { batchSize: batch, sequenceLength, zLoss };
  const packed = packing === "documents";
  if (!isCausal(mixtureOf(objective)))
    return packed ? packedPrefixObjective(model, chosen) : prefixObjective(model, chosen);
  return packed ? packedObjective(model, chosen) : nextTokenObjective(model, chosen);
}

/** What a person chose of a model, small sizes where nothing was, and what a system's own options are for such a model. */
function sizesOf(
  system: DecoderSystem,
  { sizes, objective }: TrainOptions,
): Readonly<Record<string, unknown>> {
  const bothWays = !isCausal(mixtureOf(objective));
  if (bothWays && !system.config.has("prefixLm"))
    throw new LineageError(
      "unsupported",
      `--objective ${objective} makes a prefix language model, but ${system.title} reads from left to right alone`,
    );
  const base = { ...smallSizes, ...sizes, ...(bothWays && { prefixLm: true }) };
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

function makeOptimizer(
  options: TrainOptions,
  folder: string,
  weights: Weights,
  gradients: Weights,
): Promise<Optimizer> {
  const { optimizer, beta2 } = options;
  const weightDecay = options.weightDecay ?? (isAdamW(optimizer) ? planOf(options).weightDecay : 0);
  if (optimizer === "sgd") return sgd(weights, gradients, { momentum: 0.9, weightDecay });
  if (optimizer === "palm")
    return adafactor(weights, gradients, {
      ...palmAdafactor,
      ...(options.weightDecay !== undefined && {
        weightDecay: options.weightDecay,
        weightDecayPower: undefined,
      }),
    });
  return chosenOptimizer({ optimizer, betas: [0.9, beta2], weightDecay }, folder, weights, gradients);
}
