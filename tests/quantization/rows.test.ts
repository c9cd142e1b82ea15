import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.js";
import { type RowWeight, compile, input, linear, matmul } from "../../src/graph/index.js";
import {
  dequantizeRows,
  dequantizeWeight,
  matrixOf,
  quantizeMatrix,
  quantizeRows,
  rowTensors,
  rowWeight,
  signedValues,
  verifyPacked,
} from "../../src/quantization/index.js";
import { createRuntime } from "../../src/runtime/index.js";

const runtime = createRuntime();
afterAll(() => {
  runtime.dispose();
});

const [rows, columns] = [48, 256];
const normal = (size: number, seed: number): Float32Array => {
  const data = new Float32Array(size);
  new Random(seed).fillNormal(data, 0, 1);
  return data;
};

async function run(weight: RowWeight, x: Float32Array, shape: readonly number[]): Promise<Float32Array> {
  const parameter = input("w", "float32", weight.transposed ? [columns, rows] : [rows, columns]);
  const given = input(
    "x",
    "float32",
    shape.map((size, axis) => (axis < shape.length - 1 ? `dim${axis}` : size)),
  );
  using program = await compile(
    runtime,
    { y: matmul(given, parameter, { transposeB: !weight.transposed }) },
    { constants: { tensors: {}, packed: { w: weight } } },
  );
  using tensor = runtime.createTensor("float32", shape, x);
  const { y } = await program.run({ x: tensor });
  return (await y!.read()) as Float32Array;
}

/** Largest difference from the product in float64, relative to the largest value of the row that it stands in. */
function error(y: Float32Array, x: Float32Array, weight: Float32Array): number {
  let worst = 0;
  for (let i = 0; i < x.length / columns; i++) {
    let [difference, largest] = [0, 0];
    for (let row = 0; row < rows; row++) {
      let sum = 0;
      for (let k = 0; k < columns; k++) sum += x[i * columns + k]! * weight[row * columns + k]!;
      difference = Math.max(difference, Math.abs(sum - y[i * rows + row]!));
      largest = Math.max(largest, Math.abs(sum));
    }
    worst = Math.max(worst, difference / largest);
  }
  return worst;
}

const data = normal(rows * columns, 1);
const weightOf = async (source = matrixOf(data, [rows, columns], false)): Promise<RowWeight> =>
  rowWeight(runtime, rowTensors(runtime, quantizeRows(source)), { ...source });

describe("rows with one scale", () => {
  it("are within half a step of what was rounded", () => {
    fc.assert(
      fc.property(
        fc.array(fc.float({ min: -1e6, max: 1e6, noNaN: true }), { minLength: 24, maxLength: 24 }),
        (numbers) => {
          const matrix = Float32Array.from(numbers);
          const arrays = quantizeRows(matrixOf(matrix, [3, 8], false));
          const back = dequantizeRows(arrays, 8);
          for (let i = 0; i < 24; i++) {
            const step = arrays.scales[Math.floor(i / 8)]!;
            expect(Math.abs(back[i]! - matrix[i]!)).toBeLessThanOrEqual(0.5001 * step + 1e-37);
          }
        },
      ),
    );
  });

  it("multiply like the matrix that they stand for, whatever one column of the input is like", async () => {
    const weight = await weightOf();
    const plain = dequantizeWeight(weight);
    for (const count of [1, 5, 130]) {
      const x = normal(count * columns, 2);
      // Activations of language models have columns a hundred times larger than others.
      for (let i = 0; i < count; i++) x[i * columns + 17]! *= 100;
      expect(error(await run(weight, x, [count, columns]), x, plain)).toBeLessThan(5e-4);
    }
  });

  it("keep the rows of an input apart: zeros, the tiny and the huge", async () => {
    const weight = await weightOf();
    const plain = dequantizeWeight(weight);
    const x = normal(4 * columns, 3);
    const sizes = [0, 1e-12, 1, 1e12];
    for (let i = 0; i < x.length; i++) x[i]! *= sizes[Math.floor(i / columns)]!;
    const y = await run(weight, x, [2, 2, columns]);
    expect(y.subarray(0, rows).every((value) => value === 0)).toBe(true);
    expect(error(y.subarray(rows), x.subarray(columns), plain)).toBeLessThan(5e-4);
  });

  it("multiply in unsigned numbers too, as processors without exact mixed products need it", async () => {
    const weight = await weightOf();
    const unsigned: RowWeight = {
      ...weight,
      values: runtime.createTensor(
        "uint8",
        [columns, rows],
        Uint8Array.from(signedValues(weight), (value) => value + 128),
      ),
    };
    expect(dequantizeWeight(unsigned)).toEqual(dequantizeWeight(weight));
    const x = normal(3 * columns, 4);
    expect(error(await run(unsigned, x, [3, columns]), x, dequantizeWeight(weight))).toBeLessThan(5e-4);
    await verifyPacked(runtime, [weight, unsigned]);
  });

  it("take a matrix that is stored the other way round, and a bias", async () => {
    const turned = Float32Array.from(data, (_, i) => data[(i % rows) * columns + Math.floor(i / rows)]!);
    const weight = await weightOf(matrixOf(turned, [columns, rows], true));
    expect(dequantizeWeight(weight)).toEqual(dequantizeWeight(await weightOf()));
    const x = normal(2 * columns, 5);
    const y = linear(
      input("x", "float32", ["count", columns]),
      input("w", "float32", [columns, rows]),
      input("bias", "float32", [rows]),
    );
    using program = await compile(runtime, { y }, { constants: { tensors: {}, packed: { w: weight } } });
    using given = runtime.createTensor("float32", [2, columns], x);
    using bias = runtime.createTensor("float32", [rows], new Float32Array(rows).fill(3));
    const result = await program.run({ x: given, bias });
    const sums = ((await result["y"]!.read()) as Float32Array).map((value) => value - 3);
    expect(error(sums, x, dequantizeWeight(weight))).toBeLessThan(5e-4);
  });

  it("refuse other bits, and what is not finite", async () => {
    const source = matrixOf(data, [rows, columns], false);
    await expect(quantizeMatrix(runtime, source, "linear", { bits: 4, blockSize: "row" })).rejects.toThrow(
      "rows with one scale have 8 bits, not 4",
    );
    for (const [at, value] of [
      [7, Infinity],
      [2 * columns, -Infinity],
      [5 * columns + 3, NaN],
      [rows * columns - 1, NaN],
    ] as const) {
      const bad = data.slice();
      bad[at] = value;
      expect(() => quantizeRows(matrixOf(bad, [rows, columns], false))).toThrow("not a finite number");
    }
  });
});
