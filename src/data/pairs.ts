import type { Batch } from "./batch.js";
import { BucketedSource, batchesWithin } from "./buckets.js";

/** A text and what is to be written about it, as token ids, each with its own end token. */
export interface TextPair {
  readonly source: readonly number[];
  readonly target: readonly number[];
  /** What the decoder reads, and where it stands, as long as the target. Default: the start token, then the target. */
  readonly decoder?: { readonly ids: readonly number[]; readonly positions: readonly number[] };
}

export interface PairBatchOptions {
  readonly padId: number;
  /** What the decoder reads before the target. */
  readonly startId: number;
}

const ignoredLabel = -100;

/**
 * Pairs as a batch of `sequenceToSequenceObjective`: both sides padded to their longest, the decoder one token behind its
 * labels.
 */
export function pairBatch(pairs: readonly TextPair[], { padId, startId }: PairBatchOptions): Batch {
  const sourceLength = Math.max(1, ...pairs.map(({ source }) => source.length));
  const targetLength = Math.max(1, ...pairs.map(({ target }) => target.length));
  const inputIds = new Int32Array(pairs.length * sourceLength).fill(padId);
  const attentionMask = new Uint8Array(pairs.length * sourceLength);
  const decoderInputIds = new Int32Array(pairs.length * targetLength).fill(padId);
  const decoderPositionIds = new Int32Array(pairs.length * targetLength);
  const labels = new Int32Array(pairs.length * targetLength).fill(ignoredLabel);
  let tokens = 0;
  pairs.forEach(({ source, target, decoder }, row) => {
    inputIds.set(source, row * sourceLength);
    attentionMask.fill(1, row * sourceLength, row * sourceLength + source.length);
    const start = row * targetLength;
    decoderInputIds.set(decoder?.ids ?? [startId, ...target.slice(0, -1)], start);
    decoderPositionIds.set(decoder?.positions ?? target.map((_, position) => position), start);
    labels.set(target, start);
    tokens += target.length;
  });
  const [source, target] = [
    [pairs.length, sourceLength],
    [pairs.length, targetLength],
  ];
  return {
    tensors: {
      inputIds: { data: inputIds, shape: source },
      attentionMask: { data: attentionMask, shape: source },
      decoderInputIds: { data: decoderInputIds, shape: target },
      labels: { data: labels, shape: target },
      ...(pairs.some(({ decoder }) => decoder) && {
        decoderPositionIds: { data: decoderPositionIds, shape: target },
      }),
    },
    counts: { tokens },
    tokens: inputIds.length + decoderInputIds.length,
  };
}

export interface PairBatches {
  /** Rows of a batch times its longest side, at most. */
  readonly maxTokens: number;
  /** Rows of a batch at most. Default 1024. */
  readonly batchSize?: number;
}
export interface PairSourceOptions extends PairBatchOptions, PairBatches {
  readonly seed: number;
}

/** How pairs share batches: by the longer side, and then by the other. */
export const pairLengths = {
  lengthOf: ({ source, target }: TextPair): number => Math.max(source.length, target.length),
  otherLengthOf: ({ source, target }: TextPair): number => Math.min(source.length, target.length),
};

/** Batches of pairs that are alike in both lengths, as large as `maxTokens` allows: a short pair never pays for a long one. */
export const pairSource = (
  pairs: readonly TextPair[],
  { maxTokens, batchSize = 1024, seed, ...batch }: PairSourceOptions,
): BucketedSource<TextPair> =>
  new BucketedSource(pairs, {
    batchSize,
    maxTokens,
    seed,
    ...pairLengths,
    collate: (rows) => pairBatch(rows, batch),
  });

/** Every pair once, in batches as those of `pairSource`: held-out data. */
export function* pairsOnce(
  pairs: readonly TextPair[],
  { maxTokens, batchSize = 1024, ...batch }: PairBatchOptions & PairBatches,
): Generator<Batch> {
  for (const places of batchesWithin(pairs, { batchSize, maxTokens, ...pairLengths }))
    yield pairBatch(
      places.map((place) => pairs[place]!),
      batch,
    );
}
