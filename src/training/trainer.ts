import { LineageError } from "../base/errors.js";
import { type DataLoader, type LoaderState, evaluationBatches } from "../data/index.js";
import type { Weights } from "../nn/index.js";
import {
  type AdamWOptions,
  GradientNorm,
  type Optimizer,
  WeightAverage,
  adamW,
  clippingFactor,
} from "./optimizers.js";
import type { Schedule } from "./schedules.js";
import { EvaluationStep, type LanguageModel, TrainingStep, labelCount } from "./step.js";

export interface TrainerOptions {
  readonly model: LanguageModel;
  readonly weights: Weights;
  readonly loader: DataLoader;
  /** Rows of one micro-batch and tokens of a row, as the loader gives them. */
  readonly batchSize: number;
  readonly sequenceLength: number;
  readonly schedule: Schedule;
  /** Micro-batches of one step. Default 1. */
  readonly accumulation?: number;
  /** Limit of the global norm of the gradients. Default 1. */
  readonly clipNorm?: number;
  readonly seed: number;
  readonly optimizer?: AdamWOptions;
  /** Keeps an exponential moving average of the weights with this decay. Default: none. */
  readonly averageDecay?: number;
}

export interface StepReport {
  readonly step: number;
  /** Mean loss of the step's tokens, in nats. */
  readonly loss: number;
  readonly learningRate: number;
  /** Before clipping. */
  readonly gradientNorm: number;
  readonly tokens: number;
  readonly seconds: number;
}

/** Where a training run stands besides its weights and moments. */
export interface TrainerState {
  readonly step: number;
  readonly loader: LoaderState;
}

/** Trains a language model step by step. Everything that a step depends on is in `weights`, `optimizer.state` and `state`. */
export class Trainer implements Disposable {
  private constructor(
    private readonly options: TrainerOptions,
    readonly gradients: Weights,
    private readonly trainingStep: TrainingStep,
    readonly optimizer: Optimizer,
    private readonly norm: GradientNorm,
    readonly average: WeightAverage | undefined,
  ) {}

  static async create(options: TrainerOptions): Promise<Trainer> {
    const { model, weights, batchSize, sequenceLength } = options;
    const gradients = weights.like();
    const step = await TrainingStep.create(model, weights, gradients, {
      batch: batchSize,
      sequence: sequenceLength,
    });
    const optimizer = await adamW(weights, gradients, options.optimizer);
    const norm = await GradientNorm.create(weights.runtime, gradients);
    const { averageDecay } = options;
    const average =
      averageDecay === undefined ? undefined : await WeightAverage.create(weights, averageDecay);
    return new Trainer(options, gradients, step, optimizer, norm, average);
  }

  get state(): TrainerState {
    return { step: this.optimizer.steps, loader: this.options.loader.state };
  }

  /** Goes on where a run stood whose weights and moments have been loaded. */
  restore({ step, loader }: TrainerState): void {
    this.optimizer.restore(step);
    this.options.loader.restore(loader);
  }

  /**
   * One optimiser step. Throws `diverged`, with the weights as they were, when the loss or a gradient is not finite. An
   * aborted step leaves weights and state as they were, too.
   */
  async step({ signal }: { signal?: AbortSignal } = {}): Promise<StepReport> {
    const { loader, accumulation = 1, clipNorm = 1, schedule, seed } = this.options;
    const started = performance.now();
    const before = loader.state;
    const step = this.optimizer.steps + 1;
    const batches = Array.from({ length: accumulation }, () => loader.next());
    const tokens = labelCount(batches);
    try {
      let loss = 0;
      for (const [index, batch] of batches.entries()) {
        const dropoutSeed = Math.imul(seed, 0x9e3779b1) + step * accumulation + index;
        loss += await this.trainingStep.run(batch, {
          accumulate: index > 0,
          lossScale: 1 / tokens,
          seed: dropoutSeed >>> 0,
          signal,
        });
      }
      const gradientNorm = await this.norm.measure();
      if (!Number.isFinite(loss) || !Number.isFinite(gradientNorm)) this.refuse(step, loss);
      const learningRate = schedule(step);
      await this.optimizer.update({
        learningRate,
        gradientScale: clippingFactor(gradientNorm, clipNorm),
        signal,
      });
      await this.average?.update();
      return {
        step,
        loss,
        learningRate,
        gradientNorm,
        tokens,
        seconds: (performance.now() - started) / 1000,
      };
    } catch (error) {
      if (this.optimizer.steps < step) loader.restore(before);
      throw error;
    }
  }

  private refuse(step: number, loss: number): never {
    const bad = Object.entries(this.gradients.tensors).find(([, tensor]) =>
      tensor.view().some((value) => !Number.isFinite(value)),
    );
    throw new LineageError(
      "diverged",
      `step ${step}: the loss is ${loss}${bad ? ` and the gradient of ${bad[0]} is not finite` : ""}; the weights are as they were ` +
        `before this step. A lower learning rate or a longer warm-up would help`,
    );
  }

  dispose(): void {
    for (const part of [this.trainingStep, this.optimizer, this.norm, this.gradients, this.average])
      part?.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

export interface Evaluation {
  /** Mean loss of a token, in nats. */
  readonly loss: number;
  /** e to the loss. */
  readonly perplexity: number;
  readonly tokens: number;
}

/** Mean loss over all of `tokens`, cut into rows of `sequenceLength`. */
export async function evaluate(
  model: LanguageModel,
  weights: Weights,
  tokens: Int32Array,
  options: { batchSize: number; sequenceLength: number; signal?: AbortSignal },
): Promise<Evaluation> {
  if (tokens.length < 2)
    throw new LineageError("data", `the held-out text has ${tokens.length} tokens; it needs two or more`);
  using step = await EvaluationStep.create(model, weights, {
    batch: options.batchSize,
    sequence: options.sequenceLength,
  });
  let total = 0;
  for (const batch of evaluationBatches(tokens, options))
    total += await step.run(batch, { signal: options.signal });
  const loss = total / (tokens.length - 1);
  return { loss, perplexity: Math.exp(loss), tokens: tokens.length - 1 };
}
