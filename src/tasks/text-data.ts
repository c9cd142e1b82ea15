import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
import { type TextPair, type WrittenPair, type WrittenPairs, readTextPairs } from "../data/index.js";
import { type Tokenizer, targetIds } from "../tokenizers/index.js";
import type { RunControl } from "./run.js";
import type { TextOptions } from "./text-options.js";

type Tell = RunControl["onMessage"];

/** The pairs of texts that a run learns from and is measured on. */
export interface TextData {
  readonly name: string;
  readonly training: readonly WrittenPair[];
  readonly heldName: string;
  readonly held: readonly WrittenPair[];
}

/** Reads the files of a run; a share of the training pairs is held out where there are none to evaluate on. */
export async function readTextData(options: TextOptions, onMessage?: Tell): Promise<TextData> {
  const { source, target, encoding, skipBadRows } = options;
  const read = async (data: string, targets: string | undefined): Promise<WrittenPairs> => {
    const columns = targets === undefined ? { source, target } : {};
    const found = await readTextPairs({ data, targets, ...columns, encoding, skipBadRows });
    const { name, bad, pairs } = found;
    if (bad.length > 0)
      onMessage?.(
        `${name}: ${bad.length} ${bad.length === 1 ? "row is" : "rows are"} left out, because they cannot be used (${numbersOf(bad.map(({ number }) => number))})`,
        { file: data, bad: bad.length },
      );
    onMessage?.(`${name}: ${pairs.length} pairs; ${found.columns}`, { file: data, rows: pairs.length });
    return found;
  };
  if (options.evalTargets !== undefined && options.eval === undefined)
    throw new LineageError("argument", "--eval-targets needs --eval, the file of the sources");
  const { name, pairs } = await read(options.data, options.targets);
  if (options.eval !== undefined) {
    const held = await read(options.eval, options.evalTargets);
    return { name, training: pairs, heldName: held.name, held: held.pairs };
  }
  const count = Math.ceil(pairs.length * options.validation);
  if (count >= pairs.length)
    throw new LineageError(
      "data",
      `${name} has ${pairs.length} ${pairs.length === 1 ? "pair" : "pairs"}, too few to hold some out; give --eval FILE`,
    );
  const order = new Random(options.seed).fork("held out").permutation(pairs.length);
  const held = new Set(order.slice(0, count));
  onMessage?.(`${count} of ${pairs.length} pairs are held out to evaluate on`, { heldOut: count });
  return {
    name,
    training: pairs.filter((_, place) => !held.has(place)),
    heldName: name,
    held: pairs.filter((_, place) => held.has(place)),
  };
}

const numbersOf = (numbers: readonly number[]): string =>
  numbers.slice(0, 5).join(", ") + (numbers.length > 5 ? ", …" : "");

/** A pair as token ids, and as it was written. */
export interface EncodedPair extends TextPair {
  readonly written: WrittenPair;
}

export interface EncodeOptions {
  /** Tokens of either text, its end token included. */
  readonly maxLength: number;
  readonly long: TextOptions["long"];
  readonly prefix: string;
}

/**
 * Pairs as token ids, each text with the tokens that its tokenizer puts around one. What is longer than `maxLength` is cut,
 * left out, split or refused, and told. A target that is cut has no end: the model does not learn to stop there.
 */
export function encodePairs(
  name: string,
  pairs: readonly WrittenPair[],
  tokenizer: Tokenizer,
  { maxLength, long, prefix }: EncodeOptions,
  onMessage?: Tell,
): EncodedPair[] {
  const encode = (written: WrittenPair): EncodedPair => {
    const source = tokenizer.encodePair(prefix + written.source).ids;
    return { source, target: targetIds(tokenizer, written.target), written };
  };
  const whole = pairs.map(encode);
  const isLong = ({ source, target }: TextPair) => source.length > maxLength || target.length > maxLength;
  const parts = (pair: EncodedPair) => partsBySentence(pair.written, encode, isLong);
  const encoded =
    long === "split" ? whole.flatMap((pair) => (isLong(pair) ? (parts(pair) ?? [pair]) : [pair])) : whole;
  const split = whole.filter((pair) => isLong(pair) && long === "split" && parts(pair) !== undefined).length;
  if (split > 0)
    onMessage?.(
      `${name}: ${split} ${split === 1 ? "pair is" : "pairs are"} longer than ${maxLength} tokens and split between sentences, as many of the source as of the target`,
      { file: name, splitPairs: split },
    );
  const tooLong = encoded.filter(isLong);
  if (tooLong.length === 0) return encoded;
  const rows = numbersOf(tooLong.map(({ written }) => written.row));
  const what = `${name}: ${tooLong.length} of ${encoded.length} pairs have a text of more than ${maxLength} tokens (${tooLong.length === 1 ? "row" : "rows"} ${rows})`;
  if (long === "refuse")
    throw new LineageError("data", `${what}; shorten them, or choose --long cut, skip or split`);
  if (long === "skip") {
    const kept = encoded.filter((pair) => !isLong(pair));
    if (kept.length === 0) throw new LineageError("data", `${what}, and none is left`);
    onMessage?.(`${what}; they are left out`, { file: name, longPairs: tooLong.length });
    return kept;
  }
  const beyond = (side: "source" | "target") =>
    tooLong.reduce((sum, pair) => sum + Math.max(0, pair[side].length - maxLength), 0);
  const [sourceTokens, targetTokens] = [beyond("source"), beyond("target")];
  onMessage?.(
    `${what}; what is beyond, ${sourceTokens} tokens of sources and ${targetTokens} of targets, is cut off`,
    { file: name, longPairs: tooLong.length, sourceTokens, targetTokens },
  );
  return encoded.map((pair) =>
    isLong(pair)
      ? {
          ...pair,
          source: cutBeforeEnd(pair.source, maxLength),
          target: pair.target.slice(0, maxLength),
        }
      : pair,
  );
}

const segmenter = new Intl.Segmenter(undefined, { granularity: "sentence" });
const sentencesOf = (text: string): string[] => Array.from(segmenter.segment(text), ({ segment }) => segment);

/**
 * A pair in parts, each of as many sentences as fit. Sentence i of the source belongs to sentence i of the target; undefined
 * where their numbers differ, or where there is one.
 */
function partsBySentence(
  { row, ...written }: WrittenPair,
  encode: (written: WrittenPair) => EncodedPair,
  isLong: (pair: EncodedPair) => boolean,
): EncodedPair[] | undefined {
  const [sources, targets] = [sentencesOf(written.source), sentencesOf(written.target)];
  if (sources.length !== targets.length || sources.length < 2) return undefined;
  const parts: EncodedPair[] = [];
  let held: EncodedPair | undefined;
  for (const [place, source] of sources.entries()) {
    const before = held?.written ?? { source: "", target: "" };
    const longer = encode({ row, source: before.source + source, target: before.target + targets[place]! });
    if (!held || !isLong(longer)) held = longer;
    else {
      parts.push(held);
      held = encode({ row, source, target: targets[place]! });
    }
  }
  return [...parts, held!];
}

/** The first tokens of a text and its last one, which ends it. */
export const cutBeforeEnd = (ids: readonly number[], length: number): readonly number[] =>
  ids.length <= length ? ids : [...ids.slice(0, length - 1), ids.at(-1)!];
