import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { MixedSource, mixingRates } from "../../src/data/index.js";

describe("mixingRates", () => {
  it("samples in proportion to examples, up to the limit, and flatter with the temperature", () => {
    expect(mixingRates([30, 10])).toEqual([0.75, 0.25]);
    // Raffel et al. 2020, section 3.5.2: r = min(e, K) / sum of min(e, K).
    expect(mixingRates([1_000_000, 100, 300], { limit: 600 })).toEqual([0.6, 0.1, 0.3]);
    // T = 2: the roots of the rates, renormalised.
    const [large, small] = mixingRates([900, 100], { exponent: 1 / 2 });
    expect(large! / small!).toBeCloseTo(3, 12);
    expect(mixingRates([30, 10, 5], { exponent: 0 })).toEqual([1 / 3, 1 / 3, 1 / 3]);
  });

  it("gives probabilities whose ratios are those of mT5's formula", () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 1e6 }), { minLength: 1, maxLength: 8 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.integer({ min: 1, max: 1e6 }),
        (sizes, exponent, limit) => {
          const rates = mixingRates(sizes, { exponent, limit });
          expect(rates.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 12);
          rates.forEach((rate, index) => {
            const ratio = Math.min(sizes[index]!, limit) / Math.min(sizes[0]!, limit);
            expect(rate / rates[0]!).toBeCloseTo(ratio ** exponent, 8);
          });
        },
      ),
    );
  });

  it("refuses a part without examples, and options out of range", () => {
    expect(() => mixingRates([3, 0])).toThrow("every part of a mixture needs an example");
    expect(() => mixingRates([3], { exponent: -1 })).toThrow("exponent of 0 or more");
    expect(() => mixingRates([3], { limit: 0 })).toThrow("limit above 0");
  });
});

interface Row {
  readonly part: number;
  readonly example: number;
  readonly length: number;
  readonly draw: number;
}

const mixture = (sizes: readonly number[], rates: readonly number[], options: { seed?: number } = {}) =>
  new MixedSource<number, Row>({
    parts: sizes.map((size, part) => ({
      examples: Array.from({ length: size }, (_, example) => example),
      rate: rates[part]!,
    })),
    seed: options.seed ?? 1,
    transform: (example, random, part) => ({
      part,
      example,
      length: 1 + (example % 9),
      draw: random.nextUint32(),
    }),
    maxTokens: 40,
    lengthOf: ({ length }) => length,
    collate: (rows) => ({
      tensors: Object.fromEntries(
        (["part", "example", "length", "draw"] as const).map((name) => [
          name,
          { data: Uint32Array.from(rows, (row) => row[name]), shape: [rows.length] },
        ]),
      ),
      counts: { tokens: rows.length },
    }),
  });
const rowsOf = ({ tensors }: ReturnType<ReturnType<typeof mixture>["next"]>): Row[] =>
  Array.from(tensors["part"]!.data as Uint32Array, (part, row) => ({
    part,
    example: Number(tensors["example"]!.data[row]),
    length: Number(tensors["length"]!.data[row]),
    draw: Number(tensors["draw"]!.data[row]),
  }));
const take = (from: ReturnType<typeof mixture>, rows: number): Row[] => {
  const taken: Row[] = [];
  while (taken.length < rows) taken.push(...rowsOf(from.next()));
  return taken;
};

describe("MixedSource", () => {
  it("samples parts by their rates, whatever their size", () => {
    const rows = take(mixture([5, 700], [0.3, 0.7]), 12_000);
    const share = rows.filter(({ part }) => part === 0).length / rows.length;
    // Four standard deviations of a share of 0.3 among 12,000 draws.
    expect(Math.abs(share - 0.3)).toBeLessThan(4 * Math.sqrt((0.3 * 0.7) / rows.length));
  });

  it("gives every example of a part as often as any other, give or take one", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 200 }), fc.integer({ min: 1, max: 1000 }), (size, seed) => {
        // Whole pools: within one, batches stand in another order than their rows were drawn in.
        const rows = take(mixture([size, 30], [1, 1], { seed }), 4096);
        const counts = new Map<number, number>();
        for (const { part, example } of rows)
          if (part === 0) counts.set(example, (counts.get(example) ?? 0) + 1);
        expect(counts.size).toBe(size);
        expect(Math.max(...counts.values()) - Math.min(...counts.values())).toBeLessThanOrEqual(1);
      }),
      { numRuns: 30 },
    );
  });

  it("puts rows of like length into batches within the limit, and draws anew for every row", () => {
    const source = mixture([90], [1]);
    const draws = new Set<number>();
    let [rows, padded, real] = [0, 0, 0];
    while (rows < 3000) {
      const batch = rowsOf(source.next());
      const longest = Math.max(...batch.map(({ length }) => length));
      expect(batch.length * longest).toBeLessThanOrEqual(40);
      padded += batch.length * longest;
      for (const { length, draw } of batch) {
        real += length;
        draws.add(draw);
      }
      rows += batch.length;
    }
    expect(draws.size).toBe(rows);
    expect(padded / real).toBeLessThan(1.02);
  });

  it("goes on where it stood, over the ends of pools", () => {
    const [whole, resumed] = [mixture([7, 300], [1, 2]), mixture([7, 300], [1, 2])];
    for (let pool = 0; pool < 3; pool++) {
      for (let batch = 0; batch < 400; batch++) whole.next();
      resumed.restore(JSON.parse(JSON.stringify(whole.state)));
      for (let batch = 0; batch < 700; batch++) expect(resumed.next()).toEqual(whole.next());
    }
    expect(() => {
      resumed.restore({ pool: 1, position: 0, drawn: [1] });
    }).toThrow("not one of this mixture");
  });
});
