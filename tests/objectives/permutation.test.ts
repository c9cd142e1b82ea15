import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.js";
import {
  type PermutationOptions,
  bothWaysBatch,
  factorization,
  permutationBatch,
  permutedSegment,
  targetsOf,
} from "../../src/objectives/index.js";

const vocabulary = {
  classId: 1,
  separatorId: 2,
  specialIds: new Set([0, 1, 2, 3]),
  startsWord: (id: number) => id % 3 !== 0,
};
const text = Int32Array.from({ length: 500 }, (_, index) => 4 + index);
const cases = fc.record({
  sequenceLength: fc.integer({ min: 24, max: 64 }),
  reuseShare: fc.constantFrom(0, 0.25, 0.5),
  partial: fc.integer({ min: 2, max: 8 }),
  start: fc.integer({ min: 0, max: 499 }),
  seed: fc.nat(),
});
const make = (given: {
  sequenceLength: number;
  reuseShare: number;
  partial: number;
  start: number;
  seed: number;
}) => {
  const options: PermutationOptions = {
    sequenceLength: given.sequenceLength,
    reuseLength: Math.floor(given.sequenceLength * given.reuseShare),
    partial: given.partial,
  };
  return {
    options,
    segment: permutedSegment(text, given.start, vocabulary, options, new Random(given.seed)),
  };
};

describe("permutedSegment", () => {
  it("goes on with the text, then has two stretches with their separators and the class token", () => {
    fc.assert(
      fc.property(cases, (given) => {
        const { options, segment } = make(given);
        const { inputIds, typeIds } = segment;
        const { reuseLength, sequenceLength } = options;
        for (let place = 0; place < reuseLength; place++)
          expect(inputIds[place]).toBe(text[(given.start + place) % 500]);
        expect(inputIds.length).toBe(sequenceLength);
        expect(inputIds[sequenceLength - 1]).toBe(1);
        expect(inputIds[sequenceLength - 2]).toBe(2);
        const cut = inputIds.indexOf(2);
        expect(cut).toBeGreaterThan(reuseLength);
        expect([...typeIds]).toEqual(
          [...typeIds.keys()].map((place) => (place <= cut ? 0 : place < sequenceLength - 1 ? 1 : 2)),
        );
      }),
    );
  });

  it("predicts one ordinary token in K, hidden from its own query and from the queries before it", () => {
    fc.assert(
      fc.property(cases, (given) => {
        const { options, segment } = make(given);
        const { inputIds, targets, labels, visible } = segment;
        const { sequenceLength: size, reuseLength } = options;
        expect(targets.length).toBe(targetsOf(options));
        expect(new Set(targets).size).toBe(targets.length);
        targets.forEach((place, index) => {
          expect(vocabulary.specialIds.has(inputIds[place]!)).toBe(false);
          expect(labels[index]).toBe(inputIds[place]);
        });
        const sees = (query: number, key: number) => visible[query * size + key] === 1;
        const predicted = new Set(targets);
        for (let query = 0; query < size; query++)
          for (let key = 0; key < size; key++) {
            if (query < reuseLength && key >= reuseLength) expect(sees(query, key)).toBe(false);
            else if (query >= reuseLength && key < reuseLength) expect(sees(query, key)).toBe(true);
            else if (!predicted.has(key) && !vocabulary.specialIds.has(inputIds[key]!))
              expect(sees(query, key)).toBe(true);
            else if (query === key) expect(sees(query, key)).toBe(!predicted.has(key));
            // Of two hidden tokens exactly one sees the other, and context sees none of them.
            else if (predicted.has(query) && predicted.has(key))
              expect(sees(query, key)).toBe(!sees(key, query));
            else if (!predicted.has(query) && !vocabulary.specialIds.has(inputIds[query]!))
              expect(sees(query, key)).toBe(false);
          }
      }),
    );
  });

  it("orders its targets as a permutation: how many each sees are 0, 1, 2, …", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 20 }), fc.nat(), (count, seed) => {
        const ids = Array.from({ length: 2 * count }, (_, index) => 10 + index);
        const targets = new Set(Array.from({ length: count }, (_, index) => 2 * index));
        const sees = factorization(ids, targets, new Set(), new Random(seed));
        const seen = [...targets].map((query) => [...targets].filter((key) => sees(query, key)).length);
        expect(seen.sort((a, b) => a - b)).toEqual([...Array(count).keys()]);
      }),
    );
  });

  it.each([
    ["forwards", text],
    ["backwards", text.slice().reverse()],
  ])("predicts whole words of a text that is read %s", (way, read) => {
    const options = { sequenceLength: 60, reuseLength: 30, partial: 4, backwards: way === "backwards" };
    const found = { whole: 0, part: 0 };
    for (let seed = 0; seed < 300; seed++) {
      const { targets, labels } = permutedSegment(read, seed, vocabulary, options, new Random(seed));
      const chosen = new Set(labels.filter((_, index) => targets[index]! < 30));
      // Words of two pieces: 3n - 1 begins one that 3n ends.
      for (const id of chosen)
        if (id % 3 !== 1) found[chosen.has(id % 3 === 0 ? id - 1 : id + 1) ? "whole" : "part"]++;
    }
    // Words are cut where the segment or the number of targets ends, and where single tokens fill up.
    expect(found.whole).toBeGreaterThan(2 * found.part);
  });

  it("takes the second stretch from the text that follows in half of the cases", () => {
    let following = 0;
    for (let seed = 0; seed < 1000; seed++) {
      const { inputIds } = make({
        sequenceLength: 32,
        reuseShare: 0.5,
        partial: 6,
        start: 100,
        seed,
      }).segment;
      const cut = inputIds.indexOf(2);
      following += Number(inputIds[cut + 1] === inputIds[cut - 1]! + 1);
    }
    expect(Math.abs(following / 1000 - 0.5)).toBeLessThan(0.07);
  });

  it("leaves no place of a segment out, and favours none by far", () => {
    const counts = new Array<number>(64).fill(0);
    for (let seed = 0; seed < 3000; seed++)
      for (const place of make({ sequenceLength: 64, reuseShare: 0.5, partial: 4, start: seed % 500, seed })
        .segment.targets)
        counts[place]!++;
    // 8 of 32 places in the first part: 750 on average. The first place is rarer: a span has context before it.
    for (const count of counts.slice(0, 32)) {
      expect(count).toBeGreaterThan(50);
      expect(count).toBeLessThan(1500);
    }
  });

  it("refuses segments without room", () => {
    expect(() =>
      permutedSegment(text, 0, vocabulary, { sequenceLength: 10, reuseLength: 8 }, new Random(1)),
    ).toThrow("no room");
  });
});

describe("bothWaysBatch", () => {
  it("has the rows that are read backwards in its second half", () => {
    const options = { sequenceLength: 24, reuseLength: 12 };
    const segment = (start: number) => [permutedSegment(text, start, vocabulary, options, new Random(start))];
    const { tensors } = bothWaysBatch([
      { forwards: segment(1), backwards: segment(2) },
      { forwards: segment(3), backwards: segment(4) },
    ]);
    const { data, shape } = tensors["inputIds"]!;
    expect(shape).toEqual([4, 1, 24]);
    expect([0, 1, 2, 3].map((row) => (data as Int32Array)[24 * row])).toEqual([5, 7, 6, 8]);
  });
});

describe("permutationBatch", () => {
  it("lays out rows of segments", () => {
    const options = { sequenceLength: 24, reuseLength: 12 };
    const rows = [0, 1].map((row) =>
      [0, 1, 2].map((index) =>
        permutedSegment(text, 100 * row + 12 * index, vocabulary, options, new Random(index)),
      ),
    );
    const { tensors, counts } = permutationBatch(rows);
    expect(tensors["inputIds"]!.shape).toEqual([2, 3, 24]);
    expect(tensors["visible"]!.shape).toEqual([2, 3, 24, 24]);
    expect(tensors["targets"]!.shape).toEqual([2, 3, 4]);
    expect(counts).toEqual({ permutationLm: 24 });
    expect([...(tensors["inputIds"]!.data as Int32Array).subarray(4 * 24, 5 * 24)]).toEqual([
      ...rows[1]![1]!.inputIds,
    ]);
  });
});
