import { Template } from "@huggingface/jinja";
import { LineageError, messageOf } from "../base/errors.js";
import type { Tokenizer } from "./tokenizer.js";

export interface ChatMessage {
  readonly role: "system" | "user" | "assistant" | "tool";
  readonly content: string;
}

export interface RenderOptions {
  /** Whether the text ends where the assistant begins to answer. Default true. */
  readonly addGenerationPrompt?: boolean;
  /** What else the template may ask for. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

/** The ids after the one token that begins a sequence, where the model was trained with it. */
export function beginSequence(tokenizer: Tokenizer, ids: readonly number[]): number[] {
  const { bosId } = tokenizer;
  return bosId !== undefined && tokenizer.addsBos && ids[0] !== bosId ? [bosId, ...ids] : [...ids];
}

/** Private characters around the number of a special token that a message only mentions. */
const [open, close] = ["\uE0F0", "\uE0F1"];
const mention = new RegExp(`${open}(\\d+)${close}`, "g");

/**
 * From messages to token ids: the one way that every command takes. The template is the model's own, Jinja; a special
 * token that a message spells out is text and not the token, so that no message can end its turn or begin another's.
 */
export class ChatTemplate {
  private readonly template: Template;
  private readonly specials: readonly string[];
  private readonly parts: RegExp | undefined;

  /** @param source Jinja; default the tokenizer's own. Throws `tokenizer` where there is none or it is no Jinja. */
  constructor(
    private readonly tokenizer: Tokenizer,
    source: string | undefined = tokenizer.chatTemplate(),
  ) {
    if (source === undefined)
      throw new LineageError(
        "tokenizer",
        "this model has no chat template: neither in tokenizer_config.json, nor as chat_template.jinja, nor in the GGUF's metadata; it continues texts with lineage generate",
      );
    try {
      this.template = new Template(source);
    } catch (error) {
      throw new LineageError("tokenizer", `the chat template cannot be read: ${messageOf(error)}`, {
        cause: error,
      });
    }
    this.specials = tokenizer.definition.added_tokens
      .filter(({ special }) => special)
      .map(({ content }) => content)
      .sort((a, b) => b.length - a.length);
    if (this.specials.length > 0)
      this.parts = new RegExp(
        `(${this.specials.map((text) => text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&")).join("|")})`,
      );
  }

  /** The text that the model reads. Throws `argument` for messages that the template refuses. */
  render(messages: readonly ChatMessage[], options: RenderOptions = {}): string {
    return this.renderMarked(messages, options).replace(mention, (_, index) => this.specials[Number(index)]!);
  }

  /** The token ids that the model reads, BOS once at the start where the model was trained with it. */
  encode(messages: readonly ChatMessage[], options: RenderOptions = {}): number[] {
    const { tokenizer } = this;
    const ids: number[] = [];
    for (const part of this.split(this.renderMarked(messages, options))) {
      const id = this.specials.includes(part) ? tokenizer.tokenToId(part) : undefined;
      if (id !== undefined) ids.push(id);
      else {
        const text = part.replace(mention, (_, index) => this.specials[Number(index)]!);
        for (const textId of tokenizer.encode(text, { parseSpecial: text === part })) ids.push(textId);
      }
    }
    return beginSequence(tokenizer, ids);
  }

  /** The text cut at its special tokens, where some message mentions one; whole where none does. */
  private split(text: string): string[] {
    return text.includes(open) && this.parts ? text.split(this.parts).filter((part) => part !== "") : [text];
  }

  private renderMarked(
    messages: readonly ChatMessage[],
    { addGenerationPrompt = true, variables = {} }: RenderOptions,
  ): string {
    const { config } = this.tokenizer;
    const spelled = (token: unknown) =>
      typeof token === "string" ? token : (token as { content?: string } | null)?.content;
    try {
      return this.template.render({
        ...variables,
        messages: messages.map(({ role, content }) => ({ role, content: this.mark(content) })),
        add_generation_prompt: addGenerationPrompt,
        bos_token: spelled(config.bos_token) ?? "",
        eos_token: spelled(config.eos_token) ?? "",
        pad_token: spelled(config.pad_token) ?? "",
        unk_token: spelled(config.unk_token) ?? "",
      });
    } catch (error) {
      throw new LineageError("argument", `the chat template refuses these messages: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  private mark(content: string): string {
    const clean = content.replaceAll(open, "").replaceAll(close, "");
    return this.specials.reduce(
      (text, special, index) => text.replaceAll(special, `${open}${index}${close}`),
      clean,
    );
  }
}
