import { mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { loadTokenizer, writeTokenizer } from "../../src/formats/index.js";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
});
afterEach(() => rm(folder, { recursive: true }));

const write = (files: Readonly<Record<string, unknown>>): Promise<unknown> =>
  Promise.all(
    Object.entries(files).map(([name, content]) =>
      writeFile(path.join(folder, name), typeof content === "string" ? content : JSON.stringify(content)),
    ),
  );

describe("a folder with BERT's vocab.txt", () => {
  const tokens = "[PAD] [UNK] [CLS] [SEP] [MASK] a good film ##s bad !".split(" ");

  // Ids by transformers' BertTokenizerFast.
  it.each(["\n", "\r\n"])("cuts and joins as BERT does, with lines that end in %j", async (ending) => {
    await write({
      "vocab.txt": tokens.map((token) => token + ending).join(""),
      "tokenizer_config.json": { do_lower_case: true, tokenizer_class: "BertTokenizer" },
    });
    const tokenizer = await loadTokenizer(folder);
    expect(tokenizer.encode("A good film!")).toEqual([5, 6, 7, 10]);
    expect(tokenizer.encode("bad films")).toEqual([9, 7, 8]);
    expect(tokenizer.encodePair("bad", "a").ids).toEqual([2, 9, 3, 5, 3]);
    expect(tokenizer.encode("a [MASK]")).toEqual([5, 4]);
    expect([tokenizer.padId, tokenizer.unkId, tokenizer.maskId]).toEqual([0, 1, 4]);
  });

  it("is refused where a token is there twice", async () => {
    await write({ "vocab.txt": "a\nb\na\n" });
    await expect(loadTokenizer(folder)).rejects.toThrow('line 3 has the token "a" once more');
  });
});

describe("a folder with GPT-2's vocab.json and merges.txt", () => {
  const vocab = Object.fromEntries(
    ["H", "e", "l", "o", "He", "Hel", "Hell", "Hello", "<|endoftext|>"].map((token, id) => [token, id]),
  );
  const merges = ["#version: 0.2", "H e", "He l", "Hel l", "Hell o"];

  it.each(["\n", "\r\n"])("merges, with lines that end in %j", async (ending) => {
    await write({ "vocab.json": vocab, "merges.txt": merges.map((line) => line + ending).join("") });
    const tokenizer = await loadTokenizer(folder);
    expect(tokenizer.encode("Hello<|endoftext|>")).toEqual([7, 8]);
  });

  it("takes added_tokens.json and special_tokens_map.json along", async () => {
    await write({
      "vocab.json": vocab,
      "merges.txt": merges.join("\n"),
      "added_tokens.json": { "<|user|>": 10, "<|pad|>": 9 },
      "special_tokens_map.json": { pad_token: "<|pad|>", eos_token: { content: "<|endoftext|>" } },
    });
    const tokenizer = await loadTokenizer(folder);
    expect(tokenizer.encode("<|pad|>Hello<|user|>")).toEqual([9, 7, 10]);
    expect([tokenizer.padId, tokenizer.eosId]).toEqual([9, 8]);
    // As in transformers, only what the map names is special.
    expect(tokenizer.decode([9, 7, 10])).toBe("Hello<|user|>");
    await writeTokenizer(tokenizer, folder);
    expect((await loadTokenizer(folder)).encode("<|pad|>Hello<|user|>")).toEqual([9, 7, 10]);
  });

  it("says which line of the merges is wrong, and which kinds it cannot read", async () => {
    await write({ "vocab.json": vocab, "merges.txt": "#version: 0.2\nH e\nH e l\n" });
    await expect(loadTokenizer(folder)).rejects.toThrow('line 3 is "H e l"; it must be two tokens');
    await write({ "merges.txt": "H e", "tokenizer_config.json": { tokenizer_class: "XLMTokenizer" } });
    await expect(loadTokenizer(folder)).rejects.toThrow("is of a XLMTokenizer");
  });
});

describe("a tokenizer.json", () => {
  const definition = {
    version: "1.0",
    added_tokens: [
      {
        id: 3,
        content: "<end>",
        special: true,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
      },
    ],
    pre_tokenizer: { type: "WhitespaceSplit" },
    model: { type: "WordLevel", unk_token: "?", vocab: { "?": 0, a: 1, constructor: 2 } },
  };

  it("gets the tokens that only added_tokens_decoder names, as transformers adds them", async () => {
    await write({
      "tokenizer.json": definition,
      "tokenizer_config.json": {
        pad_token: "<pad>",
        added_tokens_decoder: { "4": { content: "<pad>", special: true } },
      },
    });
    const tokenizer = await loadTokenizer(folder);
    expect(tokenizer.encode("<pad>a constructor toString<end>")).toEqual([4, 1, 2, 0, 3]);
    expect(tokenizer.padId).toBe(4);
    expect(tokenizer.warnings).toEqual([]);
  });

  it("names in warnings what it does not know and what has another id than its file says", async () => {
    await write({
      "tokenizer.json": {
        ...definition,
        added_tokens: [{ id: 9, content: "<end>", special: true }],
        pre_tokenizer: { type: "WhitespaceSplit", odd: 1 },
        news: {},
      },
    });
    const tokenizer = await loadTokenizer(folder);
    // The tokenizers library gives it the next id.
    expect(tokenizer.encode("<end>")).toEqual([3]);
    expect(tokenizer.warnings.join("\n")).toMatch(/"<end>" has the id 9, but gets 3/);
    expect(tokenizer.warnings.join("\n")).toMatch(/pre_tokenizer has "odd"/);
    expect(tokenizer.warnings.join("\n")).toMatch(/the tokenizer has "news"/);
  });
});
