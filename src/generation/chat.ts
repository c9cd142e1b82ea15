import { LineageError } from "../base/errors.js";
import { type ChatMessage, ChatTemplate, type Tokenizer, sourceTemplate } from "../tokenizers/index.js";
import type { Decoder } from "./decoder.js";
import type { Prompt } from "./model.js";
import type { FinishReason } from "./queue.js";
import { type TextOptions, type TextStream, generateText } from "./text.js";

/** How an answer came about. */
export interface AnswerReport {
  /** `stop` when the model ended its turn; `aborted` when the signal did. */
  readonly finish: FinishReason | "aborted";
  readonly promptTokens: number;
  /** Of these, how many the decoder still held from the turns before. */
  readonly reusedTokens: number;
  readonly newTokens: number;
  /** Seconds until the first token, and from there to the last. */
  readonly promptSeconds: number;
  readonly seconds: number;
  /** The oldest messages that were left out, because the conversation no longer fits the context. */
  readonly forgotten: number;
}

export interface ChatOptions {
  readonly stopIds: readonly number[];
  /** Jinja instead of the model's own template, or of the plain one for an encoder-decoder without. */
  readonly template?: string | undefined;
  /** The first message. */
  readonly system?: string | undefined;
  /** Tokens that an answer may have; so many are kept free. Default: a quarter of the context. */
  readonly maxNewTokens?: number | undefined;
}

/**
 * A conversation. Every turn is rendered from all messages by the model's template; what the decoder holds of its
 * beginning is not read again. An encoder reads all of it each time. When it no longer fits with room for an answer, the oldest exchanges are left out, never the
 * system message and never in part, and the report says how many messages that were.
 */
export class Chat {
  readonly messages: ChatMessage[] = [];
  private system: string | null | undefined;
  private readonly template: ChatTemplate;
  private readonly maxNewTokens: number;

  constructor(
    private readonly decoder: Decoder,
    private readonly tokenizer: Tokenizer,
    private readonly options: ChatOptions,
  ) {
    const plain = decoder.readsSources && tokenizer.config.chat_template === undefined;
    this.template = new ChatTemplate(tokenizer, options.template ?? (plain ? sourceTemplate : undefined));
    this.maxNewTokens = options.maxNewTokens ?? Math.floor(decoder.capacity / 4);
    if (options.stopIds.length === 0)
      throw new LineageError(
        "tokenizer",
        "this model names no token that ends a turn, so its answers would never end",
      );
    this.reset(options.system);
  }

  /** Starts over with the same system message, or with another one; with none where it is null. */
  reset(system: string | null | undefined = this.system): void {
    this.system = system;
    this.messages.length = 0;
    if (typeof system === "string") this.messages.push({ role: "system", content: system });
  }

  /** Continues a saved conversation. Throws `data` for what is none. */
  load(messages: unknown): void {
    const valid =
      Array.isArray(messages) &&
      messages.every(
        (message: unknown) =>
          typeof message === "object" &&
          message !== null &&
          "role" in message &&
          ["system", "user", "assistant", "tool"].includes(message.role as string) &&
          "content" in message &&
          typeof message.content === "string",
      );
    if (!valid)
      throw new LineageError(
        "data",
        'this is not a conversation: it must be a list of {"role": "user", "content": "…"}, with the roles system, user, assistant and tool',
      );
    this.messages.splice(0, this.messages.length, ...(messages as ChatMessage[]));
  }

  /** Replaces the last answer; the same seed gives the same one. Throws `argument` where there is none. */
  regenerate(sampling: Parameters<Chat["answer"]>[1] = {}): AsyncGenerator<string, AnswerReport> {
    const last = this.messages.findLastIndex(({ role }) => role === "user");
    if (last < 0) throw new LineageError("argument", "there is no answer yet to replace");
    const { content } = this.messages[last]!;
    this.messages.length = last;
    return this.answer(content, sampling);
  }

  /**
   * Adds a message and writes the answer to it, in pieces of whole characters. An answer that is cut off, by its length or
   * the signal, stays in the conversation as far as it came. Throws `length` for a message that fits no context.
   */
  async *answer(
    content: string,
    sampling: Omit<TextOptions, "maxNewTokens"> = {},
  ): AsyncGenerator<string, AnswerReport> {
    const { decoder, tokenizer, messages } = this;
    messages.push({ role: "user", content });
    let forgotten: number;
    let pieces: TextStream;
    try {
      const fitted = this.fit();
      ({ forgotten } = fitted);
      pieces = generateText({ decoder, tokenizer, stopIds: this.options.stopIds }, fitted.prompt, {
        ...sampling,
        maxNewTokens: this.maxNewTokens,
      });
    } catch (error) {
      messages.pop();
      throw error;
    }
    let text = "";
    try {
      for await (const piece of pieces) {
        text += piece;
        yield piece;
      }
    } catch (error) {
      if (!sampling.signal?.aborted) {
        messages.pop();
        throw error;
      }
    }
    messages.push({ role: "assistant", content: text });
    const { writeSeconds: seconds, ...report } = pieces.progress;
    return { ...report, seconds, finish: pieces.report?.finish ?? "aborted", forgotten };
  }

  /** What the model reads of the conversation, without its oldest exchanges where they do not fit. */
  private fit(): { prompt: Prompt; forgotten: number } {
    const { messages, decoder, template } = this;
    const { capacity, readsSources, sourceCapacity } = decoder;
    const room = readsSources ? sourceCapacity : capacity - this.maxNewTokens;
    const kept = messages[0]?.role === "system" ? 1 : 0;
    for (let forgotten = 0; ;) {
      const ids = readsSources ? template.source(messages) : template.encode(messages);
      if (ids.length <= room) return { prompt: readsSources ? { source: ids } : ids, forgotten };
      // The last message stays; an exchange ends where the next message of the user begins.
      const next = messages.findIndex(({ role }, index) => index > kept && role === "user");
      if (next < 0) {
        throw new LineageError(
          "length",
          readsSources
            ? `the message needs ${ids.length} tokens, but the model reads at most ${room}; shorten the message`
            : `the message needs ${ids.length} tokens, but the context holds ${capacity} and keeps ${this.maxNewTokens} for the answer; shorten the message`,
        );
      }
      messages.splice(kept, next - kept);
      forgotten += next - kept;
    }
  }
}
