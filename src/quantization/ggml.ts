import { FormatError } from "../base/errors.js";
import { float16Value } from "../base/half.js";
import type { BlockArrays } from "./blocks.js";

/**
 * GGUF's plain blocks of 32 columns as the engine's: the same whole numbers with the same scales, so that nothing is
 * rounded a second time. Source: the block structures of ggml.
 */
export type GgmlBlockType = "Q4_0" | "Q4_1" | "Q8_0";

export const ggmlBlockSize = 32;

/** Bytes of one block: a half-precision scale (Q4_1: and smallest value), then the whole numbers. */
const blockBytes: Readonly<Record<GgmlBlockType, number>> = { Q4_0: 18, Q4_1: 20, Q8_0: 34 };

export const ggmlBits = (type: GgmlBlockType): 4 | 8 => (type === "Q8_0" ? 8 : 4);

export const isGgmlBlockType = (type: string): type is GgmlBlockType => Object.hasOwn(blockBytes, type);

/**
 * Block arrays from a tensor of a GGUF file. Q4_0 and Q8_0 have the engine's own zero points, 8 and 128; Q4_1's smallest
 * values become offsets.
 * @param name for the error message
 */
export function fromGgmlBlocks(
  type: GgmlBlockType,
  bytes: Uint8Array,
  { rows, columns }: { rows: number; columns: number },
  name: string,
): BlockArrays {
  const size = blockBytes[type];
  const blocks = columns / ggmlBlockSize;
  if (!Number.isInteger(blocks) || bytes.byteLength !== rows * blocks * size) {
    throw new FormatError(
      name,
      `${bytes.byteLength} bytes are not ${rows} rows of ${columns} columns in ${type} blocks`,
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const bits = ggmlBits(type);
  const values = new Uint8Array((rows * columns * bits) / 8);
  const scales = new Float32Array(rows * blocks);
  const offsets = type === "Q4_1" ? new Float32Array(blocks * rows) : undefined;
  const head = type === "Q4_1" ? 4 : 2;
  for (let index = 0; index < rows * blocks; index++) {
    const start = index * size;
    const scale = float16Value(view.getUint16(start, true));
    scales[index] = scale;
    if (offsets) {
      const [row, block] = [Math.floor(index / blocks), index % blocks];
      offsets[block * rows + row] = float16Value(view.getUint16(start + 2, true)) + 8 * scale;
    }
    const from = start + head;
    if (bits === 8) {
      const to = index * 32;
      for (let i = 0; i < 32; i++) values[to + i] = bytes[from + i]! ^ 0x80;
    } else {
      // ggml puts column i and column i + 16 into one byte, the engine neighbours.
      const to = index * 16;
      for (let i = 0; i < 8; i++) {
        const [a, b] = [bytes[from + 2 * i]!, bytes[from + 2 * i + 1]!];
        values[to + i] = (a & 15) | ((b & 15) << 4);
        values[to + 8 + i] = (a >> 4) | (b & 0xf0);
      }
    }
  }
  return { values, scales, offsets };
}
