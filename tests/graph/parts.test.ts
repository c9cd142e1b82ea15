import { afterAll, describe, expect, it } from "vitest";
import { type Tensor, compileInParts, input, matmul } from "../../src/graph/index.js";
import { createRuntime } from "../../src/runtime/index.js";

const runtime = createRuntime();
afterAll(() => {
  runtime.dispose();
});

const width = 4;
const x = input("x", "float32", ["count", width]);
const scale = input("scale", "float32", []);
const first = x.mul(scale);
const early = first.add(1);
const second = first.square().add(scale);
const middle = second.mul(3);
const outputs: Record<string, Tensor> = {
  late: matmul(second, input("w", "float32", [width, 2])),
  early,
  middle,
};
const cuts = [first, second];
const weight = new Float32Array(width * 2).fill(0.5);

/** What the outputs are for rows of ones. */
const expected = (scaled: number): Record<string, number> => ({
  early: scaled + 1,
  middle: 3 * (scaled ** 2 + scaled),
  late: 0.5 * width * (scaled ** 2 + scaled),
});

const ones = (count: number) =>
  runtime.createTensor("float32", [count, width], new Float32Array(count * width).fill(1));

describe("a program in parts", () => {
  it("has the inputs and outputs of the whole", async () => {
    using program = await compileInParts(runtime, outputs, cuts);
    expect(program.inputs.map(({ name }) => name).sort()).toEqual(["scale", "w", "x"]);
    expect(program.outputs.map(({ name }) => name).sort()).toEqual(["early", "late", "middle"]);
  });

  it("runs once at any size, and leaves nothing behind", async () => {
    using program = await compileInParts(runtime, outputs, cuts);
    using w = runtime.createTensor("float32", [width, 2], weight);
    using two = runtime.createTensor("float32", [], Float32Array.of(2));
    const before = runtime.allocatedBytes;
    for (const count of [1, 5]) {
      using rows = ones(count);
      using middleResult = runtime.createTensor("float32", [count, width]);
      const results = await program.run({ x: rows, w, scale: two }, { middle: middleResult });
      expect(results["middle"]).toBe(middleResult);
      for (const [name, value] of Object.entries(expected(2))) {
        expect(results[name]!.shape[0]).toBe(count);
        expect(new Set(results[name]!.view() as Float32Array)).toEqual(new Set([value]));
        if (name !== "middle") results[name]!.dispose();
      }
    }
    expect(runtime.allocatedBytes).toBe(before);
  });

  it("runs bound, also with rows of another number", async () => {
    using program = await compileInParts(runtime, outputs, cuts);
    using w = runtime.createTensor("float32", [width, 2], weight);
    using scaled = runtime.createTensor("float32", [], Float32Array.of(2));
    const before = runtime.allocatedBytes;
    const given = (count: number) => ({
      x: ones(count),
      early: runtime.createTensor("float32", [count, width]),
      middle: runtime.createTensor("float32", [count, width]),
      late: runtime.createTensor("float32", [count, 2]),
    });
    const one = given(1);
    const { x: rows, ...results } = one;
    const binding = program.bind({ x: rows, w, scale: scaled }, results);
    expect(binding.synchronous).toBe(true);
    const three = given(3);
    for (const [turn, tensors] of [one, one, three, three, one].entries()) {
      for (const [name, tensor] of Object.entries(tensors)) binding.set(name, tensor);
      scaled.write(Float32Array.of(turn + 1));
      if (turn % 2 === 0) await binding.run();
      else binding.runSync();
      for (const [name, value] of Object.entries(expected(turn + 1)))
        expect(new Set((tensors as Record<string, typeof rows>)[name]!.view())).toEqual(new Set([value]));
    }
    expect(() => {
      binding.set("unknown", rows);
    }).toThrow("the program has no input or output named unknown");
    binding.dispose();
    for (const tensor of [...Object.values(one), ...Object.values(three)]) tensor.dispose();
    expect(runtime.allocatedBytes).toBe(before);
  });

  it("is the program itself without cuts", async () => {
    using program = await compileInParts(runtime, { early }, []);
    using rows = ones(2);
    using three = runtime.createTensor("float32", [], Float32Array.of(3));
    using result = (await program.run({ x: rows, scale: three }))["early"]!;
    expect(new Set(result.view() as Float32Array)).toEqual(new Set([4]));
  });

  it("says what is missing, and stops between parts where it is told to", async () => {
    using program = await compileInParts(runtime, outputs, cuts);
    using rows = ones(1);
    using one = runtime.createTensor("float32", [], Float32Array.of(1));
    await expect(program.run({ x: rows, scale: one })).rejects.toThrow("the input w is missing");
    expect(() => program.bind({ x: rows }, {})).toThrow(/scale is missing/);
    await expect(program.run({ x: rows, scale: one, w: one }, { lat: one })).rejects.toThrow(
      "the program has no output named lat",
    );
    using w = runtime.createTensor("float32", [width, 2], weight);
    await expect(
      program.run({ x: rows, scale: one, w }, {}, { signal: AbortSignal.abort(new Error("enough")) }),
    ).rejects.toThrow("enough");
  });
});
