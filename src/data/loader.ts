import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
import type { Tokens } from "./tokens.js";
import { type BatchSource, type TokenBatch, tokenBatch } from "./batch.js";

/** Where a loader stands: enough to go on exactly there. */
export interface LoaderState {
  readonly epoch: number;
  /** Blocks of this epoch already given. */
  readonly position: number;
}

const loaderState = z.object({ epoch: z.int().nonnegative(), position: z.int().nonnegative() });

export interface LoaderOptions {
  /** Rows of one batch. */
  readonly batchSize: number;
  /** Tokens of one row. */
  readonly sequenceLength: number;
  readonly seed: number;
}

/**
 * Batches from one long run of tokens. It is cut into blocks of `sequenceLength`, packed across documents; every epoch
 * gives each block once, in an order drawn from the seed and the epoch. The label of a token is the token after it.
 */
export class DataLoader implements BatchSource {
  /** Blocks of one epoch. */
  readonly blocks: number;
  /** Tokens at the end that fill no block, and are never seen. */
  readonly droppedTokens: number;
  private epoch = 0;
  private position = 0;
  private order: Uint32Array;

  /** @param name what the tokens are, for messages. Throws `data` when they do not fill one batch. */
  constructor(
    private readonly tokens: Tokens,
    private readonly options: LoaderOptions,
    name = "the corpus",
  ) {
    const { batchSize, sequenceLength } = options;
    this.blocks = Math.max(0, Math.floor((tokens.length - 1) / sequenceLength));
    this.droppedTokens = Math.max(0, tokens.length - 1 - this.blocks * sequenceLength);
    if (this.blocks < batchSize) {
      throw new LineageError(
        "data",
        `${name} has ${tokens.length} tokens, enough for ${this.blocks} rows of ${sequenceLength}; ` +
          `a batch needs ${batchSize}: use more text, a smaller --context or a smaller --batch`,
      );
    }
    this.order = this.shuffled();
  }

  get state(): LoaderState {
    return { epoch: this.epoch, position: this.position };
  }

  /** Goes on where a loader of the same tokens and options stood. */
  restore(state: unknown): void {
    const parsed = loaderState.safeParse(state);
    if (!parsed.success || parsed.data.position > this.blocks)
      throw new LineageError(
        "checkpoint",
        `${JSON.stringify(state)} is not a position in this data, which has ${this.blocks} rows; the run was started with other data`,
      );
    this.epoch = parsed.data.epoch;
    this.position = parsed.data.position;
    this.order = this.shuffled();
  }

  /** The next batch, `[batchSize, sequenceLength]` row after row. */
  next(): TokenBatch {
    const { batchSize, sequenceLength } = this.options;
    const inputIds = new Int32Array(batchSize * sequenceLength);
    const labels = new Int32Array(batchSize * sequenceLength);
    for (let row = 0; row < batchSize; row++) {
      const start = this.nextBlock() * sequenceLength;
      inputIds.set(this.tokens.subarray(start, start + sequenceLength), row * sequenceLength);
      labels.set(this.tokens.subarray(start + 1, start + 1 + sequenceLength), row * sequenceLength);
    }
    return tokenBatch(inputIds, labels, [batchSize, sequenceLength]);
  }

  private nextBlock(): number {
    if (this.position === this.blocks) {
      this.epoch++;
      this.position = 0;
      this.order = this.shuffled();
    }
    return this.order[this.position++]!;
  }

  private shuffled(): Uint32Array {
    return new Random(this.options.seed).fork(`epoch ${this.epoch}`).permutation(this.blocks);
  }
}

/**
 * All of `tokens` once, in order, in batches of one shape: each row sees `sequenceLength` tokens, rows of the last batch
 * that have nothing left carry the label -100, which counts for nothing.
 */
export function* evaluationBatches(
  tokens: Tokens,
  { batchSize, sequenceLength }: { batchSize: number; sequenceLength: number },
): Generator<TokenBatch> {
  const size = batchSize * sequenceLength;
  for (let start = 0; start < tokens.length - 1; start += size) {
    const count = Math.min(size, tokens.length - 1 - start);
    const inputIds = new Int32Array(size);
    const labels = new Int32Array(size).fill(-100);
    inputIds.set(tokens.subarray(start, start + count));
    labels.set(tokens.subarray(start + 1, start + 1 + count));
    yield tokenBatch(inputIds, labels, [batchSize, sequenceLength]);
  }
}
