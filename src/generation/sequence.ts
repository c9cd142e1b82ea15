import type { Random } from "../base/random.js";
import type { RunOptions } from "../runtime/types.js";
import { type Distribution, type SamplingOptions, distribution, draw, penalize } from "./sampling.js";
import type { Slot } from "./slot.js";

/** What a text must be: tells at every token which ones may come. */
export interface TokenConstraint {
  /** Sets the logits of all tokens that may not come to -Infinity. */
  restrict(logits: Float32Array): void | Promise<void>;
  /** Goes on by the token that came. */
  accept(id: number): void;
  /** Whether nothing may follow. */
  readonly finished: boolean;
}

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

/** Tokens guessed, and how many of them the model took. */
export interface Speculation {
  readonly drafted: number;
  readonly accepted: number;
}

/** Why a text ended: a stop id or a constraint, `maxNewTokens`, or a full context. */
export type FinishReason = "stop" | "length" | "context";

/** One text that is asked for. */
export interface SequenceRequest extends SamplingOptions {
  readonly prompt: readonly number[];
  readonly random: Random;
  readonly maxNewTokens?: number | undefined;
  readonly stopIds?: readonly number[] | undefined;
  readonly constraint?: TokenConstraint | undefined;
  readonly drafter?: Drafter | undefined;
  readonly draftLength?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Told every token, and why the text ended. */
  readonly emit: (event: SequenceEvent) => void;
}

/** A token of a text; in its last message why it ended. */
export interface SequenceEvent {
  readonly id?: number;
  readonly finish?: FinishReason;
  /** In the last message: tokens of the prompt that were in the cache already. */
  readonly reusedTokens?: number;
  /** In the last message of a text with a drafter. */
  readonly speculation?: Speculation;
}

const nothing: Draft = { ids: [] };

/**
 * A text on its way: draws tokens from the logits that it is given, and says what the next run takes. It does not know of
 * caches and of other texts.
 */
export class Sequence {
  slot: Slot | undefined;
  /** Whether the slot holds what the caches had of the prompt's beginning, and whether there is more of it to read. */
  begun = false;
  reading = true;
  ended = false;
  /** What it failed with. */
  error: unknown = undefined;
  private readonly generated: number[] = [];
  private draft = nothing;
  private drafted = 0;
  private accepted = 0;

  constructor(
    readonly request: SequenceRequest,
    /** Tokens that a slot holds, and that one run takes. */
    private readonly limits: { readonly capacity: number; readonly chunk: number },
  ) {
    if ((request.maxNewTokens ?? Infinity) <= 0) this.finish("length");
  }

  /** Tokens of the prompt that were in the cache already. */
  get reusedTokens(): number {
    return this.slot?.reused ?? 0;
  }

  /** Tokens that lie in the cache when those of `next` have not been run. */
  get length(): number {
    return this.request.prompt.length + this.generated.length - 1;
  }

  /** The tokens of the next run: the last one that was written, and guesses at those after it. */
  async next(): Promise<readonly number[]> {
    const { prompt, drafter, draftLength = 5, maxNewTokens = Infinity } = this.request;
    const { generated } = this;
    const room = this.limits.capacity - prompt.length - generated.length;
    const count = Math.min(draftLength, room, maxNewTokens - generated.length - 1, this.limits.chunk - 1);
    this.draft =
      drafter && count > 0 ? await drafter.draft({ prompt, generated }, count, this.request) : nothing;
    return [generated.at(-1)!, ...this.draft.ids];
  }

  /** Goes on by the logits after each token of `next`, or after the prompt. */
  async take(logits: readonly Float32Array[]): Promise<void> {
    const { random, constraint, stopIds = [] } = this.request;
    const { ids, distributions } = this.draft;
    const fresh: number[] = [];
    for (const [place, scores] of logits.entries()) {
      const target = await this.wanted(scores, fresh);
      const guess = ids[place];
      let id: number;
      let right = false;
      if (guess === undefined) id = draw(target, random);
      else {
        const from = distributions?.[place];
        const [chance, likelihood] = [probabilityOf(target, guess), from ? probabilityOf(from, guess) : 1];
        right = random.uniform() * likelihood < chance;
        id = right ? guess : draw(without(target, from ?? certain(guess)), random);
      }
      fresh.push(id);
      constraint?.accept(id);
      if (right) this.accepted++;
      if (!right || stopIds.includes(id) || constraint?.finished) break;
    }
    this.drafted += ids.length;
    this.draft = nothing;
    this.write(fresh);
  }

  /** Ends the text with an error. */
  fail(error: unknown): void {
    if (this.ended) return;
    this.ended = true;
    this.error = error;
  }

  private write(fresh: readonly number[]): void {
    const { prompt, constraint, stopIds = [], maxNewTokens = Infinity, emit } = this.request;
    const { generated } = this;
    for (const [place, id] of fresh.entries()) {
      if (stopIds.includes(id)) {
        this.finish("stop");
        return;
      }
      generated.push(id);
      emit({ id });
      // A constraint has gone on to the last token that was taken.
      if (place === fresh.length - 1 && constraint?.finished) this.finish("stop");
      else if (generated.length >= maxNewTokens) this.finish("length");
      else if (prompt.length + generated.length > this.limits.capacity) this.finish("context");
      if (this.ended) return;
    }
  }

  private finish(finish: FinishReason): void {
    const { drafter, emit } = this.request;
    this.ended = true;
    const { drafted, accepted } = this;
    emit({
      finish,
      reusedTokens: this.reusedTokens,
      ...(drafter && { speculation: { drafted, accepted } }),
    });
  }

  /** What the next token is drawn from. */
  private async wanted(logits: Float32Array, fresh: readonly number[]): Promise<Distribution> {
    const { prompt, constraint } = this.request;
    const generated = fresh.length === 0 ? this.generated : [...this.generated, ...fresh];
    penalize(logits, prompt, generated, this.request);
    await constraint?.restrict(logits);
    return distribution(logits, this.request);
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
