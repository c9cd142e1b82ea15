import { describe, expect, it } from "vitest";
import { float16Bits, float16Value } from "../../src/base/half.js";
import { Random } from "../../src/base/random.js";
import {
  type PackedWeight,
  compile,
  gather,
  gradients,
  input,
  linear,
  mul,
  sum,
} from "../../src/graph/index.js";
import {
  type QuantizationScheme,
  adjacentBlocks,
  dequantizeWeight,
  layoutOf,
  matrixOf,
  quantizeMatrix,
} from "../../src/quantization/index.js";
import { createRuntime } from "../../src/runtime/index.js";

const runtime = createRuntime();

const normal = (size: number, seed: number): Float32Array => {
  const data = new Float32Array(size);
  new Random(seed).fillNormal(data, 0, 1);
  return data;
};

interface Case {
  readonly weight: PackedWeight;
  /** The matrix `[rows, columns]` that it stands for. */
  readonly matrix: Float32Array;
}

/** Makes a packed weight for a parameter of `shape`. */
type Make = (shape: readonly number[], transposed: boolean) => Promise<Case>;

const quantised =
  (scheme: QuantizationScheme): Make =>
  async (shape, transposed) => {
    const source = matrixOf(normal(shape[0]! * shape[1]!, 1), shape, transposed);
    const weight = (await quantizeMatrix(runtime, source, "linear", scheme))!;
    return { weight, matrix: dequantizeWeight(weight) };
  };

const withOffsets: Make = async (shape, transposed) => {
  const form = {
    ...layoutOf(shape, transposed),
    bits: 4,
    blockSize: 32,
    zeroPoints: false,
    offsets: true,
  } as const;
  const [weight] = adjacentBlocks(runtime, [form]);
  new Random(2).fillUniform(weight!.scales.view(), 0.1, 1);
  new Random(3).fillNormal(weight!.offsets!.view(), 0, 1);
  const values = weight!.values.view();
  for (let i = 0; i < values.length; i++) values[i] = (i * 37 + (i >> 3)) & 255;
  return { weight: weight!, matrix: dequantizeWeight(weight!) };
};

const halves: Make = async (shape, transposed) => {
  const { rows, columns } = layoutOf(shape, transposed);
  const bits = Uint16Array.from(normal(rows * columns, 4), float16Bits);
  const values = runtime.createTensor("float16", shape, bits);
  const stored = Float32Array.from(bits, float16Value);
  const matrix = Float32Array.from({ length: rows * columns }, (_, i) =>
    transposed ? stored[(i % columns) * rows + Math.floor(i / columns)]! : stored[i]!,
  );
  return { weight: { kind: "half", rows, columns, transposed, values }, matrix };
};

const kinds: readonly (readonly [string, Make])[] = [
  ["4-bit blocks with zero points", quantised({ bits: 4 })],
  ["4-bit blocks", quantised({ bits: 4, symmetric: true })],
  ["8-bit blocks", quantised({ bits: 8 })],
  ["4-bit blocks with offsets", withOffsets],
  ["NF4", quantised({ bits: "nf4" })],
  ["8-bit rows", quantised({ bits: 8, blockSize: "row" })],
  ["float16", halves],
];

const worst = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let difference = 0;
  for (let i = 0; i < a.length; i++) difference = Math.max(difference, Math.abs(a[i]! - b[i]!));
  return difference / Math.max(...Array.from(b, Math.abs));
};

/** `[count, rows] x [rows, columns]` in float64. */
function product(dy: Float32Array, matrix: Float32Array, rows: number, columns: number): Float64Array {
  const result = new Float64Array((dy.length / rows) * columns);
  for (let i = 0; i < dy.length / rows; i++)
    for (let row = 0; row < rows; row++) {
      const factor = dy[i * rows + row]!;
      for (let k = 0; k < columns; k++) result[i * columns + k]! += factor * matrix[row * columns + k]!;
    }
  return result;
}

describe.each(kinds)("a product with %s", (_, make) => {
  it.each([false, true])("has the gradient of its input, the weight transposed: %s", async (transposed) => {
    const [rows, columns] = [48, 128];
    const shape = transposed ? [columns, rows] : [rows, columns];
    const { weight, matrix } = await make(shape, transposed);
    const x = input("x", "float32", ["batch", 3, columns]);
    const bias = input("bias", "float32", [rows]);
    const y = linear(x, input("w", "float32", shape), bias, { transposeWeight: !transposed });
    const dy = input("dy", "float32", ["batch", 3, rows]);
    const [dx, dBias] = gradients(sum(mul(y, dy)), [x, bias]);
    using program = await compile(
      runtime,
      { y, dx: dx!, dBias: dBias! },
      { constants: { tensors: {}, packed: { w: weight } }, exactProducts: true },
    );
    const [xs, dys, biases] = [normal(6 * columns, 5), normal(6 * rows, 6), normal(rows, 7)];
    const results = await program.run({
      x: runtime.createTensor("float32", [2, 3, columns], xs),
      dy: runtime.createTensor("float32", [2, 3, rows], dys),
      bias: runtime.createTensor("float32", [rows], biases),
    });
    expect(results["dx"]!.shape).toEqual([2, 3, columns]);
    expect(
      worst((await results["dx"]!.read()) as Float32Array, product(dys, matrix, rows, columns)),
    ).toBeLessThan(1e-6);
    // The product itself rounds nothing but the weights, or 16 bits of its input where the weight is in whole rows.
    const across = Float32Array.from(
      { length: rows * columns },
      (__, i) => matrix[(i % rows) * columns + Math.floor(i / rows)]!,
    );
    const expected = product(xs, across, columns, rows).map((value, i) => value + biases[i % rows]!);
    expect(worst((await results["y"]!.read()) as Float32Array, expected)).toBeLessThan(
      weight.kind === "rows" ? 1e-4 : 1e-6,
    );
  });

  it("is taken in slices where the matrix is large", async () => {
    // A little more than 64 MiB unpacked.
    const [rows, columns] = [2100, 8192];
    const { weight, matrix } = await make([rows, columns], false);
    if (weight.kind === "half") return; // The engine makes floats of it once and for all.
    const x = input("x", "float32", ["batch", columns]);
    const y = linear(x, input("w", "float32", [rows, columns]), undefined, { transposeWeight: true });
    const dy = input("dy", "float32", ["batch", rows]);
    const [dx] = gradients(sum(mul(y, dy)), [x]);
    using program = await compile(
      runtime,
      { dx: dx! },
      { constants: { tensors: {}, packed: { w: weight } } },
    );
    const dys = normal(2 * rows, 8);
    const results = await program.run({ dy: runtime.createTensor("float32", [2, rows], dys) });
    expect(
      worst((await results["dx"]!.read()) as Float32Array, product(dys, matrix, rows, columns)),
    ).toBeLessThan(1e-5);
  });

  it("reads rows of its weight", async () => {
    const [rows, columns] = [48, 128];
    const { weight, matrix } = await make([rows, columns], false);
    const ids = input("ids", "int32", ["batch", 2]);
    using program = await compile(
      runtime,
      { y: gather(input("w", "float32", [rows, columns]), ids) },
      { constants: { tensors: {}, packed: { w: weight } } },
    );
    const picked = [3, 47, 0, 12, 3, 20];
    const { y } = await program.run({ ids: runtime.createTensor("int32", [3, 2], Int32Array.from(picked)) });
    expect(y!.shape).toEqual([3, 2, columns]);
    const expected = picked.flatMap((row) => Array.from(matrix.subarray(row * columns, (row + 1) * columns)));
    expect(worst((await y!.read()) as Float32Array, expected)).toBeLessThan(1e-6);
  });
});
