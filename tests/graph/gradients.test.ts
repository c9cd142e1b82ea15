import fc from "fast-check";
import { describe, expect, it } from "vitest";
import * as g from "../../src/graph/index.js";
import type { Tensor } from "../../src/graph/index.js";
import { evaluate, gradientError, runtime } from "./numeric.js";

const labels = g.constant("int64", [3], [2, -100, 0]);
const ids = g.constant("int64", [2, 2], [0, 2, 2, 1]);

type Rule = [
  name: string,
  build: (...x: Tensor[]) => Tensor,
  shapes: number[][],
  range?: { low: number; high: number },
];
const positive = { low: 0.5, high: 2 };
const rules: Rule[] = [
  [
    "add, broadcast both ways",
    (a, b) => g.add(a!, b!),
    [
      [3, 1],
      [2, 1, 4],
    ],
  ],
  ["sub", (a, b) => g.sub(a!, b!), [[2, 3], [3]]],
  [
    "mul",
    (a, b) => g.mul(a!, b!),
    [
      [2, 3],
      [2, 1],
    ],
  ],
  [
    "div",
    (a, b) => g.div(a!, b!),
    [
      [2, 3],
      [1, 3],
    ],
    positive,
  ],
  [
    "pow",
    (a, b) => g.pow(a!, b!),
    [
      [2, 3],
      [2, 3],
    ],
    positive,
  ],
  ["maximum", (a, b) => g.maximum(a!, b!), [[4, 3], [3]]],
  ["minimum", (a, b) => g.minimum(a!, b!), [[4, 3], [3]]],
  ["clip", (a) => g.clip(a!, -1, 1), [[7]]],
  ["abs", (a) => g.abs(a!), [[5]]],
  ["exp", (a) => g.exp(a!), [[5]]],
  ["log", (a) => g.log(a!), [[5]], positive],
  ["sqrt", (a) => g.sqrt(a!), [[5]], positive],
  ["rsqrt", (a) => g.rsqrt(a!), [[5]], positive],
  ["sin", (a) => g.sin(a!), [[5]]],
  ["cos", (a) => g.cos(a!), [[5]]],
  ["tanh", (a) => g.tanh(a!), [[5]]],
  ["sigmoid", (a) => g.sigmoid(a!), [[5]]],
  ["relu", (a) => g.relu(a!), [[9]]],
  ["where", (a, b) => g.where(g.greater(a!, b!), a!, b!), [[4, 3], [3]]],
  ["sum over axes", (a) => g.sum(a!, { axes: [0, -1] }), [[2, 3, 4]]],
  ["mean, keeping dims", (a) => g.mean(a!, { axes: 1, keepDims: true }), [[2, 3, 4]]],
  ["max", (a) => g.max(a!, { axes: 1 }), [[3, 4]]],
  ["prod", (a) => g.prod(a!, { axes: 1 }), [[3, 4]], positive],
  ["logSumExp", (a) => g.logSumExp(a!, { axes: -1 }), [[3, 4]]],
  ["cumulativeSum", (a) => g.cumulativeSum(a!, 1), [[3, 4]]],
  ["cumulativeSum, exclusive", (a) => g.cumulativeSum(a!, 0, { exclusive: true }), [[3, 4]]],
  ["topK", (a) => g.topK(a!, 2).values, [[3, 5]]],
  ["reshape and transpose", (a) => g.transpose(g.reshape(a!, [4, -1]), [1, 0]), [[2, 6]]],
  ["slice", (a) => g.slice(a!, 1, 1, 3), [[2, 4]]],
  ["flip", (a) => g.flip(a!, 1), [[2, 4]]],
  [
    "concat",
    (a, b) => g.concat([a!, b!], 1),
    [
      [2, 1],
      [2, 3],
    ],
  ],
  ["split", (a) => g.mul(...(g.split(a!, 2, 1) as [Tensor, Tensor])), [[2, 4]]],
  ["expand and repeat", (a) => g.repeat(g.expand(a!, [3, 2]), 2, 1), [[1, 2]]],
  ["gather, rows named twice", (a) => g.gather(a!, ids), [[3, 4]]],
  ["gather along the last axis", (a) => g.gather(a!, ids, -1), [[2, 3]]],
  ["gatherElements", (a) => g.gatherElements(a!, ids, 1), [[2, 3]]],
  [
    "scatterAdd",
    (a, b) => g.scatterAdd(a!, ids, b!, 1),
    [
      [2, 3],
      [2, 2],
    ],
  ],
  [
    "matmul",
    (a, b) => g.matmul(a!, b!),
    [
      [2, 3, 4],
      [4, 5],
    ],
  ],
  [
    "matmul, first transposed",
    (a, b) => g.matmul(a!, b!, { transposeA: true }),
    [
      [2, 4, 3],
      [2, 4, 5],
    ],
  ],
  [
    "matmul, second transposed",
    (a, b) => g.matmul(a!, b!, { transposeB: true, alpha: 0.5 }),
    [
      [2, 3, 4],
      [5, 4],
    ],
  ],
  [
    "matmul, both transposed",
    (a, b) => g.matmul(a!, b!, { transposeA: true, transposeB: true }),
    [
      [4, 3],
      [5, 4],
    ],
  ],
  [
    "matmul, broadcast batches",
    (a, b) => g.matmul(a!, b!),
    [
      [2, 1, 3, 4],
      [3, 4, 2],
    ],
  ],
  ["linear", (x, w, b) => g.linear(x!, w!, b), [[2, 3, 4], [4, 5], [5]]],
  [
    "linear, weight transposed",
    (x, w, b) => g.linear(x!, w!, b, { transposeWeight: true }),
    [[2, 4], [5, 4], [5]],
  ],
  ["softmax", (a) => g.softmax(a!), [[3, 4]]],
  ["logSoftmax", (a) => g.logSoftmax(a!, 0), [[3, 4]]],
  ["gelu", (a) => g.gelu(a!, "tanh"), [[6]]],
  ["silu", (a) => g.silu(a!), [[6]]],
  ["layerNorm", (x, w, b) => g.layerNorm(x!, w!, b), [[2, 3, 5], [5], [5]]],
  ["rmsNorm", (x, w) => g.rmsNorm(x!, w!), [[2, 3, 5], [5]]],
  [
    "attention, causal",
    (q, k, v) => g.attention(q!, k!, v!, { causal: true }),
    [
      [2, 2, 3, 4],
      [2, 2, 3, 4],
      [2, 2, 3, 4],
    ],
  ],
  [
    "attention, grouped",
    (q, k, v) => g.attention(q!, k!, v!),
    [
      [1, 4, 3, 2],
      [1, 2, 3, 2],
      [1, 2, 3, 2],
    ],
  ],
  ["tokenLosses", (x) => g.tokenLosses(x!, labels, { labelSmoothing: 0.1 }), [[3, 4]]],
  [
    "linearTokenLosses",
    (h, w) => g.linearTokenLosses(h!, w!, labels),
    [
      [3, 5],
      [4, 5],
    ],
  ],
  [
    "linearTokenLosses with a bias",
    (h, w, b) => g.linearTokenLosses(h!, w!, labels, { bias: b! }),
    [[3, 5], [4, 5], [4]],
  ],
];

describe("derivative rules agree with central differences in float64", () => {
  it.each(rules)("%s", async (_, build, shapes, range) => {
    expect(await gradientError(build, shapes, range)).toBeLessThan(1e-7);
  });
});

describe("derivative rules hold for random shapes", () => {
  const sizes = fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 4 });

  it("of broadcast operations", async () => {
    const dropped = fc.array(fc.boolean(), { minLength: 4, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(sizes, dropped, fc.nat(3), async (shape, ones, lead) => {
        const other = shape.map((size, axis) => (ones[axis] ? 1 : size)).slice(Math.min(lead, shape.length));
        const build = (a?: Tensor, b?: Tensor) => g.mul(g.add(a!, b!), g.sub(b!, a!));
        expect(await gradientError(build, [shape, other])).toBeLessThan(1e-7);
      }),
      { numRuns: 25 },
    );
  });

  it("of matrix products with any transposes and batches", async () => {
    const size = fc.integer({ min: 1, max: 4 });
    await fc.assert(
      fc.asyncProperty(
        fc.tuple(size, size, size),
        fc.array(size, { maxLength: 2 }),
        fc.boolean(),
        fc.boolean(),
        fc.boolean(),
        async ([m, k, n], batch, transposeA, transposeB, shared) => {
          const a = [...batch, ...(transposeA ? [k, m] : [m, k])];
          const b = [...(shared ? [] : batch), ...(transposeB ? [n, k] : [k, n])];
          expect(
            await gradientError((x, y) => g.matmul(x!, y!, { transposeA, transposeB }), [a, b]),
          ).toBeLessThan(1e-7);
        },
      ),
      { numRuns: 40 },
    );
  });

  it("of reductions, softmax and norms over any axis", async () => {
    await fc.assert(
      fc.asyncProperty(sizes, fc.nat(3), async (shape, at) => {
        const axis = at % shape.length;
        const build = (x?: Tensor) =>
          g.add(
            g.softmax(x!, axis),
            g.add(
              g.mean(x!, { axes: axis, keepDims: true }),
              g.logSumExp(x!, { axes: axis, keepDims: true }),
            ),
          );
        expect(await gradientError(build, [shape])).toBeLessThan(1e-7);
      }),
      { numRuns: 25 },
    );
  });
});

describe("fused operators give what their primitives give", () => {
  const fused: [string, (x: Tensor, w: Tensor, b: Tensor) => Tensor][] = [
    ["gelu", (x) => g.gelu(x)],
    ["gelu, tanh", (x) => g.gelu(x, "tanh")],
    ["silu", (x) => g.silu(x)],
    ["softmax", (x) => g.softmax(x)],
    ["logSoftmax", (x) => g.logSoftmax(x)],
    ["layerNorm", (x, w, b) => g.layerNorm(x, w, b)],
    ["rmsNorm", (x, w) => g.rmsNorm(x, w)],
  ];
  it.each(fused)("%s", async (_, build) => {
    const [x, w, b] = [
      g.input("x", "float32", [3, 8]),
      g.input("w", "float32", [8]),
      g.input("b", "float32", [8]),
    ];
    const data = (size: number, phase: number) =>
      Float32Array.from({ length: size }, (_, i) => 3 * Math.sin(i * 1.3 + phase));
    const given = {
      x: runtime.createTensor("float32", [3, 8], data(24, 0)),
      w: runtime.createTensor("float32", [8], data(8, 1)),
      b: runtime.createTensor("float32", [8], data(8, 2)),
    };
    const results: Float32Array[] = [];
    for (const isFused of [true, false]) {
      using program = await g.compile(runtime, { y: build(x, w, b) }, { fused: isFused });
      results.push((await (await program.run(given))["y"]!.read()) as Float32Array);
    }
    results[0]!.forEach((value, index) => {
      expect(value).toBeCloseTo(results[1]![index]!, 5);
    });
  });
});

describe("random numbers in a program", () => {
  it("follow from the seed, fill the unit interval evenly and drop the share asked for", async () => {
    const seed = g.input("seed", "uint32", []);
    const random = new g.RandomStream(seed);
    const outputs = {
      a: random.uniform([100, 100]),
      b: random.uniform([100, 100]),
      kept: g.dropout(g.ones([10_000]), 0.25, random),
    };
    using program = await g.compile(runtime, outputs);
    const run = async (value: number) => {
      const results = await program.run({ seed: runtime.createTensor("uint32", [], Uint32Array.of(value)) });
      return Object.fromEntries(
        await Promise.all(
          Object.entries(results).map(async ([name, tensor]) => [
            name,
            (await tensor.read()) as Float32Array,
          ]),
        ),
      ) as Record<keyof typeof outputs, Float32Array>;
    };
    const [one, again, other] = [await run(1), await run(1), await run(2)];
    expect(one).toEqual(again);
    expect(one.a).not.toEqual(other.a);
    expect(one.a).not.toEqual(one.b);
    const counts = new Array<number>(10).fill(0);
    for (const value of one.a) counts[Math.floor(value * 10)]!++;
    // Chi-squared with 9 degrees of freedom: beyond 27.9 once in a thousand seeds, and the seed is fixed.
    expect(counts.reduce((sum, count) => sum + (count - 1000) ** 2 / 1000, 0)).toBeLessThan(27.9);
    const correlation =
      one.a.reduce((sum, value, i) => sum + (value - 0.5) * (other.a[i]! - 0.5), 0) / (10_000 / 12);
    expect(Math.abs(correlation)).toBeLessThan(0.04);
    expect(new Set(one.kept)).toEqual(new Set([0, Math.fround(1 / 0.75)]));
    expect(one.kept.filter((value) => value === 0).length / 10_000).toBeCloseTo(0.25, 1);
  });
});

describe("gradients", () => {
  it("of gradients come out for what is built from primitives", async () => {
    const second = (x: Tensor) => g.gradients(g.sum(g.mul(g.tanh(x), g.exp(x))), [x])[0]!;
    expect(await gradientError((x) => second(x!), [[4]])).toBeLessThan(1e-7);
  });

  it("stop at stopGradient", async () => {
    const x = g.input("x", "float64", [3]);
    const [gradient] = g.gradients(g.sum(g.mul(x, g.stopGradient(x))), [x]);
    const data = Float64Array.of(1, 2, 3);
    expect((await evaluate({ y: gradient! }, { x: { shape: [3], data } }))["y"]).toEqual(data);
  });

  it("are the same when a block is computed again instead of kept", async () => {
    const build = (keep: boolean) => {
      const x = g.input("x", "float64", [4, 4]);
      const w = g.input("w", "float64", [4, 4]);
      const block = (h: Tensor) => g.tanh(g.matmul(g.tanh(g.matmul(h, w)), w));
      let h = x;
      for (let i = 0; i < 3; i++) h = keep ? block(h) : g.checkpoint(block, [h]);
      const [dx, dw] = g.gradients(g.sum(g.square(h)), [x, w]);
      return { dx: dx!, dw: dw! };
    };
    const data = (phase: number) => Float64Array.from({ length: 16 }, (_, i) => Math.sin(i + phase) / 2);
    const inputs = { x: { shape: [4, 4], data: data(0) }, w: { shape: [4, 4], data: data(1) } };
    expect(await evaluate(build(false), inputs)).toEqual(await evaluate(build(true), inputs));
  });

  it("are zeros where the loss does not depend on a tensor", async () => {
    const [x, y] = [g.input("x", "float64", [2]), g.input("y", "float64", [2])];
    const [, dy] = g.gradients(g.sum(x), [x, y]);
    expect((await evaluate({ dy: dy! }, {}))["dy"]).toEqual(Float64Array.of(0, 0));
  });

  it("refuse a loss that is not a scalar", () => {
    const x = g.input("x", "float32", [2]);
    expect(() => g.gradients(x, [x])).toThrow("the loss must be a floating-point scalar, not float32 [2]");
  });
});

describe("shape errors name the operation and both shapes", () => {
  it("of a matrix product, with a hint", () => {
    const [a, b] = [g.input("a", "float32", ["batch", 128, 768]), g.input("b", "float32", [512, 768])];
    expect(() => a.matmul(b)).toThrow(
      "matmul: the inner dimensions differ: [batch, 128, 768] x [512, 768]; did you mean to transpose the second?",
    );
  });

  it("of a broadcast", () => {
    const [a, b] = [g.input("a", "float32", [2, 3]), g.input("b", "float32", [4])];
    expect(() => a.add(b)).toThrow("add: [2, 3] and [4] do not broadcast");
  });

  it("of a symbolic reshape", () => {
    const x = g.input("x", "float32", ["batch", 6]);
    expect(x.reshape(["batch", 2, -1]).shape).toEqual(["batch", 2, 3]);
    expect(() => x.reshape(["batch", 5])).toThrow(
      "reshape: [batch, 6] has 6*batch elements and [batch, 5] has 5*batch",
    );
  });
});
