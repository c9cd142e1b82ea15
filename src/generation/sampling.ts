import { LineageError } from "../base/errors.js";
import { indexOfLargest } from "../base/numbers.js";
import type { Random } from "../base/random.js";
import type { Ranked } from "./slot.js";

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

/** The option's name as the person gave it, for messages: `--top-p` for `topP`. */
export type OptionName = (option: string) => string;

/**
 * Throws `argument` for an option out of its range.
 * @param nameOf how the person who gave the options calls each of them
 */
export function checkSampling(options: SamplingOptions, nameOf: OptionName = (option) => option): void {
  const { temperature = 1, topK = 1, topP = 1, minP = 0, repetitionPenalty = 1 } = options;
  const { frequencyPenalty = 0, presencePenalty = 0 } = options;
  const rules: [boolean, string][] = [
    [temperature >= 0, `${nameOf("temperature")} must be 0 or more, not ${temperature}`],
    [
      Number.isInteger(topK) && topK >= 1,
      `${nameOf("topK")} must be a whole number of at least 1, not ${topK}`,
    ],
    [topP > 0 && topP <= 1, `${nameOf("topP")} must be above 0 and at most 1, not ${topP}`],
    [minP >= 0 && minP < 1, `${nameOf("minP")} must be at least 0 and below 1, not ${minP}`],
    [repetitionPenalty > 0, `${nameOf("repetitionPenalty")} must be positive, not ${repetitionPenalty}`],
    [
      Number.isFinite(frequencyPenalty),
      `${nameOf("frequencyPenalty")} must be a number, not ${frequencyPenalty}`,
    ],
    [
      Number.isFinite(presencePenalty),
      `${nameOf("presencePenalty")} must be a number, not ${presencePenalty}`,
    ],
  ];
  for (const [holds, message] of rules) if (!holds) throw new LineageError("argument", message);
}

/** Whether `penalize` leaves all logits as they are. */
export const penalizesNothing = (options: SamplingOptions): boolean =>
  (options.repetitionPenalty ?? 1) === 1 &&
  (options.frequencyPenalty ?? 0) === 0 &&
  (options.presencePenalty ?? 0) === 0 &&
  Object.keys(options.logitBias ?? {}).length === 0;

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

/** Probabilities of some tokens, which sum to 1; the others have none. */
export interface Distribution {
  readonly ids: Uint32Array;
  readonly probabilities: Float64Array;
}

/**
 * The probabilities left after temperature, top-k, top-p and min-p, in that order, as Hugging Face's processors apply
 * them. Most probable first, where any of the last three is there; temperature 0 leaves the most probable token.
 */
export function distribution(logits: Float32Array, options: SamplingOptions): Distribution {
  const { temperature = 1, topK = logits.length, topP = 1, minP = 0 } = options;
  const best = indexOfLargest(logits);
  if (temperature === 0) return { ids: Uint32Array.of(best), probabilities: Float64Array.of(1) };
  const peak = logits[best]!;
  if (topK >= logits.length && topP >= 1 && minP <= 0)
    return normalized(everyId(logits.length), logits, peak, temperature);

  let ids = candidates(logits, peak, options);
  ids.sort((a, b) => logits[b]! - logits[a]! || a - b);
  ids = ids.subarray(0, topK);
  const weight = (id: number): number => Math.exp((logits[id]! - peak) / temperature);
  if (topP < 1) {
    const limit = topP * (topK < logits.length ? sumOf(ids, weight) : totalWeight(logits, peak, temperature));
    let reached = 0;
    let count = 0;
    while (count < ids.length && reached < limit) reached += weight(ids[count++]!);
    ids = ids.subarray(0, Math.max(1, count));
  }
  if (minP > 0) {
    const count = ids.findIndex((id) => weight(id) < minP);
    if (count > 0) ids = ids.subarray(0, count);
  }
  return normalized(ids, logits, peak, temperature);
}

/**
 * What `distribution` gives where the likeliest tokens alone are known, best first: enough of them for the options, which
 * take one of them or the `topK` best.
 * @param mayCome whether a token may come
 */
export function rankedDistribution(
  ranked: Ranked,
  options: SamplingOptions,
  mayCome: (id: number) => boolean,
): Distribution {
  const places = Array.from(ranked.ids.keys()).filter((place) => mayCome(ranked.ids[place]!));
  const { ids, probabilities } = distribution(
    Float32Array.from(places, (place) => ranked.scores[place]!),
    options,
  );
  return { ids: ids.map((index) => ranked.ids[places[index]!]!), probabilities };
}

/**
 * Tokens among which all those lie that the options keep, so that a vocabulary of a hundred thousand need not be sorted:
 * those near the peak, ever further from it until they suffice.
 */
function candidates(logits: Float32Array, peak: number, options: SamplingOptions): Uint32Array {
  const { temperature = 1, topK = logits.length, topP = 1, minP = 0 } = options;
  const mass = topP < 1 && topK >= logits.length ? topP * totalWeight(logits, peak, temperature) : Infinity;
  for (let span = 8 * temperature; ; span *= 2) {
    const threshold = peak - span;
    let count = 0;
    let reached = 0;
    for (const logit of logits) {
      if (logit < threshold) continue;
      count++;
      if (mass < Infinity) reached += Math.exp((logit - peak) / temperature);
    }
    // Top-p of the top-k counts in the weight of each of them.
    const byWeight =
      (topK >= logits.length || topP >= 1) && (reached >= mass || Math.exp(-span / temperature) < minP);
    if (count < topK && count < logits.length && !byWeight && span < 1e9) continue;
    if (count === logits.length || span >= 1e9) return everyId(logits.length).slice();
    const ids = new Uint32Array(count);
    let place = 0;
    for (let id = 0; id < logits.length; id++) if (!(logits[id]! < threshold)) ids[place++] = id;
    return ids;
  }
}

const sumOf = (ids: Uint32Array, weight: (id: number) => number): number => {
  let sum = 0;
  for (const id of ids) sum += weight(id);
  return sum;
};

function totalWeight(logits: Float32Array, peak: number, temperature: number): number {
  let total = 0;
  for (const logit of logits) total += Math.exp((logit - peak) / temperature);
  return total;
}

function normalized(ids: Uint32Array, logits: Float32Array, peak: number, temperature: number): Distribution {
  const probabilities = new Float64Array(ids.length);
  let total = 0;
  for (let i = 0; i < ids.length; i++)
    total += probabilities[i] = Math.exp((logits[ids[i]!]! - peak) / temperature);
  for (let i = 0; i < ids.length; i++) probabilities[i]! /= total;
  return { ids, probabilities };
}

let identity = new Uint32Array();
/** 0, 1, 2, …; one array for all calls, not to be written to. */
function everyId(count: number): Uint32Array {
  if (identity.length !== count) identity = Uint32Array.from({ length: count }, (_, id) => id);
  return identity;
}

/** Draws one of a distribution's tokens. */
export function draw({ ids, probabilities }: Distribution, random: Random): number {
  let rest = random.uniform();
  for (let i = 0; i < ids.length; i++) {
    rest -= probabilities[i]!;
    if (rest < 0) return ids[i]!;
  }
  return ids.at(-1)!;
}

/** Whether the options leave every token. */
const drawsFromAll = (
  { temperature = 1, topK = Infinity, topP = 1, minP = 0 }: SamplingOptions,
  vocabSize: number,
): boolean => temperature > 0 && topK >= vocabSize && topP >= 1 && minP <= 0;

/** Tokens that share a bound. */
const blockSize = 64;
let bounds = new Float64Array();

/**
 * Draws one of all tokens with the probabilities of `distribution`, without an exponential for each of them: by rejection. A
 * block of tokens is drawn by the largest of its logits, then one of its tokens, which is taken as often as it is less likely
 * than that bound says. Half of a step over a large vocabulary would else be the exponentials of its rows.
 */
function drawFromAll(logits: Float32Array, temperature: number, random: Random): number {
  const count = Math.ceil(logits.length / blockSize);
  if (bounds.length !== count) bounds = new Float64Array(count);
  let peak = -Infinity;
  for (let block = 0; block < count; block++) {
    let largest = -Infinity;
    for (let id = block * blockSize, end = Math.min(id + blockSize, logits.length); id < end; id++)
      if (logits[id]! > largest) largest = logits[id]!;
    bounds[block] = largest;
    if (largest > peak) peak = largest;
  }
  let total = 0;
  // From here on: how much the bounds up to each block's are together.
  for (let block = 0; block < count; block++)
    bounds[block] = total += Math.exp((bounds[block]! - peak) / temperature);
  // Logits that are not numbers say nothing.
  if (!Number.isFinite(total)) return draw(distribution(logits, { temperature }), random);
  for (;;) {
    const wanted = random.uniform() * total;
    let [low, high] = [0, count - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (bounds[middle]! > wanted) high = middle;
      else low = middle + 1;
    }
    const id = low * blockSize + Math.floor(random.uniform() * blockSize);
    const height = random.uniform() * (bounds[low]! - (low > 0 ? bounds[low - 1]! : 0));
    if (id < logits.length && height < Math.exp((logits[id]! - peak) / temperature)) return id;
  }
}

/** Draws the next token. */
export function sample(logits: Float32Array, options: SamplingOptions, random: Random): number {
  if (options.temperature === 0) return indexOfLargest(logits);
  return drawsFromAll(options, logits.length)
    ? drawFromAll(logits, options.temperature ?? 1, random)
    : draw(distribution(logits, options), random);
}
