import * as untyped from "@huggingface/tokenizers";
import { CharacterMap } from "./charsmap.js";
import { mergeByRank } from "./cut-bpe.js";
import type { CheckedDefinition, TokenizerConfig } from "./tokenizer-definition.js";
import { UnigramCutter } from "./cut-unigram.js";

/** The package's declarations name each other without extensions, which Node's resolution takes for nothing: these stand in. */
interface Normalizer {
  readonly config: object;
  normalize(text: string): string;
}
interface SequenceNormalizer extends Normalizer {
  normalizers: (Normalizer | null)[];
}
interface PrependNormalizer extends Normalizer {
  readonly config: { readonly prepend: string };
}
interface PrecompiledNormalizer extends Normalizer {
  readonly config: { readonly precompiled_charsmap?: string | null };
}
interface Model {
  readonly vocab: readonly string[];
  readonly tokens_to_ids: ReadonlyMap<string, number>;
  readonly unk_token_id?: number;
  fuse_unk: boolean;
  encode(words: string[]): string[];
}
interface MergingModel extends Model {
  readonly end_of_word_suffix?: string | null;
  readonly continuing_subword_suffix?: string | null;
  bpe(word: string): string[];
}
interface UnigramModel extends Model {
  readonly scores: readonly number[];
}
export interface Runner {
  normalizer: Normalizer | null;
  readonly model: Model;
  encode(text: string, options: { add_special_tokens: boolean }): { ids: number[] };
}
type Class<T, Arguments extends readonly unknown[] = readonly never[]> = new (...args: Arguments) => T;
const { Tokenizer, BPE, Unigram, SequenceNormalizer, PrependNormalizer, PrecompiledNormalizer } =
  untyped as unknown as {
    Tokenizer: Class<Runner, [definition: object, config: object]>;
    BPE: Class<MergingModel>;
    Unigram: Class<UnigramModel>;
    SequenceNormalizer: Class<SequenceNormalizer>;
    PrependNormalizer: Class<PrependNormalizer>;
    PrecompiledNormalizer: Class<PrecompiledNormalizer>;
  };

/** Words whose cut is remembered. */
const rememberedWords = 2 ** 15;
const longestRememberedWord = 64;

/**
 * The package's tokenizer with five of its parts mended: its merging looks pairs up by JSON, its unigram lattice copies
 * its nodes and overflows the stack on long texts, it approximates precompiled character maps by NFKC, it puts a prefix
 * before nothing, and it takes only ASCII's digits and letters for such.
 */
export function createRunner(
  definition: CheckedDefinition,
  config: TokenizerConfig,
  { parseSpecial }: { parseSpecial: boolean },
): Runner {
  const { model } = definition;
  const specials = definition.added_tokens.filter(({ special }) => special).map(({ content }) => content);
  const sentencePiece = config["lineage_cut"] === "sentencepiece";
  const merges = (model.merges ?? []).map(
    (merge) => (typeof merge === "string" ? merge.split(" ") : merge) as [string, string],
  );
  // SentencePiece looks for these while it merges; a split of the text would give each part a prefix of its own.
  const whole = sentencePiece
    ? definition.added_tokens.filter(({ special }) => !special).map(({ content }) => content)
    : [];
  const runner = new Tokenizer(
    {
      ...definition,
      pre_tokenizer: definition.pre_tokenizer && mendPreTokenizer(definition.pre_tokenizer),
      added_tokens: definition.added_tokens.filter(
        ({ content, special }) => !whole.includes(content) && (parseSpecial || !special),
      ),
      model: model.type === "Unigram" || !model.merges ? model : { ...model, merges: [] },
    },
    config,
  );
  if (runner.normalizer) runner.normalizer = mendNormalizer(runner.normalizer);
  if (runner.model instanceof BPE) mendMerging(runner.model, merges, sentencePiece, whole);
  else if (runner.model instanceof Unigram)
    mendUnigram(runner.model, { byteFallback: model.byte_fallback ?? false, whole, specials });
  return runner;
}

/** The package's digits and word characters are ASCII's; the reference's are Unicode's. */
function mendPreTokenizer(part: Readonly<Record<string, unknown>>): object {
  if (Array.isArray(part["pretokenizers"]))
    return { ...part, pretokenizers: part["pretokenizers"].map(mendPreTokenizer) };
  if (part["type"] === "Digits") {
    const Regex = part["individual_digits"] ? "\\p{N}" : "\\p{N}+";
    return { type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false };
  }
  if (part["type"] === "Whitespace") {
    const word = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}";
    return {
      type: "Split",
      pattern: { Regex: `[${word}]+|[^${word}\\s]+` },
      behavior: "Removed",
      invert: true,
    };
  }
  return part;
}

function mendNormalizer(normalizer: Normalizer): Normalizer {
  if (normalizer instanceof SequenceNormalizer) {
    normalizer.normalizers = normalizer.normalizers.map((part) => part && mendNormalizer(part));
  } else if (normalizer instanceof PrependNormalizer) {
    const prepend = normalizer.normalize.bind(normalizer);
    normalizer.normalize = (text) => (text === "" ? "" : prepend(text));
  } else if (normalizer instanceof PrecompiledNormalizer) {
    const { precompiled_charsmap: encoded } = normalizer.config;
    if (encoded) {
      const map = new CharacterMap(Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0)));
      normalizer.normalize = (text) => map.normalize(text);
    } else normalizer.normalize = (text) => text;
  }
  return normalizer;
}

function mendMerging(
  model: MergingModel,
  merges: readonly (readonly [string, string])[],
  sentencePiece: boolean,
  whole: readonly string[],
): void {
  const ranks = new Map<string, number>();
  // A rank belongs to the pair; in SentencePiece to the piece that the pair makes, however it is made.
  const keyOf = sentencePiece
    ? (left: string, right: string) => left + right
    : (left: string, right: string) => `${left} ${right}`;
  merges.forEach(([left, right], rank) => {
    const key = keyOf(left, right);
    if (!ranks.has(key)) ranks.set(key, rank);
  });
  const frozen = new Set(whole);
  const rankOf =
    frozen.size === 0
      ? (left: string, right: string) => ranks.get(keyOf(left, right))
      : (left: string, right: string) =>
          frozen.has(left) || frozen.has(right) ? undefined : ranks.get(keyOf(left, right));
  const symbols = frozen.size === 0 ? null : new RegExp(`${alternatives(whole)}|.`, "gsu");
  const { end_of_word_suffix: suffix, continuing_subword_suffix: continuing } = model;
  const remembered = new Map<string, string[]>();
  model.bpe = (word) => {
    const known = remembered.get(word);
    if (known) return known;
    const parts = symbols ? (word.match(symbols) ?? []) : Array.from(word);
    if (suffix && parts.length > 0) parts.push(parts.pop()! + suffix);
    const tokens = mergeByRank(parts, rankOf);
    if (continuing) for (let i = 0; i + 1 < tokens.length; i++) tokens[i] += continuing;
    if (word.length <= longestRememberedWord) {
      if (remembered.size >= rememberedWords) remembered.clear();
      remembered.set(word, tokens);
    }
    return tokens;
  };
}

function mendUnigram(
  model: UnigramModel,
  {
    byteFallback,
    whole,
    specials,
  }: { byteFallback: boolean; whole: readonly string[]; specials: readonly string[] },
): void {
  const userDefined = new Set(whole);
  const cutter = new UnigramCutter(
    // No text is ever cut into a special token, nor into one that stands for a byte.
    model.vocab
      .map((piece, id) => ({ piece, score: model.scores[id]!, userDefined: userDefined.has(piece) }))
      .filter(({ piece }) => !specials.includes(piece) && !(byteFallback && bytePattern.test(piece))),
  );
  const utf8 = new TextEncoder();
  model.encode = (words) =>
    words.flatMap((word) =>
      cutter
        .cut(word)
        .flatMap((piece) =>
          byteFallback && !model.tokens_to_ids.has(piece)
            ? Array.from(utf8.encode(piece), byteToken)
            : [piece],
        ),
    );
  if (byteFallback) model.fuse_unk = false;
}

export const bytePattern = /^<0x[0-9A-F]{2}>$/;
/** The token of a byte where an alphabet of bytes stands beside the pieces. */
export const byteToken = (byte: number): string => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;

/** A pattern for any of `texts`, the longest first. */
export const alternatives = (texts: readonly string[]): string =>
  [...texts]
    .sort((a, b) => b.length - a.length)
    .map((text) => text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"))
    .join("|");
