import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
import type { Decoder } from "./decoder.js";
import type { Prompt } from "./model.js";
import { GenerationQueue } from "./queue.js";
import { type RuleOptions, checkRules } from "./rules.js";
import { type OptionName, type SamplingOptions, checkSampling } from "./sampling.js";
import type { Drafter, SequenceEvent, TokenConstraint } from "./sequence.js";

/** What is asked for besides the prompts; the same for one text and for many. */
export interface ContinuationOptions extends SamplingOptions, RuleOptions {
  /** Which of the model's adapters (`loadAdapters`) writes. Default: none, so the base alone. */
  readonly adapter?: string | undefined;
  /** Tokens to write at most. Default: what the context holds. */
  readonly maxNewTokens?: number | undefined;
  /** The same seed writes the same text. Default 0. */
  readonly seed?: number | undefined;
  /** Guesses the next tokens, which the model then checks several at a time. Default: nobody guesses. */
  readonly drafter?: Drafter | undefined;
  /** Tokens to guess at once, at most. Default 5. */
  readonly draftLength?: number | undefined;
}

export interface GenerateOptions extends ContinuationOptions {
  /** Ids that end a text; they are not part of it. */
  readonly stopIds?: readonly number[] | undefined;
  /**
   * Which of the seed's streams of random numbers the first row draws from; row `i` draws from `stream + i`. Default 0. Row
   * `i` of a batch gives alone, with `stream: i`, what it gives in the batch.
   */
  readonly stream?: number | undefined;
  /** A seed for each row instead, of which it draws from the first stream. */
  readonly seeds?: readonly number[] | undefined;
  /** An adapter for each row instead; undefined for none. */
  readonly adapters?: readonly (string | undefined)[] | undefined;
  /** One for each row, applied after penalties and before sampling. */
  readonly constraints?: readonly TokenConstraint[] | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A token of a row; in the last message of each row, why it ended. */
export interface GeneratedToken extends SequenceEvent {
  /** Which of the prompts. */
  readonly row: number;
}

/**
 * Throws `argument` for an option out of its range, before anything is loaded.
 * @param nameOf how the person who gave the options calls each of them
 */
export function checkGeneration(
  options: ContinuationOptions & { readonly stop?: readonly string[] | undefined },
  nameOf: OptionName = (option) => option,
): void {
  checkSampling(options, nameOf);
  checkRules(options, nameOf);
  const { maxNewTokens = Infinity, draftLength = 5, seed = 0, stop = [] } = options;
  const whole = (value: number, least: number): boolean => Number.isInteger(value) && value >= least;
  const rules: [boolean, string][] = [
    [
      maxNewTokens === Infinity || whole(maxNewTokens, 0),
      `${nameOf("maxNewTokens")} must be a whole number of at least 0, not ${maxNewTokens}`,
    ],
    [
      whole(draftLength, 1),
      `${nameOf("draftLength")} must be a whole number of at least 1, not ${draftLength}`,
    ],
    [Number.isSafeInteger(seed), `${nameOf("seed")} must be a whole number, not ${seed}`],
    [!stop.includes(""), `${nameOf("stop")} must not be empty`],
  ];
  for (const [holds, message] of rules) if (!holds) throw new LineageError("argument", message);
}

/**
 * Continues every prompt, a token at a time; with an encoder-decoder, writes about the source of each. More prompts than the decoder has slots wait for one; rows end alone, and the
 * next prompt takes their place. Several calls on one decoder share its slots and its steps. Each row draws from its own
 * stream of random numbers, and writes in a batch what it writes alone. What the decoder still holds of a prompt's beginning
 * is not read again.
 *
 * With a drafter the distribution of texts is the same, and so is the text at temperature 0: every token that it guesses is
 * checked, all of them in one run of the model. Leviathan et al. 2023, "Fast Inference from Transformers via Speculative
 * Decoding", algorithm 1. A constraint restricts what guesses are checked against: one that it forbids has no chance, and
 * what replaces it is drawn from what the constraint leaves. (With weights in 4 or 8 bits near ties may fall otherwise; see
 * `Decoder`.)
 */
export async function* generate(
  decoder: Decoder,
  prompts: readonly Prompt[],
  options: GenerateOptions = {},
): AsyncGenerator<GeneratedToken> {
  checkGeneration(options);
  const { seed = 0, stream = 0, seeds, constraints, adapters, ...shared } = options;
  for (const [name, list] of Object.entries({ seeds, constraints, adapters }))
    if (list && list.length !== prompts.length)
      throw new LineageError(
        "argument",
        `${list.length} ${name} were given for ${prompts.length} prompts; each needs its own`,
      );
  const queue = GenerationQueue.of(decoder);
  const adapterOf = (row: number): string | undefined => (adapters ? adapters[row] : shared.adapter);
  for (const [row, prompt] of prompts.entries()) decoder.checkPrompt(prompt, { adapter: adapterOf(row) });
  const events: GeneratedToken[] = [];
  const sequences = prompts.map((prompt, row) =>
    queue.submit({
      ...shared,
      prompt,
      adapter: adapterOf(row),
      random: seeds ? new Random(seeds[row]!) : new Random(seed, stream + row),
      constraint: constraints?.[row],
      emit: (event) => events.push({ row, ...event }),
    }),
  );
  try {
    yield* queue.follow(sequences, events, options.signal);
  } finally {
    for (const sequence of sequences) queue.cancel(sequence);
  }
}
