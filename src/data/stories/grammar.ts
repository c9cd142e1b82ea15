import { LineageError } from "../../base/errors.js";
import type { Random } from "../../base/random.js";

/** What a story knows of one person, place or thing: words by the role that they play in a sentence. */
export type Entity = Readonly<{ name: string } & Record<string, string>>;

/** Everybody and everything in one story, by role. Fixed before the first word, so that a story never contradicts it. */
export type Cast = Readonly<Record<string, Entity>>;

type Piece =
  | string
  | { readonly role: string; readonly field: string; readonly capital: boolean }
  | { readonly alternatives: readonly Text[] }
  | { readonly fragment: string };

/**
 * Compiled text. In its source, `[one|two|]` chooses, `{role}` and `{role.field}` speak of the cast (capital where the
 * role is written with one), `<name>` is a shared fragment, `a~` becomes a or an, and an empty line ends a paragraph.
 */
export type Text = readonly Piece[];

/** Shared fragments by name. */
export type Fragments = Readonly<Record<string, Text>>;

/** Compiles the source of a text. Throws `internal` where it is not well formed. */
export function compile(source: string): Text {
  const text = source
    .trim()
    .replace(/ *\n *\n\s*/g, "\u2029")
    .replace(/\s*\n\s*/g, " ")
    .replace(/\u2029/g, "\n");
  let at = 0;

  const fail = (what: string): never => {
    throw new LineageError(
      "internal",
      `story text: ${what} near "${text.slice(Math.max(0, at - 40), at + 20)}"`,
    );
  };

  const upTo = (close: string): string => {
    const end = text.indexOf(close, at);
    if (end < 0) fail(`no "${close}"`);
    const inner = text.slice(at + 1, end);
    at = end + 1;
    return inner;
  };

  const sequence = (nested: boolean): Text => {
    const pieces: Piece[] = [];
    while (at < text.length) {
      const character = text[at]!;
      if (character === "|" || character === "]") {
        if (!nested) fail(`"${character}" outside of a choice`);
        return pieces;
      }
      if (character === "[") {
        const alternatives: Text[] = [];
        do {
          at++;
          alternatives.push(sequence(true));
        } while (text[at] === "|");
        if (text[at] !== "]") fail('no "]"');
        at++;
        pieces.push({ alternatives });
      } else if (character === "{") {
        const path = upTo("}");
        const [role = "", field = "name"] = path.split(".");
        pieces.push({ role: role[0]!.toLowerCase() + role.slice(1), field, capital: /^[A-Z]/.test(role) });
      } else if (character === "<") {
        pieces.push({ fragment: upTo(">") });
      } else {
        const end = text.slice(at).search(/[[\]{}<|]/);
        const stop = end < 0 ? text.length : at + end;
        pieces.push(text.slice(at, stop));
        at = stop;
      }
    }
    if (nested) fail('no "]"');
    return pieces;
  };

  return sequence(false);
}

/** Tells a compiled text of this cast. Throws `internal` for a role or a fragment that does not exist. */
export function tell(text: Text, cast: Cast, fragments: Fragments, random: Random): string {
  return tidy(expand(text, cast, fragments, random));
}

function expand(text: Text, cast: Cast, fragments: Fragments, random: Random): string {
  let told = "";
  for (const piece of text) {
    if (typeof piece === "string") told += piece;
    else if ("role" in piece) {
      const words = cast[piece.role]?.[piece.field];
      if (words === undefined)
        throw new LineageError("internal", `a story has no {${piece.role}.${piece.field}}`);
      told += piece.capital ? capitalise(words) : words;
    } else if ("alternatives" in piece) {
      const { alternatives } = piece;
      told += expand(alternatives[random.integer(alternatives.length)]!, cast, fragments, random);
    } else {
      told += expand(fragmentOf(piece.fragment, fragments), cast, fragments, random);
    }
  }
  return told;
}

/** How many ways there are to read a text, the cast left aside. */
export function countReadings(text: Text, fragments: Fragments): bigint {
  return text.reduce((product, piece) => {
    if (typeof piece === "string" || "role" in piece) return product;
    if ("fragment" in piece) return product * countReadings(fragmentOf(piece.fragment, fragments), fragments);
    return product * piece.alternatives.reduce((sum, each) => sum + countReadings(each, fragments), 0n);
  }, 1n);
}

function fragmentOf(name: string, fragments: Fragments): Text {
  const text = fragments[name];
  if (!text) throw new LineageError("internal", `a story has no <${name}>`);
  return text;
}

export const capitalise = (words: string): string => words[0]!.toUpperCase() + words.slice(1);

/** Words whose first letter misleads: they sound the other way. */
const soundsOpen = new Set(["hour", "honest", "honour"]);
const soundsClosed = new Set(["unicorn", "unusual", "useful", "one", "uniform"]);

/** `a` or `an` before these words. */
export function article(words: string): "a" | "an" {
  const first = /^[A-Za-z]+/.exec(words)?.[0].toLowerCase() ?? "";
  if (soundsOpen.has(first)) return "an";
  if (soundsClosed.has(first)) return "a";
  return /^[aeiou]/.test(first) ? "an" : "a";
}

/** Settles articles, and the spaces that empty choices left behind. */
function tidy(told: string): string {
  return told
    .replace(/([Aa])~ +([A-Za-z]+)/g, (_, letter: string, next: string) => {
      return `${letter}${article(next) === "an" ? "n" : ""} ${next}`;
    })
    .replace(/ {2,}/g, " ")
    .replace(/ ?\n ?/g, "\n")
    .trim();
}
