import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Encoding, Tokenizer } from "../../src/tokenizers/index.js";

interface Expected {
  ids: number[];
  typeIds: number[];
  specialMask: number[];
  offsets: [number, number][];
}
interface Reference {
  texts: string[];
  question: string;
  context: string;
  tokenizers: Record<
    string,
    {
      definition: ConstructorParameters<typeof Tokenizer>[0];
      single: Expected[];
      pair: Expected[];
      cuts: (Expected & { text: string; pair: string | null; maxLength: number })[];
      windows: Expected[];
    }
  >;
}
const reference = JSON.parse(
  readFileSync(new URL("../reference/values/encodings.json", import.meta.url), "utf8"),
) as Reference;

/** Places in UTF-16 units as Python counts them. */
const codePoints = (text: string, place: number): number => Array.from(text.slice(0, place)).length;

function check(found: Encoding, expected: Expected, texts: readonly string[]): void {
  expect(found.ids).toEqual(expected.ids);
  expect(found.typeIds).toEqual(expected.typeIds);
  expect(found.specialMask.map(Number)).toEqual(expected.specialMask);
  const offsets = found.offsets!.map(([start, end], place) => {
    const text = texts[found.sequences[place]!] ?? "";
    return [codePoints(text, start), codePoints(text, end)];
  });
  expect(offsets).toEqual(expected.offsets);
}

describe.each(Object.entries(reference.tokenizers))(
  "%s encodes as the tokenizers library:",
  (_, expected) => {
    const tokenizer = new Tokenizer(expected.definition);
    const { texts, question, context } = reference;

    it.each(texts.map((text, place) => ({ text, place })))("$text", ({ text, place }) => {
      check(tokenizer.encodePair(text, undefined, { offsets: true }), expected.single[place]!, [text]);
    });

    it("pairs", () => {
      expected.pair.forEach((encoding, place) => {
        const [a, b] = [texts[place]!, texts[place + 2]!];
        check(tokenizer.encodePair(a, b, { offsets: true }), encoding, [a, b]);
      });
    });

    it("texts that are cut, with a count of what is lost", () => {
      for (const { text, pair, maxLength, ...encoding } of expected.cuts) {
        const found = tokenizer.encodePair(text, pair ?? undefined, { maxLength, offsets: true });
        check(found, encoding, [text, pair ?? ""]);
        const whole = tokenizer.encodePair(text, pair ?? undefined);
        expect(found.truncated).toBe(whole.ids.length - found.ids.length);
      }
    });

    it("windows over a long second text", () => {
      const windows = tokenizer.encodeWindows(question, context, {
        maxLength: 48,
        stride: 12,
        offsets: true,
      });
      expect(windows).toHaveLength(expected.windows.length);
      windows.forEach((window, place) => {
        check(window, expected.windows[place]!, [question, context]);
      });
    });

    it("and its places hold for any text", () => {
      fc.assert(
        fc.property(fc.string({ unit: "grapheme" }), (text) => {
          const { ids, offsets } = tokenizer.encodePair(text, undefined, { offsets: true });
          expect(ids).toEqual(tokenizer.encodePair(text).ids);
          for (const [start, end] of offsets!) {
            expect(start).toBeLessThanOrEqual(end);
            expect(end).toBeLessThanOrEqual(text.length);
          }
        }),
      );
    });
  },
);

describe("an encoding", () => {
  const tokenizer = new Tokenizer(reference.tokenizers["wordpiece"]!.definition);

  it("refuses limits without room", () => {
    expect(() => tokenizer.encodePair("a", "b", { maxLength: 2 })).toThrow(
      "2 tokens do not hold the 3 special ones",
    );
    expect(() => tokenizer.encodePair("a", "b c d e f", { maxLength: 5, truncate: "first" })).toThrow(
      "the second text alone has 5 tokens, and 2 fit beside the special ones",
    );
    expect(() => tokenizer.encodeWindows("a b c", "d", { maxLength: 8, stride: 2 })).toThrow(
      "windows of 8 tokens have room for 2 beside the special tokens and the first text's 3",
    );
  });

  it("of words tells which word each token is of", () => {
    const { ids, wordIds } = tokenizer.encodeWords(["the", "teacher", "日本"]);
    expect(wordIds[0]).toBe(-1);
    expect(wordIds.at(-1)).toBe(-1);
    expect([...new Set(wordIds.slice(1, -1))]).toEqual([0, 1, 2]);
    expect(ids).toEqual(tokenizer.encodePair("the teacher 日本").ids);
  });
});
