import { LineageError } from "../base/errors.js";

interface RowContent {
  readonly tokens: readonly number[];
  readonly reaches: readonly number[];
  readonly starts: readonly number[];
  readonly prompt: { readonly length: number; readonly logits: Float32Array } | undefined;
}

/** What one row of the caches holds. It stays when its slot is closed, for the next prompt that begins like it. */
export class Row {
  /** Of each beam, the tokens whose keys and values have been computed; the first beam is the one that reads prompts. */
  readonly beams: number[][];
  /** By what reach the position of each token was turned; see `rotaryReach`. */
  private readonly reaches: number[] = [];
  /** In each group of caches, the position of the token in the first cell; above 0 once a sliding window has moved on. */
  readonly starts: number[];
  /** Logits after the first `length` tokens, where these were a whole prompt. */
  prompt: RowContent["prompt"];
  /** What an encoder-decoder writes about. */
  source: readonly number[] | undefined;
  /** The place of the adapter that computed it, where there are several; undefined for none. */
  adapter: number | undefined;
  slot: Slot | undefined;
  /** When its slot was closed, counted in closings. */
  closedAt = 0;

  constructor(
    /** Which row of the buffers it is now. */
    public place: number,
    beams: number,
    /** Of each group of caches, the keys that a query looks back on, itself included. */
    private readonly windows: readonly number[],
    /** Virtual tokens before every text. */
    readonly lead = 0,
  ) {
    this.starts = windows.map(() => 0);
    this.beams = Array.from({ length: beams }, () => []);
  }

  get tokens(): number[] {
    return this.beams[0]!;
  }

  /** What it holds, as it is now. */
  get content(): RowContent {
    const { tokens, reaches, starts, prompt } = this;
    return { tokens: [...tokens], reaches: [...reaches], starts: [...starts], prompt };
  }

  /** Cells in use in a group of caches. */
  used(group: number): number {
    return Math.max(...this.beams.map(({ length }) => length)) - this.starts[group]!;
  }

  /** Whether every key is still there that the token after the first `length` ones looks back on. */
  holds(length: number): boolean {
    return this.windows.every((window, group) => {
      const start = this.starts[group]!;
      return start === 0 || length - start >= window - 1;
    });
  }

  /** @param reach that of a text which is as long as this one with the token */
  add(token: number, reach: number, beam = 0): void {
    const tokens = this.beams[beam]!;
    this.reaches[tokens.length] = reach;
    tokens.push(token);
  }

  /** Tokens at the beginning that a prompt has as well, and that were turned by `reach`. */
  common(ids: readonly number[], reach: number, source?: readonly number[]): number {
    if (source && !(this.source && sameIds(this.source, source))) return 0;
    const same = commonLength(this.tokens, ids);
    const turned = this.reaches.findIndex((own) => own !== reach);
    return turned < 0 ? same : Math.min(same, turned);
  }

  truncate(length: number): void {
    for (const beam of this.beams) beam.length = Math.min(beam.length, length);
    if (length === 0) this.starts.fill(0);
    if (this.prompt && this.prompt.length > length) this.prompt = undefined;
  }

  /** Takes over the first `length` tokens of another row, whose keys and values are its own already. */
  become({ tokens, reaches, starts, prompt }: RowContent, length: number): void {
    for (const beam of this.beams) beam.length = 0;
    for (const [index, token] of tokens.slice(0, length).entries()) this.add(token, reaches[index]!);
    this.starts.splice(0, Infinity, ...starts.map((start) => (length > 0 ? start : 0)));
    this.prompt = prompt && prompt.length <= length ? prompt : undefined;
  }

  /** Makes a beam what another is. */
  follow(beam: number, parent: number): void {
    this.beams[beam] = [...this.beams[parent]!];
    if (beam === 0) this.prompt = undefined;
  }
}

/** How long the beginning is that two texts share. */
export function commonLength(a: readonly number[], b: readonly number[]): number {
  const limit = Math.min(a.length, b.length);
  let count = 0;
  while (count < limit && a[count] === b[count]) count++;
  return count;
}

export const sameIds = (a: readonly number[], b: readonly number[]): boolean =>
  a.length === b.length && commonLength(a, b) === a.length;

/** The likeliest tokens that may come next, best first, with the logarithms of their probabilities. */
export interface Ranked {
  readonly ids: readonly number[];
  readonly scores: Float32Array;
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

  /** Tokens of the text in the cache. */
  get length(): number {
    return Math.max(0, this.row.tokens.length - this.row.lead);
  }

  /** @internal A copy of logits, in memory of the slot's own. */
  keep(logits: Float32Array, index = 0): Float32Array {
    const own = (this.logits[index] ??= new Float32Array(logits.length));
    own.set(logits);
    return own;
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
