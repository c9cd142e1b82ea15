import { mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { create, fromBinary } from "@bufbuild/protobuf";
import * as ort from "onnxruntime-node";
import { describe, expect, it } from "vitest";
import {
  ModelProtoSchema,
  OnnxBuilder,
  StringStringEntryProtoSchema,
  TensorProto_DataLocation as DataLocation,
  encodeModel,
} from "../../src/onnx/index.js";

/** `y = x w + 1`, `[n, 3]` and `[3, 2]`. */
function builder(): OnnxBuilder {
  const graph = new OnnxBuilder("test");
  graph.input("x", "float32", ["n", 3]);
  graph.weight("w", "float32", [3, 2], Float32Array.of(1, 2, 3, 4, 5, 6));
  const product = graph.node("MatMul", ["x", "w"], {}, { name: "layer/product" });
  const sum = graph.node("Add", [product, graph.scalar("float32", 1)]);
  graph.node("Relu", [product]);
  graph.output("y", sum, "float32", ["n", 2]);
  return graph;
}

const run = async (model: Uint8Array | string): Promise<number[]> => {
  const session = await ort.InferenceSession.create(model as string);
  const x = new ort.Tensor("float32", Float32Array.of(1, 0, 2, -1, 1, 0), [2, 3]);
  const { y } = await session.run({ x });
  return [...(y!.data as Float32Array)];
};
// Rows of w: [1, 2], [3, 4], [5, 6].
const expected = [1 + 10 + 1, 2 + 12 + 1, -1 + 3 + 1, -2 + 4 + 1];

describe("a written model", () => {
  it("is computed by the engine's own reader", async () => {
    expect(await run(encodeModel(builder().build()))).toEqual(expected);
  });

  it("has its weight in a file beside it", async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), "onnx-"));
    try {
      const model = builder().build();
      const [weight] = model.graph!.initializer.filter(({ name }) => name === "w");
      await writeFile(path.join(folder, "w.bin"), weight!.rawData);
      weight!.rawData = new Uint8Array();
      weight!.dataLocation = DataLocation.EXTERNAL;
      weight!.externalData = [create(StringStringEntryProtoSchema, { key: "location", value: "w.bin" })];
      const file = path.join(folder, "model.onnx");
      await writeFile(file, encodeModel(model));
      expect(await run(file)).toEqual(expected);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it("leaves out nodes that nothing reads, and names inputs, outputs and dimensions", () => {
    const { graph, opsetImport } = builder().build();
    expect(graph!.node.map(({ opType }) => opType)).toEqual(["MatMul", "Add"]);
    expect(graph!.node[0]!.name).toMatch(/^layer\/product#/);
    expect(graph!.input.map(({ name }) => name)).toEqual(["x"]);
    expect(graph!.output.map(({ name }) => name)).toEqual(["y"]);
    expect(opsetImport).toMatchObject([{ domain: "", version: 21n }]);
  });

  it("keeps fields that its schema does not know", () => {
    // Field 25 of ModelProto (functions), which lineage does not read: an empty message.
    const bytes = Buffer.concat([encodeModel(builder().build()), Buffer.from([0xca, 0x01, 0x00])]);
    const again = Buffer.from(encodeModel(fromBinary(ModelProtoSchema, bytes)));
    expect(again.includes(Buffer.from([0xca, 0x01, 0x00]))).toBe(true);
  });

  it("writes equal small constants once, and no name twice", () => {
    const graph = builder();
    expect(graph.ints([1, 2])).toBe(graph.ints([1, 2]));
    expect(graph.ints([1, 2])).not.toBe(graph.ints([2, 1]));
    expect(() => {
      graph.input("x", "float32", [1]);
    }).toThrow("already has a value named x");
  });
});
