import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.js";
import {
  type Tokenizer,
  characterTokenizer,
  trainByteLevelBpe,
  trainTokenizer,
  trainUnigram,
  trainWordPiece,
} from "../../src/tokenizers/index.js";
import { writeTokenizer } from "../../src/formats/index.js";
import { systems } from "../../src/models/index.js";

/** Text of a made-up language whose words are one to eight of these syllables. */
function inventedText(syllables: readonly string[], words: number): string {
  const random = new Random(5);
  return Array.from({ length: words }, () =>
    Array.from({ length: 1 + random.integer(8) }, () => syllables[random.integer(syllables.length)]!).join(
      "",
    ),
  ).join(" ");
}

describe("a trained WordPiece", () => {
  const tokenizer = trainWordPiece(["The cat, the hat and the café", "the CAT"], { vocabSize: 40 });

  it("has BERT's special tokens first and marks what goes on within a word", () => {
    expect(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map((token) => tokenizer.tokenToId(token))).toEqual(
      [0, 1, 2, 3, 4],
    );
    // "##at" occurs three times, "##he" and then "the" four times.
    expect(tokenizer.encode("The HAT")).toEqual(
      ["the", "h", "##at"].map((token) => tokenizer.tokenToId(token)),
    );
    expect(tokenizer.encode("cafés")).toEqual([tokenizer.tokenToId("[UNK]")]);
    expect(tokenizer.encode("Cafe,")).toEqual(tokenizer.encode("CAFÉ ,"));
  });

  it("cuts any text into tokens of its vocabulary", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme" }), (text) => {
        for (const id of tokenizer.encode(text)) expect(id).toBeLessThan(40);
      }),
    );
  });

  it("refuses a vocabulary that cannot hold the characters", () => {
    expect(() => trainWordPiece(["abc"], { vocabSize: 6 })).toThrow(
      "a vocabulary of 6 tokens cannot hold 5 special tokens and the 3 characters of this text",
    );
    expect(() => trainWordPiece([" "], { vocabSize: 60 })).toThrow("there is no text");
  });
});

describe("a trained Unigram", () => {
  it("finds the units that a language was made of", async () => {
    const syllables = ["mora", "ki", "tuv", "shen", "lo"];
    const tokenizer = trainUnigram([inventedText(syllables, 3000)], { vocabSize: 60 });
    const units = new RegExp(`^\u2581?(${syllables.join("|")})+$`);
    const long = (await vocabularyOf(tokenizer)).slice(5).filter(([piece]) => piece.length > 1);
    expect(long.length).toBeGreaterThan(30);
    for (const [piece] of long) expect(piece).toMatch(units);
  });

  it("keeps pieces within a word and a script, and their probabilities below one together", async () => {
    const text = ["abc123 don't 日本語abc тест", ...Array<string>(5).fill("abc123 don't 日本語")];
    const pieces = await vocabularyOf(trainUnigram(text, { vocabSize: 60, style: "t5" }));
    expect(pieces.map(([piece]) => piece)).toContain("\u2581abc");
    for (const [piece] of pieces.slice(3)) {
      expect(piece.slice(1)).not.toContain("\u2581");
      expect(piece).not.toMatch(/\p{L}\p{N}|\p{L}'|'\p{L}|\p{Script=Han}[a-z]/u);
    }
    const total = pieces.slice(3).reduce((sum, [, score]) => sum + Math.exp(score), 0);
    expect(total).toBeGreaterThan(0.8);
    expect(total).toBeLessThan(1.05);
  });

  it("refuses a vocabulary that cannot hold the characters", () => {
    expect(() => trainUnigram(["abc"], { vocabSize: 6 })).toThrow(
      "a vocabulary of 6 tokens cannot hold 5 special tokens and the 4 characters of this text",
    );
  });
});

/** Pieces and scores as the saved definition has them. */
async function vocabularyOf(tokenizer: Tokenizer): Promise<[string, number][]> {
  const folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
  try {
    await writeTokenizer(tokenizer, folder);
    const definition = JSON.parse(await readFile(path.join(folder, "tokenizer.json"), "utf8")) as {
      model: { vocab: [string, number][] };
    };
    return definition.model.vocab;
  } finally {
    await rm(folder, { recursive: true });
  }
}

const reference = JSON.parse(
  readFileSync(new URL("../reference/values/tokenizer-trainers.json", import.meta.url), "utf8"),
) as Record<"vocabSize" | "wordPiece" | "byteLevelBpe" | "unigram" | "sentencePiece", number>;
const botchan = fileURLToPath(new URL("../../../shared/data/botchan.txt", import.meta.url));
describe.skipIf(!existsSync(botchan))(
  "trained on a novel (needs ../shared/data), compression is that of",
  () => {
    const { vocabSize } = reference;
    const tokens = async (train: (lines: string[]) => Tokenizer): Promise<number> => {
      const lines = (await readFile(botchan, "utf8")).replace("\uFEFF", "").split("\r\n");
      const tokenizer = train(lines);
      return lines.reduce((sum, line) => sum + tokenizer.encode(line).length, 0);
    };

    it("the tokenizers library: WordPiece", async () => {
      const count = await tokens((lines) => trainWordPiece(lines, { vocabSize }));
      expect(count).toBeLessThan(1.02 * reference.wordPiece);
    });
    it("the tokenizers library: byte-level BPE", async () => {
      const count = await tokens((lines) => trainByteLevelBpe(lines, { vocabSize }));
      expect(count).toBeLessThan(1.02 * reference.byteLevelBpe);
    });
    it("SentencePiece and the tokenizers library: Unigram", async () => {
      const count = await tokens((lines) => trainUnigram(lines, { vocabSize }));
      expect(count).toBeLessThan(1.02 * Math.min(reference.sentencePiece, reference.unigram));
    });
  },
);

/** `tokenizer_config.json` as it is written. */
async function writtenConfig(tokenizer: Tokenizer): Promise<Record<string, unknown>> {
  const folder = await mkdtemp(path.join(os.tmpdir(), "lineage-trained-"));
  try {
    await writeTokenizer(tokenizer, folder);
    return JSON.parse(await readFile(path.join(folder, "tokenizer_config.json"), "utf8")) as Record<
      string,
      unknown
    >;
  } finally {
    await rm(folder, { recursive: true });
  }
}

// Without a class, transformers takes the usual one of the model beside it: LLaMA's puts <s> before every text.
describe("a trained tokenizer as transformers opens it", () => {
  const text = inventedText(["ba", "du", "ki", "lo"], 2000);

  it.each(Object.values(systems).map((system) => [system.name, system] as const))(
    "%s names its class",
    async (_, system) => {
      const config = await writtenConfig(trainTokenizer(system.tokenizer, [text], 600));
      expect(config["tokenizer_class"]).toMatch(
        /^(PreTrainedTokenizerFast|(Bert|Albert|XLNet|T5|OpenAIGPT)Tokenizer)$/,
      );
    },
  );

  it.each(["gpt2", "gpt3", "llama", "mistral", "qwen2", "palm"] as const)(
    "%s is taken as it stands, and passes no token types, which GPT-2 would take for words",
    async (name) => {
      expect(await writtenConfig(trainTokenizer(systems[name].tokenizer, [text], 600))).toMatchObject({
        tokenizer_class: "PreTrainedTokenizerFast",
        model_input_names: ["input_ids", "attention_mask"],
      });
    },
  );

  it("is taken as it stands where its tokens are characters", async () => {
    expect(await writtenConfig(characterTokenizer(text))).toMatchObject({
      tokenizer_class: "PreTrainedTokenizerFast",
      model_input_names: ["input_ids", "attention_mask"],
    });
  });
});
