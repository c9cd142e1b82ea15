import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
import type { Batch, BatchSource } from "./batch.js";

const bucketState = z.object({ epoch: z.int().nonnegative(), position: z.int().nonnegative() });
export type BucketState = z.infer<typeof bucketState>;

export interface BucketOptions<T> {
  /** Rows of one batch at most. The last one of an epoch may have fewer. */
  readonly batchSize: number;
  /** Rows of a batch times the longest of them at most; a row that is longer has a batch of its own. Default: any number. */
  readonly maxTokens?: number;
  readonly seed: number;
  readonly lengthOf: (item: T) => number;
  /** Another length, by which rows of one `lengthOf` are sorted: that of the other side of a pair. */
  readonly otherLengthOf?: (item: T) => number;
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
  }

  /** Batches of the current epoch. */
  get batches(): number {
    return this.order.length;
  }

  get state(): BucketState {
    return { epoch: this.epoch, position: this.position };
  }

  restore(state: unknown): void {
    const parsed = bucketState.safeParse(state);
    const order = parsed.success ? this.shuffled(parsed.data.epoch) : [];
    if (!parsed.success || parsed.data.position > order.length)
      throw new LineageError(
        "checkpoint",
        "the checkpoint was made with other data; resume with the same --data",
      );
    ({ epoch: this.epoch, position: this.position } = parsed.data);
    this.order = order;
  }

  next(): Batch {
    if (this.position === this.batches) {
      this.epoch++;
      this.position = 0;
      this.order = this.shuffled();
    }
    return this.options.collate(this.order[this.position++]!.map((place) => this.items[place]!));
  }

  private shuffled(epoch = this.epoch): number[][] {
    const { batchSize, seed } = this.options;
    const random = new Random(seed).fork(`epoch ${epoch}`);
    const places = [...random.permutation(this.items.length)];
    const batches: number[][] = [];
    const poolSize = poolBatches * batchSize;
    for (let start = 0; start < places.length; start += poolSize)
      batches.push(...batchesWithin(this.items, this.options, places.slice(start, start + poolSize)));
    return random.shuffle(batches);
  }
}

/**
 * Places of `items` in order of length, in batches within the limits: rows, and rows times the longest of them.
 * @param places which of them; default all
 */
export function batchesWithin<T>(
  items: readonly T[],
  {
    batchSize,
    maxTokens = Infinity,
    lengthOf,
    otherLengthOf = () => 0,
  }: Pick<BucketOptions<T>, "batchSize" | "maxTokens" | "lengthOf" | "otherLengthOf">,
  places: readonly number[] = items.map((_, place) => place),
): number[][] {
  const ordered = places
    .map((place) => ({ place, length: lengthOf(items[place]!), other: otherLengthOf(items[place]!) }))
    .sort((a, b) => a.length - b.length || a.other - b.other || a.place - b.place);
  const batches: number[][] = [];
  let batch: number[] = [];
  for (const { place, length } of ordered) {
    // In order of length, this row is the longest so far.
    if (batch.length === batchSize || (batch.length > 0 && (batch.length + 1) * length > maxTokens)) {
      batches.push(batch);
      batch = [];
    }
    batch.push(place);
  }
  if (batch.length > 0) batches.push(batch);
  return batches;
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
