import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  GgufFile,
  type GgufValue,
  ggufFormat,
  ggufStopIds,
  ggufTokenizer,
  ggufTokenizerMetadata,
  writeGguf,
} from "../../../src/formats/index.js";
import { preTokenizers } from "../../../src/formats/gguf/pre-tokenizers.js";
import { saveGguf } from "../../../src/checkpoints/index.js";
import { Llama, llamaConfig, systems } from "../../../src/models/index.js";
import { Weights } from "../../../src/nn/index.js";
import { createRuntime } from "../../../src/runtime/index.js";
import { byteCharacters } from "../../../src/tokenizers/bytes.js";
import { Tokenizer, trainByteLevelBpe } from "../../../src/tokenizers/index.js";
import { LlamaCppModel, llamaCppFolder } from "../../../bench/llama-cpp.js";

const texts = [
  "Hello world, it's 12345 o'clock; don't WE'LL see?",
  "  two  spaces\n\n\tand tabs   \r\n end  ",
  "naïve café 日本語のテキスト한국어 中文 𠀀🙂 👩‍🚀",
  "snake_case camelCase HTTPServer x=1.5e10+3<4>=2|a^b~c`d$e",
  "<|im_start|>user\nhi<|im_end|>",
  "1 12 123 1234 1234567 ٣٤٥",
  "“quotes” — dash… (parens) [x] {y} … 。，、",
  "e\u0301 combining, Ёлка ÉCOLE straße ΑΒΓ",
  "    def f(x):\n        return x  # note\n\n\n",
  "",
  " ",
  "\n",
];
/**
 * Texts that llama.cpp cuts otherwise than the models' own tokenizer.json, which it says itself beside its expressions: it
 * has no classes of capital and small letters, and takes every letter but a to z for a capital.
 */
const known: Readonly<Record<string, RegExp>> = {
  ...Object.fromEntries(
    ["tekken", "gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2", "granite-embed-multi-97m"].map(
      (name) => [name, /ÉCOLE/],
    ),
  ),
  ...Object.fromEntries(
    ["tiny_aya", "cohere2moe", "kimi-k2", "youtu"].map((name) => [name, /ÉCOLE|camelCase/]),
  ),
};

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "lineage-"));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const corpus = [...texts, "the cat sat on the mat 12 123 1234 it's don't  \n\n\n    ,,, ... !!! ===\t"].join(
  " ",
);
const trained = trainByteLevelBpe([corpus.repeat(20)], { vocabSize: 520 });

/** A small model's file with entries that differ; undefined takes one away. */
async function fileWith(
  name: string,
  entries: Readonly<Record<string, GgufValue | undefined>>,
): Promise<string> {
  const source = path.join(folder, "source.gguf");
  const runtime = createRuntime({ threads: 1 });
  const model = new Llama(
    llamaConfig({
      vocabSize: trained.vocabSize,
      hiddenSize: 32,
      intermediateSize: 32,
      numLayers: 1,
      numHeads: 2,
      contextLength: 64,
    }),
  );
  using weights = Weights.initialize(runtime, model, 1);
  await saveGguf(source, { system: systems.llama, model, weights, tokenizer: trained });
  const gguf = await GgufFile.open(source);
  const metadata = new Map(gguf.header.metadata);
  for (const [key, value] of Object.entries(entries)) {
    if (value) metadata.set(key, value);
    else metadata.delete(key);
  }
  const file = path.join(folder, `${name}.gguf`);
  const tensors = Array.from(gguf.tensors, ([tensor, { shape }]) => ({
    name: tensor,
    format: ggufFormat("F32"),
    shape,
    values: () => gguf.readValues(tensor),
  }));
  await writeGguf(file, metadata, tensors);
  return file;
}

const uint32 = (value: number): GgufValue => ({ type: "uint32", value });

/** A vocabulary of Gemma's kind: bytes by their numbers, spaces as a sign of their own. */
const writtenAsText: Readonly<Record<string, GgufValue>> = (() => {
  const bytes = Array.from(
    { length: 256 },
    (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`,
  );
  const pairs = ["h e", "l l", "he ll", "hell o", "▁ a", "▁a n", "▁an d", "▁ ▁", "1 2", "\n \n", "i t"];
  const named = ["<bos>", "<eos>", "<unk>", ...bytes, "\n", "\t", "▁", ..."abcdefghilnotw123é日"];
  const merged = pairs.map((pair) => pair.replace(" ", ""));
  const tokens = [...new Set([...named, ...merged])];
  while (tokens.length < trained.vocabSize) tokens.push(`[PAD${tokens.length}]`);
  const type = (token: string) =>
    token.startsWith("<0x") ? 6 : token === "<unk>" ? 2 : /^<|^\[PAD/.test(token) ? 3 : 1;
  return {
    "tokenizer.ggml.tokens": { type: "array", of: "string", value: tokens },
    "tokenizer.ggml.token_type": { type: "array", of: "int32", value: tokens.map(type) },
    "tokenizer.ggml.merges": { type: "array", of: "string", value: pairs },
    "tokenizer.ggml.bos_token_id": uint32(0),
    "tokenizer.ggml.eos_token_id": uint32(1),
    "tokenizer.ggml.unknown_token_id": uint32(2),
  };
})();

const text = (value: string): GgufValue => ({ type: "string", value });

/** A file of a vocabulary alone. */
async function vocabulary(
  tokens: readonly string[],
  entries: Readonly<Record<string, GgufValue>> = {},
): Promise<GgufFile> {
  const file = path.join(folder, "vocabulary.gguf");
  const all: Record<string, GgufValue> = {
    model: text("gpt2"),
    pre: text("gpt-2"),
    tokens: { type: "array", of: "string", value: tokens },
    merges: { type: "array", of: "string", value: [] },
    ...entries,
  };
  const metadata = new Map(Object.entries(all).map(([key, value]) => [`tokenizer.ggml.${key}`, value]));
  await writeGguf(file, metadata, []);
  return GgufFile.open(file);
}

describe("a GGUF's tokenizer", () => {
  it("has the ends that llama.cpp knows by their names, the file's own first", async () => {
    const tokens = ["a", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "b", "<|file_sep|>", "</s>"];
    const gguf = await vocabulary(tokens, { eos_token_id: uint32(4) });
    expect(ggufStopIds(gguf)).toEqual([4, 2, 1, 3, 6, 5]);
    const named = ggufStopIds(await vocabulary(tokens, { eot_token_id: uint32(0) }));
    expect(named[0]).toBe(0);
    // They are no text, whatever type the file gives them.
    const tokenizer = ggufTokenizer(gguf);
    expect(tokenizer.encode("a<|eot_id|>")).toEqual([0, 2]);
    expect(tokenizer.decode([0, 2])).toBe("a");
    const harmony = await vocabulary(["<|return|>", "<|call|>", "<|end|>"]);
    expect(ggufStopIds(harmony)).toEqual([0, 1]);
  });

  it("takes ids of tokens that there are not as absent, as -1", async () => {
    const gguf = await vocabulary(["a", "b"], {
      eos_token_id: uint32(4294967295),
      bos_token_id: { type: "int32", value: -1 },
      padding_token_id: uint32(2),
    });
    const tokenizer = ggufTokenizer(gguf);
    expect([tokenizer.eosId, tokenizer.bosId, tokenizer.padId]).toEqual([undefined, undefined, undefined]);
    expect(ggufStopIds(gguf)).toEqual([]);
  });

  it("adds BOS where the file, or else the cut's name, says so", async () => {
    const adds = async (entries: Readonly<Record<string, GgufValue>>) =>
      ggufTokenizer(await vocabulary(["a", "<s>"], { bos_token_id: uint32(1), ...entries })).addsBos;
    expect(await adds({ pre: text("llama-bpe") })).toBe(true);
    expect(await adds({ pre: text("tekken") })).toBe(true);
    expect(await adds({ pre: text("qwen2") })).toBe(false);
    expect(await adds({ pre: text("llama-bpe"), add_bos_token: { type: "bool", value: false } })).toBe(false);
    expect(await adds({ add_bos_token: { type: "bool", value: true } })).toBe(true);
  });

  it("says so where the way to cut is missing, and refuses one that nobody knows by its name", async () => {
    const gguf = await vocabulary(["1", "2", "3", "4", "5"]);
    (gguf.header.metadata as Map<string, GgufValue>).delete("tokenizer.ggml.pre");
    const warnings: string[] = [];
    ggufTokenizer(gguf, (sentence) => warnings.push(sentence));
    expect(warnings).toEqual([expect.stringContaining("tokenizer.ggml.pre")]);
    const unknown = await vocabulary(["a"], { pre: text("my-own") });
    expect(() => ggufTokenizer(unknown)).toThrow(/has the pre-tokenizer "my-own"; lineage knows gpt-2, /);
  });
});

describe("tokens that are written as text", () => {
  it("are cut by lines, spell what they have no token for by bytes, and become the text again", async () => {
    const file = await fileWith("gemma", {
      ...writtenAsText,
      "tokenizer.ggml.model": text("gemma4"),
      "tokenizer.ggml.add_bos_token": { type: "bool", value: false },
    });
    const tokenizer = ggufTokenizer(await GgufFile.open(file));
    const spelled = tokenizer.encode("hello and\n\n\n12é🙂").map((id) => tokenizer.idToToken(id));
    // Two breaks of line are a token, three are none.
    expect(spelled).toEqual([
      "hello",
      "▁and",
      "\n\n",
      "\n",
      "12",
      "é",
      "<0xF0>",
      "<0x9F>",
      "<0x99>",
      "<0x82>",
    ]);
    for (const sample of texts) {
      expect(tokenizer.decode(tokenizer.encode(sample))).toBe(sample);
    }
    // As llama.cpp has it, whatever the file says.
    expect(tokenizer.addsBos).toBe(true);
  });

  it("are divided at spaces by the rules whitespace", async () => {
    const gguf = await vocabulary(["a", "b", "ab", "ba"], {
      model: text("whitespace"),
      pre: text("whitespace"),
      merges: { type: "array", of: "string", value: ["a b"] },
    });
    expect(ggufTokenizer(gguf).encode("ab  ba\nabb")).toEqual([2, 1, 0, 2, 1]);
  });
});

// By hand, from the models' own expressions.
it.each([
  ["kimi-k2", ["Hello", " World's", " ", "中文字", "abc", "123", "4", "!\n"]],
  ["afmoe", ["1", "234", "567", " abc", " ", "12", " =", "x"]],
  ["superbpe", ["a b ", "12", "345", " c.d"]],
  ["exaone-moe", ["hello big world it", "'s", " ", "1", "2", "!\n", "\n"]],
  ["youtu", ["한국어", " Camel", "Case", " ", "1", "2", "日本"]],
])("the rules %s cut %j", (name, pieces) => {
  const tokens = pieces.map(byteCharacters);
  const tokenizer = new Tokenizer({
    version: "1.0",
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: preTokenizers.get(name)!.definition,
    post_processor: null,
    decoder: null,
    model: {
      type: "WordLevel",
      unk_token: "?",
      vocab: Object.fromEntries([...new Set(["?", ...tokens])].map((token, id) => [token, id])),
    },
  });
  const found = tokenizer.encode(pieces.join("")).map((id) => tokenizer.idToToken(id));
  expect(found).toEqual(tokens);
});

it("keeps every template of a conversation by its name, in both directions", async () => {
  const templates = [
    { name: "default", template: "{{ messages }}" },
    { name: "tool_use", template: "{{ tools }}" },
  ];
  const named = new Tokenizer(trained.definition, { ...trained.config, chat_template: templates });
  const metadata = ggufTokenizerMetadata(named, named.vocabSize, []);
  expect(metadata.get("tokenizer.chat_template.tool_use")).toEqual(text("{{ tools }}"));
  expect(metadata.get("tokenizer.chat_templates")).toEqual({
    type: "array",
    of: "string",
    value: ["tool_use"],
  });
  const file = await fileWith("templates", Object.fromEntries(metadata));
  const again = ggufTokenizer(await GgufFile.open(file));
  for (const { name, template } of templates) expect(again.chatTemplate(name)).toBe(template);
  const alone = ggufTokenizer(
    await GgufFile.open(await fileWith("one", { "tokenizer.chat_template.rag": text("{{ documents }}") })),
  );
  expect(alone.chatTemplate("rag")).toBe("{{ documents }}");
});

describe.skipIf(!llamaCppFolder)(
  "a GGUF's tokenizer beside llama.cpp's (needs @node-llama-cpp/linux-x64)",
  () => {
    const byteLevel = [...preTokenizers].flatMap(([name, { writtenSpace }]) =>
      writtenSpace === undefined ? [name] : [],
    );
    it.each(byteLevel)("cuts alike by the rules %s", async (pre) => {
      const file = await fileWith("cut", { "tokenizer.ggml.pre": text(pre) });
      using theirs = tryOpen(file);
      if (!theirs) return; // A name that is younger than this llama.cpp.
      const ours = ggufTokenizer(await GgufFile.open(file));
      for (const sample of texts) {
        if (known[pre]?.test(sample)) continue;
        const spell = (ids: readonly number[]) => ids.map((id) => ours.idToToken(id));
        expect(spell(ours.encode(sample)), JSON.stringify(sample)).toEqual(spell(theirs.tokenize(sample)));
      }
    });

    it.each(["gemma4", "sarvam-moe"])("cuts tokens written as text alike by the rules %s", async (pre) => {
      const file = await fileWith("written", { ...writtenAsText, "tokenizer.ggml.pre": text(pre) });
      using theirs = tryOpen(file);
      if (!theirs) return;
      const ours = ggufTokenizer(await GgufFile.open(file));
      for (const sample of texts)
        expect(ours.encode(sample), JSON.stringify(sample)).toEqual(theirs.tokenize(sample));
    });

    it("cuts by llama.cpp's default where no rules are named", async () => {
      const file = await fileWith("missing", { "tokenizer.ggml.pre": undefined });
      using theirs = LlamaCppModel.load(file);
      const ours = ggufTokenizer(await GgufFile.open(file), () => undefined);
      for (const sample of texts) expect(ours.encode(sample)).toEqual(theirs.tokenize(sample));
    });
  },
);

function tryOpen(file: string): LlamaCppModel | undefined {
  try {
    return LlamaCppModel.load(file);
  } catch {
    return undefined; // It says no more than that it did not load.
  }
}
