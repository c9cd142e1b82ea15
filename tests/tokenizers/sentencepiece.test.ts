import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { readJson } from "../../src/base/files.js";
import { StreamDecoder, parseSentencePiece } from "../../src/tokenizers/index.js";
import { loadSentencePiece, loadTokenizer, writeTokenizer } from "../../src/formats/index.js";
const values = fileURLToPath(new URL("../reference/values/sentencepiece", import.meta.url));
const data = process.env["LINEAGE_DATA"] ?? fileURLToPath(new URL("../../../shared/data", import.meta.url));
const llama = path.join(data, "llama_tokenizer.model");

interface Reference {
  readonly vocabSize: number;
  readonly encoded: readonly { text: string; ids: number[]; decoded: string }[];
  readonly decoded: readonly { ids: number[]; text: string }[];
}

const committed = (name: string) => path.join(values, `${name}.model`);
const models: Readonly<Record<string, string>> = {
  "LLaMA's (needs ../shared/data)": llama,
  unigram: committed("unigram"),
  unigramBytes: committed("unigramBytes"),
  bpe: committed("bpe"),
};

for (const [name, file] of Object.entries(models)) {
  describe.skipIf(file === llama && !existsSync(llama))(name, () => {
    const valuesFile = path.join(values, file === llama ? "llama.json" : `${name}.json`);
    const reference = async () => (await readJson(valuesFile)) as Reference;

    it("cuts and joins as the sentencepiece library does", async () => {
      const { encoded, vocabSize } = await reference();
      const tokenizer = await loadSentencePiece(file);
      expect(tokenizer.vocabSize).toBe(vocabSize);
      for (const { text, ids, decoded } of encoded) {
        expect(tokenizer.encode(text, { parseSpecial: false }), JSON.stringify(text)).toEqual(ids);
        // The library writes ⁇ for what is unknown.
        if (!decoded.includes("⁇")) expect(tokenizer.decode(ids)).toBe(decoded);
      }
    });

    it("writes any ids as the library does, broken characters included, and the same piece by piece", async () => {
      const { decoded } = await reference();
      const tokenizer = await loadSentencePiece(file);
      for (const { ids, text } of decoded) {
        expect(tokenizer.decode(ids), JSON.stringify(ids)).toBe(text);
        const stream = new StreamDecoder(tokenizer);
        expect(ids.map((id) => stream.push(id)).join("") + stream.flush()).toBe(text);
      }
    });

    it("cuts the same after a save as tokenizer.json", async () => {
      const { encoded } = await reference();
      const folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
      try {
        const before = await loadSentencePiece(file);
        await writeTokenizer(before, folder);
        const tokenizer = await loadTokenizer(folder);
        for (const { text, ids } of encoded)
          expect(tokenizer.encode(text, { parseSpecial: false })).toEqual(ids);
        expect([tokenizer.bosId, tokenizer.eosId, tokenizer.unkId, tokenizer.padId]).toEqual([
          1,
          2,
          0,
          undefined,
        ]);
      } finally {
        await rm(folder, { recursive: true });
      }
    });
  });
}

describe("a SentencePiece file", () => {
  it("is refused with a sentence when it is damaged, and never brings the reader down", async () => {
    const bytes = new Uint8Array(await readFile(committed("unigramBytes")));
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { minLength: 1, maxLength: 8 }),
        fc.nat(bytes.length),
        (changes, length) => {
          const mutated = bytes.slice(0, length);
          for (const [place, value] of changes) if (place < length) mutated[place] = value;
          try {
            parseSentencePiece("mutated.model", mutated);
          } catch (error) {
            expect(error).toMatchObject({ name: "FormatError" });
          }
        },
      ),
      { numRuns: 300 },
    );
  });
});

describe.skipIf(!existsSync(llama))("LLaMA's tokenizer (needs ../shared/data)", () => {
  it("knows its special tokens, and cuts a long text in time that grows with its length", async () => {
    const tokenizer = await loadSentencePiece(llama);
    expect(tokenizer.addsBos).toBe(true);
    expect(tokenizer.encode("<s> a</s>")).toEqual([1, 29871, 263, 2]);
    const text = await readFile(path.join(data, "botchan.txt"), "utf8");
    expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
  });
});
