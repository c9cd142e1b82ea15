import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { Random, drawIndex } from "../base/random.js";
import type { Batch, BatchSource } from "./batch.js";
import type { Tokens } from "./tokens.js";

/** A run of tokens of a mixture, such as the text of one language. */
export interface BlockPart {
  readonly tokens: Tokens;
  /** How often a row is from it, against the others. */
  readonly rate: number;
  /** For messages. */
  readonly name: string;
}

/** What becomes of the blocks of a text. */
export interface BlockOptions<Row> {
  /** Tokens of a block. */
  readonly blockLength: number;
  /** Rows of a batch. */
  readonly batchSize: number;
  readonly seed: number;
  /** What an objective makes of a block, or of the shorter one at the end of a held-out text. */
  readonly transform: (block: Tokens, random: Random) => Row;
  readonly collate: (rows: readonly Row[]) => Batch;
}

const whole = z.int().nonnegative();
const blockState = z.object({ rows: whole, drawn: z.array(whole) });

/**
 * Batches of rows that an objective makes of blocks of text. Each row draws its part by the rates; a part gives each of its
 * blocks once before it begins again in another order. A pure function of the seed and its place.
 */
export class BlockSource<Row> implements BatchSource {
  /** Blocks of all parts. */
  readonly blocks: number;
  /** Tokens at the ends of the parts that fill no block, and are never seen. */
  readonly droppedTokens: number;
  private rows = 0;
  private drawn: number[];
  private readonly counts: readonly number[];
  private readonly orders: { epoch: number; places: Uint32Array }[] = [];

  /** Throws `data` for a part that does not fill a block. */
  constructor(
    private readonly parts: readonly BlockPart[],
    private readonly options: BlockOptions<Row>,
  ) {
    const { blockLength } = options;
    this.counts = parts.map(({ tokens }) => Math.floor(tokens.length / blockLength));
    const empty = this.counts.indexOf(0);
    if (empty >= 0)
      throw new LineageError(
        "data",
        `${parts[empty]!.name} has ${parts[empty]!.tokens.length} tokens, which do not fill a row of ${blockLength}; use more text or a smaller --context`,
      );
    this.blocks = this.counts.reduce((sum, count) => sum + count, 0);
    this.droppedTokens = parts.reduce((sum, { tokens }) => sum + (tokens.length % blockLength), 0);
    this.drawn = parts.map(() => 0);
  }

  get state(): { rows: number; drawn: number[] } {
    return { rows: this.rows, drawn: [...this.drawn] };
  }

  restore(state: unknown): void {
    const parsed = blockState.safeParse(state);
    if (!parsed.success || parsed.data.drawn.length !== this.parts.length)
      throw new LineageError("checkpoint", `${JSON.stringify(state)} is not a place in these texts`);
    ({ rows: this.rows, drawn: this.drawn } = parsed.data);
  }

  next(): Batch {
    const { batchSize, seed, transform, collate } = this.options;
    const rates = this.parts.map(({ rate }) => rate);
    const rows = Array.from({ length: batchSize }, () => {
      const random = new Random(seed).fork(`row ${this.rows++}`);
      const part = drawIndex(rates, random);
      return transform(this.blockOf(part, this.drawn[part]!++), random);
    });
    return collate(rows);
  }

  /** The block that a part gives after `before` others. */
  private blockOf(part: number, before: number): Tokens {
    const { blockLength, seed } = this.options;
    const count = this.counts[part]!;
    const epoch = Math.floor(before / count);
    if (this.orders[part]?.epoch !== epoch)
      this.orders[part] = {
        epoch,
        places: new Random(seed).fork(`part ${part}, epoch ${epoch}`).permutation(count),
      };
    const start = this.orders[part].places[before % count]! * blockLength;
    return this.parts[part]!.tokens.subarray(start, start + blockLength);
  }
}

/** Every block of some held-out texts once, made into rows alike every time; of a text's end what has two tokens or more. */
export function* blocksOnce<Row>(
  texts: readonly Tokens[],
  { blockLength, batchSize, seed, transform, collate }: BlockOptions<Row>,
): Generator<Batch> {
  const random = new Random(seed).fork("held out");
  let rows: Row[] = [];
  let index = 0;
  for (const tokens of texts)
    for (let start = 0; start + 1 < tokens.length; start += blockLength) {
      rows.push(transform(tokens.subarray(start, start + blockLength), random.fork(index++)));
      if (rows.length < batchSize) continue;
      yield collate(rows);
      rows = [];
    }
  if (rows.length > 0) yield collate(rows);
}
