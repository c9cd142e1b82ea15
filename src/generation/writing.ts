import type { Decoder, Scores } from "./decoder.js";
import type { Prompt } from "./model.js";
import type { Slot } from "./slot.js";

/** What is asked of every text. */
export interface WritingRequest {
  readonly prompt: Prompt;
  /** Which of the model's adapters writes it. Default: none. */
  readonly adapter?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What the next run of a text takes. */
export interface NextRun {
  /** Of each beam its next token; undefined for one that rests. */
  readonly tokens: readonly (number | undefined)[];
  /** Of each beam the one that it goes on from; undefined for itself. */
  readonly parents?: readonly (number | undefined)[] | undefined;
  /** Of a text of one beam: guesses at the tokens after the next one. */
  readonly guesses?: readonly number[] | undefined;
  /** Whether the likeliest tokens are enough. */
  readonly ranked: boolean;
}

/**
 * A text on its way through a queue, in one beam or several: says what the next run takes, and goes on by what comes of it.
 * It does not know of caches and of other texts.
 */
export abstract class Writing {
  slot: Slot | undefined;
  /** Whether the slot holds what the caches had of the prompt's beginning, and whether there is more of it to read. */
  begun = false;
  reading: boolean;
  ended = false;
  /** What it failed with. */
  error: unknown = undefined;
  /** The ids of the prompt, and what the text is about. */
  readonly ids: readonly number[];
  readonly source: readonly number[] | undefined;
  /** What of the prompt is read before the first step; with a source its last token is a step's. */
  readonly readable: readonly number[];

  constructor(
    readonly request: WritingRequest,
    decoder: Pick<Decoder, "whole">,
  ) {
    const { ids, source } = decoder.whole(request.prompt);
    [this.ids, this.source] = [ids, source];
    this.readable = source ? ids.slice(0, -1) : ids;
    this.reading = this.readable.length > 0;
  }

  /** Tokens that lie in the cache when those of `next` have not been run. */
  abstract get length(): number;

  abstract next(): Promise<NextRun>;

  /** Goes on by what comes after each token of `next`, by beam or by guess; or after the prompt. */
  abstract take(scores: readonly (Scores | undefined)[]): Promise<void>;

  /** Ends the text with an error. */
  fail(error: unknown): void {
    if (this.ended) return;
    this.ended = true;
    this.error = error;
  }
}
