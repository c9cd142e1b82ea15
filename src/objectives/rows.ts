import { ignoredLabel } from "../graph/index.js";
import type { Batch } from "../data/index.js";
import { type MaskedTokens, type MaskingOptions, maskTokens } from "./masking.js";
import type { Random } from "../base/random.js";
import type { SentenceVocabulary } from "./vocabulary.js";

/** One row of tokens as an encoder takes it, not yet masked. */
export interface PretrainingRow {
  readonly ids: readonly number[];
  readonly typeIds: readonly number[];
  /** Label of the sentence task, where the row has one; -100 counts for nothing. */
  readonly label?: number;
  readonly positionIds?: readonly number[];
  readonly languageIds?: readonly number[];
  /** `visible(i, j)`: whether place `i` may look at place `j`. Default: everything sees everything. */
  readonly visible?: (query: number, key: number) => boolean;
}

export interface MaskedRow extends PretrainingRow, MaskedTokens {}

/** `[CLS] first [SEP]` of type 0 and, for a pair, `second [SEP]` of type 1. */
export function sentenceRow(
  { classId, separatorId }: SentenceVocabulary,
  first: readonly number[],
  second?: readonly number[],
): PretrainingRow {
  const left = [classId, ...first, separatorId];
  const right = second ? [...second, separatorId] : [];
  return {
    ids: [...left, ...right],
    typeIds: [...left.map(() => 0), ...right.map(() => 1)],
  };
}

export const maskRow = (
  row: PretrainingRow,
  vocabulary: SentenceVocabulary,
  options: MaskingOptions,
  random: Random,
): MaskedRow => ({ ...row, ...maskTokens(row.ids, vocabulary, options, random) });

/** Loss of the tokens to predict, and that of the sentence task, among the counts of a batch. */
export const maskedLm = "maskedLm";
export const sentenceTask = "sentence";

/**
 * A batch of masked rows, padded to the longest. `maskedPositions` are places in the flattened `[batch * sequence]`, so
 * that logits are computed there and nowhere else.
 */
export function maskedBatch(rows: readonly MaskedRow[], paddingId: number): Batch {
  const sequence = Math.max(...rows.map(({ ids }) => ids.length));
  const shape = [rows.length, sequence];
  const size = rows.length * sequence;
  const inputIds = new Int32Array(size).fill(paddingId);
  const tokenTypeIds = new Int32Array(size);
  const attentionMask = new Uint8Array(size);
  const positions: number[] = [];
  const labels: number[] = [];
  rows.forEach((row, index) => {
    inputIds.set(row.inputIds, index * sequence);
    tokenTypeIds.set(row.typeIds, index * sequence);
    attentionMask.fill(1, index * sequence, index * sequence + row.ids.length);
    for (const position of row.positions) positions.push(index * sequence + position);
    labels.push(...row.labels);
  });
  // A batch of special tokens alone has nothing to predict; a place that counts for nothing keeps the shapes whole.
  const counted = positions.length;
  if (counted === 0) {
    positions.push(0);
    labels.push(ignoredLabel);
  }
  const fill = (values: (row: MaskedRow) => readonly number[]): Int32Array => {
    const data = new Int32Array(size);
    rows.forEach((row, index) => {
      data.set(values(row), index * sequence);
    });
    return data;
  };
  const has = (key: "label" | "positionIds" | "languageIds" | "visible"): boolean =>
    rows.some((row) => row[key] !== undefined);
  return {
    tensors: {
      inputIds: { data: inputIds, shape },
      tokenTypeIds: { data: tokenTypeIds, shape },
      attentionMask: has("visible")
        ? { data: visibility(rows, sequence), shape: [rows.length, sequence, sequence] }
        : { data: attentionMask, shape },
      maskedPositions: { data: Int32Array.from(positions), shape: [positions.length] },
      maskedLabels: { data: Int32Array.from(labels), shape: [labels.length] },
      ...(has("label") && {
        sentenceLabels: {
          data: Int32Array.from(rows, ({ label }) => label ?? ignoredLabel),
          shape: [rows.length],
        },
      }),
      ...(has("positionIds") && { positionIds: { data: fill((row) => row.positionIds ?? []), shape } }),
      ...(has("languageIds") && { languageIds: { data: fill((row) => row.languageIds ?? []), shape } }),
    },
    counts: {
      [maskedLm]: counted,
      ...(has("label") && {
        [sentenceTask]: rows.filter(({ label = ignoredLabel }) => label !== ignoredLabel).length,
      }),
    },
    tokens: rows.reduce((total, { ids }) => total + ids.length, 0),
  };
}

/** Who sees whom, `[batch, sequence, sequence]`; padding is seen by nobody. */
function visibility(rows: readonly MaskedRow[], sequence: number): Uint8Array {
  const data = new Uint8Array(rows.length * sequence * sequence);
  rows.forEach(({ ids, visible = () => true }, index) => {
    for (let query = 0; query < ids.length; query++)
      for (let key = 0; key < ids.length; key++)
        data[(index * sequence + query) * sequence + key] = Number(visible(query, key));
  });
  return data;
}
