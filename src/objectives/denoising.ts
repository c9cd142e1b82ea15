import { LineageError } from "../base/errors.js";
import type { Random } from "../base/random.js";

/** A document as token ids, sentence by sentence. */
export type Sentences = readonly (readonly number[])[];

/** Something that is done to a document; the model writes the document as it was. Lewis et al. 2020, section 2.2. */
export type Noise = (sentences: Sentences, random: Random) => Sentences;

/** Masks single tokens, as BERT, at this rate. */
export const tokenMasking =
  (rate: number, maskId: number): Noise =>
  (sentences, random) =>
    sentences.map((ids) => ids.map((id) => (random.uniform() < rate ? maskId : id)));

/** Deletes tokens at this rate: the model has to find where some are missing. */
export const tokenDeletion =
  (rate: number): Noise =>
  (sentences, random) =>
    sentences.map((ids) => ids.filter(() => random.uniform() >= rate));

/**
 * Replaces spans by one mask each until this share of the tokens is hidden. Lengths are Poisson with mean `meanLength`
 * (published: 3); a span of length 0 is a mask that hides nothing. Spans do not cross the end of a sentence.
 */
export const textInfilling =
  (rate: number, maskId: number, meanLength = 3): Noise =>
  (sentences, random) => {
    const total = sentences.reduce((sum, { length }) => sum + length, 0);
    let left = Math.round(rate * total);
    /** What becomes of each token: itself, hidden, or hidden behind a mask that stands there. */
    const hidden = sentences.map(({ length }) => new Uint8Array(length));
    const insertions = sentences.map(({ length }) => new Uint32Array(length + 1));
    const places = sentences.flatMap(({ length }, sentence) =>
      Array.from({ length }, (_, place) => ({ sentence, place })),
    );
    for (const index of random.permutation(places.length)) {
      if (left <= 0) break;
      const { sentence, place } = places[index]!;
      const states = hidden[sentence]!;
      const length = Math.min(poisson(meanLength, random), left);
      if (length === 0) {
        if (states[place] === 0) insertions[sentence]![place]!++;
        continue;
      }
      let end = place;
      while (end < states.length && end - place < length && states[end] === 0) end++;
      if (end === place) continue;
      states.fill(1, place, end);
      insertions[sentence]![place]!++;
      left -= end - place;
    }
    return sentences.map((ids, sentence) => {
      const out: number[] = [];
      for (let place = 0; place <= ids.length; place++) {
        for (let count = insertions[sentence]![place]!; count > 0; count--) out.push(maskId);
        if (place < ids.length && hidden[sentence]![place] === 0) out.push(ids[place]!);
      }
      return out;
    });
  };

/** Puts this share of the sentences in another order. Published: all of them. */
export const sentencePermutation =
  (rate = 1): Noise =>
  (sentences, random) => {
    const count = Math.ceil(rate * sentences.length);
    const moved = Array.from(random.permutation(sentences.length).subarray(0, count));
    const places = [...moved].sort((a, b) => a - b);
    const out = [...sentences];
    places.forEach((place, index) => {
      out[place] = sentences[moved[index]!]!;
    });
    return out;
  };

/** Begins the document at a token drawn at random, with what stood before it at the end. */
export const documentRotation = (): Noise => (sentences, random) => {
  const ids = sentences.flat();
  if (ids.length < 2) return sentences;
  const start = random.integer(ids.length);
  return [[...ids.slice(start), ...ids.slice(0, start)]];
};

/** Several noises, one after the other. */
export const combined =
  (...noises: readonly Noise[]): Noise =>
  (sentences, random) =>
    noises.reduce((so, noise, index) => noise(so, random.fork(index)), sentences);

/** BART's: sentences in another order, then 30% of the tokens in spans behind masks. Section 3 of the paper. */
export const bartNoise = (maskId: number): Noise =>
  combined(sentencePermutation(), textInfilling(0.3, maskId));

/** A draw from a Poisson distribution (Knuth 1969, volume 2, section 3.4.1). */
export function poisson(mean: number, random: Random): number {
  if (!(mean > 0 && mean < 500))
    throw new LineageError(
      "argument",
      `the mean of a Poisson draw must be above 0 and below 500, not ${mean}`,
    );
  const limit = Math.exp(-mean);
  let [count, product] = [0, random.uniform()];
  while (product > limit) {
    count++;
    product *= random.uniform();
  }
  return count;
}
