import { LineageError } from "../base/errors.js";
import { characterMapBytes } from "./character-map.js";
import type { CheckedDefinition } from "./tokenizer-definition.js";

/** What a text becomes before a SentencePiece model cuts it. */
export interface SentencePieceRules {
  /** The table of character replacements; empty for none. */
  readonly charactersMap: Uint8Array;
  readonly addPrefix: boolean;
  readonly removeExtraSpaces: boolean;
}

type Part = Readonly<Record<string, unknown>>;

const space = "\u2581";

/** A part and the parts that it consists of, in order. */
const partsOf = (part: Part | null, within: string): readonly Part[] =>
  part === null ? [] : part["type"] === "Sequence" ? (part[within] as readonly Part[]) : [part];

/**
 * The rules of a `tokenizer.json` in SentencePiece's words. Throws `unsupported` for a step that SentencePiece does not have.
 * @param definition of a unigram model
 */
export function sentencePieceRules({ normalizer, pre_tokenizer }: CheckedDefinition): SentencePieceRules {
  const refuse = (what: string): never => {
    throw new LineageError("unsupported", `a SentencePiece model has no ${what}`);
  };
  let charactersMap: Uint8Array | "NFKC" = new Uint8Array();
  let blanks = false;
  let addPrefix = false;
  let removeExtraSpaces = false;
  for (const step of partsOf(normalizer, "normalizers")) {
    const pattern = step["pattern"] as { readonly String?: string; readonly Regex?: string } | undefined;
    switch (step["type"]) {
      case "Precompiled":
        charactersMap = fromBase64((step["precompiled_charsmap"] as string | null) ?? "");
        break;
      case "NFKC":
        charactersMap = "NFKC";
        break;
      case "Strip":
        removeExtraSpaces = true;
        break;
      case "Prepend":
        if (step["prepend"] !== space) refuse(`prefix ${JSON.stringify(step["prepend"])}`);
        addPrefix = true;
        break;
      case "Replace":
        if (pattern?.Regex === "\\s+") blanks = removeExtraSpaces = true;
        else if (pattern?.Regex?.includes(" ")) removeExtraSpaces = true;
        else if (pattern?.String !== " ") refuse(`replacement of ${JSON.stringify(pattern)}`);
        break;
      default:
        refuse(`normalizer of the type ${String(step["type"])}`);
    }
  }
  for (const step of partsOf(pre_tokenizer, "pretokenizers"))
    switch (step["type"]) {
      case "Metaspace":
        addPrefix = step["prepend_scheme"] !== "never" && step["add_prefix_space"] !== false;
        break;
      case "WhitespaceSplit":
        removeExtraSpaces = true;
        break;
      default:
        refuse(`pre-tokenizer of the type ${String(step["type"])}`);
    }
  if (charactersMap !== "NFKC" && blanks) refuse("replacement of all blanks without NFKC");
  return {
    charactersMap: charactersMap === "NFKC" ? nfkcMap(blanks) : charactersMap,
    addPrefix,
    removeExtraSpaces,
  };
}

const made = new Map<boolean, Uint8Array>();

/**
 * Unicode's form NFKC as a table: every character that it changes, and every sequence that it joins to one. Marks that stand
 * in another order than Unicode's are not put right.
 * @param blanks whether every blank becomes a space besides
 */
export function nfkcMap(blanks: boolean): Uint8Array {
  let bytes = made.get(blanks);
  if (!bytes) made.set(blanks, (bytes = characterMapBytes(nfkcEntries(blanks))));
  return bytes;
}

/** Behind it no character has another form. */
const lastChanged = 0x2_ffff;

function nfkcEntries(blanks: boolean): Map<string, string> {
  const entries = new Map<string, string>();
  const add = (text: string) => {
    const composed = text.normalize("NFKC");
    const result = blanks ? composed.replace(/\s/g, " ") : composed;
    if (result !== text) entries.set(text, result);
  };
  for (let code = 1; code <= lastChanged; code++) {
    if (code === 0xd800) code = 0xe000;
    const character = String.fromCodePoint(code);
    add(character);
    const marks = [...character.normalize("NFD")];
    if (marks.length < 2 || character.normalize("NFC") !== character) continue;
    for (let joined = 1; joined < marks.length; joined++)
      add(marks.slice(0, joined).join("").normalize("NFC") + marks.slice(joined).join(""));
  }
  // Halfwidth kana and their marks.
  for (let kana = 0xff66; kana <= 0xff9d; kana++)
    for (const mark of ["\uff9e", "\uff9f"]) add(String.fromCharCode(kana) + mark);
  return entries;
}

const fromBase64 = (text: string): Uint8Array =>
  Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
