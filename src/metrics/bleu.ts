import { type References, checkReferences } from "./texts.js";
import { commonCount, countNgrams, splitWords, totalCount } from "./words.js";

/** How BLEU divides a text into words, by sacreBLEU's names. */
export const bleuTokenizers = ["13a", "intl", "char", "none"] as const;
export type BleuTokenizer = (typeof bleuTokenizers)[number];

export interface BleuOptions {
  /** Default `13a`, mteval-v13a's: what published scores use. */
  readonly tokenize?: BleuTokenizer;
  /** Default false. */
  readonly lowercase?: boolean;
  /**
   * What stands in for an n-gram precision of zero: `exp` halves it for each such order (the default of sacreBLEU), `none`
   * makes the score 0.
   */
  readonly smooth?: "exp" | "none";
  /** Counts only orders that the text is long enough for; sacreBLEU has it for single sentences. Default false. */
  readonly effectiveOrder?: boolean;
}

export interface BleuScore {
  /** 0 to 100. */
  readonly score: number;
  /** n-gram precisions in percent, n from 1 to 4. */
  readonly precisions: readonly number[];
  readonly brevityPenalty: number;
  readonly hypothesisLength: number;
  readonly referenceLength: number;
  /** sacreBLEU's signature, without the version of its program. */
  readonly signature: string;
}

const maxOrder = 4;

const tokenizers: Readonly<Record<BleuTokenizer, (text: string) => string[]>> = {
  "13a": (text) => {
    let line = text.replaceAll("<skipped>", "").replaceAll("-\n", "").replaceAll("\n", " ");
    if (line.includes("&"))
      line = line
        .replaceAll("&quot;", '"')
        .replaceAll("&amp;", "&")
        .replaceAll("&lt;", "<")
        .replaceAll("&gt;", ">");
    return splitWords(
      ` ${line} `
        .replace(/([{-~[-` -&(-+:-@/])/gu, " $1 ")
        .replace(/([^0-9])([.,])/gu, "$1 $2 ")
        .replace(/([.,])([^0-9])/gu, " $1 $2")
        .replace(/([0-9])(-)/gu, "$1 $2 "),
    );
  },
  intl: (text) =>
    splitWords(
      text
        .replace(/(\P{N})(\p{P})/gu, "$1 $2 ")
        .replace(/(\p{P})(\P{N})/gu, " $1 $2")
        .replace(/(\p{S})/gu, " $1 "),
    ),
  char: (text) => splitWords([...text].join(" ")),
  none: splitWords,
};

/**
 * Corpus BLEU with sacreBLEU's numbers. Papineni et al. 2002; Post 2018, "A Call for Clarity in Reporting BLEU Scores".
 * Throws `argument` where texts and references differ in number.
 */
export function bleu(
  hypotheses: readonly string[],
  references: References,
  options: BleuOptions = {},
): BleuScore {
  checkReferences(hypotheses, references);
  const { tokenize = "13a", lowercase = false, smooth = "exp", effectiveOrder = false } = options;
  const words = (text: string) => tokenizers[tokenize]((lowercase ? text.toLowerCase() : text).trimEnd());
  const correct = new Array<number>(maxOrder).fill(0);
  const total = new Array<number>(maxOrder).fill(0);
  let [hypothesisLength, referenceLength] = [0, 0];
  for (const [index, hypothesis] of hypotheses.entries()) {
    const said = words(hypothesis);
    const wanted = references.map((list) => words(list[index]!));
    hypothesisLength += said.length;
    referenceLength += closestLength(said.length, wanted);
    const allowed = mostFrequent(wanted);
    for (const [order, counts] of countNgrams(said, maxOrder).entries()) {
      correct[order]! += commonCount(counts, allowed[order]!);
      total[order]! += totalCount(counts);
    }
  }
  const brevityPenalty =
    hypothesisLength >= referenceLength
      ? 1
      : hypothesisLength > 0
        ? Math.exp(1 - referenceLength / hypothesisLength)
        : 0;
  const { score, precisions } = geometricMean(correct, total, smooth, effectiveOrder);
  return {
    score: brevityPenalty * score,
    precisions,
    brevityPenalty,
    hypothesisLength,
    referenceLength,
    signature: `nrefs:${references.length}|case:${lowercase ? "lc" : "mixed"}|eff:${effectiveOrder ? "yes" : "no"}|tok:${tokenize}|smooth:${smooth}`,
  };
}

/** Length of the reference that is nearest in length; the shorter of two as near. */
const closestLength = (length: number, references: readonly (readonly string[])[]): number =>
  references
    .map((reference) => reference.length)
    .reduce((best, other) => {
      const [near, nearest] = [Math.abs(other - length), Math.abs(best - length)];
      return near < nearest || (near === nearest && other < best) ? other : best;
    });

/** How often each n-gram occurs in the reference that has it most often. */
function mostFrequent(references: readonly (readonly string[])[]): Map<string, number>[] {
  const most = Array.from({ length: maxOrder }, () => new Map<string, number>());
  for (const reference of references)
    for (const [order, counts] of countNgrams(reference, maxOrder).entries())
      for (const [ngram, count] of counts)
        most[order]!.set(ngram, Math.max(count, most[order]!.get(ngram) ?? 0));
  return most;
}

function geometricMean(
  correct: readonly number[],
  total: readonly number[],
  smooth: "exp" | "none",
  effectiveOrder: boolean,
): { score: number; precisions: number[] } {
  const precisions = new Array<number>(maxOrder).fill(0);
  if (correct.every((count) => count === 0)) return { score: 0, precisions };
  let [order, smoothing] = [maxOrder, 1];
  for (let index = 0; index < maxOrder; index++) {
    if (total[index] === 0) break;
    if (effectiveOrder) order = index + 1;
    if (correct[index]! > 0) precisions[index] = (100 * correct[index]!) / total[index]!;
    else if (smooth === "exp") {
      smoothing *= 2;
      precisions[index] = 100 / (smoothing * total[index]!);
    }
  }
  const counted = precisions.slice(0, order);
  const mean = counted.reduce((sum, precision) => sum + Math.log(precision), 0) / order;
  return { score: Math.exp(mean), precisions };
}
