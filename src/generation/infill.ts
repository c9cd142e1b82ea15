import { LineageError } from "../base/errors.js";
import {
  StreamDecoder,
  type Tokenizer,
  beginSequence,
  modeTokens,
  sentinelToken,
  sentinelsOf,
} from "../tokenizers/index.js";
import { type ContinuationOptions, generate } from "./generate.js";
import type { TokenConstraint } from "./sequence.js";
import { type TextWriter, endOfText } from "./text.js";

/** What stands in a text where the model is to write. */
export const gapMark = "<gap>";

/** How a model that learned several modes fills gaps: with a few words, or with much text. */
export type InfillMode = "regular" | "extreme";

export interface InfillOptions extends Omit<ContinuationOptions, "maxNewTokens" | "drafter" | "draftLength"> {
  /** Tokens of a gap at most. Default 32, or what the context has room for. */
  readonly maxGapTokens?: number | undefined;
  /** Default `regular`. It means nothing to a model that learned no modes. */
  readonly mode?: InfillMode | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A text without gaps. */
export interface Infilled {
  readonly text: string;
  /** What was written in each gap. */
  readonly gaps: readonly string[];
}

/** A text with gaps as a model reads it. */
export interface GapPrompt {
  /** The prompt of a decoder, the source of an encoder-decoder. */
  readonly ids: readonly number[];
  /** Tokens that are written at most. */
  readonly maxNewTokens: number;
  /** The text around the gaps. */
  readonly parts: readonly string[];
  /** Of each gap whether a space stood before it, which is the gap's to write: words begin with theirs. */
  readonly spaced: readonly boolean[];
}

/**
 * A text whose gaps are sentinels, after the mode. @param isSource whether it is for an encoder. Throws `argument` for a text without a gap, `tokenizer` for a model that has no
 * sentinels, or fewer than gaps.
 */
export function gapPrompt(
  tokenizer: Tokenizer,
  text: string,
  { maxGapTokens = 32, mode = "regular" }: Pick<InfillOptions, "maxGapTokens" | "mode"> = {},
  isSource = false,
): GapPrompt {
  if (!Number.isInteger(maxGapTokens) || maxGapTokens < 1)
    throw new LineageError("argument", `a gap has 1 token or more, not ${maxGapTokens}`);
  const pieces = text.split(gapMark);
  const gaps = pieces.length - 1;
  if (gaps === 0)
    throw new LineageError("argument", `the text has no gap; write ${gapMark} where something is missing`);
  if (pieces.some((piece) => piece.includes("<extra_id_")))
    throw new LineageError("argument", `the text names a sentinel itself; write ${gapMark} instead`);
  const sentinels = sentinelsOf(tokenizer).length;
  if (sentinels < gaps)
    throw new LineageError(
      "tokenizer",
      sentinels === 0
        ? "the model has no tokens for gaps (<extra_id_0>, …), so it never learned to fill them; lineage train --base MODEL --objective ul2r teaches it"
        : `the text has ${gaps} gaps, but the model knows ${sentinels}; fill fewer at a time`,
    );
  const spaced = pieces.slice(0, -1).map((piece) => piece.endsWith(" "));
  const parts = pieces.map((piece, index) => (spaced[index] ? piece.slice(0, -1) : piece));
  const written = parts.map((part, index) => part + (index < gaps ? sentinelToken(index) : "")).join("");
  const modeId = tokenizer.tokenToId(modeTokens[mode]);
  const after = (ids: readonly number[]) => (modeId === undefined ? ids : [modeId, ...ids]);
  return {
    ids: isSource
      ? [...after(tokenizer.encodePair(written).ids)]
      : beginSequence(tokenizer, after(tokenizer.encode(written))),
    maxNewTokens: gaps * (maxGapTokens + 1),
    parts,
    spaced,
  };
}

/**
 * Writes what is missing in a text, where it has `<gap>`: of a model that learned hidden spans, which reads all of the text before
 * it writes, and the gaps in their order. That is a prefix language model (`--objective ul2r`) or an encoder-decoder such as T5. Each
 * gap gets a token or more.
 *
 *     await infillText(writer, "Once upon a time <gap>. They lived happily <gap>."); // { text, gaps }
 *
 * Throws as `gapPrompt` does, and `length` for a text that leaves no room for its gaps.
 */
export async function infillText(
  { decoder, tokenizer, stopIds = endOfText(tokenizer) }: TextWriter,
  text: string,
  { maxGapTokens = 32, mode, ...options }: InfillOptions = {},
): Promise<Infilled> {
  const { readsSources, sourceCapacity } = decoder;
  const asked = gapPrompt(tokenizer, text, { maxGapTokens, mode }, readsSources);
  const { ids, maxNewTokens, parts, spaced } = asked;
  if (readsSources && ids.length > sourceCapacity)
    throw new LineageError(
      "length",
      `the text has ${ids.length} tokens, and the model reads ${sourceCapacity}; shorten it`,
    );
  // A gap takes its sentinel, too; an encoder-decoder writes after its start token.
  const room = Math.floor((decoder.capacity - (readsSources ? 1 : ids.length)) / spaced.length) - 1;
  if (room < 1)
    throw new LineageError(
      "length",
      `the text has ${ids.length} tokens, and the context of ${decoder.capacity} leaves no room for its gaps; shorten it`,
    );
  const sentinels = sentinelsOf(tokenizer);
  const order = new GapOrder(tokenizer, {
    sentinels: sentinels.slice(0, spaced.length),
    // T5's targets end where the sentinel of another gap would stand.
    endIds: [...stopIds, ...sentinels.slice(spaced.length, spaced.length + 1)],
    maxGapTokens: Math.min(maxGapTokens, room),
  });
  const { vocabSize } = tokenizer;
  const prompt = readsSources ? { source: ids } : ids;
  const writing = generate(decoder, [prompt], { ...options, vocabSize, maxNewTokens, constraints: [order] });
  for await (const { finish } of writing) if (finish !== undefined) break;
  const stream = new StreamDecoder(tokenizer);
  for (const id of ids.slice(0, ids.indexOf(sentinels[0]!))) stream.push(id);
  const gaps = order.gaps.map((gap, index) => {
    const written = gap.map((id) => stream.push(id)).join("");
    return spaced[index] && !/^\s/.test(written) ? ` ${written}` : written;
  });
  return { text: parts.map((part, index) => part + (gaps[index] ?? "")).join(""), gaps };
}

/** Sentinels in their order, each followed by text, and then the end. */
class GapOrder implements TokenConstraint {
  readonly gaps: number[][] = [];
  finished = false;
  private readonly hidden: readonly number[];

  constructor(
    tokenizer: Tokenizer,
    private readonly rule: {
      readonly sentinels: readonly number[];
      readonly endIds: readonly number[];
      readonly maxGapTokens: number;
    },
  ) {
    const special = Array.from({ length: tokenizer.vocabSize }, (_, id) => id);
    this.hidden = [...special.filter((id) => tokenizer.isSpecial(id)), ...rule.endIds];
  }

  /** What ends the gap that is being written. */
  private get closers(): readonly number[] {
    const { sentinels, endIds } = this.rule;
    return this.gaps.length < sentinels.length ? [sentinels[this.gaps.length]!] : endIds;
  }

  restrict(logits: Float32Array): void {
    const length = this.gaps.at(-1)?.length ?? Infinity;
    const open = length === 0 ? [] : this.closers;
    const kept = open.map((id) => logits[id]!);
    if (length >= this.rule.maxGapTokens) logits.fill(-Infinity);
    else for (const id of this.hidden) logits[id] = -Infinity;
    open.forEach((id, index) => (logits[id] = kept[index]!));
  }

  accept(id: number): void {
    if (this.closers.includes(id)) {
      if (this.gaps.length < this.rule.sentinels.length) this.gaps.push([]);
      else this.finished = true;
      return;
    }
    this.gaps.at(-1)!.push(id);
    const last = this.gaps.length === this.rule.sentinels.length;
    if (last && this.gaps.at(-1)!.length >= this.rule.maxGapTokens) this.finished = true;
  }
}
