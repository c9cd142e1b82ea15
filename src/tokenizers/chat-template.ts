import { LineageError } from "../base/errors.js";
import { JinjaError } from "./jinja/syntax.js";
import { Template } from "./jinja/template.js";
import { type Text, fromAssistant, fromMessage, fromUser } from "./jinja/text.js";
import { Flagged } from "./jinja/values.js";
import { type ChatTurns, turnsOf } from "./chat-turns.js";
import { modeTokens } from "./more-tokens.js";
import type { PlacedId, Tokenizer } from "./tokenizer.js";

/** A message of a conversation. What else it has, such as `name` or `tool_calls`, is for the template. */
export interface ChatMessage {
  readonly role: "system" | "user" | "assistant" | "tool";
  readonly content: string;
  readonly [entry: string]: unknown;
}

export interface RenderOptions {
  /** Whether the text ends where the assistant begins to answer. Default true. */
  readonly addGenerationPrompt?: boolean;
  /** What the assistant may call, as JSON schemas. */
  readonly tools?: readonly unknown[] | undefined;
  /** Texts that the assistant may look things up in. */
  readonly documents?: readonly unknown[] | undefined;
  /** Which of several templates. Default: `tool_use` where there is one and tools are given, else `default`. */
  readonly template?: string | undefined;
  /** What else the template may ask for. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

/** A conversation as the model reads it. */
export interface RenderedChat {
  readonly text: string;
  readonly ids: readonly number[];
  /** The parts `[start, end)` of the text that the template marks as written by the assistant (`{% generation %}`). */
  readonly assistant: readonly (readonly [start: number, end: number])[];
}

/**
 * The ids after the tokens that begin a sequence, where the model was trained with them: the one of the tokenizer, and the
 * mode of a prompt, unless the ids begin with a mode.
 */
export function beginSequence(tokenizer: Tokenizer, ids: readonly number[]): number[] {
  const { bosId, promptId } = tokenizer;
  const begins = bosId !== undefined && (tokenizer.addsBos || ids[0] === bosId);
  const rest = begins && ids[0] === bosId ? ids.slice(1) : [...ids];
  const modes: readonly (string | undefined)[] = Object.values(modeTokens);
  const moded =
    promptId !== undefined && !(rest[0] !== undefined && modes.includes(tokenizer.idToToken(rest[0])));
  return [...(begins ? [bosId] : []), ...(moded ? [promptId] : []), ...rest];
}

/**
 * From messages to token ids: the one way that every command takes. The template is the model's own, Jinja, and reads the
 * messages as they are. A special token that a message spells out is text and not the token, so that no message can end its
 * turn or begin another's.
 */
export class ChatTemplate {
  private readonly templates = new Map<string, Template>();
  private readonly tokens: Readonly<Record<string, unknown>>;
  private readonly special: RegExp | undefined;

  /** @param source Jinja; default the tokenizer's own. Throws `tokenizer` where there is none or it is no Jinja. */
  constructor(
    private readonly tokenizer: Tokenizer,
    source?: string,
  ) {
    const { config, definition } = tokenizer;
    const own = config.chat_template;
    const sources =
      source !== undefined || typeof own === "string"
        ? [{ name: "default", template: source ?? (own as string) }]
        : Array.isArray(own)
          ? own
          : [];
    if (sources.length === 0)
      throw new LineageError(
        "tokenizer",
        "this model has no chat template: neither in tokenizer_config.json, nor as chat_template.jinja, nor in the GGUF's metadata; it continues texts with lineage generate",
      );
    for (const { name, template } of sources) {
      const which = sources.length === 1 ? "the chat template" : `the chat template ${JSON.stringify(name)}`;
      try {
        this.templates.set(name, new Template(template));
      } catch (error) {
        if (!(error instanceof JinjaError)) throw error;
        throw new LineageError("tokenizer", `${which} cannot be read: ${shortened(error.message)}`, {
          cause: error,
        });
      }
    }
    this.tokens = specialTokens(config);
    const contents = definition.added_tokens
      .filter(({ special, content }) => special && content !== "")
      .map(({ content }) => content.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"))
      .sort((a, b) => b.length - a.length);
    if (contents.length > 0) this.special = new RegExp(contents.join("|"), "g");
  }

  /** The text that the model reads. Throws `argument` for messages that the template refuses. */
  render(messages: readonly ChatMessage[], options: RenderOptions = {}): string {
    return this.write(messages, options).text;
  }

  /** The token ids that the model reads, BOS once at the start where the model was trained with it. */
  encode(messages: readonly ChatMessage[], options: RenderOptions = {}): number[] {
    return this.idsOf(this.write(messages, options));
  }

  /** What an encoder reads before an answer is written about it: the same text, within the tokens that the tokenizer puts around one. */
  source(messages: readonly ChatMessage[], options: RenderOptions = {}): number[] {
    const ids: number[] = [];
    const text = this.write(messages, options);
    this.inParts(text, (part, _start, parseSpecial) => {
      for (const id of this.tokenizer.encode(part, { parseSpecial })) ids.push(id);
    });
    const { ids: around, specialMask } = this.tokenizer.encodePair(text.text);
    // Of a text without tokens all around it is before.
    const before = ids.length === 0 ? around.length : specialMask.indexOf(false);
    return [
      ...around.slice(0, before),
      ...ids,
      ...around.slice(before + specialMask.filter((one) => !one).length),
    ];
  }

  /** Text, ids and the assistant's parts. */
  read(messages: readonly ChatMessage[], options: RenderOptions = {}): RenderedChat {
    const text = this.write(messages, options);
    return { text: text.text, ids: this.idsOf(text), assistant: text.ranges(fromAssistant) };
  }

  /**
   * A whole conversation, and which of its tokens the assistant writes: each answer from where the model begins to write to
   * the token that ends its turn. What counts is where the characters of each message came to stand, and not what a template
   * says of itself. Throws `data` for a template that drops a message, changes their order or does not end a turn.
   * @param endIds tokens that end what the model writes. Default: EOS
   */
  turns(
    messages: readonly ChatMessage[],
    {
      endIds = this.tokenizer.eosId === undefined ? [] : [this.tokenizer.eosId],
      ...options
    }: Omit<RenderOptions, "addGenerationPrompt"> & { readonly endIds?: readonly number[] | undefined } = {},
  ): ChatTurns {
    const whole = { ...options, addGenerationPrompt: false };
    const rendered = this.write(messages, whole);
    const tokens = this.placedIdsOf(rendered);
    return turnsOf({
      tokenizer: this.tokenizer,
      messages,
      text: rendered.text,
      places: rendered.messages(),
      tokens,
      endIds,
      textOf: (count, addGenerationPrompt) =>
        this.render(messages.slice(0, count), { ...options, addGenerationPrompt }),
    });
  }

  private write(messages: readonly ChatMessage[], options: RenderOptions): Text {
    const { addGenerationPrompt = true, tools, documents, variables = {} } = options;
    const template = this.choose(options);
    try {
      return template.render(
        {
          ...variables,
          messages: messages.map(
            ({ role, ...rest }, place) =>
              // A template's header of a turn is no part of what the message says.
              new Flagged({ role: new Flagged(role, fromUser), ...rest }, fromUser | fromMessage(place)),
          ),
          tools: tools ?? null,
          documents: documents ?? null,
          add_generation_prompt: addGenerationPrompt,
        },
        this.tokens,
      );
    } catch (error) {
      if (!(error instanceof JinjaError)) throw error;
      const reason = shortened(error.message);
      if (error.kind === "limit")
        throw new LineageError("tokenizer", `the chat template is stopped: ${reason}`, { cause: error });
      throw new LineageError("argument", `the chat template refuses these messages: ${reason}`, {
        cause: error,
      });
    }
  }

  private choose({ template: name, tools }: RenderOptions): Template {
    const { templates } = this;
    const wanted = name ?? (tools && templates.has("tool_use") ? "tool_use" : "default");
    const template = templates.get(wanted);
    if (template) return template;
    throw new LineageError(
      "argument",
      `there is no chat template named ${JSON.stringify(wanted)}; this model has ${[...templates.keys()].map((known) => JSON.stringify(known)).join(", ")}`,
    );
  }

  private idsOf(rendered: Text): number[] {
    const ids: number[] = [];
    this.inParts(rendered, (text, _start, parseSpecial) => {
      for (const id of this.tokenizer.encode(text, { parseSpecial })) ids.push(id);
    });
    return beginSequence(this.tokenizer, ids);
  }

  /** The same ids, with the part of the text that each stands for; none for a BOS that is put before them. */
  private placedIdsOf(rendered: Text): PlacedId[] {
    const { tokenizer } = this;
    const tokens: PlacedId[] = [];
    this.inParts(rendered, (text, from, parseSpecial) => {
      for (const { id, start, end } of tokenizer.encodePlaced(text, { parseSpecial }))
        tokens.push({ id, start: from + start, end: from + end });
    });
    const ids = tokens.map(({ id }) => id);
    return beginSequence(tokenizer, ids).length > ids.length
      ? [{ id: tokenizer.bosId!, start: 0, end: 0 }, ...tokens]
      : tokens;
  }

  /**
   * Gives the parts of a text that are encoded each for itself, and whether special tokens are found in them. Special tokens
   * are the ones that the template wrote in whole. Where a message spells one out, the text between the template's special
   * tokens around it is encoded as plain text; everything else is encoded as it stands.
   */
  private inParts(rendered: Text, take: (text: string, start: number, parseSpecial: boolean) => void): void {
    const { special } = this;
    const { text } = rendered;
    const user = rendered.ranges(fromUser);
    const found = special ? [...text.matchAll(special)] : [];
    let at = 0;
    const places = found.map(({ index: start, 0: { length } }) => {
      while (at < user.length && user[at]![1] <= start) at++;
      return { start, end: start + length, mentioned: at < user.length && user[at]![0] < start + length };
    });
    const add = (start: number, end: number, parseSpecial: boolean): void => {
      take(text.slice(start, end), start, parseSpecial);
    };
    let start = 0;
    let plainFrom: number | undefined;
    let last = 0;
    for (const place of places) {
      if (place.mentioned) plainFrom ??= last;
      else {
        if (plainFrom !== undefined) {
          add(start, plainFrom, true);
          add(plainFrom, place.start, false);
          start = place.start;
          plainFrom = undefined;
        }
        last = place.end;
      }
    }
    if (plainFrom !== undefined) {
      add(start, plainFrom, true);
      add(plainFrom, text.length, false);
    } else add(start, text.length, true);
  }
}

const shortened = (message: string): string => (message.length > 400 ? `${message.slice(0, 400)}…` : message);

/** The special tokens by the names that transformers gives a template; those that the model lacks are undefined. */
function specialTokens(config: Tokenizer["config"]): Record<string, unknown> {
  const spelled = (token: unknown): string | undefined => {
    const text =
      typeof token === "object" && token !== null ? (token as { content?: unknown }).content : token;
    return typeof text === "string" ? text : undefined;
  };
  const tokens: Record<string, unknown> = {};
  for (const name of ["bos", "eos", "unk", "sep", "pad", "cls", "mask"]) {
    const token = spelled(config[`${name}_token`]);
    if (token !== undefined) tokens[`${name}_token`] = token;
  }
  const additional = config["additional_special_tokens"];
  if (Array.isArray(additional) && additional.length > 0)
    tokens["additional_special_tokens"] = additional.map(spelled).filter((token) => token !== undefined);
  const extra = config["extra_special_tokens"];
  if (typeof extra === "object" && extra !== null && !Array.isArray(extra)) {
    for (const [name, token] of Object.entries(extra)) {
      const text = spelled(token);
      if (text !== undefined && name.endsWith("_token")) tokens[name] = text;
    }
  }
  return tokens;
}
