import { readFile } from "node:fs/promises";
import { LineageError } from "../base/errors.js";
import { storageError } from "../base/files.js";
import { loadWords } from "../checkpoints/index.js";
import {
  type BadRow,
  type ConversationCounts,
  type ConversationLayout,
  type LongFate,
  type TrainedPart,
  describeConversations,
  encodeAnswers,
  encodeConversations,
  readAnswers,
} from "../data/index.js";
import { endOfText } from "../generation/index.js";
import { ChatTemplate, StreamDecoder, type Tokenizer, withChatTemplate } from "../tokenizers/index.js";

/** Text of neighbouring tokens that are alike. */
export interface ShownPiece {
  readonly text: string;
  readonly trained: boolean;
  readonly special: boolean;
}

/** A row as the model will see it. */
export interface ShownConversation {
  readonly row: number;
  /** Which of the row's answers it ends with, where the file holds preferences, rankings or verdicts. */
  readonly answer: string | undefined;
  readonly tokens: number;
  readonly trainedTokens: number;
  /** What was cut off its end. */
  readonly cutTokens: number;
  readonly pieces: readonly ShownPiece[];
}

/** How many conversations have how many tokens, before anything is cut: from `from` to below `to`. */
export interface LengthBin {
  readonly from: number;
  readonly to: number;
  readonly count: number;
}

export interface ShownConversations {
  readonly file: string;
  readonly format: ConversationLayout;
  /** What was done to a tokenizer without a chat template. */
  readonly statement: string | undefined;
  /** In one sentence. */
  readonly summary: string;
  readonly counts: ConversationCounts;
  readonly maxLength: number;
  readonly rows: readonly ShownConversation[];
  readonly lengths: readonly LengthBin[];
  readonly bad: readonly BadRow[];
}

export interface ShowOptions {
  /** A folder or a `.gguf` file, whose tokenizer and chat template are used. */
  readonly model: string;
  readonly format?: ConversationLayout | undefined;
  readonly encoding?: string | undefined;
  readonly train?: TrainedPart | undefined;
  readonly long?: LongFate | undefined;
  /** Default: the model's context, 1,024 at most. */
  readonly maxLength?: number | undefined;
  /** A file with a chat template in Jinja. */
  readonly template?: string | undefined;
}

/**
 * Reads conversations as a run of `finetuneChat` would, and says what the model sees of each. Of preferences, rankings and
 * verdicts it shows every answer, for `align` looks at all of them.
 */
export async function showConversations(file: string, options: ShowOptions): Promise<ShownConversations> {
  const { format, encoding, train, long } = options;
  const read = await readAnswers(file, { format, encoding, skipBadRows: true });
  const words = await loadWords(options.model);
  const template =
    options.template === undefined
      ? undefined
      : await readFile(options.template, "utf8").catch((error: unknown) => {
          throw storageError("read", options.template!, error);
        });
  const reads = words.kind === "encoder-decoder";
  const { tokenizer, statement } = withChatTemplate(words.tokenizer, { mayAdd: true, template, reads });
  const maxLength = options.maxLength ?? Math.min(words.context, 1024);
  if (maxLength > words.context)
    throw new LineageError(
      "length",
      `the model knows ${words.context} tokens; choose a smaller --max-length than ${maxLength}`,
    );
  const chat = new ChatTemplate(tokenizer);
  const shared = { name: file, train, skipBadRows: true };
  if (reads) {
    const found = encodeAnswers(chat, tokenizer, read.rows, { ...shared, long, maxLength });
    return {
      ...{ file, format: read.format, statement, maxLength },
      summary: describeConversations(file, found, maxLength),
      counts: found,
      rows: found.rows.map(({ row, answer, source, target, cutTokens }) => ({
        ...{ row, answer, cutTokens },
        tokens: source.length + target.length,
        trainedTokens: target.length,
        pieces: [
          ...piecesOf(tokenizer, { tokens: source, trained: source.map(() => 0) }),
          { text: "\n→ ", trained: false, special: false },
          ...piecesOf(tokenizer.target, { tokens: target, trained: target.map(() => 1) }),
        ],
      })),
      lengths: binned(
        found.rows.map(({ source, target, cutTokens }) => source.length + target.length + cutTokens),
      ),
      bad: [...read.bad, ...found.bad].sort((a, b) => a.number - b.number),
    };
  }
  const ending = { ...shared, endIds: words.stopIds ?? endOfText(tokenizer) };
  const whole = encodeConversations(chat, read.rows, { ...ending, maxLength: Infinity });
  const found = encodeConversations(chat, read.rows, { ...ending, long, maxLength });
  const keyOf = ({ row, answer }: { readonly row: number; readonly answer?: string }) =>
    `${row} ${answer ?? ""}`;
  const lengthOf = new Map(whole.rows.map((one) => [keyOf(one), one.tokens.length]));
  const splits = new Set(found.split.map(({ row }) => row));
  return {
    file,
    format: read.format,
    statement,
    summary: describeConversations(file, found, maxLength),
    counts: found,
    maxLength,
    rows: found.rows.map((encoded) => ({
      row: encoded.row,
      answer: encoded.answer,
      tokens: encoded.tokens.length,
      trainedTokens: encoded.trained.reduce((sum, one) => sum + one, 0),
      cutTokens: splits.has(encoded.row)
        ? 0
        : Math.max(0, (lengthOf.get(keyOf(encoded)) ?? 0) - encoded.tokens.length),
      pieces: piecesOf(tokenizer, encoded),
    })),
    lengths: binned([...lengthOf.values()]),
    bad: [...read.bad, ...found.bad].sort((a, b) => a.number - b.number),
  };
}

/** The text of tokens, those that are alike together. */
function piecesOf(
  tokenizer: Tokenizer,
  { tokens, trained }: { readonly tokens: ArrayLike<number>; readonly trained: ArrayLike<number> },
): ShownPiece[] {
  const decoder = new StreamDecoder(tokenizer, { skipSpecialTokens: false });
  const pieces: { text: string; trained: boolean; special: boolean }[] = [];
  const add = (text: string, isTrained: boolean, special: boolean): void => {
    const last = pieces.at(-1);
    if (last?.trained === isTrained && last.special === special && !special) last.text += text;
    else pieces.push({ text, trained: isTrained, special });
  };
  Array.from(tokens).forEach((id, index) => {
    add(decoder.push(id), trained[index] === 1, tokenizer.isSpecial(id));
  });
  const rest = decoder.flush();
  if (rest !== "") add(rest, trained[tokens.length - 1] === 1, false);
  return pieces.filter(({ text }) => text !== "");
}

/** Lengths in at most twelve bins of equal, round width. */
function binned(lengths: readonly number[]): LengthBin[] {
  const longest = Math.max(...lengths);
  const least = (longest + 1) / 12;
  const width = [8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192].find((size) => size >= least) ?? 16384;
  return Array.from({ length: Math.floor(longest / width) + 1 }, (_, bin) => {
    const [from, to] = [bin * width, (bin + 1) * width];
    return { from, to, count: lengths.filter((length) => length >= from && length < to).length };
  });
}
