import { LineageError } from "../../base/errors.js";
import { float16Bits, float16Value, widen } from "../../base/half.js";

/** How a GGUF tensor's numbers are kept: whole blocks of `elements`, `bytes` each. ggml.h, enum ggml_type. */
export interface GgufFormat {
  readonly id: number;
  readonly name: string;
  readonly elements: number;
  readonly bytes: number;
  /** Writes the values of whole blocks into `target`; absent for a format that lineage only knows by size. */
  readonly dequantize?: (bytes: Uint8Array, target: Float32Array) => void;
  /** The blocks of values; absent for a format that lineage does not write. */
  readonly quantize?: (values: Float32Array) => Uint8Array;
}

type Part = Omit<GgufFormat, "id" | "name">;
const known = (elements: number, bytes: number): Part => ({ elements, bytes });
/** A format whose blocks are read one by one: `read` writes the `elements` values of the block at `at` to `target` from `to`. */
const blockwise = (
  elements: number,
  bytes: number,
  read: (view: DataView, at: number, target: Float32Array, to: number) => void,
  quantize?: (values: Float32Array) => Uint8Array,
): Part => ({
  elements,
  bytes,
  quantize,
  dequantize: (source, target) => {
    const view = new DataView(source.buffer, source.byteOffset, source.byteLength);
    for (let at = 0, to = 0; at < source.byteLength; at += bytes, to += elements) read(view, at, target, to);
  },
});

const parts: Readonly<Record<string, readonly [id: number, part: Part]>> = {
  F32: [
    0,
    {
      ...known(1, 4),
      dequantize: (bytes, target) => {
        new Uint8Array(target.buffer, target.byteOffset, target.byteLength).set(bytes);
      },
      quantize: (values) => new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
    },
  ],
  F16: [
    1,
    {
      ...known(1, 2),
      dequantize: (bytes, target) => {
        widen.float16!(words(bytes), target);
      },
      quantize: (values) => new Uint8Array(Uint16Array.from(values, float16Bits).buffer),
    },
  ],
  Q4_0: [2, blockwise(32, 18, readQ4_0, writeQ4_0)],
  Q4_1: [3, blockwise(32, 20, readQ4_1)],
  Q5_0: [6, blockwise(32, 22, readQ5_0)],
  Q5_1: [7, blockwise(32, 24, readQ5_1)],
  Q8_0: [8, blockwise(32, 34, readQ8_0, writeQ8_0)],
  Q8_1: [9, known(32, 36)],
  Q2_K: [10, blockwise(256, 84, readQ2_K)],
  Q3_K: [11, blockwise(256, 110, readQ3_K)],
  Q4_K: [12, blockwise(256, 144, readQ4_K)],
  Q5_K: [13, blockwise(256, 176, readQ5_K)],
  Q6_K: [14, blockwise(256, 210, readQ6_K)],
  Q8_K: [15, known(256, 292)],
  IQ2_XXS: [16, known(256, 66)],
  IQ2_XS: [17, known(256, 74)],
  IQ3_XXS: [18, known(256, 98)],
  IQ1_S: [19, known(256, 50)],
  IQ4_NL: [20, blockwise(32, 18, readIQ4_NL)],
  IQ3_S: [21, known(256, 110)],
  IQ2_S: [22, known(256, 82)],
  IQ4_XS: [23, blockwise(256, 136, readIQ4_XS)],
  I8: [24, known(1, 1)],
  I16: [25, known(1, 2)],
  I32: [26, known(1, 4)],
  I64: [27, known(1, 8)],
  F64: [28, known(1, 8)],
  IQ1_M: [29, known(256, 56)],
  BF16: [
    30,
    {
      ...known(1, 2),
      dequantize: (bytes, target) => {
        widen.bfloat16!(words(bytes), target);
      },
    },
  ],
  TQ1_0: [34, known(256, 54)],
  TQ2_0: [35, known(256, 66)],
  MXFP4: [39, blockwise(32, 17, readMXFP4)],
  NVFP4: [40, known(64, 36)],
};

const formats: readonly GgufFormat[] = Object.entries(parts).map(([name, [id, part]]) => ({
  id,
  name,
  ...part,
}));

export const ggufFormatOfId = (id: number): GgufFormat | undefined =>
  formats.find((format) => format.id === id);

/** The format of a name such as `Q4_K`. Throws `argument` for one that there is not. */
export function ggufFormat(name: string): GgufFormat {
  const format = formats.find((candidate) => candidate.name === name);
  if (format) return format;
  throw new LineageError(
    "argument",
    `there is no GGUF format ${name}; lineage reads ${readable.join(", ")} and writes ${writable.join(", ")}`,
  );
}

const readable = formats.filter(({ dequantize }) => dequantize).map(({ name }) => name);
const writable = formats.filter(({ quantize }) => quantize).map(({ name }) => name);
/** Formats whose values can be read, and those that can be written. */
export const ggufFormats = { readable, writable } as const;

/** Bytes of a row; undefined where the row is no whole number of blocks. */
export const rowBytes = ({ elements, bytes }: GgufFormat, columns: number): number | undefined =>
  columns % elements === 0 ? (columns / elements) * bytes : undefined;

/** The little-endian 16-bit words of bytes that may lie at any address. */
const words = (bytes: Uint8Array): Uint16Array =>
  bytes.byteOffset % 2 === 0
    ? new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2)
    : new Uint16Array(bytes.slice().buffer);

const half = (view: DataView, at: number): number => float16Value(view.getUint16(at, true));

// ---- Blocks of 32: a scale, perhaps a minimum, and the numbers ------------------------------------------------------

function readQ4_0(view: DataView, at: number, target: Float32Array, to: number): void {
  const scale = half(view, at);
  for (let i = 0; i < 16; i++) {
    const pair = view.getUint8(at + 2 + i);
    target[to + i] = ((pair & 15) - 8) * scale;
    target[to + 16 + i] = ((pair >> 4) - 8) * scale;
  }
}

function readQ4_1(view: DataView, at: number, target: Float32Array, to: number): void {
  const [scale, minimum] = [half(view, at), half(view, at + 2)];
  for (let i = 0; i < 16; i++) {
    const pair = view.getUint8(at + 4 + i);
    target[to + i] = Math.fround((pair & 15) * scale) + minimum;
    target[to + 16 + i] = Math.fround((pair >> 4) * scale) + minimum;
  }
}

/** Q5_0 and Q5_1: a nibble each, and a fifth bit from a word that holds those of all 32. */
function readFiveBits(
  view: DataView,
  at: number,
  value: (number: number) => number,
  target: Float32Array,
  to: number,
): void {
  const high = view.getUint32(at, true);
  for (let i = 0; i < 16; i++) {
    const pair = view.getUint8(at + 4 + i);
    target[to + i] = value((pair & 15) | (((high >>> i) & 1) << 4));
    target[to + 16 + i] = value((pair >> 4) | (((high >>> (i + 16)) & 1) << 4));
  }
}

function readQ5_0(view: DataView, at: number, target: Float32Array, to: number): void {
  const scale = half(view, at);
  readFiveBits(view, at + 2, (number) => (number - 16) * scale, target, to);
}

function readQ5_1(view: DataView, at: number, target: Float32Array, to: number): void {
  const [scale, minimum] = [half(view, at), half(view, at + 2)];
  readFiveBits(view, at + 4, (number) => Math.fround(number * scale) + minimum, target, to);
}

/** Nibbles that stand for the numbers of a table: those of the lower half of the block first. */
function readTable(
  view: DataView,
  at: number,
  table: readonly number[],
  scale: number,
  target: Float32Array,
  to: number,
): void {
  for (let i = 0; i < 16; i++) {
    const pair = view.getUint8(at + i);
    target[to + i] = table[pair & 15]! * scale;
    target[to + 16 + i] = table[pair >> 4]! * scale;
  }
}

/** The sixteen numbers of IQ4_NL and IQ4_XS: closer to each other around 0, as weights are. */
const unevenNumbers = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/** Twice the values of 4-bit floats with two bits of exponent and one of fraction. */
const doubledFloats = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

function readIQ4_NL(view: DataView, at: number, target: Float32Array, to: number): void {
  readTable(view, at + 2, unevenNumbers, half(view, at), target, to);
}

/** OCP Microscaling Formats, section 5.4: the scale is a power of two. */
function readMXFP4(view: DataView, at: number, target: Float32Array, to: number): void {
  readTable(view, at + 1, doubledFloats, 2 ** (view.getUint8(at) - 128), target, to);
}

function readQ8_0(view: DataView, at: number, target: Float32Array, to: number): void {
  const scale = half(view, at);
  for (let i = 0; i < 32; i++) target[to + i] = view.getInt8(at + 2 + i) * scale;
}

/** Rounded as llama.cpp's reference code rounds: in float32, halves away from zero. */
function writeQ8_0(values: Float32Array): Uint8Array {
  const out = new Uint8Array((values.length / 32) * 34);
  const view = new DataView(out.buffer);
  for (let from = 0, at = 0; from < values.length; from += 32, at += 34) {
    let largest = 0;
    for (let i = 0; i < 32; i++) largest = Math.max(largest, Math.abs(values[from + i]!));
    const scale = Math.fround(largest / 127);
    const inverse = scale === 0 ? 0 : Math.fround(1 / scale);
    view.setUint16(at, float16Bits(scale), true);
    for (let i = 0; i < 32; i++) {
      const scaled = Math.fround(values[from + i]! * inverse);
      view.setInt8(at + 2 + i, Math.sign(scaled) * Math.floor(Math.abs(scaled) + 0.5));
    }
  }
  return out;
}

function writeQ4_0(values: Float32Array): Uint8Array {
  const out = new Uint8Array((values.length / 32) * 18);
  const view = new DataView(out.buffer);
  for (let from = 0, at = 0; from < values.length; from += 32, at += 18) {
    // The value furthest from zero, whichever its sign, becomes -8 exactly.
    let furthest = 0;
    for (let i = 0; i < 32; i++)
      if (Math.abs(values[from + i]!) > Math.abs(furthest)) furthest = values[from + i]!;
    const scale = Math.fround(furthest / -8);
    const inverse = scale === 0 ? 0 : Math.fround(1 / scale);
    view.setUint16(at, float16Bits(scale), true);
    const number = (i: number) =>
      Math.min(15, Math.trunc(Math.fround(Math.fround(values[from + i]! * inverse) + 8.5)));
    for (let i = 0; i < 16; i++) out[at + 2 + i] = number(i) | (number(i + 16) << 4);
  }
  return out;
}

// ---- Super-blocks of 256: scales of scales ------------------------------------------------------------------------

/** The 6-bit scale and minimum of sub-block `index`, of eight, packed into twelve bytes. */
function scaleAndMinimum(view: DataView, at: number, index: number): [number, number] {
  const byte = (i: number) => view.getUint8(at + i);
  return index < 4
    ? [byte(index) & 63, byte(index + 4) & 63]
    : [
        (byte(index + 4) & 15) | ((byte(index - 4) >> 6) << 4),
        (byte(index + 4) >> 4) | ((byte(index) >> 6) << 4),
      ];
}

/** Q4_K and Q5_K: eight sub-blocks of 32, a nibble each, and in Q5_K a bit from a plane. */
function readK(
  view: DataView,
  at: number,
  target: Float32Array,
  to: number,
  nibbles: number,
  highBit: (i: number, block: number) => number,
): void {
  const [scale, minimum] = [half(view, at), half(view, at + 2)];
  for (let block = 0; block < 8; block++) {
    const [blockScale, blockMinimum] = scaleAndMinimum(view, at + 4, block);
    const [d, m] = [Math.fround(scale * blockScale), Math.fround(minimum * blockMinimum)];
    for (let i = 0; i < 32; i++) {
      const pair = view.getUint8(nibbles + 32 * (block >> 1) + i);
      const low = block % 2 === 0 ? pair & 15 : pair >> 4;
      target[to + 32 * block + i] = Math.fround(d * (low + highBit(i, block))) - m;
    }
  }
}

function readQ4_K(view: DataView, at: number, target: Float32Array, to: number): void {
  readK(view, at, target, to, at + 16, () => 0);
}

function readQ5_K(view: DataView, at: number, target: Float32Array, to: number): void {
  readK(view, at, target, to, at + 48, (i, block) => ((view.getUint8(at + 16 + i) >> block) & 1) << 4);
}

/** Sixteen sub-blocks of 16 with a scale and a minimum of 4 bits each. */
function readQ2_K(view: DataView, at: number, target: Float32Array, to: number): void {
  const [scale, minimum] = [half(view, at + 80), half(view, at + 82)];
  for (let block = 0; block < 16; block++) {
    const packed = view.getUint8(at + block);
    const [d, m] = [Math.fround(scale * (packed & 15)), Math.fround(minimum * (packed >> 4))];
    const { from, shift } = quarterOf(block);
    for (let i = 0; i < 16; i++) {
      const number = (view.getUint8(at + 16 + from + i) >> shift) & 3;
      target[to + 16 * block + i] = Math.fround(d * number) - m;
    }
  }
}

/** Where the two-bit numbers of one of sixteen sub-blocks lie: byte and bit. Four sub-blocks share a byte. */
const quarterOf = (block: number) => ({
  from: 32 * (block >> 3) + 16 * (block & 1),
  shift: 2 * ((block >> 1) & 3),
});

/** Sixteen sub-blocks of 16 with a scale of 6 bits each; a third bit, from a plane, is set in the numbers from 0 on. */
function readQ3_K(view: DataView, at: number, target: Float32Array, to: number): void {
  const scale = half(view, at + 108);
  for (let block = 0; block < 16; block++) {
    const low = view.getUint8(at + 96 + (block & 7));
    const high = (view.getUint8(at + 104 + (block & 3)) >> (2 * (block >> 2))) & 3;
    const d = Math.fround(scale * (((block < 8 ? low & 15 : low >> 4) | (high << 4)) - 32));
    const { from, shift } = quarterOf(block);
    for (let i = 0; i < 16; i++) {
      const plane = (view.getUint8(at + 16 * (block & 1) + i) >> (block >> 1)) & 1;
      const number = ((view.getUint8(at + 32 + from + i) >> shift) & 3) - (plane ? 0 : 4);
      target[to + 16 * block + i] = d * number;
    }
  }
}

/** Eight sub-blocks of 32 of uneven numbers, with a scale of 6 bits each. */
function readIQ4_XS(view: DataView, at: number, target: Float32Array, to: number): void {
  const scale = half(view, at);
  const highs = view.getUint16(at + 2, true);
  for (let block = 0; block < 8; block++) {
    const low = (view.getUint8(at + 4 + (block >> 1)) >> (4 * (block & 1))) & 15;
    const d = Math.fround(scale * ((low | (((highs >> (2 * block)) & 3) << 4)) - 32));
    readTable(view, at + 8 + 16 * block, unevenNumbers, d, target, to + 32 * block);
  }
}

function readQ6_K(view: DataView, at: number, target: Float32Array, to: number): void {
  const scale = half(view, at + 208);
  for (let part = 0; part < 2; part++) {
    const [low, high, scales] = [at + 64 * part, at + 128 + 32 * part, at + 192 + 8 * part];
    for (let i = 0; i < 32; i++) {
      const bits = view.getUint8(high + i);
      const pairs = [view.getUint8(low + i), view.getUint8(low + 32 + i)] as const;
      for (let quarter = 0; quarter < 4; quarter++) {
        const pair = pairs[quarter % 2]!;
        const nibble = quarter < 2 ? pair & 15 : pair >> 4;
        const number = (nibble | (((bits >> (2 * quarter)) & 3) << 4)) - 32;
        const blockScale = view.getInt8(scales + (i >> 4) + 2 * quarter);
        target[to + 128 * part + 32 * quarter + i] = Math.fround(scale * blockScale) * number;
      }
    }
  }
}
