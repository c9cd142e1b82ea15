import { LineageError } from "../base/errors.js";
import type { Random } from "../base/random.js";

export interface SpanCorruptionOptions {
  /** Share of the tokens that are hidden. Published: 0.15. */
  readonly rate?: number;
  /** Mean length of a hidden span. Published: 3. */
  readonly meanLength?: number;
  /**
   * Whether a text may begin with a hidden span and end with a shown one, so that a single span lies anywhere. Default: as in
   * T5's code, it begins with a shown one and ends with a hidden one.
   */
  readonly anywhere?: boolean;
}

/** A text with its spans hidden, and what was hidden. */
export interface CorruptedText {
  /** The text with a sentinel in the place of each span. */
  readonly inputIds: number[];
  /** Each sentinel, followed by the tokens of its span. */
  readonly targetIds: number[];
}

/** How many tokens of a text are hidden, and in how many spans. */
export function spanCounts(
  length: number,
  { rate = 0.15, meanLength = 3 }: SpanCorruptionOptions = {},
): { readonly hidden: number; readonly spans: number } {
  const hidden = Math.min(Math.max(Math.round(length * rate), 1), length - 1);
  const spans = Math.max(Math.round(hidden / meanLength), 1);
  // Between two spans there is a token that is shown.
  return { hidden, spans: Math.min(spans, hidden, length - hidden) };
}

/**
 * Length of the text whose corrupted form fills `inputLength` tokens, one end token included, and the length of its target
 * with its own: so that no batch holds padding. Raffel et al. 2020, section 3.1.4.
 */
export function spanCorruptionLengths(
  inputLength: number,
  options: SpanCorruptionOptions = {},
): { readonly textLength: number; readonly targetLength: number } {
  const lengths = (textLength: number) => {
    const { hidden, spans } = spanCounts(textLength, options);
    return { input: textLength - hidden + spans + 1, target: hidden + spans + 1 };
  };
  if (inputLength < 4)
    throw new LineageError("argument", `a corrupted text needs 4 tokens or more, not ${inputLength}`);
  let textLength = 2;
  while (lengths(textLength + 1).input <= inputLength) textLength++;
  return { textLength, targetLength: lengths(textLength).target };
}

/**
 * T5's pretraining: spans of the text are hidden, each behind a sentinel of its own, and the model writes what was hidden.
 * Lengths of hidden and shown spans are drawn so that every division of the tokens among the spans is as likely. Raffel et
 * al. 2020, section 3.1.4 and figure 2; like the published code, a text begins with a shown span and ends with a hidden
 * one (`anywhere` lifts that), and no sentinel closes the target.
 *
 * @param sentinels ids of the sentinels in order: `<extra_id_0>`, `<extra_id_1>`, ... Throws `tokenizer` where a text needs
 *   more of them
 */
export function corruptSpans(
  ids: readonly number[],
  sentinels: readonly number[],
  options: SpanCorruptionOptions,
  random: Random,
): CorruptedText {
  if (ids.length < 2)
    throw new LineageError("data", `span corruption needs two tokens or more, not ${ids.length}`);
  const { hidden, spans } = spanCounts(ids.length, options);
  if (spans > sentinels.length)
    throw new LineageError(
      "tokenizer",
      `a text of ${ids.length} tokens has ${spans} hidden spans, but the tokenizer has ${sentinels.length} sentinels; use shorter rows, or longer spans`,
    );
  const hiddenLengths = divide(hidden, spans, random);
  const shown = ids.length - hidden;
  const shownLengths = options.anywhere
    ? divide(shown + 2, spans + 1, random).map((length, part) => length - Number(part % spans === 0))
    : divide(shown, spans, random);
  const [inputIds, targetIds]: [number[], number[]] = [[], []];
  let place = 0;
  for (let span = 0; span < spans; span++) {
    inputIds.push(...ids.slice(place, (place += shownLengths[span]!)), sentinels[span]!);
    targetIds.push(sentinels[span]!, ...ids.slice(place, (place += hiddenLengths[span]!)));
  }
  inputIds.push(...ids.slice(place));
  return { inputIds, targetIds };
}

/** `total` as a sum of `parts` whole numbers of 1 or more, each such sum as likely as any other. */
function divide(total: number, parts: number, random: Random): number[] {
  const cuts = Array.from(random.permutation(total - 1).subarray(0, parts - 1), (cut) => cut + 1).sort(
    (a, b) => a - b,
  );
  return [...cuts, total].map((cut, index) => cut - (index === 0 ? 0 : cuts[index - 1]!));
}
