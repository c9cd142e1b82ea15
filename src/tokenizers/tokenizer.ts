import { LineageError } from "../base/errors.js";
import { type AddedToken, namedToken, resolveAddedTokens } from "./added-tokens.js";
import {
  type Decoder,
  type TextWriter,
  createDecoder,
  plainDecoder,
  sentencePieceDecoder,
} from "./decoders.js";
import { type Encoding, type PairOptions, type TextTokens, encodeTokens, encodeWindows } from "./encoding.js";
import { Entries, Reading } from "./entries.js";
import type { Model } from "./model.js";
import { readModel } from "./models.js";
import { createNormalizer } from "./normalizers.js";
import { Pipeline, type PlacedToken } from "./pipeline.js";
import {
  type Template,
  bareTemplate,
  bertTemplateOf,
  createTemplate,
  trimPlaces,
  xlnetTemplateOf,
} from "./post-processors.js";
import { createPreTokenizer } from "./pre-tokenizers.js";
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

/** An id and the part of a text that it stands for. */
export type PlacedId = Pick<PlacedToken, "id" | "start" | "end">;

/** What a tokenizer may have besides its definition. */
export interface TokenizerParts {
  /** The tokenizer of texts that are written, where it is another than that of texts that are read. */
  readonly target?: Tokenizer;
  /** Ids by token, where the definition's pieces have those of another file. */
  readonly vocabulary?: ReadonlyMap<string, number>;
  /** Files that say all of it, by name; they are written as they are, and no `tokenizer.json`. */
  readonly files?: ReadonlyMap<string, Uint8Array>;
}

/** A text's token ids and back, over a `tokenizer.json` of the field. */
export class Tokenizer {
  readonly definition: CheckedDefinition;
  /** What the files hold and lineage does not know or does otherwise, each as a sentence. */
  readonly warnings: readonly string[];
  /** Tokens that are found in a text as they are written. */
  readonly addedTokens: readonly AddedToken[];
  /** The tokenizer of texts that a model writes; itself but where the files have two, or languages. */
  readonly target: Tokenizer;
  /** Files that say all of it, by name; undefined where the definition does. */
  readonly files: ReadonlyMap<string, Uint8Array> | undefined;
  private readonly pipeline: Pipeline;
  private readonly decoder: Decoder;
  private readonly template: Template;
  private readonly tokens: readonly (string | undefined)[];
  private readonly ids: ReadonlyMap<string, number>;
  private readonly special: ReadonlySet<number>;

  /**
   * @param definition the content of a `tokenizer.json`
   * @param config that of its `tokenizer_config.json`
   * @param source where they come from, for messages
   * @param parts what it has besides
   * Throws FormatError for a definition that is malformed or that lineage cannot run.
   */
  constructor(
    definition: TokenizerDefinition,
    readonly config: TokenizerConfig = {},
    source = "tokenizer.json",
    { target, vocabulary, files }: TokenizerParts = {},
  ) {
    this.target = target ?? this;
    this.files = files;
    this.definition = checkDefinition(source, definition);
    this.config = checkConfig(source, config);
    const reading = new Reading(source);
    const whole = new Entries(this.definition, "the tokenizer", reading);
    // Whoever encodes says how long texts may be and how they are filled up, as in transformers.
    whole.ignore("version", "added_tokens", "truncation", "padding");
    const part = <T>(name: string, create: (entries: Entries) => T): T | undefined => {
      const value = whole.get(name);
      return value === undefined ? undefined : create(new Entries(value, name, reading));
    };
    const sentencePiece = this.config["lineage_cut"] === "sentencepiece";
    // SentencePiece looks for these while it merges; a split of the text would give each part a prefix of its own.
    const userDefined = sentencePiece
      ? this.definition.added_tokens.filter(({ special }) => !special).map(({ content }) => content)
      : [];
    const maker = readModel(new Entries(whole.get("model"), "model", reading), {
      ...(sentencePiece && { sentencePiece: { userDefined } }),
      ...(vocabulary && { vocabulary, unknown: namedToken(this.config, "unk_token") }),
    });
    this.addedTokens = resolveAddedTokens(
      this.definition,
      this.config,
      maker.vocabulary,
      maker.size,
      reading,
    );
    const tokens = [...maker.tokens];
    const ids = new Map(maker.vocabulary);
    for (const { content, id } of this.addedTokens) {
      tokens[id] = content;
      ids.set(content, id);
    }
    this.tokens = tokens;
    this.ids = ids;
    const special = this.addedTokens.filter((token) => token.special);
    this.special = new Set(special.map(({ id }) => id));

    const hidden = new Set(special.map(({ content }) => content));
    const model = maker.create(sentencePiece ? hidden : new Set());
    let plainModel: Model | undefined = sentencePiece || hidden.size === 0 ? model : undefined;
    this.pipeline = new Pipeline({
      addedTokens: this.addedTokens.filter(({ content }) => !userDefined.includes(content)),
      normalizer: part("normalizer", (entries) => createNormalizer(entries, { sentencePiece })),
      preTokenizer: part("pre_tokenizer", createPreTokenizer),
      model,
      plainModel: () => (plainModel ??= maker.create(hidden)),
      needsPlaces: dependsOnPlace(this.definition),
      surfaceOf: (id, text) => maker.surfaceOf(tokens[id] ?? "", text),
    });
    this.template =
      part("post_processor", (entries) =>
        createTemplate(entries, { size: tokens.length, idOf: (token) => ids.get(token) }),
      ) ?? this.namedTemplate(sentencePiece);
    const decoder = part("decoder", createDecoder) ?? createDecoder(undefined);
    this.decoder =
      this.config["lineage_level"] === "character"
        ? plainDecoder
        : sentencePiece && decoder.bytesOf
          ? sentencePieceDecoder(decoder)
          : decoder;
    whole.finish();
    this.warnings = reading.warnings;
  }

  /** The template of a SentencePiece model, which has none of its own, by the tokens that its configuration names. */
  private namedTemplate(sentencePiece: boolean): Template {
    const [cls, sep] = [this.configuredId("cls_token"), this.configuredId("sep_token")];
    if (!sentencePiece || cls === undefined || sep === undefined) return bareTemplate;
    return String(this.config["tokenizer_class"]).startsWith("XLNet")
      ? xlnetTemplateOf(cls, sep)
      : bertTemplateOf(cls, sep);
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

  /** All of it as one `tokenizer.json`, for programs that read no other file. */
  get standalone(): TokenizerDefinition {
    return this.definition;
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
    const [first] = this.template.single;
    return first !== undefined && "token" in first && first.token === bosId;
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

  /**
   * Id of the token that stands before every prompt: the mode of a prefix language model that learned several. It is
   * lineage's own entry of `tokenizer_config.json`.
   */
  get promptId(): number | undefined {
    const content = this.config["lineage_prompt"];
    return typeof content === "string" ? this.tokenToId(content) : undefined;
  }

  private configuredId(entry: Parameters<typeof namedToken>[1]): number | undefined {
    const content = namedToken(this.config, entry);
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

  /**
   * Token ids of a text, without tokens before or after it. A lone surrogate counts as U+FFFD. Throws
   * `tokenizer` where no token stands for a part of it.
   */
  encode(text: string, { parseSpecial = true }: EncodeOptions = {}): number[] {
    const wellFormed = text.replace(/\p{Surrogate}/gu, "\uFFFD");
    if (wellFormed === "") return [];
    return this.pipeline.encode(wellFormed, parseSpecial);
  }

  /** The same ids, each with the part of the text that it stands for, in UTF-16 units as `slice` takes them. */
  encodePlaced(text: string, { parseSpecial = true }: EncodeOptions = {}): PlacedId[] {
    const wellFormed = text.replace(/\p{Surrogate}/gu, "\uFFFD");
    if (wellFormed === "") return [];
    return this.pipeline.place(wellFormed, parseSpecial).map(({ id, start, end }) => ({ id, start, end }));
  }

  /**
   * One or two texts as a model reads them: with the special tokens of the post-processor, cut to `maxLength`. Throws
   * `length` when the limit leaves no room.
   */
  encodePair(text: string, pair?: string, options: PairOptions = {}): Encoding {
    const offsets = options.offsets ?? false;
    const tokens = this.tokensOf(text, offsets);
    return encodeTokens(
      this.template,
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
      this.template,
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
    const encoding = encodeTokens(this.template, [tokens], { ...options, offsets: true });
    const wordIds = encoding.offsets!.map(([word], place) => (encoding.specialMask[place] ? -1 : word));
    return { ...encoding, offsets: undefined, wordIds };
  }

  private tokensOf(text: string, offsets: boolean): TextTokens {
    if (!offsets) return this.encode(text).map((id) => ({ id, start: 0, end: 0 }));
    const wellFormed = text.replace(/\p{Surrogate}/gu, "\uFFFD");
    if (wellFormed === "") return [];
    const placed = this.pipeline.place(wellFormed);
    return this.template.trim ? trimPlaces(wellFormed, placed, this.template.trim) : placed;
  }

  /** The text of token ids, as the field's reference library writes it. Throws `argument` for an id that is none. */
  decode(ids: readonly number[], options: DecodeOptions = {}): string {
    const stream = new StreamDecoder(this, options);
    let text = "";
    for (const id of ids) text += stream.push(id);
    return text + stream.flush();
  }

  /** @internal The token of an id that must be one. */
  tokenOf(id: number): string {
    const token = this.tokens[id];
    if (token === undefined)
      throw new LineageError("argument", `there is no token ${id}; ids go from 0 to ${this.vocabSize - 1}`);
    return token;
  }

  /** @internal Writes the text of tokens as they come. */
  startText(): TextWriter {
    return this.decoder.start();
  }

  /**
   * The exact bytes that a token within a text stands for: part of a character, perhaps. Throws `argument` for an id that
   * is none, `unsupported` where a token's text depends on its neighbours.
   */
  bytesOf(id: number, first = false): Uint8Array {
    const token = this.tokenOf(id);
    if (this.special.has(id)) return new TextEncoder().encode(token);
    if (this.decoder.bytesOf) return this.decoder.bytesOf(token, first);
    throw new LineageError(
      "unsupported",
      `the tokenizer's decoder ${JSON.stringify(this.definition.decoder?.type)} cannot be run token by token`,
    );
  }
}

/** Whether a mark before the first word alone needs to know where a changed text comes from. */
function dependsOnPlace({ normalizer, pre_tokenizer: preTokenizer }: CheckedDefinition): boolean {
  const first = JSON.stringify(preTokenizer ?? null).includes('"prepend_scheme":"first"');
  return first && (normalizer !== null || preTokenizer?.type === "Sequence");
}

/** Text from token ids as they come: a character appears once all its bytes are there. The pieces add up to `decode`. */
export class StreamDecoder {
  private readonly writer: TextWriter;
  private readonly skipSpecialTokens: boolean;

  constructor(
    private readonly tokenizer: Tokenizer,
    { skipSpecialTokens = true }: DecodeOptions = {},
  ) {
    this.writer = tokenizer.startText();
    this.skipSpecialTokens = skipSpecialTokens;
  }

  /** The characters that `id` completes. */
  push(id: number): string {
    const { tokenizer } = this;
    const token = tokenizer.tokenOf(id);
    return this.skipSpecialTokens && tokenizer.isSpecial(id) ? "" : this.writer.push(token);
  }

  /** What an unfinished character leaves: U+FFFD, or nothing. */
  flush(): string {
    return this.writer.flush();
  }
}
