import type { z } from "zod";
import { LineageError } from "../base/errors.js";
import { BucketedSource, type Example } from "../data/index.js";
import {
  type HeadCheckpoint,
  loadForTask,
  replaceModel,
  saveAdapter,
  saveModel,
} from "../checkpoints/index.js";
import { writeTokenizer } from "../formats/index.js";
import { type HeadSystem, headOf } from "../models/index.js";
import { sum } from "../graph/index.js";
import { DecoderBody, type EncoderWithHead, type LoraAdapter, namedParameters } from "../nn/index.js";
import { withAdapter } from "../objectives/index.js";
import { createRuntime } from "../runtime/index.js";
import type { Runtime } from "../runtime/types.js";
import {
  type Metrics,
  type Objective,
  type RunFolder,
  type TrainingResult,
  adamW,
  runTraining,
  learningPlans,
  plannedSchedule,
} from "../training/index.js";
import { Answerer } from "./answers.js";
import { batchOf, languagePart } from "./batches.js";
import { taskOf } from "./both-orders.js";
import { checkThreshold } from "./classify.js";
import { encoderInputSpecs, encoderInputsOf } from "./encoder-program.js";
import { readEvaluation, writeEvaluation } from "./evaluation.js";
import { type FinetuneData, readData } from "./finetune-data.js";
import { type FinetuneOptions, finetuneOptions } from "./finetune-options.js";
import { balancedWeights, checkLabels, distinctLabels } from "./labels.js";
import { freeze, learningRateFactor } from "./layers.js";
import { scaleOf } from "./regress.js";
import { rowTokenizer } from "./row-tokens.js";
import { type TaskSettings, contextOf, writeSettings } from "./settings.js";
import { loadAdaptedTask } from "./train-adapter.js";
import { type RunControl, inRunFolder } from "./run.js";
import type { Item, Measured, Task, TaskContext } from "./task.js";

/** A run of fine-tuning: what it is told, and where it is kept. */
export type FinetuneRequest = z.input<typeof finetuneOptions> & { readonly out: string };

export interface FinetuneResult extends TrainingResult {
  readonly options: FinetuneOptions;
  /** Of the checkpoint that was kept. */
  readonly metrics: Metrics | undefined;
  /** The confusion matrix of the checkpoint that was kept, as a table. */
  readonly confusion: string | undefined;
  readonly labels: readonly string[];
}

/**
 * Fine-tunes an encoder or a decoder on a file of examples and keeps the best checkpoint in `out`:
 *
 *     await finetune({ model: "all-MiniLM-L6-v2", task: "classify", data: "train.csv", eval: "dev.csv", out: "runs/sentiment" });
 *
 * `out` receives what Hugging Face transformers reads, with `task.json` for `Predictor`, `evaluation.json` and, for
 * classes, `confusion.svg`; besides what `runTraining` writes, so that a run that was stopped goes on with `resume`. Throws
 * `data` with the row for rows that cannot be learned from.
 */
export const finetune = (
  { out, ...given }: FinetuneRequest,
  control: RunControl = {},
): Promise<FinetuneResult> => inFolder(out, { resume: false, given }, control);

/** Goes on with the run in a folder, by the options that it was started with. */
export const resumeFinetuning = (out: string, control: RunControl = {}): Promise<FinetuneResult> =>
  inFolder(out, { resume: true }, control);

const inFolder = (
  out: string,
  options: { readonly resume: boolean; readonly given?: unknown },
  control: RunControl,
): Promise<FinetuneResult> =>
  inRunFolder(out, finetuneOptions, options, async (folder) =>
    runFinetuning(folder, await readData(folder.options, control), control),
  );

/** A run over data that was read, in its folder. */
export async function runFinetuning(
  folder: RunFolder<FinetuneOptions>,
  data: FinetuneData,
  control: RunControl,
): Promise<FinetuneResult> {
  const { options, path: out } = folder;
  const task = taskOf(options.task, options);
  const labels = task.hasClasses ? distinctLabels(data.training) : [];
  if (task.hasClasses) {
    if (labels.length < 2)
      throw new LineageError(
        "data",
        `${data.file} has one class only, ${JSON.stringify(labels[0])}; a classifier needs at least two`,
      );
    checkLabels(data.heldFile, data.held, labels);
  }
  const runtime = control.runtime ?? createRuntime();
  const loaded = await loadModelFor(runtime, options, task, labels, data.file);
  try {
    if (loaded.statement) control.onMessage?.(loaded.statement, { fresh: loaded.fresh });
    const context = contextOf(loaded, options.task, options, {
      scale:
        options.task === "regress"
          ? scaleOf(data.training, { centred: answersWith(loaded, "bias") !== undefined })
          : undefined,
      classWeights:
        options.classWeights === "balanced" ? balancedWeights(data.training, loaded.labels!) : undefined,
    });
    checkThreshold(options.threshold, task, context.labels);
    const coefficient = lmCoefficientOf(options, loaded.system);
    if (loaded.adapter) {
      refuseLayerOptions(options);
      tellAdapter(options, loaded.adapter, control);
    } else freeze(options, loaded);
    const measured = Object.keys(task.measure([], [], 0, context).metrics);
    if (options.metric !== undefined && !measured.includes(options.metric))
      throw new LineageError(
        "argument",
        `the task ${options.task} has no metric ${JSON.stringify(options.metric)}; it has ${measured.join(", ")}`,
      );
    const items = prepare(task, data.training, context);
    tellTruncated(data.file, items, context, control);
    const heldItems = prepare(task, data.held, context);
    tellTruncated(data.heldFile, heldItems, context, control);
    return await train(
      { folder, out, options, task, data, loaded, context, coefficient, items, heldItems },
      control,
    );
  } finally {
    loaded[Symbol.dispose]();
  }
}

/** A model that learns a task: all of it, or an adapter and the head. */
interface Learner extends HeadCheckpoint, Disposable {
  readonly adapter?: LoraAdapter;
}

/** Throws `argument` for options about layers, which an adapter leaves as they are. */
function refuseLayerOptions({ freezeEmbeddings, freezeLayers, layerDecay }: FinetuneOptions): void {
  const given = freezeEmbeddings
    ? "--freeze-embeddings"
    : freezeLayers > 0
      ? "--freeze-layers"
      : layerDecay < 1
        ? "--layer-decay"
        : undefined;
  if (given !== undefined)
    throw new LineageError(
      "argument",
      `beside an adapter all layers stay as they are, so ${given} has no meaning; leave it out, or choose layers with --lora-targets`,
    );
}

function tellAdapter(
  { rank, model }: FinetuneOptions,
  adapter: LoraAdapter,
  { onMessage }: RunControl,
): void {
  const count = (parameters: LoraAdapter["parameters"]) =>
    [...parameters.values()].reduce((sum, { size }) => sum + size, 0);
  const [learned, whole] = [count(adapter.updates), count(new Map(adapter.whole))];
  onMessage?.(
    `an adapter of rank ${rank} beside ${adapter.layers.size} layers of ${model} learns ${learned.toLocaleString("en-US")} numbers; the head learns whole, ${whole.toLocaleString("en-US")}`,
    { rank, layers: adapter.layers.size, adapterParameters: learned, headParameters: whole },
  );
}

async function openLearner(
  runtime: Runtime,
  options: FinetuneOptions,
  task: Task,
  numLabels: number | undefined,
): Promise<Learner> {
  const language = (system: HeadSystem) => lmCoefficientOf(options, system) > 0;
  if (options.adapter !== "none")
    return loadAdaptedTask(runtime, options, task.head, { numLabels, language });
  const loaded = await loadForTask(runtime, options.model, task.head, {
    numLabels,
    newHead: options.newHead ? "always" : "if missing",
    seed: options.seed,
    language,
    tokenizer: rowTokenizer,
  });
  const dispose = () => {
    loaded.weights.dispose();
  };
  return { ...loaded, [Symbol.dispose]: dispose };
}

/** The model with a head for the labels; `labels` in the order of the head's classes. */
async function loadModelFor(
  runtime: Runtime,
  options: FinetuneOptions,
  task: Task,
  labels: readonly string[],
  file: string,
): Promise<Learner> {
  const loaded = await openLearner(runtime, options, task, task.numLabels(labels));
  if (!task.hasClasses) return loaded;
  const named = loaded.labels;
  if (named && labels.some((label) => !named.includes(label))) {
    loaded[Symbol.dispose]();
    throw new LineageError(
      "checkpoint",
      `${options.model} has a head for the labels ${named.join(", ")}, but ${file} has ${labels.join(", ")}; start with a new head: --new-head`,
    );
  }
  return { ...loaded, labels: named ?? labels };
}

const prepare = (task: Task, examples: readonly Example[], context: TaskContext): Item[] =>
  examples.flatMap((example, place) => task.prepare(example, place, context));

function tellTruncated(
  file: string,
  items: readonly Item[],
  { maxLength }: TaskContext,
  { onMessage }: RunControl,
): void {
  const cut = items.filter(({ truncated }) => truncated > 0);
  if (cut.length === 0) return;
  const tokens = cut.reduce((total, { truncated }) => total + truncated, 0);
  onMessage?.(
    `${file}: ${cut.length} ${cut.length === 1 ? "text is" : "texts are"} longer than ${maxLength} tokens and ${cut.length === 1 ? "is" : "are"} cut (${tokens} tokens left out)`,
    { file, truncatedTexts: cut.length, truncatedTokens: tokens },
  );
}

interface Prepared {
  readonly folder: RunFolder<FinetuneOptions>;
  readonly out: string;
  readonly options: FinetuneOptions;
  readonly task: Task;
  readonly data: FinetuneData;
  readonly loaded: Learner;
  readonly context: TaskContext;
  /** Weight of the language-model loss. */
  readonly coefficient: number;
  readonly items: readonly Item[];
  readonly heldItems: readonly Item[];
}

async function train(prepared: Prepared, control: RunControl): Promise<FinetuneResult> {
  const { folder, out, options, task, data, loaded, context, coefficient, items, heldItems } = prepared;
  const { model, weights } = loaded;
  const source = new BucketedSource(items, {
    batchSize: options.batch,
    seed: options.seed,
    lengthOf: ({ length }) => length,
    collate: (batch) => batchOf(task, batch, context, { language: coefficient > 0 }),
  });
  const stepsPerEpoch = Math.ceil(source.batches / options.accumulate);
  const steps = Math.max(1, Math.round(stepsPerEpoch * options.epochs));
  const metric = options.metric ?? (options.threshold === "auto" ? "f1" : task.metric);
  using answerer = new Answerer(task, context, model, weights);
  let last: Measured | undefined;
  const objective = objectiveOf(task, model, coefficient);
  const plan = loaded.adapter ? learningPlans.finetuneAdapter : learningPlans.finetune;
  const result = await runTraining({
    folder,
    objective: loaded.adapter ? withAdapter(objective, loaded.adapter) : objective,
    weights,
    source,
    accumulation: options.accumulate,
    gradientCheckpointing: options.gradientCheckpointing,
    clipNorm: options.clip,
    seed: options.seed,
    schedule: plannedSchedule(plan, steps, {
      ...options,
      warmup: Math.floor(steps * options.warmup),
    }),
    optimizer: (all, gradients) =>
      adamW(all, gradients, {
        betas: plan.betas,
        weightDecay: options.weightDecay,
        learningRateFactor: learningRateFactor(options, loaded),
      }),
    steps,
    evalEvery: options.evalEvery ?? stepsPerEpoch,
    patience: options.patience,
    best: { metric, mode: modeOf(metric) },
    evaluate: async (_, { signal }) => {
      last = await answerer.measure(data.held, {
        items: heldItems,
        batchSize: 2 * options.batch,
        threshold: options.threshold,
        metric,
        signal,
      });
      return last.metrics;
    },
    save: async () => {
      const { threshold } = options;
      await save(out, prepared, threshold === "auto" ? last?.metrics["threshold"] : threshold);
      if (last) await writeEvaluation(out, last);
    },
    signal: control.signal,
    observer: control.observer,
  });
  const kept = result.best === undefined ? undefined : await readEvaluation(out);
  return {
    ...result,
    options,
    metrics: kept?.metrics,
    confusion: kept?.confusion,
    labels: loaded.labels ?? [],
  };
}

const modeOf = (metric: string): "least" | "most" =>
  metric === "loss" || metric === "rmse" ? "least" : "most";

/** How much a decoder's words count beside the task. Throws `argument` for an encoder, which predicts no next words. */
function lmCoefficientOf(
  { lmCoefficient }: Pick<FinetuneOptions, "lmCoefficient">,
  system: HeadSystem,
): number {
  if (system.kind === "decoder") return lmCoefficient ?? system.lmCoefficient ?? 0;
  if (lmCoefficient !== undefined && lmCoefficient > 0)
    throw new LineageError(
      "argument",
      `${system.title} is an encoder, which predicts no next words; leave out --lm-coefficient`,
    );
  return 0;
}

/**
 * What fine-tuning makes smaller: the task's loss of the network's answers, and for a decoder the loss of its rows' words
 * beside it, Radford et al. 2018, equation 5. Each is a mean: over the rows, and over the words.
 */
function objectiveOf(task: Task, model: EncoderWithHead, coefficient: number): Objective {
  const { encoder } = model;
  if (coefficient === 0 || !(encoder instanceof DecoderBody))
    return {
      model,
      inputs: { ...encoderInputSpecs(task.shape), ...task.targets },
      losses: (inputs, context) => ({
        [task.name]: task.loss(model.forward(encoderInputsOf(inputs), context), inputs),
      }),
    };
  return {
    model,
    inputs: {
      ...encoderInputSpecs(task.shape),
      ...task.targets,
      nextTokens: { dtype: "int32", shape: task.shape },
    },
    lossWeights: { [languagePart]: coefficient },
    losses: (inputs, context) => {
      const rows = encoderInputsOf(inputs);
      const hidden = model.states(rows, context);
      const nextTokens = inputs["nextTokens"]!;
      const words = nextTokens.reshape([-1, nextTokens.shape.at(-1)!]);
      return {
        [task.name]: task.loss(model.answer(hidden, rows, context), inputs),
        [languagePart]: sum(encoder.languageLosses(hidden, words)),
      };
    },
  };
}

async function save(
  out: string,
  { options, task, loaded, context }: Prepared,
  threshold: number | undefined,
): Promise<void> {
  const { maxLength, stride, scale } = context;
  const restore = scale ? foldScale(loaded, scale) : undefined;
  try {
    // One label, of whatever name, is how transformers knows that the answer is a number.
    const labels = options.task === "regress" ? ["LABEL_0"] : loaded.labels;
    const { bothOrders } = options;
    const settings: TaskSettings = {
      task: options.task,
      maxLength,
      stride,
      threshold,
      ...(bothOrders && { bothOrders }),
    };
    const { adapter, model, weights, tokenizer } = loaded;
    if (adapter) {
      await writeTokenizer(tokenizer, out);
      // An adapter's folder has no configuration that could name its classes.
      await writeSettings(out, { ...settings, ...(labels && { labels: [...labels] }) });
      await saveAdapter(out, { model, adapter, weights, base: options.model, head: task.head });
    } else
      await replaceModel(out, async (staging) => {
        await saveModel(staging, { ...loaded, labels, head: task.head });
        await writeSettings(staging, settings);
      });
  } finally {
    restore?.();
  }
}

/** A parameter of the layer that a number comes from; undefined where the layer does not have it. */
function answersWith(
  { system, model, weights }: HeadCheckpoint,
  part: "weight" | "bias",
): Float32Array | undefined {
  const name = `${headOf(system, "classify").output}.${part}`;
  return namedParameters(model).has(name) ? (weights.get(name).view() as Float32Array) : undefined;
}

/**
 * Makes the last layer answer in the labels' own scale, as whoever loads the checkpoint expects; the function returned
 * undoes it, for training goes on in the other one.
 */
function foldScale(loaded: HeadCheckpoint, scale: { mean: number; deviation: number }): () => void {
  const parts = (["weight", "bias"] as const).flatMap((part) => answersWith(loaded, part) ?? []);
  const before = parts.map((values) => values.slice());
  const [weight, bias] = parts;
  weight!.forEach((value, place) => (weight![place] = value * scale.deviation));
  bias?.forEach((value, place) => (bias[place] = value * scale.deviation + scale.mean));
  return () => {
    parts.forEach((values, part) => {
      values.set(before[part]!);
    });
  };
}
