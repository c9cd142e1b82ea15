import { LineageError } from "../base/errors.js";
import type { OptionName } from "./sampling.js";

/** Which tokens may come where, besides what the model finds likely; Hugging Face's logits processors. */
export interface RuleOptions {
  /** Tokens before which a text does not end. Default 0. */
  readonly minNewTokens?: number | undefined;
  /** No sequence of so many tokens comes twice, Paulus et al. 2018. Default: they may. */
  readonly noRepeatNgram?: number | undefined;
  /** Sequences of tokens, single ones too, that do not come. */
  readonly banned?: readonly (readonly number[])[] | undefined;
  /** Tokens that do not come first. */
  readonly bannedFirst?: readonly number[] | undefined;
  /** The token that comes first, after a prompt of one token: the language of a translation. */
  readonly forcedFirst?: number | undefined;
  /**
   * The tokenizer's number of ids. A model's embeddings may be padded beyond them, with rows that stand for nothing: these never
   * come. Default: every id of the model may.
   */
  readonly vocabSize?: number | undefined;
  /** Tokens one of which comes last, where a text has all its `maxNewTokens`. */
  readonly forcedLast?: readonly number[] | undefined;
}

/** What may come after a text. */
export interface Allowed {
  /** One of these comes, whatever the model finds. */
  readonly forced?: readonly number[] | undefined;
  readonly banned: ReadonlySet<number>;
  /** Ids from here on never come. */
  readonly end: number;
}

/** Whether a token that nothing forces may come. */
export const mayCome = ({ banned, end }: Allowed, id: number): boolean => id < end && !banned.has(id);

/** How many of a model's tokens may not come. */
export const countBanned = ({ banned, end }: Allowed, vocabSize: number): number =>
  banned.size + Math.max(0, vocabSize - end);

const none: ReadonlySet<number> = new Set();

/** Throws `argument` for an option out of its range. */
export function checkRules({ minNewTokens = 0, noRepeatNgram = 1 }: RuleOptions, nameOf: OptionName): void {
  if (!Number.isInteger(minNewTokens) || minNewTokens < 0)
    throw new LineageError(
      "argument",
      `${nameOf("minNewTokens")} must be a whole number of at least 0, not ${minNewTokens}`,
    );
  if (!Number.isInteger(noRepeatNgram) || noRepeatNgram < 1)
    throw new LineageError(
      "argument",
      `${nameOf("noRepeatNgram")} must be a whole number of at least 1, not ${noRepeatNgram}`,
    );
}

/**
 * What may come after `prompt` and `generated`.
 * @param limits how a text ends
 */
export function allowedAfter(
  prompt: readonly number[],
  generated: readonly number[],
  options: RuleOptions,
  { stopIds = [], maxNewTokens = Infinity }: { stopIds?: readonly number[]; maxNewTokens?: number },
): Allowed {
  const { minNewTokens = 0, noRepeatNgram, banned = [], bannedFirst, forcedFirst, forcedLast } = options;
  const { vocabSize: end = Infinity } = options;
  const forcesFirst = forcedFirst !== undefined && prompt.length === 1;
  if (forcesFirst && generated.length === 0) return { forced: [forcedFirst], banned: none, end };
  if (forcedLast && generated.length === maxNewTokens - 1) return { forced: forcedLast, banned: none, end };
  const found = new Set<number>();
  if (generated.length < minNewTokens) for (const id of stopIds) found.add(id);
  if (bannedFirst && generated.length === Number(forcesFirst)) for (const id of bannedFirst) found.add(id);
  if (noRepeatNgram === undefined && banned.length === 0) return { banned: found, end };
  const text = [...prompt, ...generated];
  if (noRepeatNgram !== undefined) addRepeats(text, noRepeatNgram, found);
  for (const sequence of banned) {
    const last = sequence.at(-1);
    // The end of a text is for `minNewTokens` to forbid.
    if (last === undefined || (sequence.length === 1 && stopIds.includes(last))) continue;
    if (sequence.length <= text.length + 1 && endsWith(text, sequence.slice(0, -1))) found.add(last);
  }
  return { banned: found, end };
}

/** Adds what would end a sequence of `size` tokens that `text` has already. */
function addRepeats(text: readonly number[], size: number, found: Set<number>): void {
  const start = text.length - size + 1;
  if (start < 0) return;
  for (let place = 0; place < start; place++) {
    let same = 0;
    while (same < size - 1 && text[place + same] === text[start + same]) same++;
    if (same === size - 1) found.add(text[place + size - 1]!);
  }
}

const endsWith = (text: readonly number[], end: readonly number[]): boolean =>
  end.length <= text.length && end.every((id, index) => text[text.length - end.length + index] === id);

/** Leaves in the logits, in place, what may come. */
export function restrictTo({ forced, banned, end }: Allowed, logits: Float32Array): void {
  if (forced) {
    logits.fill(-Infinity);
    for (const id of forced) logits[id] = 0;
  } else {
    for (const id of banned) logits[id] = -Infinity;
    if (end < logits.length) logits.fill(-Infinity, end);
  }
}
