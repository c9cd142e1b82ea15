import { readFileSync } from "node:fs";
import { afterAll, describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.js";
import {
  type BlockWeight,
  type PackedWeight,
  type Tensor,
  compile,
  gather,
  input,
  linear,
  matmul,
} from "../../src/graph/index.js";
import {
  type BlockArrays,
  type BlockForm,
  type GgmlBlockType,
  adjacentBlocks,
  blockArrays,
  dequantizeBlocks,
  dequantizeNormalFloat,
  fromGgmlBlocks,
  ggmlForm,
  matrixOf,
  normalFloat4,
  normalFloatWeight,
  quantizeBlocks,
  quantizeNormalFloat,
  verifyPacked,
} from "../../src/quantization/index.js";
import { createRuntime } from "../../src/runtime/index.js";

const runtime = createRuntime();
afterAll(() => {
  runtime.dispose();
});

const rows = 48;
const columns = 256;

function normal(size: number, seed: number): Float32Array {
  const data = new Float32Array(size);
  new Random(seed).fillNormal(data, 0, 0.05);
  return data;
}

/** Largest difference, relative to the largest value. */
function difference(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let [worst, largest] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    worst = Math.max(worst, Math.abs(actual[i]! - expected[i]!));
    largest = Math.max(largest, Math.abs(expected[i]!));
  }
  return worst / largest;
}

function product(x: Float32Array, weight: Float32Array, count: number): Float64Array {
  const y = new Float64Array(count * rows);
  for (let i = 0; i < count; i++)
    for (let row = 0; row < rows; row++)
      for (let k = 0; k < columns; k++)
        y[i * rows + row]! += x[i * columns + k]! * weight[row * columns + k]!;
  return y;
}

async function runProduct(weight: PackedWeight, x: Float32Array, count: number): Promise<Float32Array> {
  const parameter = input("w", "float32", weight.transposed ? [columns, rows] : [rows, columns]);
  using program = await compile(
    runtime,
    { y: matmul(input("x", "float32", ["count", columns]), parameter, { transposeB: !weight.transposed }) },
    { constants: { tensors: {}, packed: { w: weight } } },
  );
  using given = runtime.createTensor("float32", [count, columns], x);
  const { y } = await program.run({ x: given });
  return (await y!.read()) as Float32Array;
}

/** A weight with the numbers of `arrays`. */
function weightOf(
  { values, scales, zeroPoints, offsets }: BlockArrays,
  layout: Omit<BlockForm, "zeroPoints" | "offsets">,
): BlockWeight {
  const form = { ...layout, zeroPoints: zeroPoints !== undefined, offsets: offsets !== undefined };
  const [weight] = adjacentBlocks(runtime, [form]);
  const into = blockArrays(weight!);
  into.values.set(values);
  into.scales.set(scales);
  if (zeroPoints) into.zeroPoints!.set(zeroPoints);
  if (offsets) into.offsets!.set(offsets);
  return weight!;
}

const transposed = (data: Float32Array): Float32Array =>
  Float32Array.from({ length: data.length }, (_, i) => data[(i % rows) * columns + Math.floor(i / rows)]!);

describe("blocks", () => {
  for (const bits of [4, 8] as const) {
    for (const symmetric of [true, false]) {
      it(`rounds to ${bits} bits ${symmetric ? "symmetrically" : "with zero points"} within a step, and as near as rounding on average`, () => {
        const data = normal(rows * columns, 1).map((value, i) =>
          symmetric ? value : value + (i % 3) * 0.02,
        );
        const arrays = quantizeBlocks(matrixOf(data, [rows, columns], false), {
          bits,
          blockSize: 32,
          symmetric,
        });
        const back = dequantizeBlocks(arrays, { rows, columns, bits, blockSize: 32 });
        for (let block = 0; block < data.length / 32; block++) {
          const values = data.subarray(32 * block, 32 * block + 32);
          const step = Math.abs(arrays.scales[block]!);
          // The far end of a symmetric block has one code less, and an integer zero point moves the range by half a step.
          const slack = symmetric ? 1 : 1.01;
          values.forEach((value, i) => {
            expect(Math.abs(back[32 * block + i]! - value)).toBeLessThanOrEqual(slack * step + 1e-7);
          });
          const mean = values.reduce((sum, value, i) => sum + (back[32 * block + i]! - value) ** 2, 0) / 32;
          expect(mean).toBeLessThan(step ** 2 / 6);
        }
      });
    }
    it(`finds better scales for ${bits} bits among candidates`, () => {
      const data = normal(rows * columns, 2);
      const source = matrixOf(data, [rows, columns], false);
      const error = (candidates: number): number => {
        const arrays = quantizeBlocks(source, { bits, blockSize: 64, candidates });
        const back = dequantizeBlocks(arrays, { rows, columns, bits, blockSize: 64 });
        return back.reduce((sum, value, i) => sum + (value - data[i]!) ** 2, 0);
      };
      expect(error(9)).toBeLessThan(error(1));
    });
  }

  for (const [bits, blockSize, symmetric, turned] of [
    [4, 32, true, false],
    [4, 64, false, false],
    [4, 128, true, true],
    [8, 32, true, true],
    [8, 128, false, false],
  ] as const) {
    it(`multiplies by ${bits} bits in blocks of ${blockSize}, ${symmetric ? "symmetric" : "with zero points"}${turned ? ", transposed" : ""}`, async () => {
      const data = normal(rows * columns, 3).map((value, i) => value + (i % 7) * 0.01);
      const source = turned
        ? matrixOf(transposed(data), [columns, rows], true)
        : matrixOf(data, [rows, columns], false);
      const arrays = quantizeBlocks(source, { bits, blockSize, symmetric });
      const layout = { rows, columns, transposed: turned, bits, blockSize };
      const plain = dequantizeBlocks(arrays, layout);
      expect(difference(plain, data)).toBeLessThan(bits === 4 ? 0.15 : 0.01);
      const weight = weightOf(arrays, layout);
      for (const count of [1, 7]) {
        const x = normal(count * columns, 4);
        expect(difference(await runProduct(weight, x, count), product(x, plain, count))).toBeLessThan(0.015);
      }
    });
  }

  it("multiplies one input by several matrices at once, also where some differ in kind", async () => {
    const layout = { columns, transposed: false, bits: 4, blockSize: 32 } as const;
    const matrix = (count: number, seed: number, options: { symmetric: boolean; offsets?: boolean }) => {
      const source = matrixOf(normal(count * columns, seed), [count, columns], false);
      const arrays = quantizeBlocks(source, { ...layout, ...options });
      const offsets = options.offsets ? normal((count * columns) / 32, seed + 1) : undefined;
      return { arrays: { ...arrays, offsets }, layout: { ...layout, rows: count } };
    };
    const given = {
      query: matrix(48, 20, { symmetric: false }),
      key: matrix(16, 21, { symmetric: false }),
      value: matrix(16, 22, { symmetric: false }),
      gate: matrix(8, 23, { symmetric: true, offsets: true }),
      up: matrix(24, 25, { symmetric: true, offsets: true }),
      alone: matrix(40, 27, { symmetric: true }),
    };
    const x = input("x", "float32", ["batch", "count", columns]);
    const products = Object.entries(given).map(
      ([
        name,
        {
          layout: { rows: count },
        },
      ]) => [
        name,
        matmul(x, input(name, "float32", [count, columns]), {
          transposeB: true,
          alpha: name === "key" ? 2 : 1,
        }),
      ],
    );
    using program = await compile(runtime, Object.fromEntries(products) as Record<string, Tensor>, {
      constants: {
        tensors: {},
        packed: Object.fromEntries(
          Object.entries(given).map(([name, { arrays, layout: own }]) => [name, weightOf(arrays, own)]),
        ),
      },
    });
    const data = normal(3 * columns, 30);
    using tensor = runtime.createTensor("float32", [1, 3, columns], data);
    const result = await program.run({ x: tensor });
    for (const [name, { arrays, layout: own }] of Object.entries(given)) {
      const plain = dequantizeBlocks(arrays, own);
      const expected = new Float64Array(3 * own.rows);
      for (let i = 0; i < 3; i++)
        for (let row = 0; row < own.rows; row++)
          for (let k = 0; k < columns; k++)
            expected[i * own.rows + row]! +=
              (name === "key" ? 2 : 1) * data[i * columns + k]! * plain[row * columns + k]!;
      expect(result[name]!.shape).toEqual([1, 3, own.rows]);
      expect(difference((await result[name]!.read()) as Float32Array, expected), name).toBeLessThan(0.02);
    }
  });

  it("reads whole rows of a packed table exactly, and shares the table with a product", async () => {
    const data = normal(rows * columns, 5);
    const layout = { rows, columns, transposed: false, bits: 8, blockSize: 32 } as const;
    const arrays = quantizeBlocks(matrixOf(data, [rows, columns], false), layout);
    const table = input("w", "float32", [rows, columns]);
    const picked = gather(table, input("ids", "int32", ["count"]));
    using program = await compile(
      runtime,
      { picked, logits: linear(picked, table, input("bias", "float32", [rows]), { transposeWeight: true }) },
      { constants: { tensors: {}, packed: { w: weightOf(arrays, layout) } } },
    );
    const ids = runtime.createTensor("int32", [2], Int32Array.of(40, 3));
    const bias = runtime.createTensor("float32", [rows], normal(rows, 6));
    const result = await program.run({ ids, bias });
    const plain = dequantizeBlocks(arrays, layout);
    const expected = Float32Array.of(
      ...plain.subarray(40 * columns, 41 * columns),
      ...plain.subarray(3 * columns, 4 * columns),
    );
    expect(difference((await result["picked"]!.read()) as Float32Array, expected)).toBe(0);
    const logits = product(expected, plain, 2).map((value, i) => value + bias.view()[i % rows]!);
    expect(difference((await result["logits"]!.read()) as Float32Array, logits)).toBeLessThan(0.015);
  });

  it("keeps a constant block exactly and refuses what is not finite", () => {
    const zero = quantizeBlocks(matrixOf(new Float32Array(64), [1, 64], false), { bits: 4, blockSize: 32 });
    expect(dequantizeBlocks(zero, { rows: 1, columns: 64, bits: 4, blockSize: 32 })).toEqual(
      new Float32Array(64),
    );
    const bad = new Float32Array(64).fill(1);
    bad[5] = NaN;
    bad[6] = Infinity;
    expect(() => quantizeBlocks(matrixOf(bad, [1, 64], false), { bits: 4, blockSize: 32 })).toThrow(
      "not a finite number",
    );
    expect(() => quantizeBlocks(matrixOf(bad, [1, 64], false), { bits: 4, blockSize: 48 })).toThrow(
      "blocks of 48",
    );
  });

  it.each([false, true])(
    "unpacks a weight that something else than a product reads, transposed: %s",
    async (transposed) => {
      const shape = transposed ? [columns, rows] : [rows, columns];
      const arrays = quantizeBlocks(matrixOf(normal(rows * columns, 1), shape, transposed), {
        bits: 4,
        blockSize: 32,
      });
      const w = weightOf(arrays, { rows, columns, transposed, bits: 4, blockSize: 32 });
      using program = await compile(
        runtime,
        { y: input("w", "float32", shape).add(1) },
        { constants: { tensors: {}, packed: { w } } },
      );
      const { y } = await program.run({});
      const plain = dequantizeBlocks(arrays, { rows, columns, bits: 4, blockSize: 32 });
      const expected = Array.from({ length: rows * columns }, (_, i) =>
        transposed ? plain[(i % rows) * columns + Math.floor(i / rows)]! + 1 : plain[i]! + 1,
      );
      expect(
        Array.from((await y!.read()) as Float32Array).every(
          (value, i) => Math.abs(value - expected[i]!) < 1e-6,
        ),
      ).toBe(true);
    },
  );

  it("says so when something other than a product reads a large one", async () => {
    const form = { rows: 2100, columns: 8192, transposed: false, bits: 4, blockSize: 32 } as const;
    const [w] = adjacentBlocks(runtime, [{ ...form, zeroPoints: false, offsets: false }]);
    await expect(
      compile(
        runtime,
        { y: input("w", "float32", [2100, 8192]).add(1) },
        { constants: { tensors: {}, packed: { w: w! } } },
      ),
    ).rejects.toThrow("w is quantised");
  });
});

describe("NF4", () => {
  it("takes the nearest of the sixteen published values", () => {
    const data = normal(rows * columns, 7);
    const arrays = quantizeNormalFloat(matrixOf(data, [rows, columns], false));
    const back = dequantizeNormalFloat(arrays, 64);
    for (let i = 0; i < data.length; i++) {
      const scale = arrays.scales[i >> 6]!;
      const best = normalFloat4.reduce(
        (error, level) => Math.min(error, Math.abs(level * scale - data[i]!)),
        Infinity,
      );
      expect(Math.abs(back[i]! - data[i]!)).toBeLessThanOrEqual(best + 1e-7);
    }
  });

  it("multiplies", async () => {
    const data = normal(rows * columns, 8);
    const arrays = quantizeNormalFloat(matrixOf(data, [rows, columns], false));
    const weight = normalFloatWeight(runtime, arrays, { rows, columns, transposed: false, blockSize: 64 });
    const x = normal(3 * columns, 9);
    const expected = product(x, dequantizeNormalFloat(arrays, 64), 3);
    expect(difference(await runProduct(weight, x, 3), expected)).toBeLessThan(1e-5);
  });
});

describe("blocks of GGUF", () => {
  const reference = JSON.parse(
    readFileSync(new URL("../reference/values/ggml-blocks.json", import.meta.url), "utf8"),
  ) as { rows: number; columns: number; types: Record<GgmlBlockType, { blocks: string; values: number[] }> };

  for (const type of ["Q4_0", "Q4_1", "Q8_0"] as const) {
    const layout = { rows: reference.rows, columns: reference.columns };
    const { blocks, values } = reference.types[type];
    it(`keeps the values of ${type} that the gguf package reads`, () => {
      const arrays = fromGgmlBlocks(type, Buffer.from(blocks, "base64"), layout, "w");
      const back = dequantizeBlocks(arrays, { ...layout, ...ggmlForm(type) });
      expect(difference(back, values)).toBeLessThan(2e-7);
    });
  }

  it("multiplies by blocks with offsets", async () => {
    // Every block shifted to one side of 0, as Q4_1 is for.
    const arrays = {
      ...quantizeBlocks(matrixOf(normal(rows * columns, 10), [rows, columns], false), {
        bits: 4,
        blockSize: 32,
      }),
      offsets: normal((rows * columns) / 32, 11).map((value) => value + 0.1),
    };
    const layout = { rows, columns, transposed: false, bits: 4, blockSize: 32 } as const;
    const x = normal(2 * columns, 12).map((value) => value + 0.02);
    const weight = weightOf(arrays, layout);
    const expected = product(x, dequantizeBlocks(arrays, layout), 2);
    expect(difference(await runProduct(weight, x, 2), expected)).toBeLessThan(0.015);
    await verifyPacked(runtime, [weight]);
  });

  it("refuses bytes that are not whole rows", () => {
    expect(() => fromGgmlBlocks("Q4_0", new Uint8Array(17), { rows: 1, columns: 32 }, "blk.0")).toThrow(
      "blk.0: 17 bytes",
    );
  });
});
