import { type Random, drawIndex } from "../base/random.js";
import type { PretrainingRow } from "./rows.js";
import type { SentenceVocabulary } from "./vocabulary.js";

// Dong et al. 2019, "Unified Language Model Pre-training for Natural Language Understanding and Generation".

export type UnilmMode = "bidirectional" | "left-to-right" | "right-to-left" | "sequence-to-sequence";

/** How often each mode occurs in one batch, section 2.3: a third, a sixth, a sixth, a third. */
export const unilmMixture: Readonly<Record<UnilmMode, number>> = {
  bidirectional: 1 / 3,
  "left-to-right": 1 / 6,
  "right-to-left": 1 / 6,
  "sequence-to-sequence": 1 / 3,
};

/** Segment ids by mode, so that the model knows which one it is in, section 2.1: those of the published checkpoints. */
export const unilmSegments: Readonly<Record<UnilmMode, readonly [first: number, second: number]>> = {
  bidirectional: [0, 1],
  "left-to-right": [2, 2],
  "right-to-left": [3, 3],
  "sequence-to-sequence": [4, 5],
};

/** The number of segment embeddings that the modes need. */
export const unilmSegmentCount = 6;

/**
 * Whether place `query` may look at place `key`, section 2.2 and figure 1. `sourceLength` is the length of the first
 * segment with its separator; only the sequence-to-sequence mask asks for it.
 */
export function unilmVisible(mode: UnilmMode, sourceLength: number): (query: number, key: number) => boolean {
  switch (mode) {
    case "bidirectional":
      return () => true;
    case "left-to-right":
      return (query, key) => key <= query;
    case "right-to-left":
      return (query, key) => key >= query;
    case "sequence-to-sequence":
      return (query, key) => key < sourceLength || (query >= sourceLength && key <= query);
  }
}

/** `[SOS] first [EOS] second [EOS]` under one of the four masks. */
export function unilmRow(
  mode: UnilmMode,
  { classId, separatorId }: Pick<SentenceVocabulary, "classId" | "separatorId">,
  first: readonly number[],
  second: readonly number[],
): PretrainingRow {
  const [left, right] = unilmSegments[mode];
  const source = [classId, ...first, separatorId];
  const target = second.length > 0 ? [...second, separatorId] : [];
  return {
    ids: [...source, ...target],
    typeIds: [...source.map(() => left), ...target.map(() => right)],
    visible: unilmVisible(mode, source.length),
  };
}

/** A mode drawn by the mixture. */
export function drawUnilmMode(random: Random, mixture = unilmMixture): UnilmMode {
  const modes = Object.keys(mixture) as UnilmMode[];
  return modes[
    drawIndex(
      modes.map((mode) => mixture[mode]),
      random,
    )
  ]!;
}
