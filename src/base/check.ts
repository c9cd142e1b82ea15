import { z } from "zod";
import { LineageError } from "./errors.js";

/** How a value is shown in a sentence. */
function shown(value: unknown): string {
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === "object" && value !== null) return "an object";
  if (typeof value !== "string") return String(value);
  return JSON.stringify(value.length > 60 ? `${value.slice(0, 59)}…` : value);
}

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

const kinds: Readonly<Record<string, string>> = {
  int: "a whole number",
  number: "a number",
  string: "a text",
  boolean: "true or false",
  array: "a list",
  tuple: "a list",
  object: "an object",
  record: "an object",
  null: "null",
};

/** What is wrong with a value, after its name: `must be above 0, not -1`. Undefined for what zod alone can say. */
function problemOf(issue: z.core.$ZodRawIssue): string | undefined {
  const { input: value } = issue;
  switch (issue.code) {
    case "too_small":
    case "too_big": {
      const small = issue.code === "too_small";
      const bound = small ? issue.minimum : issue.maximum;
      const atLeast = small ? "at least" : "at most";
      if (issue.origin === "string" || issue.origin === "array") {
        const { length } = value as { readonly length: number };
        const parts = issue.origin === "string" ? "characters" : "entries";
        return `must have ${atLeast} ${bound} ${parts}, not ${length}`;
      }
      const beyond = small ? "above" : "below";
      return `must be ${issue.inclusive ? atLeast : beyond} ${bound}, not ${shown(value)}`;
    }
    case "invalid_value": {
      const words = issue.values.map(String);
      const meant = typeof value === "string" ? nearest(value, words) : undefined;
      return `must be ${either(words)}, not ${shown(value)}${meant === undefined ? "" : `; did you mean ${meant}?`}`;
    }
    case "invalid_type": {
      if (value === undefined) return "is missing";
      // Of numbers, zod tells NaN and infinity apart from the others.
      const kind = kinds[issue.expected] ?? `of the kind ${issue.expected}`;
      return `must be ${kind}, not ${shown(value)}`;
    }
    case "unrecognized_keys":
      return `has ${issue.keys.map((key) => JSON.stringify(key)).join(", ")}, which ${issue.keys.length === 1 ? "is" : "are"} not known here`;
    case "invalid_format":
      return `does not have the right form: ${shown(value)}`;
    case "invalid_union": {
      const given =
        issue.discriminator === undefined ? value : (value as Record<string, unknown>)[issue.discriminator];
      if (issue.errors.length === 0) return `is not one of those that are known: ${shown(given)}`;
      // The branch that fits best says what is wrong in it; those that fit as badly are told together.
      const depth = (branch: readonly z.core.$ZodIssue[]): number => branch[0]?.path.length ?? 0;
      const deepest = Math.max(...issue.errors.map(depth));
      const best = issue.errors
        .filter((branch) => depth(branch) === deepest)
        .flatMap(([first]) => first ?? []);
      const ending = `, not ${shown(value)}`;
      return deepest === 0
        ? `${best.map(({ message }) => message.replace(ending, "")).join(", or ")}${ending}`
        : best.map(sentence).join(", or ");
    }
  }
  return undefined;
}

/** For `safeParse`: every message is a sentence for a person, unless the schema has its own. */
export const plainMessages: z.core.ParseContext<z.core.$ZodIssue> = { error: problemOf };

/** An issue with the place that it is about: `batch must be above 0, not -1`, `vocab[3]: the score is missing`. */
function sentence({ path, message }: z.core.$ZodIssue): string {
  const place = z.core.toDotPath(path);
  return place === "" ? message : `${place}${/^(must|is|has|does)\b/.test(message) ? " " : ": "}${message}`;
}

/**
 * A value that a schema allows.
 * @param fail makes the error that is thrown for another one, from what is wrong with it
 */
export function validated<T>(schema: z.ZodType<T>, value: unknown, fail: (problem: string) => Error): T {
  const parsed = schema.safeParse(value, plainMessages);
  if (parsed.success) return parsed.data;
  const { issues } = parsed.error;
  const told = issues.slice(0, 5).map(sentence);
  if (issues.length > told.length) told.push(`and ${issues.length - told.length} more`);
  throw fail(told.join("; "));
}

/** A value that a schema allows. Throws `argument` with the value's name and what would be right. */
export const checkedValue = <T>(schema: z.ZodType<T>, value: unknown, name: string): T =>
  validated(schema, value, (problem) => new LineageError("argument", `${name} ${problem}`));
