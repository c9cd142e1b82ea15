import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { FormatError, LineageError } from "../../src/base/errors.js";
import { fromOniguruma } from "../../src/tokenizers/oniguruma.js";
import {
  Tokenizer,
  type TokenizerDefinition,
  trainByteLevelBpe,
  trainEncoderBpe,
  trainWordPiece,
} from "../../src/tokenizers/index.js";

const sample = JSON.parse(
  readFileSync(new URL("../reference/values/tokenizer-differential.json", import.meta.url), "utf8"),
) as { definition: TokenizerDefinition; cases: { text: string }[] }[];

const base: TokenizerDefinition = {
  model: { type: "WordLevel", unk_token: "?", vocab: { "?": 0, a: 1 } },
};

describe("a definition is refused, with the place of the fault, that has", () => {
  it.each<[Record<string, unknown>, string]>([
    [
      { post_processor: { type: "TemplateProcessing", single: { type: "Whitespace" } } },
      "post_processor.single: this is an object; it must be a list",
    ],
    [
      { post_processor: { type: "BertProcessing", cls: ["a", 1], sep: ["b", 7] } },
      "sep has an id that is none of the vocabulary's, which has 2",
    ],
    [{ model: { type: "Unigram", unk_id: { a: 1 }, vocab: [["a", 0]] } }, "model.unk_id: this is an object"],
    [
      { model: { type: "Unigram", unk_id: 4, vocab: [["a", 0]] } },
      "unk_id is 4, and the vocabulary has 1 pieces",
    ],
    [{ model: { type: "BPE", vocab: { a: 0 }, merges: ["a b"] } }, 'the merges need the token "b"'],
    [
      { model: { type: "BPE", vocab: { a: 0 }, merges: ["a b c"] } },
      "it must be two tokens with one space between",
    ],
    [
      { model: { type: "BPE", vocab: { a: 0 }, merges: [], dropout: 0.1 } },
      "dropout cuts every text in another way",
    ],
    [{ normalizer: { type: "Upper" } }, 'there is no normalizer of the type "Upper"'],
    [
      { pre_tokenizer: { type: "Sequence", pretokenizers: [{ type: "Punctuation", behavior: "Odd" }] } },
      'pre_tokenizer.pretokenizers[0].behavior: this is "Odd"',
    ],
    [
      { pre_tokenizer: { type: "Split", pattern: { Regex: "a(?~b)" }, behavior: "Isolated" } },
      "the group (?~b",
    ],
    [
      { decoder: { type: "Strip", content: "ab", start: 1, stop: 0 } },
      'decoder.content: this is "ab"; it must be one character',
    ],
  ])("%j", (parts, sentence) => {
    expect(() => new Tokenizer({ ...base, ...parts } as TokenizerDefinition)).toThrow(FormatError);
    expect(() => new Tokenizer({ ...base, ...parts } as TokenizerDefinition)).toThrow(sentence);
  });
});

it("a broken definition ends in a typed error, or gives ids of its vocabulary", () => {
  const odd = [
    null,
    5,
    -1,
    1.5,
    "x",
    "",
    [],
    {},
    true,
    1e9,
    "(",
    { Regex: "(" },
    { type: "Whitespace" },
    "__proto__",
  ];
  const places = (value: unknown, found: [Record<string, unknown>, string][] = []) => {
    if (typeof value === "object" && value !== null)
      for (const key of Object.keys(value)) {
        const owner = value as Record<string, unknown>;
        found.push([owner, key]);
        if (key !== "vocab" && key !== "merges") places(owner[key], found);
      }
    return found;
  };
  fc.assert(
    fc.property(fc.nat(sample.length - 1), fc.nat(), fc.constantFrom(...odd), (index, place, value) => {
      const { definition, cases } = structuredClone(sample[index]!);
      const all = places(definition);
      const [owner, key] = all[place % all.length]!;
      owner[key] = value;
      try {
        const tokenizer = new Tokenizer(definition);
        for (const { text } of cases) {
          const ids = tokenizer.encode(text);
          for (const id of ids) expect(id).toBeLessThan(tokenizer.vocabSize);
          tokenizer.decode(ids);
          tokenizer.encodePair(text, "a", { offsets: true });
        }
      } catch (error) {
        expect(error).toBeInstanceOf(LineageError);
      }
    }),
    { numRuns: 600 },
  );
});

it("words that every object of JavaScript has are words like others", () => {
  const words = "constructor toString valueOf hasOwnProperty __proto__ isPrototypeOf";
  const text = `${words} `.repeat(9);
  for (const tokenizer of [
    trainByteLevelBpe([text], { vocabSize: 400 }),
    trainEncoderBpe([text], { vocabSize: 400, style: "roberta" }),
  ]) {
    expect(tokenizer.decode(tokenizer.encode(words))).toBe(words);
    expect(tokenizer.encode("constructor")).toHaveLength(1);
  }
  const wordPiece = trainWordPiece([text], { vocabSize: 120 });
  expect(wordPiece.encode("constructor")).toEqual([wordPiece.tokenToId("constructor")]);
});

it("merges of tokens with spaces keep their pairs apart", () => {
  // Two pairs that would be the same text with a space between: "a b" with "c", and "a" with "b c".
  const vocab = Object.fromEntries(
    ["a", " ", "b", "c", "a ", "a b", " c", "b c", "a b c"].map((token, id) => [token, id]),
  );
  const tokenizer = new Tokenizer({
    model: {
      type: "BPE",
      vocab,
      merges: [
        ["a", " "],
        [" ", "c"],
        ["a ", "b"],
        ["b", " c"],
      ],
    },
  });
  expect(tokenizer.encode("a b c").map((id) => tokenizer.idToToken(id))).toEqual(["a b", " c"]);
});

it("a part without a token is an error, never silence", () => {
  const tokenizer = new Tokenizer({ model: { type: "BPE", vocab: { a: 0 }, merges: [] } });
  expect(() => tokenizer.encode("ab")).toThrow(
    'the tokenizer has no token for "b", nor one for what is unknown',
  );
});

it.each(["\\G", "\\K", "(?~a)", "(?(1)a)", "\\g<1>", "a\\X", "\\p{Nonsense}", "\\xE3"])(
  "the regular expression %s is refused by name",
  (source) => {
    expect(() => fromOniguruma(source)).toThrow(LineageError);
    expect(() => fromOniguruma(source)).toThrow("which lineage cannot run");
  },
);

it("a word of a megabyte is cut in time that grows with its length", () => {
  const tokenizer = trainByteLevelBpe(["abab abab aba ".repeat(50)], { vocabSize: 270 });
  const time = (count: number) => {
    const start = performance.now();
    expect(tokenizer.encode("ab".repeat(count)).length).toBeGreaterThan(0);
    return performance.now() - start;
  };
  time(20_000);
  // Ten times the length: a hundred times the time would be quadratic.
  expect(time(500_000)).toBeLessThan(40 * (time(50_000) + 20));
});
