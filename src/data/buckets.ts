import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
import type { Batch, BatchSource } from "./batch.js";

const bucketState = z.object({ epoch: z.int().nonnegative(), position: z.int().nonnegative() });
export type BucketState = z.infer<typeof bucketState>;

export interface BucketOptions<T> {
  /** Rows of one batch. The last one of an epoch may have fewer. */
  readonly batchSize: number;
  readonly seed: number;
  readonly lengthOf: (item: T) => number;
  /** Makes a batch of rows, padded to the longest among them. */
  readonly collate: (items: readonly T[]) => Batch;
}

/** Batches among which rows are sorted: enough that neighbours are of one length, few enough that every epoch mixes them anew. */
const poolBatches = 50;

/**
 * Batches of rows of like length, so that next to nothing is padding. Every epoch gives each row once: shuffled by the seed
 * and the epoch, sorted by length within pools of fifty batches, the batches shuffled again.
 */
export class BucketedSource<T> implements BatchSource {
  /** Batches of one epoch. */
  readonly batches: number;
  private epoch = 0;
  private position = 0;
  private order: readonly (readonly number[])[];

  /** Throws `data` where there is no row. */
  constructor(
    private readonly items: readonly T[],
    private readonly options: BucketOptions<T>,
  ) {
    if (items.length === 0) throw new LineageError("data", "there is no row to learn from");
    this.order = this.shuffled();
    this.batches = this.order.length;
  }

  get state(): BucketState {
    return { epoch: this.epoch, position: this.position };
  }

  restore(state: unknown): void {
    const parsed = bucketState.safeParse(state);
    if (!parsed.success || parsed.data.position > this.batches)
      throw new LineageError("checkpoint", "the checkpoint's place in the data is not one of this data");
    ({ epoch: this.epoch, position: this.position } = parsed.data);
    this.order = this.shuffled();
  }

  next(): Batch {
    if (this.position === this.batches) {
      this.epoch++;
      this.position = 0;
      this.order = this.shuffled();
    }
    return this.options.collate(this.order[this.position++]!.map((place) => this.items[place]!));
  }

  private shuffled(): number[][] {
    const { batchSize, seed, lengthOf } = this.options;
    const random = new Random(seed).fork(`epoch ${this.epoch}`);
    const places = [...random.permutation(this.items.length)];
    const batches: number[][] = [];
    const poolSize = poolBatches * batchSize;
    for (let start = 0; start < places.length; start += poolSize) {
      const pool = places.slice(start, start + poolSize);
      pool.sort((a, b) => lengthOf(this.items[a]!) - lengthOf(this.items[b]!) || a - b);
      for (let at = 0; at < pool.length; at += batchSize) batches.push(pool.slice(at, at + batchSize));
    }
    return random.shuffle(batches);
  }
}

/** All places of `items`, the longest first, in runs of at most `batchSize`: how to compute on rows whose order does not matter. */
export function batchesByLength<T>(
  items: readonly T[],
  { batchSize, lengthOf }: { batchSize: number; lengthOf: (item: T) => number },
): number[][] {
  const places = items.map((_, place) => place);
  places.sort((a, b) => lengthOf(items[b]!) - lengthOf(items[a]!) || a - b);
  const batches: number[][] = [];
  for (let start = 0; start < places.length; start += batchSize)
    batches.push(places.slice(start, start + batchSize));
  return batches;
}
