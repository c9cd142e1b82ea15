import { existsSync } from "node:fs";
import path from "node:path";
import { LineageError } from "../base/errors.js";
import { readJson, writeJson } from "../base/files.js";
import { requireMemory } from "../base/memory.js";
import { type EncoderDecoderCheckpoint, loadModel, saveAdapter, saveModel } from "../checkpoints/index.js";
import { pairSource, pairsOnce } from "../data/index.js";
import { loadTokenizer, writeTokenizer } from "../formats/index.js";
import { Decoder, transform } from "../generation/index.js";
import type { EncoderDecoderSystem, SystemName } from "../models/index.js";
import { type LoraAdapter, Weights, countParameters } from "../nn/index.js";
import { sequenceToSequenceObjective, withAdapter } from "../objectives/index.js";
import { createRuntime } from "../runtime/index.js";
import { type Tokenizer, trainTokenizer } from "../tokenizers/index.js";
import {
  CheckpointAverage,
  EvaluationStep,
  type Metrics,
  type RunFolder,
  type TrainingResult,
  chosenOptimizer,
  optimizerStateSize,
  learningPlans,
  plannedSchedule,
  runTraining,
  trainingMemory,
  warmupSteps,
} from "../training/index.js";
import type { z } from "zod";
import { loadAdaptedPairs } from "./train-adapter.js";
import { type RunControl, inRunFolder, namedSystem, smallSizes } from "./run.js";
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
  readonly options: TextOptions;
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

/** A run of fine-tuning: what it is told, and where it is kept. */
export type FinetuneTextRequest = z.input<typeof finetuneTextOptions> & { readonly out: string };

/**
 * Fine-tunes an encoder-decoder on pairs of texts and keeps the best checkpoint in `out`:
 *
 *     await finetuneText({ model: "t5-small", data: "news.jsonl", source: "article", target: "summary", prefix: "summarize: ", out: "runs/news" });
 *
 * `out` receives what Hugging Face transformers reads, `evaluation.json`, and what `runTraining` writes, so that a run that
 * was stopped goes on with `resumeText`. Throws `data` with the rows for pairs that cannot be learned from.
 */
export const finetuneText = (
  { out, ...given }: FinetuneTextRequest,
  control: RunControl = {},
): Promise<TextResult> =>
  inRunFolder(out, finetuneTextOptions, { resume: false, given }, (folder) => runFinetuning(folder, control));

/** A run of training: what it is told, and where it is kept. */
export type TrainTextRequest = Omit<z.input<typeof trainTextOptions>, "system"> & {
  /** An encoder-decoder of the library by name, or one of your own. */
  readonly system: SystemName<"encoder-decoder"> | EncoderDecoderSystem;
  readonly out: string;
};

/**
 * Makes an encoder-decoder from pairs of texts, with a tokenizer of its own that both sides share:
 *
 *     await trainText({ system: "transformer", data: "train.de", targets: "train.en", out: "runs/de-en" });
 *
 * `out` receives the same as from `finetuneText`.
 */
export async function trainText(
  { out, system: asked, ...options }: TrainTextRequest,
  control: RunControl = {},
): Promise<TextResult> {
  const system = typeof asked === "string" ? namedSystem("encoder-decoder", asked) : asked;
  const given = { ...options, system: system.name };
  return inRunFolder(out, trainTextOptions, { resume: false, given }, (folder) =>
    runNew(folder, system, control),
  );
}

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

/** Whether the run in a folder learns from conversations. */
export const holdsChatRun = async (out: string): Promise<boolean> =>
  (await keptOptions(out))?.task === "chat";

/**
 * Goes on with the run in a folder, new model or not, to exactly the losses of a run that was never stopped.
 * @param own the system of a run that trains one of your own
 */
export async function resumeText(
  out: string,
  control: RunControl = {},
  own?: EncoderDecoderSystem,
): Promise<TextResult> {
  const isNew = (await keptOptions(out))?.system !== undefined;
  if (!isNew)
    return inRunFolder(out, finetuneTextOptions, { resume: true }, (folder) =>
      runFinetuning(folder, control),
    );
  return inRunFolder(out, trainTextOptions, { resume: true }, (folder) => {
    const { system } = folder.options;
    return runNew(folder, own?.name === system ? own : namedSystem("encoder-decoder", system), control);
  });
}

async function runFinetuning(
  folder: RunFolder<FinetuneTextOptions>,
  control: RunControl,
): Promise<TextResult> {
  const { options } = folder;
  const data = await readTextData(options, control.onMessage);
  const runtime = control.runtime ?? createRuntime();
  const loaded =
    options.adapter === "none"
      ? whole(await loadModel(runtime, options.model, { kind: "encoder-decoder" }))
      : await loadAdaptedPairs(runtime, options);
  using run = new TextRun(folder, loaded, data, control);
  return await run.run((steps) => Math.floor(steps * options.warmup));
}

/** An encoder-decoder that learns from pairs: all of it, or an adapter. */
interface Learner extends EncoderDecoderCheckpoint, Disposable {
  readonly adapter?: LoraAdapter;
}

const whole = (loaded: EncoderDecoderCheckpoint): Learner => ({
  ...loaded,
  [Symbol.dispose]: () => {
    loaded.weights.dispose();
  },
});

async function runNew(
  folder: RunFolder<TrainTextOptions>,
  system: EncoderDecoderSystem,
  control: RunControl,
): Promise<TextResult> {
  const { options } = folder;
  const data = await readTextData(options, control.onMessage);
  const tokenizer = await tokenizerFor(folder, system, data);
  const model = newModel(system, options, tokenizer);
  const weights = Weights.initialize(control.runtime ?? createRuntime(), model, options.seed);
  using run = new TextRun(folder, whole({ system, model, weights, tokenizer }), data, control);
  return await run.run((steps) => options.warmup ?? warmupSteps(learningPlans.trainPairs, steps));
}

// ---- New models ---------------------------------------------------------------------------------------------------

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

/** Steps, one at least, that read so many target tokens. */
const stepsOfTokens = (tokens: number, pairs: readonly EncodedPair[], stepsPerEpoch: number): number =>
  Math.max(
    1,
    Math.round((tokens * stepsPerEpoch) / pairs.reduce((sum, { target }) => sum + target.length, 0)),
  );

// ---- A run --------------------------------------------------------------------------------------------------------

/** Tokens that a held-out text may have more than the longest reference. */
const slack = 10;

class TextRun implements Disposable {
  private readonly training: readonly EncodedPair[];
  private readonly held: readonly EncodedPair[];
  private readonly average: CheckpointAverage | undefined;
  private evaluation: EvaluationStep | undefined;
  private decoder: Decoder | undefined;
  /** The weights that were evaluated last, and what came of it. */
  private last: { readonly weights: Weights; readonly kept: object } | undefined;

  constructor(
    private readonly folder: RunFolder<TextOptions>,
    private readonly loaded: Learner,
    data: TextData,
    private readonly control: RunControl,
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

  /** @param warmupOf steps of rising learning rate among so many */
  async run(warmupOf: (steps: number) => number): Promise<TextResult> {
    const { folder, loaded, control, training, held } = this;
    const { options } = folder;
    const { model, weights, system, adapter } = loaded;
    const { maxTokens, batch: batchSize, seed, accumulate } = options;
    const pairs = sequenceToSequenceObjective(model, { labelSmoothing: options.labelSmoothing });
    const objective = adapter ? withAdapter(pairs, adapter) : pairs;
    const plan = adapter ? learningPlans.finetunePairsAdapter : learningPlans.finetunePairs;
    const batch = { padId: model.config.padTokenId, startId: system.startId(model.config) };
    const source = pairSource(training, { ...batch, maxTokens, batchSize, seed });
    const stepsPerEpoch = Math.max(1, Math.ceil(source.batches / accumulate));
    const steps = options.steps ?? Math.max(1, Math.round(stepsPerEpoch * options.epochs));
    const parameters = countParameters(model);
    const learned = [...(adapter?.parameters.values() ?? [])].reduce((sum, { size }) => sum + size, 0);
    const learning = adapter
      ? `, of which ${learned.toLocaleString("en-US")} learn, in an adapter beside ${adapter.layers.size} layers`
      : "";
    const longest = Math.max(...training.map((pair) => Math.max(pair.source.length, pair.target.length)));
    const rows = Math.max(1, Math.min(batchSize, Math.floor(maxTokens / longest)));
    const memory = trainingMemory(
      objective,
      { batch: rows, source: longest, target: longest },
      {
        optimizer: optimizerStateSize[options.optimizer],
        average: false,
        gradientCheckpointing: options.gradientCheckpointing,
        frozen: adapter && weights.constants,
      },
    );
    control.onMessage?.(
      `${system.title} with ${parameters.toLocaleString("en-US")} parameters${learning}; ${training.length} pairs to learn from, ${held.length} held out; ${steps} steps, ${stepsPerEpoch} an epoch`,
      {
        parameters,
        ...(adapter && { trainedParameters: learned }),
        trainingPairs: training.length,
        heldOutPairs: held.length,
        steps,
      },
    );
    requireMemory(
      memory.total,
      `${system.title} and batches of ${maxTokens} tokens`,
      "use smaller batches (--max-tokens) that are accumulated more often, --gradient-checkpointing, or a smaller model",
    );
    const result = await runTraining({
      folder,
      objective,
      weights,
      source,
      accumulation: accumulate,
      gradientCheckpointing: options.gradientCheckpointing,
      clipNorm: options.clip,
      seed,
      schedule: plannedSchedule(plan, steps, {
        schedule: options.schedule,
        learningRate: options.learningRate,
        warmup:
          options.warmupTokens === undefined
            ? warmupOf(steps)
            : stepsOfTokens(options.warmupTokens, training, stepsPerEpoch),
      }),
      optimizer: (...buffers) =>
        chosenOptimizer({ ...options, betas: [0.9, options.beta2] }, folder.path, ...buffers),
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
        const kept = this.last?.weights ?? current;
        if (adapter && "model" in options)
          await saveAdapter(folder.path, { model, adapter, weights: kept, base: options.model });
        else await saveModel(folder.path, { ...loaded, weights: kept });
        if (this.last) await writeJson(evaluationFile(folder.path), this.last.kept);
      },
      ...(control.signal && { signal: control.signal }),
      ...(control.observer && { observer: control.observer }),
    });
    const kept = result.best === undefined ? undefined : await readKept(folder.path);
    return {
      ...result,
      options,
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
    this.decoder ??= await Decoder.create({
      model,
      weights,
      slots: Math.min(32, rows.length),
      capacity: Math.min(
        model.config.contextLength,
        slack + Math.max(...rows.map(({ target }) => target.length)),
      ),
    });
    // What slots hold of earlier texts was computed with the weights of then.
    this.decoder.forget();
    const { stopIds } = loaded;
    const found = await transform(
      { decoder: this.decoder, tokenizer, stopIds },
      rows.map(({ written }) => written.source),
      { prefix: folder.options.prefix, signal },
    );
    const texts = found.map(({ text }) => text);
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
    this.decoder?.dispose();
    this.evaluation?.dispose();
    this.average?.dispose();
    this.loaded[Symbol.dispose]();
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
