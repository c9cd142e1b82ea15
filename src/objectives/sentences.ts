import type { Random } from "../base/random.js";

/** Token ids of one sentence. */
export type Sentence = readonly number[];
/** Sentences in the order of the text. */
export type Document = readonly Sentence[];

/** Two stretches of text. `label` 0: the second follows the first; 1: it does not. */
export interface SentencePair {
  readonly first: readonly number[];
  readonly second: readonly number[];
  readonly label: 0 | 1;
}

export interface SentencePairOptions {
  /** Most tokens of both stretches together; special tokens are not among them. */
  readonly maxLength: number;
  /**
   * What the second stretch may be instead of the following text: a stretch of another document (next-sentence prediction,
   * Devlin et al. 2019, section 3.1), or the preceding one, that is both in the wrong order (sentence-order prediction, Lan
   * et al. 2020, section 3.1).
   */
  readonly task: "next-sentence" | "sentence-order";
  /** Share of the pairs that are made shorter, so that short inputs are seen too. Published: 0.1. */
  readonly shortShare?: number;
}

/** Pairs of neighbouring stretches of sentences from all documents, half of them changed as `task` says. */
export function sentencePairs(
  documents: readonly Document[],
  options: SentencePairOptions,
  random: Random,
): SentencePair[] {
  return documents.flatMap((_, index) => documentPairs(documents, index, options, random));
}

function documentPairs(
  documents: readonly Document[],
  index: number,
  { maxLength, task, shortShare = 0.1 }: SentencePairOptions,
  random: Random,
): SentencePair[] {
  const document = documents[index]!;
  const pairs: SentencePair[] = [];
  const target = () => (random.uniform() < shortShare ? 2 + random.integer(maxLength - 1) : maxLength);
  let wanted = target();
  let chunk: Sentence[] = [];
  let length = 0;
  for (let place = 0; place < document.length; place++) {
    chunk.push(document[place]!);
    length += document[place]!.length;
    if (place + 1 < document.length && length < wanted) continue;
    const cut = chunk.length === 1 ? 1 : 1 + random.integer(chunk.length - 1);
    const first = chunk.slice(0, cut).flat();
    const following = chunk.slice(cut).flat();
    const changed = random.uniform() < 0.5;
    if (task === "sentence-order") {
      if (following.length > 0) {
        const [a, b] = trimPair(first, following, maxLength, random);
        pairs.push(changed ? { first: b, second: a, label: 1 } : { first: a, second: b, label: 0 });
      }
    } else if (documents.length > 1 && (following.length === 0 || changed)) {
      const other = randomStretch(documents, index, wanted - first.length, random);
      const [a, b] = trimPair(first, other, maxLength, random);
      if (b.length > 0) pairs.push({ first: a, second: b, label: 1 });
      // What was not used follows in the next pair.
      place -= chunk.length - cut;
    } else if (following.length > 0) {
      const [a, b] = trimPair(first, following, maxLength, random);
      pairs.push({ first: a, second: b, label: 0 });
    }
    chunk = [];
    length = 0;
    wanted = target();
  }
  return pairs;
}

/** Sentences from a random place of another document, at least `length` tokens where it has them. */
function randomStretch(
  documents: readonly Document[],
  index: number,
  length: number,
  random: Random,
): number[] {
  const other = documents[(index + 1 + random.integer(documents.length - 1)) % documents.length]!;
  if (other.length === 0) return [];
  const tokens: number[] = [];
  for (let place = random.integer(other.length); place < other.length; place++) {
    tokens.push(...other[place]!);
    if (tokens.length >= length) break;
  }
  return tokens;
}

/** Cuts the longer of two stretches, at its beginning or its end, until both fit. */
export function trimPair(
  first: readonly number[],
  second: readonly number[],
  maxLength: number,
  random: Random,
): [number[], number[]] {
  const parts: [number[], number[]] = [[...first], [...second]];
  while (parts[0].length + parts[1].length > maxLength) {
    const longer = parts[0].length > parts[1].length ? parts[0] : parts[1];
    if (random.uniform() < 0.5) longer.shift();
    else longer.pop();
  }
  return parts;
}

/**
 * Rows of whole sentences, as many as fit into `maxLength` tokens, across the ends of documents, where `separatorId` stands
 * (FULL-SENTENCES, Liu et al. 2019, section 4.2). A longer sentence is cut.
 */
export function fullSentences(
  documents: readonly Document[],
  { maxLength, separatorId }: { maxLength: number; separatorId: number },
): number[][] {
  const rows: number[][] = [];
  let row: number[] = [];
  const add = (tokens: readonly number[]): void => {
    if (row.length + tokens.length > maxLength && row.length > 0) {
      rows.push(row);
      row = [];
    }
    row.push(...tokens);
  };
  for (const [index, document] of documents.entries()) {
    if (index > 0 && row.length > 0 && row.length < maxLength) row.push(separatorId);
    for (const sentence of document)
      for (let start = 0; start < sentence.length; start += maxLength)
        add(sentence.slice(start, start + maxLength));
  }
  if (row.length > 0) rows.push(row);
  return rows;
}
