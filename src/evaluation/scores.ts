import { z } from "zod";
import { indexOfLargest } from "../base/numbers.js";

const common = {
  /** The row of the data, from 0. */
  row: z.int().nonnegative(),
  /** Tells which prompt it was. */
  hash: z.string(),
  /** Tokens at the prompt's beginning that were cut off, so that the rest fitted the context. */
  cut: z.int().positive().optional(),
};
const numbers = z.array(z.number());

const chosen = z.object({
  ...common,
  kind: z.literal("choices"),
  choices: z.array(z.string()),
  /** Places in `choices`. */
  target: z.int().nonnegative(),
  answer: z.int().nonnegative(),
  /** Of each choice the logarithm of its probability, its tokens, and whether each of them was the likeliest. */
  logLikelihoods: numbers,
  tokens: z.array(z.int().positive()),
  greedy: z.array(z.boolean()),
  /** Logarithms of probabilities after the unconditional prompt. */
  unconditional: numbers.optional(),
});
const written = z.object({
  ...common,
  kind: z.literal("text"),
  target: z.string(),
  /** What was extracted, of several samples what most of them say; null where nothing matched. */
  answer: z.string().nullable(),
  correct: z.boolean(),
  /** Whether the answer that the task's flexible pattern extracts is right. */
  flexible: z.boolean().optional(),
  texts: z.array(z.string()),
  /** What was written first, and read again before the texts. */
  reasonings: z.array(z.string()).optional(),
});
const measured = z.object({
  ...common,
  kind: z.literal("perplexity"),
  logLikelihood: z.number(),
  tokens: z.int().nonnegative(),
  words: z.int().nonnegative(),
  bytes: z.int().nonnegative(),
});
/** A prompt longer than the context, which was not asked. */
const unasked = z.object({ ...common, kind: z.literal("beyond"), tooMany: z.int().positive() });

/** What a model said to one question. */
export const predictionSchema = z.discriminatedUnion("kind", [chosen, written, measured, unasked]);
export type Prediction = z.output<typeof predictionSchema>;
export type ChoicePrediction = z.output<typeof chosen>;

export interface Score {
  readonly value: number;
  /** Standard error of the mean: the sample's standard deviation by the root of the count. Undefined for perplexities. */
  readonly stderr?: number;
}

function mean(values: readonly number[]): Score {
  const { length } = values;
  const value = values.reduce((sum, each) => sum + each, 0) / length;
  const squares = values.reduce((sum, each) => sum + (each - value) ** 2, 0);
  return length < 2 ? { value } : { value, stderr: Math.sqrt(squares / (length - 1) / length) };
}

/** Which choice each metric takes, by how it normalises the likelihoods. */
const rules: Readonly<Record<string, (prediction: ChoicePrediction) => number[] | undefined>> = {
  acc: ({ logLikelihoods }) => logLikelihoods,
  acc_norm: ({ logLikelihoods, choices }) =>
    logLikelihoods.map((value, index) => value / [...choices[index]!].length),
  acc_bytes: ({ logLikelihoods, choices }) =>
    logLikelihoods.map((value, index) => value / Buffer.byteLength(choices[index]!)),
  acc_tokens: ({ logLikelihoods, tokens }) => logLikelihoods.map((value, index) => value / tokens[index]!),
  acc_mutual_info: ({ logLikelihoods, unconditional }) =>
    unconditional && logLikelihoods.map((value, index) => value - unconditional[index]!),
};

/**
 * The scores of some predictions, by the names of lm-evaluation-harness: of choices the share of right ones by likelihood
 * (`acc`), by likelihood for a character (`acc_norm`), a byte and a token of the choice, and by likelihood over that after the
 * unconditional prompt (`acc_mutual_info`); of written answers `exact_match`, and `flexible_match` by the
 * task's second pattern; of texts their perplexities.
 */
export function scoresOf(predictions: readonly Prediction[]): Record<string, Score> {
  const scores: Record<string, Score> = {};
  const choices = predictions.filter((prediction) => prediction.kind === "choices");
  for (const [name, rule] of Object.entries(rules)) {
    const right = choices.flatMap((prediction) => {
      const values = rule(prediction);
      return values ? [Number(indexOfLargest(values) === prediction.target)] : [];
    });
    if (right.length > 0) scores[name] = mean(right);
  }
  const texts = predictions.filter((prediction) => prediction.kind === "text");
  if (texts.length > 0) scores["exact_match"] = mean(texts.map(({ correct }) => Number(correct)));
  const flexible = texts.flatMap(({ flexible: right }) => (right === undefined ? [] : [Number(right)]));
  if (flexible.length > 0) scores["flexible_match"] = mean(flexible);
  const measures = predictions.filter((prediction) => prediction.kind === "perplexity");
  if (measures.length > 0) {
    const total = (of: "logLikelihood" | "tokens" | "words" | "bytes"): number =>
      measures.reduce((sum, measure) => sum + measure[of], 0);
    const loss = -total("logLikelihood");
    scores["loss"] = { value: loss / total("tokens") };
    scores["token_perplexity"] = { value: Math.exp(loss / total("tokens")) };
    scores["word_perplexity"] = { value: Math.exp(loss / total("words")) };
    scores["byte_perplexity"] = { value: Math.exp(loss / total("bytes")) };
    scores["bits_per_byte"] = { value: loss / total("bytes") / Math.LN2 };
  }
  return scores;
}
