import { existsSync } from "node:fs";
import { appendFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { Command } from "commander";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { readJson, readText, writeAtomically, writeJson } from "../base/files.js";
import { DataLoader, stories } from "../data/index.js";
import { Tokenizer, characterTokenizer, trainByteLevelBpe } from "../io/index.js";
import { Gpt2, gpt2Config, saveModel } from "../models/index.js";
import { Weights, countParameters } from "../nn/index.js";
import { createRuntime } from "../runtime/index.js";
import {
  type StepReport,
  TensorBoardWriter,
  Trainer,
  evaluate,
  lockFolder,
  lossChart,
  restoreTraining,
  saveTraining,
  schedule,
  trainingFile,
} from "../training/index.js";
import { examples, number } from "./options.js";
import { Reporter, bar, colors, count, duration } from "./terminal.js";

/** Everything that decides a run; kept beside the checkpoint so that `--resume` needs nothing else. */
export const trainOptions = z.object({
  /** A text file, or `stories` for the embedded corpus. */
  data: z.string(),
  tokenizer: z.string().default("bpe"),
  vocabSize: z.int().min(258).default(4096),
  layers: z.int().positive().default(4),
  hidden: z.int().positive().default(128),
  heads: z.int().positive().default(4),
  context: z.int().min(2).default(128),
  dropout: z.number().min(0).lt(1).default(0),
  batch: z.int().positive().default(16),
  accumulate: z.int().positive().default(1),
  steps: z.int().positive().default(1000),
  learningRate: z.number().positive().default(1e-3),
  /** Default: a tenth of the steps, at most 100. */
  warmup: z.int().nonnegative().optional(),
  schedule: z.enum(["constant", "linear", "cosine", "inverse-root"]).default("cosine"),
  weightDecay: z.number().nonnegative().default(0.1),
  beta2: z.number().positive().lt(1).default(0.99),
  clip: z.number().positive().default(1),
  validation: z.number().positive().lt(1).default(0.1),
  evalEvery: z.int().positive().default(250),
  /** Evaluates and saves the exponential moving average of the weights with this decay. Default: the weights themselves. */
  ema: z.number().positive().lt(1).optional(),
  /** Evaluations without a better held-out loss after which training ends. Default: never. */
  patience: z.int().positive().optional(),
  seed: z.int().nonnegative().default(1),
});
export type TrainOptions = z.infer<typeof trainOptions>;

export interface TrainCommand {
  readonly out: string;
  readonly resume?: boolean;
  readonly json?: boolean;
  readonly threads?: number;
}

/** Stories of the embedded corpus: enough that a run of minutes sees each about once. */
const embeddedStories = 12_000;

const optionsFile = (folder: string): string => path.join(folder, "run.json");

/** Trains a GPT-2 from text to a checkpoint folder. Ctrl-C saves; `resume` goes on to exactly the same losses. */
export async function train(
  given: z.input<typeof trainOptions> | undefined,
  command: TrainCommand,
): Promise<void> {
  const { out } = command;
  const report = new Reporter(command.json ?? false);
  const resuming = command.resume === true;
  if (resuming && !existsSync(trainingFile(out)))
    throw new LineageError(
      "checkpoint",
      `there is nothing to resume in ${out}: it has no ${path.basename(trainingFile(out))}`,
    );
  if (!resuming && existsSync(trainingFile(out))) {
    throw new LineageError(
      "checkpoint",
      `${out} already holds a training run; continue it with --resume, or choose another folder with --out`,
    );
  }
  const parsed = trainOptions.safeParse(resuming ? await readJson(optionsFile(out)) : given);
  if (!parsed.success) {
    const problems = parsed.error.issues.map(({ path: place, message }) => `${place.join(".")}: ${message}`);
    throw new LineageError("argument", `the options do not fit: ${problems.join("; ")}`);
  }
  const options = parsed.data;
  const unlock = await lockFolder(out);
  const controller = new AbortController();
  const interrupt = () => {
    controller.abort();
  };
  process.once("SIGINT", interrupt);
  try {
    await run(options, out, resuming, report, controller.signal, command.threads);
  } finally {
    process.removeListener("SIGINT", interrupt);
    report.done();
    await unlock();
  }
}

async function run(
  options: TrainOptions,
  out: string,
  resuming: boolean,
  report: Reporter,
  signal: AbortSignal,
  threads?: number,
): Promise<void> {
  const documents =
    options.data === "stories"
      ? [...stories({ seed: options.seed, count: embeddedStories })]
      : [await readText(options.data)];
  if (documents.every((document) => document.trim() === ""))
    throw new LineageError("data", `${options.data} is empty: there is nothing to learn from`);
  const tokenizer = resuming ? await Tokenizer.load(out) : await makeTokenizer(options, documents);
  const { training, validation } = tokenize(tokenizer, documents, options.validation);
  report.say(
    `corpus: ${count(documents.join("").length)} characters, ${count(training.length)} tokens to learn from, ${count(validation.length)} held out; vocabulary ${count(tokenizer.vocabSize)}`,
    { trainingTokens: training.length, validationTokens: validation.length },
  );

  const runtime = createRuntime({ threads });
  const config = gpt2Config({
    vocabSize: tokenizer.vocabSize,
    contextLength: options.context,
    hiddenSize: options.hidden,
    numLayers: options.layers,
    numHeads: options.heads,
    dropout: options.dropout,
  });
  const model = new Gpt2(config);
  const shape = { batchSize: options.batch, sequenceLength: options.context };
  const loader = new DataLoader(training, { ...shape, seed: options.seed }, options.data);
  const size = countParameters(model);
  report.say(
    `model: GPT-2 with ${count(size)} parameters (${options.layers} layers, ${options.hidden} wide, ${options.heads} heads); ` +
      `weights, gradients and moments take ${count(Math.ceil((size * 16) / 2 ** 20))} MiB`,
    { parameters: size },
  );
  using weights = Weights.initialize(runtime, model, options.seed);
  using trainer = await Trainer.create({
    model,
    weights,
    loader,
    ...shape,
    accumulation: options.accumulate,
    clipNorm: options.clip,
    seed: options.seed,
    averageDecay: options.ema,
    schedule: schedule(options.schedule, {
      learningRate: options.learningRate,
      warmupSteps: options.warmup ?? Math.min(100, Math.floor(options.steps / 10)),
      totalSteps: options.steps,
      minimum: options.learningRate / 10,
    }),
    optimizer: { betas: [0.9, options.beta2], weightDecay: options.weightDecay },
  });
  const kept = trainer.average?.weights ?? weights;
  let bestLoss: number | undefined;
  if (resuming) {
    bestLoss = await restoreTraining(out, trainer, weights);
    report.say(`going on after step ${trainer.state.step}`, { step: trainer.state.step });
  } else await writeJson(optionsFile(out), options);

  const metrics = path.join(out, "metrics.jsonl");
  const board = new TensorBoardWriter(
    path.join(out, `events.out.tfevents.${Math.floor(Date.now() / 1000)}.${os.hostname()}`),
  );
  const learned: StepReport[] = [];
  const held: { step: number; loss: number }[] = [];
  let worse = 0;
  const save = () => saveTraining(out, trainer, weights, bestLoss);
  const chart = () =>
    writeAtomically(path.join(out, "loss.svg"), [
      lossChart("Loss", [
        { label: "training", points: learned },
        { label: "held out", points: held },
      ]),
    ]);
  const validate = async (): Promise<void> => {
    const result = await evaluate(model, kept, validation, { ...shape, signal });
    held.push({ step: trainer.state.step, loss: result.loss });
    await appendFile(
      metrics,
      `${JSON.stringify({ step: trainer.state.step, validationLoss: result.loss })}\n`,
    );
    await board.scalars(trainer.state.step, { "loss/heldOut": result.loss });
    report.say(
      `step ${trainer.state.step}: held-out loss ${result.loss.toFixed(4)}, perplexity ${result.perplexity.toFixed(2)}`,
      { step: trainer.state.step, validationLoss: result.loss },
    );
    if (bestLoss === undefined || result.loss < bestLoss) {
      bestLoss = result.loss;
      worse = 0;
      await saveModel(out, { model, weights: kept, tokenizer });
    } else worse++;
  };
  const started = performance.now();
  const firstStep = trainer.state.step;
  try {
    while (trainer.state.step < options.steps) {
      const step = await trainer.step({ signal });
      learned.push(step);
      await appendFile(
        metrics,
        `${JSON.stringify({ step: step.step, loss: step.loss, learningRate: step.learningRate, gradientNorm: step.gradientNorm, tokens: step.tokens, seconds: step.seconds })}\n`,
      );
      await board.scalars(step.step, {
        "loss/training": step.loss,
        learningRate: step.learningRate,
        gradientNorm: step.gradientNorm,
      });
      const done = step.step - firstStep;
      const left = ((performance.now() - started) / 1000 / done) * (options.steps - step.step);
      const rate = Math.round(step.tokens / step.seconds);
      report.progress(
        `${bar(step.step / options.steps)} step ${step.step}/${options.steps}  loss ${colors.bold(step.loss.toFixed(4))}  ${count(rate)} tokens/s  ${duration(left)} left`,
        { step: step.step, loss: step.loss, tokensPerSecond: rate, secondsLeft: Math.round(left) },
      );
      if (step.step % options.evalEvery === 0 || step.step === options.steps) {
        await validate();
        await save();
        await chart();
      }
      if (options.patience !== undefined && worse >= options.patience) {
        report.say(`stopped early: ${worse} evaluations without a better held-out loss`);
        break;
      }
    }
  } catch (error) {
    if (!signal.aborted) throw error;
    await save();
    if (!existsSync(path.join(out, "model.safetensors")))
      await saveModel(out, { model, weights: kept, tokenizer });
    await chart();
    report.say(
      `stopped after step ${trainer.state.step} and saved; go on with: lineage train --resume --out ${out}`,
      { step: trainer.state.step },
    );
    return;
  }
  report.say(
    `${colors.green("done")}: ${out} holds the model (best held-out loss ${bestLoss?.toFixed(4)}, perplexity ${Math.exp(bestLoss ?? NaN).toFixed(2)}), its tokenizer and loss.svg`,
    { bestLoss },
  );
}

async function makeTokenizer(
  { tokenizer, vocabSize }: TrainOptions,
  documents: readonly string[],
): Promise<Tokenizer> {
  if (tokenizer === "bpe") return trainByteLevelBpe(documents, { vocabSize });
  if (tokenizer === "characters") return characterTokenizer(documents.join(""));
  return Tokenizer.load(tokenizer);
}

/** Token ids of the first part and of the held-out last part of a corpus, each document closed by the end-of-text token. */
function tokenize(
  tokenizer: Tokenizer,
  documents: readonly string[],
  validation: number,
): { training: Int32Array; validation: Int32Array } {
  const parts = documents.length > 1 ? cut(documents, validation) : cutText(documents[0]!, validation);
  const end = tokenizer.endOfTextId;
  const [training, held] = parts.map((part) => {
    const ids: number[] = [];
    for (const document of part) {
      for (const id of tokenizer.encode(document)) ids.push(id);
      if (end !== undefined) ids.push(end);
    }
    return Int32Array.from(ids);
  }) as [Int32Array, Int32Array];
  return { training, validation: held };
}

const cut = (documents: readonly string[], held: number): [readonly string[], readonly string[]] => {
  const place = Math.ceil(documents.length * (1 - held));
  return [documents.slice(0, place), documents.slice(place)];
};

const cutText = (text: string, held: number): [string[], string[]] => {
  const place = Math.floor(text.length * (1 - held));
  return [[text.slice(0, place)], [text.slice(place)]];
};

export const trainCommand = new Command("train")
  .description("train a GPT-2 from scratch on a text file")
  .option("--data <file>", 'UTF-8 text, or "stories" for the embedded corpus')
  .option("--out <folder>", "checkpoint folder", "runs/gpt2")
  .option("--resume", "go on with the run in --out; its own options apply")
  .option("--model <name>", "architecture", "gpt2")
  .option("--tokenizer <kind>", "bpe, characters, or a folder with a tokenizer", "bpe")
  .option("--vocab-size <n>", "tokens that bpe learns", number)
  .option("--layers <n>", "blocks", number)
  .option("--hidden <n>", "width of the hidden states", number)
  .option("--heads <n>", "attention heads", number)
  .option("--context <n>", "tokens that the model sees at once", number)
  .option("--dropout <p>", "probability", number)
  .option("--batch <n>", "rows of a micro-batch", number)
  .option("--accumulate <n>", "micro-batches of a step", number)
  .option("--steps <n>", "steps to train", number)
  .option("--learning-rate <x>", "peak of the schedule", number)
  .option("--warmup <n>", "steps of rising learning rate", number)
  .option("--schedule <name>", "constant, linear, cosine or inverse-root")
  .option("--weight-decay <x>", "decay of matrices", number)
  .option("--beta2 <x>", "AdamW's memory of squared gradients", number)
  .option("--clip <x>", "limit of the gradient norm", number)
  .option("--validation <p>", "share of the text that is held out", number)
  .option("--eval-every <n>", "steps between evaluations", number)
  .option("--ema <decay>", "evaluate and save the moving average of the weights", number)
  .option("--patience <n>", "end after this many evaluations without a better held-out loss", number)
  .option("--seed <n>", "everything random follows from it", number)
  .option("--threads <n>", "threads of the engine", number)
  .option("--json", "one JSON object a line, for programs")
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
    ),
  )
  .action(async ({ out, resume, json, threads, model, ...options }: Record<string, unknown>) => {
    if (model !== "gpt2")
      throw new LineageError(
        "argument",
        `there is no architecture ${String(model)} yet; this version trains gpt2`,
      );
    if (!resume && options["data"] === undefined)
      throw new LineageError("argument", "train needs --data FILE, or --data stories");
    await train(options as { data: string }, { out, resume, json, threads } as never);
  });
