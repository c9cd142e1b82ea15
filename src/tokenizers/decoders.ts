import { byteOfCharacter, utf8 } from "./bytes.js";
import { CharacterStream } from "./character-stream.js";
import type { Entries } from "./entries.js";
import { findMatches } from "./oniguruma.js";
import { patternOf } from "./patterns.js";
import { prependSchemeOf } from "./pre-tokenizers.js";

/** Makes text of tokens as they come. The pieces add up to the text of all tokens. */
export interface TextWriter {
  /** What a token makes certain. */
  push(token: string): string;
  /** What was still open. */
  flush(): string;
}

/** How tokens become text. */
export interface Decoder {
  /** A writer at the start of a text. */
  start(): TextWriter;
  /** The bytes that a token stands for, part of a character perhaps; absent where that depends on its neighbours. */
  bytesOf?(token: string, first: boolean): Uint8Array;
}

/** Makes other tokens of all tokens of a text: a step of the reference's decoders. */
type Step = (tokens: readonly string[]) => string[];

/** A step that changes each token by itself; `first` for the first of a text. */
type TokenStep = (token: string, first: boolean) => string;

interface Part {
  readonly step: Step;
  /** What the step does to each token, where it does nothing else. */
  readonly single?: TokenStep;
  readonly kind: string;
  readonly strip?: { readonly content: string; readonly start: number; readonly stop: number };
  readonly suffix?: string;
}

/** The decoder that a definition describes; without one, tokens are joined by spaces. */
export function createDecoder(part: Entries | undefined): Decoder {
  if (!part) return byToken((token, first) => (first ? token : ` ${token}`));
  const parts = partsOf(part);
  return streamed(parts) ?? collected(parts);
}

/** Tokens are text as they are. */
export const plainDecoder: Decoder = byToken((token) => token);

function partsOf(part: Entries): Part[] {
  const type = part.string("type");
  const parts = type === "Sequence" ? part.objects("decoders").flatMap(partsOf) : [partOf(type, part)];
  part.finish();
  return parts;
}

const each = (kind: string, single: TokenStep): Part => ({
  kind,
  single,
  step: (tokens) => tokens.map((token, index) => single(token, index === 0)),
});

function partOf(type: string, part: Entries): Part {
  switch (type) {
    case "ByteLevel":
      part.ignore("add_prefix_space", "trim_offsets", "use_regex");
      return {
        kind: type,
        step: (tokens) => [
          new TextDecoder("utf-8", { ignoreBOM: true }).decode(joined(tokens.map(levelBytes))),
        ],
      };
    case "WordPiece": {
      const prefix = part.string("prefix", "##");
      const cleans = part.boolean("cleanup", true);
      return each(type, (token, first) => {
        const text = first ? token : token.startsWith(prefix) ? token.slice(prefix.length) : ` ${token}`;
        return cleans ? closeUp(text) : text;
      });
    }
    case "BPEDecoder": {
      const suffix = part.string("suffix", "</w>");
      const step: Step = (tokens) =>
        tokens.map((token, index) => replaceAll(token, suffix, index === tokens.length - 1 ? "" : " "));
      return { kind: type, step, suffix };
    }
    case "Metaspace": {
      const mark = part.character("replacement", "\u2581");
      const strips = prependSchemeOf(part) !== "never";
      part.ignore("split");
      return each(type, (token, first) => token.replaceAll(mark, first && strips ? "" : " "));
    }
    case "CTC": {
      const pad = part.string("pad_token", "<pad>");
      const delimiter = part.string("word_delimiter_token", "|");
      const cleans = part.boolean("cleanup", true);
      return {
        kind: type,
        step: (tokens) =>
          tokens
            .filter((token, index) => token !== tokens[index - 1])
            .map((token) => {
              const text = replaceAll(token, pad, "");
              return cleans ? replaceAll(closeUp(text), delimiter, " ") : text;
            })
            .filter((text) => text !== ""),
      };
    }
    case "Replace": {
      const pattern = patternOf(part);
      const content = part.string("content");
      return each(type, (token) => replaceMatches(token, pattern, content));
    }
    case "Fuse":
      return { kind: type, step: (tokens) => [tokens.join("")] };
    case "Strip": {
      const strip = {
        content: part.character("content"),
        start: part.count("start"),
        stop: part.count("stop"),
      };
      return { kind: type, strip, step: (tokens) => tokens.map((token) => stripped(token, strip)) };
    }
    case "ByteFallback":
      return { kind: type, step: bytesFused };
    default:
      return part.refuse(`there is no decoder of the type ${JSON.stringify(type)}`);
  }
}

/** As Rust's `replace`, in which an empty pattern stands between all characters. */
const replaceAll = (text: string, pattern: string, by: string): string =>
  pattern === ""
    ? [by, ...Array.from(text, (character) => character + by)].join("")
    : text.replaceAll(pattern, () => by);

function replaceMatches(text: string, pattern: RegExp, content: string): string {
  const matches = findMatches(pattern, text);
  let result = "";
  let done = 0;
  for (let at = 0; at < matches.length; at += 2) {
    result += text.slice(done, matches[at]) + content;
    done = matches[at + 1]!;
  }
  return result + text.slice(done);
}

function stripped(token: string, { content, start, stop }: NonNullable<Part["strip"]>): string {
  const characters = Array.from(token);
  let from = 0;
  while (from < start && characters[from] === content) from++;
  let to = characters.length;
  while (characters.length - to < stop && to > from && characters[to - 1] === content) to--;
  return characters.slice(from, to).join("");
}

/** No space before punctuation and English clitics. */
const closeUp = (text: string): string =>
  text
    .replaceAll(" .", ".")
    .replaceAll(" ?", "?")
    .replaceAll(" !", "!")
    .replaceAll(" ,", ",")
    .replaceAll(" ' ", "'")
    .replaceAll(" n't", "n't")
    .replaceAll(" 'm", "'m")
    .replaceAll(" do not", " don't")
    .replaceAll(" 's", "'s")
    .replaceAll(" 've", "'ve")
    .replaceAll(" 're", "'re");

// ---- Bytes ----------------------------------------------------------------------------------------------------------

/** The bytes of a token in GPT-2's stand-ins; one with a character that stands for no byte is its own text. */
function levelBytes(token: string): Uint8Array {
  const bytes = new Uint8Array(token.length);
  for (let unit = 0; unit < token.length; unit++) {
    const byte = byteOfUnit[token.charCodeAt(unit)];
    if (byte === undefined) return utf8(token);
    bytes[unit] = byte;
  }
  return bytes;
}

/** The byte of each stand-in, by its number. */
const byteOfUnit: (number | undefined)[] = [];
for (const [character, byte] of byteOfCharacter) byteOfUnit[character.charCodeAt(0)] = byte;

/** The byte that `<0xE3>` stands for. */
function fallbackByte(token: string): number | undefined {
  if (token.length !== 6 || !token.startsWith("<0x")) return undefined;
  const digits = /^<0x([0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>$/.exec(token)?.[1];
  return digits === undefined ? undefined : parseInt(digits, 16);
}

const strict = new TextDecoder("utf-8", { ignoreBOM: true, fatal: true });

/** The text of a run of bytes; where they are no text, each is a U+FFFD. */
function textOfBytes(bytes: readonly number[]): string[] {
  try {
    return [strict.decode(Uint8Array.from(bytes))];
  } catch {
    // The reference gives up the whole run for one wrong byte in it.
    return bytes.map(() => "\uFFFD");
  }
}

function bytesFused(tokens: readonly string[]): string[] {
  const result: string[] = [];
  let bytes: number[] = [];
  const settle = () => {
    if (bytes.length > 0) result.push(...textOfBytes(bytes));
    bytes = [];
  };
  for (const token of tokens) {
    const byte = fallbackByte(token);
    if (byte !== undefined) bytes.push(byte);
    else {
      settle();
      result.push(token);
    }
  }
  settle();
  return result;
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let place = 0;
  for (const part of parts) {
    whole.set(part, place);
    place += part.length;
  }
  return whole;
}

// ---- Writers --------------------------------------------------------------------------------------------------------

function byToken(single: TokenStep): Decoder {
  return {
    start: () => {
      let first = true;
      return {
        push: (token) => {
          const text = single(token, first);
          first = false;
          return text;
        },
        flush: () => "",
      };
    },
    bytesOf: (token, first) => utf8(single(token, first)),
  };
}

/** A writer that waits for all tokens: for steps whose first token may depend on the last one. */
function collected(parts: readonly Part[]): Decoder {
  return {
    start: () => {
      const tokens: string[] = [];
      return {
        push: (token) => {
          tokens.push(token);
          return "";
        },
        flush: () => (tokens.length === 0 ? "" : decodeAll(parts, tokens)),
      };
    },
  };
}

const decodeAll = (parts: readonly Part[], tokens: readonly string[]): string =>
  parts.reduce<readonly string[]>((list, { step }) => step(list), tokens).join("");

/** A decoder that writes as tokens come, where its steps let it; undefined where they do not. */
function streamed(given: readonly Part[]): Decoder | undefined {
  // A text in one token is the same text in several.
  const parts = given.at(-1)?.kind === "Fuse" ? given.slice(0, -1) : given;
  if (parts.length === 1 && parts[0]!.kind === "ByteLevel") return byteLevelDecoder;
  if (parts.length === 1 && parts[0]!.suffix !== undefined) return suffixDecoder(parts[0]!.suffix);
  if (parts.every(({ single }) => single))
    return byToken((token, first) => parts.reduce((text, { single }) => single!(text, first), token));
  return sequenceDecoder(parts);
}

const byteLevelDecoder: Decoder = {
  start: () => {
    const characters = new CharacterStream(false);
    return { push: (token) => characters.push(levelBytes(token)), flush: () => characters.flush() };
  },
  bytesOf: levelBytes,
};

/** Words that end in a sign: a space for each but the last. */
function suffixDecoder(suffix: string): Decoder | undefined {
  if (suffix === "") return undefined;
  return {
    start: () => {
      let held = "";
      return {
        push: (token) => {
          const before = held.replaceAll(suffix, " ");
          const place = token.indexOf(suffix);
          held = place < 0 ? "" : token.slice(place);
          return before + (place < 0 ? token : token.slice(0, place));
        },
        flush: () => held.replaceAll(suffix, ""),
      };
    },
    bytesOf: (token) => utf8(token.replaceAll(suffix, "")),
  };
}

/**
 * SentencePiece's decoder as converters write it: changes of each token, bytes, everything fused, and spaces less at the
 * start. The text of bytes waits for the end of their run.
 */
function sequenceDecoder(parts: readonly Part[]): Decoder | undefined {
  const bytesAt = parts.findIndex(({ kind }) => kind === "ByteFallback");
  const before = parts.slice(0, Math.max(0, bytesAt));
  const after = parts.slice(bytesAt + 1);
  const last = after.at(-1);
  const strip =
    last?.strip && last.strip.stop === 0 && after.at(-2)?.kind === "Fuse" ? last.strip : undefined;
  const middle = strip ? after.slice(0, -2) : after;
  if (!before.every(({ single }) => single) || middle.length > 0) {
    const simple = bytesAt < 0 && middle.every(({ single }) => single);
    if (!simple) return undefined;
  }
  const singles = [...before, ...middle];
  const textOf = (token: string, first: boolean) =>
    singles.reduce((text, { single }) => single!(text, first), token);
  return {
    start: () => {
      let first = true;
      let bytes: number[] = [];
      let left = strip?.start ?? 0;
      const cut = (text: string): string => {
        let from = 0;
        while (left > 0 && from < text.length) {
          if (!text.startsWith(strip!.content, from)) left = 0;
          else {
            from += strip!.content.length;
            left--;
          }
        }
        return text.slice(from);
      };
      const settle = (): string => {
        const text = bytes.length > 0 ? textOfBytes(bytes).join("") : "";
        bytes = [];
        return text;
      };
      return {
        push: (token) => {
          const text = textOf(token, first);
          first = false;
          const byte = bytesAt >= 0 ? fallbackByte(text) : undefined;
          if (byte === undefined) return cut(settle() + text);
          bytes.push(byte);
          return "";
        },
        flush: () => cut(settle()),
      };
    },
    bytesOf: (token, first) => {
      const text = textOf(token, first);
      const byte = bytesAt >= 0 ? fallbackByte(text) : undefined;
      if (byte !== undefined) return Uint8Array.of(byte);
      return utf8(first && strip ? stripped(text, strip) : text);
    },
  };
}

/** SentencePiece itself: as its converted decoder, but every wrong byte is a U+FFFD of its own, and characters come at once. */
export function sentencePieceDecoder(decoder: Decoder): Decoder {
  return {
    ...decoder,
    start: () => {
      const characters = new CharacterStream(true);
      let first = true;
      return {
        push: (token) => {
          const bytes = decoder.bytesOf!(token, first);
          first = false;
          return characters.push(bytes);
        },
        flush: () => characters.flush(),
      };
    },
  };
}
