import { LineageError } from "../base/errors.js";
import type { Decoder, Slot, TextWriter } from "../generation/index.js";
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

/** Tokens that do not fit: what a model of `capacity` positions cannot read before the target's last token. */
export const beyond = ({ context, target }: Target, capacity: number): number =>
  Math.max(0, context.length + target.length - 1 - capacity);

/** The end of a context that leaves room for its target. Throws `length` for a target that alone is too long. */
export function leftTruncated(asked: Target, capacity: number): Target {
  const cut = beyond(asked, capacity);
  if (cut >= asked.context.length)
    throw new LineageError(
      "length",
      `a continuation of ${asked.target.length} tokens does not fit the context of ${capacity}`,
    );
  return { context: asked.context.slice(cut), target: asked.target };
}

/** Targets of one context, which is read once. */
interface Group {
  readonly context: readonly number[];
  readonly members: { readonly target: readonly number[]; readonly place: number }[];
}

/** Numbers of logits that one run may give: they are copied out of the engine. */
const logitsOfRun = 2 ** 23;

/**
 * How likely each target is, in their order. Contexts are read in the order of their ids, so that what several of them begin
 * with is read once; targets of one context share it whole.
 * @param scored is told of each as it is known
 */
export async function targetLikelihoods(
  decoder: Decoder,
  asked: readonly Target[],
  {
    signal,
    scored,
  }: {
    signal?: AbortSignal | undefined;
    scored?: (place: number, likelihood: Likelihood) => void | Promise<void>;
  } = {},
): Promise<Likelihood[]> {
  const results = new Array<Likelihood>(asked.length);
  for (const group of inOrder(asked)) {
    signal?.throwIfAborted();
    using slot = decoder.open(group.context);
    const logits = await decoder.read(slot, group.context);
    const firsts = new Distribution(logits);
    // The next run overwrites the logits.
    const begun = group.members.map(({ target }) => firsts.of(target[0]!));
    for (const [index, { target, place }] of group.members.entries()) {
      const likelihood =
        target.length === 1
          ? { ...begun[index]!, tokens: 1 }
          : await follow(decoder, slot, group.context, target, begun[index]!);
      results[place] = likelihood;
      await scored?.(place, likelihood);
    }
  }
  return results;
}

/** A target of several tokens, from the likelihood of its first. */
async function follow(
  decoder: Decoder,
  slot: Slot,
  context: readonly number[],
  target: readonly number[],
  first: Pick<Likelihood, "sum" | "greedy">,
): Promise<Likelihood> {
  // Another target of the same context may have been read since; where the slot still holds the context, this costs nothing.
  if (slot.length !== context.length) await decoder.read(slot, context);
  let { sum, greedy } = first;
  const most = Math.min(decoder.chunk, Math.max(8, Math.floor(logitsOfRun / decoder.vocabSize)));
  for (let start = 0; start < target.length - 1; start += most) {
    const end = Math.min(start + most, target.length - 1);
    const rows = await decoder.extend(slot, target.slice(start, end));
    for (const [index, logits] of rows.entries()) {
      const next = new Distribution(logits).of(target[start + index + 1]!);
      sum += next.sum;
      greedy &&= next.greedy;
    }
  }
  return { sum, greedy, tokens: target.length };
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

/** Contexts by their ids, so that neighbours share the longest beginnings. */
function inOrder(asked: readonly Target[]): Group[] {
  const byContext = new Map<string, Group>();
  for (const [place, { context, target }] of asked.entries()) {
    const key = context.join();
    const group = byContext.get(key) ?? { context, members: [] };
    group.members.push({ target, place });
    byContext.set(key, group);
  }
  return [...byContext.values()].sort((a, b) => compareIds(a.context, b.context));
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
