import { type TypedArray, bytesPerElement, elementCount } from "../base/dtype.js";
import type { DeviceTensor, Runtime, Tensors } from "../runtime/types.js";

/** What the keys and values of earlier tokens are kept as. */
export const cacheTypes = ["float32", "float16", "int8"] as const;
export type CacheType = (typeof cacheTypes)[number];

const parts = ["key", "value"] as const;

/** Layers whose caches hold the same tokens of a text. */
export interface CacheGroup {
  readonly buffers: KeyValueBuffers;
  /** Keys that a query of these layers looks back on, itself included. */
  readonly window: number;
  /** Cells of a row at most. */
  readonly cells: number;
}

/** Room above the largest values seen when the scales of an int8 cache are chosen. */
const margin = 1.25;
/** Of a channel that is zero throughout; the engine divides by it. */
const smallestScale = 1e-12;

/**
 * Keys and values of some layers, `[rows, numKeyValueHeads, cells, headSize]` each: buffers that a run reads and writes in
 * place. A cell holds one token of a row. Which sequence lies in which row, and which token in which cell, is for others to
 * know.
 */
export class KeyValueBuffers implements Disposable {
  /** By layer and part: `3.key`. */
  private tensors!: Readonly<Record<string, DeviceTensor>>;
  private readonly windows = new Map<string, Tensors>();
  private readonly rows: number;
  private readonly heads: number;
  private readonly headSize: number;
  /** Tokens that one row has room for. */
  cells: number;

  constructor(
    private readonly runtime: Runtime,
    private readonly layers: readonly number[],
    shape: readonly [rows: number, heads: number, cells: number, headSize: number],
    private readonly dtype: CacheType,
  ) {
    [this.rows, this.heads, this.cells, this.headSize] = shape;
    this.allocate();
  }

  shapeOf(cells: number): [rows: number, heads: number, cells: number, headSize: number] {
    return [this.rows, this.heads, cells, this.headSize];
  }

  /** What buffers of so many cells take. */
  bytesOf(cells: number): number {
    return 2 * this.layers.length * bytesPerElement(this.dtype) * elementCount(this.shapeOf(cells));
  }

  private allocate(): void {
    const shape = this.shapeOf(this.cells);
    this.tensors = Object.fromEntries(
      this.layers.flatMap((layer) =>
        parts.map((part) => [
          `${layer}.${part}`,
          this.runtime.createTensor(this.dtype, shape) as DeviceTensor,
        ]),
      ),
    );
  }

  /** Tensors over `count` rows from `first` on, by layer and part. They live until the buffers get another size. */
  window(first: number, count: number): Tensors {
    const key = `${first},${count}`;
    let window = this.windows.get(key);
    if (!window) {
      const { heads, cells, headSize } = this;
      window = Object.fromEntries(
        Object.entries(this.tensors).map(([name, tensor]) => [
          name,
          tensor.slice(first * heads * cells * headSize, [count, heads, cells, headSize]),
        ]),
      );
      this.windows.set(key, window);
    }
    return window;
  }

  /**
   * Gives every row room for `cells` tokens, and lets the windows go.
   * @param used the cells of each row that are kept, at most `cells`
   */
  resize(cells: number, used: (row: number) => number): void {
    const [before, room] = [this.tensors, this.cells];
    this.letWindowsGo();
    this.cells = cells;
    this.allocate();
    for (const [name, tensor] of Object.entries(this.tensors))
      for (let row = 0; row < this.rows; row++)
        for (let head = 0, size = used(row) * this.headSize; size > 0 && head < this.heads; head++) {
          const from = (row * this.heads + head) * room * this.headSize;
          tensor.copy(this.place(row, head), before[name]!, from, size);
        }
    for (const tensor of Object.values(before)) tensor.dispose();
  }

  /** Moves `count` cells of a row to its first cells. */
  shift(row: number, from: number, count: number): void {
    for (const tensor of Object.values(this.tensors)) {
      for (let head = 0; head < this.heads; head++) {
        const base = this.place(row, head);
        tensor.copy(base, tensor, base + from * this.headSize, count * this.headSize);
      }
    }
  }

  /** Makes the cells of `target` before `count`, from `from` on, those of `source`. */
  copy(source: number, target: number, count: number, from = 0): void {
    if (source === target || count <= from) return;
    const start = from * this.headSize;
    for (const tensor of Object.values(this.tensors)) {
      for (let head = 0; head < this.heads; head++) {
        const place = this.place(target, head) + start;
        tensor.copy(place, tensor, this.place(source, head) + start, (count - from) * this.headSize);
      }
    }
  }

  /**
   * Writes the first `count` cells of a row.
   * @param values by layer and part, `[rows, heads, cells, headSize]` of another number of rows and cells
   * @param index which row of the values
   */
  write(row: number, count: number, values: Tensors, index: number): void {
    for (const [name, tensor] of Object.entries(this.tensors)) {
      const from = values[name]!;
      for (let head = 0; head < this.heads; head++) {
        const base = (index * this.heads + head) * from.shape[2]! * this.headSize;
        tensor.copy(this.place(row, head), from, base, count * this.headSize);
      }
    }
  }

  /** Writes the first `count` cells of a row; `cells` has them by layer and part, `[heads, count, headSize]`. */
  fill(row: number, count: number, cells: ReadonlyMap<string, TypedArray>): void {
    const size = count * this.headSize;
    for (const [name, tensor] of Object.entries(this.tensors)) {
      const given = cells.get(name)!;
      for (let head = 0; head < this.heads; head++) {
        using part = tensor.slice(this.place(row, head), [size]);
        part.write(given.subarray(head * size, (head + 1) * size));
      }
    }
  }

  /**
   * The first `count` cells of a row of a float32 cache, by layer and part, `[count, heads * ownSize]`.
   * @param ownSize channels of a head without those that fill it up
   */
  rowsOf(row: number, count: number, ownSize: number): Map<string, Float32Array> {
    const { heads, headSize } = this;
    return new Map(
      Object.entries(this.tensors).map(([name, tensor]) => {
        const view = tensor.contents() as Float32Array;
        const rows = new Float32Array(count * heads * ownSize);
        for (let head = 0; head < heads; head++)
          for (let cell = 0; cell < count; cell++) {
            const from = this.place(row, head) + cell * headSize;
            rows.set(view.subarray(from, from + ownSize), (cell * heads + head) * ownSize);
          }
        return [name, rows];
      }),
    );
  }

  /** Lets two rows change places, of which the first `countA` and `countB` cells are in use. */
  swap(a: number, b: number, countA: number, countB: number): void {
    const [sizeA, sizeB] = [countA * this.headSize, countB * this.headSize];
    for (const tensor of Object.values(this.tensors)) {
      for (let head = 0; head < this.heads; head++) {
        const [placeA, placeB] = [this.place(a, head), this.place(b, head)];
        using ofB = tensor.slice(placeB, [sizeB]);
        const kept = ofB.contents().slice();
        tensor.copy(placeB, tensor, placeA, sizeA);
        using ofA = tensor.slice(placeA, [sizeB]);
        ofA.write(kept);
      }
    }
  }

  /**
   * What one step of an int8 cache has to be worth for each channel of each layer's keys and values, by layer and part,
   * `[heads * headSize]`: from the largest values in the first `count` cells of a row, with a margin for what is yet to
   * come. A pair of channels that a rotary position turns into each other counts by its length.
   * @param ownSize channels of a head without those that fill it up
   */
  scales(row: number, count: number, ownSize = this.headSize): Record<string, Float32Array> {
    const { heads, headSize } = this;
    const half = ownSize / 2;
    return Object.fromEntries(
      Object.entries(this.tensors).map(([name, tensor]) => {
        const view = tensor.contents() as Float32Array;
        const scale = new Float32Array(heads * headSize).fill(smallestScale);
        for (let head = 0; head < heads; head++) {
          for (let cell = 0; cell < count; cell++) {
            const base = this.place(row, head) + cell * headSize;
            for (let channel = 0; channel < ownSize; channel++) {
              const value = name.endsWith("key")
                ? Math.hypot(view[base + (channel % half)]!, view[base + (channel % half) + half]!)
                : Math.abs(view[base + channel]!);
              const place = head * headSize + channel;
              scale[place] = Math.max(scale[place]!, (value * margin) / 127);
            }
          }
        }
        return [name, scale];
      }),
    );
  }

  private place(row: number, head: number): number {
    return (row * this.heads + head) * this.cells * this.headSize;
  }

  private letWindowsGo(): void {
    for (const window of this.windows.values()) for (const tensor of Object.values(window)) tensor.dispose();
    this.windows.clear();
  }

  dispose(): void {
    this.letWindowsGo();
    for (const tensor of Object.values(this.tensors)) tensor.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
