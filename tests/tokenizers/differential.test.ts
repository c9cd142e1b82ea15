import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { Tokenizer, type TokenizerDefinition } from "../../src/tokenizers/index.js";

/** What the tokenizers library makes of a text under a random definition: tests/reference/tokenizer_differential.py. */
interface Case {
  readonly text: string;
  readonly pair?: string | null;
  readonly ids: number[];
  readonly encoded?: number[];
  readonly types?: number[];
  readonly offsets?: [number, number][];
  readonly decoded?: string;
  readonly spelled?: string;
}
const sample = JSON.parse(
  readFileSync(new URL("../reference/values/tokenizer-differential.json", import.meta.url), "utf8"),
) as { definition: TokenizerDefinition; cases: Case[] }[];

/** Places in UTF-16 units as Python counts them. */
const codePoints = (text: string, place: number): number => Array.from(text.slice(0, place)).length;

/** Whether the reference drops a character for which this model has no token: here it is an error. */
const drops = ({ model }: TokenizerDefinition): boolean => Boolean(model.merges) && model.unk_token === null;
/**
 * Whether the reference gives more bytes to an unknown character than the text has: those of the prefix or suffix too, so
 * that its places lie outside of the word.
 */
const overflows = ({ model }: TokenizerDefinition): boolean =>
  model.byte_fallback === true && Boolean(model["continuing_subword_prefix"] || model["end_of_word_suffix"]);

describe("under random definitions, as in the tokenizers library, are", () => {
  const each = (check: (tokenizer: Tokenizer, definition: TokenizerDefinition, expected: Case) => void) => {
    let checked = 0;
    for (const { definition, cases } of sample) {
      const tokenizer = new Tokenizer(definition);
      for (const expected of cases) {
        try {
          check(tokenizer, definition, expected);
          checked++;
        } catch (error) {
          if (drops(definition) && /has no token for/.test(String(error))) continue;
          throw error;
        }
      }
    }
    expect(checked).toBeGreaterThan(90);
  };

  it("ids", () => {
    each((tokenizer, _, { text, ids }) => {
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(ids);
    });
  });

  it("pairs with their special tokens, types and places", () => {
    each((tokenizer, definition, { text, pair, encoded, types, offsets }) => {
      if (!encoded) return;
      const found = tokenizer.encodePair(text, pair ?? undefined, { offsets: true });
      expect(found.ids).toEqual(encoded);
      expect(found.typeIds).toEqual(types);
      if (overflows(definition)) return;
      const texts = [text, pair ?? ""];
      const places = found.offsets!.map(([start, end], index) => {
        const own = texts[found.sequences[index]!] ?? "";
        return [codePoints(own, start), codePoints(own, end)];
      });
      expect(places, JSON.stringify(text)).toEqual(offsets);
    });
  });

  it("texts of ids, with special tokens and without", () => {
    each((tokenizer, _, { ids, decoded, spelled }) => {
      if (decoded !== undefined) expect(tokenizer.decode(ids)).toBe(decoded);
      if (spelled !== undefined) expect(tokenizer.decode(ids, { skipSpecialTokens: false })).toBe(spelled);
    });
  });
});
