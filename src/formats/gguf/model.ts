import { FormatError } from "../../base/errors.js";
import { ggufFormat } from "./blocks.js";
import type { GgufFile } from "./file.js";

/** How a parameter lies in a GGUF. */
export interface GgufPlace {
  readonly name: string;
  /**
   * Attention heads whose rotary pairs stand side by side in the GGUF and half a head apart in Hugging Face's layout;
   * the rows of each head are in another order.
   */
  readonly rotaryHeads?: number;
  /** Whether the matrix is transposed: GPT-2's is `[in, out]` in Hugging Face's layout. */
  readonly transposed?: boolean;
  /** What the numbers of Hugging Face's layout are multiplied by in the GGUF. */
  readonly factor?: number;
}

/** Whether the numbers lie in the GGUF otherwise than in Hugging Face's layout. */
export const isRearranged = ({ rotaryHeads, transposed = false, factor }: GgufPlace): boolean =>
  rotaryHeads !== undefined || transposed || factor !== undefined;

/**
 * For every row of a GGUF matrix of rotary heads, the row of Hugging Face's that it is: pair `i` of a head stands at rows
 * 2i and 2i + 1 there, and at rows i and i + half here.
 */
export function rotaryRows(rows: number, heads: number): Int32Array {
  const size = rows / heads;
  return Int32Array.from({ length: rows }, (_, row) => {
    const within = row % size;
    return row - within + (within % 2) * (size / 2) + (within >> 1);
  });
}

/** Rows of a GGUF matrix, quantised or not, in Hugging Face's order. */
export function rearrangeRows(bytes: Uint8Array, rows: number, { rotaryHeads }: GgufPlace): Uint8Array {
  if (rotaryHeads === undefined) return bytes;
  const size = bytes.byteLength / rows;
  const out = new Uint8Array(bytes.byteLength);
  rotaryRows(rows, rotaryHeads).forEach((other, row) => {
    out.set(bytes.subarray(row * size, (row + 1) * size), other * size);
  });
  return out;
}

/** Hugging Face's values from a GGUF's, or the other way round. */
export function rearrange(
  values: Float32Array,
  shape: readonly number[],
  { rotaryHeads, transposed, factor }: GgufPlace,
  direction: "fromGguf" | "toGguf",
): Float32Array {
  const [rows, columns] = [shape[0]!, shape[1] ?? 1];
  if (factor !== undefined)
    return values.map((value) => (direction === "toGguf" ? value * factor : value / factor));
  if (rotaryHeads !== undefined) {
    const out = new Float32Array(values.length);
    rotaryRows(rows, rotaryHeads).forEach((other, row) => {
      const [from, to] = direction === "fromGguf" ? [row, other] : [other, row];
      out.set(values.subarray(from * columns, (from + 1) * columns), to * columns);
    });
    return out;
  }
  if (!transposed) return values;
  // `shape` is Hugging Face's: [in, out].
  const out = new Float32Array(values.length);
  const [height, width] = direction === "toGguf" ? [rows, columns] : [columns, rows];
  for (let row = 0; row < height; row++)
    for (let column = 0; column < width; column++) out[column * height + row] = values[row * width + column]!;
  return out;
}

/** The shortest decimal that float32 rounds to `value`: 1e-5 for 9.999999747378752e-06. */
export function decimal(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === Math.fround(value)) return short;
  }
  return value;
}

/** Positions, and T5's biases of distances, which llama.cpp does not round either. */
const exact = /^position_embd\.weight$|\.attn_rel_b\.weight$/;

/** The format of a tensor in a file of `format`: vectors and positions stay exact, embeddings finer than the rest. */
export function tensorFormat(place: GgufPlace, shape: readonly number[], format: string): string {
  if (shape.length < 2 || exact.test(place.name)) return "F32";
  const wanted = format === "Q4_0" && /^(token_embd|output)\./.test(place.name) ? "Q8_0" : format;
  const columns = place.transposed ? shape[0]! : shape[1]!;
  return columns % ggufFormat(wanted).elements === 0 ? wanted : "F16";
}

/** Throws FormatError where a tensor's shape is not the model's. */
export function checkGgufShape(gguf: GgufFile, place: GgufPlace, shape: readonly number[]): void {
  const stored = gguf.tensor(place.name).shape;
  const expected = place.transposed ? [...shape].reverse() : shape;
  if (stored.join() !== expected.join())
    throw new FormatError(
      gguf.path,
      `the tensor ${place.name} is [${stored.join(", ")}], but the metadata makes it [${expected.join(", ")}]`,
    );
}
