import { elementCount } from "../base/dtype.js";
import { requireMemory } from "../base/memory.js";
import { type AdapterBank, type EncoderDecoder, adapterInput } from "../nn/index.js";
import type { DeviceTensor, Program, RunOptions, Runtime, Tensors } from "../runtime/types.js";
import { KeyValueBuffers } from "./cache.js";
import { decoderLayers } from "./program.js";
import { sameIds } from "./slot.js";

/** Sources are given room for a multiple of this many tokens, so that the next longer one needs no new buffers. */
const step = 8;

const roundedUp = (length: number): number => step * Math.ceil(length / step);

/** Tokens of sources that one run of the encoder reads, padding included. */
const tokensAtOnce = 2048;

/** A source that is to be read, and where it then lies. */
export interface Reading {
  readonly place: number;
  readonly source: readonly number[];
  /** The place of the adapter that reads it; undefined for none. */
  readonly adapter?: number | undefined;
}

/**
 * What the decoder of an encoder-decoder looks at: keys and values of sources, computed once for each. A place holds one
 * source. The buffers are as long as the longest source in them, so that short ones cost little.
 */
export class SourceMemory implements Disposable {
  private readonly buffers: KeyValueBuffers;
  private readonly held: (Omit<Reading, "place"> | undefined)[];
  private mask: DeviceTensor<"bool">;
  private readonly masks = new Map<string, DeviceTensor>();
  private readonly layers: readonly number[];

  constructor(
    private readonly runtime: Runtime,
    private readonly model: EncoderDecoder,
    private readonly encoder: Program,
    private readonly weights: Tensors,
    places: number,
    private readonly bank: AdapterBank | undefined,
    /** Told when the buffers have another size, and what was bound to them is no more. */
    private readonly resized: () => void,
  ) {
    this.layers = Array.from({ length: decoderLayers(model) }, (_, layer) => layer);
    this.held = Array.from({ length: places }, () => undefined);
    const shape = model.memoryShape(places, step) as [number, number, number, number];
    this.buffers = new KeyValueBuffers(runtime, this.layers, shape, "float32");
    this.mask = runtime.createTensor("bool", [places, step]);
  }

  /** The source of a place. */
  source(place: number): readonly number[] | undefined {
    return this.held[place]?.source;
  }

  /** What a pass takes of `count` places from `first` on. */
  window(first: number, count: number): Record<string, DeviceTensor> {
    const key = `${first},${count}`;
    let mask = this.masks.get(key);
    if (!mask) {
      const { cells } = this.buffers;
      this.masks.set(key, (mask = this.mask.slice(first * cells, [count, cells])));
    }
    return {
      memoryMask: mask,
      ...Object.fromEntries(
        Object.entries(this.buffers.window(first, count)).map(([name, tensor]) => [`memory.${name}`, tensor]),
      ),
    };
  }

  /**
   * Makes places hold sources. One that another place holds is copied; those of like length are read together.
   * @param keeps whether what another place holds is still needed
   */
  async read(
    readings: readonly Reading[],
    keeps: (place: number) => boolean,
    options: RunOptions,
  ): Promise<void> {
    const places = new Set(readings.map(({ place }) => place));
    const fresh: Reading[] = [];
    const again: { reading: Reading; of: number }[] = [];
    for (const reading of readings) {
      const holds = (held: Omit<Reading, "place"> | undefined): boolean =>
        held !== undefined && held.adapter === reading.adapter && sameIds(held.source, reading.source);
      if (holds(this.held[reading.place])) continue;
      const of = this.held.findIndex((held, place) => !places.has(place) && holds(held));
      if (of < 0) fresh.push(reading);
      else again.push({ reading, of });
      this.held[reading.place] = undefined;
    }
    if (fresh.length + again.length === 0) return;
    this.fit(readings, keeps);
    for (const { reading, of } of again) {
      this.buffers.copy(of, reading.place, reading.source.length);
      this.hold(reading);
    }
    for (const batch of batchesOf(fresh)) await this.encode(batch, options);
  }

  /** Gives the buffers the length that the sources need. */
  private fit(readings: readonly Reading[], keeps: (place: number) => boolean): void {
    const kept = this.held.map((held, place) => (held && keeps(place) ? held.source.length : 0));
    const needed = roundedUp(Math.max(...kept, ...readings.map(({ source }) => source.length)));
    const { cells } = this.buffers;
    if (needed <= cells && needed > cells / 2) return;
    const places = this.held.length;
    requireMemory(
      2 * this.layers.length * 4 * elementCount(this.model.memoryShape(places, needed) as number[]),
      `the keys and values of ${places} sources of ${needed} tokens`,
      "take fewer slots, or shorter sources",
    );
    this.resized();
    this.held.forEach((held, place) => {
      if (held && held.source.length > needed) this.held[place] = undefined;
    });
    this.buffers.resize(needed, (place) => this.source(place)?.length ?? 0);
    for (const mask of this.masks.values()) mask.dispose();
    this.masks.clear();
    this.mask.dispose();
    this.mask = this.runtime.createTensor("bool", [places, needed]);
    this.held.forEach((held, place) => {
      if (held) this.show(place, held.source.length);
    });
  }

  private hold({ place, source, adapter }: Reading): void {
    this.held[place] = { source: [...source], adapter };
    this.show(place, source.length);
  }

  private show(place: number, length: number): void {
    const { cells } = this.buffers;
    const row = this.mask.view().subarray(place * cells, (place + 1) * cells);
    row.fill(0);
    row.fill(1, 0, length);
  }

  private async encode(batch: readonly Reading[], options: RunOptions): Promise<void> {
    const length = Math.max(...batch.map(({ source }) => source.length));
    const shape = [batch.length, length];
    const ids = new Int32Array(batch.length * length).fill(this.model.config.padTokenId);
    const mask = new Uint8Array(ids.length);
    for (const [row, { source }] of batch.entries()) {
      ids.set(source, row * length);
      mask.fill(1, row * length, row * length + source.length);
    }
    using inputIds = this.runtime.createTensor("int32", shape, ids);
    using attentionMask = this.runtime.createTensor("bool", shape, mask);
    using adapters = this.bank && this.runtime.createTensor("float32", [batch.length, 1, this.bank.width]);
    const rows = adapters?.view();
    if (rows) for (const [row, { adapter }] of batch.entries()) this.bank?.choose(rows, row, adapter);
    const needed = Object.fromEntries(
      this.encoder.inputs.flatMap(({ name }) => (this.weights[name] ? [[name, this.weights[name]]] : [])),
    );
    const memory = await this.encoder.run(
      { ...needed, inputIds, attentionMask, ...(adapters && { [adapterInput]: adapters }) },
      {},
      options,
    );
    try {
      for (const [row, reading] of batch.entries()) {
        this.buffers.write(reading.place, reading.source.length, memory, row);
        this.hold(reading);
      }
    } finally {
      for (const tensor of Object.values(memory)) tensor.dispose();
    }
  }

  /** Forgets what a place holds. */
  forget(place: number): void {
    this.held[place] = undefined;
  }

  /** Lets two places change what they hold. */
  swap(a: number, b: number): void {
    const [heldA, heldB] = [this.held[a], this.held[b]];
    const [lengthA, lengthB] = [heldA?.source.length ?? 0, heldB?.source.length ?? 0];
    this.buffers.swap(a, b, lengthA, lengthB);
    [this.held[a], this.held[b]] = [heldB, heldA];
    this.show(a, lengthB);
    this.show(b, lengthA);
  }

  dispose(): void {
    for (const mask of this.masks.values()) mask.dispose();
    this.mask.dispose();
    this.buffers.dispose();
    this.encoder.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Sources of like length, as many as one run reads. */
function batchesOf(readings: readonly Reading[]): Reading[][] {
  const byLength = [...readings].sort((a, b) => b.source.length - a.source.length);
  const batches: Reading[][] = [];
  for (const reading of byLength) {
    const batch = batches.at(-1);
    const length = batch?.[0]!.source.length ?? 0;
    // Less than a fifth of what a source takes is padding.
    if (batch && (batch.length + 1) * length <= tokensAtOnce && reading.source.length > 0.8 * length)
      batch.push(reading);
    else batches.push([reading]);
  }
  return batches;
}
