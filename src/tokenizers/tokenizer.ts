import { FormatError, LineageError, messageOf } from "../base/errors.js";
import { countWords, learnMerges } from "./train-bpe.js";
import { type Runner, createRunner } from "./cutter.js";
import {
  type Encoding,
  type PairOptions,
  type Template,
  type TextTokens,
  encodeTokens,
  encodeWindows,
  templateOf,
} from "./encoding.js";
import { type TracedRunner, placeTokens } from "./offsets.js";
import { CharacterStream, type TextRule, byteOfCharacter, characterOfByte, textRule } from "./token-text.js";
import {
  type CheckedDefinition,
  type TokenizerConfig,
  type TokenizerDefinition,
  checkConfig,
  checkDefinition,
} from "./tokenizer-definition.js";

/** GPT-2's separator of documents, which also starts a text. */
export const endOfText = "<|endoftext|>";

export interface EncodeOptions {
  /**
   * Whether special tokens that are spelled out in the text become their ids, as the field's `tokenizer.json` runners do;
   * false takes them for the text that they are, as SentencePiece does. Default true.
   */
  readonly parseSpecial?: boolean;
}

export interface DecodeOptions {
  /** Whether tokens such as BOS and EOS leave no text. Default true. */
  readonly skipSpecialTokens?: boolean;
}

/** A text's token ids and back, over a `tokenizer.json` of the field. */
export class Tokenizer {
  readonly definition: CheckedDefinition;
  private readonly runner: Runner;
  private plainRunner?: Runner;
  private readonly tokens: readonly (string | undefined)[];
  private readonly ids: ReadonlyMap<string, number>;
  private readonly special: ReadonlySet<number>;
  private readonly added: ReadonlySet<number>;
  private readonly rule: TextRule | undefined;
  private template?: Template;

  /**
   * @param definition the content of a `tokenizer.json`
   * @param config that of its `tokenizer_config.json`
   * @param source where they come from, for messages
   * Throws FormatError for a definition that is malformed or that the tokenizers package cannot run.
   */
  constructor(
    definition: TokenizerDefinition,
    readonly config: TokenizerConfig = {},
    source = "tokenizer.json",
  ) {
    this.definition = checkDefinition(source, definition);
    this.config = checkConfig(source, config);
    const { added_tokens: addedTokens, model } = this.definition;
    try {
      this.runner = createRunner(this.definition, this.config, { parseSpecial: true });
      this.rule = textRule(this.definition, this.config);
    } catch (error) {
      throw new FormatError(source, `the tokenizer cannot be used: ${messageOf(error)}`, { cause: error });
    }
    const tokens: (string | undefined)[] = [];
    const ids = new Map<string, number>();
    const vocabulary = Array.isArray(model.vocab)
      ? model.vocab.map(([token], id) => [token, id] as const)
      : Object.entries(model.vocab);
    for (const [token, id] of [
      ...vocabulary,
      ...addedTokens.map(({ content, id }) => [content, id] as const),
    ]) {
      tokens[id] = token;
      ids.set(token, id);
    }
    this.tokens = tokens;
    this.ids = ids;
    this.added = new Set(addedTokens.map(({ id }) => id));
    this.special = new Set(addedTokens.filter(({ special }) => special).map(({ id }) => id));
  }

  /** Number of ids, the special ones included. */
  get vocabSize(): number {
    return this.tokens.length;
  }

  /** Id of the token that separates documents: `<|endoftext|>`, or else the one that ends a sequence. */
  get endOfTextId(): number | undefined {
    return this.tokenToId(endOfText) ?? this.eosId;
  }

  /** Id of the token that begins a sequence. */
  get bosId(): number | undefined {
    return this.configuredId("bos_token");
  }

  /** Id of the token that ends a sequence; a chat may end its turns with another. */
  get eosId(): number | undefined {
    return this.configuredId("eos_token");
  }

  /** Id of the token that fills rows up. */
  get padId(): number | undefined {
    return this.configuredId("pad_token");
  }

  /** Id of the token for what the vocabulary cannot write. */
  get unkId(): number | undefined {
    return this.configuredId("unk_token");
  }

  /** Whether a sequence of this tokenizer begins with the BOS token unless one asks for none. */
  get addsBos(): boolean {
    const { bosId } = this;
    if (bosId === undefined) return false;
    if (typeof this.config.add_bos_token === "boolean") return this.config.add_bos_token;
    return this.run("a", true)[0] === bosId;
  }

  /** The chat template, Jinja: the one named `name`, or the default one. */
  chatTemplate(name = "default"): string | undefined {
    const template = this.config.chat_template;
    if (typeof template === "string") return name === "default" ? template : undefined;
    return template?.find((entry) => entry.name === name)?.template;
  }

  /** Id of the token that stands for a hidden one. */
  get maskId(): number | undefined {
    return this.configuredId("mask_token");
  }

  private configuredId(
    entry: "bos_token" | "eos_token" | "pad_token" | "unk_token" | "mask_token",
  ): number | undefined {
    const token = this.config[entry];
    const content = typeof token === "object" ? token?.content : token;
    return content === undefined ? undefined : this.tokenToId(content);
  }

  tokenToId(token: string): number | undefined {
    return this.ids.get(token);
  }

  /** The token as the vocabulary spells it; undefined where the id is a gap. */
  idToToken(id: number): string | undefined {
    return this.tokens[id];
  }

  /** Whether an id is of a special token, which is no text. */
  isSpecial(id: number): boolean {
    return this.special.has(id);
  }

  /** Token ids of a text, without tokens before or after it. A lone surrogate counts as U+FFFD. */
  encode(text: string, { parseSpecial = true }: EncodeOptions = {}): number[] {
    const wellFormed = text.replace(/\p{Surrogate}/gu, "\uFFFD");
    if (wellFormed === "") return [];
    if (parseSpecial || this.special.size === 0) return this.run(wellFormed, false);
    this.plainRunner ??= createRunner(this.definition, this.config, { parseSpecial: false });
    return this.run(wellFormed, false, this.plainRunner);
  }

  private run(text: string, addSpecialTokens: boolean, runner = this.runner): number[] {
    const { ids } = runner.encode(text, { add_special_tokens: addSpecialTokens });
    if (ids.includes(undefined as never)) {
      throw new LineageError(
        "tokenizer",
        `the tokenizer has no token for a part of ${JSON.stringify(text.slice(0, 40))}, nor one for what is unknown`,
      );
    }
    return ids;
  }

  /**
   * One or two texts as a model reads them: with the special tokens of the post-processor, cut to `maxLength`. Throws
   * `length` when the limit leaves no room, `unsupported` when offsets are wanted and cannot be found.
   */
  encodePair(text: string, pair?: string, options: PairOptions = {}): Encoding {
    const offsets = options.offsets ?? false;
    const tokens = this.tokensOf(text, offsets);
    return encodeTokens(
      this.ownTemplate,
      pair === undefined ? [tokens] : [tokens, this.tokensOf(pair, offsets)],
      options,
    );
  }

  /**
   * A text, or the second of two, in windows of at most `maxLength` tokens that together see all of it; neighbours share
   * `stride` of its tokens. Throws `length` when a window has no room for more than the stride.
   */
  encodeWindows(
    text: string,
    pair: string | undefined,
    options: { maxLength: number; stride: number; offsets?: boolean },
  ): Encoding[] {
    const offsets = options.offsets ?? false;
    const tokens = this.tokensOf(text, offsets);
    return encodeWindows(
      this.ownTemplate,
      pair === undefined ? [tokens] : [tokens, this.tokensOf(pair, offsets)],
      options,
    );
  }

  /** Words as a model reads them, with the special tokens around them: each word is a text of its own, with the space before it. */
  encodeWords(
    words: readonly string[],
    options: { maxLength?: number } = {},
  ): Encoding & { wordIds: number[] } {
    const tokens: { id: number; start: number; end: number }[] = [];
    words.forEach((word, index) => {
      // What follows a space is cut as within a text; the place of a token is its word's number.
      const spaced =
        index === 0 || this.definition.pre_tokenizer?.type === "BertPreTokenizer" ? word : ` ${word}`;
      for (const id of this.encode(spaced)) tokens.push({ id, start: index, end: index });
    });
    const encoding = encodeTokens(this.ownTemplate, [tokens], { ...options, offsets: true });
    const wordIds = encoding.offsets!.map(([word], place) => (encoding.specialMask[place] ? -1 : word));
    return { ...encoding, offsets: undefined, wordIds };
  }

  private get ownTemplate(): Template {
    return (this.template ??= templateOf(this.definition, this.config, (token) => this.tokenToId(token)));
  }

  private tokensOf(text: string, offsets: boolean): TextTokens {
    if (!offsets) return this.encode(text).map((id) => ({ id, start: 0, end: 0 }));
    const wellFormed = text.replace(/\p{Surrogate}/gu, "\uFFFD");
    if (wellFormed === "") return [];
    const { model, pre_tokenizer: preTokenizer } = this.definition;
    const placed = placeTokens(this.runner as TracedRunner, wellFormed, {
      byteLevel: hasStep(preTokenizer, "pretokenizers", "ByteLevel"),
      continuation: String(model["continuing_subword_prefix"] ?? ""),
      unknownToken: model.unk_token ?? undefined,
    });
    if (!placed)
      throw new LineageError(
        "unsupported",
        "the places of this tokenizer's tokens in their text cannot be told",
      );
    if (!this.ownTemplate.trimOffsets) return placed;
    return placed.map(({ id, start, end }) => {
      const piece = wellFormed.slice(start, end);
      const left = /^ */.exec(piece)![0].length;
      const right = / *$/.exec(piece)![0].length;
      return { id, start: start + left, end: Math.max(start + left, end - right) };
    });
  }

  /** The text of token ids, as the field's reference library writes it. */
  decode(ids: readonly number[], options: DecodeOptions = {}): string {
    const stream = new StreamDecoder(this, options);
    return ids.map((id) => stream.push(id)).join("") + stream.flush();
  }

  /** @internal How a token becomes text after others; `decode` and `StreamDecoder` share it. */
  get textRule(): TextRule {
    if (this.rule) return this.rule;
    throw new LineageError(
      "unsupported",
      `the tokenizer's decoder ${JSON.stringify(this.definition.decoder?.type)} cannot be run token by token`,
    );
  }

  /** The exact bytes that a token within a text stands for: part of a character, perhaps. Throws `argument` for an id that is none. */
  bytesOf(id: number, first = false): Uint8Array {
    const token = this.tokens[id];
    if (token === undefined)
      throw new LineageError("argument", `there is no token ${id}; ids go from 0 to ${this.vocabSize - 1}`);
    if (this.special.has(id) || (this.added.has(id) && this.definition.decoder?.type === "ByteLevel"))
      return new TextEncoder().encode(token);
    return this.textRule.bytesOf(token, first);
  }
}

/** Whether a part of a definition, or a part of a sequence of them, is of a type. */
const hasStep = (part: CheckedDefinition["pre_tokenizer"], list: string, type: string): boolean =>
  part?.type === type ||
  ((part?.[list] as { type: string }[] | undefined)?.some((step) => step.type === type) ?? false);

/** GPT-2's tokenizer from its vocabulary and merges. */
export function byteLevelTokenizer(
  vocab: Record<string, number>,
  merges: readonly string[],
  config: TokenizerConfig = {},
): Tokenizer {
  const id = vocab[endOfText];
  const added =
    id === undefined
      ? []
      : [
          {
            id,
            content: endOfText,
            special: true,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
          },
        ];
  const special =
    id === undefined ? {} : { bos_token: endOfText, eos_token: endOfText, unk_token: endOfText };
  return new Tokenizer(
    {
      version: "1.0",
      added_tokens: added,
      normalizer: null,
      pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
      post_processor: null,
      decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
      model: {
        type: "BPE",
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: "",
        end_of_word_suffix: "",
        fuse_unk: false,
        byte_fallback: false,
        vocab,
        merges: [...merges],
      },
    },
    { ...special, ...config },
  );
}

/** GPT-2's cut of a text into words, each with the space before it; merges never cross a cut. */
const wordPattern = /'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/**
 * Trains a byte-level BPE, Sennrich et al. 2016 over bytes as in Radford et al. 2019. Id 0 is `<|endoftext|>`, then come
 * the 256 bytes, then the merges in the order in which they were learned. Throws `data` for an empty text.
 */
export function trainByteLevelBpe(
  documents: Iterable<string>,
  { vocabSize }: { vocabSize: number },
): Tokenizer {
  const alphabet = [...byteOfCharacter.keys()].sort();
  const counts = countWords(documents, (document) => document.match(wordPattern) ?? []);
  if (counts.size === 0) throw new LineageError("data", "there is no text to train a tokenizer on");
  const words = Array.from(counts, ([word, count]) => ({
    symbols: Array.from(new TextEncoder().encode(word), (byte) => characterOfByte[byte]!),
    count,
  }));
  const merges = learnMerges(words, vocabSize - alphabet.length - 1);
  const vocab: Record<string, number> = {};
  for (const token of [endOfText, ...alphabet, ...merges.map((merge) => merge.replace(" ", ""))]) {
    vocab[token] ??= Object.keys(vocab).length;
  }
  return byteLevelTokenizer(vocab, merges);
}

/** One token for each character of `text`, in code-point order, as nanoGPT's `shakespeare_char` has it. */
export function characterTokenizer(text: string): Tokenizer {
  const characters = [...new Set(text)].sort((a, b) => a.codePointAt(0)! - b.codePointAt(0)!);
  return new Tokenizer(
    {
      version: "1.0",
      added_tokens: [],
      normalizer: null,
      pre_tokenizer: { type: "Split", pattern: { Regex: "[\\s\\S]" }, behavior: "Isolated", invert: false },
      post_processor: null,
      decoder: { type: "Fuse" },
      model: {
        type: "BPE",
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: "",
        end_of_word_suffix: "",
        fuse_unk: false,
        byte_fallback: false,
        vocab: Object.fromEntries(characters.map((character, id) => [character, id])),
        merges: [],
      },
    },
    { lineage_level: "character" },
  );
}

/** Text from token ids as they come: a character appears once all its bytes are there. The pieces add up to `decode`. */
export class StreamDecoder {
  private readonly characters: CharacterStream;
  private readonly skipSpecialTokens: boolean;
  private tail = "";
  private first = true;

  constructor(
    private readonly tokenizer: Tokenizer,
    { skipSpecialTokens = true }: DecodeOptions = {},
  ) {
    this.characters = new CharacterStream(tokenizer.textRule.replaceEachByte);
    this.skipSpecialTokens = skipSpecialTokens;
  }

  /** The characters that `id` completes. */
  push(id: number): string {
    const { tokenizer, characters } = this;
    if (this.skipSpecialTokens && tokenizer.isSpecial(id)) return "";
    const text = this.tail + characters.push(tokenizer.bytesOf(id, this.first));
    this.tail = tokenizer.textRule.tailOf?.(tokenizer.idToToken(id)!) ?? "";
    this.first = false;
    return text;
  }

  /** What an unfinished character leaves: U+FFFD, or nothing. */
  flush(): string {
    return this.characters.flush();
  }
}
