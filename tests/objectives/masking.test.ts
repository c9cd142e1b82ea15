import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.js";
import {
  type MaskingOptions,
  albertSpans,
  inverseRootFrequency,
  maskTokens,
  unilmSpans,
  type MaskingVocabulary,
} from "../../src/objectives/index.js";
const special = new Set([0, 1, 2, 3]);
/** Every third id goes on with a word. */
const vocabulary: MaskingVocabulary = {
  size: 1000,
  maskId: 3,
  specialIds: special,
  startsWord: (id) => id % 3 !== 0,
};
const rows = fc.array(fc.integer({ min: 0, max: 999 }), { minLength: 1, maxLength: 80 });
const seeds = fc.integer({ min: 0, max: 2 ** 31 });
const options = fc.constantFrom<MaskingOptions>(
  {},
  { unit: "word" },
  { unit: "word", spans: albertSpans },
  { spans: unilmSpans },
  { maxPredictions: 3 },
  { rate: 0.4, weight: inverseRootFrequency(new Map([[5, 100]])) },
);
const ordinary = (ids: readonly number[]) => ids.filter((id) => !special.has(id)).length;

describe("maskTokens", () => {
  it("hides only ordinary tokens, keeps what stood there, and changes nothing else", () => {
    fc.assert(
      fc.property(rows, options, seeds, (ids, masking, seed) => {
        const { inputIds, positions, labels } = maskTokens(ids, vocabulary, masking, new Random(seed));
        const hidden = new Set(positions);
        expect(hidden.size).toBe(positions.length);
        expect([...positions]).toEqual([...positions].sort((a, b) => a - b));
        positions.forEach((position, index) => {
          expect(special.has(ids[position]!)).toBe(false);
          expect(labels[index]).toBe(ids[position]);
          expect(inputIds[position] === vocabulary.maskId || !special.has(inputIds[position]!)).toBe(true);
        });
        ids.forEach((id, position) => {
          if (!hidden.has(position)) expect(inputIds[position]).toBe(id);
        });
      }),
    );
  });

  it("never predicts more than its share, and always something where there is something", () => {
    fc.assert(
      fc.property(rows, options, seeds, (ids, masking, seed) => {
        const count = ordinary(ids);
        const budget =
          count === 0
            ? 0
            : Math.min(
                masking.maxPredictions ?? Infinity,
                Math.max(1, Math.round(count * (masking.rate ?? 0.15))),
              );
        const { positions } = maskTokens(ids, vocabulary, masking, new Random(seed));
        expect(positions.length).toBeLessThanOrEqual(budget);
        expect(positions.length > 0).toBe(count > 0);
        // Single tokens always fill the budget.
        if (masking.unit !== "word") expect(positions.length).toBe(budget);
      }),
    );
  });

  it("is a function of its seed", () => {
    const ids = Array.from({ length: 60 }, (_, index) => index + 4);
    const once = (seed: number) => maskTokens(ids, vocabulary, {}, new Random(seed));
    expect(once(1)).toEqual(once(1));
    expect(once(1)).not.toEqual(once(2));
  });

  it("masks 80%, replaces 10% and leaves 10%", () => {
    const ids = Array.from({ length: 500 }, (_, index) => 4 + index);
    const counts = { masked: 0, kept: 0, replaced: 0 };
    const replacements = new Set<number>();
    for (let seed = 0; seed < 200; seed++) {
      const { inputIds, positions, labels } = maskTokens(ids, vocabulary, {}, new Random(seed));
      expect(positions.length).toBe(75);
      positions.forEach((position, index) => {
        const id = inputIds[position]!;
        if (id === vocabulary.maskId) counts.masked++;
        else if (id === labels[index]) counts.kept++;
        else {
          counts.replaced++;
          replacements.add(id);
        }
      });
    }
    // 15,000 draws: four standard deviations are 1.3% and 1%.
    expect(counts.masked / 15_000).toBeCloseTo(0.8, 1.5);
    expect(Math.abs(counts.masked / 15_000 - 0.8)).toBeLessThan(0.013);
    expect(Math.abs(counts.replaced / 15_000 - 0.1)).toBeLessThan(0.01);
    expect(Math.abs(counts.kept / 15_000 - 0.1)).toBeLessThan(0.01);
    expect(Math.max(...replacements)).toBeGreaterThan(900);
  });

  it("chooses every place alike", () => {
    const ids = Array.from({ length: 20 }, () => 7);
    const chosen = new Array<number>(20).fill(0);
    for (let seed = 0; seed < 4000; seed++)
      for (const position of maskTokens(ids, vocabulary, {}, new Random(seed)).positions) chosen[position]!++;
    // 3 of 20 each time: 600 expected, standard deviation 22.6.
    for (const count of chosen) expect(Math.abs(count - 600)).toBeLessThan(100);
  });

  it("hides words whole", () => {
    fc.assert(
      fc.property(rows, seeds, (ids, seed) => {
        const { positions } = maskTokens(ids, vocabulary, { unit: "word", rate: 0.5 }, new Random(seed));
        const hidden = new Set(positions);
        fc.pre(positions.length > 1);
        for (const position of positions) {
          const next = ids[position + 1];
          if (next !== undefined && !special.has(next) && !vocabulary.startsWord!(next))
            expect(hidden.has(position + 1)).toBe(true);
        }
      }),
    );
  });

  it("draws ALBERT's spans of one, two and three words as 6 : 3 : 2", () => {
    const ids = Array.from({ length: 400 }, (_, index) => 4 + 3 * (index % 300));
    const words: MaskingVocabulary = { ...vocabulary, startsWord: () => true };
    const lengths = [0, 0, 0, 0];
    for (let seed = 0; seed < 3000; seed++) {
      // One span alone: a budget of three takes the first one whole.
      const { positions } = maskTokens(
        ids,
        words,
        { unit: "word", spans: albertSpans, maxPredictions: 3 },
        new Random(seed),
      );
      expect(positions.length).toBe(3);
      const gaps = [1, 2].filter((index) => positions[index] !== positions[index - 1]! + 1).length;
      lengths[gaps]!++;
    }
    // Three in a row: a span of three (2/11), or neighbours by chance.
    expect(Math.abs(lengths[0]! / 3000 - 2 / 11)).toBeLessThan(0.04);
  });

  it("takes rare tokens more readily by XLM's weights", () => {
    const ids = Array.from({ length: 100 }, (_, index) => (index < 90 ? 10 : 20));
    const weight = inverseRootFrequency(
      new Map([
        [10, 900],
        [20, 1],
      ]),
    );
    let rare = 0;
    for (let seed = 0; seed < 500; seed++)
      for (const label of maskTokens(ids, vocabulary, { weight, maxPredictions: 1 }, new Random(seed)).labels)
        rare += Number(label === 20);
    // 10 rare tokens of weight 1 against 90 of weight 1/30: 10 of 13 draws.
    expect(Math.abs(rare / 500 - 10 / 13)).toBeLessThan(0.08);
  });
});
