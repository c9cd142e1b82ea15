import { fromBinary } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import * as g from "../../src/graph/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { ModelProtoSchema } from "../../src/onnx/index.js";

const runtime = createRuntime();
const [numHeads, numKeyValueHeads, headSize, sequence, capacity] = [4, 2, 8, 5, 8];
const wave = (size: number, phase: number, height = 1) =>
  Float32Array.from({ length: size }, (_, i) => height * Math.sin(i * 1.7 + phase));

/** Softmax attention over all earlier positions, from its definition. */
function expected(query: Float32Array, key: Float32Array, value: Float32Array): Float32Array {
  const output = new Float32Array(query.length);
  const channel = (x: Float32Array, heads: number, token: number, head: number, i: number) =>
    x[(token * heads + head) * headSize + i]!;
  for (let token = 0; token < sequence; token++) {
    for (let head = 0; head < numHeads; head++) {
      const shared = Math.floor((head * numKeyValueHeads) / numHeads);
      const weights = Array.from({ length: token + 1 }, (_, other) => {
        let score = 0;
        for (let i = 0; i < headSize; i++)
          score +=
            channel(query, numHeads, token, head, i) * channel(key, numKeyValueHeads, other, shared, i);
        return Math.exp(score / Math.sqrt(headSize));
      });
      const total = weights.reduce((sum, weight) => sum + weight, 0);
      for (let i = 0; i < headSize; i++) {
        output[(token * numHeads + head) * headSize + i] = weights.reduce(
          (sum, weight, other) => sum + (weight / total) * channel(value, numKeyValueHeads, other, shared, i),
          0,
        );
      }
    }
  }
  return output;
}

describe("attention over an int8 cache", () => {
  const shape = [1, numKeyValueHeads, capacity, headSize];
  const scaleShape = [1, numKeyValueHeads, 1, headSize];
  const scales = (phase: number) => wave(numKeyValueHeads * headSize, phase, 0.005).map((x) => 0.015 + x);
  const given = {
    query: wave(sequence * numHeads * headSize, 0),
    key: wave(sequence * numKeyValueHeads * headSize, 1, 2),
    value: wave(sequence * numKeyValueHeads * headSize, 2, 2),
    keyScale: scales(3),
    valueScale: scales(4),
  };
  const build = (withScales: boolean) => {
    const cache = {
      key: g.input("pastKey", "int8", shape),
      value: g.input("pastValue", "int8", shape),
      lastPosition: g.input("lastPosition", "int32", [1]),
      totalLength: g.input("totalLength", "int32", []),
      ...(withScales && {
        scales: {
          key: g.input("keyScale", "float32", scaleShape),
          value: g.input("valueScale", "float32", scaleShape),
        },
      }),
    };
    const width = (heads: number) => [1, sequence, heads * headSize];
    return g.cachedAttention(
      g.input("query", "float32", width(numHeads)),
      g.input("key", "float32", width(numKeyValueHeads)),
      g.input("value", "float32", width(numKeyValueHeads)),
      cache,
      { numHeads, numKeyValueHeads },
    );
  };

  it("holds the nearest multiples of each channel's scale, and attends to those", async () => {
    const step = build(true);
    using program = await g.compile(runtime, {
      output: step.output,
      presentKey: step.key,
      presentValue: step.value,
    });
    const [key, value] = [runtime.createTensor("int8", shape), runtime.createTensor("int8", shape)];
    const { output } = await program.run(
      {
        query: runtime.createTensor("float32", [1, sequence, numHeads * headSize], given.query),
        key: runtime.createTensor("float32", [1, sequence, numKeyValueHeads * headSize], given.key),
        value: runtime.createTensor("float32", [1, sequence, numKeyValueHeads * headSize], given.value),
        keyScale: runtime.createTensor("float32", scaleShape, given.keyScale),
        valueScale: runtime.createTensor("float32", scaleShape, given.valueScale),
        lastPosition: runtime.createTensor("int32", [1], Int32Array.of(sequence - 1)),
        totalLength: runtime.createTensor("int32", [], Int32Array.of(sequence)),
        pastKey: key,
        pastValue: value,
      },
      { presentKey: key, presentValue: value },
    );
    const rounded = (x: Float32Array, scale: Float32Array) =>
      x.map((number, index) => {
        const step = scale[index % scale.length]!;
        return Math.min(127, Math.max(-128, Math.round(number / step))) * step;
      });
    const [keys, values] = [rounded(given.key, given.keyScale), rounded(given.value, given.valueScale)];
    for (const [cache, numbers, scale] of [
      [key, keys, given.keyScale],
      [value, values, given.valueScale],
    ] as const) {
      const stored = cache.view();
      numbers.forEach((number, index) => {
        const [token, place] = [Math.floor(index / scale.length), index % scale.length];
        const [head, channel] = [Math.floor(place / headSize), place % headSize];
        const found = stored[(head * capacity + token) * headSize + channel]! * scale[place]!;
        expect(found).toBeCloseTo(number, 5);
      });
    }
    const found = (await output!.read()) as Float32Array;
    for (const [index, number] of expected(given.query, keys, values).entries())
      expect(found[index]).toBeCloseTo(number, 2);
  });

  it("asks for scales", () => {
    expect(() => build(false)).toThrow(
      "an int8 cache needs a scale for each channel of keys and of values, float32 [1, 2, 1, 8]",
    );
  });
});

describe("attention that turns queries and keys itself", () => {
  const [channels, past, places] = [16, 3, 8];
  const sizes = [numHeads, numKeyValueHeads, numKeyValueHeads].map((heads) => heads * channels);
  const width = sizes.reduce((sum, size) => sum + size, 0);
  const shape = [1, numKeyValueHeads, places, channels];
  const angles = (positions: readonly number[]) =>
    positions.flatMap((position) =>
      Array.from({ length: channels / 2 }, (_, pair) => position * 10 ** (-pair / 4)),
    );
  const table = (positions: readonly number[], lead: readonly number[], of: (x: number) => number) =>
    g.constant("float32", [...lead, positions.length, channels / 2], angles(positions).map(of));
  const sequencePlaces = Array.from({ length: sequence }, (_, index) => past + index);
  const slots = Array.from({ length: places }, (_, index) => index);
  const bySlot = { cosine: table(slots, [], Math.cos), sine: table(slots, [], Math.sin) };
  const byPosition = {
    cosine: table(sequencePlaces, [1], Math.cos),
    sine: table(sequencePlaces, [1], Math.sin),
  };
  const all = g.input("all", "float32", [1, sequence, width]);
  const parts = g.split(g.neg(all), sizes) as [g.Tensor, g.Tensor, g.Tensor];
  const build = (fused: boolean) => {
    const { output, key, value } = g.cachedAttention(
      ...parts,
      {
        key: g.input("pastKey", "float32", shape),
        value: g.input("pastValue", "float32", shape),
        lastPosition: g.input("lastPosition", "int32", [1]),
        totalLength: g.input("totalLength", "int32", []),
      },
      { numHeads, numKeyValueHeads, rotary: fused ? { ...byPosition, bySlot } : byPosition },
    );
    return { output, presentKey: key, presentValue: value };
  };
  const operators = (outputs: Record<string, g.Tensor>) =>
    fromBinary(ModelProtoSchema, g.toOnnx(outputs)).graph!.node.map(({ opType }) => opType);

  it("gives what it gives when they are turned before", async () => {
    const run = async (fused: boolean) => {
      using program = await g.compile(runtime, build(fused));
      const [key, value] = [1, 2].map((phase) =>
        runtime.createTensor("float32", shape, wave(numKeyValueHeads * places * channels, phase)),
      ) as [ReturnType<typeof runtime.createTensor>, ReturnType<typeof runtime.createTensor>];
      const { output } = await program.run(
        {
          all: runtime.createTensor("float32", [1, sequence, width], wave(sequence * width, 0)),
          lastPosition: runtime.createTensor("int32", [1], Int32Array.of(past + sequence - 1)),
          totalLength: runtime.createTensor("int32", [], Int32Array.of(past + sequence)),
          pastKey: key,
          pastValue: value,
        },
        { presentKey: key, presentValue: value },
      );
      return [output!, key, value].flatMap((tensor) => [...(tensor.view() as Float32Array)]);
    };
    const [found, wanted] = [await run(true), await run(false)];
    for (const [index, number] of wanted.entries()) expect(found[index]).toBeCloseTo(number, 5);
  });

  it("takes them and the values in one piece where they come so, unless something else reads a part", () => {
    expect(operators(build(true))).toEqual(["Neg", "GroupQueryAttention"]);
    expect(operators({ ...build(true), other: g.exp(parts[2]) })).toEqual([
      "Neg",
      "Split",
      "GroupQueryAttention",
      "Exp",
    ]);
  });
});
