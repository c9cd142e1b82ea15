import { readFile } from "node:fs/promises";
import { LineageError } from "../base/errors.js";
import { storageError } from "../base/files.js";
import { type Message, type Preference, type Ranking, type Verdict, readTable } from "../data/index.js";
import { promptIds } from "../generation/index.js";
import type { SystemKind } from "../models/index.js";
import type { Completion } from "../objectives/index.js";
import { ChatTemplate, type Tokenizer, targetIds, withChatTemplate } from "../tokenizers/index.js";

/** A text that a reward model reads, and of an encoder which of two texts each token is of. */
export interface ScoredText {
  readonly ids: readonly number[];
  readonly typeIds?: readonly number[] | undefined;
}

/**
 * Turns messages into prompts and answers as ids: by the model's chat template where it has one, else as plain text. An
 * encoder reads a conversation by a plain template where the model has none.
 */
export class AnswerEncoder {
  private readonly template: ChatTemplate | undefined;

  /** Whether an encoder reads the prompt. */
  private readonly reads: boolean;

  constructor(
    private readonly tokenizer: Tokenizer,
    private readonly stopIds: readonly number[],
    private readonly kind: SystemKind = "decoder",
  ) {
    const reads = (this.reads = kind !== "decoder");
    if (reads || tokenizer.config.chat_template !== undefined)
      this.template = new ChatTemplate(withChatTemplate(tokenizer, { mayAdd: false, reads }).tokenizer);
  }

  /** What the model reads before it answers. */
  prompt(messages: readonly Message[], tools?: readonly unknown[]): number[] {
    if (this.template)
      return this.reads
        ? this.template.source(messages, { tools })
        : this.template.encode(messages, { tools });
    return promptIds(this.tokenizer, this.plain(messages));
  }

  /** A prompt and an answer to it, with the token that ends it. Throws `data` for an answer of no token. */
  answer(messages: readonly Message[], answer: readonly Message[], tools?: readonly unknown[]): Completion {
    if (this.reads) {
      const [message, ...others] = answer;
      if (!message || others.length > 0)
        throw new LineageError("data", `an encoder-decoder writes one answer, not ${answer.length} messages`);
      return {
        prompt: this.prompt(messages, tools),
        completion: [...targetIds(this.tokenizer, message.content)],
      };
    }
    if (this.template) {
      const { ids, writers } = this.template.turns([...messages, ...answer], { tools, endIds: this.stopIds });
      const first = writers.findIndex((writer) => writer >= messages.length);
      const last = writers.findLastIndex((writer) => writer >= messages.length);
      if (first < 1) throw new LineageError("data", "the answer has no token of the assistant");
      return { prompt: ids.slice(0, first), completion: ids.slice(first, last + 1) };
    }
    const prompt = this.prompt(messages, tools);
    const text = this.plain(answer);
    const ids = this.tokenizer.encode(text, { parseSpecial: false });
    if (ids.length === 0) throw new LineageError("data", "the answer is empty");
    return { prompt, completion: [...ids, ...this.stopIds.slice(0, 1)] };
  }

  /**
   * A prompt and an answer to it as one text that is scored: of a decoder as `answer` has them, of an encoder as it reads two
   * texts, with the tokens and types of its kind. Throws `unsupported` for an encoder-decoder.
   */
  whole(messages: readonly Message[], answer: readonly Message[], tools?: readonly unknown[]): ScoredText {
    if (this.kind === "decoder") {
      const { prompt, completion } = this.answer(messages, answer, tools);
      return { ids: [...prompt, ...completion] };
    }
    if (this.kind === "encoder-decoder")
      throw new LineageError("unsupported", "an encoder-decoder scores no texts");
    const { ids, typeIds } = this.tokenizer.encodePair(
      this.template!.render(messages, { tools }),
      this.plain(answer),
    );
    return { ids, typeIds };
  }

  private plain(messages: readonly Message[]): string {
    const [message, ...others] = messages;
    if (!message || others.length > 0)
      throw new LineageError(
        "tokenizer",
        `this model has no chat template, so it takes one prompt and one answer and no conversation of ${messages.length} messages; lineage finetune --task chat gives it a template`,
      );
    return typeof message.content === "string" ? message.content : JSON.stringify(message.content);
  }
}

/** Two answers to one prompt as ids. */
export interface EncodedPair {
  readonly row: number;
  readonly prompt: readonly number[];
  readonly chosen: readonly number[];
  readonly rejected: readonly number[];
}

/** Where a tokenizer joins the last of a prompt with the first of an answer, the two prompts differ: that belongs to the answers. */
function commonPrompt(a: Completion, b: Completion): Omit<EncodedPair, "row"> {
  let common = 0;
  while (common < Math.min(a.prompt.length, b.prompt.length) && a.prompt[common] === b.prompt[common])
    common++;
  const answer = ({ prompt, completion }: Completion) => [...prompt.slice(common), ...completion];
  return { prompt: a.prompt.slice(0, common), chosen: answer(a), rejected: answer(b) };
}

const inRow = <T>(name: string, row: number, work: () => T): T => {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof LineageError)) throw error;
    throw new LineageError(error.code, `${name}, row ${row}: ${error.message}`, { cause: error });
  }
};

/** Pairs as ids, without those that are too long. Throws `data` where both answers are the same. */
export function encodePreferences(
  name: string,
  rows: readonly Preference[],
  encoder: AnswerEncoder,
  maxLength: number,
): { readonly pairs: EncodedPair[]; readonly long: number[] } {
  const long: number[] = [];
  const pairs = rows.flatMap(({ row, messages, chosen, rejected, tools }) =>
    inRow(name, row, () => {
      const pair = commonPrompt(
        encoder.answer(messages, chosen, tools),
        encoder.answer(messages, rejected, tools),
      );
      if (pair.chosen.join() === pair.rejected.join())
        throw new LineageError(
          "data",
          "the chosen and the rejected answer are the same tokens: nothing is preferred",
        );
      if (pair.prompt.length + Math.max(pair.chosen.length, pair.rejected.length) > maxLength) {
        long.push(row);
        return [];
      }
      return [{ row, ...pair }];
    }),
  );
  return { pairs, long };
}

/** Answers with a thumb as ids, without those that are too long. */
export function encodeVerdicts(
  name: string,
  rows: readonly Verdict[],
  encoder: AnswerEncoder,
  maxLength: number,
): {
  readonly pairs: (Completion & { readonly row: number; readonly good: boolean })[];
  readonly long: number[];
} {
  const long: number[] = [];
  const pairs = rows.flatMap(({ row, messages, answer, good, tools }) =>
    inRow(name, row, () => {
      const completion = encoder.answer(messages, answer, tools);
      if (completion.prompt.length + completion.completion.length <= maxLength)
        return [{ row, good, ...completion }];
      long.push(row);
      return [];
    }),
  );
  return { pairs, long };
}

/** Rankings as whole texts, without those that have a text that is too long. */
export function encodeRankings(
  name: string,
  rows: readonly (Ranking & { readonly margin?: number })[],
  encoder: AnswerEncoder,
  { maxLength, marginScale }: { readonly maxLength: number; readonly marginScale: number },
) {
  const long: number[] = [];
  const rankings = rows.flatMap(({ row, messages, answers, ranks, margin = 0, tools }) =>
    inRow(name, row, () => {
      const texts = answers.map((answer) => encoder.whole(messages, answer, tools));
      if (texts.some(({ ids }) => ids.length > maxLength)) {
        long.push(row);
        return [];
      }
      if (new Set(texts.map(({ ids }) => ids.join())).size < 2)
        throw new LineageError("data", "all answers are the same tokens: nothing is preferred");
      return [
        {
          row,
          answers: texts.map(({ ids }) => ids),
          ...(texts[0]?.typeIds && { typeIds: texts.map(({ typeIds }) => typeIds!) }),
          ranks,
          margin: margin * marginScale,
        },
      ];
    }),
  );
  return { rankings, long };
}

/** A prompt to write after, and the row that it stands in, for a rule to look at. */
export interface PromptRow {
  readonly number: number;
  readonly messages: readonly Message[];
  readonly row: Readonly<Record<string, unknown>>;
}

const roles = new Map<string, Message["role"]>([
  ["system", "system"],
  ["assistant", "assistant"],
  ["gpt", "assistant"],
  ["tool", "tool"],
  ["observation", "tool"],
]);
const columns = ["prompt", "question", "instruction", "query", "input", "text"];

/**
 * Reads prompts: a column `messages` (up to the last turn that is not the assistant's), or `prompt`, `question`,
 * `instruction` (with `input`); of preferences and conversations the part before the answers. A `.txt` has one a line.
 */
export async function readPrompts(
  file: string,
  options: { readonly encoding?: string | undefined; readonly skipBadRows?: boolean } = {},
): Promise<PromptRow[]> {
  if (file.endsWith(".txt")) {
    const text = await readFile(file, "utf8").catch((error: unknown) => {
      throw storageError("read", file, error);
    });
    return text
      .split(/\r?\n/)
      .flatMap((line, index) =>
        line.trim() === ""
          ? []
          : [{ number: index + 1, messages: [{ role: "user", content: line }], row: { prompt: line } }],
      );
  }
  const table = await readTable(file, {
    ...(options.encoding !== undefined && { encoding: options.encoding }),
    ...(options.skipBadRows !== undefined && { skipBadRows: options.skipBadRows }),
  });
  return table.rows.map(({ number, values }): PromptRow => {
    const row = values as Readonly<Record<string, unknown>>;
    const conversation = [row["messages"], row["conversations"], row["prompt"]].find(Array.isArray) as
      readonly Record<string, unknown>[] | undefined;
    if (conversation) {
      const messages = conversation.map((message): Message => ({
        role: roles.get(String(message["role"] ?? message["from"])) ?? "user",
        content: String(message["content"] ?? message["value"] ?? ""),
      }));
      const last = messages.findLastIndex(({ role }) => role !== "assistant");
      if (last >= 0) return { number, messages: messages.slice(0, last + 1), row };
    }
    const column = columns.find((name) => typeof row[name] === "string" && row[name].trim() !== "");
    if (column === undefined)
      throw new LineageError(
        "data",
        `${file}, row ${number}: there is no prompt; a row has messages, or a column named ${columns.join(", ")}`,
      );
    const more = column === "instruction" && typeof row["input"] === "string" ? row["input"].trim() : "";
    const content = String(row[column]) + (more === "" ? "" : `\n\n${more}`);
    return { number, messages: [{ role: "user", content }], row };
  });
}
