import { LineageError } from "../base/errors.js";
import {
  type Branches,
  type Decoder,
  type Slot,
  type TextWriter,
  commonLength,
} from "../generation/index.js";
import { type Tokenizer, beginSequence } from "../tokenizers/index.js";

/** What a model is asked about: how likely the continuation is after the context. */
export interface Continuation {
  readonly context: string;
  readonly continuation: string;
}

export interface Likelihood {
  /** Logarithm of the probability of the continuation, in nats. */
  readonly sum: number;
  /** Tokens of the continuation. */
  readonly tokens: number;
  /** Whether every token of it is the likeliest one. */
  readonly greedy: boolean;
}

/** Ids after a context, which has at least one. */
export interface Target {
  /** What an encoder-decoder reads. */
  readonly source?: readonly number[] | undefined;
  readonly context: readonly number[];
  readonly target: readonly number[];
}

/** The token that a text without a context comes after; undefined where the tokenizer has none. */
export const prefixToken = ({ promptId, bosId, eosId, endOfTextId }: Tokenizer): number | undefined =>
  promptId ?? bosId ?? eosId ?? endOfTextId;

/**
 * Ids as EleutherAI's lm-evaluation-harness cuts them: spaces at the end of the context belong to the continuation, both are
 * encoded together, and the ids beyond the context's own are the continuation's. After an empty context comes the token that
 * begins a text. Throws `argument` for a continuation without a token, and for an empty context where there is no such token.
 */
export function encodePair(tokenizer: Tokenizer, { context, continuation }: Continuation): Target {
  const encode = (text: string): number[] => beginSequence(tokenizer, tokenizer.encode(text));
  const before = context.trimEnd();
  const rest = context.slice(before.length) + continuation;
  const prefix = prefixToken(tokenizer);
  if (before === "" && prefix === undefined)
    throw new LineageError(
      "argument",
      "the prompt is empty, and this tokenizer has no token that a text begins with",
    );
  const start = before === "" ? [prefix!] : encode(before);
  const whole = encode(before + rest);
  const target = before === "" ? whole.slice(whole[0] === prefix ? 1 : 0) : whole.slice(start.length);
  if (target.length === 0)
    throw new LineageError("argument", `the continuation ${JSON.stringify(continuation)} has no token`);
  return { context: start, target };
}

/**
 * Ids for an encoder-decoder, as the harness cuts them: the context with the tokenizer's special tokens is the source, and the
 * continuation is encoded alone.
 * @param begin what a text of the model begins with
 */
export function encodeSourcePair(
  tokenizer: Tokenizer,
  { context, continuation }: Continuation,
  begin: readonly number[],
): Target {
  const before = context.trimEnd();
  const target = tokenizer.encode(context.slice(before.length) + continuation);
  const prefix = prefixToken(tokenizer);
  if (before === "" && prefix === undefined)
    throw new LineageError(
      "argument",
      "the prompt is empty, and this tokenizer has no token that a text begins with",
    );
  if (target.length === 0)
    throw new LineageError("argument", `the continuation ${JSON.stringify(continuation)} has no token`);
  return { source: before === "" ? [prefix!] : tokenizer.encodePair(before).ids, context: begin, target };
}

/** Tokens that do not fit: what a model of `capacity` positions cannot read before the target's last token. */
export const beyond = ({ source = [], context, target }: Target, capacity: number): number =>
  Math.max(0, context.length + target.length - 1 - capacity, source.length - capacity);

/** The end of a context that leaves room for its target. Throws `length` for a target that alone is too long. */
export function leftTruncated(asked: Target, capacity: number): Target {
  const cut = beyond(asked, capacity);
  const { source } = asked;
  if (source && asked.context.length + asked.target.length - 1 <= capacity)
    return { ...asked, source: source.slice(cut) };
  if (cut >= asked.context.length)
    throw new LineageError(
      "length",
      `a continuation of ${asked.target.length} tokens does not fit the context of ${capacity}`,
    );
  return { context: asked.context.slice(cut), target: asked.target };
}

/** Numbers of logits that one run may give: they are copied out of the engine. */
const logitsOfRun = 2 ** 23;

/** Tokens of one run: more of them see more of each other in vain, fewer leave the engine's products small. */
const tokensOfRun = 192;

/** What is read for a target: its context and all of it but the last token, after which nothing is asked. */
interface Reading {
  readonly ids: readonly number[];
  /** Ids of the context. */
  readonly begin: number;
  readonly target: readonly number[];
  readonly place: number;
}

/** Readings that are read together, after the `held` ids that they begin with. */
interface Batch {
  readonly held: number;
  readonly readings: readonly Reading[];
}

/** Readings as a tree, in which what they begin with alike stands once. */
interface Tree extends Branches {
  /** Of each reading, where its tokens stand. */
  readonly paths: readonly (readonly number[])[];
}

export interface LikelihoodOptions {
  readonly signal?: AbortSignal | undefined;
  /** Is told of each as it is known; the order is not that of the targets. */
  readonly scored?: ((place: number, likelihood: Likelihood) => void | Promise<void>) | undefined;
}

/**
 * How likely each target is, in their order. They are read in the order of their ids, so that what several of them begin with,
 * such as the examples of a few-shot prompt, is read once. What follows is read for as many of them at a time as make up a run
 * of a good length. Sources of an encoder-decoder are read once each, as many together as the decoder has slots.
 */
export async function targetLikelihoods(
  decoder: Decoder,
  asked: readonly Target[],
  options: LikelihoodOptions = {},
): Promise<Likelihood[]> {
  if (decoder.readsSources) return sourceLikelihoods(decoder, asked, options);
  const { signal, scored } = options;
  const results = new Array<Likelihood>(asked.length);
  const add = async ({ place }: Reading, likelihood: Likelihood): Promise<void> => {
    results[place] = likelihood;
    await scored?.(place, likelihood);
  };
  const rows = Math.max(1, Math.floor(logitsOfRun / decoder.vocabSize));
  const most = {
    tokens: Math.min(tokensOfRun, decoder.chunk),
    rows,
    contexts: decoder.readsBothWays ? (1 as const) : undefined,
  };
  for (const { held, readings } of batchesOf(asked, most)) {
    signal?.throwIfAborted();
    const [first] = readings as [Reading];
    const { ids } = first;
    using slot = decoder.open(ids.slice(0, held));
    // Of one context, the last id is read with those before it.
    const alike = readings.every(({ begin, ids: own }) => begin - 1 === held && own[held] === ids[held]);
    const known = alike ? held + 1 : held;
    const tree = treeOf(readings, known);
    if (tree.ids.length > decoder.chunk || tree.wanted.length > rows) {
      await add(first, await follow(decoder, slot, first, rows));
      continue;
    }
    let start: Distribution | undefined;
    if (known === 0) decoder.truncate(slot, 0);
    else {
      const logits = await decoder.read(slot, ids.slice(0, known), { signal });
      // The next run overwrites them.
      if (alike) start = new Distribution(logits.slice());
    }
    const logits = tree.ids.length === 0 ? [] : await decoder.branch(slot, tree, { signal });
    const after = new Map(logits.map((each, index) => [tree.wanted[index]!, new Distribution(each)]));
    for (const [index, reading] of readings.entries()) {
      const own = tree.paths[index]!.slice(Math.max(0, reading.begin - 1 - known)).map((token) =>
        after.get(token)!,
      );
      const all = start ? [start, ...own] : own;
      await add(reading, together(all.map((each, position) => each.of(reading.target[position]!))));
    }
  }
  return results;
}

/** Targets of one source, those with the same beginning beside each other. */
interface Sourced {
  readonly source: readonly number[];
  readonly readings: readonly Reading[];
}

/** Sources in the order of their lengths, so that those that are read together are about as long. */
function bySource(asked: readonly Target[]): Sourced[] {
  const groups = new Map<string, { source: readonly number[]; readings: Reading[] }>();
  for (const [place, { source = [], context, target }] of asked.entries()) {
    const reading = { ids: [...context, ...target.slice(0, -1)], begin: context.length, target, place };
    const key = source.join();
    const group = groups.get(key);
    if (group) group.readings.push(reading);
    else groups.set(key, { source, readings: [reading] });
  }
  for (const { readings } of groups.values()) readings.sort((a, b) => compareIds(a.ids, b.ids));
  return [...groups.values()].sort((a, b) => a.source.length - b.source.length);
}

/** Of each source the targets one after the other, side by side with those of other sources. */
async function sourceLikelihoods(
  decoder: Decoder,
  asked: readonly Target[],
  { signal, scored }: LikelihoodOptions,
): Promise<Likelihood[]> {
  const results = new Array<Likelihood>(asked.length);
  const groups = bySource(asked);
  const side = decoder.freeSlots;
  for (let start = 0; start < groups.length; start += side) {
    signal?.throwIfAborted();
    const lines = groups.slice(start, start + side).map(({ source, readings }) => {
      const ids = readings[0]!.ids.slice(0, 1);
      // What comes after each token that the slot holds.
      const after: Distribution[] = [];
      return { source, readings, ids, after, slot: decoder.open({ source, begin: ids }) };
    });
    try {
      await decoder.begin(lines, { signal });
      for (const { slot } of lines) decoder.truncate(slot, 0);
      const rounds = Math.max(...lines.map(({ readings }) => readings.length));
      for (let round = 0; round < rounds; round++) {
        const open = lines.flatMap(({ readings, ...line }) => {
          const reading = readings[round];
          return reading ? [{ ...line, reading, before: readings[round - 1] }] : [];
        });
        for (const { slot, after, reading, before } of open) {
          after.length = before ? commonLength(before.ids, reading.ids) : 0;
          decoder.truncate(slot, after.length);
        }
        for (;;) {
          const going = open.filter(({ after, reading }) => after.length < reading.ids.length);
          if (going.length === 0) break;
          if (going.length === 1) {
            // Alone, its tokens are read at once.
            const [{ slot, after, reading }] = going as [(typeof going)[number]];
            const rest = reading.ids.slice(after.length, after.length + decoder.chunk);
            for (const logits of await decoder.extend(slot, rest, { signal }))
              after.push(new Distribution(logits.slice()));
            continue;
          }
          const logits = await decoder.step(
            going.map(({ slot }) => slot),
            going.map(({ after, reading }) => reading.ids[after.length]!),
            { signal },
          );
          // The next run overwrites them.
          for (const [index, { after }] of going.entries())
            after.push(new Distribution(logits[index]!.slice()));
        }
        for (const { after, reading } of open) {
          const { begin, target, place } = reading;
          const likelihood = together(target.map((id, index) => after[begin - 1 + index]!.of(id)));
          results[place] = likelihood;
          await scored?.(place, likelihood);
        }
      }
    } finally {
      for (const { slot } of lines) slot.close();
    }
  }
  return results;
}

const together = (each: readonly Pick<Likelihood, "sum" | "greedy">[]): Likelihood => ({
  sum: each.reduce((total, { sum }) => total + sum, 0),
  greedy: each.every(({ greedy }) => greedy),
  tokens: each.length,
});

/** A target of more tokens than one run takes. */
async function follow(
  decoder: Decoder,
  slot: Slot,
  { ids, begin, target }: Reading,
  rows: number,
): Promise<Likelihood> {
  const logits = await decoder.read(slot, ids.slice(0, begin));
  const each = [new Distribution(logits).of(target[0]!)];
  const most = Math.min(decoder.chunk, Math.max(8, rows));
  for (let start = 0; start < target.length - 1; start += most) {
    const end = Math.min(start + most, target.length - 1);
    const rows = await decoder.extend(slot, target.slice(start, end));
    for (const [index, after] of rows.entries())
      each.push(new Distribution(after).of(target[start + index + 1]!));
  }
  return together(each);
}

/** What comes next, by its logits. */
class Distribution {
  private readonly largest: number;
  private readonly total: number;

  constructor(private readonly logits: Float32Array) {
    let largest = -Infinity;
    for (const value of logits) if (value > largest) largest = value;
    let total = 0;
    for (const value of logits) total += Math.exp(value - largest);
    this.largest = largest;
    this.total = Math.log(total);
  }

  of(id: number): Pick<Likelihood, "sum" | "greedy"> {
    const value = this.logits[id]!;
    return { sum: value - this.largest - this.total, greedy: value === this.largest };
  }
}

/**
 * What is read together. Sorted by their ids, neighbours have most in common, and a batch is a run of neighbours: what all of
 * it begins with is held, and the rest of them, each beginning counted once, is as many tokens as one run takes.
 */
export function batchesOf(
  asked: readonly Target[],
  most: { readonly tokens: number; readonly rows: number; readonly contexts?: 1 | undefined },
): Batch[] {
  const sorted = asked
    .map(({ context, target }, place) => ({
      ids: [...context, ...target.slice(0, -1)],
      begin: context.length,
      target,
      place,
    }))
    .sort((a, b) => compareIds(a.ids, b.ids));
  const batches: Batch[] = [];
  for (let start = 0; start < sorted.length;) {
    let [held, end] = [sorted[start]!.begin - 1, start + 1];
    // Of each reading, the ids that the one before it in the batch begins with as well.
    const shared: number[] = [0];
    for (; end < sorted.length; end++) {
      const next = sorted[end]!;
      const [first, before] = [sorted[start]!, sorted[end - 1]!];
      const common = commonLength(before.ids, next.ids);
      // A context that is read both ways is no beginning of another.
      if (most.contexts === 1 && (first.begin !== next.begin || common < next.begin)) break;
      const less = Math.min(held, common, next.begin - 1);
      let tokens = 0;
      let rows = 0;
      for (const [index, alike] of [...shared, common].entries()) {
        const { ids, begin } = sorted[start + index]!;
        tokens += ids.length - Math.max(less, alike);
        rows += ids.length - Math.min(ids.length, Math.max(begin - 1, alike));
      }
      if (tokens > most.tokens || rows > most.rows) break;
      shared.push(common);
      held = less;
    }
    batches.push({ held, readings: sorted.slice(start, end) });
    start = end;
  }
  return batches;
}

function treeOf(readings: readonly Reading[], held: number): Tree {
  const ids: number[] = [];
  const parents: number[] = [];
  const wanted = new Set<number>();
  const paths: number[][] = [];
  let before: Reading | undefined;
  for (const reading of readings) {
    const common = before ? commonLength(before.ids, reading.ids) - held : 0;
    const path = paths.at(-1)?.slice(0, Math.max(0, common)) ?? [];
    for (const id of reading.ids.slice(held + path.length)) {
      parents.push(path.at(-1) ?? -1);
      path.push(ids.push(id) - 1);
    }
    for (const token of path.slice(Math.max(0, reading.begin - 1 - held))) wanted.add(token);
    paths.push(path);
    before = reading;
  }
  return { ids, parents, wanted: [...wanted].sort((a, b) => a - b), paths };
}

function compareIds(a: readonly number[], b: readonly number[]): number {
  const shorter = Math.min(a.length, b.length);
  for (let index = 0; index < shorter; index++) if (a[index] !== b[index]) return a[index]! - b[index]!;
  return a.length - b.length;
}

/**
 * How likely each continuation is after its context, as lm-evaluation-harness's `loglikelihood` computes it.
 *
 *     const [paris, rome] = await logLikelihoods(writer, [
 *       { context: "The capital of France is", continuation: " Paris" },
 *       { context: "The capital of France is", continuation: " Rome" },
 *     ]);
 *
 * Throws `length` for a pair that the decoder cannot hold.
 */
export async function logLikelihoods(
  { decoder, tokenizer }: TextWriter,
  pairs: readonly Continuation[],
  options: { signal?: AbortSignal | undefined } = {},
): Promise<Likelihood[]> {
  const asked = pairs.map((pair) => encodePair(tokenizer, pair));
  for (const target of asked) {
    const more = beyond(target, decoder.capacity);
    if (more > 0)
      throw new LineageError(
        "length",
        `a prompt has ${more} tokens more than the context of ${decoder.capacity}; shorten it`,
      );
  }
  return targetLikelihoods(decoder, asked, options);
}

/**
 * The windows by which a text longer than the context is read: every token is predicted once, and each window but the first
 * reads at least `overlap` tokens before its own. With an overlap of 1 they are those of lm-evaluation-harness.
 * @param prefix the token that the text comes after; without one its first token is not predicted
 */
export function rollingWindows(
  ids: readonly number[],
  prefix: number | undefined,
  capacity: number,
  overlap = 1,
): Target[] {
  if (!Number.isInteger(overlap) || overlap < 1 || overlap >= capacity)
    throw new LineageError(
      "argument",
      `the overlap of windows must be from 1 to ${capacity - 1}, not ${overlap}`,
    );
  const all = prefix === undefined ? ids : [prefix, ...ids];
  const windows: Target[] = [];
  for (let done = 1; done < all.length;) {
    const end = Math.min(all.length, done === 1 ? capacity + 1 : done + capacity - overlap + 1);
    windows.push({ context: all.slice(Math.max(0, end - 1 - capacity), done), target: all.slice(done, end) });
    done = end;
  }
  return windows;
}
