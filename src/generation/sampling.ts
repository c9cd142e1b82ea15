import { LineageError } from "../base/errors.js";
import type { Random } from "../base/random.js";

export interface SamplingOptions {
  /** Divides the logits; 0 takes the most probable token every time. Default 1. */
  readonly temperature?: number;
  /** Keeps the k most probable tokens. */
  readonly topK?: number;
  /** Keeps the most probable tokens that together reach this probability, Holtzman et al. 2020. */
  readonly topP?: number;
  /** Keeps tokens at least this fraction as probable as the most probable one. */
  readonly minP?: number;
  /** Divides the positive logits of tokens seen, multiplies the negative ones, Keskar et al. 2019. */
  readonly repetitionPenalty?: number;
  /** Subtracted for every time that a token was generated. */
  readonly frequencyPenalty?: number;
  /** Subtracted once from every token that was generated. */
  readonly presencePenalty?: number;
  /** Added to the logits of single tokens, by id. */
  readonly logitBias?: Readonly<Record<number, number>>;
}

/** Throws `argument` for an option out of its range. */
export function checkSampling(options: SamplingOptions): void {
  const { temperature = 1, topK = 1, topP = 1, minP = 0, repetitionPenalty = 1 } = options;
  const rules: [boolean, string][] = [
    [temperature >= 0, `temperature must be 0 or more, not ${temperature}`],
    [Number.isInteger(topK) && topK >= 1, `topK must be a whole number of at least 1, not ${topK}`],
    [topP > 0 && topP <= 1, `topP must lie in (0, 1], not ${topP}`],
    [minP >= 0 && minP < 1, `minP must lie in [0, 1), not ${minP}`],
    [repetitionPenalty > 0, `repetitionPenalty must be positive, not ${repetitionPenalty}`],
  ];
  for (const [holds, message] of rules) if (!holds) throw new LineageError("argument", message);
}

/** Index of the largest logit, the first of equals. */
export function argMax(logits: Float32Array): number {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id]! > logits[best]!) best = id;
  return best;
}

/** Applies penalties and biases to the logits, in place. `prompt` and `generated` are the ids so far. */
export function penalize(
  logits: Float32Array,
  prompt: readonly number[],
  generated: readonly number[],
  options: SamplingOptions,
): void {
  const { repetitionPenalty = 1, frequencyPenalty = 0, presencePenalty = 0, logitBias = {} } = options;
  if (repetitionPenalty !== 1) {
    for (const id of new Set([...prompt, ...generated])) {
      logits[id] = logits[id]! < 0 ? logits[id]! * repetitionPenalty : logits[id]! / repetitionPenalty;
    }
  }
  if (frequencyPenalty !== 0 || presencePenalty !== 0) {
    const counts = new Map<number, number>();
    for (const id of generated) counts.set(id, (counts.get(id) ?? 0) + 1);
    for (const [id, count] of counts) logits[id] = logits[id]! - frequencyPenalty * count - presencePenalty;
  }
  for (const [id, bias] of Object.entries(logitBias)) {
    if (Number(id) in logits) logits[Number(id)] = logits[Number(id)]! + bias;
    else
      throw new LineageError(
        "argument",
        `logitBias names the token ${id}, but the vocabulary has ${logits.length}`,
      );
  }
}

/**
 * The probabilities left after temperature, top-k, top-p and min-p, in that order, as Hugging Face's processors apply
 * them; they sum to 1. Most probable first.
 */
export function distribution(
  logits: Float32Array,
  options: SamplingOptions,
): { ids: Uint32Array; probabilities: Float64Array } {
  const { temperature = 1, topK = logits.length, topP = 1, minP = 0 } = options;
  let ids = Uint32Array.from(logits.keys());
  const restricted = topK < logits.length || topP < 1 || minP > 0;
  if (restricted) ids.sort((a, b) => logits[b]! - logits[a]! || a - b);
  ids = ids.subarray(0, topK);
  const peak = logits[restricted ? ids[0]! : argMax(logits)]!;
  let weights = Float64Array.from(ids, (id) => Math.exp((logits[id]! - peak) / temperature));
  const sum = (values: Float64Array) => values.reduce((total, value) => total + value, 0);
  const keep = (count: number) => {
    ids = ids.subarray(0, count);
    weights = weights.subarray(0, count);
  };
  if (topP < 1) {
    const limit = topP * sum(weights);
    let reached = 0;
    let count = 0;
    while (count < weights.length && reached < limit) reached += weights[count++]!;
    keep(Math.max(1, count));
  }
  if (minP > 0) {
    const count = weights.findIndex((weight) => weight < minP * weights[0]!);
    if (count > 0) keep(count);
  }
  const total = sum(weights);
  return { ids, probabilities: weights.map((weight) => weight / total) };
}

/** Draws the next token. */
export function sample(logits: Float32Array, options: SamplingOptions, random: Random): number {
  if (options.temperature === 0) return argMax(logits);
  const { ids, probabilities } = distribution(logits, options);
  let rest = random.uniform();
  for (let i = 0; i < ids.length; i++) {
    rest -= probabilities[i]!;
    if (rest < 0) return ids[i]!;
  }
  return ids.at(-1)!;
}
