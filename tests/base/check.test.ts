import { describe, expect, it } from "vitest";
import { z } from "zod";
import { checkedValue, nearest, validated } from "../../src/base/check.js";

const problem = (schema: z.ZodType, value: unknown): string => {
  try {
    validated(schema, value, (text) => new Error(text));
  } catch (error) {
    return (error as Error).message;
  }
  return "";
};

describe("what is wrong with a value is told", () => {
  it.each<[z.ZodType, unknown, string]>([
    [z.number(), "fast", 'must be a number, not "fast"'],
    [z.number(), NaN, "must be a number, not NaN"],
    [z.int(), 1.5, "must be a whole number, not 1.5"],
    [z.number().positive(), 0, "must be above 0, not 0"],
    [z.number().max(1), 2, "must be at most 1, not 2"],
    [z.number().lt(1), 1, "must be below 1, not 1"],
    [z.string(), [1, 2], "must be a text, not a list of 2"],
    [z.boolean(), "yes", 'must be true or false, not "yes"'],
    [z.object({}), 5, "must be an object, not 5"],
    [z.string().min(1), "", "must have at least 1 characters, not 0"],
    [z.array(z.string()).min(2), ["a"], "must have at least 2 entries, not 1"],
    [z.enum(["bpe", "characters"]), "bqe", 'must be bpe or characters, not "bqe"; did you mean bpe?'],
    [z.strictObject({ a: z.int().optional() }), { b: 1 }, 'has "b", which is not known here'],
    [z.string().regex(/^\d+$/), "x", 'does not have the right form: "x"'],
    [
      z.union([z.number().min(0), z.literal("auto")]),
      "high",
      'must be a number, or must be auto, not "high"',
    ],
  ])("%# in a sentence", (schema, value, sentence) => {
    expect(problem(schema, value)).toBe(sentence);
  });

  it("with the place of each, and with what the schema says itself", () => {
    const schema = z.object({
      batch: z.int().positive(),
      ids: z.array(z.int()),
      rate: z.number({ error: "it is a share" }),
      shape: z.discriminatedUnion("kind", [z.object({ kind: z.literal("flat") })]),
    });
    expect(problem(schema, { ids: [1, 0.5], rate: "x", batch: 0, shape: { kind: "round" } })).toBe(
      "batch must be above 0, not 0; ids[1] must be a whole number, not 0.5; rate: it is a share; " +
        'shape.kind is not one of those that are known: "round"',
    );
    expect(problem(schema, undefined)).toBe("is missing");
  });

  it("of many only the first", () => {
    const wrong = Array.from({ length: 9 }, () => "x");
    expect(problem(z.array(z.number()), wrong)).toMatch(
      /^\[0\] must be (.*; ){4}\[4\] must be .*; and 4 more$/,
    );
  });

  it("without the whole of a long text", () => {
    expect(problem(z.number(), "x".repeat(1000)).length).toBeLessThan(100);
  });
});

it("an option's value is refused by the option's name", () => {
  expect(() => checkedValue(z.number().positive(), -1, "--learning-rate")).toThrow(
    "--learning-rate must be above 0, not -1",
  );
});

it("the nearest word is one with few other letters, or none", () => {
  expect(nearest("trian", ["train", "chat"])).toBe("train");
  expect(nearest("banana", ["train", "chat"])).toBeUndefined();
});
