import { LineageError } from "../base/errors.js";
import { type Random, drawIndex } from "../base/random.js";
import type { Batch } from "../data/batch.js";
import type { Tokens } from "../data/tokens.js";
import { endOfText, modeTokens, sentinelToken, sentinelsOf } from "../tokenizers/index.js";
import type { Tokenizer } from "../tokenizers/index.js";
import { corruptSpans, spanCounts } from "./span-corruption.js";

// Mixtures of denoisers for a prefix language model: Tay et al. 2022, "UL2: Unifying Language Learning Paradigms", section 3.1,
// and "Transcending Scaling Laws with 0.1% Extra Compute" (UL2R, U-PaLM), section 3; Anil et al. 2023, "PaLM 2 Technical
// Report". A row is a text's inputs, which are the prefix, and its targets after them.

/** What is hidden of a text, and what is predicted. */
export type Denoiser =
  /** All of it, from left to right. */
  | { readonly kind: "causal" }
  /** Its end: the S-denoiser. `rate` is the share of the end; without it the border lies anywhere. */
  | { readonly kind: "prefix"; readonly rate?: number; readonly mode?: string }
  /** Spans behind sentinels: R-denoisers, and with many tokens or long spans X-denoisers. */
  | { readonly kind: "spans"; readonly rate: number; readonly meanLength: number; readonly mode?: string };

/** A denoiser with its share of the rows. */
export interface MixturePart {
  readonly share: number;
  readonly denoiser: Denoiser;
}
export type DenoiserMixture = readonly MixturePart[];

const { regular, sequential, extreme } = modeTokens;
const spans = (mode: string, rate: number, meanLength: number): Denoiser => ({
  kind: "spans",
  rate,
  meanLength,
  mode,
});

/**
 * UL2R, section 3.3: half of the rows are prefix language modelling, a quarter regular spans (15% of the text in spans of 3),
 * a quarter extreme ones, of which half are long (spans of 32) and half hide much (50% of the text).
 *
 * Levanter's `ul2r_configs`, written by others from the paper, has the same three kinds of spans with the same rates and lengths, the
 * same names of the modes, half of the rows for the prefix, and a border anywhere in the text. It draws the three kinds evenly: the
 * shares among them are the paper's, and were not found in code.
 */
export const ul2rMixture: DenoiserMixture = [
  { share: 0.5, denoiser: { kind: "prefix", mode: sequential } },
  { share: 0.25, denoiser: spans(regular, 0.15, 3) },
  { share: 0.125, denoiser: spans(extreme, 0.15, 32) },
  { share: 0.125, denoiser: spans(extreme, 0.5, 3) },
];

/** UL2, table 1: seven denoisers, each as often as any other. */
export const ul2Mixture: DenoiserMixture = [
  spans(regular, 0.15, 3),
  spans(regular, 0.15, 8),
  { kind: "prefix", rate: 0.25, mode: sequential } as const,
  spans(extreme, 0.5, 3),
  spans(extreme, 0.5, 8),
  spans(extreme, 0.15, 64),
  spans(extreme, 0.5, 64),
].map((denoiser) => ({ share: 1 / 7, denoiser }));

const single = (denoiser: Denoiser): DenoiserMixture => [{ share: 1, denoiser }];

/** Mixtures by the names that `--objective` knows; one of its own gives several of them with their weights. */
const named: ReadonlyMap<string, DenoiserMixture> = new Map([
  ["causal", single({ kind: "causal" })],
  ["prefix", single({ kind: "prefix" })],
  ["spans", single({ kind: "spans", rate: 0.15, meanLength: 3 })],
  ["ul2", ul2Mixture],
  ["ul2r", ul2rMixture],
]);

/** The names of mixtures. */
export const mixtureNames: readonly string[] = [...named.keys()];

/**
 * A mixture from its name, or from several with their weights, such as PaLM-2's kind `causal=0.5,prefix=0.25,spans=0.25`, whose
 * weights the report keeps to itself. Throws `argument` for another text.
 */
export function mixtureOf(text: string): DenoiserMixture {
  const parts = text.split(",").map((part) => {
    const [name = "", weight = "1", ...more] = part.split("=").map((word) => word.trim());
    const mixture = named.get(name);
    if (!mixture || more.length > 0 || !(Number(weight) > 0) || !Number.isFinite(Number(weight)))
      throw new LineageError(
        "argument",
        `the objective ${JSON.stringify(part)} is none: write ${mixtureNames.join(", ")}, or several with weights, such as causal=0.5,prefix=0.25,spans=0.25`,
      );
    return { mixture, weight: Number(weight) };
  });
  const total = parts.reduce((sum, { weight }) => sum + weight, 0);
  return parts.flatMap(({ mixture, weight }) =>
    mixture.map(({ share, denoiser }) => ({ share: (share * weight) / total, denoiser })),
  );
}

/** Whether all of a mixture is predicted from left to right, so that no prefix is read both ways. */
export const isCausal = (mixture: DenoiserMixture): boolean =>
  mixture.every(({ denoiser: { kind } }) => kind === "causal");

// ---- Tokens -------------------------------------------------------------------------------------------------------

/** The ids that rows are written with. */
export interface DenoisingVocabulary {
  readonly sentinels: readonly number[];
  /** Of the modes by their tokens. */
  readonly modes: ReadonlyMap<string, number>;
  /** Closes what was hidden. */
  readonly endId: number;
}

const modesOf = (mixture: DenoiserMixture): string[] => [
  ...new Set(mixture.flatMap(({ denoiser }) => ("mode" in denoiser ? (denoiser.mode ?? []) : []))),
];

/** The tokens that a mixture needs over rows of `rowLength` tokens, and that a tokenizer may lack. */
export function denoisingTokens(mixture: DenoiserMixture, rowLength: number): string[] {
  const needed = mixture.map(({ denoiser }) =>
    denoiser.kind === "spans" ? spanCounts(textLength(denoiser, rowLength), denoiser).spans : 0,
  );
  return [
    ...Array.from({ length: Math.max(0, ...needed) }, (_, index) => sentinelToken(index)),
    ...modesOf(mixture),
  ];
}

/** Every token of a tokenizer that a mixture needs. Throws `tokenizer` naming those that it lacks. */
export function denoisingVocabulary(
  tokenizer: Tokenizer,
  mixture: DenoiserMixture,
  rowLength: number,
): DenoisingVocabulary {
  const missing = denoisingTokens(mixture, rowLength).filter(
    (token) => tokenizer.tokenToId(token) === undefined,
  );
  const { endOfTextId } = tokenizer;
  if (endOfTextId === undefined && mixture.some(({ denoiser: { kind } }) => kind === "spans"))
    missing.push(endOfText);
  if (missing.length > 0)
    throw new LineageError(
      "tokenizer",
      `the tokenizer has no ${missing.slice(0, 3).join(", ")}${missing.length > 3 ? ` and ${missing.length - 3} more tokens` : ""}, which this objective needs`,
    );
  return {
    sentinels: sentinelsOf(tokenizer),
    modes: new Map(modesOf(mixture).map((mode) => [mode, tokenizer.tokenToId(mode)!])),
    endId: endOfTextId ?? -1,
  };
}

// ---- Rows ---------------------------------------------------------------------------------------------------------

/** A row of a prefix language model. */
export interface PrefixRow {
  readonly ids: readonly number[];
  /** Tokens at its beginning that see one another both ways, and are not predicted. */
  readonly prefixLength: number;
}

/** Tokens of the longest text whose row has at most `rowLength` tokens. */
export function textLength(denoiser: Denoiser, rowLength: number): number {
  if (denoiser.kind === "causal") return rowLength;
  const mode = denoiser.mode === undefined ? 0 : 1;
  if (denoiser.kind === "prefix") return rowLength - mode;
  // A sentinel in the inputs and one in the targets for each span, and the end.
  let length = 2;
  while (length + 1 + 2 * spanCounts(length + 1, denoiser).spans + mode + 1 <= rowLength) length++;
  return length;
}

/** The row that a denoiser makes of a text of two tokens or more. */
export function denoisedRow(
  ids: readonly number[],
  denoiser: Denoiser,
  { sentinels, modes, endId }: DenoisingVocabulary,
  random: Random,
): PrefixRow {
  if (ids.length < 2)
    throw new LineageError("data", `a denoiser needs a text of two tokens or more, not ${ids.length}`);
  if (denoiser.kind === "causal") return { ids, prefixLength: 0 };
  const mode = denoiser.mode === undefined ? [] : [modes.get(denoiser.mode)!];
  if (denoiser.kind === "prefix") {
    const { rate } = denoiser;
    const shown =
      rate === undefined
        ? 1 + random.integer(ids.length - 1)
        : Math.min(Math.max(Math.round(ids.length * (1 - rate)), 1), ids.length - 1);
    return { ids: [...mode, ...ids], prefixLength: mode.length + shown };
  }
  const { rate, meanLength } = denoiser;
  // A text with gaps is given without the token that closes a document.
  const text = ids.length > 2 && ids.at(-1) === endId ? ids.slice(0, -1) : ids;
  const { inputIds, targetIds } = corruptSpans(text, sentinels, { rate, meanLength, anywhere: true }, random);
  return {
    ids: [...mode, ...inputIds, ...targetIds, endId],
    prefixLength: mode.length + inputIds.length,
  };
}

/** A row of at most `rowLength` tokens from a block of text, by a denoiser that is drawn by the shares: of the block, a part anywhere. */
export function mixedRow(
  block: Tokens,
  mixture: DenoiserMixture,
  vocabulary: DenoisingVocabulary,
  rowLength: number,
  random: Random,
): PrefixRow {
  const { denoiser } =
    mixture[
      drawIndex(
        mixture.map(({ share }) => share),
        random,
      )
    ]!;
  const length = Math.min(block.length, textLength(denoiser, rowLength));
  const start = random.integer(block.length - length + 1);
  return denoisedRow(Array.from(block.subarray(start, start + length)), denoiser, vocabulary, random);
}

/**
 * Rows that hold several documents each as a batch of `packedPrefixObjective` or `packedObjective`: labels as `prefixBatch` gives
 * them to each of them alone, `positionIds` from 0, and the number of its document for each token, -1 behind the last. Throws
 * `length` for a row that has more than `sequenceLength` tokens.
 */
export function packedPrefixBatch(
  rows: readonly (readonly PrefixRow[])[],
  sequenceLength: number,
  batchSize = rows.length,
): Batch {
  const shape = [batchSize, sequenceLength] as const;
  const size = batchSize * sequenceLength;
  const [inputIds, positionIds] = [new Int32Array(size), new Int32Array(size)];
  const labels = new Int32Array(size).fill(ignoredLabel);
  const documentIds = new Int32Array(size).fill(-1);
  const prefix = new Uint8Array(size);
  let tokens = 0;
  rows.forEach((documents, row) => {
    let at = row * sequenceLength;
    documents.forEach(({ ids, prefixLength }, index) => {
      const end = at + ids.length;
      if (end > (row + 1) * sequenceLength)
        throw new LineageError("length", `documents of a row do not fit its ${sequenceLength} tokens`);
      const first = Math.max(0, prefixLength - 1);
      inputIds.set(ids, at);
      labels.set(ids.slice(first + 1), at + first);
      prefix.fill(1, at, at + prefixLength);
      documentIds.fill(index, at, end);
      for (let place = 0; at < end; place++) positionIds[at++] = place;
      tokens += ids.length - 1 - first;
    });
  });
  const tensors = Object.entries({ inputIds, labels, prefix, positionIds, documentIds });
  return {
    tensors: Object.fromEntries(tensors.map(([name, data]) => [name, { data, shape }])),
    counts: { tokens },
    tokens: size,
  };
}

const ignoredLabel = -100;

/**
 * Rows as a batch of `prefixObjective`, each filled up to `sequenceLength` behind its end: the label of a token is the one after
 * it, where that is not of the prefix. Throws `length` for a row that has more.
 * @param batchSize rows of the batch, the last of which may be empty. Default: those that there are
 */
export function prefixBatch(
  rows: readonly PrefixRow[],
  sequenceLength: number,
  batchSize = rows.length,
): Batch {
  const shape = [batchSize, sequenceLength] as const;
  const size = batchSize * sequenceLength;
  const [inputIds, labels] = [new Int32Array(size), new Int32Array(size).fill(ignoredLabel)];
  const prefix = new Uint8Array(size);
  let tokens = 0;
  rows.forEach(({ ids, prefixLength }, row) => {
    if (ids.length > sequenceLength + 1)
      throw new LineageError(
        "length",
        `a row of ${ids.length} tokens does not fit ${sequenceLength} and the last label`,
      );
    const start = row * sequenceLength;
    const first = Math.max(0, prefixLength - 1);
    inputIds.set(ids.slice(0, -1), start);
    labels.set(ids.slice(first + 1), start + first);
    prefix.fill(1, start, start + prefixLength);
    tokens += ids.length - 1 - first;
  });
  return {
    tensors: {
      inputIds: { data: inputIds, shape },
      labels: { data: labels, shape },
      prefix: { data: prefix, shape },
    },
    counts: { tokens },
    tokens: size,
  };
}
