import { LineageError } from "../base/errors.js";
import { type Dim, type KeyValueCache, type Tensor, compile, gather, input } from "../graph/index.js";
import { type ForwardContext, type Module, type Weights, namedParameters } from "../nn/index.js";
import type { DeviceTensor, Program, RunOptions, Tensors } from "../runtime/types.js";

/** A model that continues sequences with the help of a cache. */
export interface CausalModel extends Module {
  readonly config: { readonly vocabSize: number; readonly contextLength: number; readonly numLayers: number };
  hiddenStates(inputIds: Tensor, positionIds: Tensor, context: ForwardContext): Tensor;
  logits(hiddenStates: Tensor): Tensor;
  cacheShape(batch: Dim, capacity: Dim): Dim[];
}

/**
 * Runs a model over several sequences side by side, keeping keys and values in buffers that every run updates in place.
 * Rows of different lengths are padded at the end, where no row looks, so that each gives what it gives alone.
 */
export class Decoder implements Disposable {
  /** Tokens that each row has in the cache. */
  readonly lengths: number[];

  private constructor(
    private readonly program: Program,
    private readonly weights: Weights,
    private readonly caches: Readonly<Record<string, DeviceTensor<"float32">>>,
    readonly batch: number,
    readonly capacity: number,
    private readonly vocabSize: number,
  ) {
    this.lengths = Array.from({ length: batch }, () => 0);
  }

  /** @param capacity tokens that a row can hold, prompt and continuation; at most the model's context */
  static async create(
    model: CausalModel,
    weights: Weights,
    { batch, capacity }: { batch: number; capacity: number },
  ): Promise<Decoder> {
    const { contextLength, numLayers, vocabSize } = model.config;
    if (capacity > contextLength) {
      throw new LineageError(
        "length",
        `${capacity} tokens do not fit the model's context of ${contextLength}`,
      );
    }
    namedParameters(model);
    const inputIds = input("inputIds", "int32", ["batch", "sequence"]);
    const positionIds = input("positionIds", "int64", ["batch", "sequence"]);
    const lastRows = input("lastRows", "int64", ["batch"]);
    const shared = {
      lastPosition: input("lastPosition", "int32", ["batch"]),
      totalLength: input("totalLength", "int32", []),
    };
    const shape = model.cacheShape("batch", "capacity");
    const layers: KeyValueCache[] = Array.from({ length: numLayers }, (_, layer) => ({
      key: input(`past.${layer}.key`, "float32", shape),
      value: input(`past.${layer}.value`, "float32", shape),
      ...shared,
    }));
    const present: { key: Tensor; value: Tensor }[] = [];
    const hidden = model.hiddenStates(inputIds, positionIds, { cache: { layers, present } });
    const last = gather(hidden.reshape([-1, hidden.shape[2]!]), lastRows);
    const outputs: Record<string, Tensor> = { logits: model.logits(last) };
    present.forEach(({ key, value }, layer) => {
      outputs[`present.${layer}.key`] = key;
      outputs[`present.${layer}.value`] = value;
    });
    const { runtime } = weights;
    const program = await compile(runtime, outputs, { name: "decoder" });
    const size = model.cacheShape(batch, capacity) as number[];
    const caches = Object.fromEntries(
      layers.flatMap((_, layer) =>
        ["key", "value"].map((part) => [`${layer}.${part}`, runtime.createTensor("float32", size)]),
      ),
    );
    return new Decoder(program, weights, caches, batch, capacity, vocabSize);
  }

  /** Forgets all sequences. */
  reset(): void {
    this.lengths.fill(0);
  }

  /** Makes row `i` continue what row `rows[i]` held. */
  reorder(rows: readonly number[]): void {
    if (rows.every((row, index) => row === index)) return;
    for (const tensor of Object.values(this.caches)) {
      const view = tensor.view();
      const size = view.length / this.batch;
      const before = view.slice();
      rows.forEach((row, index) => {
        if (row !== index) view.set(before.subarray(row * size, (row + 1) * size), index * size);
      });
    }
    const lengths = [...this.lengths];
    rows.forEach((row, index) => (this.lengths[index] = lengths[row]!));
  }

  /** Logits of the token after each prompt, a `[vocabSize]` array for each row. The cache must be empty. */
  async prefill(prompts: readonly (readonly number[])[], options: RunOptions = {}): Promise<Float32Array[]> {
    if (this.lengths.some((length) => length > 0))
      throw new LineageError("argument", "prefill needs an empty cache; call reset first");
    for (const prompt of prompts) {
      if (prompt.length === 0) throw new LineageError("argument", "a prompt needs at least one token");
      if (prompt.length > this.capacity) {
        throw new LineageError(
          "length",
          `a prompt of ${prompt.length} tokens does not fit the ${this.capacity} tokens of the context; shorten it`,
        );
      }
    }
    return this.run(prompts, options);
  }

  /** Logits after one more token in each row. */
  async step(tokens: readonly number[], options: RunOptions = {}): Promise<Float32Array[]> {
    if (this.lengths.some((length) => length >= this.capacity)) {
      throw new LineageError("length", `the context of ${this.capacity} tokens is full`);
    }
    return this.run(
      tokens.map((token) => [token]),
      options,
    );
  }

  private async run(rows: readonly (readonly number[])[], options: RunOptions): Promise<Float32Array[]> {
    const { batch, lengths } = this;
    const { runtime } = this.weights;
    const sequence = Math.max(...rows.map((row) => row.length));
    const inputIds = new Int32Array(batch * sequence);
    const positionIds = new BigInt64Array(batch * sequence);
    rows.forEach((row, index) => {
      inputIds.set(row, index * sequence);
      for (let i = 0; i < row.length; i++) positionIds[index * sequence + i] = BigInt(lengths[index]! + i);
    });
    const ends = rows.map((row, index) => lengths[index]! + row.length);
    const given: Record<string, DeviceTensor> = {
      inputIds: runtime.createTensor("int32", [batch, sequence], inputIds),
      positionIds: runtime.createTensor("int64", [batch, sequence], positionIds),
      lastRows: runtime.createTensor(
        "int64",
        [batch],
        BigInt64Array.from(rows, (row, index) => BigInt(index * sequence + row.length - 1)),
      ),
      lastPosition: runtime.createTensor(
        "int32",
        [batch],
        Int32Array.from(ends, (end) => end - 1),
      ),
      totalLength: runtime.createTensor("int32", [], Int32Array.of(Math.max(...ends))),
    };
    const logits = runtime.createTensor("float32", [batch, this.vocabSize]);
    const named = (prefix: string): Tensors =>
      Object.fromEntries(Object.entries(this.caches).map(([name, tensor]) => [`${prefix}.${name}`, tensor]));
    try {
      await this.program.run(
        { ...this.weights.tensors, ...given, ...named("past") },
        { logits, ...named("present") },
        options,
      );
      ends.forEach((end, index) => (lengths[index] = end));
      const all = await logits.read();
      return rows.map((_, index) => all.subarray(index * this.vocabSize, (index + 1) * this.vocabSize));
    } finally {
      for (const tensor of [...Object.values(given), logits]) tensor.dispose();
    }
  }

  dispose(): void {
    for (const tensor of Object.values(this.caches)) tensor.dispose();
    this.program.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
