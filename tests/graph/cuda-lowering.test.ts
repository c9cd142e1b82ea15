import { describe, expect, it } from "vitest";
import * as g from "../../src/graph/index.js";
import { createRuntime } from "../../src/runtime/index.js";

const runtime = createRuntime();
const [numHeads, numKeyValueHeads, headSize, capacity] = [4, 2, 16, 12];
const wave = (size: number, phase: number): Float32Array =>
  Float32Array.from({ length: size }, (_, index) => Math.sin(1.3 * index + phase));

/** What a case has besides queries, keys and values. */
interface Case {
  readonly sequence: number;
  /** Keys of each row before this step. */
  readonly past: readonly number[];
  readonly window?: number;
  readonly turned?: boolean;
  readonly biased?: boolean;
  readonly type?: "float32" | "int8";
}

/** One step over a cache, by the operators that the engine has on `device`; the output, and the cache after it. */
async function step(
  { sequence, past, window, turned, biased, type = "float32" }: Case,
  device: "cpu" | "cuda",
): Promise<number[][]> {
  const batch = past.length;
  const total = Math.max(...past) + sequence;
  const cacheShape = [batch, numKeyValueHeads, capacity, headSize];
  const scale = (phase: number): g.Tensor =>
    g.constant(
      "float32",
      [1, numKeyValueHeads, 1, headSize],
      wave(numKeyValueHeads * headSize, phase).map((x) => 0.02 + 0.005 * x),
    );
  const angles = Float32Array.from({ length: (capacity * headSize) / 2 }, (_, index) => 0.1 * index);
  const table = (of: (x: number) => number): g.Tensor =>
    g.constant("float32", [capacity, headSize / 2], angles.map(of));
  const bySlot = { cosine: table(Math.cos), sine: table(Math.sin) };
  const width = (heads: number): number[] => [batch, sequence, heads * headSize];
  const result = g.cachedAttention(
    g.input("query", "float32", width(numHeads)),
    g.input("key", "float32", width(numKeyValueHeads)),
    g.input("value", "float32", width(numKeyValueHeads)),
    {
      key: g.input("pastKey", type, cacheShape),
      value: g.input("pastValue", type, cacheShape),
      lastPosition: g.input("lastPosition", "int32", [batch]),
      totalLength: g.input("totalLength", "int32", []),
      ...(biased && { bias: g.input("bias", "float32", [1, 1, sequence, total]) }),
      ...(type === "int8" && { scales: { key: scale(1), value: scale(2) } }),
    },
    {
      numHeads,
      numKeyValueHeads,
      ...(window !== undefined && { window }),
      ...(turned && { rotary: { ...bySlot, bySlot } }),
    },
  );
  using program = await g.compile(
    runtime,
    { output: result.output, presentKey: result.key, presentValue: result.value },
    { device },
  );
  const old = (phase: number): Float32Array | Int8Array => {
    const values = wave(batch * numKeyValueHeads * capacity * headSize, phase);
    return type === "int8" ? Int8Array.from(values, (x) => 100 * x) : values;
  };
  const [key, value] = [3, 4].map((phase) =>
    runtime.createTensor(type, cacheShape, old(phase) as Float32Array),
  );
  const given = {
    query: runtime.createTensor("float32", width(numHeads), wave(batch * sequence * numHeads * headSize, 0)),
    key: runtime.createTensor("float32", width(2), wave(batch * sequence * 2 * headSize, 5)),
    value: runtime.createTensor("float32", width(2), wave(batch * sequence * 2 * headSize, 6)),
    pastKey: key!,
    pastValue: value!,
    lastPosition: runtime.createTensor(
      "int32",
      [batch],
      Int32Array.from(past, (x) => x + sequence - 1),
    ),
    totalLength: runtime.createTensor("int32", [], Int32Array.of(total)),
    bias: runtime.createTensor("float32", [1, 1, sequence, total], wave(sequence * total, 7)),
  };
  const { output } = await program.run(
    Object.fromEntries(program.inputs.map(({ name }) => [name, given[name as keyof typeof given]])),
    { presentKey: key!, presentValue: value! },
  );
  return [output!, key!, value!].map((tensor) => [...(tensor.view() as Float32Array)]);
}

describe("cached attention where the engine has no operator for it", () => {
  it.each<[string, Case]>([
    ["a prompt", { sequence: 5, past: [0, 0] }],
    ["one token in rows of different lengths", { sequence: 1, past: [3, 7] }],
    ["more tokens after others", { sequence: 3, past: [4] }],
    ["a window", { sequence: 2, past: [6], window: 3 }],
    ["turned queries and keys", { sequence: 2, past: [2], turned: true }],
    ["turned ones in rows of different lengths", { sequence: 1, past: [2, 5, 0], turned: true }],
    ["a bias", { sequence: 3, past: [4], biased: true }],
    ["a cache in whole numbers", { sequence: 2, past: [5], type: "int8" }],
  ])("gives for %s what the engine's own gives", async (_, options) => {
    const [found, wanted] = [await step(options, "cuda"), await step(options, "cpu")];
    for (const [part, numbers] of wanted.entries())
      for (const [index, number] of numbers.entries()) expect(found[part]![index]).toBeCloseTo(number, 4);
  });
});

describe("random numbers where the engine has no operators on bits", () => {
  it("are the same numbers", async () => {
    const draw = async (device: "cpu" | "cuda"): Promise<Float32Array> => {
      const stream = new g.RandomStream(g.input("seed", "uint32", []));
      const numbers = g.add(stream.uniform([70_000]), stream.normal([70_000]));
      using program = await g.compile(runtime, { numbers }, { device });
      using seed = runtime.createTensor("uint32", [], Uint32Array.of(0xdeadbeef));
      const { numbers: drawn } = await program.run({ seed });
      return (await drawn!.read()) as Float32Array;
    };
    const [found, wanted] = [await draw("cuda"), await draw("cpu")];
    expect(found).toEqual(wanted);
    expect(new Set(wanted).size).toBeGreaterThan(60_000);
  });
});

describe("products with weights in whole numbers where the engine multiplies floats alone", () => {
  it.each(["int8", "uint8"] as const)("give for %s what the weights stand for", async (dtype) => {
    const [count, columns, rows] = [3, 8, 5];
    const numbers = Int8Array.from({ length: columns * rows }, (_, index) => ((index * 37) % 255) - 127);
    const scales = Float32Array.from({ length: rows }, (_, row) => 0.01 * (row + 1));
    const x = wave(count * columns, 0);
    using values =
      dtype === "int8"
        ? runtime.createTensor("int8", [columns, rows], numbers)
        : runtime.createTensor(
            "uint8",
            [columns, rows],
            Uint8Array.from(numbers, (value) => value + 128),
          );
    using scaleTensor = runtime.createTensor("float32", [rows], scales);
    const product = g.matmul(
      g.input("x", "float32", [count, columns]),
      g.input("weight", "float32", [rows, columns]),
      { transposeB: true },
    );
    const weight = { kind: "rows", rows, columns, transposed: false, values, scales: scaleTensor } as const;
    using program = await g.compile(
      runtime,
      { product },
      { constants: { tensors: {}, packed: { weight } }, device: "cuda" },
    );
    using given = runtime.createTensor("float32", [count, columns], x);
    const found = await (await program.run({ x: given })).product!.read();
    for (let row = 0; row < count; row++)
      for (let output = 0; output < rows; output++) {
        let sum = 0;
        for (let column = 0; column < columns; column++)
          sum += x[row * columns + column]! * numbers[column * rows + output]! * scales[output]!;
        expect(Number(found[row * rows + output])).toBeCloseTo(sum, 5);
      }
  });
});
