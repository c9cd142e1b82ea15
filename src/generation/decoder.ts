import { bytesPerElement } from "../base/dtype.js";
import { LineageError } from "../base/errors.js";
import { requireMemory } from "../base/memory.js";
import { Random } from "../base/random.js";
import { type WeightSet, cacheWindow, rotaryReach, scaledContext } from "../nn/index.js";
import type { RunOptions } from "../runtime/types.js";
import { type CacheType, KeyValueBuffers } from "./cache.js";
import type { CausalModel } from "./model.js";
import { type CacheScales, compileDecoder } from "./program.js";
import { Runs } from "./runs.js";
import { Row, Slot } from "./slot.js";

export interface DecoderOptions {
  readonly model: CausalModel;
  readonly weights: WeightSet;
  /** Sequences that are continued side by side. Default 1. */
  readonly slots?: number | undefined;
  /**
   * Tokens that a slot can hold, prompt and continuation; at most the model's context, which with a scaling of positions is
   * longer than `contextLength`. Default `contextLength`.
   */
  readonly capacity?: number | undefined;
  /** Tokens of a prompt that one run takes: what bounds the memory of long prompts. Default 512. */
  readonly prefillChunk?: number | undefined;
  /**
   * What keys and values are kept as. Float16 takes half the memory of float32, which is the default; int8 a quarter. On a
   * CPU int8 makes the steps of long texts faster and the reading of long prompts slower; float16 makes both slower.
   */
  readonly cacheType?: CacheType | undefined;
  /**
   * Programs that the layers are divided into. They are made side by side, which shortens the start of large models, and run
   * one after the other. Default: one for each thread, up to 4, for more than 64 MB of weights; else 1.
   */
  readonly parts?: number | undefined;
  /** Tokens whose keys and values tell the range of an int8 cache. Default: 256 of the vocabulary at random. */
  readonly calibration?: readonly number[] | undefined;
}

/**
 * Runs a model over several sequences side by side, keeping keys and values in buffers that every run updates in place. A
 * sequence takes a slot, and gives it back; slots come and go between two steps, and a step costs what the slots in it cost.
 * With a sliding window the buffers hold the window and one chunk, whatever the length of the text: when they are full,
 * the window moves to their front, which costs one copy of it for every chunk of tokens.
 *
 * Each slot gives what it gives alone. Where weights are constants (`loadForInference`), in full precision or in few bits,
 * the other slots of a step change no bit of its logits; where they train, the engine adds up a single row in another order,
 * and the last bit may differ. How a prompt is divided into runs changes no bit either, and a prompt that a slot has read
 * before gives the logits that it gave then. Only tokens that were computed one at a time (`step`) leave keys and values that
 * may differ in the last bit from those of the same tokens in a prompt, because the engine adds up the attention of one query
 * in another order. In float32 the difference stays there; with weights in 4 and 8 bits, whose products round their input, it
 * may grow until two nearly equal tokens change places. So a conversation that goes on from answers in the cache may differ
 * from one that reads them anew. With a second form of the weights for prompts (`promptConstants`), so may what the two forms
 * have read. Where the angles of positions depend on a text's length (dynamic scaling, LongRoPE), as in transformers each token
 * is turned by the text that was there when it was read, and only a beginning that was turned alike is kept for a prompt.
 */
export class Decoder implements Disposable {
  /** Row `i` of the buffers is described by `rows[i]`. */
  private readonly rows: Row[];
  /** Settles when the last of the runs asked for so far has ended. */
  private last: Promise<void> = Promise.resolve();
  private working = false;
  private disposed = false;
  private freed = false;
  private closings = 0;

  private constructor(
    private readonly runs: Runs,
    private readonly caches: KeyValueBuffers,
    private readonly limits: {
      readonly slots: number;
      readonly capacity: number;
      readonly cells: number;
      readonly chunk: number;
      readonly window: number;
      readonly vocabSize: number;
      /** Texts of these two lengths are turned by the same angles where it gives the same number. */
      readonly reachOf: (length: number) => number;
    },
  ) {
    this.rows = Array.from({ length: limits.slots }, (_, place) => new Row(place));
  }

  /**
   * Throws `length` for a capacity beyond the model's context, `memory` where the cache does not fit into what is free,
   * `disposed` for weights that were disposed.
   */
  static async create(options: DecoderOptions): Promise<Decoder> {
    const { model, weights, slots = 1, prefillChunk = 512, cacheType = "float32", parts } = options;
    const { contextLength, numLayers, vocabSize } = model.config;
    const window = cacheWindow(model.config) ?? Infinity;
    const most = scaledContext(model.config);
    const { capacity = contextLength } = options;
    for (const [name, value] of Object.entries({ slots, capacity, prefillChunk, parts: parts ?? 1 })) {
      if (!Number.isInteger(value) || value < 1)
        throw new LineageError("argument", `${name} must be a whole number of at least 1, not ${value}`);
    }
    if (capacity > most)
      throw new LineageError("length", `${capacity} tokens do not fit the model's context of ${most}`);
    const cells = Math.min(capacity, window - 1 + prefillChunk);
    const shape = model.cacheShape(slots, cells) as [number, number, number, number];
    requireMemory(
      2 * numLayers * bytesPerElement(cacheType) * shape.reduce((size, dim) => size * dim, 1),
      `the keys and values of ${slots} x ${cells} tokens in ${cacheType}`,
      "choose a smaller capacity, fewer slots, or another cacheType",
    );
    const scales = cacheType === "int8" ? await measureScales(options, capacity) : undefined;
    const programs = await compileDecoder(
      model,
      weights,
      { type: cacheType, cells, inPlace: cells === capacity, scales },
      parts,
    );
    const caches = new KeyValueBuffers(weights.runtime, numLayers, shape, cacheType);
    const runs = new Runs(programs, weights, caches, vocabSize);
    return new Decoder(runs, caches, {
      slots,
      capacity,
      cells,
      chunk: prefillChunk,
      window,
      vocabSize,
      reachOf: (length) => rotaryReach(model.config, length),
    });
  }

  /** Sequences that are continued side by side. */
  get slots(): number {
    return this.limits.slots;
  }
  /** Tokens that a slot can hold. */
  get capacity(): number {
    return this.limits.capacity;
  }
  get vocabSize(): number {
    return this.limits.vocabSize;
  }
  /** Tokens that `extend` takes at once, at most. */
  get chunk(): number {
    return this.limits.chunk;
  }
  /** Slots that can be opened now. */
  get freeSlots(): number {
    return this.rows.filter(({ slot }) => !slot).length;
  }

  /**
   * Takes a slot: the one that holds most of a prompt's beginning, of equals the one that was closed first. Throws
   * `argument` when all are taken.
   */
  open(prompt: readonly number[] = []): Slot {
    this.checkAlive();
    const free = this.rows
      .filter(({ slot }) => !slot)
      .map((row) => ({ row, common: row.common(prompt, this.limits.reachOf(prompt.length)) }))
      .sort((a, b) => b.common - a.common || a.row.closedAt - b.row.closedAt);
    if (free.length === 0)
      throw new LineageError(
        "argument",
        this.slots === 1
          ? "the decoder is in use: it has one slot, and that is taken; close it first, or create the decoder with more slots"
          : `all ${this.slots} slots of the decoder are taken; close one first, or create the decoder with more`,
      );
    return new Slot(free[0]!.row, (row) => (row.closedAt = ++this.closings));
  }

  /** Forgets what closed slots held. */
  forget(): void {
    for (const row of this.rows) if (!row.slot) row.truncate(0);
  }

  /**
   * Makes a slot hold a prompt; the logits of the token after it, `[vocabSize]`. What this slot, or any other, holds of its
   * beginning is kept and not computed again; `slot.reused` says how much it was. The array is the slot's: its next run
   * overwrites it.
   */
  async read(slot: Slot, prompt: readonly number[], options: RunOptions = {}): Promise<Float32Array> {
    await this.begin(slot, prompt);
    return (await this.advance(slot, prompt, Infinity, options))!;
  }

  /** Makes a slot hold as much of a prompt's beginning as any row has; `advance` reads the rest. */
  async begin(slot: Slot, prompt: readonly number[]): Promise<void> {
    this.checkPrompt(prompt);
    await this.exclusive(() => {
      slot.reused = this.reuse(slot.row, prompt);
      return Promise.resolve();
    });
  }

  /**
   * Reads on in a prompt that the slot holds the beginning of, about `count` tokens; the logits after the prompt once it
   * has been read, before that undefined.
   */
  async advance(
    slot: Slot,
    prompt: readonly number[],
    count: number,
    options: RunOptions = {},
  ): Promise<Float32Array | undefined> {
    return this.exclusive(async () => {
      const { row } = slot;
      const known = row.prompt;
      if (known?.length === prompt.length && row.tokens.length === prompt.length)
        return slot.keep([known.logits])[0]!;
      // Two tokens at least come last, for the program with logits: one alone would be added up otherwise.
      let end = Math.min(row.tokens.length + count, prompt.length);
      if (end === prompt.length - 1) end = prompt.length;
      if (this.runs.hasReader && prompt.length - row.tokens.length > readerPays)
        await this.feed(row, prompt, Math.min(end, prompt.length - 2), 0, true, options);
      if (row.tokens.length >= end && end < prompt.length) return undefined;
      const logits = await this.feed(row, prompt, end, end === prompt.length ? 1 : 0, false, options);
      if (end < prompt.length) return undefined;
      row.prompt = { length: prompt.length, logits: logits[0]!.slice() };
      return slot.keep(logits)[0]!;
    });
  }

  /**
   * Logits after one more token in each of some slots, in their order. The arrays are the slots': the next run of each
   * overwrites its own.
   */
  async step(
    slots: readonly Slot[],
    tokens: readonly number[],
    options: RunOptions = {},
  ): Promise<Float32Array[]> {
    this.checkIds(tokens);
    if (slots.length === 0) return [];
    if (slots.length !== tokens.length || new Set(slots).size !== slots.length)
      throw new LineageError(
        "argument",
        `a step takes one token for each of several slots, not ${tokens.length} tokens for ${new Set(slots).size} of ${slots.length} slots`,
      );
    return this.exclusive(async () => {
      const rows = slots.map(({ row }) => row);
      for (const row of rows) {
        if (row.tokens.length >= this.capacity)
          throw new LineageError("length", `the context of ${this.capacity} tokens is full`);
        this.makeRoom(row, 1);
      }
      const first = this.bringTogether(rows);
      const feed = this.runs.stepFeed(rows.length);
      let total = 0;
      for (const [index, row] of rows.entries()) {
        const line = row.place - first;
        feed.inputIds[line] = tokens[index]!;
        feed.positionIds[line] = BigInt(row.tokens.length);
        feed.lastRows[line] = BigInt(line);
        feed.lastPosition[line] = row.used;
        feed.length[line] = BigInt(row.tokens.length + 1);
        total = Math.max(total, row.used + 1);
      }
      feed.totalLength[0] = total;
      await this.runs.step(first, rows.length, feed, options);
      return slots.map((slot, index) => {
        const row = rows[index]!;
        row.add(tokens[index]!, this.limits.reachOf(row.tokens.length + 1));
        return slot.keep([feed.logits[row.place - first]!])[0]!;
      });
    });
  }

  /**
   * Logits after each of several tokens that one slot takes at once, for less than as many steps: what a draft is checked
   * with. The arrays are the slot's: its next run overwrites them.
   */
  async extend(slot: Slot, tokens: readonly number[], options: RunOptions = {}): Promise<Float32Array[]> {
    this.checkIds(tokens);
    const { chunk } = this.limits;
    if (tokens.length === 0 || tokens.length > chunk)
      throw new LineageError("argument", `extend takes 1 to ${chunk} tokens at once, not ${tokens.length}`);
    return this.exclusive(async () => {
      const { row } = slot;
      const held = row.tokens.length;
      if (held + tokens.length > this.capacity)
        throw new LineageError(
          "length",
          `${held} tokens and ${tokens.length} more do not fit the context of ${this.capacity}`,
        );
      const all = [...row.tokens, ...tokens];
      if (this.limits.reachOf(held + 1) === this.limits.reachOf(all.length))
        return slot.keep(await this.feed(row, all, all.length, tokens.length, false, options));
      // Each token is turned by the text up to itself, as in steps.
      const rows: Float32Array[] = [];
      for (let end = held + 1; end <= all.length; end++)
        rows.push((await this.feed(row, all.slice(0, end), end, 1, false, options))[0]!.slice());
      return slot.keep(rows);
    });
  }

  /** Forgets what comes after a slot's first `length` tokens. */
  truncate(slot: Slot, length: number): void {
    const { row } = slot;
    const held = row.tokens.length;
    if (!Number.isInteger(length) || length < 0 || length > held || !row.holds(length, this.limits.window))
      throw new LineageError("argument", `the slot holds ${held} tokens and cannot go back to ${length}`);
    row.truncate(length);
  }

  /** Makes slot `i` hold what `sources[i]` held, all at once: the beams that go on. */
  async copy(slots: readonly Slot[], sources: readonly Slot[]): Promise<void> {
    await this.exclusive(() => {
      const before = sources.map(({ row }) => row.content);
      const moves = slots.map(({ row }, index) => ({
        row: row.place,
        source: sources[index]!.row.place,
      }));
      if (moves.some(({ row, source }) => row !== source))
        this.caches.rearrange(moves, Math.max(...sources.map(({ row }) => row.used)));
      for (const [index, { row }] of slots.entries())
        row.become(before[index]!, before[index]!.tokens.length);
      return Promise.resolve();
    });
  }

  /** @internal The scales that an int8 cache of what a slot holds would need. */
  scales({ row }: Slot, headSize?: number): CacheScales {
    return this.caches.scales(row.place, row.used, headSize);
  }

  /** Throws `argument` and `length` for a prompt that no slot can hold. */
  checkPrompt(prompt: readonly number[]): void {
    if (prompt.length === 0) throw new LineageError("argument", "a prompt needs at least one token");
    if (prompt.length > this.capacity)
      throw new LineageError(
        "length",
        `a prompt of ${prompt.length} tokens does not fit the ${this.capacity} tokens of the context; shorten it`,
      );
    this.checkIds(prompt);
  }

  private checkIds(ids: readonly number[]): void {
    const { vocabSize } = this;
    const wrong = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
    if (wrong !== undefined)
      throw new LineageError(
        "argument",
        `there is no token ${wrong}: the model's vocabulary has ${vocabSize}`,
      );
  }

  /** Throws `disposed` once the decoder has been disposed. */
  checkAlive(): void {
    if (this.disposed) throw new LineageError("disposed", "the decoder was used after it was disposed");
  }

  /** Makes a row hold as much of a prompt's beginning as any row has; the number of tokens. */
  private reuse(row: Row, prompt: readonly number[]): number {
    const { window, reachOf } = this.limits;
    const reach = reachOf(prompt.length);
    let [source, most] = [row, 0];
    for (const other of [row, ...this.rows]) {
      const common = other.common(prompt, reach);
      const whole = common === prompt.length && other.prompt?.length === common;
      // A last token alone would be added up otherwise than with others before it.
      const kept = whole ? common : Math.min(common, Math.max(0, prompt.length - 2));
      if (kept > most && other.holds(kept, window)) [source, most] = [other, kept];
    }
    this.caches.copy(source.place, row.place, most - source.start);
    row.become(source.content, most);
    return most;
  }

  /** Sees to it that a row has `count` free cells, by moving its window to the front. */
  private makeRoom(row: Row, count: number): void {
    const { used } = row;
    if (used + count <= this.limits.cells) return;
    const kept = Math.min(used, this.limits.window - 1);
    this.caches.shift(row.place, used - kept, kept);
    row.start = row.tokens.length - kept;
  }

  /** Makes rows neighbours in the buffers with the fewest exchanges; the place of the first. */
  private bringTogether(rows: readonly Row[]): number {
    const count = rows.length;
    const outside = (first: number): Row[] =>
      rows.filter(({ place }) => place < first || place >= first + count);
    let [best, moves] = [0, outside(0)];
    for (let first = 1; first + count <= this.slots && moves.length > 0; first++) {
      const candidates = outside(first);
      if (candidates.length < moves.length) [best, moves] = [first, candidates];
    }
    const inside = this.rows.slice(best, best + count).filter((row) => !rows.includes(row));
    for (const [index, row] of moves.entries()) {
      const other = inside[index]!;
      this.caches.swap(row.place, other.place, row.used, other.used);
      [row.place, other.place] = [other.place, row.place];
      this.rows[row.place] = row;
      this.rows[other.place] = other;
    }
    return best;
  }

  /** Runs one row over `tokens` up to `end`, from where it is, chunk by chunk; the logits after the last `wanted` ones. */
  private async feed(
    row: Row,
    tokens: readonly number[],
    end: number,
    wanted: number,
    reader: boolean,
    options: RunOptions,
  ): Promise<readonly Float32Array[]> {
    const most = reader ? Math.min(this.limits.chunk, readerChunk) : this.limits.chunk;
    let logits: readonly Float32Array[] = [];
    while (row.tokens.length < end) {
      const held = row.tokens.length;
      const rest = end - held;
      // No chunk of one token after others, which would be added up otherwise.
      const size = rest === most + 1 && most > 2 ? most - 1 : Math.min(rest, most);
      const part = tokens.slice(held, held + size);
      this.makeRoom(row, size);
      const { used } = row;
      const feed = this.runs.rowFeed(size, size === rest ? Math.max(wanted, 1) : 1);
      feed.inputIds.set(part);
      for (let i = 0; i < size; i++) feed.positionIds[i] = BigInt(held + i);
      const given = feed.lastRows.length;
      for (let i = 0; i < given; i++) feed.lastRows[i] = BigInt(size - given + i);
      feed.lastPosition[0] = used + size - 1;
      feed.totalLength[0] = used + size;
      feed.length[0] = BigInt(tokens.length);
      await this.runs.read(row.place, feed, reader, options);
      this.checkAlive();
      for (const token of part) row.add(token, this.limits.reachOf(tokens.length));
      logits = feed.logits;
    }
    return logits;
  }

  /** Work on the buffers, after all that was asked for before. */
  private async exclusive<T>(work: () => Promise<T>): Promise<T> {
    const before = this.last;
    let release!: () => void;
    this.last = new Promise((resolve) => (release = resolve));
    await before;
    try {
      this.checkAlive();
      this.working = true;
      return await work();
    } finally {
      this.working = false;
      if (this.disposed) this.free();
      release();
    }
  }

  private free(): void {
    if (this.freed) return;
    this.freed = true;
    this.runs.dispose();
    this.caches.dispose();
  }

  /** What is running ends first; what was asked for and has not begun throws `disposed`. */
  dispose(): void {
    this.disposed = true;
    if (!this.working) this.free();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Tokens from which on a run of the reader costs less than it saves. */
const readerPays = 16;

/** Tokens of one run of the reader: what it writes between two products then stays in the processor's caches. */
const readerChunk = 128;

/** The scales of an int8 cache, from a float32 one that has read some tokens. */
async function measureScales(
  { model, weights, calibration }: DecoderOptions,
  capacity: number,
): Promise<CacheScales> {
  const random = new Random(0);
  const tokens =
    calibration?.slice(0, capacity) ??
    Array.from({ length: Math.min(256, capacity) }, () => random.integer(model.config.vocabSize));
  using decoder = await Decoder.create({ model, weights, capacity: tokens.length });
  const slot = decoder.open();
  await decoder.read(slot, tokens);
  return decoder.scales(slot, model.config.headSize);
}
