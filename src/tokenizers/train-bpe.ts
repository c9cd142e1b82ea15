import TinyQueue from "tinyqueue";

// No package for JavaScript trains a tokenizer: those that run them leave training to Python and Rust.

/** A word as the symbols that merges have made of it so far, and how often it occurs. */
export interface CountedWord {
  symbols: readonly string[];
  readonly count: number;
}

/** How often each word occurs in some documents; `wordsOf` cuts a document. */
export function countWords(
  documents: Iterable<string>,
  wordsOf: (document: string) => Iterable<string>,
): Map<string, number> {
  const counts = new Map<string, number>();
  for (const document of documents)
    for (const word of wordsOf(document)) counts.set(word, (counts.get(word) ?? 0) + 1);
  return counts;
}

interface PairEntry {
  readonly pair: string;
  readonly count: number;
}

/**
 * The merges that byte-pair encoding learns, Sennrich et al. 2016: again and again the pair of neighbours that occurs most
 * often, the alphabetically first of equals, until they make `count` tokens or none occurs twice. Each is `"left right"`.
 * @param join the symbol that two neighbours become
 */
export function learnMerges(
  words: readonly CountedWord[],
  count: number,
  join: (left: string, right: string) => string = (left, right) => left + right,
): string[] {
  const working = words.map((word) => ({ ...word }));
  const pairCounts = new Map<string, number>();
  const wordsOfPair = new Map<string, Set<CountedWord>>();
  const tally = (word: CountedWord, sign: 1 | -1, touched?: Set<string>): void => {
    for (let i = 0; i + 1 < word.symbols.length; i++) {
      const pair = `${word.symbols[i]} ${word.symbols[i + 1]}`;
      pairCounts.set(pair, (pairCounts.get(pair) ?? 0) + sign * word.count);
      if (sign === 1) {
        touched?.add(pair);
        const holders = wordsOfPair.get(pair);
        if (holders) holders.add(word);
        else wordsOfPair.set(pair, new Set([word]));
      }
    }
  };
  for (const word of working) tally(word, 1);
  const queue = new TinyQueue<PairEntry>(
    Array.from(pairCounts, ([pair, occurrences]) => ({ pair, count: occurrences })),
    (a, b) => b.count - a.count || (a.pair < b.pair ? -1 : 1),
  );

  const merges: string[] = [];
  // Two merges may spell the same token, which then counts once.
  const tokens = new Set<string>();
  while (tokens.size < count && queue.length > 0) {
    const { pair, count: seen } = queue.pop()!;
    const occurrences = pairCounts.get(pair) ?? 0;
    if (occurrences < 2) continue;
    if (occurrences !== seen) {
      // Other merges took some of its occurrences since it was queued.
      if (occurrences < seen) queue.push({ pair, count: occurrences });
      continue;
    }
    merges.push(pair);
    const [left, right] = pair.split(" ") as [string, string];
    const joined = join(left, right);
    tokens.add(joined);
    const touched = new Set<string>();
    for (const word of wordsOfPair.get(pair)!) {
      tally(word, -1);
      word.symbols = mergePair(word.symbols, left, right, joined);
      tally(word, 1, touched);
    }
    pairCounts.delete(pair);
    for (const grown of touched) {
      const grownTo = pairCounts.get(grown);
      if (grownTo !== undefined && grownTo > 1) queue.push({ pair: grown, count: grownTo });
    }
  }
  return merges;
}

function mergePair(symbols: readonly string[], left: string, right: string, joined: string): string[] {
  const merged: string[] = [];
  for (let i = 0; i < symbols.length; i++) {
    if (symbols[i] === left && symbols[i + 1] === right) {
      merged.push(joined);
      i++;
    } else merged.push(symbols[i]!);
  }
  return merged;
}
