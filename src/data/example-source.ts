import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { Random, drawIndex } from "../base/random.js";
import type { Batch, BatchSource } from "./index.js";

const whole = z.int().nonnegative();
const sourceState = z.object({
  epoch: whole,
  /** Batches of this epoch already given. */
  position: whole,
});
const mixtureState = z.object({ batches: whole, parts: z.array(sourceState) });

/** Where a source stands: enough to go on exactly there. */
export type SourceState = z.infer<typeof sourceState>;
/** Where a mixture and all its parts stand. */
export type MixtureState = z.infer<typeof mixtureState>;

function parseState<T>(schema: z.ZodType<T>, state: unknown): T {
  const parsed = schema.safeParse(state);
  if (!parsed.success)
    throw new LineageError("checkpoint", "the checkpoint does not hold its position in the data");
  return parsed.data;
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

  restore(state: unknown): void {
    const { epoch, position } = parseState(sourceState, state);
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
        `${name} makes ${examples.length} rows, but a batch needs ${batchSize}; use more text, shorter rows or a smaller batch`,
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

/** All examples once, the last batch being what is left: held-out data, masked alike every time. */
export function* onePass<Example, Row>(options: ExampleSourceOptions<Example, Row>): Generator<Batch> {
  const random = new Random(options.seed).fork("held out");
  const examples = options.examples(random.fork("examples"));
  const { length } = options;
  const order = examples.map((_, index) => index);
  if (length) order.sort((a, b) => length(examples[a]!) - length(examples[b]!));
  for (let start = 0; start < order.length; start += options.batchSize) {
    const indices = order.slice(start, start + options.batchSize);
    yield options.collate(indices.map((index) => options.transform(examples[index]!, random.fork(index))));
  }
}

type ResumableSource = Pick<ExampleSource<unknown, unknown>, "next" | "state" | "restore">;

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

  restore(state: unknown): void {
    const { batches, parts } = parseState(mixtureState, state);
    if (parts.length !== this.parts.length)
      throw new LineageError(
        "checkpoint",
        `the checkpoint stands in ${parts.length} sources, but there are ${this.parts.length}`,
      );
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
