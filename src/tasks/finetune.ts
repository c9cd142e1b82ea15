import { existsSync } from "node:fs";
import path from "node:path";
import { z } from "zod";
import { FormatError, LineageError } from "../base/errors.js";
import { readJson, writeAtomically, writeJson } from "../base/files.js";
import { Random } from "../base/random.js";
import { BucketedSource, type Example, examplesOf, isHeaderOf, readTable, taskNames } from "../data/index.js";
import { type LoadedTask, loadEncoderForTask, saveEncoder } from "../checkpoints/index.js";
import { encoderInputSpecs, encoderInputsOf } from "./encoder-program.js";
import { type EncoderWithHead, namedParameters } from "../nn/index.js";
import { createRuntime } from "../runtime/index.js";
import type { Runtime } from "../runtime/types.js";
import {
  type Metrics,
  type Objective,
  RunFolder,
  type TrainingObserver,
  type TrainingResult,
  adamW,
  lockFolder,
  parseOptions,
  runTraining,
  schedule,
  trainingFile,
} from "../training/index.js";
import { Answerer } from "./answers.js";
import { confusionPicture } from "./picture.js";
import { contextOf, writeSettings } from "./settings.js";
import {
  type Item,
  type Measured,
  type Task,
  type TaskContext,
  batchOf,
  checkLabels,
  checkThreshold,
  hasClasses,
  labelsOf,
  tasks,
} from "./tasks.js";

/** Everything that decides a run of fine-tuning; kept beside the checkpoint so that resuming needs nothing else. */
export const finetuneOptions = z.object({
  /** Folder of an encoder. */
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
  /** Begins a new head even where the checkpoint has one. */
  newHead: z.boolean().default(false),
  epochs: z.number().positive().default(3),
  batch: z.int().positive().default(16),
  accumulate: z.int().positive().default(1),
  learningRate: z.number().positive().default(5e-5),
  /** Share of the steps over which the learning rate rises. */
  warmup: z.number().min(0).lt(1).default(0.1),
  schedule: z.enum(["constant", "linear", "cosine"]).default("linear"),
  weightDecay: z.number().nonnegative().default(0.01),
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
  seed: z.int().nonnegative().default(1),
});
export type FinetuneOptions = z.infer<typeof finetuneOptions>;

export interface FinetuneControl {
  readonly resume?: boolean;
  readonly runtime?: Runtime;
  /** Told of what was found in the data, and of what begins anew. */
  readonly onMessage?: (message: string, data: Readonly<Record<string, unknown>>) => void;
  readonly observer?: TrainingObserver;
  readonly signal?: AbortSignal;
}

export interface FinetuneResult extends TrainingResult {
  /** Of the checkpoint that was kept. */
  readonly metrics: Metrics | undefined;
  /** The confusion matrix of the checkpoint that was kept, as a table. */
  readonly confusion: string | undefined;
  readonly labels: readonly string[];
}

/**
 * Fine-tunes an encoder on a file of examples and keeps the best checkpoint in `out`:
 *
 *     await finetune({ model: "all-MiniLM-L6-v2", task: "classify", data: "train.csv", eval: "dev.csv", out: "runs/sentiment" });
 *
 * `out` receives what Hugging Face transformers reads, with `task.json` for `Predictor`, `evaluation.json` and, for
 * classes, `confusion.svg`; besides what `runTraining` writes, so that a run that was stopped goes on with `resume`. Throws
 * `data` with the row for rows that cannot be learned from.
 */
export async function finetune(
  { out, ...given }: z.input<typeof finetuneOptions> & { readonly out: string },
  control: FinetuneControl = {},
): Promise<FinetuneResult> {
  const folder = await RunFolder.open(out, finetuneOptions, { resume: control.resume ?? false, given });
  try {
    const data = await readData(folder.options, control);
    return await run(folder, data, control);
  } finally {
    await folder.close();
  }
}

/** Goes on with the run in a folder, by the options that it was started with. */
export const resumeFinetuning = (out: string, control: FinetuneControl = {}): Promise<FinetuneResult> =>
  finetune({ out } as never, { ...control, resume: true });

const foldSchema = z.object({ metrics: z.record(z.string(), z.number()), rows: z.int().positive() });
/** One share of the rows: how well it was answered by the run that did not see it. */
export type Fold = z.infer<typeof foldSchema>;

/** A cross-validation in its folder, `folds.json`: what decides it, and the folds that are done. */
const foldsSchema = z.object({
  options: finetuneOptions,
  count: z.int().min(2),
  /** Rows of the data, by which a file that has changed meanwhile is told. */
  rows: z.int().positive().optional(),
  folds: z.array(foldSchema),
  summary: z.record(z.string(), z.object({ mean: z.number(), deviation: z.number() })),
});
type Folds = z.infer<typeof foldsSchema>;

export interface FoldsResult {
  readonly outcome: "finished" | "interrupted";
  /** Those that are done. */
  readonly folds: readonly Fold[];
  /** How many there are in all. */
  readonly count: number;
  /** Mean and standard deviation over the folds that are done, by metric. */
  readonly summary: Readonly<Record<string, { readonly mean: number; readonly deviation: number }>>;
}

const foldsFile = (out: string): string => path.join(out, "folds.json");

/** Whether a folder is that of a cross-validation. */
export const holdsFolds = (out: string): boolean => existsSync(foldsFile(out));

/**
 * Cross-validation: `folds` runs, each on all but one of as many shares of the data and measured on that one. `out`
 * receives the runs in `fold-1`, `fold-2`, … and the summary in `folds.json`. What was interrupted goes on with
 * `resumeCrossValidation`.
 */
export async function crossValidate(
  {
    out,
    folds: count,
    ...given
  }: z.input<typeof finetuneOptions> & { readonly out: string; readonly folds: number },
  control: FinetuneControl = {},
): Promise<FoldsResult> {
  if (!(Number.isInteger(count) && count >= 2))
    throw new LineageError("argument", `cross-validation needs two folds or more, not ${count}`);
  return inFolder(out, () => {
    if (holdsFolds(out))
      throw new LineageError(
        "checkpoint",
        `${out} already holds a cross-validation; continue it with --resume, or choose another folder with --out`,
      );
    return runFolds(
      out,
      { options: parseOptions(finetuneOptions, given), count, folds: [], summary: {} },
      control,
    );
  });
}

/** Goes on with the cross-validation in a folder: folds that are done are not run again, one that was interrupted goes on. */
export async function resumeCrossValidation(
  out: string,
  control: FinetuneControl = {},
): Promise<FoldsResult> {
  if (!holdsFolds(out))
    throw new LineageError("checkpoint", `there is nothing to resume in ${out}: it has no folds.json`);
  return inFolder(out, async () => {
    const parsed = foldsSchema.safeParse(await readJson(foldsFile(out)));
    if (!parsed.success) throw new FormatError(foldsFile(out), z.prettifyError(parsed.error));
    return await runFolds(out, parsed.data, control);
  });
}

async function inFolder<T>(out: string, body: () => Promise<T>): Promise<T> {
  const lock = await lockFolder(out);
  try {
    return await body();
  } finally {
    await lock.release();
  }
}

async function runFolds(out: string, begun: Folds, control: FinetuneControl): Promise<FoldsResult> {
  const { options, count } = begun;
  const { file, training } = await readData({ ...options, eval: undefined, validation: 0 }, control);
  if (training.length < count)
    throw new LineageError("data", `${file} has ${training.length} rows, too few for ${count} folds`);
  if (begun.rows !== undefined && begun.rows !== training.length)
    throw new LineageError(
      "data",
      `${file} has ${training.length} rows, but had ${begun.rows} when the cross-validation in ${out} began; the folds would not be the same`,
    );
  const order = new Random(options.seed).fork("folds").permutation(training.length);
  const folds = [...begun.folds];
  const state = (): Folds => ({ ...begun, rows: training.length, folds, summary: summaryOf(folds) });
  await writeJson(foldsFile(out), state());
  if (folds.length > 0)
    control.onMessage?.(`going on after fold ${folds.length} of ${count}`, {
      folds: count,
      done: folds.length,
    });
  while (folds.length < count) {
    const fold = folds.length;
    const held = new Set(order.filter((_, place) => place % count === fold));
    const data: Data = {
      file,
      training: training.filter((_, place) => !held.has(place)),
      held: training.filter((_, place) => held.has(place)),
      heldFile: file,
    };
    const place = path.join(out, `fold-${fold + 1}`);
    const folder = await RunFolder.open(place, finetuneOptions, {
      resume: existsSync(trainingFile(place)),
      given: options,
    });
    try {
      control.onMessage?.(`fold ${fold + 1} of ${count}`, { fold: fold + 1, folds: count });
      const { outcome, metrics } = await run(folder, data, control);
      if (outcome === "interrupted") return { outcome, count, folds, summary: summaryOf(folds) };
      folds.push({ metrics: { ...metrics! }, rows: data.held.length });
      await writeJson(foldsFile(out), state());
    } finally {
      await folder.close();
    }
  }
  return { outcome: "finished", count, folds, summary: summaryOf(folds) };
}

function summaryOf(folds: readonly Fold[]): Folds["summary"] {
  return Object.fromEntries(
    Object.keys(folds[0]?.metrics ?? {}).map((name) => {
      const values = folds.map(({ metrics }) => metrics[name]!);
      const mean = values.reduce((a, b) => a + b, 0) / values.length;
      const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / Math.max(1, values.length - 1);
      return [name, { mean, deviation: Math.sqrt(variance) }];
    }),
  );
}

// ---- Data ---------------------------------------------------------------------------------------------------------

interface Data {
  readonly file: string;
  readonly training: readonly Example[];
  readonly held: readonly Example[];
  readonly heldFile: string;
}

const listRows = (examples: readonly Example[]): string =>
  examples
    .slice(0, 5)
    .map(({ row }) => row)
    .join(", ") + (examples.length > 5 ? ", …" : "");

async function readData(options: FinetuneOptions, control: FinetuneControl): Promise<Data> {
  const training = await readExamples(options.data, options, control);
  if (options.eval !== undefined)
    return {
      file: options.data,
      training,
      held: await readExamples(options.eval, options, control),
      heldFile: options.eval,
    };
  const count = Math.ceil(training.length * options.validation);
  if (options.validation > 0 && count >= training.length)
    throw new LineageError(
      "data",
      `${options.data} has ${training.length} rows, too few to hold some out; give --eval FILE`,
    );
  const order = new Random(options.seed).fork("held out").permutation(training.length);
  const held = new Set(order.slice(0, count));
  if (count > 0)
    control.onMessage?.(`${count} of ${training.length} rows are held out to evaluate on`, {
      heldOut: count,
    });
  return {
    file: options.data,
    training: training.filter((_, place) => !held.has(place)),
    held: training.filter((_, place) => held.has(place)),
    heldFile: options.data,
  };
}

/** The rows of a file that can be learned from or measured. What is left out, and what is odd, is told with its rows. */
export async function readExamples(
  file: string,
  options: Pick<
    FinetuneOptions,
    "task" | "textColumn" | "pairColumn" | "labelColumn" | "encoding" | "skipUnlabelled"
  >,
  { onMessage }: Pick<FinetuneControl, "onMessage"> = {},
): Promise<readonly Example[]> {
  const columns = { text: options.textColumn, pair: options.pairColumn, label: options.labelColumn };
  const table = await readTable(file, { header: isHeaderOf(columns), encoding: options.encoding });
  const { examples, columns: read } = examplesOf(options.task, table, columns);
  onMessage?.(`${file}: ${examples.length} rows; ${read}`, { file, rows: examples.length, columns: read });
  const labelled = examples.filter(({ label }) => label !== undefined);
  const missing = examples.filter(({ label }) => label === undefined);
  if (missing.length > 0) {
    const what = `${file}: ${missing.length} of ${examples.length} rows have no label (${missing.length === 1 ? "row" : "rows"} ${listRows(missing)})`;
    if (!options.skipUnlabelled || labelled.length === 0)
      throw new LineageError("data", `${what}; label them, or leave them out with --skip-unlabelled`);
    onMessage?.(`${what}; they are left out`, { file, unlabelled: missing.length });
  }
  const empty = labelled.filter(({ text, pair, words }) =>
    words ? words.length === 0 : text.trim() === "" && !pair?.trim(),
  );
  if (empty.length > 0)
    onMessage?.(
      `${file}: ${empty.length} ${empty.length === 1 ? "text is" : "texts are"} empty (rows ${listRows(empty)}); they are kept as they are`,
      {
        file,
        empty: empty.length,
      },
    );
  return labelled;
}

// ---- Run ----------------------------------------------------------------------------------------------------------

async function run(
  folder: RunFolder<FinetuneOptions>,
  data: Data,
  control: FinetuneControl,
): Promise<FinetuneResult> {
  const { options, path: out } = folder;
  const task = tasks[options.task];
  const labels = hasClasses(options.task) ? labelsOf(data.training) : [];
  if (hasClasses(options.task)) {
    if (labels.length < 2)
      throw new LineageError(
        "data",
        `${data.file} has one class only, ${JSON.stringify(labels[0])}: there is nothing to tell apart`,
      );
    checkLabels(data.heldFile, data.held, labels);
  }
  const runtime = control.runtime ?? createRuntime();
  const loaded = await loadModelFor(runtime, options, task, labels, data.file);
  try {
    if (loaded.statement) control.onMessage?.(loaded.statement, { fresh: loaded.fresh });
    const context = contextOf(loaded, options.task, options, {
      scale: options.task === "regress" ? scaleOf(data.training) : undefined,
      classWeights:
        options.classWeights === "balanced" ? balancedWeights(data.training, loaded.labels!) : undefined,
    });
    checkThreshold(options.threshold, options.task, context.labels);
    freeze(loaded.model, options, loaded);
    const measured = Object.keys(task.measure([], [], 0, context).metrics);
    if (options.metric !== undefined && !measured.includes(options.metric))
      throw new LineageError(
        "argument",
        `the task ${options.task} does not measure ${JSON.stringify(options.metric)}; it measures ${measured.join(", ")}`,
      );
    const items = prepare(task, data.training, context);
    tellTruncated(data.file, items, context, control);
    const heldItems = prepare(task, data.held, context);
    tellTruncated(data.heldFile, heldItems, context, control);
    return await train({ folder, out, options, task, data, loaded, context, items, heldItems }, control);
  } finally {
    loaded.weights.dispose();
  }
}

/** The model with a head for the labels; `labels` in the order of the head's classes. */
async function loadModelFor(
  runtime: Runtime,
  options: FinetuneOptions,
  task: Task,
  labels: readonly string[],
  file: string,
): Promise<LoadedTask> {
  const numLabels = hasClasses(options.task) ? labels.length : options.task === "regress" ? 1 : undefined;
  const loaded = await loadEncoderForTask(runtime, options.model, task.encoderTask, {
    numLabels,
    newHead: options.newHead ? "always" : "if missing",
    seed: options.seed,
  });
  if (!hasClasses(options.task)) return loaded;
  const named = loaded.labels;
  if (named && labels.some((label) => !named.includes(label))) {
    loaded.weights.dispose();
    throw new LineageError(
      "checkpoint",
      `the head of ${options.model} tells ${named.join(", ")} apart, but the labels of ${file} are ${labels.join(", ")}; begin a new head with --new-head`,
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
  { onMessage }: FinetuneControl,
): void {
  const cut = items.filter(({ truncated }) => truncated > 0);
  if (cut.length === 0) return;
  const tokens = cut.reduce((total, { truncated }) => total + truncated, 0);
  onMessage?.(
    `${file}: ${cut.length} ${cut.length === 1 ? "text is" : "texts are"} longer than ${maxLength} tokens; what is beyond, ${tokens} tokens, is cut off`,
    { file, truncatedTexts: cut.length, truncatedTokens: tokens },
  );
}

function scaleOf(examples: readonly Example[]): { mean: number; deviation: number } {
  const values = examples.map(({ label }) => label as number);
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const deviation = Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length);
  return { mean, deviation: deviation || 1 };
}

/** `rows / (classes * rows of the class)`, as scikit-learn's "balanced" has it. */
function balancedWeights(examples: readonly Example[], labels: readonly string[]): number[] {
  const all = examples.flatMap(({ label }) => [label].flat() as string[]);
  return labels.map((name) => {
    const count = all.filter((label) => label === name).length;
    return count === 0 ? 0 : all.length / (labels.length * count);
  });
}

/** How far a parameter is from the input: 0 for embeddings, then the layers, then what follows them. */
function depthOf(name: string, encoder: string, numLayers: number): number {
  if (!name.startsWith(`${encoder}.`)) return numLayers + 1;
  const own = name.slice(encoder.length + 1);
  const layer = /\.(\d+)(?:\.|$)/.exec(own)?.[1];
  if (layer !== undefined) return Number(layer) + 1;
  return /embed/i.test(own) ? 0 : numLayers + 1;
}

function freeze(model: EncoderWithHead, options: FinetuneOptions, { fresh }: LoadedTask): void {
  const { freezeEmbeddings, freezeLayers } = options;
  const { numLayers } = model.encoder.config;
  if (freezeLayers > numLayers)
    throw new LineageError(
      "argument",
      `the model has ${numLayers} layers; ${freezeLayers} of them cannot be frozen`,
    );
  const limit = freezeLayers > 0 ? freezeLayers : freezeEmbeddings ? 0 : -1;
  for (const [name, parameter] of namedParameters(model))
    parameter.trainable = depthOf(name, model.mounts.encoder, numLayers) > limit || fresh.includes(name);
}

interface Prepared {
  readonly folder: RunFolder<FinetuneOptions>;
  readonly out: string;
  readonly options: FinetuneOptions;
  readonly task: Task;
  readonly data: Data;
  readonly loaded: LoadedTask;
  readonly context: TaskContext;
  readonly items: readonly Item[];
  readonly heldItems: readonly Item[];
}

async function train(prepared: Prepared, control: FinetuneControl): Promise<FinetuneResult> {
  const { folder, out, options, task, data, loaded, context, items, heldItems } = prepared;
  const { model, weights } = loaded;
  const source = new BucketedSource(items, {
    batchSize: options.batch,
    seed: options.seed,
    lengthOf: ({ length }) => length,
    collate: (batch) => batchOf(task, batch, context),
  });
  const stepsPerEpoch = Math.ceil(source.batches / options.accumulate);
  const steps = Math.max(1, Math.round(stepsPerEpoch * options.epochs));
  const { numLayers } = model.encoder.config;
  const metric = options.metric ?? (options.threshold === "auto" ? "f1" : task.metric);
  using answerer = await Answerer.create(task, context, model, weights);
  let last: Measured | undefined;
  const result = await runTraining({
    folder,
    objective: objectiveOf(task, model),
    weights,
    source,
    accumulation: options.accumulate,
    clipNorm: options.clip,
    seed: options.seed,
    schedule: schedule(options.schedule, {
      learningRate: options.learningRate,
      warmupSteps: Math.floor(steps * options.warmup),
      totalSteps: steps + 1,
    }),
    optimizer: (all, gradients) =>
      adamW(all, gradients, {
        weightDecay: options.weightDecay,
        learningRateFactor: (name) =>
          options.layerDecay ** (numLayers + 1 - depthOf(name, model.mounts.encoder, numLayers)),
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
  return { ...result, metrics: kept?.metrics, confusion: kept?.confusion, labels: loaded.labels ?? [] };
}

const modeOf = (metric: string): "least" | "most" =>
  metric === "loss" || metric === "rmse" ? "least" : "most";

/** What fine-tuning makes smaller: the task's loss of the network's answers. */
function objectiveOf(task: Task, model: EncoderWithHead): Objective {
  return {
    model,
    inputs: { ...encoderInputSpecs(task.shape), ...task.targets },
    losses: (inputs, context) => ({
      [task.name]: task.loss(model.forward(encoderInputsOf(inputs), context), inputs),
    }),
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
    await saveEncoder(out, { ...loaded, labels, task: task.encoderTask });
    await writeSettings(out, { task: options.task, maxLength, stride, threshold });
  } finally {
    restore?.();
  }
}

/**
 * Makes the last layer answer in the labels' own scale, as whoever loads the checkpoint expects; the function returned
 * undoes it, for training goes on in the other one.
 */
function foldScale({ model, weights }: LoadedTask, scale: { mean: number; deviation: number }): () => void {
  const own = Object.keys(weights.tensors).filter((name) => !name.startsWith(`${model.mounts.encoder}.`));
  const last = (kind: string) => own.filter((name) => name.endsWith(kind)).at(-1)!;
  const [weight, bias] = [last("weight"), last("bias")].map((name) => weights.get(name).view()) as [
    Float32Array,
    Float32Array,
  ];
  const [weightBefore, biasBefore] = [weight.slice(), bias.slice()];
  weight.forEach((value, place) => (weight[place] = value * scale.deviation));
  bias.forEach((value, place) => (bias[place] = value * scale.deviation + scale.mean));
  return () => {
    weight.set(weightBefore);
    bias.set(biasBefore);
  };
}

interface KeptEvaluation {
  readonly metrics: Metrics;
  readonly confusion?: string;
}

async function writeEvaluation(out: string, { metrics, confusion }: Measured): Promise<void> {
  await writeJson(path.join(out, "evaluation.json"), {
    metrics,
    ...(confusion && {
      confusion: confusion.toString(),
      classes: confusion.classes,
      counts: confusion.counts.map((row) => [...row]),
      byClass: confusion.byClass,
    }),
  });
  if (confusion)
    await writeAtomically(path.join(out, "confusion.svg"), [confusionPicture("Held-out rows", confusion)]);
}

const readEvaluation = async (out: string): Promise<KeptEvaluation> =>
  (await readJson(path.join(out, "evaluation.json"))) as KeptEvaluation;
