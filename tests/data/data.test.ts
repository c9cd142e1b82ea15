import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { DataLoader, evaluationBatches, stories, story } from "../../src/data/index.js";

describe("the story corpus", () => {
  const sample = [...stories({ seed: 100, count: 5000 })];

  it("tells the same story for the same seed and another for another", () => {
    expect(story(7)).toBe(story(7));
    expect(new Set(sample).size).toBe(sample.length);
  });

  it("has about a thousand words and stories of a paragraph or more", () => {
    const words = new Set(sample.flatMap((text) => text.toLowerCase().match(/[a-z]+/g)!));
    expect(words.size).toBeGreaterThan(900);
    expect(words.size).toBeLessThan(1800);
    for (const text of sample) {
      const length = text.split(/\s+/).length;
      expect(length).toBeGreaterThan(60);
      expect(length).toBeLessThan(320);
    }
  });

  it("keeps to plain rules of writing", () => {
    for (const text of sample) {
      expect(text, "a before a consonant, an before a vowel").not.toMatch(
        /\b[Aa] [aeiou](?!ne\b|nicorn|niform|seful|nusual)|\b[Aa]n [bcdfgjklmnpqrstvwxyz]/,
      );
      expect(text, "no leftovers of the grammar").not.toMatch(/[{}[\]<>|~]| {2}|undefined/);
      expect(text, "every sentence starts large").not.toMatch(
        /[.!?]"? (?!said|cried|answered|replied|whispered|shouted|thought|asked|he |she )[a-z]/,
      );
      expect(text.split('"').length % 2, "every quotation ends").toBe(1);
      expect(text).toMatch(/[.!?]"?$/);
    }
  });
});

describe("the loader", () => {
  const options = { batchSize: 3, sequenceLength: 4, seed: 1 };
  const corpus = Int32Array.from({ length: 101 }, (_, i) => i);

  it("gives every block once in an epoch, with the next token as the label", () => {
    const loader = new DataLoader(corpus, { ...options, batchSize: 5 });
    const seen: number[] = [];
    for (let i = 0; i < 5; i++) {
      const { inputIds, labels } = loader.next().tensors;
      seen.push(...inputIds.data);
      expect([...labels.data]).toEqual([...inputIds.data].map((id) => id + 1));
    }
    expect(seen.sort((a, b) => a - b)).toEqual([...corpus.subarray(0, 100)]);
    expect(loader.blocks).toBe(25);
    expect(loader.droppedTokens).toBe(0);
  });

  it("goes on exactly where another one stood", () => {
    fc.assert(
      fc.property(fc.nat(40), fc.nat(40), (before, after) => {
        const one = new DataLoader(corpus, options);
        for (let i = 0; i < before; i++) one.next();
        const two = new DataLoader(corpus, options);
        two.restore(one.state);
        for (let i = 0; i < after; i++) expect(two.next()).toEqual(one.next());
      }),
    );
  });

  it("refuses a corpus that is shorter than the context, with the numbers", () => {
    expect(() => new DataLoader(corpus.subarray(0, 4), options, "my.txt")).toThrow(
      "my.txt has 4 tokens, which make 0 rows of 4 tokens",
    );
  });

  it("evaluates every token once", () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 101 }), (length) => {
        const labels = [
          ...evaluationBatches(corpus.subarray(0, length), { batchSize: 2, sequenceLength: 4 }),
        ].flatMap((batch) => [...batch.tensors.labels.data]);
        expect(labels.filter((label) => label !== -100)).toEqual([...corpus.subarray(1, length)]);
      }),
    );
  });
});
