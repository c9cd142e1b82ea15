import { describe, expect, it } from "vitest";
import {
  compile,
  dynamicMap,
  gather,
  input,
  matmul,
  normalFloat4,
  packedBytes,
} from "../../src/graph/index.js";
import {
  dequantizeDynamic,
  dequantizeScales,
  dequantizeWeight,
  matrixOf,
  quantizeDynamic,
  quantizeMatrix,
  quantizeNormalFloat,
  quantizeScales,
} from "../../src/quantization/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { Reference, relativeError } from "../support/reference.js";

const runtime = createRuntime();
const files = new Reference("double-quantization");

describe("8 bits of a dynamic data type", async () => {
  const wanted = await files.tensors("blocks.safetensors");
  const get = (name: string) => wanted.get(name) as Float32Array;
  const bytes = (name: string) => [...new Uint8Array(get(name).buffer)];

  it.each([
    ["signed", true],
    ["unsigned", false],
  ] as const)("round as bitsandbytes does: %s", (name, signed) => {
    expect(dynamicMap(signed)).toEqual(get(`${name}Map`));
    const numbers = signed ? get("numbers") : get("numbers").map(Math.abs);
    const found = quantizeDynamic(numbers, dynamicMap(signed));
    expect(found.largest).toEqual(get(`${name}Largest`));
    expect([...found.codes]).toEqual(bytes(`${name}Codes`));
    expect(dequantizeDynamic(found, dynamicMap(signed))).toEqual(get(`${name}Values`));
  });
});

describe("NF4 with double quantisation", async () => {
  const wanted = await files.tensors("nf4.safetensors");
  const get = (name: string) => wanted.get(name) as Float32Array;
  const bytes = (name: string) => [...new Uint8Array(get(name).buffer)];
  const [rows, columns] = [75, 256];
  const source = matrixOf(get("matrix"), [rows, columns], false);

  it("has bitsandbytes' codes, scales and values to the bit", () => {
    const { values, scales } = quantizeNormalFloat(source, 64);
    expect([...values]).toEqual(bytes("values"));
    const [offset] = get("offset");
    const double = quantizeScales(scales, offset!);
    expect([...double.codes]).toEqual(bytes("codes"));
    expect(double.largest).toEqual(get("largest"));
    // PyTorch adds up in another order than this library, which moves the mean by its last bit at most.
    expect(Math.abs(quantizeScales(scales).offset / offset! - 1)).toBeLessThan(2 ** -22);
    const restored = dequantizeScales(double);
    const map = (index: number) => (values[index >> 1]! >> (index % 2 === 0 ? 4 : 0)) & 15;
    const found = get("dequantized").map((_, index) =>
      Math.fround(normalFloat4[map(index)]! * restored[Math.floor(index / 64)]!),
    );
    expect(found).toEqual(get("dequantized"));
  });

  it("is multiplied by and looked up in by the engine as what it stands for, in 4.13 bits for a weight", async () => {
    const weight = (await quantizeMatrix(runtime, source, "linear", { bits: "nf4", double: true }))!;
    expect((8 * packedBytes(weight)) / (rows * columns)).toBeLessThan(4.3);
    const dense = dequantizeWeight(weight);
    expect(relativeError(dense, get("dequantized"))).toBeLessThan(1e-6);
    const table = input("table", "float32", [rows, columns]);
    const x = input("x", "float32", ["batch", columns]);
    const dy = input("dy", "float32", ["batch", rows]);
    const outputs = {
      product: matmul(x, table, { transposeB: true }),
      backward: matmul(dy, table),
      rows: gather(table, input("ids", "int32", [3])),
    };
    using program = await compile(runtime, outputs, {
      constants: { tensors: {}, packed: { table: weight } },
    });
    const numbers = (count: number) => Float32Array.from({ length: count }, (_, i) => Math.sin(i));
    const run = await program.run({
      x: runtime.createTensor("float32", [2, columns], numbers(2 * columns)),
      dy: runtime.createTensor("float32", [2, rows], numbers(2 * rows)),
      ids: runtime.createTensor("int32", [3], Int32Array.of(0, 74, 40)),
    });
    const dot = (a: (i: number) => number, b: (i: number) => number, n: number): number =>
      Array.from({ length: n }, (_, i) => a(i) * b(i)).reduce((sum, value) => sum + value, 0);
    const product = Float32Array.from({ length: 2 * rows }, (_, at) => {
      const [batch, row] = [Math.floor(at / rows), at % rows];
      return dot(
        (i) => Math.sin(batch * columns + i),
        (i) => dense[row * columns + i]!,
        columns,
      );
    });
    const backward = Float32Array.from({ length: 2 * columns }, (_, at) => {
      const [batch, column] = [Math.floor(at / columns), at % columns];
      return dot(
        (i) => Math.sin(batch * rows + i),
        (i) => dense[i * columns + column]!,
        rows,
      );
    });
    const read = async (name: string) => (await run[name]!.read()) as Float32Array;
    expect(relativeError(await read("product"), product)).toBeLessThan(1e-5);
    expect(relativeError(await read("backward"), backward)).toBeLessThan(1e-5);
    const picked = [0, 74, 40].flatMap((row) => [...dense.subarray(row * columns, (row + 1) * columns)]);
    expect([...(await read("rows"))]).toEqual(picked);
  });
});
