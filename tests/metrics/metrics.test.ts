import fc from "fast-check";
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { type BleuTokenizer, type RougeScore, bleu, chrf, rouge, rougeOf } from "../../src/metrics/index.js";

interface Options {
  tokenize?: BleuTokenizer;
  lowercase?: boolean;
  effective_order?: boolean;
  smooth_method?: "none";
  word_order?: number;
  char_order?: number;
  beta?: number;
}
interface Reference {
  cases: {
    said: string[];
    wanted: string[][];
    bleu: {
      options: Options;
      score: number;
      precisions: number[];
      bp: number;
      sys_len: number;
      ref_len: number;
      signature: string;
    }[];
    chrf: { options: Options; score: number; name: string; signature: string }[];
  }[];
  pairs: { said: string; wanted: string; scores: Record<keyof RougeScore, [number, number, number]> }[];
}
const reference = JSON.parse(
  readFileSync(new URL("../reference/values/text-metrics.json", import.meta.url), "utf8"),
) as Reference;

describe("BLEU is sacreBLEU's", () => {
  it.each(
    reference.cases.flatMap(({ said, wanted, bleu: scores }) =>
      scores.map((score) => ({ said, wanted, score })),
    ),
  )("$score.signature: $score.score", ({ said, wanted, score }) => {
    const { options } = score;
    const own = bleu(said, wanted, {
      tokenize: options.tokenize,
      lowercase: options.lowercase,
      effectiveOrder: options.effective_order,
      smooth: options.smooth_method,
    });
    expect(own.score).toBeCloseTo(score.score, 8);
    own.precisions.forEach((precision, order) => {
      expect(precision).toBeCloseTo(score.precisions[order]!, 8);
    });
    expect(own.brevityPenalty).toBeCloseTo(score.bp, 10);
    expect([own.hypothesisLength, own.referenceLength]).toEqual([score.sys_len, score.ref_len]);
    expect(own.signature).toBe(score.signature);
  });
});

describe("chrF is sacreBLEU's", () => {
  it.each(
    reference.cases.flatMap(({ said, wanted, chrf: scores }) =>
      scores.map((score) => ({ said, wanted, score })),
    ),
  )("$score.signature: $score.score", ({ said, wanted, score }) => {
    const { options } = score;
    const own = chrf(said, wanted, {
      wordOrder: options.word_order,
      charOrder: options.char_order,
      beta: options.beta,
      lowercase: options.lowercase,
    });
    expect(own.score).toBeCloseTo(score.score, 8);
    expect(own.name).toBe(score.name);
    expect(own.signature).toBe(score.signature);
  });
});

it("ROUGE is rouge-score's", () => {
  for (const { said, wanted, scores } of reference.pairs) {
    const own = rougeOf(said, wanted);
    for (const [name, [precision, recall, f]] of Object.entries(scores)) {
      const score = own[name as keyof RougeScore];
      expect(score.precision, `${name} of ${said}`).toBeCloseTo(precision, 10);
      expect(score.recall).toBeCloseTo(recall, 10);
      expect(score.f).toBeCloseTo(f, 10);
    }
  }
});

describe("What holds of every score", () => {
  const texts = fc.array(
    fc.array(fc.constantFrom("a", "b", "cat", "dog,", "3.5"), { minLength: 4, maxLength: 12 }),
    { minLength: 1, maxLength: 5 },
  );
  it("a text scores full marks against itself", () => {
    fc.assert(
      fc.property(texts, (words) => {
        const lines = words.map((line) => line.join(" "));
        expect(bleu(lines, [lines]).score).toBeCloseTo(100, 8);
        expect(chrf(lines, [lines]).score).toBeCloseTo(100, 8);
        expect(rouge(lines, lines).rougeL.f).toBeCloseTo(1, 8);
      }),
    );
  });
  it("files of unequal length are told with both lengths", () => {
    expect(() => bleu(["a", "b"], [["a"]])).toThrow("there are 2 texts to score, but 1 references");
    expect(() => chrf(["a"], [["a"], ["a", "b"]])).toThrow("2 references in list 2");
    expect(() => rouge([], [])).toThrow("no texts to score");
  });
});
