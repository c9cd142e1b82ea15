import type { CheckedDefinition, TokenizerConfig } from "./tokenizer-definition.js";

/** How tokens become text. */
export interface TextRule {
  /** The bytes that a token stands for, part of a character perhaps; `first` when no token comes before it. */
  readonly bytesOf: (token: string, first: boolean) => Uint8Array;
  /** Whether every wrong byte becomes a U+FFFD of its own, as SentencePiece has it, or every wrong sequence. */
  readonly replaceEachByte: boolean;
  /** What a token puts before the one after it, were there one: the space that ends a word. */
  readonly tailOf?: (token: string) => string;
}

/** GPT-2's printable stand-ins for bytes, and the bytes back. */
export const byteOfCharacter = new Map<string, number>();
export const characterOfByte: string[] = [];
for (let byte = 0, next = 256; byte < 256; byte++) {
  const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  const character = String.fromCodePoint(printable ? byte : next++);
  byteOfCharacter.set(character, byte);
  characterOfByte.push(character);
}

const encoder = new TextEncoder();
const utf8 = (text: string): Uint8Array => encoder.encode(text);

/**
 * The rule of a `tokenizer.json`'s decoder, token by token so that text can be written as it comes; undefined for a
 * decoder that has none.
 */
export function textRule(definition: CheckedDefinition, config: TokenizerConfig): TextRule | undefined {
  if (config["lineage_level"] === "character") return plain;
  const { decoder } = definition;
  if (decoder === null) return { ...plain, bytesOf: (token, first) => utf8(first ? token : ` ${token}`) };
  const steps = decoder.type === "Sequence" ? (decoder["decoders"] as { type: string }[]) : [decoder];
  if (steps.length === 1) {
    const rule = singleRule(steps[0]! as Record<string, unknown>);
    if (rule) return rule;
  }
  return sequenceRule(steps as Record<string, unknown>[]);
}

const plain: TextRule = { bytesOf: utf8, replaceEachByte: false };

function singleRule(step: Record<string, unknown>): TextRule | undefined {
  switch (step["type"]) {
    case "ByteLevel":
      return {
        replaceEachByte: false,
        // As in the reference, a token with a character that stands for no byte is its own text.
        bytesOf: (token) => {
          const bytes = Array.from(token, (character) => byteOfCharacter.get(character));
          return bytes.includes(undefined) ? utf8(token) : Uint8Array.from(bytes as number[]);
        },
      };
    case "WordPiece": {
      const prefix = typeof step["prefix"] === "string" ? step["prefix"] : "##";
      const cleanup = step["cleanup"] !== false;
      return {
        replaceEachByte: false,
        bytesOf: (token, first) => {
          const continued = prefix !== "" && token.startsWith(prefix);
          const text = first ? token : continued ? token.slice(prefix.length) : ` ${token}`;
          return utf8(cleanup ? closeUp(text) : text);
        },
      };
    }
    case "BPEDecoder": {
      const suffix = typeof step["suffix"] === "string" ? step["suffix"] : "</w>";
      return {
        replaceEachByte: false,
        bytesOf: (token) => utf8(token.endsWith(suffix) ? token.slice(0, -suffix.length) : token),
        tailOf: (token) => (token.endsWith(suffix) ? " " : ""),
      };
    }
    case "Metaspace": {
      const mark = typeof step["replacement"] === "string" ? step["replacement"] : "\u2581";
      const strips = step["prepend_scheme"] !== "never" && step["add_prefix_space"] !== false;
      return {
        replaceEachByte: false,
        bytesOf: (token, first) => utf8(token.replaceAll(mark, first && strips ? "" : " ")),
      };
    }
    case "Fuse":
      return plain;
    default:
      return undefined;
  }
}

/** SentencePiece's decoder, as converters write it: replacements, byte fallback, and a space less at the start. */
function sequenceRule(steps: readonly Record<string, unknown>[]): TextRule | undefined {
  const replacements: [string, string][] = [];
  let byteFallback = false;
  let stripped = 0;
  for (const step of steps) {
    const pattern = step["pattern"] as { String?: unknown } | undefined;
    if (step["type"] === "Replace" && typeof pattern?.String === "string")
      replacements.push([pattern.String, String(step["content"] ?? "")]);
    else if (step["type"] === "ByteFallback") byteFallback = true;
    else if (step["type"] === "Strip" && step["content"] === " " && !step["stop"])
      stripped = Number(step["start"] ?? 0);
    else if (step["type"] === "Metaspace") {
      replacements.push([String(step["replacement"] ?? "\u2581"), " "]);
      stripped = 1;
    } else if (step["type"] !== "Fuse") return undefined;
  }
  const leading = new RegExp(`^ {0,${stripped}}`);
  return {
    replaceEachByte: byteFallback,
    bytesOf: (token, first) => {
      const byte = byteFallback ? /^<0x([0-9A-Fa-f]{2})>$/.exec(token)?.[1] : undefined;
      if (byte !== undefined) return Uint8Array.of(parseInt(byte, 16));
      const text = replacements.reduce((result, [from, to]) => result.replaceAll(from, to), token);
      return utf8(first ? text.replace(leading, "") : text);
    },
  };
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

/** Characters from bytes as they come; each appears once all its bytes are there. */
export class CharacterStream {
  private readonly decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  private readonly strict = new TextDecoder("utf-8", { ignoreBOM: true, fatal: true });
  private pending: number[] = [];

  constructor(private readonly replaceEachByte: boolean) {}

  push(bytes: Uint8Array): string {
    if (!this.replaceEachByte) return this.decoder.decode(bytes, { stream: true });
    let text = "";
    for (const byte of bytes) {
      this.pending.push(byte);
      text += this.settle(false);
    }
    return text;
  }

  /** What an unfinished character leaves: U+FFFD, or nothing. */
  flush(): string {
    return this.replaceEachByte ? this.settle(true) : this.decoder.decode();
  }

  private settle(ended: boolean): string {
    let text = "";
    while (this.pending.length > 0) {
      const needed = characterLength(this.pending[0]!);
      const have = this.pending.slice(1, needed);
      const possible = needed > 0 && have.every((byte) => (byte & 0xc0) === 0x80);
      if (possible && have.length + 1 < needed && !ended) return text;
      const character =
        possible && have.length + 1 === needed ? this.strictly(this.pending.slice(0, needed)) : undefined;
      text += character ?? "\uFFFD";
      this.pending.splice(0, character === undefined ? 1 : needed);
    }
    return text;
  }

  private strictly(bytes: readonly number[]): string | undefined {
    try {
      return this.strict.decode(Uint8Array.from(bytes));
    } catch {
      // Overlong forms and surrogates look like characters and are none: the caller replaces them.
      return undefined;
    }
  }
}

/** Bytes of the character that a byte begins; 0 when it begins none. */
const characterLength = (byte: number): number =>
  byte < 0x80 ? 1 : byte < 0xc2 ? 0 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : byte < 0xf5 ? 4 : 0;
