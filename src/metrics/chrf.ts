import { type References, checkReferences } from "./texts.js";
import { commonCount, countNgrams, splitWords, totalCount } from "./words.js";

export interface ChrfOptions {
  /** Longest character n-gram. Default 6. */
  readonly charOrder?: number;
  /** Longest word n-gram: 0 (default) is chrF, 2 is chrF++. */
  readonly wordOrder?: number;
  /** How much recall weighs against precision. Default 2. */
  readonly beta?: number;
  /** Default false. */
  readonly lowercase?: boolean;
}

export interface ChrfScore {
  /** 0 to 100. */
  readonly score: number;
  /** `chrF2`, or `chrF2++` with word n-grams. */
  readonly name: string;
  /** sacreBLEU's signature, without the version of its program. */
  readonly signature: string;
}

/** What one text has in common with a reference, for each n-gram order. */
type Statistics = readonly { readonly said: number; readonly wanted: number; readonly common: number }[];

/**
 * Corpus chrF and chrF++ with sacreBLEU's numbers. Popović 2015, "chrF: character n-gram F-score for automatic MT
 * evaluation". Of several references of a text the one that it scores best with counts. Throws `argument` where texts and
 * references differ in number.
 */
export function chrf(
  hypotheses: readonly string[],
  references: References,
  options: ChrfOptions = {},
): ChrfScore {
  checkReferences(hypotheses, references);
  const { charOrder = 6, wordOrder = 0, beta = 2, lowercase = false } = options;
  const ngrams = (text: string): ReadonlyMap<string, number>[] => {
    const cased = lowercase ? text.toLowerCase() : text;
    return [
      ...countNgrams([...splitWords(cased).join("")], charOrder, ""),
      ...countNgrams(wordsAndMarks(cased), wordOrder),
    ];
  };
  const totals = Array.from({ length: charOrder + wordOrder }, () => ({ said: 0, wanted: 0, common: 0 }));
  for (const [index, hypothesis] of hypotheses.entries()) {
    const said = ngrams(hypothesis);
    let best: Statistics | undefined;
    let bestScore = -1;
    for (const list of references) {
      const statistics = compare(said, ngrams(list[index]!));
      const score = fScore(statistics, beta);
      if (score > bestScore) [best, bestScore] = [statistics, score];
    }
    for (const [order, { said: ours, wanted, common }] of best!.entries()) {
      totals[order]!.said += ours;
      totals[order]!.wanted += wanted;
      totals[order]!.common += common;
    }
  }
  return {
    score: fScore(totals, beta),
    name: `chrF${beta}${"+".repeat(wordOrder)}`,
    signature: `nrefs:${references.length}|case:${lowercase ? "lc" : "mixed"}|eff:yes|nc:${charOrder}|nw:${wordOrder}|space:no`,
  };
}

const punctuation = new Set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~");

/** Words, with one mark at their end, or else at their start, as a word of its own. */
const wordsAndMarks = (text: string): string[] =>
  splitWords(text).flatMap((word) => {
    const characters = [...word];
    if (characters.length === 1) return [word];
    const [first, last] = [characters[0]!, characters.at(-1)!];
    if (punctuation.has(last)) return [word.slice(0, -last.length), last];
    return punctuation.has(first) ? [first, word.slice(first.length)] : [word];
  });

const compare = (
  said: readonly ReadonlyMap<string, number>[],
  wanted: readonly ReadonlyMap<string, number>[],
): Statistics =>
  said.map((counts, order) => {
    const reference = wanted[order]!;
    // An order that the reference is too short for counts for nothing.
    return {
      said: reference.size > 0 ? totalCount(counts) : 0,
      wanted: totalCount(reference),
      common: commonCount(counts, reference),
    };
  });

/** F-score of the mean precision and recall over the orders that both texts are long enough for, in percent. */
function fScore(statistics: Statistics, beta: number): number {
  const both = statistics.filter(({ said, wanted }) => said > 0 && wanted > 0);
  if (both.length === 0) return 0;
  const precision = both.reduce((sum, { said, common }) => sum + common / said, 0) / both.length;
  const recall = both.reduce((sum, { wanted, common }) => sum + common / wanted, 0) / both.length;
  if (precision + recall === 0) return 0;
  const factor = beta ** 2;
  return (100 * (1 + factor) * precision * recall) / (factor * precision + recall);
}
