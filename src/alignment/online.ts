import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
import type { Batch, BatchSource } from "../data/index.js";

/** What later rounds depend on besides the model, as JSON: an adapted coefficient. */
export interface Memory {
  readonly state: unknown;
  restore(state: unknown): void;
}

export interface OnlineOptions<Row> {
  /** Rows of a round, from what the model writes as it is now. They are kept in checkpoints: plain JSON. */
  readonly collect: (round: number) => Promise<readonly Row[]>;
  readonly collate: (rows: readonly Row[]) => Batch | Promise<Batch>;
  /** Rows of one batch. Default: all of a round. */
  readonly minibatch?: number | undefined;
  /** Times that a round is learned from. Default 1. */
  readonly epochs?: number | undefined;
  readonly seed: number;
  readonly memory?: Memory | undefined;
}

const stateSchema = z.object({
  /** Rounds that have been collected. */
  round: z.int().nonnegative(),
  /** Batches of the last one that have been given. */
  position: z.int().nonnegative(),
  rows: z.array(z.unknown()),
  memory: z.unknown(),
});

/**
 * Batches from what the model itself writes while it learns: a round is collected when the one before has been learned from.
 * With it, a method that learns online is an objective and a function that collects, and trains in the loop that everything
 * trains in. Its state holds the rows of the round under way, so that a run that was stopped in the middle of one goes on to
 * bit-equal losses.
 *
 *     const source = new OnlineSource({ collect, collate: (rows) => completionBatch(policy, rows, ...), seed: 1 });
 *     await runTraining({ objective: completionObjective(policy), source, ... });
 */
export class OnlineSource<Row> implements BatchSource {
  private round = 0;
  private position = 0;
  private rows: readonly Row[] = [];

  constructor(private readonly options: OnlineOptions<Row>) {}

  get state(): unknown {
    const { round, position, rows } = this;
    return { round, position, rows, memory: this.options.memory?.state ?? null };
  }

  restore(state: unknown): void {
    const parsed = stateSchema.safeParse(state);
    if (!parsed.success)
      throw new LineageError(
        "checkpoint",
        "the checkpoint does not hold the round that was being learned from",
      );
    const { round, position, rows, memory } = parsed.data;
    Object.assign(this, { round, position, rows: rows as readonly Row[] });
    this.options.memory?.restore(memory);
  }

  async next(): Promise<Batch> {
    const { collect, collate, minibatch = Infinity, epochs = 1, seed } = this.options;
    const perEpoch = () => Math.ceil(this.rows.length / minibatch) || 1;
    if (this.rows.length === 0 || this.position >= perEpoch() * epochs) {
      const rows = await collect(this.round);
      if (rows.length === 0)
        throw new LineageError("data", "a round has nothing to learn from: it has no row");
      this.rows = rows;
      this.round++;
      this.position = 0;
    }
    const epoch = Math.floor(this.position / perEpoch());
    const start = (this.position % perEpoch()) * Math.min(minibatch, this.rows.length);
    this.position++;
    if (minibatch >= this.rows.length) return collate(this.rows);
    const order = new Random(seed).fork(`round ${this.round} epoch ${epoch}`).permutation(this.rows.length);
    return collate(Array.from(order.subarray(start, start + minibatch), (index) => this.rows[index]!));
  }
}

/** Which prompts a round takes: each once before any comes again, in an order of the seed. */
export function roundOf(count: number, round: number, size: number, seed: number): number[] {
  const base = new Random(seed);
  let epoch = -1;
  let order = new Uint32Array();
  return Array.from({ length: size }, (_, index) => {
    const place = round * size + index;
    if (Math.floor(place / count) !== epoch) {
      epoch = Math.floor(place / count);
      order = base.fork(`prompts ${epoch}`).permutation(count) as Uint32Array<ArrayBuffer>;
    }
    return order[place % count]!;
  });
}
