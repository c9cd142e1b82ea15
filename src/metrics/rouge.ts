import { checkReferences } from "./texts.js";
import { commonCount, countNgrams, totalCount } from "./words.js";

export interface FScore {
  readonly precision: number;
  readonly recall: number;
  readonly f: number;
}

/** Shares from 0 to 1. */
export interface RougeScore {
  /** Single words. */
  readonly rouge1: FScore;
  /** Pairs of neighbouring words. */
  readonly rouge2: FScore;
  /** The longest common subsequence of the texts. */
  readonly rougeL: FScore;
  /** The same, line by line: what summaries of several sentences are scored by. */
  readonly rougeLsum: FScore;
}

/** Runs of a to z and digits, in lower case. */
const rougeWords = (text: string): string[] =>
  text
    .toLowerCase()
    .split(/[^a-z0-9]+/)
    .filter((word) => word !== "");

const scoreOf = (common: number, said: number, wanted: number): FScore => {
  const precision = said > 0 ? common / said : 0;
  const recall = wanted > 0 ? common / wanted : 0;
  return {
    precision,
    recall,
    f: precision + recall > 0 ? (2 * precision * recall) / (precision + recall) : 0,
  };
};

/** ROUGE of one text with the numbers of Google's rouge-score, without a stemmer. Lin 2004, "ROUGE". */
export function rougeOf(hypothesis: string, reference: string): RougeScore {
  const [said, wanted] = [rougeWords(hypothesis), rougeWords(reference)];
  const [saidCounts, wantedCounts] = [countNgrams(said, 2), countNgrams(wanted, 2)];
  const ngrams = (index: number): FScore =>
    scoreOf(
      commonCount(saidCounts[index]!, wantedCounts[index]!),
      totalCount(saidCounts[index]!),
      totalCount(wantedCounts[index]!),
    );
  const subsequence = commonSubsequence(wanted, said).length;
  return {
    rouge1: ngrams(0),
    rouge2: ngrams(1),
    rougeL: scoreOf(subsequence, said.length, wanted.length),
    rougeLsum: summaryScore(hypothesis, reference),
  };
}

/** The mean over texts of each score. Throws `argument` where texts and references differ in number. */
export function rouge(hypotheses: readonly string[], references: readonly string[]): RougeScore {
  checkReferences(hypotheses, [references]);
  const scores = hypotheses.map((hypothesis, index) => rougeOf(hypothesis, references[index]!));
  const mean = (of: (score: RougeScore) => number): number =>
    scores.reduce((sum, score) => sum + of(score), 0) / scores.length;
  const meanOf = (name: keyof RougeScore): FScore => ({
    precision: mean((score) => score[name].precision),
    recall: mean((score) => score[name].recall),
    f: mean((score) => score[name].f),
  });
  return {
    rouge1: meanOf("rouge1"),
    rouge2: meanOf("rouge2"),
    rougeL: meanOf("rougeL"),
    rougeLsum: meanOf("rougeLsum"),
  };
}

/** Places in `first` of a longest subsequence that `second` has too. */
function commonSubsequence(first: readonly string[], second: readonly string[]): number[] {
  const width = second.length + 1;
  const lengths = new Uint32Array((first.length + 1) * width);
  for (let i = 1; i <= first.length; i++)
    for (let j = 1; j <= second.length; j++)
      lengths[i * width + j] =
        first[i - 1] === second[j - 1]
          ? lengths[(i - 1) * width + j - 1]! + 1
          : Math.max(lengths[(i - 1) * width + j]!, lengths[i * width + j - 1]!);
  const places: number[] = [];
  let [i, j] = [first.length, second.length];
  while (i > 0 && j > 0) {
    if (first[i - 1] === second[j - 1]) {
      places.push(--i);
      j--;
    } else if (lengths[i * width + j - 1]! > lengths[(i - 1) * width + j]!) j--;
    else i--;
  }
  return places.reverse();
}

/** Union of the subsequences that each line of the reference has in common with the lines of the text. Lin 2004, section 3.2. */
function summaryScore(hypothesis: string, reference: string): FScore {
  const lines = (text: string) =>
    text
      .split("\n")
      .filter((line) => line !== "")
      .map(rougeWords);
  const [said, wanted] = [lines(hypothesis), lines(reference)];
  const [saidWords, wantedWords] = [said.flat().length, wanted.flat().length];
  if (saidWords === 0 || wantedWords === 0) return scoreOf(0, 0, 0);
  const saidLeft = new Map(countNgrams(said.flat(), 1)[0]);
  const wantedLeft = new Map(countNgrams(wanted.flat(), 1)[0]);
  let hits = 0;
  for (const line of wanted) {
    const places = new Set(said.flatMap((other) => commonSubsequence(line, other)));
    for (const place of [...places].sort((a, b) => a - b)) {
      const word = line[place]!;
      const [inSaid, inWanted] = [saidLeft.get(word) ?? 0, wantedLeft.get(word) ?? 0];
      if (inSaid <= 0 || inWanted <= 0) continue;
      hits++;
      saidLeft.set(word, inSaid - 1);
      wantedLeft.set(word, inWanted - 1);
    }
  }
  return scoreOf(hits, saidWords, wantedWords);
}
