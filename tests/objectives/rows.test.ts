import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.js";
import {
  type SentenceVocabulary,
  type UnilmMode,
  drawUnilmMode,
  unilmMixture,
  unilmRow,
  unilmVisible,
  translationRow,
  maskRow,
  maskedBatch,
  sentenceRow,
} from "../../src/objectives/index.js";
const vocabulary: SentenceVocabulary = {
  size: 50,
  maskId: 3,
  classId: 1,
  separatorId: 2,
  paddingId: 0,
  specialIds: new Set([0, 1, 2, 3]),
};
const text = fc.array(fc.integer({ min: 4, max: 49 }), { minLength: 1, maxLength: 12 });

describe("maskedBatch", () => {
  it("points at the hidden places of the flattened batch, and nowhere else", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(text, text), { minLength: 1, maxLength: 5 }), fc.nat(), (pairs, seed) => {
        const rows = pairs.map(([first, second], index) =>
          maskRow(sentenceRow(vocabulary, first, second), vocabulary, {}, new Random(seed, index)),
        );
        const { tensors, counts } = maskedBatch(rows, vocabulary.paddingId);
        const sequence = tensors["inputIds"]!.shape[1]!;
        const original = rows.flatMap(({ ids }) => [
          ...ids,
          ...new Array<number>(sequence - ids.length).fill(vocabulary.paddingId),
        ]);
        const places = [...(tensors["maskedPositions"]!.data as Int32Array)];
        expect(places.map((place) => original[place])).toEqual([...tensors["maskedLabels"]!.data]);
        expect(counts["maskedLm"]).toBe(places.length);
        const mask = tensors["attentionMask"]!.data as Uint8Array;
        original.forEach((id, place) => {
          expect(mask[place] === 1).toBe(place % sequence < rows[Math.floor(place / sequence)]!.ids.length);
          if (!places.includes(place)) expect(tensors["inputIds"]!.data[place]).toBe(id);
        });
        const types = tensors["tokenTypeIds"]!.data as Int32Array;
        rows.forEach(({ ids }, row) => {
          const cut = ids.indexOf(vocabulary.separatorId) + 1;
          ids.forEach((_, place) => {
            expect(types[row * sequence + place]).toBe(Number(place >= cut));
          });
        });
      }),
    );
  });

  it("counts nothing where a batch has nothing to hide", () => {
    const row = maskRow(sentenceRow(vocabulary, []), vocabulary, {}, new Random(1));
    const { tensors, counts } = maskedBatch([row], 0);
    expect(counts).toEqual({ maskedLm: 0 });
    expect([...(tensors["maskedLabels"]!.data as Int32Array)]).toEqual([-100]);
  });
});

describe("translation rows", () => {
  it("reset positions, tell languages apart, and put either one first", () => {
    fc.assert(
      fc.property(text, text, fc.nat(), (a, b, seed) => {
        const row = translationRow(
          [
            { ids: a, language: 0 },
            { ids: b, language: 1 },
          ],
          2,
          new Random(seed),
        );
        const first = row.languageIds![0]!;
        const cut = row.languageIds!.findIndex((language) => language !== first);
        const [left, right] = first === 0 ? [a, b] : [b, a];
        expect(row.ids).toEqual([2, ...left, 2, 2, ...right, 2]);
        expect(cut).toBe(left.length + 2);
        expect(row.positionIds).toEqual([
          ...left.keys(),
          left.length,
          left.length + 1,
          ...right.keys(),
          right.length,
          right.length + 1,
        ]);
        expect(new Set(row.languageIds!.slice(cut))).toEqual(new Set([1 - first]));
      }),
    );
    const firsts = Array.from(
      { length: 400 },
      (_, seed) =>
        translationRow(
          [
            { ids: [4], language: 0 },
            { ids: [5], language: 1 },
          ],
          2,
          new Random(seed),
        ).languageIds![0]!,
    );
    expect(Math.abs(firsts.reduce((sum, value) => sum + value, 0) / 400 - 0.5)).toBeLessThan(0.1);
  });
});

describe("UniLM's masks", () => {
  const lengths = fc.tuple(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 8 }));
  const matrix = (mode: UnilmMode, source: number, target: number) =>
    Array.from({ length: source + target }, (_, query) =>
      Array.from({ length: source + target }, (_, key) => unilmVisible(mode, source)(query, key)),
    );

  it("let each mode see what section 2.2 says", () => {
    fc.assert(
      fc.property(lengths, ([source, target]) => {
        const size = source + target;
        for (let query = 0; query < size; query++)
          for (let key = 0; key < size; key++) {
            const sees = (mode: UnilmMode) => matrix(mode, source, target)[query]![key]!;
            expect(sees("bidirectional")).toBe(true);
            expect(sees("left-to-right")).toBe(key <= query);
            expect(sees("right-to-left")).toBe(key >= query);
            const inSource = query < source;
            expect(sees("sequence-to-sequence")).toBe(inSource ? key < source : key <= query);
          }
      }),
    );
  });

  it("come with segments of their own, over both stretches and their separators", () => {
    const row = unilmRow("sequence-to-sequence", vocabulary, [10, 11], [20]);
    expect(row.ids).toEqual([1, 10, 11, 2, 20, 2]);
    expect(row.typeIds).toEqual([4, 4, 4, 4, 5, 5]);
    const { tensors } = maskedBatch([maskRow(row, vocabulary, {}, new Random(1))], 0);
    expect(tensors["attentionMask"]!.shape).toEqual([1, 6, 6]);
    expect([...(tensors["attentionMask"]!.data as Uint8Array)].join("")).toBe(
      "111100" + "111100" + "111100" + "111100" + "111110" + "111111",
    );
    expect(unilmRow("right-to-left", vocabulary, [10], []).typeIds).toEqual([3, 3, 3]);
  });

  it("are mixed as published", () => {
    const counts = new Map<UnilmMode, number>();
    const random = new Random(4);
    for (let draw = 0; draw < 6000; draw++) {
      const mode = drawUnilmMode(random);
      counts.set(mode, (counts.get(mode) ?? 0) + 1);
    }
    expect(Object.values(unilmMixture).reduce((sum, share) => sum + share, 0)).toBeCloseTo(1, 12);
    for (const [mode, count] of counts)
      expect(Math.abs(count / 6000 - unilmMixture[mode])).toBeLessThan(0.025);
  });

  it("are never seen by padding", () => {
    const rows = [
      unilmRow("left-to-right", vocabulary, [10], [11]),
      unilmRow("bidirectional", vocabulary, [10, 11, 12], [13]),
    ];
    const { tensors } = maskedBatch(
      rows.map((row) => maskRow(row, vocabulary, {}, new Random(1))),
      0,
    );
    const mask = tensors["attentionMask"]!.data as Uint8Array;
    const sequence = tensors["attentionMask"]!.shape[1]!;
    for (let query = 0; query < sequence; query++)
      for (let key = rows[0]!.ids.length; key < sequence; key++) expect(mask[query * sequence + key]).toBe(0);
  });
});
