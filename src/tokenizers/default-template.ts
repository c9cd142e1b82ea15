import { LineageError } from "../base/errors.js";
import { withTokens } from "./more-tokens.js";
import { Tokenizer } from "./tokenizer.js";

// Chat templates for models that have none.

const [turnStart, turnEnd] = ["<|im_start|>", "<|im_end|>"];

/** ChatML: each message between two tokens of its own. */
const chatMl =
  "{% for message in messages %}" +
  "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}" +
  "{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/** The prompt of Alpaca (Taori et al. 2023), turn after turn, each answer closed by EOS. */
export const alpacaTemplate =
  "{% if messages[0]['role'] == 'system' %}" +
  "{{ messages[0]['content'] }}{% set turns = messages[1:] %}" +
  "{% else %}" +
  "{{ 'Below is an instruction that describes a task. Write a response that appropriately completes the request.' }}{% set turns = messages %}" +
  "{% endif %}" +
  "{% for message in turns %}" +
  "{% if message['role'] == 'user' %}{{ '\\n\\n### Instruction:\\n' + message['content'] }}" +
  "{% elif message['role'] == 'assistant' %}{{ '\\n\\n### Response:\\n' + message['content'] + eos_token }}{% endif %}" +
  "{% endfor %}" +
  "{% if add_generation_prompt %}{{ '\\n\\n### Response:\\n' }}{% endif %}";

/**
 * What an encoder reads of a conversation: one message of the user as it stands, as FLAN's models read instructions, and of
 * several turns who says what, as in FastChat-T5. The system's message stands before all.
 */
export const sourceTemplate =
  "{% set turns = messages %}" +
  "{% if messages and messages[0]['role'] == 'system' %}" +
  "{{ messages[0]['content'] + '\\n\\n' }}{% set turns = messages[1:] %}" +
  "{% endif %}" +
  "{% if turns | length == 1 and turns[0]['role'] == 'user' %}{{ turns[0]['content'] }}" +
  "{% else %}" +
  "{% for message in turns %}{{ message['role'] | capitalize + ': ' + message['content'] + '\\n' }}{% endfor %}" +
  "{{ 'Assistant:' }}" +
  "{% endif %}";

/** A tokenizer that has a chat template, and what had to be done for it. */
export interface ChatTokenizer {
  readonly tokenizer: Tokenizer;
  /** Tokens that are new in its vocabulary. */
  readonly added: readonly string[];
  /** As a sentence for a person; undefined where the tokenizer had a template. */
  readonly statement: string | undefined;
}

/**
 * The tokenizer itself where it has a chat template, else one with a plain default: ChatML where its two tokens are there or
 * may be added, else Alpaca's prompt in words with EOS behind each answer.
 * @param mayAdd whether the model's embeddings learn, so that new tokens can
 * @param template Jinja that takes the place of the tokenizer's own
 * @param reads whether an encoder reads the conversation, which needs no tokens of its own for that
 * Throws `tokenizer` where no token could end a turn.
 */
export function withChatTemplate(
  tokenizer: Tokenizer,
  {
    mayAdd,
    template,
    reads = false,
  }: { readonly mayAdd: boolean; readonly template?: string | undefined; readonly reads?: boolean },
): ChatTokenizer {
  if (template !== undefined)
    return {
      tokenizer: withEntries(tokenizer, { chat_template: template }),
      added: [],
      statement: "the chat template is the one that was given; it is kept in the tokenizer",
    };
  if (tokenizer.config.chat_template !== undefined) return { tokenizer, added: [], statement: undefined };
  if (reads)
    return {
      tokenizer: withEntries(tokenizer, { chat_template: sourceTemplate }),
      added: [],
      statement:
        "the base has no chat template: a plain one is written into its tokenizer, for the encoder to read the conversation so far",
    };
  const missing = [turnStart, turnEnd].filter((token) => tokenizer.tokenToId(token) === undefined);
  // Files that say all of a tokenizer have no place for more tokens.
  if (missing.length === 0 || (mayAdd && !tokenizer.files))
    return {
      tokenizer: withEntries(withTokens(tokenizer, missing), { chat_template: chatMl }),
      added: missing,
      statement:
        "the base has no chat template: ChatML is written into its tokenizer" +
        (missing.length > 0 ? `, with ${missing.length} new tokens (${missing.join(", ")})` : ""),
    };
  const { endOfTextId } = tokenizer;
  const end = endOfTextId === undefined ? undefined : tokenizer.idToToken(endOfTextId);
  if (end === undefined)
    throw new LineageError(
      "tokenizer",
      "the base has no chat template and no token that could end a turn, and an adapter cannot learn new ones; use --adapter none",
    );
  const eos = tokenizer.eosId === undefined ? { eos_token: end } : {};
  return {
    tokenizer: withEntries(tokenizer, { chat_template: alpacaTemplate, ...eos }),
    added: [],
    statement: `the base has no chat template: Alpaca's is written into its tokenizer, and ${end} ends each answer`,
  };
}

/** The tokenizer with other entries of its configuration. */
const withEntries = (
  { definition, config, files, target }: Tokenizer,
  entries: Readonly<Record<string, unknown>>,
): Tokenizer =>
  new Tokenizer(definition, { ...config, ...entries }, "the tokenizer", {
    ...(files && { files }),
    ...(target.definition !== definition && { target }),
  });
