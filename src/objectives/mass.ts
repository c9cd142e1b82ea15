import { LineageError } from "../base/errors.js";
import type { Random } from "../base/random.js";
import type { MaskingVocabulary } from "./vocabulary.js";
import { ordinaryToken } from "./masking.js";

export interface MassOptions {
  /** Share of the sentence that is hidden. Published: 0.5. Its ends are masked LM (one token) and a causal LM (all of it). */
  readonly rate?: number;
  /** Share of the hidden tokens that the mask replaces in the encoder; published: 0.8, then 0.1 any token, 0.1 as they are. */
  readonly maskShare?: number;
  readonly randomShare?: number;
}

/** A sentence whose fragment the decoder predicts. All three lists of the decoder are as long as the fragment. */
export interface MassRow {
  /** The sentence, its fragment hidden. */
  readonly encoderIds: number[];
  /** The token before each of the fragment's: what the encoder sees, the decoder does not. */
  readonly decoderIds: number[];
  readonly labels: number[];
  /** Places of the decoder's tokens in the sentence. */
  readonly decoderPositions: number[];
}

/**
 * Masked sequence to sequence pretraining, Song et al. 2019, section 3.2: a contiguous fragment is hidden from the encoder,
 * and the decoder predicts exactly that fragment from the encoder and the fragment's own tokens before.
 *
 * @param startId what the decoder reads before a fragment that begins the sentence
 */
export function massRow(
  ids: readonly number[],
  vocabulary: MaskingVocabulary,
  startId: number,
  { rate = 0.5, maskShare = 0.8, randomShare = 0.1 }: MassOptions,
  random: Random,
): MassRow {
  if (ids.length === 0) throw new LineageError("data", "MASS needs a sentence with a token or more");
  const length = Math.min(ids.length, Math.max(1, Math.round(rate * ids.length)));
  const start = random.integer(ids.length - length + 1);
  const fragment = ids.slice(start, start + length);
  const hide = (id: number): number => {
    const draw = random.uniform();
    if (draw < maskShare) return vocabulary.maskId;
    return draw < maskShare + randomShare ? ordinaryToken(vocabulary, random) : id;
  };
  return {
    encoderIds: [...ids.slice(0, start), ...fragment.map(hide), ...ids.slice(start + length)],
    decoderIds: fragment.map((_, index) => (start + index === 0 ? startId : ids[start + index - 1]!)),
    labels: fragment,
    decoderPositions: fragment.map((_, index) => start + index),
  };
}
