import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
import { type Batch, type BatchSource, tokenBatch } from "./batch.js";

export interface PackingOptions {
  /** Rows of one batch. */
  readonly batchSize: number;
  /** Tokens of one row. */
  readonly sequenceLength: number;
  readonly seed: number;
}

const packingState = z.object({ epoch: z.int().nonnegative(), position: z.int().nonnegative() });

/**
 * Batches of rows that hold several documents each, none of which sees another: `documentIds` and `positionIds`, int32
 * `[batchSize, sequenceLength]`, keep them apart for `packedObjective`. Every epoch has each document once, in an order
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
    private readonly documents: readonly Int32Array[],
    private readonly options: PackingOptions,
    name = "the corpus",
  ) {
    const { sequenceLength } = options;
    if (!documents.some(({ length }) => length >= 2))
      throw new LineageError(
        "data",
        `${name} has no document of two tokens or more: there is nothing to predict`,
      );
    const over = documents.map(({ length }) => Math.max(0, length - sequenceLength));
    this.cutTokens = over.reduce((a, b) => a + b, 0);
    this.cutDocuments = over.filter((length) => length > 0).length;
    this.rows = this.packed();
  }

  get state(): { epoch: number; position: number } {
    return { epoch: this.epoch, position: this.position };
  }

  restore(state: unknown): void {
    const parsed = packingState.safeParse(state);
    if (!parsed.success)
      throw new LineageError("checkpoint", `${JSON.stringify(state)} is no place in packed documents`);
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

  /** First fit, over the last rows that have room: looking at all of them would take the square of their number. */
  private packed(): number[][] {
    const { sequenceLength, seed } = this.options;
    const order = new Random(seed).fork(`epoch ${this.epoch}`).permutation(this.documents.length);
    const rows: number[][] = [];
    let open: { row: number[]; room: number }[] = [];
    for (const index of order) {
      const length = Math.min(sequenceLength, this.documents[index]!.length);
      if (length < 2) continue;
      let place = open.find(({ room }) => room >= length);
      if (!place) {
        place = { row: [], room: sequenceLength };
        rows.push(place.row);
        open.push(place);
      }
      place.row.push(index);
      place.room -= length;
      open = open.filter(({ room }) => room >= 2).slice(-64);
    }
    return rows;
  }
}

/** One batch: each row's documents one after another, each cut to the row's length; what is left over counts for nothing. */
export function packDocuments(rows: readonly (readonly Int32Array[])[], sequenceLength: number): Batch {
  const shape = [rows.length, sequenceLength] as const;
  const size = rows.length * sequenceLength;
  const [inputIds, positionIds] = [new Int32Array(size), new Int32Array(size)];
  const labels = new Int32Array(size).fill(-100);
  const documentIds = new Int32Array(size).fill(-1);
  rows.forEach((documents, row) => {
    let at = row * sequenceLength;
    documents.forEach((document, index) => {
      const tokens = document.subarray(0, (row + 1) * sequenceLength - at);
      inputIds.set(tokens, at);
      labels.set(tokens.subarray(1), at);
      for (let i = 0; i < tokens.length; i++) positionIds[at + i] = i;
      documentIds.fill(index, at, at + tokens.length);
      at += tokens.length;
    });
  });
  const batch = tokenBatch(inputIds, labels, shape);
  return {
    ...batch,
    tensors: {
      ...batch.tensors,
      positionIds: { data: positionIds, shape },
      documentIds: { data: documentIds, shape },
    },
  };
}
