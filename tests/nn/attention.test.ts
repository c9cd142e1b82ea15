import { describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.js";
import { type Tensor, compile, input, rotary } from "../../src/graph/index.js";
import {
  GroupedQueryAttention,
  type GroupedQueryAttentionConfig,
  type RotaryConfig,
  Weights,
  attentionMaskOf,
  multiHeadAttention,
  rotaryFrequencies,
  rotaryTables,
} from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";

const runtime = createRuntime();

/** Flat numbers with their shapes, by input. */
type Given = Readonly<Record<string, readonly [shape: readonly number[], data: readonly number[]]>>;

/** Runs a graph whose inputs are given as flat numbers with their shapes. */
async function run(output: Tensor, given: Given, weights?: Weights): Promise<number[]> {
  using program = await compile(runtime, { output });
  const inputs = Object.fromEntries(
    program.inputs.map(({ name, dtype }) => {
      const entry = given[name];
      if (!entry) return [name, weights!.get(name)];
      const [shape, data] = entry;
      if (dtype === "int64")
        return [name, runtime.createTensor(dtype, [...shape], BigInt64Array.from(data, BigInt))];
      if (dtype === "bool") return [name, runtime.createTensor(dtype, [...shape], Uint8Array.from(data))];
      return [name, runtime.createTensor("float32", [...shape], Float32Array.from(data))];
    }),
  );
  const { output: result } = await program.run(inputs);
  return Array.from((await result!.read()) as Float32Array);
}

const random = new Random(11);
const draw = (count: number): number[] => Array.from({ length: count }, () => random.normal());
const close = (actual: readonly number[], expected: readonly number[], digits = 5): void => {
  expect(actual).toHaveLength(expected.length);
  for (const [index, value] of expected.entries()) expect(actual[index]).toBeCloseTo(value, digits);
};
const dot = (a: readonly number[], b: readonly number[]): number =>
  a.reduce((sum, value, index) => sum + value * b[index]!, 0);

const rope: RotaryConfig = { headSize: 8, ropeTheta: 100, contextLength: 64 };

/** A vector at each of some positions, turned. */
async function turned(
  vector: readonly number[],
  places: readonly number[],
  config = rope,
): Promise<number[][]> {
  const x = input("x", "float32", [1, places.length, 8]);
  const { cosine, sine } = rotaryTables(config, input("places", "int64", [1, places.length]));
  const flat = await run(rotary(x, cosine, sine), {
    x: [[1, places.length, 8], places.flatMap(() => vector)],
    places: [[1, places.length], places],
  });
  return places.map((_, row) => flat.slice(8 * row, 8 * row + 8));
}

/** Su et al. 2021, equation 34, with the pairs half a head apart as LLaMA publishes them. */
function turnedByDefinition(x: readonly number[], place: number, { headSize, ropeTheta } = rope): number[] {
  const half = headSize / 2;
  return x.map((value, channel) => {
    const angle = place * ropeTheta ** ((-2 * (channel % half)) / headSize);
    const partner = channel < half ? -x[channel + half]! : x[channel - half]!;
    return value * Math.cos(angle) + partner * Math.sin(angle);
  });
}

describe("rotary positions", () => {
  it("turn pairs of channels by the angles of the paper", async () => {
    const vector = draw(8);
    const places = [0, 1, 5, 40];
    const rows = await turned(vector, places);
    for (const [index, place] of places.entries()) close(rows[index]!, turnedByDefinition(vector, place));
    close(rows[0]!, vector);
  });

  it("let a product of query and key depend on their distance alone", async () => {
    const [query, key] = [draw(8), draw(8)];
    const queries = await turned(query, [3, 10, 33]);
    const keys = await turned(key, [1, 8, 31]);
    const products = queries.map((row, index) => dot(row, keys[index]!));
    close(
      products,
      products.map(() => products[0]!),
      4,
    );
    // And on it indeed.
    expect(Math.abs(dot(queries[0]!, keys[1]!) - products[0]!)).toBeGreaterThan(1e-3);
  });

  it("under linear scaling stand at a fraction of their place", async () => {
    const vector = draw(8);
    const scaled = await turned(vector, [0, 4, 20], { ...rope, ropeScaling: { kind: "linear", factor: 4 } });
    for (const [index, place] of [0, 1, 5].entries())
      close(scaled[index]!, turnedByDefinition(vector, place));
  });

  it("under LLaMA-3's scaling keep short wavelengths and stretch long ones by the factor", () => {
    const config: RotaryConfig = { headSize: 16, ropeTheta: 500_000, contextLength: 1 << 17 };
    const plain = rotaryFrequencies(config);
    const scaling = { factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 4, originalContextLength: 8192 };
    const scaled = rotaryFrequencies({ ...config, ropeScaling: { kind: "llama3", ...scaling } });
    const wavelengths = plain.map((frequency) => (2 * Math.PI) / frequency);
    for (const [pair, wavelength] of wavelengths.entries()) {
      if (wavelength < 8192 / 4) expect(scaled[pair]).toBe(plain[pair]);
      else if (wavelength > 8192) expect(scaled[pair]).toBeCloseTo(plain[pair]! / 8, 12);
      else expect(scaled[pair]! < plain[pair]! && scaled[pair]! > plain[pair]! / 8).toBe(true);
    }
  });
});

const config: GroupedQueryAttentionConfig = {
  hiddenSize: 16,
  numHeads: 4,
  numKeyValueHeads: 2,
  headSize: 8,
  numLayers: 1,
  initializerRange: 0.4,
};
const length = 6;

async function attend(
  x: readonly number[],
  own: Partial<GroupedQueryAttentionConfig> = {},
  change?: (weights: Weights) => void,
): Promise<number[]> {
  const module = new GroupedQueryAttention({ ...config, ...own }, 0);
  using weights = Weights.initialize(runtime, module, 3);
  change?.(weights);
  const places = input("places", "int64", [1, length]);
  const output = module.forward(input("x", "float32", [1, length, 16]), {
    rotary: rotaryTables(rope, places),
  });
  const given: Given = {
    x: [[1, length, 16], x],
    places: [
      [1, length],
      [0, 1, 2, 3, 4, 5],
    ],
  };
  return await run(output, given, weights);
}

/** The same by its definition, in float64: Vaswani et al. 2017, equation 1, for each head. */
function attentionByDefinition(x: readonly number[], window = Infinity): number[] {
  const module = new GroupedQueryAttention(config, 0);
  using weights = Weights.initialize(runtime, module, 3);
  const rows = Array.from({ length }, (_, row) => x.slice(16 * row, 16 * row + 16));
  const project = (name: string, row: readonly number[]): number[] => {
    const matrix = weights.get(`${name}.weight`);
    const flat = [...matrix.view()];
    return Array.from({ length: matrix.shape[0]! }, (_, out) =>
      dot(flat.slice(row.length * out, row.length * (out + 1)), row),
    );
  };
  const heads = (name: string, turn: boolean) =>
    rows.map((row, place) => {
      const flat = project(name, row);
      return Array.from({ length: flat.length / 8 }, (_, head) => flat.slice(8 * head, 8 * head + 8)).map(
        (one) => (turn ? turnedByDefinition(one, place) : one),
      );
    });
  const [queries, keys, values] = [heads("q_proj", true), heads("k_proj", true), heads("v_proj", false)];
  return rows.flatMap((_, place) => {
    const mixed = [0, 1, 2, 3].flatMap((head) => {
      const shared = Math.floor(head / 2);
      const seen = keys.map((_, other) => other).filter((other) => other <= place && place - other < window);
      const scores = seen.map((other) =>
        Math.exp(dot(queries[place]![head]!, keys[other]![shared]!) / Math.sqrt(8)),
      );
      const total = scores.reduce((a, b) => a + b);
      return Array.from({ length: 8 }, (_, channel) =>
        seen.reduce(
          (sum, other, index) => sum + (scores[index]! / total) * values[other]![shared]![channel]!,
          0,
        ),
      );
    });
    return project("o_proj", mixed);
  });
}

describe("attention with grouped heads", () => {
  const x = draw(length * 16);

  it("is what its definition gives, over all keys and over a window", async () => {
    close(await attend(x), attentionByDefinition(x), 4);
    close(await attend(x, { slidingWindow: 2 }), attentionByDefinition(x, 2), 4);
  });

  it("never looks ahead, nor beyond its window", async () => {
    const before = await attend(x);
    const later = [...x.slice(0, 16 * 4), ...draw(2 * 16)];
    const after = await attend(later);
    close(after.slice(0, 16 * 4), before.slice(0, 16 * 4), 6);
    expect(after.slice(16 * 4)).not.toEqual(before.slice(16 * 4));

    const earlier = [...draw(16), ...x.slice(16)];
    const narrow = await attend(x, { slidingWindow: 3 });
    close((await attend(earlier, { slidingWindow: 3 })).slice(16 * 3), narrow.slice(16 * 3), 6);
  });

  it("is attention with all heads whose keys and values are repeated in each group", async () => {
    const module = new GroupedQueryAttention(config, 0);
    using grouped = Weights.initialize(runtime, module, 3);
    const repeated = await attend(x, { numKeyValueHeads: 4 }, (weights) => {
      for (const name of ["q_proj.weight", "o_proj.weight"])
        weights.get(name).view().set(grouped.get(name).view());
      for (const name of ["k_proj.weight", "v_proj.weight"])
        for (const head of [0, 1, 2, 3]) {
          const start = 8 * 16 * Math.floor(head / 2);
          const rows = grouped
            .get(name)
            .view()
            .subarray(start, start + 8 * 16);
          weights
            .get(name)
            .view()
            .set(rows, 8 * 16 * head);
        }
    });
    close(repeated, await attend(x), 5);
  });
});

describe("attention in both directions", () => {
  const mix = (rows: number, tokens: number) => {
    const [query, key, value] = ["q", "k", "v"].map((name) => input(name, "float32", [rows, tokens, 8])) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    const mask = input("mask", "int64", [rows, tokens]);
    const inputIds = input("ids", "int64", [rows, tokens]);
    const attentionMask = attentionMaskOf({ inputIds, attentionMask: mask.cast("bool") });
    return multiHeadAttention(query, key, value, { numHeads: 2 }, { attentionMask });
  };

  it("gives a padded row what it gives the row alone, whatever stands in the padding", async () => {
    const [q, k, v] = [draw(24), draw(24), draw(24)];
    const shape = [1, 3, 8];
    const alone = await run(mix(1, 3), {
      q: [shape, q],
      k: [shape, k],
      v: [shape, v],
      mask: [
        [1, 3],
        [1, 1, 1],
      ],
    });
    const wide = [2, 5, 8];
    const longer = (data: readonly number[]): number[] => [...data, ...draw(16), ...draw(40)];
    const padded = await run(mix(2, 5), {
      q: [wide, longer(q)],
      k: [wide, longer(k)],
      v: [wide, longer(v)],
      mask: [
        [2, 5],
        [1, 1, 1, 0, 0, 1, 1, 1, 1, 1],
      ],
    });
    close(padded.slice(0, 3 * 8), alone, 5);
  });

  it("does not depend on the order of the keys", async () => {
    const [q, k, v] = [draw(8 * 3), draw(8 * 3), draw(8 * 3)];
    const swapped = (data: readonly number[]): number[] => [
      ...data.slice(8, 16),
      ...data.slice(0, 8),
      ...data.slice(16),
    ];
    const given = (keys: number[], values: number[]): Given => ({
      q: [[1, 3, 8], q],
      k: [[1, 3, 8], keys],
      v: [[1, 3, 8], values],
      mask: [
        [1, 3],
        [1, 1, 1],
      ],
    });
    close(await run(mix(1, 3), given(swapped(k), swapped(v))), await run(mix(1, 3), given(k, v)), 5);
  });
});
