import type { Runner } from "./cutter.js";
import { byteOfCharacter } from "./token-text.js";

/** A token of a text and the part of the text that it stands for, in UTF-16 units as `slice` takes them. */
export interface PlacedToken {
  readonly id: number;
  readonly start: number;
  readonly end: number;
}

/** The parts of a runner that make tokens of a text, one after the other. */
export interface TracedRunner extends Runner {
  readonly config: { readonly remove_space?: boolean; readonly do_lowercase_and_remove_accent?: boolean };
  readonly splitter_unnormalized: { split(text: string): string[] };
  readonly splitter_normalized: { split(text: string): string[] };
  readonly added_tokens_map: ReadonlyMap<
    string,
    { readonly id: number; readonly lstrip: boolean; readonly rstrip: boolean }
  >;
  readonly pre_tokenizer: ((text: string, options: { section_index: number }) => string[]) | null;
}

/** Characters of a text on its way through normalisation, each with the part of the original that it comes from. */
interface Traced {
  readonly characters: readonly string[];
  readonly starts: readonly number[];
  readonly ends: readonly number[];
}

function trace(text: string, offset: number): Traced {
  const characters = Array.from(text);
  const starts: number[] = [];
  const ends: number[] = [];
  let place = offset;
  for (const { length } of characters) {
    starts.push(place);
    place += length;
    ends.push(place);
  }
  return { characters, starts, ends };
}

const textOf = ({ characters }: Traced): string => characters.join("");
const part = ({ characters, starts, ends }: Traced, from: number, to: number): Traced => ({
  characters: characters.slice(from, to),
  starts: starts.slice(from, to),
  ends: ends.slice(from, to),
});

interface Step {
  normalize(text: string): string;
  readonly normalizers?: readonly (Step | null)[];
}

/**
 * The text after one step of normalisation. A step knows nothing of places, so they are found from what it does: to each
 * character alone, or else to each character with its marks, or else by walking along both texts.
 */
function applyStep(step: Step, before: Traced): Traced {
  if (step.normalizers) {
    return step.normalizers.reduce((traced, inner) => (inner ? applyStep(inner, traced) : traced), before);
  }
  const after = step.normalize(textOf(before));
  const single = before.characters.map((character) => step.normalize(character));
  if (single.join("") === after) {
    const groups = single.map((text, place) => ({ text, from: place, to: place + 1 }));
    return fromGroups(before, groups);
  }
  const clusters = clustersOf(before.characters).map(([from, to]) => ({
    text: step.normalize(before.characters.slice(from, to).join("")),
    from,
    to,
  }));
  if (clusters.map(({ text }) => text).join("") === after) return fromGroups(before, clusters);
  return walk(
    before,
    Array.from(after),
    (original, character) => original === character || step.normalize(original).includes(character),
  );
}

/** Characters with the marks after them, as `[from, to)`. */
function clustersOf(characters: readonly string[]): [number, number][] {
  const clusters: [number, number][] = [];
  characters.forEach((character, place) => {
    const last = clusters.at(-1);
    if (last && /^\p{M}$/u.test(character)) last[1] = place + 1;
    else clusters.push([place, place + 1]);
  });
  return clusters;
}

/** Every character of a group's text comes from the group's characters: one by one while there are enough, as the reference has it. */
function fromGroups(
  before: Traced,
  groups: readonly { readonly text: string; readonly from: number; readonly to: number }[],
): Traced {
  const characters: string[] = [];
  const starts: number[] = [];
  const ends: number[] = [];
  for (const { text, from, to } of groups) {
    Array.from(text).forEach((character, index) => {
      const place = Math.min(from + index, to - 1);
      characters.push(character);
      starts.push(before.starts[place]!);
      ends.push(before.ends[place]!);
    });
  }
  return { characters, starts, ends };
}

/** Characters that a walk looks ahead for one that fits. */
const lookahead = 64;

/**
 * Pairs characters of `after` with those of `before` in order; one that nothing fits was inserted, and
 * stands where the next one does.
 * @param fits whether a character before became one after
 * @param droppable whether a character before may have no other after it
 */
function walk(
  before: Traced,
  after: readonly string[],
  fits: (before: string, after: string) => boolean,
  droppable: (before: string) => boolean = () => true,
): Traced {
  const starts: number[] = [];
  const ends: number[] = [];
  const { characters } = before;
  let place = 0;
  for (const character of after) {
    const limit = Math.min(characters.length, place + lookahead);
    let found = place;
    while (found < limit && !fits(characters[found]!, character))
      found = droppable(characters[found]!) ? found + 1 : limit;
    if (found < limit) {
      starts.push(before.starts[found]!);
      ends.push(before.ends[found]!);
      place = found + 1;
    } else {
      const last = before.ends.at(-1) ?? 0;
      starts.push(before.starts[place] ?? last);
      ends.push(before.ends[place] ?? last);
    }
  }
  return { characters: after, starts, ends };
}

/** The text as bytes, each with the place of its character. */
function bytesOf(traced: Traced): Traced {
  const characters: string[] = [];
  const starts: number[] = [];
  const ends: number[] = [];
  const utf8 = new TextEncoder();
  traced.characters.forEach((character, place) => {
    for (const byte of utf8.encode(character)) {
      characters.push(String.fromCharCode(byte));
      starts.push(traced.starts[place]!);
      ends.push(traced.ends[place]!);
    }
  });
  return { characters, starts, ends };
}

export interface Placement {
  /** Words are written in GPT-2's stand-ins for bytes. */
  readonly byteLevel: boolean;
  /** Starts pieces that go on within a word; "" where none does. */
  readonly continuation: string;
  readonly unknownToken: string | undefined;
}

/**
 * Tokens with their places, by the same steps as the runner takes. Its own ids decide: where the places do not account for
 * them, undefined.
 */
export function placeTokens(
  runner: TracedRunner,
  text: string,
  placement: Placement,
): PlacedToken[] | undefined {
  const placed = sectionsOf(runner, runner.splitter_unnormalized, trace(text, 0)).flatMap(
    (section, index) => {
      if (section.added !== undefined) return [section.added];
      let { traced } = section;
      if (runner.config.remove_space === true)
        traced = applyStep({ normalize: (part) => part.trim().split(/\s+/).join(" ") }, traced);
      if (runner.normalizer) traced = applyStep(runner.normalizer, traced);
      if (traced.characters.length === 0) return [];
      return sectionsOf(runner, runner.splitter_normalized, traced).flatMap((subsection) =>
        subsection.added !== undefined
          ? [subsection.added]
          : placeWords(runner, subsection.traced, index, placement),
      );
    },
  );
  const { ids } = runner.encode(text, { add_special_tokens: false });
  const same = placed.length === ids.length && placed.every(({ id }, place) => id === ids[place]);
  return same ? placed : undefined;
}

type Section = { readonly added: PlacedToken } | { readonly added?: undefined; readonly traced: Traced };

/** A text cut at the added tokens within it, which may take the spaces beside them along. */
function sectionsOf(
  runner: TracedRunner,
  splitter: { split(text: string): string[] },
  traced: Traced,
): Section[] {
  let place = 0;
  const parts = splitter.split(textOf(traced)).map((text) => {
    const from = place;
    place += Array.from(text).length;
    return { token: runner.added_tokens_map.get(text), from, to: place };
  });
  const isSpace = (at: number) => /^\s$/.test(traced.characters[at]!);
  parts.forEach(({ token }, index) => {
    const [previous, next] = [parts[index - 1], parts[index + 1]];
    if (token?.lstrip && previous)
      while (previous.to > previous.from && isSpace(previous.to - 1)) previous.to--;
    if (token?.rstrip && next) while (next.from < next.to && isSpace(next.from)) next.from++;
  });
  return parts
    .filter(({ from, to }) => to > from)
    .map(({ token, from, to }) =>
      token
        ? { added: { id: token.id, start: traced.starts[from]!, end: traced.ends[to - 1]! } }
        : { traced: part(traced, from, to) },
    );
}

function placeWords(
  runner: TracedRunner,
  traced: Traced,
  section: number,
  { byteLevel, continuation, unknownToken }: Placement,
): PlacedToken[] {
  const { model } = runner;
  const words = runner.pre_tokenizer
    ? runner.pre_tokenizer(textOf(traced), { section_index: section })
    : [textOf(traced)];
  const source = byteLevel ? bytesOf(traced) : traced;
  const unitsOf = (text: string): string[] =>
    byteLevel
      ? Array.from(text, (character) => String.fromCharCode(byteOfCharacter.get(character) ?? 63))
      : Array.from(text);
  const tokens: PlacedToken[] = [];
  let lastUnknown = false;
  let place = 0;
  for (const word of words) {
    const units = unitsOf(word);
    const located = walk(
      part(source, place, source.characters.length),
      units,
      (original, unit) => original === unit || (original === " " && unit === "\u2581"),
      // Nothing but space is lost between words.
      (original) => /^\s$/.test(original),
    );
    const end = located.ends.at(-1);
    while (end !== undefined && place < source.characters.length && source.ends[place]! <= end) place++;
    let unit = 0;
    const pieces = model.encode([word]);
    pieces.forEach((piece, index) => {
      const surface =
        index > 0 && continuation !== "" && piece.startsWith(continuation)
          ? piece.slice(continuation.length)
          : piece;
      const length = lengthWithin(surface, units, unit, piece === unknownToken, pieces.length === 1, unitsOf);
      const from = Math.min(unit, units.length - 1);
      const to = Math.min(units.length, unit + length) - 1;
      const id = model.tokens_to_ids.get(piece) ?? model.unk_token_id ?? -1;
      const unknown = id === model.unk_token_id;
      const token = {
        id,
        start: located.starts[from] ?? 0,
        end: located.ends[Math.max(from, to)] ?? 0,
      };
      if (unknown && lastUnknown && model.fuse_unk)
        tokens[tokens.length - 1] = { ...tokens.at(-1)!, end: token.end };
      else tokens.push(token);
      lastUnknown = unknown;
      unit += length;
    });
  }
  return tokens;
}

/** Units of a word that a token stands for: those that it spells, or what an unknown one takes. */
function lengthWithin(
  surface: string,
  units: readonly string[],
  unit: number,
  unknown: boolean,
  alone: boolean,
  unitsOf: (text: string) => string[],
): number {
  const own = unitsOf(surface);
  if (own.every((character, index) => units[unit + index] === character)) return own.length;
  return unknown && alone ? units.length - unit : 1;
}
