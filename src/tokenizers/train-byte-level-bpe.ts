import { LineageError } from "../base/errors.js";
import { byteOfCharacter, characterOfByte } from "./bytes.js";
import { plainFastTokenizer } from "./definitions.js";
import { byteLevelTokenizer } from "./from-vocabulary.js";
import { type Tokenizer, endOfText } from "./tokenizer.js";
import { countWords, learnMerges } from "./train-bpe.js";

/** GPT-2's cut of a text into words, each with the space before it; merges never cross a cut. */
const wordPattern = /'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/**
 * Learns a byte-level BPE, Sennrich et al. 2016 over bytes as in Radford et al. 2019: `size` tokens at most, the 256 bytes
 * first, then the merges in the order in which they were learned. Throws `data` for an empty text, `argument` for a size that
 * cannot hold the bytes.
 */
export function learnByteLevelBpe(
  documents: Iterable<string>,
  size: number,
): { tokens: string[]; merges: string[] } {
  const alphabet = [...byteOfCharacter.keys()].sort();
  if (size < alphabet.length)
    throw new LineageError(
      "argument",
      `a byte-level vocabulary holds the ${alphabet.length} bytes, and has room for ${size} tokens besides its special ones; make it at least ${alphabet.length - size} larger`,
    );
  const counts = countWords(documents, (document) => document.match(wordPattern) ?? []);
  if (counts.size === 0) throw new LineageError("data", "there is no text to train a tokenizer on");
  const words = Array.from(counts, ([word, count]) => ({
    symbols: Array.from(new TextEncoder().encode(word), (byte) => characterOfByte[byte]!),
    count,
  }));
  const merges = learnMerges(words, size - alphabet.length);
  return { tokens: [...new Set([...alphabet, ...merges.map((merge) => merge.replace(" ", ""))])], merges };
}

/** Trains GPT-2's tokenizer. Id 0 is `<|endoftext|>`, then come bytes and merges. Throws `data` for an empty text. */
export function trainByteLevelBpe(
  documents: Iterable<string>,
  { vocabSize }: { vocabSize: number },
): Tokenizer {
  const { tokens, merges } = learnByteLevelBpe(documents, vocabSize - 1);
  const vocabulary = new Map([...new Set([endOfText, ...tokens])].map((token, id) => [token, id]));
  return byteLevelTokenizer({ vocabulary, merges, config: plainFastTokenizer });
}
