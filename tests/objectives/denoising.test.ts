import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.js";
import {
  type Noise,
  type Sentences,
  bartNoise,
  combined,
  documentRotation,
  poisson,
  sentencePermutation,
  textInfilling,
  tokenDeletion,
  tokenMasking,
} from "../../src/objectives/index.js";

const maskId = -1;
const documents = fc.array(fc.array(fc.integer({ min: 0, max: 500 }), { minLength: 1, maxLength: 20 }), {
  minLength: 1,
  maxLength: 8,
});
const seeds = fc.integer({ min: 0, max: 2 ** 31 });
const always = (property: (sentences: Sentences, random: Random) => void) => {
  fc.assert(
    fc.property(documents, seeds, (sentences, seed) => {
      property(sentences, new Random(seed));
    }),
  );
};
/** Whether `part` is `whole` with items left out. */
function isSubsequence(part: readonly number[], whole: readonly number[]): boolean {
  let place = 0;
  for (const item of whole) if (place < part.length && part[place] === item) place++;
  return place === part.length;
}
/** A document of `count` distinct tokens in sentences of 50. */
const long = (count: number): number[][] =>
  Array.from({ length: count / 50 }, (_, sentence) =>
    Array.from({ length: 50 }, (_, place) => 50 * sentence + place),
  );

describe("The noises of BART", () => {
  it("masking keeps every place", () => {
    always((sentences, random) => {
      tokenMasking(0.3, maskId)(sentences, random).forEach((ids, sentence) => {
        expect(ids.length).toBe(sentences[sentence]!.length);
        ids.forEach((id, place) => {
          expect([maskId, sentences[sentence]![place]]).toContain(id);
        });
      });
    });
  });

  it("deletion leaves a subsequence, infilling one with masks", () => {
    always((sentences, random) => {
      for (const noise of [tokenDeletion(0.4), textInfilling(0.4, maskId)])
        noise(sentences, random).forEach((ids, sentence) => {
          expect(
            isSubsequence(
              ids.filter((id) => id !== maskId),
              sentences[sentence]!,
            ),
          ).toBe(true);
        });
    });
  });

  it.each<[string, Noise, number]>([
    ["masking", tokenMasking(0.3, maskId), 0.3],
    ["deletion", tokenDeletion(0.3), 0.3],
    ["infilling", textInfilling(0.3, maskId), 0.3],
  ])("%s hides its share", (_, noise, rate) => {
    const kept = noise(long(20_000), new Random(3)).flat();
    const hidden = 1 - kept.filter((id) => id !== maskId).length / 20_000;
    expect(hidden).toBeGreaterThan(rate - 0.012);
    expect(hidden).toBeLessThan(rate + 0.012);
  });

  it("infilling hides spans of about Poisson's lengths, some of them empty", () => {
    const source = long(20_000);
    const out = textInfilling(0.1, maskId)(source, new Random(5));
    const masks = out.flat().filter((id) => id === maskId).length;
    // Each draw hides 3 tokens at the mean, the draws of 0 among them: 2,000 tokens take about 2,000 / 3 masks.
    expect(masks).toBeGreaterThan((2000 / 3) * 0.85);
    expect(masks).toBeLessThan((2000 / 3) * 1.25);
    // An empty span is a mask between two neighbours of the text.
    const empty = out.flatMap((ids) =>
      ids.filter((id, place) => id === maskId && ids[place + 1] === ids[place - 1]! + 1),
    );
    expect(empty.length).toBeGreaterThan(10);
  });

  it("permutation and rotation keep every token", () => {
    always((sentences, random) => {
      const sorted = (ids: Sentences) => [...ids].map(String).sort();
      expect(sorted(sentencePermutation()(sentences, random))).toEqual(sorted(sentences));
      const whole = sentences.flat();
      const rotated = documentRotation()(sentences, random).flat();
      expect([...whole, ...whole].join()).toContain(rotated.join());
      expect(rotated.length).toBe(whole.length);
    });
  });

  it("permutation of no sentence changes none, of all moves some", () => {
    const sentences = long(500);
    expect(sentencePermutation(0)(sentences, new Random(1))).toEqual(sentences);
    expect(sentencePermutation(1)(sentences, new Random(1))).not.toEqual(sentences);
  });

  it("repeats with its seed, each noise of a combination with numbers of its own", () => {
    always((sentences, random) => {
      const noise = combined(tokenDeletion(0.2), tokenMasking(0.2, maskId));
      const again = random.fork("again");
      expect(noise(sentences, again)).toEqual(noise(sentences, again));
      expect(bartNoise(maskId)(sentences, again)).toEqual(bartNoise(maskId)(sentences, again));
    });
  });
});

it("poisson has its mean and variance", () => {
  const random = new Random(11);
  const draws = Array.from({ length: 20_000 }, () => poisson(3, random));
  const mean = draws.reduce((sum, draw) => sum + draw, 0) / draws.length;
  const variance = draws.reduce((sum, draw) => sum + (draw - mean) ** 2, 0) / draws.length;
  expect(Math.abs(mean - 3)).toBeLessThan(0.06);
  expect(Math.abs(variance - 3)).toBeLessThan(0.15);
  expect(() => poisson(0, random)).toThrow("above 0");
});
