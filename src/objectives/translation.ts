import type { Random } from "../base/random.js";
import type { PretrainingRow } from "./rows.js";

// Lample & Conneau 2019, "Cross-lingual Language Model Pretraining".

/** A sentence and the number of its language. */
export interface LanguageText {
  readonly ids: readonly number[];
  readonly language: number;
}

/** One language's row for masked LM: `</s> text </s>`. */
export function languageRow({ ids, language }: LanguageText, separatorId: number): PretrainingRow {
  const row = [separatorId, ...ids, separatorId];
  return {
    ids: row,
    typeIds: row.map(() => 0),
    languageIds: row.map(() => language),
    positionIds: row.map((_, position) => position),
  };
}

/**
 * The row of translation language modelling, section 3.3 and figure 1: a sentence and its translation one after the other,
 * each with its language, and positions that start again, so that a hidden word can be read off the other language. Which
 * one comes first is drawn.
 */
export function translationRow(
  pair: readonly [LanguageText, LanguageText],
  separatorId: number,
  random: Random,
): PretrainingRow {
  const ordered = random.uniform() < 0.5 ? pair : [pair[1], pair[0]];
  const rows = ordered.map((text) => languageRow(text, separatorId));
  return {
    ids: rows.flatMap(({ ids }) => ids),
    typeIds: rows.flatMap(({ typeIds }) => typeIds),
    languageIds: rows.flatMap(({ languageIds }) => languageIds!),
    positionIds: rows.flatMap(({ positionIds }) => positionIds!),
  };
}
