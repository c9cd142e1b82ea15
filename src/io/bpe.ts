import { LineageError } from "../base/errors.js";

// No package for JavaScript trains a byte-level BPE: those that run tokenizers leave training to Python and Rust.

/** GPT-2's cut of a text into words, each with the space before it; merges never cross a cut. */
const wordPattern = /'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

interface Word {
  symbols: string[];
  readonly count: number;
}

/**
 * The merges that byte-pair encoding learns: again and again the pair of neighbours that occurs most often, the
 * alphabetically first of equals, until they make `count` tokens or none occurs twice. Each is `"left right"`.
 */
export function learnMerges(
  documents: Iterable<string>,
  count: number,
  characterOfByte: (byte: number) => string,
): string[] {
  const words = countWords(documents, characterOfByte);
  const pairCounts = new Map<string, number>();
  const wordsOfPair = new Map<string, Set<Word>>();
  const tally = (word: Word, sign: 1 | -1): void => {
    for (let i = 0; i + 1 < word.symbols.length; i++) {
      const pair = `${word.symbols[i]} ${word.symbols[i + 1]}`;
      pairCounts.set(pair, (pairCounts.get(pair) ?? 0) + sign * word.count);
      if (sign === 1) {
        const holders = wordsOfPair.get(pair);
        if (holders) holders.add(word);
        else wordsOfPair.set(pair, new Set([word]));
      }
    }
  };
  for (const word of words) tally(word, 1);

  const merges: string[] = [];
  // Two merges may spell the same token, which then counts once.
  const tokens = new Set<string>();
  while (tokens.size < count) {
    let best = "";
    let most = 1;
    for (const [pair, occurrences] of pairCounts) {
      if (occurrences > most || (occurrences === most && most > 1 && pair < best))
        [best, most] = [pair, occurrences];
    }
    if (best === "") break;
    merges.push(best);
    const [left, right] = best.split(" ") as [string, string];
    tokens.add(left + right);
    for (const word of wordsOfPair.get(best)!) {
      tally(word, -1);
      word.symbols = mergePair(word.symbols, left, right);
      tally(word, 1);
    }
    pairCounts.delete(best);
  }
  return merges;
}

function mergePair(symbols: readonly string[], left: string, right: string): string[] {
  const merged: string[] = [];
  for (let i = 0; i < symbols.length; i++) {
    if (symbols[i] === left && symbols[i + 1] === right) {
      merged.push(left + right);
      i++;
    } else merged.push(symbols[i]!);
  }
  return merged;
}

function countWords(documents: Iterable<string>, characterOfByte: (byte: number) => string): Word[] {
  const counts = new Map<string, number>();
  for (const document of documents) {
    for (const [word] of document.matchAll(wordPattern)) counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  if (counts.size === 0) throw new LineageError("data", "there is no text to train a tokenizer on");
  return Array.from(counts, ([word, count]) => ({
    symbols: Array.from(new TextEncoder().encode(word), characterOfByte),
    count,
  }));
}
