import { LineageError } from "../base/errors.js";
import { bertSpecialTokens, wordPieceTokenizer } from "./from-vocabulary.js";
import type { Tokenizer } from "./tokenizer.js";
import { countWords, learnMerges } from "./train-bpe.js";
import { bertWords, mostFrequentCharacters } from "./words.js";

export interface WordPieceOptions {
  /** Tokens of the vocabulary, the special ones and the characters included. */
  readonly vocabSize: number;
  /** Lower case, and accents stripped with it, as BERT's uncased models have it. Default true. */
  readonly lowercase?: boolean;
  /** The most frequent characters that get tokens; a word with another one becomes `[UNK]`. Default 1000. */
  readonly alphabetSize?: number;
}

const special = Object.values(bertSpecialTokens);
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
  const wordsOf = bertWords(lowercase);
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
  return wordPieceTokenizer({
    tokens: [...new Set([...special, ...first, ...learned])],
    lowercase,
    config: { tokenizer_class: "BertTokenizer", do_lower_case: lowercase, model_max_length: 512 },
  });
}
