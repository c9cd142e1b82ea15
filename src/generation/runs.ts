import type { WeightSet } from "../nn/index.js";
import type { Binding, DeviceTensor, Program, RunOptions, Runtime } from "../runtime/types.js";
import type { KeyValueBuffers } from "./cache.js";
import type { DecoderPrograms } from "./program.js";

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
  readonly lastPosition: Int32Array;
  readonly length: BigInt64Array;
  readonly totalLength: Int32Array;
  /** `[vocabSize]` each. */
  readonly logits: readonly Float32Array[];

  constructor(
    runtime: Runtime,
    vocabSize: number,
    { batch, sequence, rows }: { readonly batch: number; readonly sequence: number; readonly rows: number },
  ) {
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

/** Prompts have all kinds of lengths; drafts repeat a few. */
const keptFeeds = 16;

/** The programs of a decoder bound to neighbouring rows of its caches: a binding for each window of rows, made once. */
export class Runs implements Disposable {
  private readonly bindings = new Map<string, { binding: Binding; feed: Feed }>();
  /** Of one token in each row, by the number of rows; and of one row, by tokens and logits, the least recent first. */
  private readonly stepFeeds = new Map<number, Feed>();
  private readonly rowFeeds = new Map<string, Feed>();
  private readonly pace = new Pace();

  constructor(
    private readonly programs: DecoderPrograms,
    private readonly weights: WeightSet,
    private readonly caches: KeyValueBuffers,
    private readonly vocabSize: number,
  ) {}

  get hasReader(): boolean {
    return this.programs.reader !== undefined;
  }

  /** For a run of one token in each of `count` rows. */
  stepFeed(count: number): Feed {
    let feed = this.stepFeeds.get(count);
    if (!feed) {
      feed = new Feed(this.weights.runtime, this.vocabSize, { batch: count, sequence: 1, rows: count });
      this.stepFeeds.set(count, feed);
    }
    return feed;
  }

  /** For a run of some tokens of one row, with logits after the last `rows` of them. */
  rowFeed(sequence: number, rows: number): Feed {
    if (sequence === 1 && rows === 1) return this.stepFeed(1);
    const key = `${sequence},${rows}`;
    let feed = this.rowFeeds.get(key);
    if (feed) this.rowFeeds.delete(key);
    else feed = new Feed(this.weights.runtime, this.vocabSize, { batch: 1, sequence, rows });
    this.rowFeeds.set(key, feed);
    const oldest = this.rowFeeds.entries().next();
    if (this.rowFeeds.size > keptFeeds && !oldest.done) {
      this.rowFeeds.delete(oldest.value[0]);
      oldest.value[1].dispose();
    }
    return feed;
  }

  /** Runs one token in each of `count` rows from `first` on. */
  async step(first: number, count: number, feed: Feed, options: RunOptions): Promise<void> {
    await this.pace.run(this.bound("step", first, count, feed), options);
  }

  /** Runs some tokens of one row; with `reader`, by the program that reads prompts, which gives no logits. */
  async read(row: number, feed: Feed, reader: boolean, options: RunOptions): Promise<void> {
    await this.bound(reader ? "reader" : "step", row, 1, feed).run(options);
  }

  private bound(kind: "step" | "reader", first: number, count: number, feed: Feed): Binding {
    const program = this.programs[kind]!;
    const key = `${kind},${first},${count}`;
    let entry = this.bindings.get(key);
    if (!entry) {
      entry = { binding: this.bind(program, first, count, feed), feed };
      this.bindings.set(key, entry);
    } else if (entry.feed !== feed) {
      for (const { name } of program.inputs)
        if (feed.inputs[name]) entry.binding.set(name, feed.inputs[name]);
      for (const { name } of program.outputs)
        if (feed.outputs[name]) entry.binding.set(name, feed.outputs[name]);
      entry.feed = feed;
    }
    return entry.binding;
  }

  private bind(program: Program, first: number, count: number, feed: Feed): Binding {
    const inputs: Record<string, DeviceTensor> = { ...this.weights.tensors, ...feed.inputs };
    const outputs: Record<string, DeviceTensor> = { ...feed.outputs };
    for (const [name, tensor] of Object.entries(this.caches.window(first, count))) {
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
    for (const { binding } of this.bindings.values()) binding.dispose();
    for (const feed of [...this.stepFeeds.values(), ...this.rowFeeds.values()]) feed.dispose();
    this.programs.step.dispose();
    this.programs.reader?.dispose();
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
