import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.js";
import { corruptSpans, spanCorruptionLengths, spanCounts } from "../../src/objectives/index.js";

const sentinels = Array.from({ length: 100 }, (_, index) => 1000 + index);
const texts = fc.array(fc.integer({ min: 0, max: 999 }), { minLength: 2, maxLength: 300 });
const seeds = fc.integer({ min: 0, max: 2 ** 31 });
const options = fc.record({
  rate: fc.constantFrom(0.15, 0.5, 0.9),
  meanLength: fc.constantFrom(3, 8, 32),
});

/** The text that input and target make together. */
function restored(inputIds: readonly number[], targetIds: readonly number[]): number[] {
  const spans = new Map<number, number[]>();
  for (const id of targetIds)
    if (id >= 1000) spans.set(id, []);
    else [...spans.values()].at(-1)!.push(id);
  return inputIds.flatMap((id) => (id >= 1000 ? spans.get(id)! : [id]));
}

describe("corruptSpans", () => {
  it("hides what the target tells, and nothing is lost", () => {
    fc.assert(
      fc.property(texts, options, seeds, (ids, corruption, seed) => {
        const { inputIds, targetIds } = corruptSpans(ids, sentinels, corruption, new Random(seed));
        expect(restored(inputIds, targetIds)).toEqual(ids);
      }),
    );
  });

  it("uses the sentinels in order, once each, with a token or more behind each", () => {
    fc.assert(
      fc.property(texts, options, seeds, (ids, corruption, seed) => {
        const { inputIds, targetIds } = corruptSpans(ids, sentinels, corruption, new Random(seed));
        const { hidden, spans } = spanCounts(ids.length, corruption);
        for (const row of [inputIds, targetIds])
          expect(row.filter((id) => id >= 1000)).toEqual(sentinels.slice(0, spans));
        expect(targetIds.length).toBe(hidden + spans);
        expect(inputIds.length).toBe(ids.length - hidden + spans);
        targetIds.forEach((id, place) => {
          if (id >= 1000) expect(targetIds[place + 1]).toBeLessThan(1000);
        });
      }),
    );
  });

  it("draws every division into spans as often", () => {
    // 4 hidden tokens in 2 spans: lengths (1, 3), (2, 2) and (3, 1).
    const seen = new Map<number, number>();
    for (let seed = 0; seed < 3000; seed++) {
      const { targetIds } = corruptSpans(
        Array.from({ length: 10 }, (_, id) => id),
        sentinels,
        { rate: 0.4, meanLength: 2 },
        new Random(seed),
      );
      const first = targetIds.indexOf(1001) - 1;
      seen.set(first, (seen.get(first) ?? 0) + 1);
    }
    expect([...seen.keys()].sort()).toEqual([1, 2, 3]);
    // Chi-square with 2 degrees of freedom: 13.8 is passed once in a thousand.
    const chi = [...seen.values()].reduce((sum, count) => sum + (count - 1000) ** 2 / 1000, 0);
    expect(chi).toBeLessThan(13.8);
  });

  it("says how many sentinels a text needs", () => {
    expect(() => corruptSpans(new Array<number>(100).fill(1), [5, 6], {}, new Random(0))).toThrow(
      "has 5 hidden spans, but the tokenizer has 2 sentinels",
    );
    expect(() => corruptSpans([1], sentinels, {}, new Random(0))).toThrow("two tokens or more");
  });
});

describe("spanCorruptionLengths", () => {
  // T5's: 512 tokens of input are a text of 568, with a target of 114 (text-to-text-transfer-transformer, random_spans_helper).
  it("gives T5's lengths", () => {
    expect(spanCorruptionLengths(512)).toEqual({ textLength: 568, targetLength: 114 });
  });

  it("fills the input and no more", () => {
    fc.assert(
      fc.property(fc.integer({ min: 4, max: 700 }), options, seeds, (inputLength, corruption, seed) => {
        const { textLength, targetLength } = spanCorruptionLengths(inputLength, corruption);
        const ids = new Array<number>(textLength).fill(1);
        const many = Array.from({ length: 700 }, (_, index) => 1000 + index);
        const { inputIds, targetIds } = corruptSpans(ids, many, corruption, new Random(seed));
        expect(inputIds.length + 1).toBeLessThanOrEqual(inputLength);
        expect(targetIds.length + 1).toBe(targetLength);
      }),
    );
  });
});
