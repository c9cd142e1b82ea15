import { FormatError } from "../base/errors.js";
import { float16Value } from "../base/half.js";
import { type BlockArrays, blockZeros } from "./blocks.js";

/**
 * GGUF's plain blocks of 32 columns as the engine's: the same whole numbers with the same scales, so that nothing is
 * rounded a second time. Source: the block structures of ggml.
 */
export type GgmlBlockType = "Q4_0" | "Q4_1" | "Q8_0";

const ggmlBlockSize = 32;

/** Bytes of one block: a half-precision scale (Q4_1: and smallest value), then the whole numbers. */
const blockBytes: Readonly<Record<GgmlBlockType, number>> = { Q4_0: 18, Q4_1: 20, Q8_0: 34 };

export const isGgmlBlockType = (type: string): type is GgmlBlockType => Object.hasOwn(blockBytes, type);

/** How a type's blocks are kept. */
export const ggmlForm = (type: GgmlBlockType) =>
  ({
    bits: type === "Q8_0" ? 8 : 4,
    blockSize: ggmlBlockSize,
    zeroPoints: false,
    offsets: type === "Q4_1",
  }) as const;

/**
 * Block arrays from a tensor of a GGUF file. Q4_0 and Q8_0 have the engine's own zero points, 8 and 128; Q4_1's smallest
 * values become offsets.
 * @param name for the error message
 * @param into zeros that become the result
 */
export function fromGgmlBlocks(
  type: GgmlBlockType,
  bytes: Uint8Array,
  { rows, columns }: { rows: number; columns: number },
  name: string,
  into?: BlockArrays,
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
  const form = ggmlForm(type);
  const arrays = into ?? blockZeros({ rows, columns, ...form });
  const { values, scales, offsets } = arrays;
  const words = new Int32Array(values.buffer, values.byteOffset, values.byteLength / 4);
  const head = type === "Q4_1" ? 4 : 2;
  for (let row = 0; row < rows; row++) {
    for (let block = 0; block < blocks; block++) {
      const index = row * blocks + block;
      const start = index * size;
      const scale = float16Value(view.getUint16(start, true));
      scales[index] = scale;
      if (offsets) offsets[block * rows + row] = float16Value(view.getUint16(start + 2, true)) + 8 * scale;
      const from = start + head;
      if (form.bits === 8) {
        for (let i = 0; i < 8; i++) words[8 * index + i] = view.getInt32(from + 4 * i, true) ^ 0x80808080;
      } else {
        // ggml puts column i and column i + 16 into one byte, the engine neighbours.
        for (let i = 0; i < 2; i++) {
          const a = view.getInt32(from + 8 * i, true);
          const b = view.getInt32(from + 8 * i + 4, true);
          words[4 * index + i] = lowHalves(a) | (lowHalves(b) << 16);
          words[4 * index + 2 + i] = lowHalves(a >>> 4) | (lowHalves(b >>> 4) << 16);
        }
      }
    }
  }
  return arrays;
}

/** The low halves of a word's four bytes, side by side in two. */
function lowHalves(word: number): number {
  const halves = word & 0x0f0f0f0f;
  const pairs = halves | (halves >>> 4);
  return (pairs & 0xff) | ((pairs >>> 8) & 0xff00);
}
