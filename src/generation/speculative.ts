import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
import type { RunOptions } from "../runtime/types.js";
import type { Decoder } from "./decoder.js";
import type { FinishReason, GenerateOptions, GeneratedToken } from "./generate.js";
import {
  type Distribution,
  type SamplingOptions,
  checkSampling,
  distribution,
  draw,
  penalize,
} from "./sampling.js";

/** A guess at the next tokens of a text. */
export interface Draft {
  readonly ids: readonly number[];
  /** What each of them was drawn from. Default: nothing else could have come. */
  readonly distributions?: readonly Distribution[];
}

/** Whoever guesses. */
export interface Drafter {
  /**
   * At most `count` tokens that may come after `prompt` and `generated`, of which one or both may be read and neither
   * changed.
   */
  draft(
    text: { readonly prompt: readonly number[]; readonly generated: readonly number[] },
    count: number,
    options: SamplingOptions & RunOptions & { readonly random: Random },
  ): Promise<Draft>;
}

/**
 * Guesses that what came after the last few tokens before comes again: free, and right where a text repeats its input
 * (summaries, code, questions about a document). Saxena 2023, "Prompt Lookup Decoding".
 */
export function promptLookup({ longest = 3, shortest = 1 } = {}): Drafter {
  return {
    draft: ({ prompt, generated }, count) => {
      const text = [...prompt, ...generated];
      for (let size = Math.min(longest, text.length - 1); size >= shortest; size--) {
        const tail = text.length - size;
        // The latest place counts: a text is most like what it has just been.
        for (let start = tail - 1; start >= 0; start--) {
          let same = 0;
          while (same < size && text[start + same] === text[tail + same]) same++;
          if (same === size) return Promise.resolve({ ids: text.slice(start + size, start + size + count) });
        }
      }
      return Promise.resolve({ ids: [] });
    },
  };
}

/** Guesses with a smaller model of the same vocabulary, Leviathan et al. 2023. The decoder has one row and is the drafter's own. */
export function modelDrafter(decoder: Decoder): Drafter {
  return {
    draft: async ({ prompt, generated }, count, { random, signal, ...options }) => {
      const text = [...prompt, ...generated];
      const room = Math.min(count, decoder.capacity - text.length);
      const ids: number[] = [];
      const distributions: Distribution[] = [];
      while (ids.length < room) {
        const [logits] =
          ids.length === 0
            ? await decoder.prefill([text], { signal })
            : await decoder.step([ids.at(-1)!], { signal });
        penalize(logits!, prompt, [...generated, ...ids], options);
        const guess = distribution(logits!, options);
        distributions.push(guess);
        ids.push(draw(guess, random));
      }
      return { ids, distributions };
    },
  };
}

export interface SpeculativeOptions extends GenerateOptions {
  /** Tokens to guess at once, at most. Default 5. */
  readonly draftLength?: number;
}

export interface SpeculativeToken extends GeneratedToken {
  /** In the last message: tokens guessed, and how many of them the model took. */
  readonly speculation?: { readonly drafted: number; readonly accepted: number };
}

/**
 * Continues one prompt as `generate` does, with the same distribution of texts and, at temperature 0, the same text: every
 * token that a drafter guesses is checked, all of them in one run of the model. Leviathan et al. 2023, "Fast Inference from
 * Transformers via Speculative Decoding", algorithm 1. A constraint restricts what guesses are checked against: one that it
 * forbids has no chance, and what replaces it is drawn from what the constraint leaves.
 *
 * With weights in 4 bits the engine rounds what it multiplies them with otherwise for one row than for several, so that a
 * near tie may fall otherwise than in `generate`; in float32 both compute the same.
 */
export async function* generateSpeculatively(
  decoder: Decoder,
  prompt: readonly number[],
  drafter: Drafter,
  options: SpeculativeOptions = {},
): AsyncGenerator<SpeculativeToken> {
  checkSampling(options);
  const { maxNewTokens = Infinity, stopIds = [], seed = 0, constraints, signal, draftLength = 5 } = options;
  const [constraint] = constraints ?? [];
  if (decoder.batch !== 1)
    throw new LineageError(
      "argument",
      `speculative decoding needs a decoder of one row, not ${decoder.batch}`,
    );
  if (!Number.isInteger(draftLength) || draftLength < 1)
    throw new LineageError(
      "argument",
      `draftLength must be a whole number of at least 1, not ${draftLength}`,
    );
  const random = new Random(seed);
  const generated: number[] = [];
  let drafted = 0;
  let accepted = 0;
  /** What the next token is drawn from, after those that have been taken. */
  const wanted = async (logits: Float32Array): Promise<Distribution> => {
    penalize(logits, prompt, generated, options);
    await constraint?.restrict(logits);
    return distribution(logits, options);
  };
  /** Whether nothing can come after a token that has been taken. */
  const take = (id: number): boolean => {
    constraint?.accept(id);
    return stopIds.includes(id) || constraint?.finished === true;
  };
  /** Why the text ends with what has just been written, if it does. */
  const ending = (id: number, last: boolean): FinishReason | undefined => {
    if (stopIds.includes(id)) return "stop";
    generated.push(id);
    // A constraint has gone on to the last token that was taken.
    if (last && constraint?.finished) return "stop";
    if (generated.length >= maxNewTokens) return "length";
    return prompt.length + generated.length > decoder.capacity ? "context" : undefined;
  };

  let next = [draw(await wanted((await decoder.prefill([prompt], { signal }))[0]!), random)];
  take(next[0]!);
  for (;;) {
    for (const [place, id] of next.entries()) {
      const finish = ending(id, place === next.length - 1);
      if (!stopIds.includes(id)) yield { row: 0, id };
      if (finish) {
        yield { row: 0, finish, speculation: { drafted, accepted } };
        return;
      }
    }
    signal?.throwIfAborted();
    // The last token is not in the cache yet; the model reads it together with what may come after it.
    const room = decoder.capacity - prompt.length - generated.length;
    const count = Math.min(draftLength, room, maxNewTokens - generated.length - 1);
    const draft: Draft =
      count > 0
        ? await drafter.draft({ prompt, generated }, count, { ...options, random, signal })
        : { ids: [] };
    const logits = await decoder.extend(0, [generated.at(-1)!, ...draft.ids], { signal });
    next = [];
    const written = generated.length;
    for (const [place, scores] of logits.entries()) {
      const target = await wanted(scores);
      const guess = draft.ids[place];
      if (guess === undefined) {
        next.push(draw(target, random));
        take(next.at(-1)!);
        break;
      }
      const from = draft.distributions?.[place];
      const [chance, likelihood] = [probabilityOf(target, guess), from ? probabilityOf(from, guess) : 1];
      if (random.uniform() * likelihood < chance) {
        next.push(guess);
        // Penalties of the next place count it; `ending` writes it for good.
        generated.push(guess);
        if (take(guess)) break;
        continue;
      }
      next.push(draw(without(target, from ?? certain(guess)), random));
      take(next.at(-1)!);
      break;
    }
    drafted += draft.ids.length;
    accepted += generated.length - written;
    generated.length = written;
    decoder.truncate(0, prompt.length + written + next.length - 1);
  }
}

const certain = (id: number): Distribution => ({
  ids: Uint32Array.of(id),
  probabilities: Float64Array.of(1),
});

function probabilityOf({ ids, probabilities }: Distribution, id: number): number {
  // A distribution over the whole vocabulary is in its order.
  const place = ids[id] === id ? id : ids.indexOf(id);
  return place < 0 ? 0 : probabilities[place]!;
}

/** What is left of `target` where it exceeds `from`, scaled to sum to 1: what a refused guess is replaced from. */
function without(target: Distribution, from: Distribution): Distribution {
  const taken = new Map<number, number>();
  from.ids.forEach((id, index) => taken.set(id, from.probabilities[index]!));
  let total = 0;
  const rest = target.probabilities.map((probability, index) => {
    const left = Math.max(0, probability - (taken.get(target.ids[index]!) ?? 0));
    total += left;
    return left;
  });
  // Equal distributions leave nothing but rounding, and refuse nothing but for rounding.
  return total > 0 ? { ids: target.ids, probabilities: rest.map((left) => left / total) } : target;
}
