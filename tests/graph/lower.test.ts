import { fromBinary } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { add, compile, gather, input, matmul, toOnnx } from "../../src/graph/index.js";
import { multiplyDims } from "../../src/graph/dims.js";
import { createRuntime } from "../../src/runtime/index.js";
import { ModelProtoSchema, type ValueInfoProto } from "../../src/onnx/index.js";

describe("a written program", () => {
  const x = input("x", "float32", ["batch", "sequence", 8]);
  const weight = input("weight", "float32", [8, 4]);
  const product = matmul(x, weight);
  const flat = product.reshape([-1, 4]);
  const outputs = { flat, sum: add(flat, flat), again: flat };

  test("tells the shapes of all values between, by the names that they end up with", () => {
    const graph = fromBinary(ModelProtoSchema, toOnnx(outputs)).graph!;
    const made = new Set(graph.node.flatMap((node) => node.output));
    const dimsOf = ({ type }: ValueInfoProto) =>
      type?.value.case === "tensorType"
        ? type.value.value.shape!.dim.map(({ value: dim }) =>
            dim.case === "dimParam" ? dim.value : Number(dim.value),
          )
        : [];
    const described = new Map(graph.valueInfo.map((info) => [info.name, dimsOf(info)]));
    expect([...described.keys()].filter((name) => !made.has(name))).toEqual([]);
    expect([...described.keys()].filter((name) => name in outputs)).toEqual([]);
    expect([...described.values()]).toContainEqual(["batch", "sequence", 4]);
    expect(dimsOf(graph.output[0]!)[0]).toBe(multiplyDims("batch", "sequence"));
  });

  test("runs at any size of its named dimensions, one after the other", async () => {
    const runtime = createRuntime();
    using program = await compile(runtime, outputs);
    using ones = runtime.createTensor("float32", [8, 4], new Float32Array(32).fill(1));
    for (const [batch, sequence] of [
      [1, 3],
      [2, 5],
      [1, 1],
    ] as const) {
      using values = runtime.createTensor(
        "float32",
        [batch, sequence, 8],
        new Float32Array(batch * sequence * 8).fill(0.5),
      );
      const results = await program.run({ x: values, weight: ones });
      for (const [name, value] of Object.entries({ flat: 4, sum: 8, again: 4 })) {
        using result = results[name]!;
        expect(result.shape).toEqual([batch * sequence, 4]);
        expect(new Set(result.view() as Float32Array)).toEqual(new Set([value]));
      }
    }
  });
});

describe("large constants of a program", () => {
  const runtime = createRuntime();
  const [rows, columns] = [512, 64];
  const numbers = Float32Array.from({ length: rows * columns }, (_, index) => index % 7);

  test("stay where they lie, and are there as long as the program is", async () => {
    const before = runtime.allocatedBytes;
    const table = runtime.createTensor("float32", [rows, columns], numbers);
    const program = await compile(
      runtime,
      { picked: gather(input("table", "float32", [rows, columns]), input("index", "int64", [1])) },
      { constants: { tensors: { table }, packed: {} } },
    );
    table.view()[3 * columns] = 1234;
    table.dispose();
    using index = runtime.createTensor("int64", [1], BigInt64Array.of(3n));
    using picked = (await program.run({ index }))["picked"]!;
    expect((picked.view() as Float32Array)[0]).toBe(1234);
    program.dispose();
    expect(runtime.allocatedBytes).toBe(before + index.byteLength + picked.byteLength);
  });

  test("are copied where a node makes another constant of them", async () => {
    using table = runtime.createTensor("float32", [rows, columns], numbers);
    const doubled = input("table", "float32", [rows, columns]).mul(2);
    using program = await compile(
      runtime,
      { y: matmul(input("x", "float32", ["count", rows]), doubled) },
      { constants: { tensors: { table }, packed: {} } },
    );
    const first = new Float32Array(rows);
    first[1] = 1;
    using x = runtime.createTensor("float32", [1, rows], first);
    using y = (await program.run({ x }))["y"]!;
    expect([...(y.view() as Float32Array)]).toEqual(
      [...numbers.subarray(columns, 2 * columns)].map((value) => 2 * value),
    );
  });
});
