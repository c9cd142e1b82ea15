import { LineageError } from "../base/errors.js";
import type { ChatMessage } from "./chat-template.js";
import type { PlacedId, Tokenizer } from "./tokenizer.js";

/** A conversation as ids, and which of them the assistant writes. */
export interface ChatTurns {
  readonly text: string;
  readonly ids: readonly number[];
  /**
   * For each id the place of the assistant's message that it belongs to, from the first token that the model writes to the
   * one that ends its turn; -1 for what the model only reads.
   */
  readonly writers: Int32Array;
  /** The tokens that end the assistant's turns, each once. */
  readonly endIds: readonly number[];
  /** Whether the template does not end the last turn, so that a token was added. */
  readonly added: boolean;
}

interface Span {
  readonly start: number;
  readonly end: number;
}

/** What is known of a conversation that a template has written. */
export interface RenderedTurns {
  readonly tokenizer: Tokenizer;
  readonly messages: readonly ChatMessage[];
  readonly text: string;
  /** Where the characters of each message stand. */
  readonly places: ReadonlyMap<number, Span>;
  readonly tokens: readonly PlacedId[];
  /** Tokens that end what the model writes. */
  readonly endIds: readonly number[];
  /** The text of the first `count` messages, which ends where the assistant begins to answer, or before that. */
  readonly textOf: (count: number, addGenerationPrompt: boolean) => string;
}

const named = (messages: readonly ChatMessage[], place: number): string =>
  `message ${place + 1} (${messages[place]!.role})`;

const saysSomething = ({ content, ...message }: ChatMessage): boolean =>
  (typeof content === "string" && content.trim() !== "") ||
  (Array.isArray(message["tool_calls"]) && message["tool_calls"].length > 0);

/** Finds the assistant's turns. Throws `data` for a template that does not keep all messages in their order. */
export function turnsOf(rendered: RenderedTurns): ChatTurns {
  const { messages, text, tokens } = rendered;
  checkOrder(rendered);
  const ids = tokens.map(({ id }) => id);
  const writers = new Int32Array(tokens.length + 1).fill(-1);
  const ends = new Set<number>();
  let added: number | undefined;
  let before = 0;
  messages.forEach((message, place) => {
    const span = rendered.places.get(place);
    if (message.role !== "assistant" || !span) {
      before = Math.max(before, span?.end ?? 0);
      return;
    }
    const start = startOf(rendered, place, before);
    const next = nextStart(rendered, place);
    const closing = closingToken(rendered, span.end, next);
    if (closing === undefined) {
      if (place < messages.length - 1) throw noEnd(rendered, place);
      added = rendered.endIds[0] ?? [...ends][0];
      if (added === undefined) throw noEnd(rendered, place);
    }
    const end = closing === undefined ? text.length : tokens[closing]!.end;
    tokens.forEach((token, index) => {
      const inside =
        token.start === token.end
          ? token.start >= start && token.start < end
          : token.start < end && token.end > start;
      if (inside && (closing === undefined || index <= closing)) writers[index] = place;
    });
    ends.add(closing === undefined ? added! : ids[closing]!);
    before = end;
  });
  if (added !== undefined) {
    ids.push(added);
    writers[ids.length - 1] = messages.length - 1;
  }
  return {
    text,
    ids,
    writers: writers.subarray(0, ids.length),
    endIds: [...ends],
    added: added !== undefined,
  };
}

function checkOrder({ messages, places }: RenderedTurns): void {
  let last: { place: number; span: Span } | undefined;
  messages.forEach((message, place) => {
    const span = places.get(place);
    if (!span) {
      if (saysSomething(message))
        throw new LineageError(
          "data",
          `the chat template drops ${named(messages, place)}: the model would never see it; give a template that keeps every turn`,
        );
      return;
    }
    // A system message may stand within the turn of the user, and templates put it there.
    if (message.role === "system") return;
    if (last && span.start < last.span.end)
      throw new LineageError(
        "data",
        `the chat template writes ${named(messages, place)} before the end of ${named(messages, last.place)}; give a template that keeps the order`,
      );
    last = { place, span };
  });
}

/** Where the next message's own characters begin. */
function nextStart({ messages, places, text }: RenderedTurns, place: number): number {
  for (let next = place + 1; next < messages.length; next++) {
    const span = places.get(next);
    if (span && span.start >= places.get(place)!.end) return span.start;
  }
  return text.length;
}

/** Where the model begins to write the message at a place. */
function startOf({ places, text, textOf }: RenderedTurns, place: number, before: number): number {
  const first = places.get(place)!.start;
  const fits = (start: number): boolean => start >= before && start <= first;
  const prompt = place === 0 ? undefined : orNothing(() => textOf(place, true));
  if (prompt === undefined) return first;
  if (text.startsWith(prompt) && fits(prompt.length)) return prompt.length;
  // A template that writes earlier turns otherwise than the last one: what it ends a prompt with stands there all the same.
  const without = orNothing(() => textOf(place, false));
  const opening = without !== undefined && prompt.startsWith(without) ? prompt.slice(without.length) : "";
  const at = opening === "" ? -1 : text.lastIndexOf(opening, first - opening.length);
  return at >= before && fits(at + opening.length) ? at + opening.length : first;
}

/** A template may refuse a part of a conversation that it takes as a whole. */
function orNothing<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch (error) {
    if (error instanceof LineageError && error.code === "argument") return undefined;
    throw error;
  }
}

/** The token that ends the turn whose text ends at `from`: one that the model is known to end by, else a special one. */
function closingToken(
  { tokenizer, tokens, endIds }: RenderedTurns,
  from: number,
  to: number,
): number | undefined {
  const gap = tokens.flatMap(({ start, end }, index) =>
    start >= from && end <= to && end > start ? [index] : [],
  );
  const idOf = (index: number): number => tokens[index]!.id;
  return (
    gap.find((index) => endIds.includes(idOf(index))) ??
    gap.find((index) => tokenizer.isSpecial(idOf(index)) && idOf(index) !== tokenizer.bosId)
  );
}

const noEnd = ({ messages }: RenderedTurns, place: number): LineageError =>
  new LineageError(
    "data",
    `the chat template writes no token that ends a turn after ${named(messages, place)}, so the model would not learn to stop; give a template that does`,
  );
