import type { Batch } from "./batch.js";
import { BucketedSource } from "./buckets.js";

/** A text and what is to be written about it, as token ids, each with its own end token. */
export interface TextPair {
  readonly source: readonly number[];
  readonly target: readonly number[];
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
  const labels = new Int32Array(pairs.length * targetLength).fill(ignoredLabel);
  let tokens = 0;
  pairs.forEach(({ source, target }, row) => {
    inputIds.set(source, row * sourceLength);
    attentionMask.fill(1, row * sourceLength, row * sourceLength + source.length);
    const start = row * targetLength;
    decoderInputIds[start] = startId;
    decoderInputIds.set(target.slice(0, -1), start + 1);
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
    },
    counts: { tokens },
    tokens: inputIds.length + decoderInputIds.length,
  };
}

export interface PairSourceOptions extends PairBatchOptions {
  /** Rows of a batch times its longest side, at most. */
  readonly maxTokens: number;
  /** Rows of a batch at most. Default 1024. */
  readonly batchSize?: number;
  readonly seed: number;
}

/** Batches of pairs that are alike in both lengths, as large as `maxTokens` allows: a short pair never pays for a long one. */
export const pairSource = (
  pairs: readonly TextPair[],
  { maxTokens, batchSize = 1024, seed, ...batch }: PairSourceOptions,
): BucketedSource<TextPair> =>
  new BucketedSource(pairs, {
    batchSize,
    maxTokens,
    seed,
    lengthOf: ({ source, target }) => Math.max(source.length, target.length),
    otherLengthOf: ({ source, target }) => Math.min(source.length, target.length),
    collate: (rows) => pairBatch(rows, batch),
  });
