import { bytesPerElement, elementCount } from "../base/dtype.js";
import { LineageError } from "../base/errors.js";
import { requireMemory } from "../base/memory.js";
import { Random } from "../base/random.js";
import {
  type AdapterBank,
  CausalLm,
  EncoderDecoder,
  type WeightSet,
  bankOf,
  cacheWindow,
  keyValueShape,
  layerWindow,
  rotaryReach,
  scaledContext,
  unknownAdapter,
} from "../nn/index.js";
import type { RunOptions } from "../runtime/types.js";
import { type CacheGroup, type CacheType, KeyValueBuffers } from "./cache.js";
import { type Lead, leadOf } from "./lead.js";
import { SourceMemory } from "./memory.js";
import { type CausalModel, type GenerativeModel, type Prompt, isSourcePrompt } from "./model.js";
import { type CacheScales, compileDecoder, decoderLayers } from "./program.js";
import { type ProgramName, Runs } from "./runs.js";
import { type Ranked, Row, Slot, commonLength } from "./slot.js";

export interface DecoderOptions {
  readonly model: GenerativeModel;
  readonly weights: WeightSet;
  /** Sequences that are continued side by side. Default 1. */
  readonly slots?: number | undefined;
  /** Continuations of one prompt that a slot follows side by side: the beams of a beam search. Default 1. */
  readonly beams?: number | undefined;
  /**
   * Tokens that a slot can hold, prompt and continuation; at most the model's context, which with a scaling of positions is
   * longer than `contextLength`. Default `contextLength`.
   */
  readonly capacity?: number | undefined;
  /** Tokens of a prompt that one run takes: what bounds the memory of long prompts. Default 512. */
  readonly prefillChunk?: number | undefined;
  /**
   * What keys and values are kept as. Float16 takes half the memory of float32, which is the default; int8 a quarter. On a
   * CPU int8 makes the steps of long texts faster and the reading of long prompts slower; float16 makes both slower.
   */
  readonly cacheType?: CacheType | undefined;
  /**
   * Programs that the layers are divided into. They are made side by side, which shortens the start of large models, and run
   * one after the other. Default: one for each thread, up to 4, for more than 64 MB of weights; else 1.
   */
  readonly parts?: number | undefined;
  /**
   * Whether `branch` takes all its tokens in one run, which costs other runs a little. It needs a float32 cache; an
   * encoder-decoder takes them one after the other. Default false.
   */
  readonly branching?: boolean | undefined;
  /**
   * Whether products with weights in few bits take their inputs in float32. They round them to 8 bits by default, in blocks, as
   * llama.cpp does, which is faster.
   */
  readonly exactProducts?: boolean | undefined;
  /** Tokens whose keys and values tell the range of an int8 cache. Default: 256 of the vocabulary at random. */
  readonly calibration?: readonly number[] | undefined;
}

/** What a slot is opened for besides a prompt. */
export interface OpenOptions {
  /** Which of the model's adapters (`loadAdapters`) computes what the slot holds. Default: none, so the base alone. */
  readonly adapter?: string | undefined;
}

/** What a slot takes in a step. */
export interface StepRequest {
  readonly slot: Slot;
  /** Of each beam its next token, undefined for one that rests. Beams that go on have texts of one length. */
  readonly tokens: readonly (number | undefined)[];
  /** Whether the likeliest tokens are enough, which spares copies of all logits. */
  readonly ranked?: boolean;
}

/** Tokens that may come after a text, as a tree: each comes after its parent. */
export interface Branches {
  readonly ids: readonly number[];
  /** Of each token which one it comes after, an earlier one; -1 for the last token that the slot holds. */
  readonly parents: readonly number[];
  /** The tokens after which logits are wanted, in rising order. */
  readonly wanted: readonly number[];
}

/** What a run says of the token after a text: all logits, or the likeliest tokens. */
export type Scores = Float32Array | Ranked;

/** A prompt with what may be left out of it. */
export interface WholePrompt {
  readonly ids: readonly number[];
  readonly source: readonly number[] | undefined;
}

/**
 * Runs a model over several sequences side by side, keeping keys and values in buffers that every run updates in place. A
 * sequence takes a slot, and gives it back; slots come and go between two steps, and a step costs what the slots in it cost.
 * With a sliding window the buffers hold the window and one chunk, whatever the length of the text: when they are full,
 * the window moves to their front, which costs one copy of it for every chunk of tokens. Where some layers have the window and
 * others look back on everything, the same holds of the buffers of those with the window, if the capacity is `worthWindows` times as
 * much: prompts are then read over the band of those layers alone.
 *
 * Each slot gives what it gives alone. Where weights are constants (`loadForInference`), in full precision or in few bits,
 * the other slots of a step change no bit of its logits; where they train, the engine adds up a single row in another order,
 * and the last bit may differ. How a prompt is divided into runs changes no bit either, and a prompt that a slot has read
 * before gives the logits that it gave then. Only tokens that were computed one at a time (`step`) leave keys and values that
 * may differ in the last bit from those of the same tokens in a prompt, because the engine adds up the attention of one query
 * in another order. In float32 the difference stays there; with weights in 4 and 8 bits, whose products round their input, it
 * may grow until two nearly equal tokens change places. So a conversation that goes on from answers in the cache may differ
 * from one that reads them anew. With a second form of the weights for prompts (`promptConstants`), so may what the two forms
 * have read. Where the angles of positions depend on a text's length (dynamic scaling, LongRoPE), as in transformers each token
 * is turned by the text that was there when it was read, and only a beginning that was turned alike is kept for a prompt.
 *
 * With an encoder-decoder a slot holds a source as well. It is read once, by the encoder, and every step looks at the keys and
 * values that the decoder's layers have made of it. A prompt is then `{ source, begin }`:
 *
 *     using decoder = await Decoder.create({ model, weights, slots: 8 });
 *     for await (const { row, id } of generate(decoder, sources.map((source) => ({ source })), { temperature: 0, stopIds }))
 *
 * A prefix language model (`prefixLm` in its configuration) reads a prompt both ways: all of it in one run, since its first
 * token sees its last one, and only for the same prompt what a slot holds is kept. What follows is written, and `extend`
 * reads it, from left to right.
 *
 * Where a model has several adapters beside it (`loadAdapters`), a slot is opened with the name of one, or with none. Slots of
 * different adapters run in one batch, and each gives what it gives alone. What a slot has read with one adapter never serves
 * a text of another.
 *
 * A slot of several beams follows several continuations of its prompt (`beamSearch`). They share the source; of a beam that
 * goes on from another one only the tokens after their common beginning are copied.
 */
export class Decoder implements Disposable {
  /** Row `i` of the buffers is described by `rows[i]`. */
  private readonly rows: Row[];
  /** Settles when the last of the runs asked for so far has ended. */
  private last: Promise<void> = Promise.resolve();
  private working = false;
  private disposed = false;
  private freed = false;
  private closings = 0;

  private constructor(
    private readonly runs: Runs,
    private readonly caches: readonly CacheGroup[],
    private readonly memory: SourceMemory | undefined,
    private readonly limits: {
      readonly slots: number;
      readonly beams: number;
      readonly capacity: number;
      /** Tokens of a source. */
      readonly sourceCapacity: number;
      readonly startId: number;
      readonly chunk: number;
      readonly vocabSize: number;
      /** Texts of these two lengths are turned by the same angles where it gives the same number. */
      readonly reachOf: (length: number) => number;
      readonly ranked: number;
      readonly lead: Lead;
      /** Channels of a head, without those that fill a cache up. */
      readonly headSize: number;
      readonly branching: boolean;
      /** Keys that some layer looks back on at most. */
      readonly narrowest: number;
      readonly bank: AdapterBank | undefined;
    },
  ) {
    const windows = caches.map(({ window }) => window);
    const lead = limits.lead.ids.length;
    this.rows = Array.from(
      { length: limits.slots },
      (_, place) => new Row(place, limits.beams, windows, lead),
    );
  }

  /**
   * Throws `length` for a capacity beyond the model's context, `memory` where the cache does not fit into what is free,
   * `disposed` for weights that were disposed.
   */
  static async create(options: DecoderOptions): Promise<Decoder> {
    const {
      model,
      weights,
      slots = 1,
      beams = 1,
      prefillChunk = 512,
      cacheType = "float32",
      parts,
      branching: wanted = false,
    } = options;
    const { contextLength, vocabSize } = model.config;
    const ofSource = model instanceof EncoderDecoder;
    const most = ofSource ? contextLength : scaledContext(model.config);
    const { capacity = contextLength } = options;
    const wholes = { slots, beams, capacity, prefillChunk, parts: parts ?? 1 };
    for (const [name, value] of Object.entries(wholes)) {
      if (!Number.isInteger(value) || value < 1)
        throw new LineageError("argument", `${name} must be a whole number of at least 1, not ${value}`);
    }
    if (capacity > most)
      throw new LineageError("length", `${capacity} tokens do not fit the model's context of ${most}`);
    if (ofSource && cacheType !== "float32")
      throw new LineageError(
        "unsupported",
        `the cache of an encoder-decoder is float32; ${cacheType} is for decoders`,
      );
    if (wanted && cacheType !== "float32")
      throw new LineageError("unsupported", `branching needs a cache in float32, not ${cacheType}`);
    const groups = cacheGroups(model, capacity, prefillChunk);
    const branching =
      wanted &&
      groups.length === 1 &&
      beams === 1 &&
      !(model instanceof EncoderDecoder) &&
      !model.config.prefixLm;
    const planned = groups.map((group) => {
      const cells = group.cells + (branching && group.window === Infinity ? prefillChunk : 0);
      // Beams and texts about sources are mostly far shorter than a context: their caches grow with them.
      const first = ofSource || beams > 1 ? Math.min(cells, firstCells) : cells;
      const shape = model.cacheShape(slots * beams, first) as [number, number, number, number];
      return { ...group, cells, first, shape };
    });
    const headChannels = planned[0]!.shape[3];
    const lead = leadOf(model, weights, headChannels, cacheType);
    const bank = bankOf(model);
    if (lead.ids.length >= capacity)
      throw new LineageError(
        "length",
        `a soft prompt of ${lead.ids.length} tokens leaves no room in the ${capacity} tokens of the context`,
      );
    const least = Math.min(...planned.map(({ cells }) => cells));
    if (lead.cells && lead.ids.length > least)
      throw new LineageError(
        "length",
        `a prefix of ${lead.ids.length} tokens does not fit the ${least} that a layer with a window keeps; choose a larger prefillChunk`,
      );
    requireMemory(
      planned.reduce((sum, { layers, shape }) => sum + 2 * layers.length * elementCount(shape), 0) *
        bytesPerElement(cacheType),
      `the keys and values of ${slots * beams} x ${planned[0]!.first} tokens in ${cacheType}`,
      "choose a smaller capacity, fewer slots, or another cacheType",
    );
    const scales =
      cacheType === "int8" && !(model instanceof EncoderDecoder)
        ? await measureScales({ ...options, model }, capacity)
        : undefined;
    const ranked = ofSource || beams > 1 ? Math.min(vocabSize, 2 * beams + spareRanks) : 0;
    const programs = await compileDecoder(
      model,
      weights,
      {
        type: cacheType,
        cells: planned[0]!.cells,
        inPlace: planned.every(({ cells }) => cells === capacity),
        local: new Set(planned[1]?.layers),
        scales,
        biased: branching,
      },
      ranked,
      { parts, exactProducts: options.exactProducts },
    );
    const caches = planned.map(({ layers, shape, window, cells }) => ({
      ...{ window, cells },
      buffers: new KeyValueBuffers(weights.runtime, layers, shape, cacheType),
    }));
    const memory = ofSource
      ? new SourceMemory(weights.runtime, model, programs.encoder!, weights.tensors, slots, bank, () => {
          runs.unbind();
        })
      : undefined;
    const runs = new Runs(
      programs,
      weights,
      caches,
      {
        vocabSize,
        beams,
        ranked,
        capacity: Math.max(capacity, planned[0]!.cells),
        biasSize: branching ? prefillChunk * planned[0]!.cells : undefined,
        bank,
      },
      memory,
    );
    return new Decoder(runs, caches, memory, {
      slots,
      beams,
      capacity,
      sourceCapacity: contextLength,
      startId: ofSource ? model.config.decoderStartTokenId : 0,
      chunk: prefillChunk,
      vocabSize,
      ranked,
      lead,
      headSize: model instanceof CausalLm ? keyValueShape(model.config).headSize : headChannels,
      branching,
      bank,
      narrowest: (model instanceof EncoderDecoder ? undefined : model.config.slidingWindow) ?? Infinity,
      reachOf: (length) => (ofSource ? 0 : rotaryReach(model.config, length)),
    });
  }

  /** Sequences that are continued side by side. */
  get slots(): number {
    return this.limits.slots;
  }
  /** Tokens that a slot can hold, besides those of a soft prompt. */
  get capacity(): number {
    return this.limits.capacity - this.limits.lead.ids.length;
  }
  /** Continuations of its prompt that a slot follows. */
  get beams(): number {
    return this.limits.beams;
  }
  /** Names of the adapters that a text can have. */
  get adapters(): readonly string[] {
    return this.limits.bank?.names ?? [];
  }
  /** Whether prompts have sources. */
  get readsSources(): boolean {
    return this.memory !== undefined;
  }
  /** Whether each token of a prompt sees all of it, as in a prefix language model. */
  get readsBothWays(): boolean {
    return this.runs.readsBothWays;
  }
  /** Tokens of a source at most. */
  get sourceCapacity(): number {
    return this.limits.sourceCapacity;
  }
  /** How many of the likeliest tokens a step tells where that is asked for; 0 where it tells all logits alone. */
  get ranked(): number {
    return this.limits.ranked;
  }
  get vocabSize(): number {
    return this.limits.vocabSize;
  }
  /** Tokens that `extend` takes at once, at most. */
  get chunk(): number {
    return this.limits.chunk;
  }
  /** Slots that can be opened now. */
  get freeSlots(): number {
    return this.rows.filter(({ slot }) => !slot).length;
  }

  /**
   * Takes a slot: the one that holds most of a prompt's beginning, of equals the one that was closed first. Throws
   * `argument` when all are taken, and for an adapter that is not there.
   */
  open(prompt: Prompt = [], options: OpenOptions = {}): Slot {
    this.checkAlive();
    const adapter = this.adapterPlace(options);
    const whole = this.whole(prompt);
    const { source } = whole;
    const ids = this.led(whole.ids);
    const free = this.rows
      .filter(({ slot }) => !slot)
      .map((row) => ({
        row,
        common: row.adapter === adapter ? row.common(ids, this.limits.reachOf(ids.length), source) : 0,
      }))
      .sort((a, b) => b.common - a.common || a.row.closedAt - b.row.closedAt);
    if (free.length === 0)
      throw new LineageError(
        "argument",
        this.slots === 1
          ? "the decoder is in use: it has one slot, and that is taken; close it first, or create the decoder with more slots"
          : `all ${this.slots} slots of the decoder are taken; close one first, or create the decoder with more`,
      );
    const { row } = free[0]!;
    if (row.adapter !== adapter) {
      this.empty(row);
      row.adapter = adapter;
    }
    return new Slot(row, (closed) => (closed.closedAt = ++this.closings));
  }

  /** Throws `argument` for an adapter that is not there. */
  private adapterPlace({ adapter }: OpenOptions): number | undefined {
    if (adapter === undefined) return undefined;
    const { bank } = this.limits;
    if (!bank) throw unknownAdapter(adapter, []);
    return bank.placeOf(adapter);
  }

  /** Forgets what closed slots held. */
  forget(): void {
    for (const row of this.rows) if (!row.slot) this.empty(row);
  }

  private empty(row: Row): void {
    row.truncate(0);
    this.memory?.forget(row.place);
  }

  /**
   * Makes a slot hold a prompt; the logits of the token after it, `[vocabSize]`. What this slot, or any other, holds of its
   * beginning is kept and not computed again; `slot.reused` says how much it was. The array is the slot's: its next run
   * overwrites it.
   */
  async read(slot: Slot, prompt: Prompt, options: RunOptions = {}): Promise<Float32Array> {
    this.checkPrompt(prompt);
    const whole = this.whole(prompt);
    await this.begin([{ slot, ...whole }], options);
    return (await this.advance(slot, whole.ids, Infinity, options))!;
  }

  /**
   * @internal Makes slots hold as much of a prompt's beginning as any row has; `advance` reads the rest. Sources are read whole,
   * those of several slots together.
   */
  async begin(
    requests: readonly (WholePrompt & { readonly slot: Slot })[],
    options: RunOptions = {},
  ): Promise<void> {
    await this.exclusive(async () => {
      const lead = this.limits.lead.ids.length;
      for (const { slot, ids, source } of requests)
        slot.reused = Math.max(0, this.reuse(slot.row, this.led(ids), source) - lead);
      if (!this.memory) return;
      const readings = requests.map(({ slot: { row }, source }) => ({
        ...{ place: row.place, adapter: row.adapter },
        source: source!,
      }));
      const open = new Set(this.rows.flatMap(({ slot, place }) => (slot ? [place] : [])));
      for (const { place } of readings) open.delete(place);
      await this.memory.read(readings, (place) => open.has(place), options);
      this.checkAlive();
      for (const { slot, source } of requests) slot.row.source = source;
    });
  }

  /**
   * Reads on in a prompt that the slot holds the beginning of, about `count` tokens; the logits after the prompt once it
   * has been read, before that undefined. A prompt that is read both ways is read whole.
   */
  async advance(
    slot: Slot,
    text: readonly number[],
    count: number,
    options: RunOptions = {},
  ): Promise<Float32Array | undefined> {
    return this.exclusive(async () => {
      const { row } = slot;
      const prompt = this.led(text);
      this.placeLead(row);
      const known = row.prompt;
      if (known?.length === prompt.length && row.tokens.length === prompt.length)
        return slot.keep(known.logits);
      // Two tokens at least come last, for the program with logits: one alone would be added up otherwise.
      let end = Math.min(row.tokens.length + count, prompt.length);
      if (end === prompt.length - 1) end = prompt.length;
      let program: ProgramName = "step";
      if (this.runs.readsBothWays) {
        // What was read of it, or of another prompt, has seen another end.
        row.truncate(0);
        [end, program] = [prompt.length, "prefix"];
      } else if (this.runs.hasReader && prompt.length - row.tokens.length > readerPays)
        await this.feed(row, prompt, Math.min(end, prompt.length - 2), 0, "reader", options);
      if (row.tokens.length >= end && end < prompt.length) return undefined;
      const logits = await this.feed(row, prompt, end, end === prompt.length ? 1 : 0, program, options);
      if (end < prompt.length) return undefined;
      row.prompt = { length: prompt.length, logits: logits[0]!.slice() };
      return slot.keep(logits[0]!);
    });
  }

  /**
   * Logits after one more token in the first beam of each of some slots, in their order. The arrays are the slots': the next
   * run of each overwrites its own.
   */
  async step(
    slots: readonly Slot[],
    tokens: readonly number[],
    options: RunOptions = {},
  ): Promise<Float32Array[]> {
    if (slots.length !== tokens.length || new Set(slots).size !== slots.length)
      throw new LineageError(
        "argument",
        `a step takes one token for each of several slots, not ${tokens.length} tokens for ${new Set(slots).size} of ${slots.length} slots`,
      );
    const all = await this.stepBeams(
      slots.map((slot, index) => ({ slot, tokens: [tokens[index]] })),
      options,
    );
    return all.map(([first]) => first as Float32Array);
  }

  /**
   * What comes after one more token in beams of some slots, by slot and beam; undefined for a beam that rests. Arrays are the
   * slots': the next run of each overwrites its own.
   */
  async stepBeams(
    requests: readonly StepRequest[],
    options: RunOptions = {},
  ): Promise<(Scores | undefined)[][]> {
    const { beams } = this.limits;
    for (const { tokens } of requests) {
      this.checkIds(tokens.filter((token) => token !== undefined));
      if (tokens.length > beams)
        throw new LineageError("argument", `a slot has ${beams} beams, not ${tokens.length}`);
    }
    if (requests.length === 0) return [];
    return this.exclusive(async () => {
      for (const { slot } of requests) await this.begun(slot.row, options);
      const steps = requests.map(({ slot, tokens }) => ({
        row: slot.row,
        tokens,
        length: lengthOf(slot, tokens),
      }));
      for (const { row, length } of steps) {
        if (length >= this.limits.capacity)
          throw new LineageError("length", `the context of ${this.capacity} tokens is full`);
        this.makeRoom(row, length + 1);
      }
      const first = this.bringTogether(steps.map(({ row }) => row));
      const feed = this.runs.stepFeed(steps.length);
      for (const { row, tokens, length } of steps) {
        for (let beam = 0; beam < beams; beam++) {
          const line = (row.place - first) * beams + beam;
          feed.inputIds[line] = tokens[beam] ?? tokens.find((token) => token !== undefined)!;
          feed.positionIds[line] = BigInt(length);
          feed.lastRows[line] = BigInt(line);
          for (const [group, { lastPosition }] of feed.cells.entries())
            lastPosition[line] = length - (row.starts[group] ?? 0);
          feed.length[line] = BigInt(length + 1);
          feed.adapt(line, row.adapter);
        }
      }
      for (const { lastPosition, totalLength } of feed.cells) totalLength[0] = 1 + Math.max(...lastPosition);
      await this.runs.step(first, steps.length, feed, options);
      return requests.map(({ slot, ranked }, index) => {
        const { row, tokens, length } = steps[index]!;
        return row.beams.map((beam, place) => {
          const token = tokens[place];
          const line = (row.place - first) * beams + place;
          if (token === undefined) {
            // Its cell of the step has been written over.
            beam.length = Math.min(beam.length, length);
            return undefined;
          }
          row.add(token, this.limits.reachOf(length + 1), place);
          return ranked ? feed.ranked(line) : slot.keep(feed.logits[line]!, place);
        });
      });
    });
  }

  /**
   * Logits after each of several tokens that one slot takes at once, for less than as many steps: what a draft is checked
   * with. The arrays are the slot's: its next run overwrites them.
   */
  async extend(slot: Slot, tokens: readonly number[], options: RunOptions = {}): Promise<Float32Array[]> {
    this.checkIds(tokens);
    const { chunk } = this.limits;
    if (tokens.length === 0 || tokens.length > chunk)
      throw new LineageError("argument", `extend takes 1 to ${chunk} tokens at once, not ${tokens.length}`);
    return this.exclusive(async () => {
      const { row } = slot;
      await this.begun(row, options);
      const held = row.tokens.length;
      if (held + tokens.length > this.limits.capacity)
        throw new LineageError(
          "length",
          `${slot.length} tokens and ${tokens.length} more do not fit the context of ${this.capacity}`,
        );
      const all = [...row.tokens, ...tokens];
      if (this.limits.reachOf(held + 1) === this.limits.reachOf(all.length)) {
        const logits = await this.feed(row, all, all.length, tokens.length, "step", options);
        return logits.map((values, index) => slot.keep(values, index));
      }
      // Each token is turned by the text up to itself, as in steps.
      const rows: Float32Array[] = [];
      for (let end = held + 1; end <= all.length; end++) {
        const [logits] = await this.feed(row, all.slice(0, end), end, 1, "step", options);
        rows.push(slot.keep(logits!, rows.length));
      }
      return rows;
    });
  }

  /**
   * Logits after some of the tokens of a tree that comes after what a slot holds; it holds the same afterwards. A decoder with
   * `branching` takes them all in one run, so that several continuations of a text, and what these have in common, are read at
   * the pace of a prompt. The arrays are the slot's: its next run overwrites them.
   */
  async branch(slot: Slot, branches: Branches, options: RunOptions = {}): Promise<Float32Array[]> {
    const { ids, parents, wanted } = branches;
    const depths = depthsOf(branches);
    this.checkIds(ids);
    const deepest = Math.max(...depths);
    const longest = slot.length + deepest;
    if (ids.length > this.chunk)
      throw new LineageError("argument", `branch takes up to ${this.chunk} tokens, not ${ids.length}`);
    if (longest > this.capacity)
      throw new LineageError("length", `${longest} tokens do not fit the context of ${this.capacity}`);
    const { branching, reachOf, narrowest } = this.limits;
    const before = slot.row.tokens.length;
    if (
      !branching ||
      before + ids.length > narrowest ||
      reachOf(before + 1) !== reachOf(before + deepest + this.limits.lead.ids.length)
    )
      return this.branchByBranch(slot, branches, options);
    return this.exclusive(async () => {
      const { row } = slot;
      await this.begun(row, options);
      const held = row.tokens.length;
      const total = held + ids.length;
      this.makeRoom(row, total);
      const feed = this.runs.rowFeed(ids.length, wanted.length);
      feed.adapt(0, row.adapter);
      feed.inputIds.set(ids);
      for (const [index, depth] of depths.entries()) feed.positionIds[index] = BigInt(held + depth - 1);
      for (const [index, token] of wanted.entries()) feed.lastRows[index] = BigInt(token);
      for (const { lastPosition, totalLength } of feed.cells)
        [lastPosition[0], totalLength[0]] = [total - 1, total];
      feed.length[0] = BigInt(held + deepest);
      const hide = (bias: Float32Array): void => {
        for (const token of ids.keys()) {
          const seen = bias.subarray(token * total + held, token * total + held + token + 1);
          seen.fill(hidden);
          for (let at = token; at >= 0; at = parents[at]!) seen[at] = 0;
        }
      };
      await this.runs.branch(row.place, feed, hide, options);
      this.checkAlive();
      return feed.logits.map((logits, index) => slot.keep(logits, index));
    });
  }

  /** `branch` by a run for each branch. */
  private async branchByBranch(
    slot: Slot,
    { ids, parents, wanted }: Branches,
    options: RunOptions,
  ): Promise<Float32Array[]> {
    const { tokens, source, lead } = slot.row;
    const text = tokens.slice(lead);
    const found = new Map<number, Float32Array>();
    const inner = new Set(parents);
    for (const end of ids.keys()) {
      if (inner.has(end)) continue;
      const path: number[] = [];
      for (let at = end; at >= 0; at = parents[at]!) path.unshift(at);
      const open = path.findIndex((token) => wanted.includes(token) && !found.has(token));
      if (open < 0) continue;
      await this.goBack(slot, text, source, options);
      const logits = await this.extend(
        slot,
        path.map((token) => ids[token]!),
        options,
      );
      for (const [index, token] of path.entries()) found.set(token, logits[index]!.slice());
    }
    await this.goBack(slot, text, source, options);
    return wanted.map((token, index) => slot.keep(found.get(token)!, index));
  }

  /** Makes a slot hold the beginning of what it holds. */
  private async goBack(
    slot: Slot,
    text: readonly number[],
    source: readonly number[] | undefined,
    options: RunOptions,
  ): Promise<void> {
    const { row } = slot;
    if (text.length === 0) row.truncate(0);
    else if (row.holds(row.lead + text.length)) row.truncate(row.lead + text.length);
    else await this.read(slot, source ? { source, begin: text } : text, options);
  }

  /** Forgets what comes after a slot's first `length` tokens. */
  truncate(slot: Slot, length: number): void {
    const { row } = slot;
    const held = slot.length;
    const whole = length + this.limits.lead.ids.length;
    if (!Number.isInteger(length) || length < 0 || length > held || !row.holds(whole))
      throw new LineageError("argument", `the slot holds ${held} tokens and cannot go back to ${length}`);
    row.truncate(Math.min(whole, row.tokens.length));
  }

  /** A text with what stands before it. */
  private led(ids: readonly number[]): readonly number[] {
    const { lead } = this.limits;
    return lead.ids.length === 0 ? ids : [...lead.ids, ...ids];
  }

  /** Writes a prefix into the cells of a row that holds nothing. */
  private placeLead(row: Row): void {
    const { ids, cells } = this.limits.lead;
    if (!cells || row.tokens.length >= ids.length) return;
    row.truncate(0);
    this.makeRoom(row, ids.length);
    for (const { buffers } of this.caches) buffers.fill(this.line(row, 0), ids.length, cells);
    for (const id of ids) row.add(id, this.limits.reachOf(ids.length));
  }

  /** Makes a row that holds nothing hold what stands before a text. */
  private async begun(row: Row, options: RunOptions): Promise<void> {
    const { ids } = this.limits.lead;
    if (ids.length === 0 || row.tokens.length > 0) return;
    this.placeLead(row);
    await this.feed(row, ids, ids.length, 0, "step", options);
  }

  /**
   * Makes beams of a slot go on from others: beam `i` from `parents[i]`, undefined for one that stays. A beam that others go
   * on from stays itself. What a beam and its parent begin with is not copied.
   */
  async follow(slot: Slot, parents: readonly (number | undefined)[]): Promise<void> {
    await this.exclusive(() => {
      const { row } = slot;
      for (const [beam, parent] of parents.entries()) {
        if (parent === undefined || parent === beam) continue;
        if ((parents[parent] ?? parent) !== parent)
          throw new LineageError("internal", `beam ${beam} goes on from ${parent}, which is replaced itself`);
        const tokens = row.beams[parent]!;
        const common = commonLength(row.beams[beam]!, tokens);
        for (const [group, { buffers }] of this.caches.entries()) {
          const start = row.starts[group]!;
          buffers.copy(
            this.line(row, parent),
            this.line(row, beam),
            tokens.length - start,
            Math.max(0, common - start),
          );
        }
        row.follow(beam, parent);
      }
      return Promise.resolve();
    });
  }

  /** The row of the caches of a beam. */
  private line({ place }: Row, beam: number): number {
    return place * this.limits.beams + beam;
  }

  /** The keys and values of a text, `[ids.length, numLayers * 2 * numKeyValueHeads * headSize]`: what a prefix may begin as. */
  async prefixOf(ids: readonly number[]): Promise<Float32Array> {
    using slot = this.open(ids);
    await this.read(slot, ids);
    const { row } = slot;
    const parts = this.caches.flatMap(({ buffers }, group) => {
      if (row.starts[group] !== 0)
        throw new LineageError("length", `${ids.length} tokens are more than the windows of the model hold`);
      return [...buffers.rowsOf(this.line(row, 0), ids.length, this.limits.headSize)];
    });
    return joinedRows(ids.length, new Map(parts));
  }

  /** @internal The scales that an int8 cache of what a slot holds would need. */
  scales({ row }: Slot, headSize?: number): CacheScales {
    return Object.assign(
      {},
      ...this.caches.map(({ buffers }, group) =>
        buffers.scales(this.line(row, 0), row.used(group), headSize),
      ),
    ) as CacheScales;
  }

  /** @internal A prompt with what it leaves to the model. */
  whole(prompt: Prompt): WholePrompt {
    return isSourcePrompt(prompt)
      ? { ids: prompt.begin ?? [this.limits.startId], source: prompt.source }
      : { ids: prompt, source: undefined };
  }

  /** Throws `argument` and `length` for a prompt that no slot can hold, or an adapter that is not there. */
  checkPrompt(prompt: Prompt, options: OpenOptions = {}): void {
    this.adapterPlace(options);
    const { ids, source } = this.whole(prompt);
    if ((source !== undefined) !== this.readsSources)
      throw new LineageError(
        "argument",
        source ? "only an encoder-decoder reads sources" : "a prompt of an encoder-decoder has a source",
      );
    if (source?.length === 0) throw new LineageError("argument", "a source needs at least one token");
    if (source && source.length > this.sourceCapacity)
      throw new LineageError(
        "length",
        `a source of ${source.length} tokens does not fit the ${this.sourceCapacity} that the model reads; shorten it`,
      );
    if (ids.length === 0) throw new LineageError("argument", "a prompt needs at least one token");
    if (ids.length > this.capacity)
      throw new LineageError(
        "length",
        `a prompt of ${ids.length} tokens does not fit the ${this.capacity} tokens of the context; shorten it`,
      );
    this.checkIds(ids);
    if (source) this.checkIds(source);
  }

  private checkIds(ids: readonly number[]): void {
    const { vocabSize } = this;
    const wrong = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
    if (wrong !== undefined)
      throw new LineageError(
        "argument",
        `there is no token ${wrong}: the model's vocabulary has ${vocabSize}`,
      );
  }

  /** Throws `disposed` once the decoder has been disposed. */
  checkAlive(): void {
    if (this.disposed) throw new LineageError("disposed", "the decoder was used after it was disposed");
  }

  /** Makes a row hold as much of a prompt's beginning as any row has; the number of tokens. */
  private reuse(row: Row, prompt: readonly number[], text: readonly number[] | undefined): number {
    const { reachOf } = this.limits;
    const reach = reachOf(prompt.length);
    let [source, most] = [row, 0];
    for (const other of [row, ...this.rows]) {
      if (other.adapter !== row.adapter) continue;
      const common = other.common(prompt, reach, text);
      const whole = common === prompt.length && other.prompt?.length === common;
      // A last token alone would be added up otherwise than with others before it.
      const beginning = this.runs.readsBothWays ? 0 : Math.min(common, Math.max(0, prompt.length - 2));
      const kept = whole ? common : beginning;
      if (kept > most && other.holds(kept)) [source, most] = [other, kept];
    }
    this.makeRoom(row, most);
    for (const [group, { buffers }] of this.caches.entries())
      buffers.copy(this.line(source, 0), this.line(row, 0), most - source.starts[group]!);
    row.become(source.content, most);
    return most;
  }

  /** Sees to it that a row has cells for `length` tokens, by longer caches or by moving its window to the front. */
  private makeRoom(row: Row, length: number): void {
    for (const group of this.caches.keys()) this.makeRoomIn(group, row, length);
  }

  private makeRoomIn(group: number, row: Row, length: number): void {
    const { buffers, window, cells: most } = this.caches[group]!;
    const needed = length - row.starts[group]!;
    if (needed <= buffers.cells) return;
    if (buffers.cells < most) {
      const cells = Math.min(most, Math.max(needed, 2 * buffers.cells));
      const { beams } = this.limits;
      const shape = buffers.shapeOf(cells);
      requireMemory(
        buffers.bytesOf(cells),
        `the keys and values of ${shape[0]} x ${cells} tokens`,
        "choose a smaller capacity, or fewer slots",
      );
      this.runs.unbind();
      buffers.resize(cells, (line) => {
        const { beams: texts, starts } = this.rows[Math.floor(line / beams)]!;
        return Math.max(0, texts[line % beams]!.length - starts[group]!);
      });
      if (needed <= cells) return;
    }
    const used = row.used(group);
    const kept = Math.min(used, window - 1);
    for (let beam = 0; beam < this.beams; beam++) buffers.shift(this.line(row, beam), used - kept, kept);
    row.starts[group]! += used - kept;
  }

  /** Makes rows neighbours in the buffers with the fewest exchanges; the place of the first. */
  private bringTogether(rows: readonly Row[]): number {
    const count = rows.length;
    const outside = (first: number): Row[] =>
      rows.filter(({ place }) => place < first || place >= first + count);
    let [best, moves] = [0, outside(0)];
    for (let first = 1; first + count <= this.slots && moves.length > 0; first++) {
      const candidates = outside(first);
      if (candidates.length < moves.length) [best, moves] = [first, candidates];
    }
    const inside = this.rows.slice(best, best + count).filter((row) => !rows.includes(row));
    for (const [index, row] of moves.entries()) {
      const other = inside[index]!;
      for (let beam = 0; beam < this.beams; beam++)
        for (const [group, { buffers }] of this.caches.entries())
          buffers.swap(this.line(row, beam), this.line(other, beam), row.used(group), other.used(group));
      this.memory?.swap(row.place, other.place);
      [row.place, other.place] = [other.place, row.place];
      this.rows[row.place] = row;
      this.rows[other.place] = other;
    }
    return best;
  }

  /** Runs one row over `tokens` up to `end`, from where it is, chunk by chunk; the logits after the last `wanted` ones. */
  private async feed(
    row: Row,
    tokens: readonly number[],
    end: number,
    wanted: number,
    program: ProgramName,
    options: RunOptions,
  ): Promise<readonly Float32Array[]> {
    const most = {
      step: this.limits.chunk,
      reader: Math.min(this.limits.chunk, readerChunk),
      prefix: Infinity,
    }[program];
    let logits: readonly Float32Array[] = [];
    while (row.tokens.length < end) {
      const held = row.tokens.length;
      const rest = end - held;
      // No chunk of one token after others, which would be added up otherwise.
      const size = rest === most + 1 && most > 2 ? most - 1 : Math.min(rest, most);
      const part = tokens.slice(held, held + size);
      this.makeRoom(row, held + size);
      const feed = this.runs.rowFeed(size, size === rest ? Math.max(wanted, 1) : 1);
      feed.adapt(0, row.adapter);
      feed.inputIds.set(part);
      for (let i = 0; i < size; i++) feed.positionIds[i] = BigInt(held + i);
      const given = feed.lastRows.length;
      for (let i = 0; i < given; i++) feed.lastRows[i] = BigInt(size - given + i);
      for (const [group, { lastPosition, totalLength }] of feed.cells.entries()) {
        const used = held - (row.starts[group] ?? 0);
        lastPosition[0] = used + size - 1;
        totalLength[0] = used + size;
      }
      feed.length[0] = BigInt(tokens.length);
      await this.runs.read(row.place, feed, program, options);
      this.checkAlive();
      for (const token of part) row.add(token, this.limits.reachOf(tokens.length));
      logits = feed.logits;
    }
    return logits;
  }

  /** Work on the buffers, after all that was asked for before. */
  private async exclusive<T>(work: () => Promise<T>): Promise<T> {
    const before = this.last;
    let release!: () => void;
    this.last = new Promise((resolve) => (release = resolve));
    await before;
    try {
      this.checkAlive();
      this.working = true;
      return await work();
    } finally {
      this.working = false;
      if (this.disposed) this.free();
      release();
    }
  }

  private free(): void {
    if (this.freed) return;
    this.freed = true;
    this.runs.dispose();
    for (const { buffers } of this.caches) buffers.dispose();
    this.memory?.dispose();
  }

  /** What is running ends first; what was asked for and has not begun throws `disposed`. */
  dispose(): void {
    this.disposed = true;
    if (!this.working) this.free();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Rows of every layer and part beside one another, keys before values. @param parts by layer and part, `[count, size]` */
function joinedRows(count: number, parts: ReadonlyMap<string, Float32Array>): Float32Array {
  const size = parts.get("0.key")!.length / count;
  const rows = new Float32Array(count * parts.size * size);
  for (const [name, values] of parts) {
    const [layer, part] = name.split(".");
    const place = 2 * Number(layer) + (part === "key" ? 0 : 1);
    for (let row = 0; row < count; row++)
      rows.set(values.subarray(row * size, (row + 1) * size), (row * parts.size + place) * size);
  }
  return rows;
}

/** How many times as long as a window and a chunk a text has to be for layers with the window to have caches of their own. */
const worthWindows = 4;

/**
 * Layers by what their caches hold: all of them, or those that look back on everything and those that have a window. The latter
 * hold a window and a chunk, but a beginning that is let go cannot serve another prompt: in short contexts they hold all, too.
 */
function cacheGroups(
  model: GenerativeModel,
  capacity: number,
  chunk: number,
): { readonly layers: readonly number[]; readonly window: number; readonly cells: number }[] {
  const layers = Array.from({ length: decoderLayers(model) }, (_, layer) => layer);
  if (model instanceof EncoderDecoder) return [{ layers, window: Infinity, cells: capacity }];
  const all = cacheWindow(model.config);
  if (all !== undefined) return [{ layers, window: all, cells: Math.min(capacity, all - 1 + chunk) }];
  const { slidingWindow: window = Infinity } = model.config;
  const local = layers.filter((layer) => layerWindow(model.config, layer) !== undefined);
  const cells = window - 1 + chunk;
  if (local.length === 0 || worthWindows * cells > capacity)
    return [{ layers, window: Infinity, cells: capacity }];
  return [
    { layers: layers.filter((layer) => !local.includes(layer)), window: Infinity, cells: capacity },
    { layers: local, window, cells },
  ];
}
/** Of each token how many of its branch there are up to it. Throws `argument` for what is no tree. */
function depthsOf({ ids, parents, wanted }: Branches): number[] {
  const depths: number[] = [];
  for (const [token, parent] of parents.entries()) {
    if (!Number.isInteger(parent) || parent < -1 || parent >= token)
      throw new LineageError("argument", `token ${token} of the branches cannot come after token ${parent}`);
    depths.push(parent < 0 ? 1 : depths[parent]! + 1);
  }
  if (
    ids.length === 0 ||
    ids.length !== parents.length ||
    wanted.length === 0 ||
    wanted.some((token) => !(token in ids))
  )
    throw new LineageError(
      "argument",
      "branches need tokens with a parent each, and a wanted one among them",
    );
  return depths;
}

/** What is added to the score of a key that a query does not see. */
const hidden = -1e30;

/** The length of the text in the beams that go on. Throws `argument` unless they have one. */
function lengthOf({ row }: Slot, tokens: readonly (number | undefined)[]): number {
  const lengths = row.beams.flatMap(({ length }, beam) => (tokens[beam] === undefined ? [] : [length]));
  if (lengths.length === 0 || lengths.some((length) => length !== lengths[0]))
    throw new LineageError(
      "argument",
      `the beams of a slot go on together, from one length: they have ${lengths.join(", ")} tokens`,
    );
  return lengths[0]!;
}

/** Cells that caches begin with where they grow. */
const firstCells = 32;

/** Further ranks that a step tells: tokens that may not come are left out of them, such as the 28 that pad T5's embeddings. */
const spareRanks = 32;

/** Tokens from which on a run of the reader costs less than it saves. */
const readerPays = 16;

/** Tokens of one run of the reader: what it writes between two products then stays in the processor's caches. */
const readerChunk = 128;

/** The scales of an int8 cache, from a float32 one that has read some tokens, with each adapter and with none. */
async function measureScales(
  { model, weights, calibration }: DecoderOptions & { readonly model: CausalModel },
  capacity: number,
): Promise<CacheScales> {
  const random = new Random(0);
  const tokens =
    calibration?.slice(0, capacity) ??
    Array.from({ length: Math.min(256, capacity) }, () => random.integer(model.config.vocabSize));
  using decoder = await Decoder.create({ model, weights, capacity: tokens.length });
  const scales: Record<string, Float32Array> = {};
  for (const adapter of [undefined, ...decoder.adapters]) {
    using slot = decoder.open([], { adapter });
    await decoder.read(slot, tokens);
    for (const [name, values] of Object.entries(decoder.scales(slot, model.config.headSize)))
      scales[name] = scales[name]?.map((value, index) => Math.max(value, values[index]!)) ?? values;
  }
  return scales;
}
