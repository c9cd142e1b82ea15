import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
import { type Batch, type BatchSource, tokenBatch } from "./batch.js";
import type { Tokens } from "./tokens.js";

export interface PackingOptions {
  /** Rows of one batch. */
  readonly batchSize: number;
  /** Tokens of one row. */
  readonly sequenceLength: number;
  readonly seed: number;
  /** Documents share a row where this says the same of their lengths. Default: all do. */
  readonly groupOf?: ((length: number) => number) | undefined;
}

/** Tokens of which some alone are to be predicted. */
export interface PartlyTrained {
  readonly tokens: Tokens;
  /** 1 for each token that is to be predicted. */
  readonly trained: Uint8Array;
}
/** What a row is packed of: tokens that are all to be predicted, but for the first, or some of them alone. */
export type PackedDocument = Tokens | PartlyTrained;

const tokensOf = (document: PackedDocument): Tokens => ("tokens" in document ? document.tokens : document);
const lengthOf = (document: PackedDocument): number => tokensOf(document).length;

const packingState = z.object({ epoch: z.int().nonnegative(), position: z.int().nonnegative() });

/**
 * Batches of rows that hold several documents each, none of which sees another: `documentIds` and `positionIds`, int32
 * `[batchSize, sequenceLength]`, keep them apart for `packedObjective`; `trainedPositions` are the places in
 * `[batchSize * sequenceLength]` that predict something, and `trainedLabels` what they predict. Every epoch has each document once, in an order
 * drawn from the seed and the epoch, each in the first row that has room for it.
 */
export class PackedLoader implements BatchSource {
  /** Tokens of documents that are longer than a row, beyond it: they are never seen. */
  readonly cutTokens: number;
  /** Documents that were cut. */
  readonly cutDocuments: number;
  private epoch = 0;
  private position = 0;
  private rows: number[][];

  /** Throws `data` where no document has two tokens, the least that has something to predict. */
  constructor(
    private readonly documents: readonly PackedDocument[],
    private readonly options: PackingOptions,
    name = "the corpus",
  ) {
    const { sequenceLength } = options;
    if (!documents.some((document) => lengthOf(document) >= 2))
      throw new LineageError(
        "data",
        `${name} has no document of at least two tokens, so there is nothing to predict`,
      );
    const over = documents.map((document) => Math.max(0, lengthOf(document) - sequenceLength));
    this.cutTokens = over.reduce((a, b) => a + b, 0);
    this.cutDocuments = over.filter((length) => length > 0).length;
    this.rows = this.packed();
  }

  /** Rows of the current epoch. */
  get rowsOfEpoch(): number {
    return this.rows.length;
  }

  get state(): { epoch: number; position: number } {
    return { epoch: this.epoch, position: this.position };
  }

  restore(state: unknown): void {
    const parsed = packingState.safeParse(state);
    if (!parsed.success)
      throw new LineageError("checkpoint", `${JSON.stringify(state)} is not a position in packed documents`);
    this.epoch = parsed.data.epoch;
    this.rows = this.packed();
    this.position = parsed.data.position;
  }

  next(): Batch {
    return packDocuments(
      Array.from({ length: this.options.batchSize }, () =>
        this.nextRow().map((index) => this.documents[index]!),
      ),
      this.options.sequenceLength,
    );
  }

  private nextRow(): number[] {
    if (this.position >= this.rows.length) {
      this.epoch++;
      this.position = 0;
      this.rows = this.packed();
    }
    return this.rows[this.position++]!;
  }

  private packed(): number[][] {
    const order = new Random(this.options.seed)
      .fork(`epoch ${this.epoch}`)
      .permutation(this.documents.length);
    return firstFit(this.documents, order, this.options);
  }
}

/**
 * The places of documents, row by row: in the given order, each in the first row that has room for it. Looked for are the
 * last rows alone: looking at all of them would take the square of their number.
 */
function firstFit(
  documents: readonly PackedDocument[],
  order: Iterable<number>,
  { sequenceLength, groupOf = () => 0 }: Pick<PackingOptions, "sequenceLength" | "groupOf">,
): number[][] {
  const rows: number[][] = [];
  let open: { row: number[]; room: number; group: number }[] = [];
  for (const index of order) {
    const length = Math.min(sequenceLength, lengthOf(documents[index]!));
    if (length < 2) continue;
    const group = groupOf(length);
    let place = open.find((one) => one.room >= length && one.group === group);
    if (!place) {
      place = { row: [], room: sequenceLength, group };
      rows.push(place.row);
      open.push(place);
    }
    place.row.push(index);
    place.room -= length;
    open = open.filter(({ room }) => room >= 2).slice(-64);
  }
  return rows;
}

/** All documents once, packed in their order, in batches of one shape; rows of the last batch may be empty. */
export function* packedBatches(
  documents: readonly PackedDocument[],
  { batchSize, ...options }: Omit<PackingOptions, "seed">,
): Generator<Batch> {
  const { sequenceLength } = options;
  const rows = firstFit(documents, documents.keys(), options);
  for (let start = 0; start < rows.length; start += batchSize)
    yield packDocuments(
      Array.from({ length: batchSize }, (_, row) =>
        (rows[start + row] ?? []).map((index) => documents[index]!),
      ),
      sequenceLength,
    );
}

/**
 * The documents of a run of tokens, each with the id that closes it. One that is longer than a row becomes several, which
 * share a token at every cut, so that each token but the first is still predicted once.
 */
export function documentsIn(
  tokens: Tokens,
  endOfText: number,
  sequenceLength: number,
): { readonly pieces: readonly Tokens[]; readonly documents: number } {
  const pieces: Tokens[] = [];
  let documents = 0;
  for (let start = 0; start < tokens.length;) {
    const found = tokens.indexOf(endOfText, start);
    const end = found < 0 ? tokens.length : found + 1;
    documents++;
    for (let from = start; from === start || from < end - 1; from += sequenceLength - 1)
      pieces.push(tokens.subarray(from, Math.min(end, from + sequenceLength)));
    start = end;
  }
  return { pieces, documents };
}

/** One batch: each row's documents one after another, each cut to the row's length; what is left over counts for nothing. */
export function packDocuments(rows: readonly (readonly PackedDocument[])[], sequenceLength: number): Batch {
  const shape = [rows.length, sequenceLength] as const;
  const size = rows.length * sequenceLength;
  const [inputIds, positionIds] = [new Int32Array(size), new Int32Array(size)];
  const labels = new Int32Array(size).fill(-100);
  const documentIds = new Int32Array(size).fill(-1);
  rows.forEach((documents, row) => {
    let at = row * sequenceLength;
    documents.forEach((document, index) => {
      const tokens = tokensOf(document).subarray(0, (row + 1) * sequenceLength - at);
      inputIds.set(tokens, at);
      labels.set(tokens.subarray(1), at);
      if ("tokens" in document)
        for (let i = 1; i < tokens.length; i++) if (!document.trained[i]) labels[at + i - 1] = -100;
      for (let i = 0; i < tokens.length; i++) positionIds[at + i] = i;
      documentIds.fill(index, at, at + tokens.length);
      at += tokens.length;
    });
  });
  const batch = tokenBatch(inputIds, labels, shape);
  const predicting = [...labels.keys()].filter((at) => labels[at] !== -100);
  // A batch without anything to predict keeps a place that counts for nothing, so that its shapes are whole.
  const trainedPositions = Int32Array.from(predicting.length > 0 ? predicting : [0]);
  const trained = [trainedPositions.length];
  return {
    ...batch,
    tensors: {
      ...batch.tensors,
      positionIds: { data: positionIds, shape },
      documentIds: { data: documentIds, shape },
      trainedPositions: { data: trainedPositions, shape: trained },
      trainedLabels: { data: trainedPositions.map((at) => labels[at]!), shape: trained },
    },
  };
}
