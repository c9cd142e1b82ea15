import { LineageError } from "../base/errors.js";
import { wordBpeTokenizer, wordEnd } from "./from-vocabulary.js";
import { type Tokenizer, endOfText } from "./tokenizer.js";
import { countWords, learnMerges } from "./train-bpe.js";
import { bertWords, mostFrequentCharacters } from "./words.js";

export interface WordBpeOptions {
  /** Tokens of the vocabulary, the special ones and the characters included. */
  readonly vocabSize: number;
  /** The most frequent characters that get tokens; another one becomes `<unk>`. Default 1000. */
  readonly alphabetSize?: number;
}

/**
 * Trains GPT-1's tokenizer, Radford et al. 2018, section 4.1: merges within lower-cased words whose last character is marked
 * `</w>`, Sennrich et al. 2016. Ids 0 and 1 are `<unk>` and `<|endoftext|>`, which the published one does not have and which
 * keeps documents apart here. Throws `data` for an empty text, `argument` when the vocabulary cannot hold the characters.
 */
export function trainWordBpe(
  documents: Iterable<string>,
  { vocabSize, alphabetSize = 1000 }: WordBpeOptions,
): Tokenizer {
  const counts = countWords(documents, bertWords(true));
  if (counts.size === 0) throw new LineageError("data", "there is no text to train a tokenizer on");
  const alphabet = mostFrequentCharacters(counts, alphabetSize);
  const words = Array.from(counts, ([word, count]) => ({ characters: [...word], count }))
    .filter(({ characters }) => characters.every((character) => alphabet.has(character)))
    .map(({ characters, count }) => ({
      symbols: [...characters.slice(0, -1), characters.at(-1)! + wordEnd],
      count,
    }));
  const characters = [...alphabet].sort();
  const special = ["<unk>", endOfText];
  const first = [...special, ...characters, ...characters.map((character) => character + wordEnd)];
  const room = vocabSize - first.length;
  if (room < 0)
    throw new LineageError(
      "argument",
      `a vocabulary of ${vocabSize} tokens cannot hold the ${characters.length} characters of this text, each within a word and at its end; make it larger, or alphabetSize smaller`,
    );
  const merges = learnMerges(words, room);
  const tokens = [...first, ...merges.map((merge) => merge.replace(" ", ""))];
  return wordBpeTokenizer({
    vocabulary: new Map([...new Set(tokens)].map((token, id) => [token, id])),
    merges,
    special,
    config: { tokenizer_class: "OpenAIGPTTokenizer", eos_token: endOfText },
  });
}
