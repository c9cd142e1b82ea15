import type { TypedArray } from "../base/dtype.js";
import type { DeviceTensor, Runtime } from "../runtime/types.js";

/** What the keys and values of earlier tokens are kept as. */
export const cacheTypes = ["float32", "float16", "int8"] as const;
export type CacheType = (typeof cacheTypes)[number];

const parts = ["key", "value"] as const;

/** Room above the largest values seen when the scales of an int8 cache are chosen. */
const margin = 1.25;
/** Of a channel that is zero throughout; the engine divides by it. */
const smallestScale = 1e-12;

/**
 * Keys and values of every layer, `[batch, numKeyValueHeads, slots, headSize]` each: buffers that a run reads and writes in
 * place. Which token lies in which slot is the decoder's business.
 */
export class KeyValueBuffers implements Disposable {
  /** By layer and part: `3.key`. */
  readonly tensors: Readonly<Record<string, DeviceTensor>>;
  private readonly views: readonly TypedArray[];
  private readonly heads: number;
  private readonly slots: number;
  private readonly headSize: number;

  constructor(
    runtime: Runtime,
    numLayers: number,
    private readonly shape: readonly [batch: number, heads: number, slots: number, headSize: number],
    dtype: CacheType,
  ) {
    [, this.heads, this.slots, this.headSize] = shape;
    this.tensors = Object.fromEntries(
      Array.from({ length: numLayers }, (_, layer) => layer).flatMap((layer) =>
        parts.map((part) => [`${layer}.${part}`, runtime.createTensor(dtype, shape) as DeviceTensor]),
      ),
    );
    this.views = Object.values(this.tensors).map((tensor) => tensor.view());
  }

  /** Tensors over one row alone, batch 1, by the same names; the caller disposes them. */
  row(row: number): Record<string, DeviceTensor> {
    const [, ...rest] = this.shape;
    const size = this.heads * this.slots * this.headSize;
    return Object.fromEntries(
      Object.entries(this.tensors).map(([name, tensor]) => [name, tensor.slice(row * size, [1, ...rest])]),
    );
  }

  /** Moves `count` slots of a row to its first slots. */
  shift(row: number, from: number, count: number): void {
    for (const view of this.views) {
      for (let head = 0; head < this.heads; head++) {
        const base = this.place(row, head);
        const start = base + from * this.headSize;
        view.copyWithin(base, start, start + count * this.headSize);
      }
    }
  }

  /** Makes the first `count` slots of `target` those of `source`. */
  copy(source: number, target: number, count: number): void {
    for (const view of this.views) {
      for (let head = 0; head < this.heads; head++) {
        const from = this.place(source, head);
        view.copyWithin(this.place(target, head), from, from + count * this.headSize);
      }
    }
  }

  /** Makes row `i` what row `rows[i]` was, in its first `count` slots. */
  permute(rows: readonly number[], count: number): void {
    const size = count * this.headSize;
    for (const view of this.views) {
      for (let head = 0; head < this.heads; head++) {
        const before = rows.map((_, row) => {
          const base = this.place(row, head);
          return view.slice(base, base + size);
        });
        rows.forEach((source, row) => {
          if (source !== row)
            (view as Float32Array).set(before[source] as Float32Array, this.place(row, head));
        });
      }
    }
  }

  /**
   * What one step of an int8 cache has to be worth for each channel of each layer's keys and values, by the names of
   * `tensors`, `[heads * headSize]`: from the largest values in the first `count` slots of the first row, with a margin for
   * what is yet to come. A pair of channels that a rotary position turns into each other counts by its length.
   */
  scales(count: number): Record<string, Float32Array> {
    const { heads, headSize } = this;
    const half = headSize / 2;
    return Object.fromEntries(
      Object.entries(this.tensors).map(([name, tensor]) => {
        const view = tensor.view() as Float32Array;
        const scale = new Float32Array(heads * headSize).fill(smallestScale);
        for (let head = 0; head < heads; head++) {
          for (let slot = 0; slot < count; slot++) {
            const base = this.place(0, head) + slot * headSize;
            for (let channel = 0; channel < headSize; channel++) {
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
    return (row * this.heads + head) * this.slots * this.headSize;
  }

  dispose(): void {
    for (const tensor of Object.values(this.tensors)) tensor.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
