import { Tokenizer as Runner } from "@huggingface/tokenizers";
import { LineageError } from "../base/errors.js";
import { countWords, learnMerges } from "./train-bpe.js";
import { Tokenizer } from "./tokenizer.js";

export interface WordPieceOptions {
  /** Tokens of the vocabulary, the special ones and the characters included. */
  readonly vocabSize: number;
  /** Lower case, and accents stripped with it, as BERT's uncased models have it. Default true. */
  readonly lowercase?: boolean;
  /** The most frequent characters that get tokens; a word with another one becomes `[UNK]`. Default 1000. */
  readonly alphabetSize?: number;
}

const special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] as const;
const prefix = "##";

/**
 * Trains a WordPiece tokenizer as BERT's, Devlin et al. 2019: words by BERT's rules, pieces within a word marked `##`, the
 * special tokens `[PAD] [UNK] [CLS] [SEP] [MASK]` as ids 0 to 4, `[CLS] a [SEP] b [SEP]` around texts. Pieces are learned
 * by the frequency of pairs, as the `tokenizers` library learns them. Throws `data` for an empty text, `argument` when the
 * vocabulary cannot hold the characters.
 */
export function trainWordPiece(
  documents: Iterable<string>,
  { vocabSize, lowercase = true, alphabetSize = 1000 }: WordPieceOptions,
): Tokenizer {
  const normalizer = {
    type: "BertNormalizer",
    clean_text: true,
    handle_chinese_chars: true,
    strip_accents: null,
    lowercase,
  };
  const wordsOf = bertWords(normalizer);
  const counts = countWords(documents, wordsOf);
  if (counts.size === 0) throw new LineageError("data", "there is no text to train a tokenizer on");
  const alphabet = mostFrequentCharacters(counts, alphabetSize);
  const words = Array.from(counts, ([word, count]) => ({ characters: [...word], count }))
    .filter(({ characters }) => characters.every((character) => alphabet.has(character)))
    .map(({ characters, count }) => ({
      symbols: characters.map((character, place) => (place === 0 ? character : prefix + character)),
      count,
    }));
  const first = [...new Set(words.flatMap(({ symbols }) => symbols))].sort();
  const room = vocabSize - special.length - first.length;
  if (room < 0) {
    throw new LineageError(
      "argument",
      `a vocabulary of ${vocabSize} tokens cannot hold ${special.length} special tokens and the ${first.length} characters of this text; ` +
        `make it larger, or alphabetSize smaller`,
    );
  }
  const join = (left: string, right: string) => left + right.slice(prefix.length);
  const learned = learnMerges(words, room, join).map((merge) =>
    join(...(merge.split(" ") as [string, string])),
  );
  const vocab = Object.fromEntries(
    [...new Set([...special, ...first, ...learned])].map((token, id) => [token, id]),
  );
  return new Tokenizer(
    {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: special.map((content) => addedToken(vocab[content]!, content)),
      normalizer,
      pre_tokenizer: { type: "BertPreTokenizer" },
      post_processor: bertTemplate({ cls: ["[CLS]", vocab["[CLS]"]!], sep: ["[SEP]", vocab["[SEP]"]!] }),
      decoder: { type: "WordPiece", prefix, cleanup: true },
      model: {
        type: "WordPiece",
        unk_token: "[UNK]",
        continuing_subword_prefix: prefix,
        max_input_chars_per_word: 100,
        vocab,
      },
    } as never,
    {
      tokenizer_class: "BertTokenizer",
      do_lower_case: lowercase,
      pad_token: "[PAD]",
      unk_token: "[UNK]",
      cls_token: "[CLS]",
      sep_token: "[SEP]",
      mask_token: "[MASK]",
      model_max_length: 512,
    },
  );
}

/** The cut into words by which the tokenizer will run, from the library that runs it. */
function bertWords(normalizer: Readonly<Record<string, unknown>>): (document: string) => string[] {
  const runner = new Runner(
    {
      added_tokens: [],
      normalizer,
      pre_tokenizer: { type: "BertPreTokenizer" },
      post_processor: null,
      decoder: null,
      model: { type: "WordPiece", vocab: {}, unk_token: "[UNK]" },
    },
    {},
  ) as unknown as {
    normalizer: { normalize(text: string): string };
    pre_tokenizer: { pre_tokenize_text(text: string): string[] };
  };
  return (document) => runner.pre_tokenizer.pre_tokenize_text(runner.normalizer.normalize(document));
}

function mostFrequentCharacters(counts: ReadonlyMap<string, number>, limit: number): Set<string> {
  const frequency = new Map<string, number>();
  for (const [word, count] of counts)
    for (const character of word) frequency.set(character, (frequency.get(character) ?? 0) + count);
  const ranked = [...frequency].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1));
  return new Set(ranked.slice(0, limit).map(([character]) => character));
}

/** An entry of a definition's `added_tokens` for a special token, which is found in raw text as it is written. */
export const addedToken = (id: number, content: string): Record<string, unknown> => ({
  id,
  content,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  special: true,
});

type NamedId = readonly [token: string, id: number];

/** The post-processor that writes `[CLS] a [SEP]` and `[CLS] a [SEP] b [SEP]`, the second text with type 1. */
export function bertTemplate({ cls, sep }: { cls: NamedId; sep: NamedId }): Record<string, unknown> {
  return template([cls[0], "A", sep[0]], [cls[0], "A", sep[0], ["B", 1], [sep[0], 1]], [cls, sep]);
}

type TemplatePart = string | readonly [part: string, typeId: number];

/** A `TemplateProcessing` post-processor; `A` and `B` are the texts, everything else a special token. */
export function template(
  single: readonly TemplatePart[],
  pair: readonly TemplatePart[],
  tokens: readonly NamedId[],
): Record<string, unknown> {
  const piece = (part: TemplatePart) => {
    const [id, typeId] = typeof part === "string" ? [part, 0] : part;
    return { [id === "A" || id === "B" ? "Sequence" : "SpecialToken"]: { id, type_id: typeId } };
  };
  return {
    type: "TemplateProcessing",
    single: single.map(piece),
    pair: pair.map(piece),
    special_tokens: Object.fromEntries(
      tokens.map(([token, id]) => [token, { id: token, ids: [id], tokens: [token] }]),
    ),
  };
}
