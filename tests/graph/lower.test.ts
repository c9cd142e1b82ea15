import proto from "onnx-proto";
import { describe, expect, test } from "vitest";
import { add, compile, input, matmul, toOnnx } from "../../src/graph/index.js";
import { multiplyDims } from "../../src/graph/dims.js";
import { createRuntime } from "../../src/runtime/index.js";

const { onnx } = proto;

describe("a written program", () => {
  const x = input("x", "float32", ["batch", "sequence", 8]);
  const weight = input("weight", "float32", [8, 4]);
  const product = matmul(x, weight);
  const flat = product.reshape([-1, 4]);
  const outputs = { flat, sum: add(flat, flat), again: flat };

  test("tells the shapes of all values between, by the names that they end up with", () => {
    const graph = onnx.ModelProto.decode(toOnnx(outputs)).graph!;
    const made = new Set(graph.node!.flatMap((node) => node.output!));
    const described = new Map(
      graph.valueInfo!.map(({ name, type }) => [
        name!,
        type!.tensorType!.shape!.dim!.map(({ dimParam, dimValue }) => dimParam || Number(dimValue)),
      ]),
    );
    expect([...described.keys()].filter((name) => !made.has(name))).toEqual([]);
    expect([...described.keys()].filter((name) => name in outputs)).toEqual([]);
    expect([...described.values()]).toContainEqual(["batch", "sequence", 4]);
    expect(graph.output![0]!.type!.tensorType!.shape!.dim![0]!.dimParam).toBe(
      multiplyDims("batch", "sequence"),
    );
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
