import { mkdtemp, readFile, readdir, rm, truncate, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type Corpus,
  DataLoader,
  encodeCorpus,
  hasTokens,
  measureCorpus,
  openTokens,
  piecesOf,
  stories,
  storyCorpus,
  textCorpus,
  tokenizeCorpus,
} from "../../src/data/index.js";
import { type Tokenizer, characterTokenizer, trainByteLevelBpe } from "../../src/tokenizers/index.js";
import { createRuntime } from "../../src/runtime/index.js";

const runtime = createRuntime();
let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage é-"));
});
afterAll(() => rm(folder, { recursive: true }));

/** Longer than several pieces, with runs of spaces and lines, and letters of more than one byte or UTF-16 unit. */
const text = [...stories({ seed: 3, count: 1800 })]
  .map((story, i) => (i % 3 === 0 ? `${story}\n\n  — “naïve” 🦊   ` : `${story.replaceAll(". ", ".\n")}\n`))
  .join("");

const bpe = trainByteLevelBpe([text], { vocabSize: 600 });
const characters = characterTokenizer(text);

async function tokens(
  corpus: Corpus,
  tokenizer: Tokenizer,
  heldOut: number,
  vocabSize = tokenizer.vocabSize,
) {
  const place = await mkdtemp(path.join(folder, "tokens "));
  await tokenizeCorpus(place, corpus, await measureCorpus(corpus), {
    encode: (piece) => tokenizer.encode(piece),
    vocabSize,
    endOfText: tokenizer.endOfTextId,
    heldOut,
  });
  using opened = await openTokens(runtime, place, vocabSize);
  return { place, training: Array.from(opened.training), validation: Array.from(opened.validation) };
}

describe("a long text", () => {
  it.each([
    ["byte-level BPE", bpe],
    ["characters", characters],
  ])("has the same tokens in pieces as at once: %s", async (_, tokenizer) => {
    const file = path.join(folder, "long.txt");
    await writeFile(file, text);
    expect(text.length).toBeGreaterThan(4 * 2 ** 18);
    const found = await tokens(textCorpus(file), tokenizer, 0.1);
    const encode = (piece: string) => tokenizer.encode(piece);
    expect(
      [...piecesOf(textCorpus(file), { characters: text.length, documents: 1 }, 0.1, encode)].length,
    ).toBeGreaterThan(4);
    const cut = Math.floor(text.length * 0.9);
    const end = tokenizer.endOfTextId === undefined ? [] : [tokenizer.endOfTextId];
    expect(found.training).toEqual([...tokenizer.encode(text.slice(0, cut)), ...end]);
    expect(found.validation).toEqual([...tokenizer.encode(text.slice(cut)), ...end]);
    expect([...encodeCorpus(textCorpus(file), encode)]).toEqual(tokenizer.encode(text));
  });

  it("is read in parts that split no character", async () => {
    const file = path.join(folder, "fox.txt");
    await writeFile(file, "🦊".repeat(2 ** 18 + 5) + "é");
    const size = await measureCorpus(textCorpus(file));
    expect(size).toEqual({ characters: 2 * (2 ** 18 + 5) + 1, documents: 1 });
  });

  it("that is not UTF-8 is refused with the place", async () => {
    const file = path.join(folder, "latin1.txt");
    await writeFile(file, Buffer.concat([Buffer.alloc(2 ** 20 + 10, "a"), Buffer.from([0xe9, 0x20])]));
    await expect(measureCorpus(textCorpus(file))).rejects.toThrow(
      /latin1\.txt: the text is not UTF-8 \(between bytes 1048576 and 1048588\); convert it first/,
    );
  });
});

describe("token files", () => {
  it("hold documents, each closed, and the last share of them apart", async () => {
    const found = await tokens(storyCorpus({ seed: 1, count: 10 }), bpe, 0.25);
    const documents = [...stories({ seed: 1, count: 10 })].map((story) => [
      ...bpe.encode(story),
      bpe.endOfTextId!,
    ]);
    expect(found.training).toEqual(documents.slice(0, 8).flat());
    expect(found.validation).toEqual(documents.slice(8).flat());
  });

  it("are 16-bit integers where the vocabulary allows it, else 32-bit", async () => {
    const corpus = storyCorpus({ seed: 1, count: 3 });
    const small = await tokens(corpus, bpe, 0.4);
    const large = await tokens(corpus, bpe, 0.4, 2 ** 16 + 1);
    const bytes = await readFile(path.join(small.place, "training.bin"));
    expect(bytes.byteLength).toBe(2 * small.training.length);
    expect(bytes.readUInt16LE(2)).toBe(small.training[1]);
    expect((await readFile(path.join(large.place, "training.bin"))).byteLength).toBe(
      4 * large.training.length,
    );
    expect(large.training).toEqual(small.training);
  });

  it("give the loader what the ids in memory give it", async () => {
    const { place, training } = await tokens(storyCorpus({ seed: 1, count: 20 }), bpe, 0.1);
    using mapped = await openTokens(runtime, place, bpe.vocabSize);
    const options = { batchSize: 3, sequenceLength: 32, seed: 4 };
    const [one, two] = [
      new DataLoader(mapped.training, options),
      new DataLoader(Int32Array.from(training), options),
    ];
    for (let i = 0; i < 40; i++) expect(one.next()).toEqual(two.next());
  });

  it("are there whole or not at all", async () => {
    const place = await mkdtemp(path.join(folder, "tokens "));
    const corpus = storyCorpus({ seed: 1, count: 4 });
    const options = { vocabSize: 600, endOfText: undefined, heldOut: 0.25 };
    const failing = {
      ...options,
      encode: (piece: string) => {
        if (piece.length % 2 === 0) throw new Error("no more");
        return [1];
      },
    };
    await expect(tokenizeCorpus(place, corpus, await measureCorpus(corpus), failing)).rejects.toThrow(
      "no more",
    );
    expect(hasTokens(place)).toBe(false);
    expect(await readdir(place)).toEqual([]);
  });

  it("are refused when they were cut, or are of another vocabulary", async () => {
    const { place } = await tokens(storyCorpus({ seed: 1, count: 4 }), bpe, 0.25);
    await expect(openTokens(runtime, place, 601)).rejects.toThrow(
      "holds tokens of a vocabulary of 600, but the tokenizer has 601",
    );
    await truncate(path.join(place, "training.bin"), 100);
    await expect(openTokens(runtime, place, 600)).rejects.toThrow(
      /training\.bin has 100 bytes, but its \d+ tokens take/,
    );
    await rm(path.join(place, "training.bin"));
    await expect(openTokens(runtime, place, 600)).rejects.toThrow(/training\.bin is missing/);
  });
});
