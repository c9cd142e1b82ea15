import { LineageError } from "../base/errors.js";
import type { Template, TemplatePart } from "./post-processors.js";
import type { PlacedToken } from "./pipeline.js";

/** One or two texts as a model reads them, special tokens included. All lists are equally long. */
export interface Encoding {
  readonly ids: readonly number[];
  /** Segment of each token: 0 for the first text, 1 for the second, 2 for XLNet's last token. */
  readonly typeIds: readonly number[];
  /** True for a token that the post-processor added. */
  readonly specialMask: readonly boolean[];
  /** Which text a token comes from; -1 for an added one. */
  readonly sequences: readonly number[];
  /** Where a token stands in its text, in UTF-16 units as `slice` takes them; `[0, 0]` for an added one. With `offsets` alone. */
  readonly offsets?: readonly (readonly [start: number, end: number])[];
  /** Tokens of the texts that did not fit. */
  readonly truncated: number;
}

export interface PairOptions {
  /** Tokens at most, special ones included. Default: no limit. */
  readonly maxLength?: number;
  /** Which text gives way: the longer one, token by token (default), the first or the second. */
  readonly truncate?: "longest" | "first" | "second";
  /** Whether to find each token's place in its text. Default false. */
  readonly offsets?: boolean;
}

/** A text's tokens before the template goes around them. */
export type TextTokens = readonly Pick<PlacedToken, "id" | "start" | "end">[];

/** Tokens of the two texts that fit `room`, as the reference shares it out. */
function fit(
  lengths: readonly [number, number],
  room: number,
  truncate: "longest" | "first" | "second",
): [number, number] {
  const [a, b] = lengths;
  const excess = a + b - room;
  if (excess <= 0) return [a, b];
  if (truncate !== "longest") {
    const [given, kept] = truncate === "first" ? [a, b] : [b, a];
    if (excess > given) {
      throw new LineageError(
        "length",
        `the ${truncate === "first" ? "second" : "first"} text alone has ${kept} tokens, and ${room} fit beside the special ones`,
      );
    }
    return truncate === "first" ? [a - excess, b] : [a, b - excess];
  }
  if (2 * Math.min(a, b) <= room) return a <= b ? [a, room - a] : [room - b, b];
  const half = Math.floor(room / 2);
  return a <= b ? [half, room - half] : [room - half, half];
}

const specials = (parts: readonly TemplatePart[]): number => parts.filter((part) => "token" in part).length;

/** Puts a template around one or two texts, cut to `maxLength`. */
export function encodeTokens(
  template: Template,
  texts: readonly [TextTokens] | readonly [TextTokens, TextTokens],
  { maxLength = Infinity, truncate = "longest", offsets = false }: PairOptions,
): Encoding {
  const parts = texts.length === 2 ? template.pair : template.single;
  const room = maxLength - specials(parts);
  if (room < 0) {
    throw new LineageError("length", `${maxLength} tokens do not hold the ${specials(parts)} special ones`);
  }
  const all: readonly TextTokens[] = texts;
  const counts = fit([texts[0].length, all[1]?.length ?? 0], room, texts.length === 2 ? truncate : "longest");
  return arrange(
    parts,
    all.map((tokens, index) => tokens.slice(0, counts[index])),
    texts[0].length + (all[1]?.length ?? 0) - counts[0] - counts[1],
    offsets,
  );
}

function arrange(
  parts: readonly TemplatePart[],
  texts: readonly TextTokens[],
  truncated: number,
  withOffsets: boolean,
): Encoding {
  const ids: number[] = [];
  const typeIds: number[] = [];
  const specialMask: boolean[] = [];
  const sequences: number[] = [];
  const offsets: [number, number][] = [];
  for (const part of parts) {
    const tokens = "token" in part ? [{ id: part.token, start: 0, end: 0 }] : texts[part.sequence]!;
    for (const { id, start, end } of tokens) {
      ids.push(id);
      typeIds.push(part.type);
      specialMask.push("token" in part);
      sequences.push("token" in part ? -1 : part.sequence);
      offsets.push([start, end]);
    }
  }
  return { ids, typeIds, specialMask, sequences, truncated, ...(withOffsets && { offsets }) };
}

/**
 * Windows over the last text, which together see all of it: each has as many of its tokens as fit beside the others, and
 * `stride` of them are those of the window before.
 */
export function encodeWindows(
  template: Template,
  texts: readonly [TextTokens] | readonly [TextTokens, TextTokens],
  { maxLength, stride, offsets = false }: { maxLength: number; stride: number; offsets?: boolean },
): Encoding[] {
  const parts = texts.length === 2 ? template.pair : template.single;
  const long = texts.at(-1)!;
  const before = texts.length === 2 ? texts[0].length : 0;
  const room = maxLength - specials(parts) - before;
  if (room <= stride) {
    throw new LineageError(
      "length",
      `windows of ${maxLength} tokens have room for ${Math.max(0, room)} beside the special tokens${before > 0 ? ` and the first text's ${before}` : ""}; ` +
        `that must be more than their overlap of ${stride}`,
    );
  }
  const windows: Encoding[] = [];
  for (let start = 0; ; start += room - stride) {
    const cut = long.slice(start, start + room);
    windows.push(arrange(parts, texts.length === 2 ? [texts[0], cut] : [cut], 0, offsets));
    if (start + room >= long.length) return windows;
  }
}
