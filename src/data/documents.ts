import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { Random, drawIndex } from "../base/random.js";
import type { Batch, BatchSource } from "./batch.js";
import type { Tokens } from "./tokens.js";

/** Documents of a mixture, such as those of one language. */
export interface DocumentPart {
  readonly documents: readonly Tokens[];
  /** How often a document is from it, against the others. */
  readonly rate: number;
  /** For messages. */
  readonly name: string;
}

/** What becomes of documents. */
export interface DocumentOptions<Piece> {
  /** Tokens of a row. */
  readonly rowLength: number;
  /** Rows of a batch. */
  readonly batchSize: number;
  readonly seed: number;
  /** What an objective makes of a document: a piece of at most `rowLength` tokens. */
  readonly transform: (document: Tokens, random: Random) => Piece;
  readonly lengthOf: (piece: Piece) => number;
  /** A batch of the pieces of each row. */
  readonly collate: (rows: readonly (readonly Piece[])[]) => Batch;
}

const whole = z.int().nonnegative();
const documentState = z.object({ pieces: whole, drawn: z.array(whole) });

/**
 * Batches of rows that each hold several whole documents, as an objective makes them. Each document draws its part by the
 * rates; a part gives each of its documents once before it begins again in another order. One that does not fit into what is
 * left of a row begins the next. A pure function of the seed and its place.
 */
export class DocumentSource<Piece> implements BatchSource {
  private pieces = 0;
  private drawn: number[];
  private readonly orders: { epoch: number; places: Uint32Array }[] = [];

  /** Throws `data` for a part without documents. */
  constructor(
    private readonly parts: readonly DocumentPart[],
    private readonly options: DocumentOptions<Piece>,
  ) {
    const empty = parts.find(({ documents }) => documents.length === 0);
    if (empty) throw new LineageError("data", `${empty.name} has no document of two tokens or more`);
    this.drawn = parts.map(() => 0);
  }

  get state(): { pieces: number; drawn: number[] } {
    return { pieces: this.pieces, drawn: [...this.drawn] };
  }

  restore(state: unknown): void {
    const parsed = documentState.safeParse(state);
    if (!parsed.success || parsed.data.drawn.length !== this.parts.length)
      throw new LineageError("checkpoint", `${JSON.stringify(state)} is not a place in these documents`);
    ({ pieces: this.pieces, drawn: this.drawn } = parsed.data);
  }

  next(): Batch {
    const { batchSize, collate } = this.options;
    return collate(Array.from({ length: batchSize }, () => this.nextRow()));
  }

  private nextRow(): Piece[] {
    const { rowLength, seed, transform, lengthOf } = this.options;
    const rates = this.parts.map(({ rate }) => rate);
    const row: Piece[] = [];
    for (let room = rowLength; ;) {
      const random = new Random(seed).fork(`document ${this.pieces}`);
      const part = drawIndex(rates, random);
      const piece = transform(this.documentOf(part), random);
      room -= lengthOf(piece);
      if (room < 0 && row.length > 0) return row;
      row.push(piece);
      this.pieces++;
      this.drawn[part]!++;
    }
  }

  /** The document that a part gives next. */
  private documentOf(part: number): Tokens {
    const { documents } = this.parts[part]!;
    const epoch = Math.floor(this.drawn[part]! / documents.length);
    if (this.orders[part]?.epoch !== epoch)
      this.orders[part] = {
        epoch,
        places: new Random(this.options.seed)
          .fork(`part ${part}, epoch ${epoch}`)
          .permutation(documents.length),
      };
    return documents[this.orders[part].places[this.drawn[part]! % documents.length]!]!;
  }
}

/** Every held-out document once, in the order in which they come, made into rows alike every time. */
export function* documentsOnce<Piece>(
  documents: Iterable<Tokens>,
  { rowLength, batchSize, seed, transform, lengthOf, collate }: DocumentOptions<Piece>,
): Generator<Batch> {
  const random = new Random(seed).fork("held out");
  let rows: Piece[][] = [[]];
  let [index, room] = [0, rowLength];
  for (const document of documents) {
    const piece = transform(document, random.fork(index++));
    const length = lengthOf(piece);
    if (length > room && rows.at(-1)!.length > 0) {
      if (rows.length === batchSize) {
        yield collate(rows);
        rows = [];
      }
      rows.push([]);
      room = rowLength;
    }
    rows.at(-1)!.push(piece);
    room -= length;
  }
  if (rows[0]!.length > 0) yield collate(rows);
}
