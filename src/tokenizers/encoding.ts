import { LineageError } from "../base/errors.js";
import type { PlacedToken } from "./offsets.js";
import type { CheckedDefinition, TokenizerConfig } from "./tokenizer-definition.js";

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

/** A part of the template around texts: an added token, or a text. */
type TemplatePart =
  { readonly token: number; readonly type: number } | { readonly sequence: 0 | 1; readonly type: number };

/** Where special tokens go around one text and around two. */
export interface Template {
  readonly single: readonly TemplatePart[];
  readonly pair: readonly TemplatePart[];
  /** Whether a token's place leaves out the spaces at its ends. */
  readonly trimOffsets: boolean;
}

interface Processor {
  readonly type: string;
  readonly [entry: string]: unknown;
}
type NamedId = readonly [token: string, id: number];
const first = (type = 0): TemplatePart => ({ sequence: 0, type });
const second = (type: number): TemplatePart => ({ sequence: 1, type });
const special = (token: number, type = 0): TemplatePart => ({ token, type });

const bare: Template = { single: [first()], pair: [first(), second(1)], trimOffsets: false };

/**
 * The template of a definition's post-processor. A tokenizer without one, read from a SentencePiece file, gets BERT's or
 * XLNet's around texts when its configuration names their tokens. Throws `tokenizer` for a kind that is not known.
 */
export function templateOf(
  { post_processor: processor }: CheckedDefinition,
  config: TokenizerConfig,
  idOf: (token: string) => number | undefined,
): Template {
  if (processor) return templateOfProcessor(processor, idOf);
  const named = (entry: string): number | undefined => {
    const token = config[entry];
    const content = typeof token === "object" ? (token as { content?: unknown } | null)?.content : token;
    return typeof content === "string" ? idOf(content) : undefined;
  };
  const [cls, sep] = [named("cls_token"), named("sep_token")];
  if (cls === undefined || sep === undefined) return bare;
  return String(config["tokenizer_class"]).startsWith("XLNet")
    ? {
        single: [first(), special(sep), special(cls, 2)],
        pair: [first(), special(sep), second(1), special(sep, 1), special(cls, 2)],
        trimOffsets: false,
      }
    : bertLike(cls, sep);
}

const bertLike = (cls: number, sep: number): Template => ({
  single: [special(cls), first(), special(sep)],
  pair: [special(cls), first(), special(sep), second(1), special(sep, 1)],
  trimOffsets: false,
});

function templateOfProcessor(processor: Processor, idOf: (token: string) => number | undefined): Template {
  switch (processor.type) {
    case "BertProcessing":
      return bertLike((processor["cls"] as NamedId)[1], (processor["sep"] as NamedId)[1]);
    case "RobertaProcessing": {
      const [cls, sep] = [(processor["cls"] as NamedId)[1], (processor["sep"] as NamedId)[1]];
      return {
        single: [special(cls), first(), special(sep)],
        // RoBERTa knows no segments.
        pair: [special(cls), first(), special(sep), special(sep), second(0), special(sep)],
        trimOffsets: processor["trim_offsets"] !== false,
      };
    }
    case "ByteLevel":
      return { ...bare, trimOffsets: processor["trim_offsets"] !== false };
    case "TemplateProcessing": {
      const parts = (list: unknown) =>
        (list as Record<string, { id: string; type_id: number }>[]).flatMap((entry): TemplatePart[] => {
          const { Sequence: sequence, SpecialToken: token } = entry;
          if (sequence) return [{ sequence: sequence.id === "A" ? 0 : 1, type: sequence.type_id }];
          if (!token) return [];
          const named = (processor["special_tokens"] as Record<string, { ids: number[] }> | undefined)?.[
            token.id
          ];
          const ids = named?.ids ?? [idOf(token.id)].filter((id) => id !== undefined);
          return ids.map((id) => special(id, token.type_id));
        });
      return { single: parts(processor["single"]), pair: parts(processor["pair"]), trimOffsets: false };
    }
    case "Sequence": {
      const templates = (processor["processors"] as Processor[]).map((inner) =>
        templateOfProcessor(inner, idOf),
      );
      return {
        ...(templates.find(({ single }) => single.length > 1) ?? bare),
        trimOffsets: templates.some(({ trimOffsets }) => trimOffsets),
      };
    }
    default:
      throw new LineageError(
        "tokenizer",
        `the tokenizer's post-processor ${JSON.stringify(processor.type)} is not known`,
      );
  }
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
