import { LineageError } from "../base/errors.js";
import type { Decoder } from "./decoder.js";
import type { Slot } from "./slot.js";

export interface BeamOptions {
  /** Tokens to write at most. */
  readonly maxNewTokens: number;
  /** Texts that are followed side by side; at most the decoder's slots, which is the default. */
  readonly numBeams?: number;
  /** Exponent of the length by which a finished text's log-probability is divided, Wu et al. 2016. Default 1. */
  readonly lengthPenalty?: number;
  /** Whether to end as soon as there are as many finished texts as beams. Default false: go on while a better one can come. */
  readonly earlyStopping?: boolean;
  readonly stopIds?: readonly number[];
  readonly signal?: AbortSignal;
}

interface Beam {
  readonly ids: readonly number[];
  /** Sum of log-probabilities; divided by the length's power once finished. */
  readonly score: number;
}

/**
 * Beam search over one prompt; each beam takes a slot. The same texts as Hugging Face transformers: the best
 * continuation, its stop id included, and its score.
 */
export async function beamSearch(
  decoder: Decoder,
  prompt: readonly number[],
  options: BeamOptions,
): Promise<Beam> {
  const { maxNewTokens, numBeams = decoder.slots, signal } = options;
  if (prompt.length + maxNewTokens > decoder.capacity) {
    throw new LineageError(
      "length",
      `${prompt.length} prompt tokens and ${maxNewTokens} new ones do not fit the context of ${decoder.capacity}`,
    );
  }
  const slots: Slot[] = [];
  try {
    while (slots.length < numBeams) slots.push(decoder.open(prompt));
    const logits = await decoder.read(slots[0]!, prompt, { signal });
    return await search(decoder, slots, logits, options);
  } finally {
    for (const slot of slots) slot.close();
  }
}

/** @param first logits after the prompt, which the first slot holds */
async function search(
  decoder: Decoder,
  slots: readonly Slot[],
  first: Float32Array,
  { maxNewTokens, lengthPenalty = 1, earlyStopping = false, stopIds = [], signal }: BeamOptions,
): Promise<Beam> {
  const numBeams = slots.length;
  let logits = [first];
  let running: Beam[] = [{ ids: [], score: 0 }];
  let finished: Beam[] = [];
  for (let length = 1; ; length++) {
    const candidates = bestCandidates(running, logits, 2 * numBeams);
    const last = length === maxNewTokens;
    const ended = candidates.filter(
      ({ token }, rank) => rank < numBeams && (last || stopIds.includes(token)),
    );
    finished = [
      ...finished,
      ...ended.map(({ beam, token, score }) => ({
        ids: [...running[beam]!.ids, token],
        score: score / length ** lengthPenalty,
      })),
    ]
      .sort((a, b) => b.score - a.score)
      .slice(0, numBeams);
    const open = candidates.filter(({ token }) => !stopIds.includes(token)).slice(0, numBeams);
    const full = finished.length === numBeams;
    const canImprove = !full || open[0]!.score / length ** lengthPenalty > finished.at(-1)!.score;
    if (last || !canImprove || (earlyStopping && full)) return finished[0]!;
    running = open.map(({ beam, token, score }) => ({ ids: [...running[beam]!.ids, token], score }));
    const taken = slots.slice(0, open.length);
    await decoder.copy(
      taken,
      open.map(({ beam }) => slots[beam]!),
    );
    logits = await decoder.step(
      taken,
      open.map(({ token }) => token),
      { signal },
    );
  }
}

interface Candidate {
  readonly beam: number;
  readonly token: number;
  readonly score: number;
}

/** The `count` continuations of any beam with the highest scores, best first. */
function bestCandidates(
  running: readonly Beam[],
  logits: readonly Float32Array[],
  count: number,
): Candidate[] {
  const best: Candidate[] = [];
  for (const [beam, { score }] of running.entries()) {
    const row = logits[beam]!;
    const peak = row.reduce((a, b) => Math.max(a, b), -Infinity);
    const normalizer = peak + Math.log(row.reduce((sum, value) => sum + Math.exp(value - peak), 0));
    for (let token = 0; token < row.length; token++) {
      const total = score + row[token]! - normalizer;
      if (best.length === count && total <= best.at(-1)!.score) continue;
      let place = best.length;
      while (place > 0 && best[place - 1]!.score < total) place--;
      best.splice(place, 0, { beam, token, score: total });
      if (best.length > count) best.pop();
    }
  }
  return best;
}
