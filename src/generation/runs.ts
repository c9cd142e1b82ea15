import { type AdapterBank, type WeightSet, adapterInput } from "../nn/index.js";
import type { Binding, DeviceTensor, Program, RunOptions, Runtime } from "../runtime/types.js";
import type { CacheGroup } from "./cache.js";
import type { SourceMemory } from "./memory.js";
import { type DecoderPrograms, cellsNames } from "./program.js";
import type { Ranked } from "./slot.js";

/** What the runs of a decoder have in common. */
interface RunsOptions {
  readonly vocabSize: number;
  /** Rows of a slot. */
  readonly beams: number;
  /** How many of the likeliest tokens a run tells. */
  readonly ranked: number;
  /** Tokens of a row at most. */
  readonly capacity: number;
  /** Numbers of the largest bias, of programs that take one. */
  readonly biasSize: number | undefined;
  /** Adapters that rows choose from. */
  readonly bank: AdapterBank | undefined;
}

/** Rows of `beams` beams for each of some slots, `sequence` tokens in each row, and logits of `rows` of these tokens. */
interface FeedSize {
  readonly slots: number;
  readonly beams: number;
  readonly sequence: number;
  readonly rows: number;
}

/** What one kind of run takes and gives besides weights and caches: tensors made once, written in place. */
export class Feed implements Disposable {
  readonly inputs: Readonly<Record<string, DeviceTensor>>;
  readonly outputs: Readonly<Record<string, DeviceTensor>>;
  /** `[batch * sequence]` each. */
  readonly inputIds: Int32Array;
  readonly positionIds: BigInt64Array;
  /** Of each logits wanted, which of the `batch * sequence` states they are computed from. */
  readonly lastRows: BigInt64Array;
  /** `[batch]` each. */
  readonly length: BigInt64Array;
  /** Which adapter each row has, where they choose. */
  private readonly adapters: Float32Array | undefined;
  /** How many cells of each group of caches are in use after the run: of each row less one, `[batch]`, and of the row with most. */
  readonly cells: readonly { readonly lastPosition: Int32Array; readonly totalLength: Int32Array }[];
  /** `[vocabSize]` each. */
  readonly logits: readonly Float32Array[];
  /** `[rows * ranked]` each. */
  private readonly rankedIds: BigInt64Array;
  private readonly rankedScores: Float32Array;

  constructor(
    runtime: Runtime,
    private readonly options: RunsOptions,
    { slots, beams, sequence, rows }: FeedSize,
    /** Whether the rows of a slot are an axis of their own. */
    grouped: boolean,
  ) {
    const { vocabSize, ranked, bank } = options;
    const batch = slots * beams;
    const adapters = bank && runtime.createTensor("float32", [batch, 1, bank.width]);
    this.adapters = adapters?.view();
    const inputs = {
      inputIds: runtime.createTensor("int32", grouped ? [slots, beams, sequence] : [batch, sequence]),
      positionIds: runtime.createTensor("int64", [batch, sequence]),
      lastRows: runtime.createTensor("int64", [rows]),
      length: runtime.createTensor("int64", [batch]),
    };
    const cells = cellsNames.map((names) => ({
      names,
      lastPosition: runtime.createTensor("int32", [batch]),
      totalLength: runtime.createTensor("int32", []),
    }));
    this.inputs = {
      ...inputs,
      ...(adapters && { [adapterInput]: adapters }),
      ...Object.fromEntries(
        cells.flatMap(({ names, lastPosition, totalLength }) => [
          [names.lastPosition, lastPosition],
          [names.totalLength, totalLength],
        ]),
      ),
    };
    this.cells = cells.map(({ lastPosition, totalLength }) => ({
      lastPosition: lastPosition.view(),
      totalLength: totalLength.view(),
    }));
    this.inputIds = inputs.inputIds.view();
    this.positionIds = inputs.positionIds.view();
    this.lastRows = inputs.lastRows.view();
    this.length = inputs.length.view();
    const logits = runtime.createTensor("float32", [rows, vocabSize]);
    const rankedIds = runtime.createTensor("int64", [rows, ranked]);
    const rankedScores = runtime.createTensor("float32", [rows, ranked]);
    this.outputs = { logits, rankedIds, rankedScores };
    this.rankedIds = rankedIds.view();
    this.rankedScores = rankedScores.view();
    const all = logits.view();
    this.logits = Array.from({ length: rows }, (_, row) =>
      all.subarray(row * vocabSize, (row + 1) * vocabSize),
    );
  }

  /** Gives a row an adapter, by its place; undefined for none. */
  adapt(row: number, adapter: number | undefined): void {
    if (this.adapters) this.options.bank!.choose(this.adapters, row, adapter);
  }

  /** A copy of the likeliest tokens of one row of the logits. */
  ranked(row: number): Ranked {
    const count = this.rankedIds.length / this.logits.length;
    return {
      ids: Array.from(this.rankedIds.subarray(row * count, (row + 1) * count), Number),
      scores: this.rankedScores.slice(row * count, (row + 1) * count),
    };
  }

  dispose(): void {
    for (const tensor of [...Object.values(this.inputs), ...Object.values(this.outputs)]) tensor.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Prompts have all kinds of lengths; drafts repeat a few. */
const keptFeeds = 16;

/** A program that runs over the caches. */
export type ProgramName = "step" | "reader" | "prefix";

/** `count` slots from `first` on, of each of which the first `beams` rows run. */
interface Window {
  readonly first: number;
  readonly count: number;
  readonly beams: number;
}

/** The programs of a decoder bound to neighbouring rows of its caches: a binding for each window of rows, made once. */
export class Runs implements Disposable {
  private readonly bindings = new Map<string, { binding: Binding; feed: Feed }>();
  /** Of one token in each row, by the number of slots; and of one row, by tokens and logits, the least recent first. */
  private readonly stepFeeds = new Map<number, Feed>();
  private readonly rowFeeds = new Map<string, Feed>();
  private readonly pace = new Pace();

  /** The positions 0, 1, 2, …, and the first of them. */
  private readonly positions: DeviceTensor<"int64">;
  private readonly firstPositions = new Map<number, DeviceTensor>();
  /** What is added to scores, of which a run takes as much as it needs; zeros outside `branch`. */
  private readonly bias: DeviceTensor<"float32"> | undefined;
  private readonly biases = new Map<string, DeviceTensor>();

  constructor(
    private readonly programs: DecoderPrograms,
    private readonly weights: WeightSet,
    private readonly caches: readonly CacheGroup[],
    private readonly options: RunsOptions,
    private readonly memory: SourceMemory | undefined,
  ) {
    const { capacity } = options;
    this.positions = weights.runtime.createTensor("int64", [capacity]);
    this.positions.write(BigInt64Array.from({ length: capacity }, (_, position) => BigInt(position)));
    const { biasSize } = options;
    this.bias = biasSize === undefined ? undefined : weights.runtime.createTensor("float32", [biasSize]);
  }

  get hasReader(): boolean {
    return this.programs.reader !== undefined;
  }
  /** Whether prompts are read both ways, each whole in one run. */
  get readsBothWays(): boolean {
    return this.programs.prefix !== undefined;
  }

  private feed(size: FeedSize): Feed {
    return new Feed(this.weights.runtime, this.options, size, this.memory !== undefined);
  }

  /** For a run of one token in each row of `slots` slots. */
  stepFeed(slots: number): Feed {
    let feed = this.stepFeeds.get(slots);
    if (!feed) {
      const { beams } = this.options;
      this.stepFeeds.set(slots, (feed = this.feed({ slots, beams, sequence: 1, rows: slots * beams })));
    }
    return feed;
  }

  /** For a run of some tokens of one row, with logits after the last `rows` of them. */
  rowFeed(sequence: number, rows: number): Feed {
    if (sequence === 1 && rows === 1 && this.options.beams === 1) return this.stepFeed(1);
    const key = `${sequence},${rows}`;
    let feed = this.rowFeeds.get(key);
    if (feed) this.rowFeeds.delete(key);
    else feed = this.feed({ slots: 1, beams: 1, sequence, rows });
    this.rowFeeds.set(key, feed);
    const oldest = this.rowFeeds.entries().next();
    if (this.rowFeeds.size > keptFeeds && !oldest.done) {
      this.rowFeeds.delete(oldest.value[0]);
      oldest.value[1].dispose();
    }
    return feed;
  }

  /** Runs one token in each row of `count` slots from `first` on. */
  async step(first: number, count: number, feed: Feed, options: RunOptions): Promise<void> {
    await this.pace.run(this.bound("step", { first, count, beams: this.options.beams }, feed), options);
  }

  /** Runs some tokens of the first row of a slot, by one of the programs; the reader gives no logits. */
  async read(slot: number, feed: Feed, program: ProgramName, options: RunOptions): Promise<void> {
    await this.bound(program, { first: slot, count: 1, beams: 1 }, feed).run(options);
  }

  /**
   * Runs tokens of the first row of a slot of which not every one sees all before it.
   * @param hide writes the bias `[sequence, totalLength]`, which is zeros
   */
  async branch(
    slot: number,
    feed: Feed,
    hide: (bias: Float32Array) => void,
    options: RunOptions,
  ): Promise<void> {
    const bias = this.bias!.view();
    const size = feed.inputIds.length * feed.cells[0]!.totalLength[0]!;
    hide(bias.subarray(0, size));
    try {
      await this.read(slot, feed, "step", options);
    } finally {
      bias.fill(0, 0, size);
    }
  }

  /** Lets go of what is bound to caches that get another size. */
  unbind(): void {
    for (const { binding } of this.bindings.values()) binding.dispose();
    this.bindings.clear();
  }

  private bound(kind: ProgramName, window: Window, feed: Feed): Binding {
    const program = this.programs[kind]!;
    const key = `${kind},${window.first},${window.count},${window.beams}`;
    let entry = this.bindings.get(key);
    if (!entry) {
      entry = { binding: this.bind(program, window, feed), feed };
      this.bindings.set(key, entry);
    } else if (entry.feed !== feed) {
      for (const { name } of program.inputs)
        if (feed.inputs[name]) entry.binding.set(name, feed.inputs[name]);
      for (const { name } of program.outputs)
        if (feed.outputs[name]) entry.binding.set(name, feed.outputs[name]);
      entry.feed = feed;
    }
    if (program.inputs.some(({ name }) => name === "keyPositions"))
      entry.binding.set("keyPositions", this.first(feed.cells[0]!.totalLength[0]!));
    if (this.bias) entry.binding.set("bias", this.biasFor(feed));
    return entry.binding;
  }

  /** As much of the bias as a run takes. */
  private biasFor({ cells, inputs }: Feed): DeviceTensor {
    const shape = [1, 1, inputs["inputIds"]!.shape.at(-1)!, cells[0]!.totalLength[0]!];
    const key = shape.join();
    let bias = this.biases.get(key);
    if (!bias) this.biases.set(key, (bias = this.bias!.slice(0, shape)));
    return bias;
  }

  /** The first `count` positions. */
  private first(count: number): DeviceTensor {
    let first = this.firstPositions.get(count);
    if (!first) this.firstPositions.set(count, (first = this.positions.slice(0, [count])));
    return first;
  }

  private bind(program: Program, { first, count, beams }: Window, feed: Feed): Binding {
    const inputs: Record<string, DeviceTensor> = {
      ...this.weights.tensors,
      ...feed.inputs,
      ...this.memory?.window(first, count),
      ...(this.bias && { bias: this.biasFor(feed) }),
      keyPositions: this.first(feed.cells[0]!.totalLength[0]!),
    };
    const outputs: Record<string, DeviceTensor> = { ...feed.outputs };
    const row = first * this.options.beams;
    for (const { buffers } of this.caches)
      for (const [name, tensor] of Object.entries(buffers.window(row, count * beams))) {
        inputs[`past.${name}`] = tensor;
        outputs[`present.${name}`] = tensor;
      }
    const given = ({ name }: { name: string }, from: Record<string, DeviceTensor>) => [name, from[name]!];
    return program.bind(
      Object.fromEntries(program.inputs.map((spec) => given(spec, inputs))),
      Object.fromEntries(program.outputs.map((spec) => given(spec, outputs))),
    );
  }

  dispose(): void {
    this.unbind();
    for (const feed of [...this.stepFeeds.values(), ...this.rowFeeds.values()]) feed.dispose();
    for (const first of this.firstPositions.values()) first.dispose();
    this.positions.dispose();
    for (const bias of this.biases.values()) bias.dispose();
    this.bias?.dispose();
    this.programs.step.dispose();
    this.programs.reader?.dispose();
    this.programs.prefix?.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
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
