import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { FormatError } from "../../src/base/errors.js";
import { checkDefinition } from "../../src/tokenizers/tokenizer-definition.js";

const checked = (model: unknown) => checkDefinition("tokenizer.json", { model });

/** The sentence that a model is refused with. */
function refusal(model: unknown): string {
  try {
    checked(model);
  } catch (error) {
    expect(error).toBeInstanceOf(FormatError);
    return (error as FormatError).message;
  }
  return "";
}

describe("a tokenizer's definition", () => {
  it("is accepted in every form that files have", () => {
    for (const model of [
      { vocab: { a: 0, b: 2 ** 24, constructor: 2 }, merges: ["a b", ["a", "b"]] },
      { vocab: [["a", -1.5] as const, ["b", 0] as const], merges: undefined },
      { vocab: {}, merges: [] },
      { vocab: [] },
      { vocab: Object.assign(Object.create(null) as object, { a: 1 }) },
    ])
      expect(checked(model).model).toEqual(model);
  });

  it.each([
    [undefined, "the vocabulary is missing; it must be an object with the id of each token, or a list"],
    [null, "the vocabulary is null; it must be an object"],
    ["a", 'the vocabulary is "a"; it must be an object'],
    [new Map([["a", 0]]), "the vocabulary is an object; it must be an object with the id of each token"],
    [{ [Symbol("a")]: 0 }, "the vocabulary has a symbol as a token"],
    [
      { a: 0, the: -1 },
      "model.vocab.the: the token's id is -1; it must be a whole number from 0 to 16777216",
    ],
    [
      { "a b": 1.5 },
      'model.vocab["a b"]: the token\'s id is 1.5; it must be a whole number from 0 to 16777216',
    ],
    [{ a: NaN }, "the token's id is NaN; it must be a whole number"],
    [{ a: Infinity }, "the token's id is Infinity; it must be a whole number"],
    [{ a: 2 ** 24 + 1 }, "the token's id is 16777217; it must be a whole number"],
    [{ a: "1" }, 'the token\'s id is "1"; it must be a whole number'],
    [{ a: 1n }, "the token's id is 1n; it must be a whole number"],
    [{ a: null }, "the token's id is null; it must be a whole number"],
    [JSON.parse('{ "__proto__": -1 }'), "the token's id is -1; it must be a whole number"],
    [[["a", 0], "b"], 'model.vocab[1]: the entry is "b"; it must be a list of [piece, score]'],
    [[["a"]], "the entry is a list of 1; it must be a list of [piece, score]"],
    [[["a", 0, 0]], "the entry is a list of 3; it must be a list of [piece, score]"],
    [new Array(1), "the entry is missing; it must be a list of [piece, score]"],
    [
      [
        ["a", 0],
        [5, 0],
      ],
      "model.vocab[1][0]: the piece is 5; it must be a string",
    ],
    [[["a", NaN]], "model.vocab[0][1]: the score is NaN; it must be a finite number"],
    [[["a", -Infinity]], "the score is -Infinity; it must be a finite number"],
    [[["a", "0"]], 'the score is "0"; it must be a finite number'],
  ])("is refused with the vocabulary %o", (vocab, sentence) => {
    expect(refusal({ vocab })).toContain(sentence);
  });

  it.each([
    [null, "model.merges: the merges are null; they must be a list"],
    [{ 0: "a b" }, "the merges are an object; they must be a list"],
    [["a b", 5], "model.merges[1]: the merge is 5; it must be a string of two tokens, or a list of two"],
    [[["a"]], "the merge is a list of 1; it must be a string of two tokens, or a list of two"],
    [[["a", "b", "c"]], "the merge is a list of 3; it must be"],
    [new Array(1), "the merge is missing; it must be"],
    [[["a", null]], "model.merges[0][1]: the token is null; it must be a string"],
    [[new Array(2)], "model.merges[0][0]: the token is missing; it must be a string"],
  ])("is refused with the merges %o", (merges, sentence) => {
    expect(refusal({ vocab: {}, merges })).toContain(sentence);
  });

  it("is accepted and refused as by a schema for each entry", () => {
    const id = z
      .int()
      .min(0)
      .max(2 ** 24);
    const each = z.looseObject({
      vocab: z.union([z.record(z.string(), id), z.array(z.tuple([z.string(), z.number()]))]),
      merges: z.array(z.union([z.string(), z.tuple([z.string(), z.string()])])).optional(),
    });
    // The schema left a token of this name out.
    const key = fc.string().filter((name) => name !== "__proto__");
    const odd = fc.oneof(
      fc.anything({ key, withMap: true, withSparseArray: true, withBigInt: true, withNullPrototype: true }),
      fc.constantFrom(-0, 2 ** 24, 2 ** 24 + 1, 2 ** 53, -1, 0.5, NaN, Infinity, { [Symbol("a")]: 0 }),
    );
    const mostly = <T>(usual: fc.Arbitrary<T>) => fc.oneof({ weight: 8, arbitrary: usual }, odd);
    const pair = (second: fc.Arbitrary<unknown>) =>
      fc.oneof(
        { weight: 8, arbitrary: fc.tuple(mostly(fc.string()), mostly(second)) },
        fc.array(fc.oneof(fc.string(), second)),
      );
    const score = fc.double({ noNaN: true, noDefaultInfinity: true });
    const model = fc.record(
      {
        vocab: mostly(
          fc.oneof(
            fc.dictionary(key, mostly(fc.nat()), { maxKeys: 4 }),
            fc.array(mostly(pair(score)), { maxLength: 4 }),
          ),
        ),
        merges: mostly(fc.array(mostly(fc.oneof(fc.string(), pair(fc.string()))), { maxLength: 4 })),
      },
      { requiredKeys: [] },
    );
    const accepted = { yes: 0, no: 0 };
    fc.assert(
      fc.property(model, (value) => {
        const expected = each.safeParse(value).success;
        accepted[expected ? "yes" : "no"]++;
        expect(refusal(value) === "").toBe(expected);
      }),
      { numRuns: 2000 },
    );
    expect(Math.min(accepted.yes, accepted.no)).toBeGreaterThan(200);
  });
});
