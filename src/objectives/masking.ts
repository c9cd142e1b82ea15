import { LineageError } from "../base/errors.js";
import { type Random, drawIndex } from "../base/random.js";
import type { MaskingVocabulary } from "./vocabulary.js";

export interface MaskingOptions {
  /** Share of the ordinary tokens to predict. Published: 0.15. */
  readonly rate?: number;
  /** Share of the predicted tokens that the mask replaces. Published: 0.8. */
  readonly maskShare?: number;
  /** Share of the predicted tokens that any other token replaces; the rest stays as it is. Published: 0.1. */
  readonly randomShare?: number;
  /** What is hidden together: single tokens, or whole words by `MaskingVocabulary.startsWord`. */
  readonly unit?: "token" | "word";
  /** Weight of a span of 1, 2, … units. Default `[1]`: one by one. */
  readonly spans?: readonly number[];
  /** Most tokens to predict in one row. */
  readonly maxPredictions?: number;
  /** Whether the token at a place may be hidden. Default: every one that is not special. */
  readonly maskable?: (id: number, place: number) => boolean;
  /** How readily a token is chosen, relative to others. Default: all alike. */
  readonly weight?: (id: number) => number;
}

/** ALBERT's spans of up to three words, a longer one as many times rarer; Lan et al. 2020, section 4.1. */
export const albertSpans: readonly number[] = [1, 1 / 2, 1 / 3];
/** UniLM's: one token in 80% of the cases, else two or three; Dong et al. 2019, section 2.3. */
export const unilmSpans: readonly number[] = [0.8, 0.1, 0.1];

export interface MaskedTokens {
  readonly inputIds: Int32Array;
  /** Places of the tokens to predict, ascending. */
  readonly positions: Int32Array;
  /** What stood there. */
  readonly labels: Int32Array;
}

/**
 * Hides tokens of one row for masked language modelling, Devlin et al. 2019, section 3.1: 15% of the ordinary tokens are
 * to be predicted, of which 80% become the mask, 10% any ordinary token and 10% stay. A row with an ordinary token has at
 * least one to predict.
 */
export function maskTokens(
  ids: ArrayLike<number>,
  vocabulary: MaskingVocabulary,
  options: MaskingOptions,
  random: Random,
): MaskedTokens {
  const { rate = 0.15, maskShare = 0.8, randomShare = 0.1, maxPredictions = Infinity } = options;
  const inputIds = Int32Array.from(ids);
  const chosen = choosePositions(inputIds, vocabulary, { ...options, rate, maxPredictions }, random);
  const positions = Int32Array.from(chosen).sort();
  const labels = positions.map((position) => inputIds[position]!);
  for (const position of positions) {
    const draw = random.uniform();
    if (draw < maskShare) inputIds[position] = vocabulary.maskId;
    else if (draw < maskShare + randomShare) inputIds[position] = ordinaryToken(vocabulary, random);
  }
  return { inputIds, positions, labels };
}

function choosePositions(
  ids: Int32Array,
  vocabulary: MaskingVocabulary,
  {
    rate,
    maxPredictions,
    unit = "token",
    spans = [1],
    weight,
    maskable = (id) => !vocabulary.specialIds.has(id),
  }: MaskingOptions & { rate: number; maxPredictions: number },
  random: Random,
): Set<number> {
  const units = unitsOf(ids, vocabulary, unit, maskable);
  const ordinary = units.reduce((sum, { length }) => sum + length, 0);
  const budget = Math.min(maxPredictions, ordinary === 0 ? 0 : Math.max(1, Math.round(rate * ordinary)));
  const chosen = new Set<number>();
  for (const start of order(units, ids, weight, random)) {
    if (chosen.size >= budget) break;
    // A span that would pass the budget, run into a special token or meet another span gives way to a shorter one.
    for (let length = drawIndex(spans, random) + 1; length > 0; length--) {
      const places = units.slice(start, start + length).flat();
      const contiguous = places.at(-1)! - places[0]! === places.length - 1;
      if (!contiguous || chosen.size + places.length > budget || places.some((place) => chosen.has(place)))
        continue;
      for (const place of places) chosen.add(place);
      break;
    }
  }
  // Every word may be longer than a small budget; one token is predicted all the same.
  if (chosen.size === 0 && budget > 0) chosen.add(units[random.integer(units.length)]![0]!);
  return chosen;
}

/** Places of the ordinary tokens, those of one word together where words are the unit. */
function unitsOf(
  ids: Int32Array,
  { startsWord = () => true }: MaskingVocabulary,
  unit: "token" | "word",
  maskable: (id: number, place: number) => boolean,
): number[][] {
  const units: number[][] = [];
  ids.forEach((id, place) => {
    if (!maskable(id, place)) return;
    const last = units.at(-1);
    if (unit === "word" && last?.at(-1) === place - 1 && !startsWord(id)) last.push(place);
    else units.push([place]);
  });
  return units;
}

/** Units in random order; heavier ones tend to come earlier (Efraimidis & Spirakis 2006). */
function order(
  units: readonly (readonly number[])[],
  ids: Int32Array,
  weight: ((id: number) => number) | undefined,
  random: Random,
): ArrayLike<number> & Iterable<number> {
  if (!weight) return random.permutation(units.length);
  const keys = units.map(([place]) => -Math.log(1 - random.uniform()) / weight(ids[place!]!));
  return units.map((_, index) => index).sort((a, b) => keys[a]! - keys[b]!);
}

export function ordinaryToken({ size, specialIds }: MaskingVocabulary, random: Random): number {
  if (specialIds.size >= size)
    throw new LineageError("argument", `a vocabulary of ${size} special tokens has none to put in a place`);
  for (;;) {
    const id = random.integer(size);
    if (!specialIds.has(id)) return id;
  }
}

/**
 * XLM's weights of the tokens to predict, Lample & Conneau 2019, section 3.2: the inverse square root of how often a token
 * occurs, so that frequent ones do not take most of the places.
 */
export function inverseRootFrequency(counts: ReadonlyMap<number, number>): (id: number) => number {
  return (id) => 1 / Math.sqrt(Math.max(1, counts.get(id) ?? 1));
}
