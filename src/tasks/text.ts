import { existsSync } from "node:fs";
import path from "node:path";
import { LineageError } from "../base/errors.js";
import { readJson, writeJson } from "../base/files.js";
import { requireMemory } from "../base/memory.js";
import { type EncoderDecoderCheckpoint, loadModel, saveModel } from "../checkpoints/index.js";
import { pairSource, pairsOnce } from "../data/index.js";
import { loadTokenizer, writeTokenizer } from "../formats/index.js";
import { type EncoderDecoderSystem, systemsOfKind } from "../models/index.js";
import { Weights, countParameters } from "../nn/index.js";
import { sequenceToSequenceObjective } from "../objectives/index.js";
import { createRuntime } from "../runtime/index.js";
import type { Runtime } from "../runtime/types.js";
import { type Tokenizer, trainTokenizer } from "../tokenizers/index.js";
import {
  CheckpointAverage,
  EvaluationStep,
  type Metrics,
  type Optimizer,
  RunFolder,
  type ScheduleName,
  type TrainingResult,
  adafactor,
  adamW,
  optimizerStateSize,
  runTraining,
  schedule,
  trainingMemory,
} from "../training/index.js";
import type { z } from "zod";
import type { FinetuneControl } from "./finetune-options.js";
import { SourceWriter } from "./source-writer.js";
import { type EncodedPair, type TextData, encodePairs, readTextData } from "./text-data.js";
import {
  type FinetuneTextOptions,
  type TextOptions,
  type TrainTextOptions,
  finetuneTextOptions,
  trainTextOptions,
} from "./text-options.js";
import { type TextScores, scoreTexts } from "./text-scores.js";

/** What a run over pairs of texts did. */
export interface TextResult extends TrainingResult {
  /** Of the checkpoint that was kept. */
  readonly metrics: Metrics | undefined;
  /** sacreBLEU's signatures of the metrics that have one. */
  readonly signatures: TextScores["signatures"] | undefined;
  readonly parameters: number;
  readonly trainingPairs: number;
  readonly heldOutPairs: number;
}

/** A text that was written at an evaluation, beside what it is about and what was wanted. */
export interface TextSample {
  readonly source: string;
  readonly reference: string;
  readonly text: string;
}

/**
 * Fine-tunes an encoder-decoder on pairs of texts and keeps the best checkpoint in `out`:
 *
 *     await finetuneText({ model: "t5-small", data: "news.jsonl", source: "article", target: "summary", prefix: "summarize: ", out: "runs/news" });
 *
 * `out` receives what Hugging Face transformers reads, `evaluation.json`, and what `runTraining` writes, so that a run that
 * was stopped goes on with `resume`. Throws `data` with the rows for pairs that cannot be learned from.
 */
export const finetuneText = (
  { out, ...given }: z.input<typeof finetuneTextOptions> & { readonly out: string },
  control: FinetuneControl = {},
): Promise<TextResult> =>
  inFolder(out, finetuneTextOptions, given, control, async (folder, runtime) => {
    const { options } = folder;
    const data = await readTextData(options, control.onMessage);
    const loaded = await loadModel(runtime, options.model, { kind: "encoder-decoder" });
    return new TextRun(folder, loaded, data, control, (steps) => Math.floor(steps * options.warmup));
  });

/**
 * Makes an encoder-decoder from pairs of texts, with a tokenizer of its own that both sides share:
 *
 *     await trainText({ system: "transformer", data: "train.de", targets: "train.en", out: "runs/de-en" });
 *
 * `out` receives the same as from `finetuneText`.
 */
export const trainText = (
  { out, ...given }: z.input<typeof trainTextOptions> & { readonly out: string },
  control: FinetuneControl = {},
): Promise<TextResult> =>
  inFolder(out, trainTextOptions, given, control, async (folder, runtime) => {
    const { options } = folder;
    const system = systemNamed(options.system);
    const data = await readTextData(options, control.onMessage);
    const tokenizer = await tokenizerFor(folder, system, data);
    const model = newModel(system, options, tokenizer);
    const weights = Weights.initialize(runtime, model, options.seed);
    const usual = (steps: number) => Math.min(2000, Math.ceil(steps / 10));
    const loaded = { system, model, weights, tokenizer };
    return new TextRun(folder, loaded, data, control, (steps) => options.warmup ?? usual(steps));
  });

/** What `run.json` says of the run in a folder; undefined where there is none. */
async function keptOptions(out: string): Promise<{ task?: unknown; system?: unknown } | undefined> {
  const file = path.join(out, "run.json");
  if (!existsSync(file)) return undefined;
  const json = await readJson(file);
  return typeof json === "object" && json !== null ? json : undefined;
}

/** Whether the run in a folder learns from pairs of texts. */
export const holdsTextRun = async (out: string): Promise<boolean> =>
  (await keptOptions(out))?.task === "text";

/** Goes on with the run in a folder, by the options that it was started with. */
export async function resumeText(out: string, control: FinetuneControl = {}): Promise<TextResult> {
  const resuming = { ...control, resume: true };
  const isNew = (await keptOptions(out))?.system !== undefined;
  // A run that goes on is told by its folder.
  const given = { out } as never;
  return isNew ? trainText(given, resuming) : finetuneText(given, resuming);
}

async function inFolder<Options extends TextOptions>(
  out: string,
  schema: z.ZodType<Options>,
  given: unknown,
  control: FinetuneControl,
  begin: (folder: RunFolder<Options>, runtime: Runtime) => Promise<TextRun>,
): Promise<TextResult> {
  const folder = await RunFolder.open(out, schema, { resume: control.resume ?? false, given });
  try {
    const run = await begin(folder, control.runtime ?? createRuntime());
    try {
      return await run.run();
    } finally {
      run.dispose();
    }
  } finally {
    await folder.close();
  }
}

// ---- New models ---------------------------------------------------------------------------------------------------

function systemNamed(name: string): EncoderDecoderSystem {
  const known = systemsOfKind("encoder-decoder");
  const found = known.find((system) => system.name === name);
  if (!found)
    throw new LineageError(
      "argument",
      `there is no encoder-decoder ${name}; there are ${known.map((system) => system.name).join(", ")}`,
    );
  return found;
}

/** The tokenizer of a new model; kept from the start, so that a run that is interrupted early goes on with the same tokens. */
async function tokenizerFor(
  { options, path: out, resuming }: RunFolder<TrainTextOptions>,
  { tokenizer: recipe }: EncoderDecoderSystem,
  { training }: TextData,
): Promise<Tokenizer> {
  if (resuming) return loadTokenizer(out);
  const texts = function* () {
    for (const { source, target } of training) {
      yield options.prefix + source;
      yield target;
    }
  };
  const tokenizer =
    options.tokenizer === undefined
      ? trainTokenizer(recipe, texts(), options.vocabSize)
      : await loadTokenizer(options.tokenizer);
  await writeTokenizer(tokenizer, out);
  return tokenizer;
}

/** Sizes where nothing is chosen. */
const smallSizes = { contextLength: 256, hiddenSize: 128, numLayers: 4, numHeads: 4 };

function newModel(system: EncoderDecoderSystem, { sizes }: TrainTextOptions, tokenizer: Tokenizer) {
  const { config } = system;
  const chosen = { ...smallSizes, ...sizes };
  const unknown = Object.keys(chosen).find((field) => !config.has(field));
  if (unknown !== undefined)
    throw new LineageError("argument", `${system.title} has no ${unknown}; leave it out`);
  const usual = config.create({ ...chosen, vocabSize: tokenizer.vocabSize });
  const { padId, eosId } = tokenizer;
  if (eosId === undefined)
    throw new LineageError(
      "tokenizer",
      "the tokenizer has no token that ends a text, which the model has to write",
    );
  const padTokenId = padId ?? eosId;
  return system.create(
    config.create({
      // A deviation of 0.02 is for wide layers; this is Glorot's for any width.
      ...(config.has("initializerRange") && { initializerRange: chosen.hiddenSize ** -0.5 }),
      ...(config.has("headSize") && { headSize: Math.ceil(chosen.hiddenSize / chosen.numHeads) }),
      ...(config.has("headSize") && { intermediateSize: 4 * chosen.hiddenSize }),
      ...chosen,
      vocabSize: tokenizer.vocabSize,
      padTokenId,
      decoderStartTokenId: usual.decoderStartTokenId === usual.padTokenId ? padTokenId : eosId,
    }),
  );
}

// ---- A run --------------------------------------------------------------------------------------------------------

/** Tokens that a held-out text may have more than the longest reference. */
const slack = 10;

class TextRun implements Disposable {
  private readonly training: readonly EncodedPair[];
  private readonly held: readonly EncodedPair[];
  private readonly average: CheckpointAverage | undefined;
  private evaluation: EvaluationStep | undefined;
  private writer: SourceWriter | undefined;
  /** The weights that were evaluated last, and what came of it. */
  private last: { readonly weights: Weights; readonly kept: object } | undefined;

  constructor(
    private readonly folder: RunFolder<TextOptions>,
    private readonly loaded: EncoderDecoderCheckpoint,
    data: TextData,
    private readonly control: FinetuneControl,
    private readonly warmupOf: (steps: number) => number,
  ) {
    const { options } = folder;
    const { model, tokenizer, weights } = loaded;
    const { contextLength } = model.config;
    const { maxLength = contextLength, long, prefix } = options;
    if (maxLength > contextLength)
      throw new LineageError(
        "length",
        `texts of ${maxLength} tokens do not fit the model, which knows ${contextLength}; choose a smaller --max-length`,
      );
    const encoded = { maxLength, long, prefix };
    this.training = encodePairs(data.name, data.training, tokenizer, encoded, control.onMessage);
    this.held = encodePairs(data.heldName, data.held, tokenizer, encoded, control.onMessage);
    this.average =
      options.averageLast > 1
        ? new CheckpointAverage(folder.file("last"), weights, options.averageLast)
        : undefined;
  }

  async run(): Promise<TextResult> {
    const { folder, loaded, control, training, held } = this;
    const { options } = folder;
    const { model, weights, system } = loaded;
    const { maxTokens, batch: batchSize, seed, accumulate } = options;
    const objective = sequenceToSequenceObjective(model, { labelSmoothing: options.labelSmoothing });
    const batch = { padId: model.config.padTokenId, startId: system.startId(model.config) };
    const source = pairSource(training, { ...batch, maxTokens, batchSize, seed });
    const stepsPerEpoch = Math.max(1, Math.ceil(source.batches / accumulate));
    const steps = options.steps ?? Math.max(1, Math.round(stepsPerEpoch * options.epochs));
    const parameters = countParameters(model);
    const longest = Math.max(...training.map((pair) => Math.max(pair.source.length, pair.target.length)));
    const rows = Math.max(1, Math.min(batchSize, Math.floor(maxTokens / longest)));
    const memory = trainingMemory(
      objective,
      { batch: rows, source: longest, target: longest },
      { optimizer: optimizerStateSize[options.optimizer], average: false },
    );
    control.onMessage?.(
      `${system.title} with ${parameters.toLocaleString("en-US")} parameters; ${training.length} pairs to learn from, ${held.length} held out; ${steps} steps, ${stepsPerEpoch} an epoch`,
      { parameters, trainingPairs: training.length, heldOutPairs: held.length, steps },
    );
    requireMemory(
      memory.total,
      `${system.title} and batches of ${maxTokens} tokens`,
      "use smaller batches (--max-tokens) that are accumulated more often, or a smaller model",
    );
    const { learningRate } = options;
    const result = await runTraining({
      folder,
      objective,
      weights,
      source,
      accumulation: accumulate,
      clipNorm: options.clip,
      seed,
      schedule: schedule(options.schedule satisfies ScheduleName, {
        learningRate,
        warmupSteps: this.warmupOf(steps),
        totalSteps: steps + 1,
      }),
      optimizer: (...buffers) => optimizerOf(options, ...buffers),
      steps,
      evalEvery: options.evalEvery ?? stepsPerEpoch,
      patience: options.patience,
      best: { metric: options.metric, mode: options.metric === "loss" ? "least" : "most" },
      evaluate: async (current, { signal, step }) => {
        const evaluated = (await this.average?.add(step)) ?? current;
        this.evaluation ??= await EvaluationStep.create(objective, evaluated);
        const { loss } = await this.evaluation.evaluate(pairsOnce(held, { ...batch, maxTokens, batchSize }), {
          signal,
        });
        const written = options.evalRows > 0 ? await this.write(evaluated, signal) : undefined;
        const metrics = { loss, ...written?.scores.metrics };
        this.last = {
          weights: evaluated,
          kept: {
            metrics,
            ...(written && {
              signatures: written.scores.signatures,
              rows: written.rows,
              samples: written.samples,
            }),
          },
        };
        return metrics;
      },
      save: async (current) => {
        await saveModel(folder.path, { ...loaded, weights: this.last?.weights ?? current });
        if (this.last) await writeJson(evaluationFile(folder.path), this.last.kept);
      },
      signal: control.signal,
      observer: control.observer,
    });
    const kept = result.best === undefined ? undefined : await readKept(folder.path);
    return {
      ...result,
      metrics: kept?.metrics,
      signatures: kept?.signatures,
      parameters,
      trainingPairs: training.length,
      heldOutPairs: held.length,
    };
  }

  /** Writes held-out texts, tells some of them, and scores all. */
  private async write(weights: Weights, signal: AbortSignal | undefined) {
    const { loaded, control, folder } = this;
    const { model, tokenizer } = loaded;
    const rows = this.held.slice(0, folder.options.evalRows);
    this.writer ??= await SourceWriter.create(
      { ...loaded, weights },
      {
        slots: Math.min(32, rows.length),
        capacity: Math.min(
          model.config.contextLength,
          slack + Math.max(...rows.map(({ target }) => target.length)),
        ),
      },
    );
    const found = await this.writer.write(
      rows.map(({ source }) => source),
      { signal },
    );
    const texts = found.map(([best]) => tokenizer.decode(best!.ids));
    const scores = scoreTexts(
      texts,
      rows.map(({ written }) => written.target),
    );
    const samples = rows.slice(0, folder.options.samples).map(({ written }, index): TextSample => ({
      source: written.source,
      reference: written.target,
      text: texts[index]!,
    }));
    if (samples.length > 0) control.onMessage?.(sampleTable(samples), { samples });
    return { scores, samples, rows: rows.length };
  }

  dispose(): void {
    this.writer?.dispose();
    this.evaluation?.dispose();
    this.average?.dispose();
    this.loaded.weights.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

const sampleTable = (samples: readonly TextSample[]): string =>
  samples
    .map(
      ({ source, reference, text }) =>
        `  source     ${source}\n  reference  ${reference}\n  written    ${text}`,
    )
    .join("\n\n");

const evaluationFile = (folder: string): string => path.join(folder, "evaluation.json");
const readKept = async (folder: string) =>
  (await readJson(evaluationFile(folder))) as {
    readonly metrics: Metrics;
    readonly signatures?: TextScores["signatures"];
  };

function optimizerOf(
  { optimizer, weightDecay, beta2 }: FinetuneTextOptions | TrainTextOptions,
  weights: Weights,
  gradients: Weights,
): Promise<Optimizer> {
  return optimizer === "adafactor"
    ? adafactor(weights, gradients, { weightDecay })
    : adamW(weights, gradients, { betas: [0.9, beta2], weightDecay });
}
