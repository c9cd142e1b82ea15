import type { TypedArray } from "../base/dtype.js";
import type { DeviceTensor, Runtime, Tensors } from "../runtime/types.js";

/** What the keys and values of earlier tokens are kept as. */
export const cacheTypes = ["float32", "float16", "int8"] as const;
export type CacheType = (typeof cacheTypes)[number];

const parts = ["key", "value"] as const;

/** Room above the largest values seen when the scales of an int8 cache are chosen. */
const margin = 1.25;
/** Of a channel that is zero throughout; the engine divides by it. */
const smallestScale = 1e-12;

/**
 * Keys and values of every layer, `[rows, numKeyValueHeads, cells, headSize]` each: buffers that a run reads and writes in
 * place. A cell holds one token of a row. Which sequence lies in which row, and which token in which cell, is for others to
 * know.
 */
export class KeyValueBuffers implements Disposable {
  /** By layer and part: `3.key`. */
  private readonly tensors: Readonly<Record<string, DeviceTensor>>;
  private readonly views: readonly TypedArray[];
  private readonly windows = new Map<string, Tensors>();
  private readonly heads: number;
  private readonly cells: number;
  private readonly headSize: number;

  constructor(
    runtime: Runtime,
    numLayers: number,
    private readonly shape: readonly [rows: number, heads: number, cells: number, headSize: number],
    dtype: CacheType,
  ) {
    [, this.heads, this.cells, this.headSize] = shape;
    this.tensors = Object.fromEntries(
      Array.from({ length: numLayers }, (_, layer) => layer).flatMap((layer) =>
        parts.map((part) => [`${layer}.${part}`, runtime.createTensor(dtype, shape) as DeviceTensor]),
      ),
    );
    this.views = Object.values(this.tensors).map((tensor) => tensor.view());
  }

  /** Tensors over `count` rows from `first` on, by layer and part. They live as long as the buffers. */
  window(first: number, count: number): Tensors {
    const key = `${first},${count}`;
    let window = this.windows.get(key);
    if (!window) {
      const [, ...rest] = this.shape;
      const offset = first * this.heads * this.cells * this.headSize;
      window = Object.fromEntries(
        Object.entries(this.tensors).map(([name, tensor]) => [name, tensor.slice(offset, [count, ...rest])]),
      );
      this.windows.set(key, window);
    }
    return window;
  }

  /** Moves `count` cells of a row to its first cells. */
  shift(row: number, from: number, count: number): void {
    for (const view of this.views) {
      for (let head = 0; head < this.heads; head++) {
        const base = this.place(row, head);
        const start = base + from * this.headSize;
        view.copyWithin(base, start, start + count * this.headSize);
      }
    }
  }

  /** Makes the first `count` cells of `target` those of `source`. */
  copy(source: number, target: number, count: number): void {
    if (source === target || count === 0) return;
    for (const view of this.views) {
      for (let head = 0; head < this.heads; head++) {
        const from = this.place(source, head);
        view.copyWithin(this.place(target, head), from, from + count * this.headSize);
      }
    }
  }

  /** Lets two rows change places, of which the first `countA` and `countB` cells are in use. */
  swap(a: number, b: number, countA: number, countB: number): void {
    for (const view of this.views) {
      for (let head = 0; head < this.heads; head++) {
        const [placeA, placeB] = [this.place(a, head), this.place(b, head)];
        const kept = view.slice(placeB, placeB + countB * this.headSize);
        view.copyWithin(placeB, placeA, placeA + countA * this.headSize);
        (view as Float32Array).set(kept as Float32Array, placeA);
      }
    }
  }

  /** Makes the first `count` cells of each of `rows` those of its source, all at once. */
  rearrange(rows: readonly { readonly row: number; readonly source: number }[], count: number): void {
    const size = count * this.headSize;
    for (const view of this.views) {
      for (let head = 0; head < this.heads; head++) {
        const before = new Map(
          rows.map(({ source }) => {
            const base = this.place(source, head);
            return [source, view.slice(base, base + size)] as const;
          }),
        );
        for (const { row, source } of rows)
          if (row !== source)
            (view as Float32Array).set(before.get(source) as Float32Array, this.place(row, head));
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
        const view = tensor.view() as Float32Array;
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

  dispose(): void {
    for (const window of this.windows.values()) for (const tensor of Object.values(window)) tensor.dispose();
    for (const tensor of Object.values(this.tensors)) tensor.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
