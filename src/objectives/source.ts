import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
import { drawIndex } from "./masking.js";
import type { Batch, BatchSource } from "./contract.js";

/** Where a source stands: enough to go on exactly there. */
export interface SourceState {
  readonly epoch: number;
  /** Batches of this epoch already given. */
  readonly position: number;
}

export interface ExampleSourceOptions<Example, Row> {
  /** Rows of one batch. */
  readonly batchSize: number;
  readonly seed: number;
  /** The examples of one pass over the data: the same whenever the random numbers are. */
  readonly examples: (random: Random) => readonly Example[];
  /** What an objective makes of one example: masks, permutations, attention. */
  readonly transform: (example: Example, random: Random) => Row;
  readonly collate: (rows: readonly Row[]) => Batch;
  /**
   * Passes that draw their own random numbers before these repeat. Default: all of them, dynamic masking. 10 is BERT's
   * static masking, data duplicated ten times with ten masks (Liu et al. 2019, section 4.1).
   */
  readonly copies?: number;
  /** Length of an example: those of like length then share a batch, so that little of it is padding. */
  readonly length?: (example: Example) => number;
  /** What the examples come from, for messages. */
  readonly name?: string;
}

/** Examples of like length are sought among this many batches. */
const bucketBatches = 32;

/**
 * Batches for an objective: each pass makes its examples anew, orders them at random and gives each at most once. A pure
 * function of the seed and its place, so that a run goes on exactly where it stopped.
 */
export class ExampleSource<Example, Row> implements BatchSource {
  private epoch = 0;
  private position = 0;
  private pass: { examples: readonly Example[]; batches: readonly ArrayLike<number>[]; random: Random };

  /** Throws `data` when the examples do not fill one batch. */
  constructor(private readonly options: ExampleSourceOptions<Example, Row>) {
    this.pass = this.start();
  }

  /** Batches of the current pass. */
  get batches(): number {
    return this.pass.batches.length;
  }

  get state(): SourceState {
    return { epoch: this.epoch, position: this.position };
  }

  restore({ epoch, position }: SourceState): void {
    if (epoch !== this.epoch) {
      this.epoch = epoch;
      this.pass = this.start();
    }
    this.position = position;
  }

  next(): Batch {
    if (this.position >= this.pass.batches.length) {
      this.epoch++;
      this.position = 0;
      this.pass = this.start();
    }
    const { examples, batches, random } = this.pass;
    const rows = Array.from(batches[this.position++]!, (index) =>
      this.options.transform(examples[index]!, random.fork(index)),
    );
    return this.options.collate(rows);
  }

  private start(): typeof this.pass {
    const { seed, copies = Infinity, batchSize, length, name = "the data" } = this.options;
    const base = new Random(seed);
    const random = base.fork(`pass ${copies === Infinity ? this.epoch : this.epoch % copies}`);
    const examples = this.options.examples(random.fork("examples"));
    if (examples.length < batchSize) {
      throw new LineageError(
        "data",
        `${name} makes ${examples.length} rows, but a batch needs ${batchSize}: use more text, shorter rows or a smaller batch`,
      );
    }
    const shuffling = base.fork(`order ${this.epoch}`);
    const order = shuffling.permutation(examples.length);
    const batches: ArrayLike<number>[] = [];
    const bucket = (length ? bucketBatches : 1) * batchSize;
    for (let start = 0; start < order.length; start += bucket) {
      const part = Array.from(order.subarray(start, start + bucket));
      if (length) part.sort((a, b) => length(examples[a]!) - length(examples[b]!));
      for (let row = 0; row + batchSize <= part.length; row += batchSize)
        batches.push(part.slice(row, row + batchSize));
    }
    if (length) shuffling.shuffle(batches);
    return { examples, batches, random };
  }
}

type ResumableSource = Pick<ExampleSource<unknown, unknown>, "next" | "state" | "restore">;

/** Where a mixture and all its parts stand. */
export interface MixtureState {
  readonly batches: number;
  readonly parts: readonly SourceState[];
}

/** Batches of several sources, each next one from a source drawn by `weights`: languages, tasks, objectives. */
export class MixtureSource implements BatchSource {
  private batches = 0;

  constructor(
    private readonly parts: readonly ResumableSource[],
    private readonly weights: readonly number[],
    private readonly seed: number,
  ) {
    if (parts.length === 0 || parts.length !== weights.length)
      throw new LineageError(
        "argument",
        `a mixture has one weight for each source, not ${weights.length} for ${parts.length}`,
      );
  }

  get state(): MixtureState {
    return { batches: this.batches, parts: this.parts.map(({ state }) => state) };
  }

  restore({ batches, parts }: MixtureState): void {
    this.batches = batches;
    this.parts.forEach((part, index) => {
      part.restore(parts[index]!);
    });
  }

  next(): Batch {
    const draw = new Random(this.seed).fork(`mixture ${this.batches++}`);
    return this.parts[drawIndex(this.weights, draw)]!.next();
  }
}
