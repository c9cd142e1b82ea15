import { LineageError } from "../base/errors.js";
import type { ChatTemplate } from "../tokenizers/index.js";
import type { Conversation, Message } from "./conversation.js";
import type { PartlyTrained } from "./packing.js";
import { refuseLong, refuseRows, rowsOf } from "./row-refusals.js";
import type { BadRow } from "./table.js";

/** What is learned of a conversation: the assistant's turns, the last of them alone, or every token. */
export const trainedParts = ["assistant", "last", "all"] as const;
export type TrainedPart = (typeof trainedParts)[number];

/** What becomes of a conversation that is longer than a row. */
export const longFates = ["cut", "skip", "split", "refuse"] as const;
/**
 * `cut` takes its end off; `skip` leaves it out; `split` makes several of it, each of whole exchanges after the system
 * message, and cuts an exchange that is longer by itself; `refuse` throws.
 */
export type LongFate = (typeof longFates)[number];

export interface EncodeConversationOptions {
  readonly train?: TrainedPart;
  /** Tokens that end what the model writes. Default: the tokenizer's EOS. */
  readonly endIds?: readonly number[] | undefined;
}

/** A conversation as the model sees it. */
export interface EncodedConversation extends PartlyTrained {
  readonly row: number;
  /** Which of the row's answers it ends with. */
  readonly answer?: string;
  readonly tokens: Int32Array;
  /** Tokens that end the assistant's turns. */
  readonly endIds: readonly number[];
  /** Whether the template does not end the last turn, so that a token was added. */
  readonly addedEnd: boolean;
}

/**
 * From messages to ids and loss mask, through the model's own chat template: the ids that `ChatTemplate.encode` gives, one
 * BOS at most, and of them trained those that the assistant writes, the token that ends each of its turns included. Throws
 * `data` for a template that drops, reorders or does not end turns, and for a conversation of which nothing is trained.
 */
export function encodeConversation(
  template: ChatTemplate,
  { row, messages, tools, answer }: Conversation,
  { train = "assistant", endIds }: EncodeConversationOptions = {},
): EncodedConversation {
  const { ids, writers, endIds: ends, added } = template.turns(messages, { tools, endIds });
  const last = messages.findLastIndex(({ role }) => role === "assistant");
  const learned = messages.map(
    (message, place) => message.train !== false && (train !== "last" || place === last),
  );
  const trained = Uint8Array.from(writers, (writer, index) =>
    Number(train === "all" ? index > 0 : writer >= 0 && learned[writer]!),
  );
  // The first token follows on nothing.
  trained[0] = 0;
  if (!trained.includes(1))
    throw new LineageError(
      "data",
      messages.some(({ role }) => role === "assistant")
        ? "no token of it is trained: all its answers are marked as not to be learned"
        : "no token of it is trained: it has no answer of the assistant",
    );
  return {
    row,
    ...(answer !== undefined && { answer }),
    tokens: Int32Array.from(ids),
    trained,
    endIds: ends,
    addedEnd: added,
  };
}

/** What became of the conversations of a file. */
export interface ConversationCounts {
  readonly conversations: number;
  /** Answers that are learned each by itself, where conversations are not learned as a whole. */
  readonly answers?: number;
  readonly tokens: number;
  readonly trainedTokens: number;
  /** Rows that were longer than `maxLength`. */
  readonly long: readonly number[];
  /** Rows that were left out, because they were too long, or because nothing trained was left of them. */
  readonly dropped: readonly number[];
  /** Rows that became several, and how many. */
  readonly split: readonly { readonly row: number; readonly parts: number }[];
  /** Tokens that were cut off, and how many of them were trained ones. */
  readonly cutTokens: number;
  readonly cutTrainedTokens: number;
}

export interface EncodedConversations extends ConversationCounts {
  readonly rows: readonly EncodedConversation[];
  /** Rows that the template or the mask refused, where they may be left out. */
  readonly bad: readonly BadRow[];
  readonly endIds: readonly number[];
  /** Rows whose last turn the template does not end. */
  readonly addedEnds: number;
}

export interface EncodeConversationsOptions extends EncodeConversationOptions {
  /** What the rows come from, for messages. */
  readonly name: string;
  /** Tokens of a conversation at most. */
  readonly maxLength: number;
  readonly long?: LongFate;
  readonly skipBadRows?: boolean | undefined;
}

/**
 * All conversations of a file as ids and masks, with a count of everything that was cut. Throws `data` with the rows that the
 * template refuses or of which nothing is trained, unless `skipBadRows` leaves them out.
 */
export function encodeConversations(
  template: ChatTemplate,
  conversations: readonly Conversation[],
  { name, maxLength, long = "cut", skipBadRows, ...options }: EncodeConversationsOptions,
): EncodedConversations {
  const rows: EncodedConversation[] = [];
  const bad: BadRow[] = [];
  const [longRows, dropped]: [number[], number[]] = [[], []];
  const split: { row: number; parts: number }[] = [];
  let [cutTokens, cutTrainedTokens, addedEnds] = [0, 0, 0];
  const endIds = new Set<number>();
  const encode = (conversation: Conversation) => encodeConversation(template, conversation, options);
  const keep = (encoded: EncodedConversation): boolean => {
    const kept = cut(encoded, maxLength);
    const lost = encoded.tokens.length - kept.tokens.length;
    const has = kept.trained.includes(1);
    cutTokens += has ? lost : encoded.tokens.length;
    cutTrainedTokens += trainedIn(encoded) - (has ? trainedIn(kept) : 0);
    if (has) rows.push(kept);
    return has;
  };
  for (const conversation of conversations) {
    const { row } = conversation;
    let encoded: EncodedConversation;
    try {
      encoded = encode(conversation);
    } catch (error) {
      if (!(error instanceof LineageError) || !["data", "argument"].includes(error.code)) throw error;
      bad.push({ number: row, reason: `cannot be learned: ${error.message}` });
      continue;
    }
    for (const id of encoded.endIds) endIds.add(id);
    if (encoded.addedEnd) addedEnds++;
    if (encoded.tokens.length <= maxLength) {
      rows.push(encoded);
      continue;
    }
    longRows.push(row);
    if (long === "refuse") continue;
    if (long === "skip") {
      dropped.push(row);
      cutTokens += encoded.tokens.length;
      cutTrainedTokens += trainedIn(encoded);
      continue;
    }
    const parts = long === "split" ? partsOf(conversation, maxLength, encode) : [encoded];
    const kept = parts.filter(keep).length;
    if (kept === 0) dropped.push(row);
    else if (parts.length > 1) split.push({ row, parts: kept });
  }
  if (long === "refuse") refuseLong(name, longRows, maxLength, "cut, skip or split");
  refuseRows(name, {
    bad,
    skipBadRows,
    rows: rows.length,
    conversations: conversations.length,
    dropped: dropped.length,
    maxLength,
  });
  return {
    rows,
    bad,
    conversations: rows.length,
    tokens: rows.reduce((sum, { tokens }) => sum + tokens.length, 0),
    trainedTokens: rows.reduce((sum, one) => sum + trainedIn(one), 0),
    long: longRows,
    dropped,
    split,
    cutTokens,
    cutTrainedTokens,
    addedEnds,
    endIds: [...endIds],
  };
}

const trainedIn = ({ trained }: EncodedConversation): number => trained.reduce((sum, one) => sum + one, 0);

const cut = (encoded: EncodedConversation, length: number): EncodedConversation => ({
  ...encoded,
  tokens: encoded.tokens.subarray(0, length),
  trained: encoded.trained.subarray(0, length),
});

/** A conversation in parts of whole exchanges, each after the system message, of at most `maxLength` tokens where they can be. */
function partsOf(
  conversation: Conversation,
  maxLength: number,
  encode: (conversation: Conversation) => EncodedConversation,
): EncodedConversation[] {
  const { messages } = conversation;
  const system = messages.filter(({ role }) => role === "system");
  const exchanges: Message[][] = [];
  for (const message of messages.slice(system.length)) {
    const current = exchanges.at(-1);
    const begins = message.role === "user" && current?.some(({ role }) => role === "assistant");
    if (!current || begins) exchanges.push([message]);
    else current.push(message);
  }
  const learned = (part: readonly Message[]) =>
    part.some(({ role, train }) => role === "assistant" && train !== false);
  const parts: EncodedConversation[] = [];
  let held: { messages: Message[]; encoded: EncodedConversation } | undefined;
  for (const exchange of exchanges) {
    const longer = [...(held?.messages ?? system), ...exchange];
    if (!learned(longer)) continue;
    const together = encode({ ...conversation, messages: longer });
    if (held && together.tokens.length > maxLength) {
      parts.push(held.encoded);
      held = undefined;
      const alone = [...system, ...exchange];
      if (learned(alone)) held = { messages: alone, encoded: encode({ ...conversation, messages: alone }) };
    } else held = { messages: longer, encoded: together };
  }
  if (held) parts.push(held.encoded);
  return parts;
}

/** What became of the rows, as a sentence for a person. */
export function describeConversations(
  name: string,
  {
    conversations,
    answers,
    tokens,
    trainedTokens,
    long,
    dropped,
    split,
    cutTokens,
    cutTrainedTokens,
  }: ConversationCounts,
  maxLength: number,
): string {
  const count = (value: number) => value.toLocaleString("en-US");
  const fate = [
    ...(dropped.length > 0 ? [`${count(dropped.length)} left out (${rowsOf(dropped)})`] : []),
    ...(split.length > 0
      ? [`${count(split.length)} split into ${count(split.reduce((sum, { parts }) => sum + parts, 0))}`]
      : []),
    ...(cutTokens > 0
      ? [`${count(cutTokens)} tokens cut off, ${count(cutTrainedTokens)} of them trained ones`]
      : []),
  ];
  return (
    `${name}: ${count(conversations)} conversations${answers === undefined ? "" : ` with ${count(answers)} answers`}, ${count(tokens)} tokens, of which ${count(trainedTokens)} are trained` +
    (long.length > 0
      ? `; ${rowsOf(long)} ${new Set(long).size === 1 ? "is" : "are"} longer than ${count(maxLength)} tokens${fate.length > 0 ? `: ${fate.join("; ")}` : ""}`
      : "")
  );
}
