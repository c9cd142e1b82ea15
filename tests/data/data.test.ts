import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { countReadings } from "../../src/data/stories/grammar.js";
import { fragments, plots } from "../../src/data/stories/plots.js";
import { DataLoader, evaluationBatches, stories, story } from "../../src/data/index.js";

describe("the story corpus", () => {
  const sample = [...stories({ seed: 100, count: 5000 })];

  it("tells the same story for the same seed and another for another", () => {
    expect(story(7)).toBe(story(7));
    expect(new Set(sample).size).toBe(sample.length);
  });

  it("has some fifteen hundred words and stories of a paragraph or more", () => {
    const words = new Set(sample.flatMap((text) => text.toLowerCase().match(/[a-z]+/g)!));
    expect(words.size).toBeGreaterThan(1400);
    expect(words.size).toBeLessThan(1800);
    for (const text of sample) {
      const length = text.split(/\s+/).length;
      expect(length).toBeGreaterThan(60);
      expect(length).toBeLessThan(320);
    }
  });

  it("can tell millions of stories of each kind, before anybody in it has a name", () => {
    expect(plots.length).toBeGreaterThanOrEqual(15);
    for (const { name, text } of plots)
      expect(countReadings(text, fragments), name).toBeGreaterThan(1_000_000n);
    // Among so many, 5,000 draws hardly ever meet: a birthday's chance of one pair in 10 million or more.
    const long = [...stories({ seed: 1_000_000, count: 20_000 })];
    expect(new Set(long).size).toBe(long.length);
  });

  it("speaks in every story, and tells it in paragraphs", () => {
    for (const text of sample) {
      expect(text.match(/"[^"]+"/g)!.length, text).toBeGreaterThanOrEqual(2);
      expect(text.split("\n").length).toBeGreaterThanOrEqual(2);
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
      "my.txt has 4 tokens, enough for 0 rows of 4",
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
