import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.js";
import { type Document, fullSentences, sentencePairs } from "../../src/objectives/index.js";

/** Documents whose tokens tell where they come from: 1000 document + place. */
function corpus(documents: number, sentences: number, length: number): Document[] {
  return Array.from({ length: documents }, (_, document) =>
    Array.from({ length: sentences }, (_, sentence) =>
      Array.from({ length }, (_, token) => 1000 * document + sentence * length + token),
    ),
  );
}
const documentOf = (ids: readonly number[]) => new Set(ids.map((id) => Math.floor(id / 1000)));
const ascending = (ids: readonly number[]) =>
  ids.every((id, index) => index === 0 || id === ids[index - 1]! + 1);

const sizes = fc.record({
  documents: fc.integer({ min: 2, max: 5 }),
  sentences: fc.integer({ min: 2, max: 12 }),
  length: fc.integer({ min: 1, max: 9 }),
  maxLength: fc.integer({ min: 4, max: 40 }),
  seed: fc.integer({ min: 0, max: 2 ** 31 }),
});

describe("next-sentence pairs", () => {
  it("follow one another where the label says so, and come from two documents where it does not", () => {
    fc.assert(
      fc.property(sizes, ({ documents, sentences, length, maxLength, seed }) => {
        const pairs = sentencePairs(
          corpus(documents, sentences, length),
          { maxLength, task: "next-sentence" },
          new Random(seed),
        );
        for (const { first, second, label } of pairs) {
          expect(first.length + second.length).toBeLessThanOrEqual(maxLength);
          expect(first.length).toBeGreaterThan(0);
          expect(second.length).toBeGreaterThan(0);
          expect(ascending(first) && ascending(second)).toBe(true);
          const sources = documentOf([...first, ...second]);
          expect(sources.size).toBe(label === 1 ? 2 : 1);
          if (label === 0) expect(second[0]!).toBeGreaterThan(first.at(-1)!);
        }
      }),
    );
  });

  it("are half and half", () => {
    const pairs = sentencePairs(corpus(20, 200, 4), { maxLength: 24, task: "next-sentence" }, new Random(5));
    const changed = pairs.filter(({ label }) => label === 1).length;
    expect(pairs.length).toBeGreaterThan(500);
    expect(Math.abs(changed / pairs.length - 0.5)).toBeLessThan(0.08);
  });

  it("are short in a tenth of the cases", () => {
    const pairs = sentencePairs(corpus(20, 400, 1), { maxLength: 40, task: "sentence-order" }, new Random(6));
    const full = pairs.filter(({ first, second }) => first.length + second.length === 40).length;
    expect(full / pairs.length).toBeGreaterThan(0.8);
    expect(full / pairs.length).toBeLessThan(0.96);
  });
});

describe("sentence-order pairs", () => {
  it("are neighbours of one document, in the order that the label says", () => {
    fc.assert(
      fc.property(sizes, ({ documents, sentences, length, seed }) => {
        const maxLength = 1000;
        const pairs = sentencePairs(
          corpus(documents, sentences, length),
          { maxLength, task: "sentence-order" },
          new Random(seed),
        );
        expect(pairs.length).toBeGreaterThan(0);
        for (const { first, second, label } of pairs) {
          const inOrder = label === 0 ? [...first, ...second] : [...second, ...first];
          expect(ascending(inOrder)).toBe(true);
          expect(documentOf(inOrder).size).toBe(1);
        }
      }),
    );
  });
});

describe("fullSentences", () => {
  it("keeps every token in order, fits the length, and separates documents", () => {
    fc.assert(
      fc.property(sizes, ({ documents, sentences, length, maxLength }) => {
        const texts = corpus(documents, sentences, length);
        const rows = fullSentences(texts, { maxLength, separatorId: -1 });
        expect(rows.flat().filter((id) => id !== -1)).toEqual(texts.flat(2));
        for (const row of rows) {
          expect(row.length).toBeLessThanOrEqual(maxLength);
          row.forEach((id, place) => {
            const next = row[place + 1];
            if (id !== -1 && next !== undefined && next !== -1)
              expect(Math.floor(next / 1000)).toBe(Math.floor(id / 1000));
          });
        }
      }),
    );
  });
});
