import { LineageError } from "../base/errors.js";
import { type Batch, type BatchSource, type Tokens, evaluationBatches } from "../data/index.js";
import type { WeightSet, Weights } from "../nn/index.js";
import type { BatchRamp } from "./batch-ramp.js";
import { firstNonFinite } from "./diagnosis.js";
import { type LanguageModel, type Objective } from "./objective.js";
import { nextTokenObjective } from "../objectives/causal.js";
import { GradientNorm, type Optimizer, WeightAverage, adamW, clippingFactor } from "./optimizers.js";
import { WorkerGroup, type WorkerGroupOptions } from "./parallel.js";
import type { Schedule } from "./schedules.js";
import {
  EvaluationStep,
  type Loss,
  type PartValues,
  type PassOptions,
  TrainingStep,
  addParts,
  lossOf,
  totalCounts,
} from "./step.js";

export interface TrainerOptions extends PassOptions {
  readonly objective: Objective;
  /** All of a model's, or of one that is frozen in part (`Weights.partlyFrozen`). */
  readonly weights: Weights;
  readonly source: BatchSource;
  readonly schedule: Schedule;
  /** Micro-batches of one step, or how they grow. Default 1. */
  readonly accumulation?: number | BatchRamp;
  /** Limit of the global norm of the gradients. Default 1. */
  readonly clipNorm?: number;
  readonly seed: number;
  /** Makes the optimiser of the parameters that `gradients` has. Default `adamW`. */
  readonly optimizer?: (weights: Weights, gradients: Weights) => Promise<Optimizer>;
  /** Shares the micro-batches of a step out to worker threads, in which the objective is made again. Default: none. */
  readonly workers?: WorkerGroupOptions | undefined;
  /** Keeps an exponential moving average of the weights with this decay. Default: none. */
  readonly averageDecay?: number;
}

export interface StepReport extends Loss {
  readonly step: number;
  readonly learningRate: number;
  /** Before clipping. */
  readonly gradientNorm: number;
  /** Positions that each part of the loss was a sum over. */
  readonly counts: PartValues;
  readonly microBatches: number;
  /** Tokens that the model read. */
  readonly tokens: number;
  /** Tokens of this step and of all before it. */
  readonly tokensSeen: number;
  readonly seconds: number;
}

/** Where a training run stands besides its weights and moments. */
export interface TrainerState {
  readonly step: number;
  readonly source: unknown;
  /** What it has learned from. */
  readonly tokens: number;
}

/** Trains a model on an objective, step by step. Everything that a step depends on is in `weights`, `optimizer.state` and `state`. */
export class Trainer implements Disposable {
  private tokens = 0;

  private constructor(
    private readonly options: TrainerOptions,
    readonly gradients: Weights,
    private readonly passes: TrainingStep | WorkerGroup,
    readonly optimizer: Optimizer,
    private readonly norm: GradientNorm,
    readonly average: WeightAverage | undefined,
  ) {}

  /** Throws `argument` where no parameter is trainable. */
  static async create(options: TrainerOptions): Promise<Trainer> {
    const { objective, weights, averageDecay, optimizer: makeOptimizer = adamW } = options;
    const { most } = rampOf(options);
    const gradients = weights.like((_, parameter) => parameter.trainable);
    if (gradients.layout.size === 0)
      throw new LineageError("argument", "there is nothing to train: every parameter of the model is frozen");
    const { workers, gradientCheckpointing } = options;
    if (workers && workers.workers > most)
      throw new LineageError(
        "argument",
        `${workers.workers} workers share ${most} micro-batches of a step: some would have nothing to do; use more micro-batches or fewer workers`,
      );
    if (workers && weights.constants)
      throw new LineageError(
        "unsupported",
        "worker threads train whole models: a model that is frozen in part trains without workers",
      );
    // One program alone, which has to start from zero where it adds: a second one would take as much memory again.
    const passes = workers
      ? WorkerGroup.create(weights, gradients, { ...workers, gradientCheckpointing })
      : await TrainingStep.create(objective, weights, gradients, {
          accumulates: most > 1,
          gradientCheckpointing,
        });
    const optimizer = await makeOptimizer(weights, gradients);
    const norm = await GradientNorm.create(weights.runtime, gradients);
    const average =
      averageDecay === undefined ? undefined : await WeightAverage.create(weights, averageDecay);
    return new Trainer(options, gradients, passes, optimizer, norm, average);
  }

  get weights(): Weights {
    return this.options.weights;
  }

  /** The weights to evaluate and to keep: the average where there is one. */
  get kept(): Weights {
    return this.average?.weights ?? this.options.weights;
  }

  get state(): TrainerState {
    return { step: this.optimizer.steps, source: this.options.source.state, tokens: this.tokens };
  }

  /** Goes on where a run stood whose weights and moments have been loaded. */
  restore({ step, source, tokens }: TrainerState): void {
    this.optimizer.restore(step);
    this.options.source.restore(source);
    this.tokens = tokens;
  }

  /** Reads the batches of the next step and drops them; the tokens in them. */
  async skip(): Promise<number> {
    return tokensIn(await this.batches());
  }

  private async batches(): Promise<Batch[]> {
    const count = rampOf(this.options).microBatches(this.optimizer.steps + 1, this.tokens);
    const batches: Batch[] = [];
    while (batches.length < count) batches.push(await this.options.source.next());
    return batches;
  }

  /**
   * One optimiser step. Throws `diverged`, with the weights as they were, when the loss or a gradient is not finite. An
   * aborted step leaves weights and state as they were, too.
   */
  async step({ signal }: { signal?: AbortSignal } = {}): Promise<StepReport> {
    const { objective, source, clipNorm = 1, schedule } = this.options;
    const started = performance.now();
    const before = source.state;
    const step = this.optimizer.steps + 1;
    try {
      const batches = await this.batches();
      const counts = totalCounts(objective, batches);
      const sums = await this.pass(step, batches, counts, signal);
      const loss = lossOf(objective, sums, counts);
      const gradientNorm = await this.norm.measure();
      if (!Number.isFinite(loss.loss) || !Number.isFinite(gradientNorm))
        await this.refuse(step, loss.loss, batches);
      const learningRate = schedule(step);
      await this.optimizer.update({
        learningRate,
        gradientScale: clippingFactor(gradientNorm, clipNorm),
        signal,
      });
      await this.average?.update();
      const tokens = tokensIn(batches);
      this.tokens += tokens;
      return {
        step,
        ...loss,
        learningRate,
        gradientNorm,
        counts,
        microBatches: batches.length,
        tokens,
        tokensSeen: this.tokens,
        seconds: (performance.now() - started) / 1000,
      };
    } catch (error) {
      if (this.optimizer.steps < step) source.restore(before);
      throw error;
    }
  }

  /** Leaves the gradients of a step's micro-batches in the buffers; the sums of the parts of their loss. */
  private async pass(
    step: number,
    batches: readonly Batch[],
    counts: PartValues,
    signal: AbortSignal | undefined,
  ): Promise<PartValues> {
    const { passes } = this;
    const seeded = batches.map((batch, index) => ({ batch, seed: this.dropoutSeed(step, index) }));
    if (passes instanceof WorkerGroup) {
      signal?.throwIfAborted();
      return await passes.run(seeded, counts);
    }
    const accumulate = rampOf(this.options).most > 1;
    if (accumulate) this.gradients.clear();
    const sums: Record<string, number> = {};
    for (const { batch, seed } of seeded) {
      addParts(sums, await passes.run(batch, { accumulate, counts, seed, signal }));
    }
    return sums;
  }

  private dropoutSeed(step: number, microBatch: number): number {
    const { most } = rampOf(this.options);
    return (Math.imul(this.options.seed, 0x9e3779b1) + step * most + microBatch) >>> 0;
  }

  /** Says where the first value came from that is not finite. */
  private async refuse(step: number, loss: number, batches: readonly Batch[]): Promise<never> {
    const { objective, weights } = this.options;
    let place: string | undefined;
    for (const [index, batch] of batches.entries())
      place ??= await firstNonFinite(objective, weights, batch, this.dropoutSeed(step, index));
    // Gradients come about from the last layer to the first.
    const gradient = Object.entries(this.gradients.tensors)
      .reverse()
      .find(([, tensor]) => tensor.contents().some((value) => !Number.isFinite(value)));
    const where = place ?? (gradient ? `in the gradient of ${gradient[0]}` : "in the sum of the gradients");
    throw new LineageError(
      "diverged",
      `step ${step}: the loss is ${loss}; the first value that is not finite is ${where}. The weights are as they were ` +
        `before this step. A lower learning rate or a longer warm-up would help`,
    );
  }

  dispose(): void {
    for (const part of [this.passes, this.optimizer, this.norm, this.gradients, this.average])
      part?.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

function rampOf({ accumulation = 1 }: TrainerOptions): BatchRamp {
  if (typeof accumulation !== "number") return accumulation;
  return { most: accumulation, microBatches: () => accumulation };
}

const tokensIn = (batches: readonly Batch[]): number =>
  batches.reduce((sum, batch) => sum + tokensOf(batch), 0);
const tokensOf = ({ tokens, counts }: Batch): number => tokens ?? Math.max(...Object.values(counts));

/** The loss of an objective over batches, without dropout. */
export async function evaluate(
  objective: Objective,
  weights: WeightSet,
  batches: Iterable<Batch> | AsyncIterable<Batch>,
  options: { signal?: AbortSignal } = {},
): Promise<Loss & { readonly counts: PartValues }> {
  using step = await EvaluationStep.create(objective, weights);
  return await step.evaluate(batches, options);
}

export interface Perplexity {
  /** Mean loss of a token, in nats. */
  readonly loss: number;
  /** e to the loss. */
  readonly perplexity: number;
  readonly tokens: number;
}

/** Mean loss of a language model over all of `tokens`, cut into rows of `sequenceLength`. */
export async function evaluatePerplexity(
  model: LanguageModel,
  weights: WeightSet,
  tokens: Tokens,
  options: { batchSize: number; sequenceLength: number; signal?: AbortSignal },
): Promise<Perplexity> {
  if (tokens.length < 2)
    throw new LineageError("data", `the held-out text has ${tokens.length} tokens; it needs two or more`);
  const { loss, counts } = await evaluate(
    nextTokenObjective(model, options),
    weights,
    evaluationBatches(tokens, options),
    options,
  );
  return { loss, perplexity: Math.exp(loss), tokens: counts["tokens"]! };
}
