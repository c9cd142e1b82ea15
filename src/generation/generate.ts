import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
import { type SamplingOptions, checkSampling, penalize, sample } from "./sampling.js";
import type { Decoder } from "./decoder.js";

/** What a text must be: tells at every token which ones may come. */
export interface TokenConstraint {
  /** Sets the logits of all tokens that may not come to -Infinity. */
  restrict(logits: Float32Array): void | Promise<void>;
  /** Goes on by the token that came. */
  accept(id: number): void;
  /** Whether nothing may follow. */
  readonly finished: boolean;
}

export interface GenerateOptions extends SamplingOptions {
  /** Tokens to write at most. Default: what the context holds. */
  readonly maxNewTokens?: number;
  /** Ids that end a text; they are not part of it. */
  readonly stopIds?: readonly number[];
  /** The same seed writes the same text. Default 0. Row `i` draws from the seed's stream `stream + i`. */
  readonly seed?: number;
  /** Stream of the first row. Default 0. Row `i` of a batch gives alone, with `stream: i`, what it gives in the batch. */
  readonly stream?: number;
  /** A seed for each row instead. */
  readonly seeds?: readonly number[];
  /** One for each row, applied after penalties and before sampling. */
  readonly constraints?: readonly TokenConstraint[] | undefined;
  readonly signal?: AbortSignal;
}

/** Why a row ended: a stop id, `maxNewTokens`, or a full context. */
export type FinishReason = "stop" | "length" | "context";

export interface GeneratedToken {
  /** Row of the batch. */
  readonly row: number;
  /** The token; undefined in the last message of a row, which tells why it ended. */
  readonly id?: number;
  readonly finish?: FinishReason;
}

/**
 * Continues every prompt, a token at a time. Each row draws from its own stream of random numbers, so that it writes in a
 * batch what it writes alone. What the decoder still holds of a prompt's beginning is not read again (`decoder.reused`).
 */
export async function* generate(
  decoder: Decoder,
  prompts: readonly (readonly number[])[],
  options: GenerateOptions = {},
): AsyncGenerator<GeneratedToken> {
  checkSampling(options);
  const { maxNewTokens = Infinity, stopIds = [], seed = 0, stream = 0, seeds, constraints, signal } = options;
  if (seeds && seeds.length !== prompts.length)
    throw new LineageError("argument", `${seeds.length} seeds were given for ${prompts.length} prompts`);
  const randoms = prompts.map((_, row) => (seeds ? new Random(seeds[row]!) : new Random(seed, stream + row)));
  const generated: number[][] = prompts.map(() => []);
  const finished = prompts.map(() => false);
  let logits = await decoder.prefill(prompts, { signal });
  for (;;) {
    signal?.throwIfAborted();
    const next: (number | undefined)[] = prompts.map(() => undefined);
    for (const [row, prompt] of prompts.entries()) {
      if (finished[row]) continue;
      const scores = logits[row]!;
      penalize(scores, prompt, generated[row]!, options);
      const constraint = constraints?.[row];
      await constraint?.restrict(scores);
      const id = sample(scores, options, randoms[row]!);
      constraint?.accept(id);
      let finish: FinishReason | undefined;
      if (stopIds.includes(id)) finish = "stop";
      else {
        generated[row]!.push(id);
        next[row] = id;
        yield { row, id };
        if (constraint?.finished) finish = "stop";
        else if (generated[row]!.length >= maxNewTokens) finish = "length";
        else if (decoder.lengths[row]! >= decoder.capacity) finish = "context";
      }
      if (finish) {
        finished[row] = true;
        next[row] = undefined;
        yield { row, finish };
      }
    }
    if (finished.every(Boolean)) return;
    logits = await decoder.step(next, { signal });
  }
}

/** Text from pieces, holding back what may become a stop string. */
export class StopStrings {
  private held = "";
  /** Whether a stop string has come. */
  stopped = false;

  constructor(private readonly stops: readonly string[]) {
    if (stops.includes("")) throw new LineageError("argument", "a stop string must not be empty");
  }

  /** What of the text so far is surely not part of a stop string. */
  push(piece: string): string {
    if (this.stopped) return "";
    this.held += piece;
    const places = this.stops.map((stop) => this.held.indexOf(stop)).filter((place) => place >= 0);
    if (places.length > 0) {
      this.stopped = true;
      const text = this.held.slice(0, Math.min(...places));
      this.held = "";
      return text;
    }
    let keep = 0;
    for (const stop of this.stops) {
      for (let length = Math.min(stop.length - 1, this.held.length); length > keep; length--) {
        if (stop.startsWith(this.held.slice(-length))) keep = length;
      }
    }
    const text = this.held.slice(0, this.held.length - keep);
    this.held = this.held.slice(this.held.length - keep);
    return text;
  }

  /** The rest, once no more text comes. */
  flush(): string {
    const rest = this.stopped ? "" : this.held;
    this.held = "";
    return rest;
  }
}
