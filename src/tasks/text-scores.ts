import { bleu, chrf, rouge } from "../metrics/index.js";
import { spanScores } from "../training/index.js";
import type { TextMetric } from "./text-options.js";

/** What texts score against their references: BLEU and chrF from 0 to 100, the others from 0 to 1. */
export interface TextScores {
  readonly metrics: Readonly<Record<Exclude<TextMetric, "loss">, number>>;
  /** sacreBLEU's signatures, by metric. */
  readonly signatures: Readonly<Record<"bleu" | "chrf", string>>;
}

/** Throws `argument` where texts and references differ in number, or there are none. */
export function scoreTexts(texts: readonly string[], references: readonly string[]): TextScores {
  const [corpusBleu, corpusChrf] = [bleu(texts, [references]), chrf(texts, [references])];
  const { rouge1, rouge2, rougeL } = rouge(texts, references);
  const mean = (of: (text: string, reference: string) => number): number =>
    texts.reduce((sum, text, index) => sum + of(text, references[index]!), 0) / texts.length;
  return {
    metrics: {
      bleu: corpusBleu.score,
      chrf: corpusChrf.score,
      rouge1: rouge1.f,
      rouge2: rouge2.f,
      rougeL: rougeL.f,
      exactMatch: mean((text, reference) => Number(text.trim() === reference.trim())),
      tokenF1: mean((text, reference) => spanScores(text, [reference]).f1),
    },
    signatures: { bleu: corpusBleu.signature, chrf: `${corpusChrf.name}|${corpusChrf.signature}` },
  };
}
