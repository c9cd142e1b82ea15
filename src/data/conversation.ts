import type { ChatMessage } from "../tokenizers/index.js";

/** A message of a conversation; a row may say that one of the assistant's is not to be learned. */
export interface Message extends ChatMessage {
  /** Default: the assistant's are. */
  readonly train?: boolean;
}

/** What every row has: its number in the file, and what the assistant may call. */
interface Numbered {
  readonly row: number;
  /** As JSON schemas. */
  readonly tools?: readonly unknown[];
}

/** Messages in turn, of which the assistant's are to be learned. */
export interface Conversation extends Numbered {
  readonly messages: readonly Message[];
  /** Which of the row's answers it ends with, where the row has several or one that was judged: `chosen`, `rank 2`, `bad`. */
  readonly answer?: string;
}

/** Two answers to one conversation, of which people preferred the first. */
export interface Preference extends Numbered {
  /** What both answer. */
  readonly messages: readonly Message[];
  /** Most often one message of the assistant. */
  readonly chosen: readonly Message[];
  readonly rejected: readonly Message[];
  /** By how much the chosen one is better, where the data says: the difference of the scores, or a grade. */
  readonly margin?: number;
}

/** Several answers to one conversation. */
export interface Ranking extends Numbered {
  readonly messages: readonly Message[];
  /** The best one first. */
  readonly answers: readonly (readonly Message[])[];
  /** For each answer how many are better; equal for answers that are equally good. */
  readonly ranks: readonly number[];
}

/** An answer with a thumb: what KTO learns from. */
export interface Verdict extends Numbered {
  readonly messages: readonly Message[];
  readonly answer: readonly Message[];
  readonly good: boolean;
}

/** What rows of each layout are: the names that `--format` takes. */
export interface RowOf {
  readonly messages: Conversation;
  readonly sharegpt: Conversation;
  readonly alpaca: Conversation;
  readonly completion: Conversation;
  readonly preference: Preference;
  readonly ranking: Ranking;
  readonly verdict: Verdict;
}
