import {
  type Batch,
  type BatchSource,
  type Conversation,
  type ConversationCounts,
  type EncodedConversations,
  PackedLoader,
  type PackingOptions,
  describeConversations,
  encodeAnswers,
  encodeConversations,
  packedBatches,
  pairSource,
  pairsOnce,
} from "../data/index.js";
import { endOfText } from "../generation/index.js";
import { rotaryReach, scaledContext } from "../nn/index.js";
import { packedAnswersObjective, sequenceToSequenceObjective } from "../objectives/index.js";
import { ChatTemplate } from "../tokenizers/index.js";
import type { Objective } from "../training/index.js";
import type { ChatBase, DecoderBase, ReaderBase } from "./chat-base.js";
import type { FinetuneChatOptions } from "./chat-options.js";

/** What a run learns from and is measured on. */
export interface ChatData {
  readonly name: string;
  readonly training: readonly Conversation[];
  readonly heldName: string;
  readonly held: readonly Conversation[];
}

/** Conversations as batches, by what the base is. */
export interface ChatRows {
  readonly objective: Objective;
  readonly source: BatchSource;
  /** Batches of a pass over the training conversations. */
  readonly batches: number;
  readonly heldOut: () => Iterable<Batch>;
  /** Names and sizes of the batches' dimensions where the program leaves them open: of the largest batch. */
  readonly sizes: Readonly<Record<string, number>>;
  /** Rows of a batch and their lengths, in words. */
  readonly shape: string;
  readonly training: ConversationCounts;
  readonly held: ConversationCounts;
  /** Tokens that end an answer. */
  readonly stopIds: readonly number[];
}

export interface ChatRowsOptions extends FinetuneChatOptions {
  /** Tokens of a conversation at most; of an encoder-decoder those of what is read, and of an answer. */
  readonly maxLength: number;
}

type Tell = (sentence: string, data: object) => void;

/** Encodes the conversations of a run as its base reads them. Throws as `encodeConversations` and `encodeAnswers`. */
export const chatRows = (base: ChatBase, data: ChatData, options: ChatRowsOptions, tell: Tell): ChatRows =>
  base.kind === "decoder" ? packedRows(base, data, options, tell) : answerRows(base, data, options, tell);

/** Tokens of a packed row at least, so that short conversations share one, and what lengths are rounded up to. */
const [leastRow, rowStep] = [256, 64];

/** Tokens of a row, and rows of a batch. */
function shapeOf(
  parts: readonly EncodedConversations[],
  maxLength: number,
  groupOf: (length: number) => number,
  { maxTokens, seed }: FinetuneChatOptions,
): Omit<PackingOptions, "seed"> {
  const longest = Math.max(...parts.flatMap(({ rows }) => rows.map(({ tokens }) => tokens.length)));
  const wanted = Math.max(longest, Math.min(leastRow, maxTokens));
  const sequenceLength = Math.max(longest, Math.min(maxLength, Math.ceil(wanted / rowStep) * rowStep));
  const { rowsOfEpoch } = new PackedLoader(parts[0]!.rows, { batchSize: 1, sequenceLength, seed, groupOf });
  const fitting = Math.floor(maxTokens / sequenceLength);
  return { batchSize: Math.max(1, Math.min(fitting, rowsOfEpoch)), sequenceLength, groupOf };
}

/** Tokens that the fullest batch predicts, and a little more: other orders make other batches. */
function mostTrained(batches: Iterable<Batch>): number {
  let most = 1;
  for (const { counts } of batches) most = Math.max(most, ...Object.values(counts));
  return Math.ceil(1.1 * most);
}

/** Rows of several conversations each, for a decoder. */
function packedRows(
  { model, tokenizer, stopIds, room }: DecoderBase,
  data: ChatData,
  options: ChatRowsOptions,
  tell: Tell,
): ChatRows {
  const { train, long, skipBadRows, maxLength, seed } = options;
  const ends = stopIds ?? endOfText(tokenizer);
  const template = new ChatTemplate(tokenizer);
  const encode = (name: string, conversations: readonly Conversation[]): EncodedConversations => {
    const found = encodeConversations(template, conversations, {
      ...{ name, maxLength, long, train, skipBadRows },
      endIds: ends,
    });
    tell(describeConversations(name, found, maxLength), { ...found, rows: undefined });
    if (found.addedEnds > 0)
      tell(
        `the chat template does not end the last turn; ${tokenizer.idToToken(found.endIds[0]!) ?? ""} is added to it`,
        { addedEnds: found.addedEnds },
      );
    return found;
  };
  const training = encode(data.name, data.training);
  const held = encode(data.heldName, data.held);
  // Positions of a model whose angles depend on the length of a text.
  const virtual = scaledContext(model.config) - room;
  const groupOf = (length: number) => rotaryReach(model.config, length + virtual);
  const shape = shapeOf([training, held], maxLength, groupOf, options);
  const source = new PackedLoader(training.rows, { ...shape, seed }, data.name);
  return {
    objective: packedAnswersObjective(model, shape),
    source,
    batches: source.rowsOfEpoch / shape.batchSize,
    heldOut: () => packedBatches(held.rows, shape),
    sizes: { trained: mostTrained(packedBatches(training.rows, shape)) },
    shape: `${shape.batchSize} ${shape.batchSize === 1 ? "row" : "rows"} of ${shape.sequenceLength} tokens`,
    training,
    held,
    stopIds: [...new Set([...training.endIds, ...ends])],
  };
}

/** A row for each answer, for an encoder-decoder. */
function answerRows(
  { system, model, tokenizer, stopIds }: ReaderBase,
  data: ChatData,
  options: ChatRowsOptions,
  tell: Tell,
): ChatRows {
  const { train, long, skipBadRows, maxLength, maxTokens, seed } = options;
  const template = new ChatTemplate(tokenizer);
  const encode = (name: string, conversations: readonly Conversation[]) => {
    const shared = { name, maxLength, long, train, skipBadRows };
    const found = encodeAnswers(template, tokenizer, conversations, shared);
    tell(describeConversations(name, found, maxLength), { ...found, rows: undefined });
    return found;
  };
  const training = encode(data.name, data.training);
  const held = encode(data.heldName, data.held);
  const batch = { padId: model.config.padTokenId, startId: system.startId(model.config), maxTokens };
  const source = pairSource(training.rows, { ...batch, seed });
  const longest = Math.max(...training.rows.map((row) => Math.max(row.source.length, row.target.length)));
  const rows = Math.max(1, Math.min(training.rows.length, Math.floor(maxTokens / longest)));
  return {
    objective: sequenceToSequenceObjective(model),
    source,
    batches: source.batches,
    heldOut: () => pairsOnce(held.rows, batch),
    sizes: { batch: rows, source: longest, target: longest },
    shape: `answers of about ${maxTokens} tokens`,
    training,
    held,
    stopIds: stopIds ?? endOfText(tokenizer.target),
  };
}
