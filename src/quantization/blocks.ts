import { allocate, elementCount } from "../base/dtype.js";
import { LineageError } from "../base/errors.js";
import type { BlockWeight } from "../graph/index.js";
import type { DeviceTensor, Runtime } from "../runtime/types.js";

/** A matrix as products have it: a row for each output. */
export interface MatrixLayout {
  readonly rows: number;
  readonly columns: number;
  /** Whether the parameter is stored `[columns, rows]`. */
  readonly transposed: boolean;
}

/** The matrix that a parameter of this shape is. */
export function layoutOf(shape: readonly number[], transposed: boolean): MatrixLayout {
  const [rows, columns] = (transposed ? [shape[1], shape[0]] : shape) as [number, number];
  return { rows, columns, transposed };
}

/** A matrix that is read a row at a time. */
export interface MatrixSource extends MatrixLayout {
  /** Fills `target` with rows `first` to `first + count - 1`. */
  readonly read: (first: number, count: number, target: Float32Array) => void;
}

/** Rows read at a time: enough that a transposed matrix is read in whole cache lines. */
export const panel = 64;

/** A float32 matrix in memory: `[rows, columns]`, or `[columns, rows]` when transposed. */
export function matrixOf(data: Float32Array, shape: readonly number[], transposed: boolean): MatrixSource {
  const layout = layoutOf(shape, transposed);
  const { rows, columns } = layout;
  return {
    ...layout,
    read: (first, count, target) => {
      if (!transposed) target.set(data.subarray(first * columns, (first + count) * columns));
      else
        for (let column = 0; column < columns; column++)
          for (let row = 0; row < count; row++)
            target[row * columns + column] = data[column * rows + first + row]!;
    },
  };
}

/** Calls `visit` with a panel of rows at a time: the number of its first, how many they are, and their values. */
export function eachPanel(
  source: MatrixSource,
  visit: (first: number, count: number, values: Float32Array) => void,
): void {
  const { rows, columns } = source;
  const buffer = new Float32Array(panel * columns);
  for (let first = 0; first < rows; first += panel) {
    const count = Math.min(panel, rows - first);
    source.read(first, count, buffer);
    visit(first, count, buffer);
  }
}

/** Calls `visit` with every row of a matrix in turn. */
export function eachRow(source: MatrixSource, visit: (row: number, values: Float32Array) => void): void {
  const { columns } = source;
  eachPanel(source, (first, count, values) => {
    for (let row = 0; row < count; row++)
      visit(first + row, values.subarray(row * columns, (row + 1) * columns));
  });
}

export interface BlockOptions {
  readonly bits: 4 | 8;
  /** Columns that share a scale: 16, 32, 64, 128 or 256. */
  readonly blockSize: number;
  /** `false` gives every block a zero point of its own, for blocks that lie to one side of 0. Default `true`. */
  readonly symmetric?: boolean | undefined;
  /** Scales tried for each block, keeping the one with the least squared error. Default 1: the block's range alone. */
  readonly candidates?: number | undefined;
}

/** The engine's operators take blocks of these sizes. */
export const blockSizes: readonly number[] = [16, 32, 64, 128, 256];

export function checkBlocks({ rows, columns }: MatrixSource, blockSize: number): void {
  if (!blockSizes.includes(blockSize) || columns % blockSize !== 0) {
    throw new LineageError(
      "argument",
      `blocks of ${blockSize} do not fit a matrix of ${rows} rows of ${columns}: the size must be one of ${blockSizes.join(", ")} and divide the row`,
    );
  }
}

/** The values of a quantised matrix in ordinary memory. */
export interface BlockArrays {
  readonly values: Uint8Array;
  readonly scales: Float32Array;
  readonly zeroPoints?: Uint8Array | undefined;
  readonly offsets?: Float32Array | undefined;
}

/** A matrix in blocks, but for its numbers. */
export interface BlockForm extends MatrixLayout, Pick<BlockWeight, "bits" | "blockSize"> {
  readonly zeroPoints: boolean;
  readonly offsets: boolean;
}

/** Shapes of a matrix's parts, as `BlockWeight` has them. */
export function blockShapes({
  rows,
  columns,
  bits,
  blockSize,
}: Pick<BlockForm, "rows" | "columns" | "bits" | "blockSize">) {
  const blocks = columns / blockSize;
  return {
    values: [rows, blocks, (blockSize * bits) / 8],
    table: [rows, (columns * bits) / 8],
    scales: [rows, blocks],
    zeroPoints: [rows, Math.ceil((blocks * bits) / 8)],
    offsets: [blocks, rows],
  } as const;
}

/** Bytes of a matrix in blocks. */
export function blockBytes(form: BlockForm): number {
  const { values, scales, zeroPoints, offsets } = blockShapes(form);
  const floats = elementCount(scales) + (form.offsets ? elementCount(offsets) : 0);
  return elementCount(values) + (form.zeroPoints ? elementCount(zeroPoints) : 0) + 4 * floats;
}

/** Zeros for the numbers of a matrix. */
export function blockZeros(form: Omit<BlockForm, "transposed">): BlockArrays {
  const shapes = blockShapes(form);
  return {
    values: allocate("uint8", elementCount(shapes.values)),
    scales: allocate("float32", elementCount(shapes.scales)),
    zeroPoints: form.zeroPoints ? allocate("uint8", elementCount(shapes.zeroPoints)) : undefined,
    offsets: form.offsets ? allocate("float32", elementCount(shapes.offsets)) : undefined,
  };
}

/**
 * Weights of zeros, to be filled through `blockArrays`. Their parts lie side by side, each matrix's behind those of the one
 * before: the engine takes matrices that one input is multiplied by as one then, without copying them together.
 */
export function adjacentBlocks(runtime: Runtime, forms: readonly BlockForm[]): BlockWeight[] {
  const side = <D extends "uint8" | "float32">(
    dtype: D,
    shapes: readonly (readonly number[] | undefined)[],
  ): (DeviceTensor<D> | undefined)[] => {
    const size = shapes.reduce((sum, shape) => sum + (shape ? elementCount(shape) : 0), 0);
    if (size === 0) return shapes.map(() => undefined);
    using whole = runtime.wrapTensor(dtype, [size], allocate(dtype, size));
    let start = 0;
    return shapes.map((shape) => {
      if (!shape) return undefined;
      const tensor = whole.slice(start, shape);
      start += tensor.size;
      return tensor;
    });
  };
  const shapes = forms.map(blockShapes);
  const values = side(
    "uint8",
    shapes.map((shape) => shape.values),
  );
  const scales = side(
    "float32",
    shapes.map((shape) => shape.scales),
  );
  const zeroPoints = side(
    "uint8",
    shapes.map((shape, index) => (forms[index]!.zeroPoints ? shape.zeroPoints : undefined)),
  );
  const offsets = side(
    "float32",
    shapes.map((shape, index) => (forms[index]!.offsets ? shape.offsets : undefined)),
  );
  return forms.map(({ rows, columns, transposed, bits, blockSize }, index) => ({
    kind: "blocks",
    ...{ rows, columns, transposed, bits, blockSize },
    values: values[index]!,
    table: values[index]!.slice(0, shapes[index]!.table),
    scales: scales[index]!,
    zeroPoints: zeroPoints[index],
    offsets: offsets[index],
  }));
}

/** The numbers of a weight, in its own memory. */
export const blockArrays = ({ values, scales, zeroPoints, offsets }: BlockWeight): BlockArrays => ({
  values: values.view(),
  scales: scales.view(),
  zeroPoints: zeroPoints?.view(),
  offsets: offsets?.view(),
});

/**
 * Rounds a matrix to whole numbers in blocks.
 * @param into zeros that become the result
 */
export function quantizeBlocks(source: MatrixSource, options: BlockOptions, into?: BlockArrays): BlockArrays {
  const { bits, blockSize, symmetric = true, candidates = 1 } = options;
  checkBlocks(source, blockSize);
  const { rows, columns } = source;
  const blocks = columns / blockSize;
  const arrays =
    into ?? blockZeros({ rows, columns, bits, blockSize, zeroPoints: !symmetric, offsets: false });
  const { values, scales, zeroPoints } = arrays;
  const zeroBytes = Math.ceil((blocks * bits) / 8);
  const quantizer = new BlockQuantizer(bits, blockSize, symmetric, candidates);
  eachRow(source, (row, data) => {
    for (let block = 0; block < blocks; block++) {
      const start = block * blockSize;
      quantizer.quantize(data, start);
      scales[row * blocks + block] = quantizer.scale;
      if (zeroPoints) {
        if (bits === 8) zeroPoints[row * zeroBytes + block] = quantizer.zeroPoint;
        else zeroPoints[row * zeroBytes + (block >> 1)]! |= quantizer.zeroPoint << (4 * (block & 1));
      }
      const { codes } = quantizer;
      const at = ((row * columns + start) * bits) / 8;
      if (bits === 8) values.set(codes, at);
      else for (let i = 0; i < blockSize; i += 2) values[at + i / 2] = codes[i]! | (codes[i + 1]! << 4);
    }
  });
  return arrays;
}

/** Rounds one block at a time; the result stands in its fields until the next. */
class BlockQuantizer {
  readonly codes: Uint8Array;
  scale = 0;
  zeroPoint: number;
  private readonly trial: Uint8Array;
  private readonly middle: number;
  private readonly top: number;

  constructor(
    bits: 4 | 8,
    private readonly blockSize: number,
    private readonly symmetric: boolean,
    private readonly candidates: number,
  ) {
    this.codes = new Uint8Array(blockSize);
    this.trial = new Uint8Array(blockSize);
    this.middle = 2 ** (bits - 1);
    this.top = 2 ** bits - 1;
    this.zeroPoint = this.middle;
  }

  quantize(data: Float32Array, start: number): void {
    const { blockSize, symmetric, middle, top, candidates } = this;
    let [low, high] = [0, 0];
    for (let i = start; i < start + blockSize; i++) {
      const value = data[i]!;
      if (value < low) low = value;
      if (value > high) high = value;
    }
    // One side has a code more than the other; a symmetric block gives it to its largest magnitude.
    const full = symmetric ? (Math.abs(low) > high ? low / -middle : high / -middle) : (high - low) / top;
    if (full === 0 || !Number.isFinite(full)) {
      if (!Number.isFinite(full))
        throw new LineageError("data", "a weight is not a finite number; it cannot be quantised");
      this.scale = 0;
      this.zeroPoint = middle;
      this.codes.fill(middle);
      return;
    }
    let best = Infinity;
    for (let candidate = 0; candidate < candidates; candidate++) {
      // Clipping the largest value a little spends the codes better on the others; a slightly wider scale may round better.
      const guess =
        full * (1 - 0.3 * (candidate / Math.max(1, candidates - 1)) + (candidates > 1 ? 0.04 : 0));
      const zero = symmetric ? middle : Math.min(top, Math.max(0, Math.round(-low / guess)));
      this.round(data, start, guess, zero);
      const scale = candidates > 1 ? this.fit(data, start, zero, guess) : Math.fround(guess);
      const error = candidates > 1 ? this.error(data, start, scale, zero) : 0;
      if (error < best) {
        best = error;
        this.scale = scale;
        this.zeroPoint = zero;
        this.codes.set(this.trial);
      }
    }
  }

  private round(data: Float32Array, start: number, scale: number, zero: number): void {
    const { blockSize, trial, top } = this;
    const inverse = 1 / scale;
    for (let i = 0; i < blockSize; i++) {
      const code = Math.floor(data[start + i]! * inverse + zero + 0.5);
      trial[i] = code < 0 ? 0 : code > top ? top : code;
    }
  }

  /** The scale that fits the codes best: least squares. */
  private fit(data: Float32Array, start: number, zero: number, guess: number): number {
    let [product, square] = [0, 0];
    for (let i = 0; i < this.blockSize; i++) {
      const code = this.trial[i]! - zero;
      product += code * data[start + i]!;
      square += code * code;
    }
    return Math.fround(square === 0 ? guess : product / square);
  }

  private error(data: Float32Array, start: number, scale: number, zero: number): number {
    let sum = 0;
    for (let i = 0; i < this.blockSize; i++) {
      const difference = data[start + i]! - scale * (this.trial[i]! - zero);
      sum += difference * difference;
    }
    return sum;
  }
}

/** Fills `target` with rows from `first` on of the matrix `[rows, columns]` that block arrays stand for; by default all. */
export function dequantizeBlocks(
  { values, scales, zeroPoints, offsets }: BlockArrays,
  { rows, columns, bits, blockSize }: { rows: number; columns: number; bits: 4 | 8; blockSize: number },
  target: Float32Array = new Float32Array(rows * columns),
  first = 0,
): Float32Array {
  const blocks = columns / blockSize;
  const zeroBytes = Math.ceil((blocks * bits) / 8);
  const blockBytes = (blockSize * bits) / 8;
  const middle = 2 ** (bits - 1);
  for (let to = 0, row = first; to < target.length; row++) {
    for (let block = 0; block < blocks; block++) {
      const index = row * blocks + block;
      const scale = scales[index]!;
      const packed = zeroPoints?.[row * zeroBytes + (bits === 8 ? block : block >> 1)];
      const zero = packed === undefined ? middle : bits === 8 ? packed : (packed >> (4 * (block & 1))) & 15;
      const offset = offsets ? offsets[block * rows + row]! : 0;
      const from = index * blockBytes;
      if (bits === 8) {
        for (let i = 0; i < blockSize; i++) target[to++] = scale * (values[from + i]! - zero) + offset;
      } else {
        for (let i = from; i < from + blockBytes; i++) {
          const pair = values[i]!;
          target[to++] = scale * ((pair & 15) - zero) + offset;
          target[to++] = scale * ((pair >> 4) - zero) + offset;
        }
      }
    }
  }
  return target;
}
