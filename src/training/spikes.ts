import { z } from "zod";

/** When the loss of a run counts as a spike. */
export interface SpikeOptions {
  /** How far above its running level: in standard deviations, which are estimated from the median of the deviations. */
  readonly deviations: number;
  /** Steps in a row that have to be as high. A loss that is not finite is a spike at once. Default 3. */
  readonly steps?: number;
  /** Steps whose losses are the running level: their median. Default 64. */
  readonly window?: number;
}

/** A spike, and what was done about it. */
export const spikeSchema = z.object({
  /** The first step with a loss too high, and the one after which that was certain. */
  since: z.int(),
  step: z.int(),
  /** Loss at the end; null where it is not finite. */
  loss: z.number().nullable(),
  level: z.number(),
  /** Step of the checkpoint that the run went back to; without one it went on through the spike. */
  backTo: z.int().optional(),
  /** What the steps after that had read, and is not read again. */
  skippedTokens: z.number().nonnegative(),
});
export type Spike = z.infer<typeof spikeSchema>;

export const spikeStateSchema = z.object({
  losses: z.array(z.number()),
  since: z.int().optional(),
  high: z.array(z.number()),
  reached: z.int().nonnegative(),
  returns: z.int().nonnegative(),
  spikes: z.array(spikeSchema),
});
/** All that a watch knows, as a checkpoint keeps it. */
export type SpikeState = z.infer<typeof spikeStateSchema>;

/** Losses before which none is judged. */
const fewest = 16;
/** Times that a run goes back from one stretch before it goes on through it. */
const mostReturns = 5;
/** Of a normal distribution: standard deviations in a median of absolute deviations. */
const deviationsInMedian = 1.4826;
/** Losses that hardly vary are allowed this share of their level as a standard deviation. */
const leastDeviation = 0.02;

/**
 * Watches the loss of a run for spikes: where it stays far above its running level, the median of the losses before. What is high is no
 * part of that level.
 */
export class SpikeWatch {
  private state: SpikeState = { losses: [], high: [], reached: 0, returns: 0, spikes: [] };

  constructor(private readonly options: SpikeOptions) {}

  /** Whether the last losses were too high, which may turn out to be a spike. */
  get suspects(): boolean {
    return this.state.since !== undefined;
  }
  /** Times that the run has gone back from the same stretch, the last one included. */
  get returns(): number {
    return this.state.returns;
  }
  get spikes(): readonly Spike[] {
    return this.state.spikes;
  }
  save(): SpikeState {
    return structuredClone(this.state);
  }
  restore(state: SpikeState): void {
    this.state = structuredClone(state);
  }

  /** Takes the loss of a step. What is known of a spike where it is certain that there is one. */
  see(step: number, loss: number): Omit<Spike, "backTo" | "skippedTokens"> | undefined {
    const { steps = 3, window = 64, deviations } = this.options;
    const { losses } = this.state;
    const level = losses.length === 0 ? NaN : median(losses);
    const spread = Math.max(
      deviationsInMedian * median(losses.map((other) => Math.abs(other - level))),
      leastDeviation * Math.abs(level),
    );
    const finite = Number.isFinite(loss);
    if (finite && (losses.length < fewest || loss <= level + deviations * spread)) {
      losses.push(...this.state.high, loss);
      losses.splice(0, losses.length - window);
      this.state.high = [];
      delete this.state.since;
      return undefined;
    }
    this.state.since ??= step;
    if (finite) this.state.high.push(loss);
    if (finite && this.state.high.length < steps) return undefined;
    return {
      since: this.state.since,
      step,
      loss: finite ? loss : null,
      level: losses.length === 0 ? 0 : level,
    };
  }

  /**
   * Which of the checkpoints at these steps to go back to: the last from before the spike, and where that was no help twice the
   * first; undefined where the run has gone back from here often enough.
   */
  target({ since, step }: Pick<Spike, "since" | "step">, checkpoints: readonly number[]): number | undefined {
    const { state } = this;
    state.returns = since <= state.reached ? state.returns + 1 : 1;
    state.reached = Math.max(state.reached, step);
    if (state.returns > mostReturns) return undefined;
    const before = checkpoints.filter((one) => one < since).sort((a, b) => a - b);
    return state.returns <= 2 ? before.at(-1) : before[0];
  }

  /** Notes a spike. After one that the run goes on through, the level is what the loss is from now on. */
  note(spike: Spike): void {
    this.state.spikes.push(spike);
    if (spike.backTo === undefined) Object.assign(this.state, { losses: [], high: [], since: undefined });
  }

  /** Takes up what was known of the losses at a checkpoint that the run goes back to, and keeps what it knows of spikes. */
  goBack({ losses, high, since }: SpikeState): void {
    this.state = { ...this.state, losses: [...losses], high: [...high], since };
  }
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}
