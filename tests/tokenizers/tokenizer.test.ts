import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { StreamDecoder, characterTokenizer, trainByteLevelBpe } from "../../src/tokenizers/index.js";
import { loadTokenizer, writeTokenizer } from "../../src/formats/index.js";

const text = "the cat and the dog and the hat, they said: naïve café 日本 🙂 don't\n".repeat(20);
const bpe = trainByteLevelBpe([text], { vocabSize: 290 });

describe("a trained byte-level BPE", () => {
  it("learns the most frequent pair first, and never across words", () => {
    const tiny = trainByteLevelBpe(["aab aab aac"], { vocabSize: 260 });
    // "aa" occurs three times; then "aab" and " aa" twice, "aab" before in the alphabet, after which no pair is left twice.
    expect(["aa", "aab"].map((token) => tiny.tokenToId(token))).toEqual([257, 258]);
    expect(tiny.vocabSize).toBe(259);
  });

  it("brings back any text", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (sample) => {
        expect(bpe.decode(bpe.encode(sample))).toBe(sample);
      }),
    );
  });

  it("streams whole characters that add up to the whole text", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme" }), (sample) => {
        const stream = new StreamDecoder(bpe);
        const pieces = bpe.encode(sample).map((id) => stream.push(id));
        expect(pieces.join("") + stream.flush()).toBe(sample);
        for (const piece of pieces) expect(piece).not.toContain("\uFFFD");
      }),
    );
  });

  it("is the same after a save and a load", async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
    try {
      await writeTokenizer(bpe, folder);
      const loaded = await loadTokenizer(folder);
      expect(loaded.encode(text)).toEqual(bpe.encode(text));
      expect(loaded.vocabSize).toBe(290);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it("refuses an empty text and unknown ids", async () => {
    expect(() => trainByteLevelBpe([""], { vocabSize: 300 })).toThrow(
      "there is no text to train a tokenizer on",
    );
    expect(() => bpe.decode([999])).toThrow("there is no token 999; ids go from 0 to 289");
    await expect(loadTokenizer(os.tmpdir())).rejects.toThrow("has no tokenizer");
  });
});

describe("a character tokenizer", () => {
  it("numbers characters in order and comes back from a file", async () => {
    const tokenizer = characterTokenizer("hello\nworld");
    expect(tokenizer.encode("\nde")).toEqual([0, 1, 2]);
    expect(tokenizer.decode(tokenizer.encode("hold\n"))).toBe("hold\n");
    const folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
    try {
      await writeTokenizer(tokenizer, folder);
      const loaded = await loadTokenizer(folder);
      expect(loaded.decode(loaded.encode("world"))).toBe("world");
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

const shared = fileURLToPath(new URL("../../../shared/data", import.meta.url));
describe.skipIf(!existsSync(path.join(shared, "gpt2_vocab.bpe")))(
  "GPT-2's own tokenizer (needs ../shared/data)",
  () => {
    it("gives the ids that Hugging Face's gives", async () => {
      const tokenizer = await loadTokenizer(shared);
      expect(tokenizer.vocabSize).toBe(50_257);
      expect(tokenizer.endOfTextId).toBe(50_256);
      expect(tokenizer.encode("Hello world")).toEqual([15496, 995]);
      const sample = "Don't 123 naïve 日本語 🙂\n\n\tx = f(y)  ;";
      expect(tokenizer.decode(tokenizer.encode(sample))).toBe(sample);
    });
  },
);
