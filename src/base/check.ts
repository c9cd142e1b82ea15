import { z } from "zod";
import { LineageError } from "./errors.js";

/** How a value is shown in a sentence. */
const shown = (value: unknown): string =>
  (typeof value === "number" ? String(value) : JSON.stringify(value)) ?? "nothing";

/** The one of some words that was probably meant: at most a third of its letters are other ones. */
export function nearest(word: string, words: readonly string[]): string | undefined {
  const ranked = words
    .map((candidate) => ({ candidate, distance: editDistance(word.toLowerCase(), candidate.toLowerCase()) }))
    .sort((a, b) => a.distance - b.distance);
  const [best] = ranked;
  return best &&
    best.distance <= Math.max(1, Math.floor(best.candidate.length / 3)) + 1 &&
    best.distance < word.length
    ? best.candidate
    : undefined;
}

/** Insertions, removals, replacements and swaps of neighbours from one word to another. */
function editDistance(from: string, to: string): number {
  const rows = Array.from({ length: from.length + 1 }, (_, i) =>
    Array.from({ length: to.length + 1 }, (_, j) => (i === 0 ? j : j === 0 ? i : 0)),
  );
  for (let i = 1; i <= from.length; i++)
    for (let j = 1; j <= to.length; j++) {
      const replaced = rows[i - 1]![j - 1]! + (from[i - 1] === to[j - 1] ? 0 : 1);
      const swapped =
        i > 1 && j > 1 && from[i - 1] === to[j - 2] && from[i - 2] === to[j - 1]
          ? rows[i - 2]![j - 2]! + 1
          : Infinity;
      rows[i]![j] = Math.min(rows[i - 1]![j]! + 1, rows[i]![j - 1]! + 1, replaced, swapped);
    }
  return rows[from.length]![to.length]!;
}

/** `bpe, characters or words` */
export const either = (words: readonly string[]): string =>
  words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} or ${words.at(-1)!}`;

/** What is wrong with a value, after its name: `must be above 0, not -1`. */
export function problemOf(issue: z.core.$ZodIssue, value: unknown): string {
  switch (issue.code) {
    case "too_small":
      if (issue.origin !== "number" && issue.origin !== "int") break;
      return `must be ${issue.inclusive ? "at least" : "above"} ${issue.minimum}, not ${shown(value)}`;
    case "too_big":
      if (issue.origin !== "number" && issue.origin !== "int") break;
      return `must be ${issue.inclusive ? "at most" : "below"} ${issue.maximum}, not ${shown(value)}`;
    case "invalid_value": {
      const words = issue.values.map(String);
      const meant = typeof value === "string" ? nearest(value, words) : undefined;
      return `must be ${either(words)}, not ${shown(value)}${meant === undefined ? "" : `; did you mean ${meant}?`}`;
    }
    case "invalid_type": {
      if (value === undefined) return "is missing";
      const kinds: Readonly<Record<string, string>> = {
        int: "a whole number",
        number: "a number",
        string: "a text",
      };
      return `must be ${kinds[issue.expected] ?? `of the kind ${issue.expected}`}, not ${shown(value)}`;
    }
    case "invalid_union":
      return issue.errors
        .map((branch) => branch.map((one) => problemOf(one, value))[0] ?? "")
        .filter((text) => text !== "")
        .join(", or ");
  }
  return `is not right: ${issue.message}`;
}

/** A value that a schema allows. Throws `argument` with the value's name and what would be right. */
export function checkedValue<T>(schema: z.ZodType<T>, value: unknown, name: string): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new LineageError("argument", `${name} ${problemOf(parsed.error.issues[0]!, value)}`);
}

/** Every problem of some options, each with its name. */
export const problemsOf = (error: z.ZodError, given: unknown): string =>
  error.issues
    .map((issue) => {
      const value = issue.path.reduce<unknown>(
        (at, key) =>
          typeof at === "object" && at !== null ? (at as Record<PropertyKey, unknown>)[key] : undefined,
        given,
      );
      return `${issue.path.map(String).join(".") || "the options"} ${problemOf(issue, value)}`;
    })
    .join("; ");
