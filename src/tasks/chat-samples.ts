import type { Conversation } from "../data/index.js";
import { Decoder, type Prompt, generateText, isSourcePrompt } from "../generation/index.js";
import { type Weights, scaledContext } from "../nn/index.js";
import { ChatTemplate } from "../tokenizers/index.js";
import type { ChatBase } from "./chat-base.js";
import type { FinetuneChatOptions } from "./chat-options.js";

/** A held-out answer that was written at an evaluation, beside the one in the data. */
export interface ChatSample {
  readonly question: string;
  readonly reference: string;
  readonly text: string;
}

export const sampleText = ({ question, reference, text }: ChatSample): string =>
  `  question   ${question}\n  reference  ${reference}\n  written    ${text}`;

/** Writes the last answer of some held-out conversations anew, greedily. */
export class ChatSamples implements Disposable {
  private readonly prompts: readonly { readonly prompt: Prompt; readonly sample: Omit<ChatSample, "text"> }[];
  private readonly most: number;
  private decoder: Decoder | undefined;

  constructor(
    private readonly base: ChatBase,
    held: readonly Conversation[],
    private readonly stopIds: readonly number[],
    options: FinetuneChatOptions,
  ) {
    const { room, kind, tokenizer } = base;
    const template = new ChatTemplate(tokenizer);
    const reads = kind === "encoder-decoder";
    this.most = reads ? Math.min(options.sampleTokens, room - 1) : options.sampleTokens;
    const longest = reads ? room : room - this.most - 1;
    this.prompts = held
      .flatMap(({ messages, tools }) => {
        const last = messages.findLastIndex(({ role }) => role === "assistant");
        const before = messages.slice(0, last);
        if (before.at(-1)?.role !== "user") return [];
        const sample = { question: before.at(-1)!.content, reference: messages[last]!.content };
        const ids = reads ? template.source(before, { tools }) : template.encode(before, { tools });
        return ids.length > longest ? [] : [{ prompt: reads ? { source: ids } : ids, sample }];
      })
      .slice(0, options.samples);
  }

  async write(weights: Weights, signal: AbortSignal | undefined): Promise<ChatSample[]> {
    const { model, tokenizer, room } = this.base;
    const { prompts, most } = this;
    const virtual = scaledContext(model.config) - room;
    if (prompts.length === 0) return [];
    const begun = prompts.map(({ prompt }) => (isSourcePrompt(prompt) ? 1 : prompt.length));
    this.decoder ??= await Decoder.create({
      model,
      weights,
      slots: prompts.length,
      capacity: virtual + most + Math.max(...begun),
    });
    // What slots hold was computed with the weights of then.
    this.decoder.forget();
    const writer = { decoder: this.decoder, tokenizer, stopIds: this.stopIds };
    const streams = prompts.map(({ prompt }) =>
      generateText(writer, prompt, { temperature: 0, maxNewTokens: most, signal }),
    );
    const texts = await Promise.all(streams.map((stream) => stream.all()));
    return prompts.map(({ sample }, place) => ({ ...sample, text: texts[place]!.text }));
  }

  [Symbol.dispose](): void {
    this.decoder?.dispose();
  }
}
