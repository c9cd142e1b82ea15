import { messageOf } from "../base/errors.js";
import { byteCharacters, utf8 } from "./bytes.js";
import { CharacterMap } from "./character-map.js";
import type { Entries } from "./entries.js";
import { findMatches } from "./oniguruma.js";
import { patternOf } from "./patterns.js";
import type { Change, TracedText } from "./traced-text.js";
import { whiteSpace } from "./unicode.js";

/** One step from a text as it is written to the text that is cut into tokens. */
export type Normalizer = (text: TracedText) => TracedText;

/** The normalizer that a definition describes. */
export function createNormalizer(part: Entries, options: { readonly sentencePiece: boolean }): Normalizer {
  const normalizer = normalizerOf(part, options);
  part.finish();
  return normalizer;
}

function normalizerOf(part: Entries, options: { readonly sentencePiece: boolean }): Normalizer {
  const type = part.string("type");
  switch (type) {
    case "BertNormalizer":
      return bertNormalizer(part);
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD":
      return unicodeNormalizer(type);
    case "Lowercase":
      return lowercase;
    case "Strip":
      return stripper(part.boolean("strip_left", true), part.boolean("strip_right", true));
    case "StripAccents":
      return withoutCharacters(/\p{M}/u);
    case "Replace": {
      const pattern = patternOf(part);
      const content = part.string("content");
      return (text) => text.replaceMatches(findMatches(pattern, text.text), content);
    }
    case "Prepend": {
      const prefix = part.string("prepend");
      return (text) => text.prepend(prefix);
    }
    case "Nmt":
      return nmt;
    case "ByteLevel":
      return (text) => (text.text === "" ? text : text.mapCharacters(byteCharacters));
    case "Precompiled": {
      const encoded = part.string("precompiled_charsmap", "");
      if (encoded === "") return (text) => text;
      const map = characterMap(part, encoded);
      return options.sentencePiece
        ? (text) => replaceLongest(text, map)
        : (text) => replaceGraphemes(text, map);
    }
    case "Sequence": {
      const steps = part.objects("normalizers").map((step) => createNormalizer(step, options));
      return (text) => steps.reduce((before, step) => step(before), text);
    }
    default:
      return part.refuse(`there is no normalizer of the type ${JSON.stringify(type)}`);
  }
}

/** Characters that a pattern finds go. */
function withoutCharacters(pattern: RegExp): Normalizer {
  return (text) =>
    pattern.test(text.text)
      ? text.mapCharacters((character) => (pattern.test(character) ? "" : character))
      : text;
}

/** Every character by itself: JavaScript writes a final sigma in another way. */
function lowercase(text: TracedText): TracedText {
  const whole = text.text.replaceAll("Σ", "σ").toLowerCase();
  return whole === text.text ? text : text.mapCharacters((character) => character.toLowerCase(), whole);
}

function stripper(left: boolean, right: boolean): Normalizer {
  const [start, end] = [new RegExp(`^[${whiteSpace}]+`, "u"), new RegExp(`[${whiteSpace}]$`, "u")];
  return (text) => {
    let from = left ? (start.exec(text.text)?.[0].length ?? 0) : 0;
    let to = text.text.length;
    // Every space is one unit; a pattern for the whole run at the end would try each run within the text.
    if (right) while (to > from && end.test(text.text[to - 1]!)) to--;
    if (right && to === from) from = to = 0;
    if (from === 0 && to === text.text.length) return text;
    return text.replaceMatches(
      [...(from > 0 ? [0, from] : []), ...(to < text.text.length ? [to, text.text.length] : [])],
      "",
    );
  };
}

// ---- Unicode's forms ------------------------------------------------------------------------------------------------

type Form = "NFC" | "NFD" | "NFKC" | "NFKD";

function unicodeNormalizer(form: Form): Normalizer {
  return (text) => {
    const whole = text.text.normalize(form);
    if (whole === text.text) return text;
    return text.traced ? text.transform(changesOf(text.text, form, whole)) : text.replaced(whole);
  };
}

/** A mark, or a part of a Hangul syllable: what joins or changes places with the character before. */
const joining = /^[\p{M}\u1160-\u11ff]/u;

/** What becomes of each character: in the same order as the characters of the normalised text. */
function changesOf(text: string, form: Form, whole: string): Change[] {
  const clusters: string[] = [];
  for (const character of text) {
    if (clusters.length > 0 && joining.test(character.normalize("NFKD")))
      clusters[clusters.length - 1] += character;
    else clusters.push(character);
  }
  const normalized = clusters.map((cluster) => cluster.normalize(form));
  if (normalized.join("") === whole)
    return clusters.flatMap((cluster, index) => clusterChanges(cluster, form, normalized[index]!));
  return clusterChanges(text, form, whole);
}

function clusterChanges(cluster: string, form: Form, normalized: string): Change[] {
  if (normalized === cluster) return Array.from(cluster, (character): Change => [character, 0]);
  const decomposition = form.startsWith("NFK") ? "NFKD" : "NFD";
  // Decomposed, each character gives one that takes its place and others that are inserted; then marks change places.
  const parts = Array.from(cluster).flatMap((character) =>
    Array.from(character.normalize(decomposition), (part, index) => ({ part, change: index === 0 ? 0 : 1 })),
  );
  const take = (wanted: string): number => {
    const index = parts.findIndex(({ part }) => part === wanted);
    return index < 0 ? 0 : parts.splice(index, 1)[0]!.change;
  };
  return Array.from(normalized, (character): Change => {
    // A composed character stands for all that it is made of.
    const changes = Array.from(character.normalize(decomposition), take);
    return [character, changes.slice(1).reduce((sum, change) => sum + change - 1, changes[0] ?? 0)];
  });
}

// ---- BERT and NMT ---------------------------------------------------------------------------------------------------

const ideograph =
  /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/u;
const removedControl = /[\0\ufffd\p{Cf}\p{Co}]|(?![\t\n\r])\p{Cc}/u;
const spaceLike = new RegExp(`[${whiteSpace}]`, "u");
const unclean = new RegExp(`${removedControl.source}|(?! )[${whiteSpace}]`, "u");

function bertNormalizer(part: Entries): Normalizer {
  const cleans = part.boolean("clean_text", true);
  const spacesIdeographs = part.boolean("handle_chinese_chars", true);
  const lowers = part.boolean("lowercase", true);
  const stripsAccents = part.optionalBoolean("strip_accents") ?? lowers;
  const steps: Normalizer[] = [];
  if (cleans)
    steps.push((text) =>
      unclean.test(text.text)
        ? text.mapCharacters((character) =>
            removedControl.test(character) ? "" : spaceLike.test(character) ? " " : character,
          )
        : text,
    );
  if (spacesIdeographs)
    steps.push((text) =>
      ideograph.test(text.text)
        ? text.mapCharacters((character) => (ideograph.test(character) ? ` ${character} ` : character))
        : text,
    );
  if (stripsAccents) steps.push(unicodeNormalizer("NFD"), withoutCharacters(/\p{Mn}/u));
  if (lowers) steps.push(lowercase);
  return (text) => steps.reduce((before, step) => step(before), text);
}

/** Sets of characters by their numbers, as ranges. */
const within = (code: number, ranges: readonly (readonly [number, number])[]): boolean =>
  ranges.some(([low, high]) => code >= low && code <= high);
const nmtRemoved = [
  [0x01, 0x08],
  [0x0b, 0x0b],
  [0x0e, 0x1f],
  [0x7f, 0x7f],
  [0x8f, 0x8f],
  [0x9f, 0x9f],
] as const;
const nmtSpaces = [
  [0x09, 0x0a],
  [0x0c, 0x0d],
  [0x1680, 0x1680],
  [0x200b, 0x200f],
  [0x2028, 0x2029],
  [0x2581, 0x2581],
  [0xfeff, 0xfeff],
  [0xfffd, 0xfffd],
] as const;

const nmt: Normalizer = (text) =>
  text.mapCharacters((character) => {
    const code = character.codePointAt(0)!;
    return within(code, nmtRemoved) ? "" : within(code, nmtSpaces) ? " " : character;
  });

// ---- SentencePiece's tables -----------------------------------------------------------------------------------------

function characterMap(part: Entries, encoded: string): CharacterMap {
  try {
    return new CharacterMap(Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0)));
  } catch (error) {
    return part.refuse(`the table of character replacements cannot be read: ${messageOf(error)}`);
  }
}

/** SentencePiece itself: the longest match at every place. */
function replaceLongest(text: TracedText, map: CharacterMap): TracedText {
  const matches: { start: number; end: number; replacement: string }[] = map.matches(text.text);
  if (!text.traced) return text.replaced(map.normalize(text.text));
  const changes: Change[] = [];
  let done = 0;
  for (const { start, end, replacement } of matches) {
    for (const character of text.text.slice(done, start)) changes.push([character, 0]);
    pushReplacement(changes, text.text.slice(start, end), replacement);
    done = end;
  }
  for (const character of text.text.slice(done)) changes.push([character, 0]);
  return text.transform(changes);
}

const graphemes = new Intl.Segmenter("und", { granularity: "grapheme" });

/**
 * The reference's reading of the same table: a short grapheme becomes what stands for the shortest entry that it begins
 * with, and otherwise each of its characters does.
 */
function replaceGraphemes(text: TracedText, map: CharacterMap): TracedText {
  const changes: Change[] = [];
  let modified = false;
  for (const { segment } of graphemes.segment(text.text)) {
    const bytes = utf8(segment);
    const whole = bytes.length < 6 ? map.shortest(bytes) : undefined;
    if (whole !== undefined) {
      modified = true;
      pushReplacement(changes, segment, whole);
      continue;
    }
    for (const character of segment) {
      const replacement = map.shortest(utf8(character));
      if (replacement === undefined) changes.push([character, 0]);
      else {
        modified = true;
        pushReplacement(changes, character, replacement);
      }
    }
  }
  return modified ? text.transform(changes) : text;
}

function pushReplacement(changes: Change[], old: string, replacement: string): void {
  const difference = Array.from(replacement).length - Array.from(old).length;
  const inserted = changes.length + Array.from(old).length;
  for (const character of replacement) changes.push([character, changes.length >= inserted ? 1 : 0]);
  const last = changes.at(-1);
  if (difference < 0 && last) changes[changes.length - 1] = [last[0], last[1] + difference];
}
