import { LineageError } from "../base/errors.js";
import type { WeightSet } from "../nn/index.js";
import { StreamDecoder, type Tokenizer, beginSequence } from "../tokenizers/index.js";
import type { CacheType } from "./cache.js";
import { ConstraintCompiler, type ConstraintRule } from "./constraint.js";
import { type CausalModel, Decoder } from "./decoder.js";
import { type FinishReason, StopStrings, generate } from "./generate.js";
import type { SamplingOptions } from "./sampling.js";
import { type Drafter, type SpeculativeToken, generateSpeculatively } from "./speculative.js";

/** A model that writes text. */
export interface TextModel {
  readonly model: CausalModel;
  readonly weights: WeightSet;
  readonly tokenizer: Tokenizer;
  /** Ids that end a text. Default: the tokenizer's end of text. */
  readonly stopIds?: readonly number[] | undefined;
}

export interface TextOptions extends SamplingOptions {
  /** Tokens to write at most. Default 200. */
  readonly maxNewTokens?: number;
  /** The same seed writes the same text. Default 0. */
  readonly seed?: number;
  /** Texts that end the answer; they are not part of it. */
  readonly stop?: readonly string[];
  /** What the whole answer must be. */
  readonly rule?: ConstraintRule | undefined;
  /** Who guesses the next tokens. */
  readonly drafter?: Drafter | undefined;
  /** Tokens that a drafter guesses at once. */
  readonly draftLength?: number;
  /** What keys and values are kept as. */
  readonly cache?: CacheType;
  readonly signal?: AbortSignal;
}

/** How a text came about. */
export interface TextReport {
  readonly finish: FinishReason;
  readonly promptTokens: number;
  readonly newTokens: number;
  /** Seconds until the prompt was read. */
  readonly promptSeconds: number;
  /** Seconds from the first token, which comes with the prompt, to the last. */
  readonly writeSeconds: number;
  /** Of speculative decoding: tokens guessed, and how many of them the model took. */
  readonly speculation?: { readonly drafted: number; readonly accepted: number };
}

/** What ends a text where the model's files do not say. */
export const endOfText = ({ endOfTextId }: Tokenizer): number[] =>
  endOfTextId === undefined ? [] : [endOfTextId];

/** Prompt ids, after the token that begins a sequence where the model was trained with one. */
function promptIds(tokenizer: Tokenizer, prompt: string, contextLength: number): number[] {
  const ids = beginSequence(tokenizer, tokenizer.encode(prompt));
  // An empty prompt starts like a document, after the end of the one before it.
  if (ids.length === 0 && tokenizer.endOfTextId !== undefined) ids.push(tokenizer.endOfTextId);
  if (ids.length === 0) {
    throw new LineageError("argument", "the prompt is empty, and this tokenizer has no token to start with");
  }
  if (ids.length >= contextLength) {
    throw new LineageError(
      "length",
      `the prompt has ${ids.length} tokens, but the model's context holds ${contextLength} and needs room for the answer; shorten the prompt`,
    );
  }
  return ids;
}

/**
 * Continues a prompt: pieces of whole characters as they are written, none of them part of a stop string.
 * @returns how the text came about
 */
export async function* writeText(
  { model, weights, tokenizer, stopIds = endOfText(tokenizer) }: TextModel,
  prompt: string,
  { rule, drafter, stop = [], cache, maxNewTokens = 200, ...options }: TextOptions = {},
): AsyncGenerator<string, TextReport> {
  const { contextLength, vocabSize } = model.config;
  const ids = promptIds(tokenizer, prompt, contextLength);
  using decoder = await Decoder.create(model, weights, {
    batch: 1,
    capacity: Math.min(contextLength, ids.length + maxNewTokens),
    ...(cache && { cacheType: cache }),
  });
  const characters = new StreamDecoder(tokenizer);
  const stops = new StopStrings(stop);
  using compiler = rule && (await ConstraintCompiler.create(tokenizer, { vocabSize, stopIds }));
  using constraint = rule && (await compiler?.compile(rule));
  using walk = await constraint?.begin();
  const generation = { ...options, maxNewTokens, stopIds, constraints: walk && [walk] };
  const tokens: AsyncIterable<SpeculativeToken> = drafter
    ? generateSpeculatively(decoder, ids, drafter, generation)
    : generate(decoder, [ids], generation);
  const started = performance.now();
  let promptSeconds: number | undefined;
  let seconds = 0;
  let newTokens = 0;
  let last: SpeculativeToken = { row: 0 };
  for await (const token of tokens) {
    seconds = (performance.now() - started) / 1000;
    promptSeconds ??= seconds;
    last = token;
    if (token.id === undefined) continue;
    newTokens++;
    const piece = stops.push(characters.push(token.id));
    if (piece !== "") yield piece;
    if (stops.stopped) break;
  }
  const rest = stops.stopped ? "" : stops.push(characters.flush()) + stops.flush();
  if (rest !== "") yield rest;
  return {
    finish: stops.stopped ? "stop" : last.finish!,
    promptTokens: ids.length,
    newTokens,
    promptSeconds: promptSeconds ?? 0,
    writeSeconds: seconds - (promptSeconds ?? 0),
    ...(last.speculation && { speculation: last.speculation }),
  };
}
