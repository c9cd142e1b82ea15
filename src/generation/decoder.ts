import { bytesPerElement } from "../base/dtype.js";
import { LineageError } from "../base/errors.js";
import { requireMemory } from "../base/memory.js";
import { Random } from "../base/random.js";
import {
  type Dim,
  type KeyValueCache,
  type Tensor,
  allOrNone,
  compileInParts,
  constant,
  constantBytes,
  gather,
  input,
} from "../graph/index.js";
import { type ForwardContext, type Module, type WeightSet, namedParameters } from "../nn/index.js";
import type { Binding, DeviceTensor, Program, RunOptions, Runtime, Tensors } from "../runtime/types.js";
import { type CacheType, KeyValueBuffers } from "./cache.js";

/** A model that continues sequences with the help of a cache. */
export interface CausalModel extends Module {
  readonly config: {
    readonly vocabSize: number;
    readonly contextLength: number;
    readonly numLayers: number;
    /** Keys that a query looks back on, itself included; undefined for all. */
    readonly slidingWindow?: number | undefined;
  };
  hiddenStates(inputIds: Tensor, positionIds: Tensor, context: ForwardContext): Tensor;
  logits(hiddenStates: Tensor): Tensor;
  cacheShape(batch: Dim, capacity: Dim): Dim[];
}

export interface DecoderOptions {
  /** Rows that are continued side by side. */
  readonly batch: number;
  /** Tokens that a row can hold, prompt and continuation; at most the model's context, which is the default. */
  readonly capacity?: number;
  /** Tokens of a prompt that one run takes: what bounds the memory of long prompts. Default 512. */
  readonly prefillChunk?: number;
  /**
   * What keys and values are kept as. Float16 takes half the memory of float32, which is the default; int8 a quarter. On a
   * CPU int8 makes the steps of long texts faster and the reading of long prompts slower; float16 makes both slower.
   */
  readonly cacheType?: CacheType;
  /**
   * Programs that the layers are divided into. They are made side by side, which shortens the start of large models, and run
   * one after the other. Default: one for each thread, up to 4, for more than 64 MB of weights; else 1.
   */
  readonly parts?: number | undefined;
  /** Tokens whose keys and values tell the range of an int8 cache. Default: 256 of the vocabulary at random. */
  readonly calibration?: readonly number[];
}

/** One sequence of the batch. */
interface Row {
  /** The tokens whose keys and values have been computed. */
  readonly tokens: number[];
  /** Position of the token in the first slot; above 0 once a sliding window has moved on. */
  start: number;
}

/**
 * Runs a model over several sequences side by side, keeping keys and values in buffers that every run updates in place.
 * Each row gives what it gives alone. Prompts are read row by row, in chunks, and only what the row does not hold yet.
 * With a sliding window the buffers hold the window and one chunk, whatever the length of the text: when they are full,
 * the window moves to their front, which costs one copy of it for every chunk of tokens.
 */
export class Decoder implements Disposable {
  /** Tokens at the start of each row's last prompt that were in the cache already. */
  readonly reused: number[];
  private readonly rows: readonly Row[];
  /** One token for every row: bound once. */
  private readonly together: { readonly feed: Feed; readonly binding: Binding };
  private readonly pace = new Pace();
  /** The program over one row of the caches, and the one that reads prompts where the weights have one for that. */
  private readonly alone: RowRuns;
  private readonly reader: RowRuns | undefined;
  /** Inputs and outputs of runs over one row, by their numbers of tokens and of logits; the least recent first. */
  private readonly feeds = new Map<string, Feed>();

  private constructor(
    private readonly program: Program,
    readerProgram: Program | undefined,
    private readonly weights: WeightSet,
    private readonly caches: KeyValueBuffers,
    readonly batch: number,
    readonly capacity: number,
    private readonly slots: number,
    private readonly chunk: number,
    private readonly window: number,
    private readonly vocabSize: number,
  ) {
    this.rows = Array.from({ length: batch }, () => ({ tokens: [], start: 0 }));
    this.reused = this.rows.map(() => 0);
    const feed = new Feed(weights.runtime, { batch, sequence: 1, rows: batch, vocabSize });
    this.together = { feed, binding: bind(program, weights, caches.tensors, feed) };
    this.alone = new RowRuns(program, weights, caches, chunk);
    this.reader = readerProgram && new RowRuns(readerProgram, weights, caches, Math.min(chunk, readerChunk));
  }

  /**
   * Throws `length` for a capacity beyond the model's context, `memory` where the cache does not fit into what is free.
   */
  static async create(
    model: CausalModel,
    weights: WeightSet,
    {
      batch,
      capacity = model.config.contextLength,
      prefillChunk = 512,
      cacheType = "float32",
      parts = defaultParts(weights),
      calibration,
    }: DecoderOptions,
  ): Promise<Decoder> {
    const { contextLength, numLayers, vocabSize, slidingWindow } = model.config;
    for (const [name, value] of Object.entries({ batch, capacity, prefillChunk, parts })) {
      if (!Number.isInteger(value) || value < 1)
        throw new LineageError("argument", `${name} must be a whole number of at least 1, not ${value}`);
    }
    if (capacity > contextLength) {
      throw new LineageError(
        "length",
        `${capacity} tokens do not fit the model's context of ${contextLength}`,
      );
    }
    const slots =
      slidingWindow === undefined ? capacity : Math.min(capacity, slidingWindow - 1 + prefillChunk);
    const shape = model.cacheShape(batch, slots) as [number, number, number, number];
    const bytes = 2 * numLayers * bytesPerElement(cacheType) * shape.reduce((size, dim) => size * dim, 1);
    requireMemory(
      bytes,
      `the keys and values of ${batch} x ${slots} tokens in ${cacheType}`,
      "choose a smaller capacity or batch, or another cacheType",
    );

    namedParameters(model);
    const { runtime } = weights;
    const scales =
      cacheType === "int8" ? await measureScales(model, weights, capacity, calibration) : undefined;
    const scale = (name: string): Tensor => constant("float32", [1, shape[1], 1, shape[3]], scales![name]!);
    const inputIds = input("inputIds", "int32", ["batch", "sequence"]);
    const positionIds = input("positionIds", "int64", ["batch", "sequence"]);
    const lastRows = input("lastRows", "int64", ["rows"]);
    const shared = {
      lastPosition: input("lastPosition", "int32", ["batch"]),
      totalLength: input("totalLength", "int32", []),
    };
    const symbolic = model.cacheShape("batch", "capacity");
    const layers: KeyValueCache[] = Array.from({ length: numLayers }, (_, layer) => ({
      key: input(`past.${layer}.key`, cacheType, symbolic),
      value: input(`past.${layer}.value`, cacheType, symbolic),
      ...(scales && { scales: { key: scale(`${layer}.key`), value: scale(`${layer}.value`) } }),
      ...shared,
    }));
    const present: { key: Tensor; value: Tensor }[] = [];
    const states: Tensor[] = [];
    const hidden = model.hiddenStates(inputIds, positionIds, {
      cache: {
        layers,
        present,
        states,
        length: input("length", "int64", ["batch"]),
        slots: slots === capacity ? slots : undefined,
      },
    });
    const last = gather(hidden.reshape([-1, hidden.shape[2]!]), lastRows);
    const outputs: Record<string, Tensor> = {};
    present.forEach(({ key, value }, layer) => {
      outputs[`present.${layer}.key`] = key;
      outputs[`present.${layer}.value`] = value;
    });
    const { constants, promptConstants } = weights;
    const cuts = chooseCuts(model, states, parts);
    const making = [
      compileInParts(runtime, { logits: model.logits(last), ...outputs }, cuts, {
        name: "decoder",
        constants,
      }),
    ];
    if (promptConstants)
      making.push(compileInParts(runtime, outputs, cuts, { name: "reader", constants: promptConstants }));
    const [program, reader] = (await allOrNone(making)) as [Program, Program | undefined];
    const caches = new KeyValueBuffers(runtime, numLayers, shape, cacheType);
    return new Decoder(
      program,
      reader,
      weights,
      caches,
      batch,
      capacity,
      slots,
      prefillChunk,
      slidingWindow ?? Infinity,
      vocabSize,
    );
  }

  /** @internal The scales that an int8 cache of what the first row holds would need. */
  scales(): Record<string, Float32Array> {
    const { tokens, start } = this.rows[0]!;
    return this.caches.scales(tokens.length - start);
  }

  /** Tokens that each row has in the cache. */
  get lengths(): readonly number[] {
    return this.rows.map(({ tokens }) => tokens.length);
  }

  /** Forgets all sequences. */
  reset(): void {
    for (const row of this.rows) {
      row.tokens.length = 0;
      row.start = 0;
    }
  }

  /** Forgets what comes after a row's first `length` tokens. */
  truncate(row: number, length: number): void {
    const { tokens } = this.rows[row]!;
    if (!Number.isInteger(length) || length < 0 || length > tokens.length || !this.holds(row, length)) {
      throw new LineageError(
        "argument",
        `row ${row} holds ${tokens.length} tokens and cannot go back to ${length}`,
      );
    }
    tokens.length = length;
  }

  /** Makes row `i` continue what row `rows[i]` held. */
  reorder(rows: readonly number[]): void {
    if (rows.every((row, index) => row === index)) return;
    const used = Math.max(...this.rows.map(({ tokens, start }) => tokens.length - start));
    this.caches.permute(rows, used);
    const before = this.rows.map(({ tokens, start }) => ({ tokens: [...tokens], start }));
    rows.forEach((source, index) => {
      this.become(index, before[source]!, before[source]!.tokens.length);
    });
  }

  /**
   * Logits of the token after each prompt, a `[vocabSize]` array for each row. Afterwards the rows hold the prompts. What
   * a row, or another one, holds of a prompt's beginning is kept and not computed again; `reused` says how much it was.
   */
  async prefill(prompts: readonly (readonly number[])[], options: RunOptions = {}): Promise<Float32Array[]> {
    if (prompts.length !== this.batch)
      throw new LineageError(
        "argument",
        `${prompts.length} prompts were given to a decoder of ${this.batch} rows`,
      );
    for (const prompt of prompts) {
      if (prompt.length === 0) throw new LineageError("argument", "a prompt needs at least one token");
      if (prompt.length > this.capacity) {
        throw new LineageError(
          "length",
          `a prompt of ${prompt.length} tokens does not fit the ${this.capacity} tokens of the context; shorten it`,
        );
      }
      this.checkIds(prompt);
    }
    const logits: Float32Array[] = [];
    for (const [row, prompt] of prompts.entries()) {
      this.reused[row] = this.reuse(row, prompt);
      const rest = prompt.slice(this.reused[row]);
      if (this.reader && rest.length > readerPays)
        await this.read(this.reader, row, rest.splice(0, rest.length - 1), 0, options);
      logits.push((await this.read(this.alone, row, rest, 1, options))[0]!.slice());
    }
    return logits;
  }

  /**
   * Logits after one more token in each row; a row whose token is undefined rests, and its logits mean nothing. The arrays
   * belong to the decoder: the next call overwrites them.
   */
  async step(tokens: readonly (number | undefined)[], options: RunOptions = {}): Promise<Float32Array[]> {
    this.checkIds(tokens.filter((token) => token !== undefined));
    for (const [row, { tokens: held }] of this.rows.entries()) {
      if (tokens[row] === undefined) {
        // The run computes the row all the same, and overwrites what lies in its last place.
        if (held.length - this.rows[row]!.start >= this.slots) held.pop();
        continue;
      }
      if (held.length >= this.capacity)
        throw new LineageError("length", `the context of ${this.capacity} tokens is full`);
      this.makeRoom(row, 1);
    }
    const { feed, binding } = this.together;
    let total = 0;
    for (let row = 0; row < this.batch; row++) {
      const { tokens: held, start } = this.rows[row]!;
      const used = held.length - start;
      feed.inputIds[row] = tokens[row] ?? 0;
      feed.positionIds[row] = BigInt(held.length);
      feed.lastRows[row] = BigInt(row);
      feed.lastPosition[row] = used;
      feed.length[row] = BigInt(held.length + 1);
      total = Math.max(total, used + 1);
    }
    feed.totalLength[0] = total;
    await this.pace.run(binding, options);
    for (const [row, token] of tokens.entries()) if (token !== undefined) this.rows[row]!.tokens.push(token);
    return feed.logits;
  }

  /**
   * Logits after each of several tokens that one row takes at once, for less than as many steps: what a draft is checked
   * with. The arrays belong to the decoder: the next call overwrites them.
   */
  async extend(row: number, tokens: readonly number[], options: RunOptions = {}): Promise<Float32Array[]> {
    this.checkIds(tokens);
    const held = this.rows[row]!.tokens.length;
    if (tokens.length === 0 || tokens.length > this.chunk)
      throw new LineageError(
        "argument",
        `extend takes 1 to ${this.chunk} tokens at once, not ${tokens.length}`,
      );
    if (held + tokens.length > this.capacity)
      throw new LineageError(
        "length",
        `${held} tokens and ${tokens.length} more do not fit the context of ${this.capacity}`,
      );
    return this.read(this.alone, row, tokens, tokens.length, options);
  }

  /** Whether the row still has every key that the token after its first `length` ones looks back on. */
  private holds(row: number, length: number): boolean {
    const { start } = this.rows[row]!;
    return start === 0 || length - start >= this.window - 1;
  }

  /** Makes a row hold as much of a prompt's beginning as any row has, its last token left out; the number of tokens. */
  private reuse(row: number, prompt: readonly number[]): number {
    let [source, most] = [row, 0];
    for (const [index, { tokens }] of this.rows.entries()) {
      const limit = Math.min(tokens.length, prompt.length - 1);
      let common = 0;
      while (common < limit && tokens[common] === prompt[common]) common++;
      if ((common > most || (common === most && index === row)) && this.holds(index, common))
        [source, most] = [index, common];
    }
    const from = this.rows[source]!;
    if (source !== row && most > 0) this.caches.copy(source, row, most - from.start);
    this.become(row, most > 0 ? from : { tokens: [], start: 0 }, most);
    return most;
  }

  private become(row: number, { tokens, start }: Row, length: number): void {
    const target = this.rows[row]!;
    const kept = tokens.slice(0, length);
    target.tokens.length = 0;
    for (const token of kept) target.tokens.push(token);
    target.start = start;
  }

  /** Sees to it that a row has `count` free slots, by moving its window to the front. */
  private makeRoom(row: number, count: number): void {
    const state = this.rows[row]!;
    const used = state.tokens.length - state.start;
    if (used + count <= this.slots) return;
    const kept = Math.min(used, this.window - 1);
    this.caches.shift(row, used - kept, kept);
    state.start = state.tokens.length - kept;
  }

  /** Runs one row over tokens, chunk by chunk; the logits after the last `wanted` ones. */
  private async read(
    runs: RowRuns,
    row: number,
    tokens: readonly number[],
    wanted: number,
    options: RunOptions,
  ): Promise<Float32Array[]> {
    const state = this.rows[row]!;
    const { chunk } = runs;
    const end = BigInt(state.tokens.length + tokens.length);
    let logits: Float32Array[] = [];
    for (let done = 0; done < tokens.length; done += chunk) {
      const part = tokens.slice(done, done + chunk);
      this.makeRoom(row, part.length);
      const { tokens: held, start } = state;
      const used = held.length - start;
      const last = done + part.length === tokens.length;
      const feed = this.feed(part.length, last ? wanted : Math.min(wanted, 1));
      feed.inputIds.set(part);
      for (let i = 0; i < part.length; i++) feed.positionIds[i] = BigInt(held.length + i);
      for (let i = 0; i < feed.rows; i++) feed.lastRows[i] = BigInt(part.length - feed.rows + i);
      feed.lastPosition[0] = used + part.length - 1;
      feed.totalLength[0] = used + part.length;
      feed.length[0] = end;
      await runs.boundTo(row, feed).run(options);
      for (const token of part) held.push(token);
      logits = feed.logits;
    }
    return logits;
  }

  private feed(sequence: number, rows: number): Feed {
    const key = `${sequence},${rows}`;
    let feed = this.feeds.get(key);
    if (feed) this.feeds.delete(key);
    else feed = new Feed(this.weights.runtime, { batch: 1, sequence, rows, vocabSize: this.vocabSize });
    this.feeds.set(key, feed);
    const oldest = this.feeds.entries().next();
    if (this.feeds.size > keptFeeds && !oldest.done) {
      this.feeds.delete(oldest.value[0]);
      oldest.value[1].dispose();
    }
    return feed;
  }

  private checkIds(ids: readonly number[]): void {
    const wrong = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= this.vocabSize);
    if (wrong !== undefined)
      throw new LineageError(
        "argument",
        `there is no token ${wrong}: the model's vocabulary has ${this.vocabSize}`,
      );
  }

  dispose(): void {
    this.together.binding.dispose();
    this.alone.dispose();
    this.reader?.dispose();
    for (const feed of [this.together.feed, ...this.feeds.values()]) feed.dispose();
    this.caches.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Bytes of weights from which on the parts of a model are made faster side by side than the whole. */
const worthParts = 64e6;

/** More parts gain little, and each costs some microseconds of a step. */
const mostParts = 4;

function defaultParts({ runtime, constants }: WeightSet): number {
  if (!constants || constantBytes(constants) < worthParts) return 1;
  return Math.min(runtime.threads, mostParts);
}

/**
 * The states at which a model is cut into parts with about as many weights each.
 * @param states after each layer
 */
function chooseCuts(model: CausalModel, states: readonly Tensor[], parts: number): Tensor[] {
  const sizes = [...namedParameters(model).values()].map(({ size }) => size);
  // The output layer comes after all others; tied or not, it is one of them for the engine.
  const head = model.config.vocabSize * (states[0]!.shape.at(-1) as number);
  const layer = (sizes.reduce((sum, size) => sum + size, 0) - head) / states.length;
  const total = states.length + head / layer;
  const ends = Array.from({ length: parts - 1 }, (_, part) =>
    Math.min(states.length - 1, Math.max(1, Math.round(((part + 1) * total) / parts))),
  );
  return [...new Set(ends)].flatMap((end) => states[end - 1] ?? []);
}

/** Tokens from which on a run of the reader costs less than the step more for the last token. */
const readerPays = 16;

/** Tokens of one run of the reader: what it writes between two products then stays in the processor's caches. */
const readerChunk = 128;

/** A program over single rows of the caches, bound once for each row. */
class RowRuns implements Disposable {
  private readonly rows = new Map<number, { binding: Binding; tensors: Tensors; feed: Feed }>();

  constructor(
    private readonly program: Program,
    private readonly weights: WeightSet,
    private readonly caches: KeyValueBuffers,
    /** Tokens that one run takes at the most. */
    readonly chunk: number,
  ) {}

  /** The program bound to one row and to a feed. */
  boundTo(row: number, feed: Feed): Binding {
    let entry = this.rows.get(row);
    if (!entry) {
      const tensors = this.caches.row(row);
      entry = { binding: bind(this.program, this.weights, tensors, feed), tensors, feed };
      this.rows.set(row, entry);
    } else if (entry.feed !== feed) {
      for (const { name } of this.program.inputs)
        if (feed.inputs[name]) entry.binding.set(name, feed.inputs[name]);
      for (const { name } of this.program.outputs)
        if (feed.outputs[name]) entry.binding.set(name, feed.outputs[name]);
      entry.feed = feed;
    }
    return entry.binding;
  }

  dispose(): void {
    for (const { binding, tensors } of this.rows.values()) {
      binding.dispose();
      for (const tensor of Object.values(tensors)) tensor.dispose();
    }
    this.program.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

function bind(program: Program, weights: WeightSet, caches: Tensors, feed: Feed): Binding {
  const inputs: Record<string, DeviceTensor> = { ...weights.tensors, ...feed.inputs };
  const outputs: Record<string, DeviceTensor> = { ...feed.outputs };
  for (const [name, tensor] of Object.entries(caches)) {
    inputs[`past.${name}`] = tensor;
    outputs[`present.${name}`] = tensor;
  }
  const given = ({ name }: { name: string }, from: Record<string, DeviceTensor>) => [name, from[name]!];
  return program.bind(
    Object.fromEntries(program.inputs.map((spec) => given(spec, inputs))),
    Object.fromEntries(program.outputs.map((spec) => given(spec, outputs))),
  );
}

/** The scales of an int8 cache, from a float32 one that has read some tokens. */
async function measureScales(
  model: CausalModel,
  weights: WeightSet,
  capacity: number,
  calibration: readonly number[] | undefined,
): Promise<Record<string, Float32Array>> {
  const random = new Random(0);
  const tokens =
    calibration?.slice(0, capacity) ??
    Array.from({ length: Math.min(256, capacity) }, () => random.integer(model.config.vocabSize));
  using decoder = await Decoder.create(model, weights, { batch: 1, capacity: tokens.length });
  await decoder.prefill([tokens]);
  return decoder.scales();
}

/** Milliseconds that a step may hold the event loop, and after how many of them in a row the loop gets a turn. */
const [briefStep, turnAfter] = [10, 8];

/**
 * Runs steps on this thread where they are brief, and elsewhere on another: handing one over costs a tenth of a millisecond,
 * and on two cores up to one, while the system moves the threads apart. The event loop gets a turn every few milliseconds either way.
 */
class Pace {
  private last = Infinity;
  private turn = 0;

  async run(binding: Binding, options: RunOptions): Promise<void> {
    let started = performance.now();
    if (binding.synchronous && this.last < briefStep) {
      if (started - this.turn > turnAfter) {
        await new Promise((resolve) => setImmediate(resolve));
        this.turn = started = performance.now();
      }
      options.signal?.throwIfAborted();
      binding.runSync();
    } else {
      await binding.run(options);
      this.turn = performance.now();
    }
    this.last = performance.now() - started;
  }
}

/** Prompts have all kinds of lengths; drafts repeat a few. */
const keptFeeds = 16;

/** What one kind of run takes and gives besides weights and caches: tensors made once, written in place. */
class Feed implements Disposable {
  readonly inputs: Readonly<Record<string, DeviceTensor>>;
  readonly outputs: Readonly<Record<string, DeviceTensor>>;
  readonly inputIds: Int32Array;
  readonly positionIds: BigInt64Array;
  readonly lastRows: BigInt64Array;
  readonly lastPosition: Int32Array;
  readonly totalLength: Int32Array;
  readonly length: BigInt64Array;
  /** Of each row asked for, `[vocabSize]`. */
  readonly logits: Float32Array[];
  readonly rows: number;

  constructor(
    runtime: Runtime,
    {
      batch,
      sequence,
      rows,
      vocabSize,
    }: { batch: number; sequence: number; rows: number; vocabSize: number },
  ) {
    this.rows = rows;
    const inputs = {
      inputIds: runtime.createTensor("int32", [batch, sequence]),
      positionIds: runtime.createTensor("int64", [batch, sequence]),
      lastRows: runtime.createTensor("int64", [rows]),
      lastPosition: runtime.createTensor("int32", [batch]),
      totalLength: runtime.createTensor("int32", []),
      length: runtime.createTensor("int64", [batch]),
    };
    this.inputs = inputs;
    this.inputIds = inputs.inputIds.view();
    this.positionIds = inputs.positionIds.view();
    this.lastRows = inputs.lastRows.view();
    this.lastPosition = inputs.lastPosition.view();
    this.totalLength = inputs.totalLength.view();
    this.length = inputs.length.view();
    const logits = runtime.createTensor("float32", [rows, vocabSize]);
    this.outputs = { logits };
    const all = logits.view();
    this.logits = Array.from({ length: rows }, (_, row) =>
      all.subarray(row * vocabSize, (row + 1) * vocabSize),
    );
  }

  dispose(): void {
    for (const tensor of [...Object.values(this.inputs), ...Object.values(this.outputs)]) tensor.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
