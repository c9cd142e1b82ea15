import { byteCharacters } from "./bytes.js";
import type { Entries } from "./entries.js";
import { findMatches } from "./oniguruma.js";
import { patternOf } from "./patterns.js";
import { scriptOf } from "./scripts.js";
import type { TracedText } from "./traced-text.js";
import { literal, punctuation, rustWordCharacter, whiteSpace } from "./unicode.js";

/** Cuts a text into words; no token crosses from one word to the next. */
export type PreTokenizer = (text: TracedText) => TracedText[];

/** What becomes of the parts of a text that a pattern matches. */
const behaviors = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"] as const;
type Behavior = (typeof behaviors)[number];

/** The pre-tokenizer that a definition describes. */
export function createPreTokenizer(part: Entries): PreTokenizer {
  const preTokenizer = preTokenizerOf(part);
  part.finish();
  return preTokenizer;
}

const space = new RegExp(`[${whiteSpace}]`, "gu");
const punctuationMark = new RegExp(`[${punctuation}]`, "gu");

function preTokenizerOf(part: Entries): PreTokenizer {
  const type = part.string("type");
  switch (type) {
    case "BertPreTokenizer":
      return inOrder([
        (text) => split(text, space, "Removed"),
        (text) => split(text, punctuationMark, "Isolated"),
      ]);
    case "ByteLevel":
      return byteLevel(part);
    case "CharDelimiterSplit":
    case "Delimiter": {
      const delimiter = new RegExp(literal(part.character("delimiter")), "gu");
      return (text) => split(text, delimiter, "Removed");
    }
    case "Digits": {
      const behavior = part.boolean("individual_digits", false) ? "Isolated" : "Contiguous";
      return (text) => split(text, /\p{N}/gu, behavior);
    }
    case "FixedLength": {
      const length = part.count("length", 5, 1);
      return (text) => chunks(text, length);
    }
    case "Metaspace":
      return metaspace(part);
    case "Punctuation": {
      const behavior = part.choice("behavior", behaviors, "Isolated");
      return (text) => split(text, punctuationMark, behavior);
    }
    case "Sequence":
      return inOrder(part.objects("pretokenizers").map(createPreTokenizer));
    case "Split": {
      const pattern = patternOf(part);
      const behavior = part.choice("behavior", behaviors);
      const inverted = part.boolean("invert", false);
      return (text) => split(text, pattern, behavior, inverted);
    }
    case "UnicodeScripts":
      return unicodeScripts;
    case "Whitespace": {
      const word = new RegExp(`[${rustWordCharacter}]+|[^${rustWordCharacter}${whiteSpace}]+`, "gu");
      return (text) => split(text, word, "Removed", true);
    }
    case "WhitespaceSplit":
      return (text) => split(text, space, "Removed");
    default:
      return part.refuse(`there is no pre-tokenizer of the type ${JSON.stringify(type)}`);
  }
}

function inOrder(steps: readonly PreTokenizer[]): PreTokenizer {
  return (text) => {
    let words = [text];
    for (const step of steps) words = words.flatMap(step);
    return words;
  };
}

/** The parts of a text that a pattern matches and those between, by what is to become of them; empty ones are left out. */
function split(text: TracedText, pattern: RegExp, behavior: Behavior, inverted = false): TracedText[] {
  const { length } = text.text;
  const words: TracedText[] = [];
  const emit = (from: number, to: number) => {
    if (to > from) words.push(text.slice(from, to));
  };
  const matches = findMatches(pattern, text.text);
  if (behavior === "Isolated") {
    let done = 0;
    for (let at = 0; at < matches.length; at += 2) {
      emit(done, matches[at]!);
      emit(matches[at]!, matches[at + 1]!);
      done = matches[at + 1]!;
    }
    emit(done, length);
    return words;
  }
  // Parts in order, as `from, to, 1 for a match`.
  let parts: [from: number, to: number, match: boolean][] = [];
  let done = 0;
  for (let at = 0; at < matches.length; at += 2) {
    const [from, to] = [matches[at]!, matches[at + 1]!];
    if (from !== done) parts.push([done, from, inverted]);
    parts.push([from, to, !inverted]);
    done = to;
  }
  if (done !== length) parts.push([done, length, inverted]);
  if (behavior === "Removed") {
    for (const [from, to, match] of parts) if (!match) emit(from, to);
    return words;
  }
  const backwards = behavior === "MergedWithNext";
  if (backwards) parts = parts.reverse();
  const merged: [number, number][] = [];
  let previous = false;
  for (const [from, to, match] of parts) {
    const last = merged.at(-1);
    const joins = behavior === "Contiguous" ? match === previous : match && !previous;
    if (joins && last) last[backwards ? 0 : 1] = backwards ? from : to;
    else merged.push([from, to]);
    previous = match;
  }
  if (backwards) merged.reverse();
  for (const [from, to] of merged) emit(from, to);
  return words;
}

/** GPT-2's cut into words, each with the space before it. */
const gpt2Words = new RegExp(
  `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${whiteSpace}\\p{L}\\p{N}]+|[${whiteSpace}]+(?![^${whiteSpace}])|[${whiteSpace}]+`,
  "gu",
);

function byteLevel(part: Entries): PreTokenizer {
  const prefixes = part.boolean("add_prefix_space", true);
  const cuts = part.boolean("use_regex", true);
  // It concerns offsets, by way of the post-processor.
  part.boolean("trim_offsets", true);
  return (text) => {
    const prefixed = prefixes && !text.text.startsWith(" ") ? text.prepend(" ") : text;
    const words = cuts ? split(prefixed, gpt2Words, "Isolated") : prefixed.text === "" ? [] : [prefixed];
    for (let index = 0; index < words.length; index++)
      words[index] = words[index]!.mapCharacters(
        byteCharacters,
        words[index]!.traced ? undefined : byteCharacters(words[index]!.text),
      );
    return words;
  };
}

const prependSchemes = ["always", "first", "never"] as const;
export type PrependScheme = (typeof prependSchemes)[number];

/** Where a Metaspace puts its mark before a text; older files say `add_prefix_space`. */
export function prependSchemeOf(part: Entries): PrependScheme {
  const prefix = part.optionalBoolean("add_prefix_space");
  const scheme = part.choice("prepend_scheme", prependSchemes, prefix === false ? "never" : "always");
  if (prefix === false && scheme !== "never")
    part.refuse(`add_prefix_space is false, and prepend_scheme is ${JSON.stringify(scheme)}`);
  // Its replacement once more.
  part.ignore("str_rep");
  return scheme;
}

function metaspace(part: Entries): PreTokenizer {
  const mark = part.character("replacement", "\u2581");
  const scheme = prependSchemeOf(part);
  const splits = part.boolean("split", true);
  const pattern = new RegExp(literal(mark), "gu");
  return (text) => {
    let marked = text.text.includes(" ")
      ? text.mapCharacters(
          (character) => (character === " " ? mark : character),
          text.text.replaceAll(" ", mark),
        )
      : text;
    if (scheme === "always" || (scheme === "first" && marked.start === 0))
      if (!marked.text.startsWith(mark)) marked = marked.prepend(mark);
    if (marked.text === "") return [];
    return splits ? split(marked, pattern, "MergedWithNext") : [marked];
  };
}

function chunks(text: TracedText, length: number): TracedText[] {
  const words: TracedText[] = [];
  let from = 0;
  let count = 0;
  let to = 0;
  for (const character of text.text) {
    to += character.length;
    if (++count < length) continue;
    words.push(text.slice(from, to));
    from = to;
    count = 0;
  }
  if (to > from) words.push(text.slice(from, to));
  return words;
}

/** Cuts where the script changes; what belongs to none, such as a space, stays with what is before it. */
function unicodeScripts(text: TracedText): TracedText[] {
  const starts: number[] = [];
  let last: string | undefined;
  let place = 0;
  for (const character of text.text) {
    const script = scriptOf(character);
    if (script !== undefined) {
      if (script !== last) starts.push(place);
      last = script;
    }
    place += character.length;
  }
  starts.push(place);
  return starts.slice(0, -1).map((start, index) => text.slice(start, starts[index + 1]!));
}
