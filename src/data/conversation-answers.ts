import { LineageError } from "../base/errors.js";
import { type ChatTemplate, type Tokenizer, targetIds } from "../tokenizers/index.js";
import type { Conversation, Message } from "./conversation.js";
import type { ConversationCounts, EncodeConversationsOptions } from "./conversation-rows.js";
import type { TextPair } from "./pairs.js";
import { refuseLong, refuseRows } from "./row-refusals.js";
import type { BadRow } from "./table.js";

// Conversations for an encoder-decoder: the encoder reads what was said so far, and the decoder learns to write the answer.

/** An answer and what was said before it. */
export interface EncodedAnswer extends TextPair {
  readonly row: number;
  /** Which of the row's answers it is, where the row has several or one that was judged. */
  readonly answer?: string;
  /** Tokens of the two that were cut off. */
  readonly cutTokens: number;
}

export interface EncodedAnswers extends ConversationCounts {
  readonly rows: readonly EncodedAnswer[];
  /** Rows that the template refused, or of which nothing is learned, where they may be left out. */
  readonly bad: readonly BadRow[];
}

/** Answers of a conversation that are learned, by their places. */
function learnedPlaces(messages: readonly Message[], { train }: EncodeConversationsOptions): number[] {
  if (train === "all")
    throw new LineageError(
      "argument",
      "an encoder-decoder reads the conversation and learns its answers; choose --train assistant or last",
    );
  const places = [...messages.keys()].filter((place) => messages[place]!.role === "assistant");
  return (train === "last" ? places.slice(-1) : places).filter((place) => messages[place]!.train !== false);
}

/**
 * The source of an answer, in at most `maxLength` tokens: the oldest exchanges are left out, never the system's message, and of
 * what is longer by itself the end is cut off before the tokens that end a source. `whole` is its length before.
 */
function sourceOf(
  template: ChatTemplate,
  messages: readonly Message[],
  tools: readonly unknown[] | undefined,
  maxLength: number,
): { readonly source: readonly number[]; readonly whole: number } {
  const first = messages[0]?.role === "system" ? 1 : 0;
  let kept = messages;
  let source = template.source(kept, { tools });
  const whole = source.length;
  while (source.length > maxLength) {
    const next = kept.findIndex(({ role }, place) => place > first && role === "user");
    if (next < 0) return { source: [...source.slice(0, maxLength - 1), source.at(-1)!], whole };
    kept = [...kept.slice(0, first), ...kept.slice(next)];
    source = template.source(kept, { tools });
  }
  return { source, whole };
}

/**
 * All answers of conversations, each with what was said before it as its source, and a count of everything that was cut. An
 * answer that is cut has no end: the model does not learn to stop there. Throws `data` with the rows that the template refuses
 * or of which nothing is learned, unless `skipBadRows` leaves them out.
 */
export function encodeAnswers(
  template: ChatTemplate,
  tokenizer: Tokenizer,
  conversations: readonly Conversation[],
  options: EncodeConversationsOptions,
): EncodedAnswers {
  const { name, maxLength, long = "cut", skipBadRows } = options;
  if (long === "split")
    throw new LineageError(
      "argument",
      "an encoder-decoder has every answer of a conversation by itself, so there is nothing to split; choose --long cut, skip or refuse",
    );
  const rows: EncodedAnswer[] = [];
  const bad: BadRow[] = [];
  const [longRows, dropped] = [new Set<number>(), new Set<number>()];
  let [tokens, trainedTokens, cutTokens, cutTrainedTokens] = [0, 0, 0, 0];
  for (const { row, messages, tools, answer } of conversations) {
    const places = learnedPlaces(messages, options);
    if (places.length === 0) {
      bad.push({
        number: row,
        reason: "cannot be learned: it has no answer of the assistant that is learned",
      });
      continue;
    }
    try {
      for (const place of places) {
        const target = targetIds(tokenizer, messages[place]!.content);
        const { source, whole } = sourceOf(template, messages.slice(0, place), tools, maxLength);
        const cutTarget = Math.max(0, target.length - maxLength);
        const cutSource = whole - source.length;
        if (cutSource + cutTarget > 0) longRows.add(row);
        if (long !== "cut" && cutSource + cutTarget > 0) {
          dropped.add(row);
          cutTokens += whole + target.length;
          cutTrainedTokens += target.length;
          continue;
        }
        cutTokens += cutSource + cutTarget;
        cutTrainedTokens += cutTarget;
        tokens += source.length + target.length - cutTarget;
        trainedTokens += target.length - cutTarget;
        rows.push({
          row,
          ...(answer !== undefined && { answer }),
          source,
          target: target.slice(0, maxLength),
          cutTokens: cutSource + cutTarget,
        });
      }
    } catch (error) {
      if (!(error instanceof LineageError) || !["data", "argument"].includes(error.code)) throw error;
      bad.push({ number: row, reason: `cannot be learned: ${error.message}` });
    }
  }
  if (long === "refuse") refuseLong(name, [...longRows], maxLength, "cut or skip");
  refuseRows(name, {
    bad,
    skipBadRows,
    rows: rows.length,
    conversations: conversations.length,
    dropped: dropped.size,
    maxLength,
  });
  return {
    rows,
    bad,
    conversations: new Set(rows.map(({ row }) => row)).size,
    answers: rows.length,
    tokens,
    trainedTokens,
    long: [...longRows],
    dropped: [...dropped],
    split: [],
    cutTokens,
    cutTrainedTokens,
  };
}
