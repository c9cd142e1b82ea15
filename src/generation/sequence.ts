import type { Random } from "../base/random.js";
import type { RunOptions } from "../runtime/types.js";
import type { Decoder, Scores } from "./decoder.js";
import { type Allowed, type RuleOptions, allowedAfter, countBanned, mayCome, restrictTo } from "./rules.js";
import {
  type Distribution,
  type SamplingOptions,
  distribution,
  draw,
  penalize,
  penalizesNothing,
  rankedDistribution,
  sample,
} from "./sampling.js";
import { type NextRun, Writing, type WritingRequest } from "./writing.js";

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

/** What has been written, and with an encoder-decoder what it is about. */
export interface DraftedText {
  readonly prompt: readonly number[];
  readonly generated: readonly number[];
  readonly source?: readonly number[] | undefined;
}

/** Whoever guesses. */
export interface Drafter {
  /**
   * At most `count` tokens that may come after `prompt` and `generated`, of which one or both may be read and neither
   * changed.
   */
  draft(
    text: DraftedText,
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
export interface SequenceRequest extends WritingRequest, SamplingOptions, RuleOptions {
  readonly random: Random;
  readonly maxNewTokens?: number | undefined;
  readonly stopIds?: readonly number[] | undefined;
  readonly constraint?: TokenConstraint | undefined;
  readonly drafter?: Drafter | undefined;
  readonly draftLength?: number | undefined;
  /** Told every token, and why the text ended. */
  readonly emit: (event: SequenceEvent) => void;
}

/** A token of a text; in its last message why it ended. */
export interface SequenceEvent {
  readonly id?: number;
  readonly finish?: FinishReason;
  /** In the last message of a text that a stop id ended: which. */
  readonly stopId?: number;
  /** In the last message: tokens of the prompt that were in the cache already. */
  readonly reusedTokens?: number;
  /** In the last message of a text with a drafter. */
  readonly speculation?: Speculation;
}

const nothing: Draft = { ids: [] };

/** A text whose tokens are drawn one after the other. */
export class Sequence extends Writing {
  private readonly generated: number[] = [];
  private draft = nothing;
  private drafted = 0;
  private accepted = 0;
  /** What may come next, once it has been looked up for the next run. */
  private allowed: Allowed | undefined;

  constructor(
    override readonly request: SequenceRequest,
    private readonly decoder: Pick<Decoder, "capacity" | "chunk" | "ranked" | "vocabSize" | "whole">,
  ) {
    super(request, decoder);
    if ((request.maxNewTokens ?? Infinity) <= 0) this.finish("length");
  }

  /** Tokens of the prompt that were in the cache already. */
  get reusedTokens(): number {
    return this.slot?.reused ?? 0;
  }

  override get length(): number {
    return this.ids.length + this.generated.length - 1;
  }

  /** The tokens of the next run: the last one that was written, and guesses at those after it. */
  override async next(): Promise<NextRun> {
    const { drafter, draftLength = 5, maxNewTokens = Infinity } = this.request;
    const { ids, source, generated, decoder } = this;
    const room = decoder.capacity - ids.length - generated.length;
    const count = Math.min(draftLength, room, maxNewTokens - generated.length - 1, decoder.chunk - 1);
    this.draft =
      drafter && count > 0
        ? await drafter.draft({ prompt: ids, generated, source }, count, this.request)
        : nothing;
    this.allowed = this.allowedAfter(generated);
    return {
      tokens: [generated.at(-1) ?? ids.at(-1)!],
      guesses: this.draft.ids,
      ranked: this.draft.ids.length === 0 && this.ranksSuffice(this.allowed),
    };
  }

  /** Whether the next token can be drawn from the likeliest ones alone. */
  private ranksSuffice(allowed: Allowed): boolean {
    const { request, decoder } = this;
    const { temperature = 1, topK = Infinity, constraint } = request;
    if (constraint || !penalizesNothing(request)) return false;
    const needed = (temperature === 0 ? 1 : topK) + countBanned(allowed, decoder.vocabSize);
    return allowed.forced !== undefined || needed <= decoder.ranked;
  }

  private allowedAfter(generated: readonly number[]): Allowed {
    return allowedAfter(this.ids, generated, this.request, this.request);
  }

  /** Goes on by what comes after each token of `next`, or after the prompt. */
  override async take(scores: readonly (Scores | undefined)[]): Promise<void> {
    const { random, constraint, stopIds = [] } = this.request;
    const { ids, distributions } = this.draft;
    const fresh: number[] = [];
    for (let place = 0; place <= ids.length; place++) {
      const wanted = await this.wanted(scores[place]!, fresh);
      const guess = ids[place];
      let id: number;
      let right = false;
      if (guess === undefined)
        id = wanted instanceof Float32Array ? sample(wanted, this.request, random) : draw(wanted, random);
      else {
        const target = wanted instanceof Float32Array ? distribution(wanted, this.request) : wanted;
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
    this.allowed = undefined;
    this.write(fresh);
  }

  private write(fresh: readonly number[]): void {
    const { constraint, stopIds = [], maxNewTokens = Infinity, emit } = this.request;
    const { ids, generated } = this;
    for (const [place, id] of fresh.entries()) {
      if (stopIds.includes(id)) {
        this.finish("stop", id);
        return;
      }
      generated.push(id);
      emit({ id });
      // A constraint has gone on to the last token that was taken.
      if (place === fresh.length - 1 && constraint?.finished) this.finish("stop");
      else if (generated.length >= maxNewTokens) this.finish("length");
      else if (ids.length + generated.length > this.decoder.capacity) this.finish("context");
      if (this.ended) return;
    }
  }

  private finish(finish: FinishReason, stopId?: number): void {
    const { drafter, emit } = this.request;
    this.ended = true;
    const { drafted, accepted } = this;
    emit({
      finish,
      ...(stopId !== undefined && { stopId }),
      reusedTokens: this.reusedTokens,
      ...(drafter && { speculation: { drafted, accepted } }),
    });
  }

  /** What the next token is drawn from: some tokens with their probabilities, or the logits of all that may come. */
  private async wanted(scores: Scores, fresh: readonly number[]): Promise<Distribution | Float32Array> {
    const { constraint } = this.request;
    const generated = fresh.length === 0 ? this.generated : [...this.generated, ...fresh];
    const allowed = (fresh.length === 0 ? this.allowed : undefined) ?? this.allowedAfter(generated);
    if (!(scores instanceof Float32Array)) {
      if (allowed.forced) return evenly(allowed.forced);
      return rankedDistribution(scores, this.request, (id) => mayCome(allowed, id));
    }
    penalize(scores, this.ids, generated, this.request);
    restrictTo(allowed, scores);
    await constraint?.restrict(scores);
    return scores;
  }
}

const evenly = (ids: readonly number[]): Distribution => ({
  ids: Uint32Array.from(ids),
  probabilities: new Float64Array(ids.length).fill(1 / ids.length),
});

const certain = (id: number): Distribution => evenly([id]);

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
