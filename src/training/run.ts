import { LineageError } from "../base/errors.js";
import { collectGarbage } from "../base/garbage.js";
import type { Weights } from "../nn/index.js";
import { type Progress, restoreTraining, saveTraining } from "./checkpoint.js";
import { ReturnPoints } from "./return-points.js";
import { type Spike, type SpikeOptions, SpikeWatch } from "./spikes.js";
import type { RunFolder } from "./folder.js";
import { type Metrics, MetricsLog } from "./log.js";
import { type StepReport, Trainer, type TrainerOptions } from "./trainer.js";

/** What is told of a run while it goes on, each at its time. */
export interface TrainingObserver {
  /** The run goes on after this step. */
  resumed?(step: number): void;
  stepped?(report: StepReport, run: { readonly steps: number; readonly secondsLeft: number }): void;
  /** `best` when the metric has never been better. */
  evaluated?(step: number, metrics: Metrics, best: boolean): void;
  /** The run goes back to the checkpoint of `backTo`, without the batches since then; or on, where that was no help. */
  spiked?(spike: Spike): void;
}

export interface TrainingRun extends TrainerOptions {
  /** From `RunFolder.open`. */
  readonly folder: RunFolder;
  /** Steps of the whole run. */
  readonly steps: number;
  /** Steps between evaluations, at each of which the run is saved. */
  readonly evalEvery: number;
  /** Measures held-out data with the weights that would be kept. */
  readonly evaluate: (
    weights: Weights,
    options: { readonly step: number; readonly signal?: AbortSignal | undefined },
  ) => Promise<Metrics>;
  /** Writes the model for use; called with the weights of the best evaluation so far. */
  readonly save: (weights: Weights) => Promise<void>;
  /** What the best evaluation is best in. Default: the least `loss`. */
  readonly best?: { readonly metric: string; readonly mode: "least" | "most" };
  /** Ends the run after this many evaluations without a better one. Default: never. */
  readonly patience?: number | undefined;
  /**
   * Goes back to the last checkpoint before a spike of the loss and skips the batches since then, Chowdhery et al. 2022, section 5.1;
   * twice as many each time that it has to go back from the same stretch again. The checkpoints of the last two evaluations are kept for
   * it. Default: never.
   */
  readonly spikes?: SpikeOptions | undefined;
  /** Ends the run after the step that is under way, with everything saved. */
  readonly signal?: AbortSignal;
  readonly observer?: TrainingObserver;
}

export interface TrainingResult {
  readonly outcome: "finished" | "stopped early" | "interrupted";
  /** Steps of the whole run so far. */
  readonly step: number;
  /** Of the best evaluation, whose weights were saved; undefined before the first. */
  readonly best: number | undefined;
  readonly bestStep: number | undefined;
  /** Spikes of the loss in the whole run, where it watched for them. */
  readonly spikes: readonly Spike[];
  /** Tokens that this process's steps read, and how long they took. */
  readonly tokens: number;
  readonly seconds: number;
}

/**
 * The loop of every kind of training: steps, metrics, evaluations, the best weights kept, the state saved, the end.
 *
 *     const folder = await RunFolder.open(out, optionsSchema, { resume, given });
 *     try {
 *       const result = await runTraining({
 *         folder, objective, weights, source, schedule, seed,
 *         steps: 1000, evalEvery: 100,
 *         evaluate: (weights, { signal }) => evaluate(objective, weights, heldOutBatches(), { signal }),
 *         save: (weights) => saveModel(out, { model, weights, tokenizer }),
 *         signal, observer,
 *       });
 *     } finally {
 *       await folder.close();
 *     }
 *
 * The folder receives `run.json` (its options), `training.safetensors` (weights, moments, position; replaced as a whole),
 * `metrics.jsonl`, TensorBoard events, `loss.svg`, at its end `loss.png` (where the system can draw it), and what `save` writes. A run
 * that was interrupted, by `signal` or by the end of its process, goes on from there to bit-equal losses: whatever a step
 * depends on must come from `source`, `weights` and `seed`. Throws `diverged` at a loss that is not finite, with the last
 * checkpoint as it was; `storage` when a file cannot be written, with those before it as they were.
 */
export async function runTraining(run: TrainingRun): Promise<TrainingResult> {
  using trainer = await Trainer.create(run);
  return await new Loop(run, trainer).run();
}

const secondsBetweenCollections = 3;

class Loop {
  private progress: Progress = { evaluationsSinceBest: 0 };
  private tokens = 0;
  private seconds = 0;
  private stepsHere = 0;
  private savedStep: number | undefined;
  private hasModel = false;
  private collected = -Infinity;
  private readonly watch: SpikeWatch | undefined;
  private readonly points: ReturnPoints;

  constructor(
    private readonly options: TrainingRun,
    private readonly trainer: Trainer,
  ) {
    this.watch = options.spikes && new SpikeWatch(options.spikes);
    this.points = new ReturnPoints(options.folder.path);
  }

  async run(): Promise<TrainingResult> {
    const { folder, signal, observer } = this.options;
    if (folder.resuming) {
      this.progress = await restoreTraining(folder.path, this.trainer);
      this.savedStep = this.step;
      this.hasModel = this.progress.best !== undefined;
      if (this.progress.spikes) this.watch?.restore(this.progress.spikes);
      observer?.resumed?.(this.step);
    } else await folder.writeOptions();
    if (this.watch) {
      await this.points.forget(this.step);
      if (this.step === 0) await this.save();
      if (this.step % this.options.evalEvery === 0 && !this.watch.suspects) await this.points.keep(this.step);
    }
    const log = await MetricsLog.open(folder, this.step);
    try {
      while (!this.over) await this.advance(log);
      await log.finish();
      if (this.watch) await this.points.forget(-1);
      return this.result(this.step < this.options.steps ? "stopped early" : "finished");
    } catch (error) {
      if (error instanceof LineageError && error.code === "diverged") {
        await log.finish();
        throw new LineageError("diverged", `${error.message}; ${this.keptSentence()}`, { cause: error });
      }
      if (!signal?.aborted) throw error;
      await this.save();
      if (!this.hasModel) await this.options.save(this.trainer.kept);
      await log.finish();
      return this.result("interrupted");
    }
  }

  private get step(): number {
    return this.trainer.state.step;
  }

  private get over(): boolean {
    const { steps, patience = Infinity } = this.options;
    return this.step >= steps || this.progress.evaluationsSinceBest >= patience;
  }

  private async advance(log: MetricsLog): Promise<void> {
    const { steps, evalEvery, signal, observer } = this.options;
    const started = performance.now();
    const report = await this.trainer.step({ signal }).catch((error: unknown) => {
      if (!this.watch || !isDivergence(error)) throw error;
      return error;
    });
    if (report instanceof LineageError) {
      await this.returnFrom({ step: this.step + 1, loss: NaN, error: report }, log);
      return;
    }
    log.step(report);
    this.tokens += report.tokens;
    this.seconds += (performance.now() - started) / 1000;
    this.stepsHere++;
    observer?.stepped?.(report, {
      steps,
      secondsLeft: (this.seconds / this.stepsHere) * (steps - report.step),
    });
    if (await this.returnFrom(report, log)) return;
    if (report.step % evalEvery === 0 || report.step === steps) {
      try {
        await this.evaluate(log);
      } catch (error) {
        if (!this.watch || !isDivergence(error)) throw error;
        await this.returnFrom({ step: report.step, loss: NaN, error }, log);
        return;
      }
      await this.save();
      if (this.watch && !this.watch.suspects && report.step % evalEvery === 0)
        await this.points.keep(report.step);
      await log.draw();
      this.collect();
    }
  }

  /**
   * Goes back where the loss of a step makes a spike certain, or on where going back was no help; whether it went back.
   * @param found.error what a loss that is not finite was refused with: thrown where the run cannot go back
   */
  private async returnFrom(
    { step, loss, error }: { readonly step: number; readonly loss: number; readonly error?: LineageError },
    log: MetricsLog,
  ): Promise<boolean> {
    const { watch, points, trainer } = this;
    const { folder, observer } = this.options;
    const before = trainer.state;
    const found = watch?.see(step, loss);
    if (!watch || !found) return false;
    const backTo = watch.target(found, await points.steps());
    if (backTo === undefined) {
      if (error) throw error;
      const spike = { ...found, skippedTokens: 0 };
      watch.note(spike);
      log.spike(spike);
      observer?.spiked?.(spike);
      return false;
    }
    // A step that was refused has left its batches to be read again. Where going back was no help, twice as much is skipped.
    const further = (2 ** (watch.returns - 1) - 1) * (step - backTo);
    let skipped = 0;
    for (let left = step - before.step + further; left > 0; left--) skipped += await trainer.skip();
    folder.check();
    const { spikes, ...progress } = await restoreTraining(folder.path, trainer, {
      file: points.file(backTo),
      keepsSource: true,
    });
    this.progress = progress;
    if (spikes) watch.goBack(spikes);
    const spike = { ...found, backTo, skippedTokens: before.tokens - trainer.state.tokens + skipped };
    watch.note(spike);
    await this.save();
    await points.forget(backTo);
    await log.goBack(backTo, watch.spikes);
    observer?.spiked?.(spike);
    return true;
  }

  /** What steps, evaluations and pictures have dropped, now and then: it costs some hundredths of a second. */
  private collect(): void {
    const now = performance.now();
    if (now - this.collected < secondsBetweenCollections * 1000) return;
    collectGarbage();
    this.collected = now;
  }

  private async evaluate(log: MetricsLog): Promise<void> {
    const { best: { metric, mode } = { metric: "loss", mode: "least" }, signal, observer } = this.options;
    const metrics = await this.options.evaluate(this.trainer.kept, { step: this.step, signal });
    log.evaluation(this.step, metrics);
    const value = metrics[metric];
    if (value === undefined)
      throw new LineageError(
        "argument",
        `the evaluation has no metric "${metric}"; it has ${Object.keys(metrics).join(", ")}`,
      );
    if (!Number.isFinite(metrics.loss))
      throw new LineageError(
        "diverged",
        `step ${this.step}: the held-out loss is ${metrics.loss}, though the step's own was finite. A lower learning rate or a longer warm-up would help`,
      );
    const { best } = this.progress;
    const better = best === undefined || (mode === "least" ? value < best : value > best);
    observer?.evaluated?.(this.step, metrics, better);
    if (better) {
      this.progress = { best: value, bestStep: this.step, evaluationsSinceBest: 0 };
      this.options.folder.check();
      await this.options.save(this.trainer.kept);
      this.hasModel = true;
    } else this.progress = { ...this.progress, evaluationsSinceBest: this.progress.evaluationsSinceBest + 1 };
  }

  private async save(): Promise<void> {
    this.options.folder.check();
    this.progress = { ...this.progress, spikes: this.watch?.save() };
    await saveTraining(this.options.folder.path, this.trainer, this.progress);
    this.savedStep = this.step;
  }

  private keptSentence(): string {
    const { path } = this.options.folder;
    return this.savedStep === undefined
      ? `nothing was saved in ${path} yet`
      : `${path} keeps the checkpoint of step ${this.savedStep}`;
  }

  private result(outcome: TrainingResult["outcome"]): TrainingResult {
    const { best, bestStep } = this.progress;
    const spikes = this.watch?.spikes ?? [];
    return { outcome, step: this.step, best, bestStep, spikes, tokens: this.tokens, seconds: this.seconds };
  }
}

const isDivergence = (error: unknown): error is LineageError =>
  error instanceof LineageError && error.code === "diverged";
