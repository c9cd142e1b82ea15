import { LineageError } from "../base/errors.js";

interface RowContent {
  readonly tokens: readonly number[];
  readonly reaches: readonly number[];
  readonly start: number;
  readonly prompt: { readonly length: number; readonly logits: Float32Array } | undefined;
}

/** What one row of the caches holds. It stays when its slot is closed, for the next prompt that begins like it. */
export class Row {
  /** The tokens whose keys and values have been computed. */
  readonly tokens: number[] = [];
  /** By what reach the position of each token was turned; see `rotaryReach`. */
  private readonly reaches: number[] = [];
  /** Position of the token in the first cell; above 0 once a sliding window has moved on. */
  start = 0;
  /** Logits after the first `length` tokens, where these were a whole prompt. */
  prompt: RowContent["prompt"];
  slot: Slot | undefined;
  /** When its slot was closed, counted in closings. */
  closedAt = 0;

  constructor(
    /** Which row of the buffers it is now. */
    public place: number,
  ) {}

  /** What it holds, as it is now. */
  get content(): RowContent {
    const { tokens, reaches, start, prompt } = this;
    return { tokens: [...tokens], reaches: [...reaches], start, prompt };
  }

  /** Cells in use. */
  get used(): number {
    return this.tokens.length - this.start;
  }

  /** Whether every key is still there that the token after the first `length` ones looks back on. */
  holds(length: number, window: number): boolean {
    return this.start === 0 || length - this.start >= window - 1;
  }

  add(token: number, reach: number): void {
    this.tokens.push(token);
    this.reaches.push(reach);
  }

  /** Tokens at the beginning that `ids` has as well, and that were turned by `reach`. */
  common(ids: readonly number[], reach: number): number {
    const limit = Math.min(this.tokens.length, ids.length);
    let count = 0;
    while (count < limit && this.tokens[count] === ids[count] && this.reaches[count] === reach) count++;
    return count;
  }

  truncate(length: number): void {
    this.tokens.length = this.reaches.length = length;
    if (length === 0) this.start = 0;
    if (this.prompt && this.prompt.length > length) this.prompt = undefined;
  }

  /** Takes over the first `length` tokens of another row, whose keys and values are its own already. */
  become({ tokens, reaches, start, prompt }: RowContent, length: number): void {
    const taken = tokens.slice(0, length);
    const turned = reaches.slice(0, length);
    this.tokens.length = this.reaches.length = 0;
    for (const [index, token] of taken.entries()) this.add(token, turned[index]!);
    this.start = length > 0 ? start : 0;
    this.prompt = prompt && prompt.length <= length ? prompt : undefined;
  }
}

/** One sequence of a decoder, from `Decoder.open` to `close`. */
export class Slot implements Disposable {
  /** Tokens at the start of the last prompt that were in the cache already. */
  reused = 0;
  /** What the last run gave, written over by the next one. */
  private readonly logits: Float32Array[] = [];

  /** @internal */
  constructor(
    private held: Row | undefined,
    private readonly closed: (row: Row) => void,
  ) {
    held!.slot = this;
  }

  /** @internal */
  get row(): Row {
    if (!this.held) throw new LineageError("disposed", "a slot of the decoder was used after it was closed");
    return this.held;
  }

  /** Tokens in the cache. */
  get length(): number {
    return this.row.tokens.length;
  }

  /** @internal Copies of logits, in memory of the slot's own. */
  keep(logits: readonly Float32Array[]): Float32Array[] {
    return logits.map((values, index) => {
      const own = (this.logits[index] ??= new Float32Array(values.length));
      own.set(values);
      return own;
    });
  }

  /** Gives the slot back. What it holds may serve a later prompt. */
  close(): void {
    const row = this.held;
    if (!row) return;
    this.held = undefined;
    row.slot = undefined;
    this.closed(row);
  }
  [Symbol.dispose](): void {
    this.close();
  }
}
