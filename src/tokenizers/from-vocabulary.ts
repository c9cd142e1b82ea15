import { addedToken, bertTemplate, plainFastTokenizer } from "./definitions.js";
import { Tokenizer, endOfText } from "./tokenizer.js";
import type { TokenizerConfig, TokenizerDefinition } from "./tokenizer-definition.js";

// Tokenizers that are known by their kind and their vocabulary alone: what trainers learn, and what folders hold that are
// older than tokenizer.json.

/** The model of a byte-level BPE as `tokenizer.json` has it. */
export const byteLevelBpe = (
  vocabulary: Iterable<readonly [token: string, id: number]>,
  merges: readonly string[],
) => ({
  type: "BPE",
  dropout: null,
  unk_token: null,
  continuing_subword_prefix: "",
  end_of_word_suffix: "",
  fuse_unk: false,
  byte_fallback: false,
  vocab: Object.fromEntries(vocabulary),
  merges: [...merges],
});

export interface ByteLevelOptions {
  /** Ids by token. */
  readonly vocabulary: ReadonlyMap<string, number>;
  /** Each `left right`. */
  readonly merges: readonly string[];
  /** Special tokens of the vocabulary, by their content. Default `<|endoftext|>` where it is there. */
  readonly special?: readonly string[];
  /** Those of them that take the spaces before them along. */
  readonly leftStripped?: readonly string[];
  readonly postProcessor?: TokenizerDefinition["post_processor"];
  readonly normalizer?: TokenizerDefinition["normalizer"];
  readonly preTokenizer?: TokenizerDefinition["pre_tokenizer"];
  /** What `tokenizer_config.json` says. */
  readonly config?: TokenizerConfig;
}

/** GPT-2's tokenizer, Radford et al. 2019: merges over bytes, in words that begin with their space. */
export function byteLevelTokenizer({
  vocabulary,
  merges,
  special = vocabulary.has(endOfText) ? [endOfText] : [],
  leftStripped = [],
  postProcessor = null,
  normalizer = null,
  preTokenizer = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
  config = {},
}: ByteLevelOptions): Tokenizer {
  const named = special.includes(endOfText)
    ? { bos_token: endOfText, eos_token: endOfText, unk_token: endOfText }
    : {};
  return new Tokenizer(
    {
      version: "1.0",
      added_tokens: special.map((token) => ({
        ...addedToken(vocabulary.get(token)!, token),
        lstrip: leftStripped.includes(token),
      })),
      normalizer,
      pre_tokenizer: preTokenizer,
      post_processor: postProcessor,
      decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
      model: byteLevelBpe(vocabulary, merges),
    },
    { ...named, ...config },
  );
}

/** What GPT-1's tokens that end a word end with. */
export const wordEnd = "</w>";

/** GPT-1's tokenizer, Radford et al. 2018: merges within words as BERT cuts them, lower-cased, each ended by `</w>`. */
export function wordBpeTokenizer({
  vocabulary,
  merges,
  special = ["<unk>"],
  config = {},
}: Pick<ByteLevelOptions, "vocabulary" | "merges" | "special" | "config">): Tokenizer {
  return new Tokenizer(
    {
      version: "1.0",
      added_tokens: special
        .filter((token) => vocabulary.has(token))
        .map((token) => addedToken(vocabulary.get(token)!, token)),
      normalizer: bertNormalizer({ lowercase: true }),
      pre_tokenizer: { type: "BertPreTokenizer" },
      post_processor: null,
      decoder: { type: "BPEDecoder", suffix: wordEnd },
      model: {
        type: "BPE",
        dropout: null,
        unk_token: "<unk>",
        continuing_subword_prefix: "",
        end_of_word_suffix: wordEnd,
        fuse_unk: false,
        byte_fallback: false,
        vocab: Object.fromEntries(vocabulary),
        merges: [...merges],
      },
    },
    { unk_token: "<unk>", ...config },
  );
}

/** BERT's special tokens. */
export const bertSpecialTokens = {
  pad_token: "[PAD]",
  unk_token: "[UNK]",
  cls_token: "[CLS]",
  sep_token: "[SEP]",
  mask_token: "[MASK]",
} as const;

export interface WordPieceTokenizerOptions {
  /** In the order of their ids. */
  readonly tokens: readonly string[];
  readonly lowercase: boolean;
  /** Whether accents go; null for as `lowercase` says. */
  readonly stripAccents?: boolean | null;
  /** Whether every ideograph is a word. Default true. */
  readonly splitIdeographs?: boolean;
  /** What `tokenizer_config.json` says; the special tokens that it does not name are BERT's. */
  readonly config?: TokenizerConfig;
}

/** How BERT writes a text before it is cut. */
export const bertNormalizer = ({
  lowercase,
  stripAccents = null,
  splitIdeographs = true,
}: Pick<WordPieceTokenizerOptions, "lowercase" | "stripAccents" | "splitIdeographs">) => ({
  type: "BertNormalizer",
  clean_text: true,
  handle_chinese_chars: splitIdeographs,
  strip_accents: stripAccents,
  lowercase,
});

/** BERT's tokenizer, Devlin et al. 2019: pieces of words, `[CLS] a [SEP] b [SEP]` around texts. */
export function wordPieceTokenizer(options: WordPieceTokenizerOptions): Tokenizer {
  const { tokens, config = {} } = options;
  const vocabulary = new Map(tokens.map((token, id) => [token, id]));
  const named = { ...bertSpecialTokens, ...config };
  const contentOf = (entry: keyof typeof bertSpecialTokens): string => {
    const token = named[entry] ?? bertSpecialTokens[entry];
    return typeof token === "string" ? token : token.content;
  };
  const entries = Object.keys(bertSpecialTokens) as (keyof typeof bertSpecialTokens)[];
  const special = [...new Set(entries.map(contentOf))].filter((token) => vocabulary.has(token));
  const [cls, sep] = [contentOf("cls_token"), contentOf("sep_token")];
  const [clsId, sepId] = [vocabulary.get(cls), vocabulary.get(sep)];
  return new Tokenizer(
    {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: special.map((token) => addedToken(vocabulary.get(token)!, token)),
      normalizer: bertNormalizer(options),
      pre_tokenizer: { type: "BertPreTokenizer" },
      post_processor:
        clsId === undefined || sepId === undefined
          ? null
          : bertTemplate({ cls: [cls, clsId], sep: [sep, sepId] }),
      decoder: { type: "WordPiece", prefix: "##", cleanup: true },
      model: {
        type: "WordPiece",
        unk_token: contentOf("unk_token"),
        continuing_subword_prefix: "##",
        max_input_chars_per_word: 100,
        vocab: Object.fromEntries(vocabulary),
      },
    },
    named,
  );
}

/** One token for each character of `text`, in code-point order, as nanoGPT's `shakespeare_char` has it. */
export function characterTokenizer(text: string): Tokenizer {
  const characters = [...new Set(text)].sort((a, b) => a.codePointAt(0)! - b.codePointAt(0)!);
  return new Tokenizer(
    {
      version: "1.0",
      added_tokens: [],
      normalizer: null,
      pre_tokenizer: { type: "Split", pattern: { Regex: "[\\s\\S]" }, behavior: "Isolated", invert: false },
      post_processor: null,
      decoder: { type: "Fuse" },
      model: {
        type: "BPE",
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: "",
        end_of_word_suffix: "",
        fuse_unk: false,
        byte_fallback: false,
        vocab: Object.fromEntries(characters.map((character, id) => [character, id])),
        merges: [],
      },
    },
    { ...plainFastTokenizer, lineage_level: "character" },
  );
}
