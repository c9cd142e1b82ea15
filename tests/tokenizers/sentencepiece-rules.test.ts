import { describe, expect, it } from "vitest";
import { CharacterMap } from "../../src/tokenizers/character-map.js";
import { nfkcMap, sentencePieceRules } from "../../src/tokenizers/sentencepiece-rules.js";
import { Tokenizer, trainUnigram } from "../../src/tokenizers/index.js";

describe("the table of Unicode's form NFKC", () => {
  const map = new CharacterMap(nfkcMap(false));

  it("does to every character what the form does", () => {
    const different: string[] = [];
    for (let code = 1; code <= 0x10_ffff; code++) {
      if (code === 0xd800) code = 0xe000;
      const character = String.fromCodePoint(code);
      if (map.normalize(character) !== character.normalize("NFKC")) different.push(code.toString(16));
    }
    expect(different).toEqual([]);
  });

  it("joins marks to letters, syllables of Hangul, and kana of half width", () => {
    for (const text of [
      "Vie\u0323\u0302t Nam",
      "cafe\u0301 \u1112\u1161\u11ab\u1100\u1173\u11af",
      "ｶﾞﾊﾟｱ ﬁ½",
    ])
      for (const form of ["NFC", "NFD", "NFKC"] as const)
        expect(map.normalize(text.normalize(form))).toBe(text.normalize("NFKC"));
  });

  it("leaves bytes that no entry has alone", () => {
    expect(map.normalize("a\0b\u{1f642}")).toBe("a\0b\u{1f642}");
  });
});

describe("the rules of a unigram tokenizer in SentencePiece's words", () => {
  const trained = trainUnigram(["the cat sat on the mat ".repeat(20)], { vocabSize: 40, style: "t5" });
  const rules = (normalizer: object | null, pre_tokenizer: object | null = null) =>
    sentencePieceRules(
      new Tokenizer({ ...trained.definition, normalizer, pre_tokenizer } as typeof trained.definition)
        .definition,
    );

  it("of one that is trained here are NFKC, a space before a text, and single spaces", () => {
    const { addPrefix, removeExtraSpaces, charactersMap } = sentencePieceRules(trained.definition);
    expect([addPrefix, removeExtraSpaces]).toEqual([true, true]);
    expect(new CharacterMap(charactersMap).normalize("a\u00a0\tﬁ")).toBe("a  fi");
  });

  it("say what is not done", () => {
    expect(rules(null)).toEqual({
      charactersMap: new Uint8Array(),
      addPrefix: false,
      removeExtraSpaces: false,
    });
    expect(rules(null, { type: "Metaspace", replacement: "\u2581", prepend_scheme: "never" }).addPrefix).toBe(
      false,
    );
  });

  it("refuse what SentencePiece does not do", () => {
    expect(() => rules({ type: "Lowercase" })).toThrow("no normalizer of the type Lowercase");
    expect(() => rules(null, { type: "Whitespace" })).toThrow("no pre-tokenizer of the type Whitespace");
    expect(() => rules({ type: "Replace", pattern: { String: "a" }, content: "b" })).toThrow(
      'no replacement of {"String":"a"}',
    );
  });
});
