import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { philox4x32, Random } from "../../src/base/random.js";

const draws = (random: Random, count: number): number[] =>
  Array.from({ length: count }, () => random.nextUint32());

describe("philox4x32", () => {
  // The known-answer vectors of Random123 (tests/kat_vectors), rounds = 10.
  it.each([
    [
      [0, 0, 0, 0],
      [0, 0],
      [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
    ],
    [
      [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
    ],
    [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
      [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    ],
  ] as [[number, number, number, number], [number, number], number[]][])(
    "gives Random123's answer for counter %j and key %j",
    (counter, key, expected) => {
      expect(Array.from(philox4x32(counter, key))).toEqual(expected);
    },
  );
});

describe("Random", () => {
  it("draws the words of consecutive counters under the seed as key", () => {
    const seed = 0x299f31d0a4093822n;
    const expected = [0, 1, 2].flatMap((counter) => [
      ...philox4x32([counter, 0, 7, 0], [0xa4093822, 0x299f31d0]),
    ]);
    expect(draws(new Random(seed, 7), 12)).toEqual(expected);
  });

  it("gives different sequences for different seeds, streams and forks", () => {
    const random = new Random(1);
    const firsts = [
      random,
      new Random(2),
      new Random(-1),
      new Random(1, 1),
      new Random(2n ** 40n + 1n),
      random.fork("a"),
      random.fork("b"),
      random.fork(1),
      random.fork("1"),
      random.fork("a").fork("a"),
    ].map((each) => draws(each, 2).join());
    expect(new Set(firsts).size).toBe(firsts.length);
  });

  it("forks alike however much has been drawn", () => {
    const random = new Random(5);
    const before = draws(random.fork("dropout"), 4);
    draws(random, 11);
    expect(draws(random.fork("dropout"), 4)).toEqual(before);
  });

  it("continues exactly from a state that went through JSON", () => {
    fc.assert(
      fc.property(fc.maxSafeInteger(), fc.nat(40), fc.nat(0xffffffff), (seed, drawn, stream) => {
        const random = new Random(seed, stream);
        draws(random, drawn);
        const copy = Random.from(JSON.parse(JSON.stringify(random.state)));
        expect(copy.state).toEqual(random.state);
        expect(draws(copy, 9)).toEqual(draws(random, 9));
      }),
    );
  });

  it("reaches a position beyond 2^32 blocks at once", () => {
    const position = 2 ** 34 + 4 * 3 + 2;
    const random = Random.from({ algorithm: "philox4x32-10", key: [9, 8], stream: 0, position });
    const expected = philox4x32([3, 1, 0, 0], [9, 8]);
    expect(draws(random, 2)).toEqual([expected[2], expected[3]]);
  });

  it("has the mean and variance of the uniform and the normal distribution", () => {
    const count = 200_000;
    const moments = (values: ArrayLike<number>) => {
      const mean = Array.prototype.reduce.call(values, (a, b) => (a as number) + (b as number), 0) as number;
      let variance = 0;
      for (let i = 0; i < values.length; i++) variance += (values[i]! - mean / count) ** 2;
      return { mean: mean / count, variance: variance / count };
    };
    const random = new Random(3);
    const uniform = moments(random.fillUniform(new Float32Array(count), -1, 3));
    expect(Math.abs(uniform.mean - 1)).toBeLessThan(4 * Math.sqrt(16 / 12 / count));
    expect(uniform.variance).toBeCloseTo(16 / 12, 1);
    const filled = moments(random.fillNormal(new Float32Array(count), 2, 0.5));
    expect(Math.abs(filled.mean - 2)).toBeLessThan((4 * 0.5) / Math.sqrt(count));
    expect(filled.variance).toBeCloseTo(0.25, 2);
    const single = moments(Float64Array.from({ length: count }, () => random.normal()));
    expect(Math.abs(single.mean)).toBeLessThan(4 / Math.sqrt(count));
    expect(single.variance).toBeCloseTo(1, 1);
  });

  it("draws every integer below the bound equally often", () => {
    const random = new Random(11);
    const counts = new Array<number>(7).fill(0);
    for (let i = 0; i < 70_000; i++) counts[random.integer(7)]!++;
    const chiSquared = counts.reduce((sum, n) => sum + (n - 10_000) ** 2 / 10_000, 0);
    expect(chiSquared).toBeLessThan(22.46); // 6 degrees of freedom, p = 0.001
    expect(random.integer(1)).toBe(0);
    const large = Array.from({ length: 1000 }, () => random.integer(2 ** 50));
    expect(Math.max(...large)).toBeGreaterThan(2 ** 49);
    expect(large.every((n) => Number.isInteger(n) && n < 2 ** 50)).toBe(true);
  });

  it("permutes: every element once, every order of three equally likely", () => {
    const random = new Random(13);
    expect(Array.from(random.permutation(1000)).sort((a, b) => a - b)).toEqual(
      Array.from({ length: 1000 }, (_, i) => i),
    );
    const orders = new Map<string, number>();
    for (let i = 0; i < 6000; i++) {
      const order = random.shuffle(["a", "b", "c"]).join("");
      orders.set(order, (orders.get(order) ?? 0) + 1);
    }
    expect(orders.size).toBe(6);
    for (const count of orders.values()) expect(Math.abs(count - 1000)).toBeLessThan(150);
  });

  it("refuses seeds, streams, bounds and states that it cannot honour", () => {
    expect(() => new Random(0.5)).toThrow(/seed/);
    expect(() => new Random(1, -1)).toThrow(/stream/);
    expect(() => new Random(1).integer(0)).toThrow(/bound/);
    const state = new Random(1).state;
    expect(() => Random.from({ ...state, position: -1 })).toThrow(/position/);
    expect(() => Random.from({ ...state, algorithm: "mt19937" } as never)).toThrow(/mt19937/);
    expect(() => Random.from({ ...state, key: [1] } as never)).toThrow(/two 32-bit words/);
  });
});
