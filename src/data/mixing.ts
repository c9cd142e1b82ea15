import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { Random, drawIndex } from "../base/random.js";
import type { Batch, BatchSource } from "./batch.js";
import { batchesWithin } from "./buckets.js";

export interface MixingOptions {
  /**
   * Power of the shares: 1 keeps them, 0 makes all alike. Published: 0.3 for the languages of mT5 (Xue et al. 2021, section
   * 3.2), 0.7 for those of XLM. T5's temperature T is the exponent 1 / T. Default 1.
   */
  readonly exponent?: number;
  /** Examples that a part counts for at most: T5's artificial limit. Default: none. */
  readonly limit?: number;
}

/**
 * How often each part of a mixture is sampled: in proportion to its examples up to the limit, the shares then raised to the
 * exponent. Raffel et al. 2020, section 3.5.2. Throws `data` for a part without examples, `argument` for options out of range.
 */
export function mixingRates(
  sizes: readonly number[],
  { exponent = 1, limit = Infinity }: MixingOptions = {},
): number[] {
  if (sizes.length === 0 || sizes.some((size) => !(size > 0)))
    throw new LineageError("data", "every part of a mixture needs an example or more to be sampled from");
  if (!(exponent >= 0 && Number.isFinite(exponent)) || !(limit > 0))
    throw new LineageError(
      "argument",
      `a mixture needs an exponent of 0 or more and a limit above 0, not ${exponent} and ${limit}`,
    );
  const counted = sizes.map((size) => Math.min(size, limit));
  const total = counted.reduce((sum, size) => sum + size, 0);
  const powers = counted.map((size) => (size / total) ** exponent);
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

/** A task or a language of a mixture. */
export interface MixturePart<Example> {
  readonly examples: readonly Example[];
  /** How often it is sampled, against the others. */
  readonly rate: number;
}

export interface MixedSourceOptions<Example, Row> {
  readonly parts: readonly MixturePart<Example>[];
  readonly seed: number;
  /** What an objective makes of an example of a part. */
  readonly transform: (example: Example, random: Random, part: number) => Row;
  /** Rows of a batch at most. Default 1024. */
  readonly batchSize?: number;
  /** Rows of a batch times the longest of them at most. Default: any number. */
  readonly maxTokens?: number;
  readonly lengthOf: (row: Row) => number;
  readonly otherLengthOf?: (row: Row) => number;
  readonly collate: (rows: readonly Row[]) => Batch;
}

const whole = z.int().nonnegative();
const mixedState = z.object({ pool: whole, position: whole, drawn: z.array(whole) });
/** Where a mixture stands: examples that each part had given before the pool of batches under way. */
export type MixedState = z.infer<typeof mixedState>;

/** Rows among which those of one length are sought. */
const poolRows = 4096;

/**
 * Batches in which the examples of several parts stand side by side, each drawn by the rates of the parts; a part gives each
 * of its examples once before it begins again in another order. Rows of like length share a batch. A pure function of the
 * seed and its place.
 */
export class MixedSource<Example, Row> implements BatchSource {
  private pool = 0;
  private position = 0;
  private drawn: readonly number[];
  private after: readonly number[] = [];
  private batches: readonly (readonly Row[])[] = [];
  private readonly orders: { epoch: number; places: Uint32Array }[] = [];

  /** Throws `data` for a part without examples. */
  constructor(private readonly options: MixedSourceOptions<Example, Row>) {
    const { parts } = options;
    if (parts.length === 0 || parts.some(({ examples }) => examples.length === 0))
      throw new LineageError("data", "every part of a mixture needs an example or more to be sampled from");
    if (parts.some(({ rate }) => !(rate >= 0)) || !parts.some(({ rate }) => rate > 0))
      throw new LineageError("argument", "the rates of a mixture are 0 or more, and one of them is above 0");
    this.drawn = parts.map(() => 0);
    this.fill();
  }

  get state(): MixedState {
    return { pool: this.pool, position: this.position, drawn: [...this.drawn] };
  }

  restore(state: unknown): void {
    const parsed = mixedState.safeParse(state);
    if (!parsed.success || parsed.data.drawn.length !== this.options.parts.length)
      throw new LineageError(
        "checkpoint",
        "the checkpoint's place in the mixture is not one of this mixture",
      );
    ({ pool: this.pool, position: this.position, drawn: this.drawn } = parsed.data);
    this.fill();
  }

  next(): Batch {
    if (this.position >= this.batches.length) {
      this.pool++;
      this.position = 0;
      this.drawn = this.after;
      this.fill();
    }
    return this.options.collate(this.batches[this.position++]!);
  }

  /** Makes the batches of the current pool. */
  private fill(): void {
    const { parts, transform, seed, batchSize = 1024, lengthOf, ...limits } = this.options;
    const random = new Random(seed).fork(`pool ${this.pool}`);
    const rates = parts.map(({ rate }) => rate);
    const drawn = [...this.drawn];
    const rows = Array.from({ length: poolRows }, (_, row) => {
      const part = drawIndex(rates, random);
      return transform(this.exampleOf(part, drawn[part]!++), random.fork(row), part);
    });
    this.after = drawn;
    const batches = batchesWithin(rows, { ...limits, batchSize, lengthOf });
    this.batches = random.shuffle(batches).map((places) => places.map((place) => rows[place]!));
  }

  /** The example that a part gives after `before` others. */
  private exampleOf(part: number, before: number): Example {
    const { examples } = this.options.parts[part]!;
    const epoch = Math.floor(before / examples.length);
    if (this.orders[part]?.epoch !== epoch)
      this.orders[part] = {
        epoch,
        places: new Random(this.options.seed)
          .fork(`part ${part}, epoch ${epoch}`)
          .permutation(examples.length),
      };
    return examples[this.orders[part].places[before % examples.length]!]!;
  }
}
