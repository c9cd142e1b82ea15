import { existsSync } from "node:fs";
import path from "node:path";
import { Tokenizer as Runner } from "@huggingface/tokenizers";
import { FormatError, LineageError, messageOf } from "../base/errors.js";
import { readJson, readText, writeJson } from "../base/files.js";
import { countWords, learnMerges } from "./bpe.js";

interface TokenizerJson {
  readonly model: { readonly vocab: Readonly<Record<string, number>> };
  readonly added_tokens?: readonly {
    readonly id: number;
    readonly content: string;
    readonly special: boolean;
  }[];
}

/** GPT-2's separator of documents, which also starts a text. */
export const endOfText = "<|endoftext|>";

/** A text's token ids and back, over a `tokenizer.json` of the field. */
export class Tokenizer {
  private readonly runner: Runner;
  private readonly tokens: readonly (string | undefined)[];
  private readonly special: ReadonlySet<number>;

  /** @param definition the content of a `tokenizer.json`; @param config that of its `tokenizer_config.json` */
  constructor(
    private readonly definition: TokenizerJson,
    private readonly config: Readonly<Record<string, unknown>> = {},
  ) {
    this.runner = new Runner(definition as never, config as never);
    const tokens: (string | undefined)[] = [];
    for (const [token, id] of Object.entries(definition.model.vocab)) tokens[id] = token;
    for (const { id, content } of definition.added_tokens ?? []) tokens[id] = content;
    this.tokens = tokens;
    this.special = new Set(
      (definition.added_tokens ?? []).filter(({ special }) => special).map(({ id }) => id),
    );
  }

  /** Number of ids, the special ones included. */
  get vocabSize(): number {
    return this.tokens.length;
  }

  /** Id of the token that ends a document; undefined when the tokenizer has none. */
  get endOfTextId(): number | undefined {
    return this.tokenToId(endOfText);
  }

  tokenToId(token: string): number | undefined {
    const id = this.definition.added_tokens?.find(({ content }) => content === token)?.id;
    return (
      id ??
      (Object.hasOwn(this.definition.model.vocab, token) ? this.definition.model.vocab[token] : undefined)
    );
  }

  encode(text: string): number[] {
    return text === ""
      ? []
      : [...(this.runner.encode(text, { add_special_tokens: false }) as unknown as { ids: number[] }).ids];
  }

  decode(ids: readonly number[], { skipSpecialTokens = true } = {}): string {
    const known = skipSpecialTokens ? ids.filter((id) => !this.special.has(id)) : ids;
    const bytes = known.flatMap((id) => [...this.bytesOf(id)]);
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes));
  }

  /** The exact bytes that a token stands for: part of a character, perhaps. Throws `argument` for an id that is none. */
  bytesOf(id: number): Uint8Array {
    const token = this.tokens[id];
    if (token === undefined)
      throw new LineageError("argument", `there is no token ${id}; ids go from 0 to ${this.vocabSize - 1}`);
    if (this.special.has(id) || this.isCharacterLevel) return new TextEncoder().encode(token);
    return Uint8Array.from(token, (character) => byteOfCharacter.get(character) ?? 63);
  }

  private get isCharacterLevel(): boolean {
    return this.config["lineage_level"] === "character";
  }

  /** Writes `tokenizer.json` and `tokenizer_config.json`. */
  async save(folder: string): Promise<void> {
    await writeJson(path.join(folder, "tokenizer.json"), this.definition);
    await writeJson(path.join(folder, "tokenizer_config.json"), this.config);
  }

  /** Reads a folder's `tokenizer.json`, or GPT-2's vocabulary and merges. Throws `tokenizer` when it has neither. */
  static async load(folder: string): Promise<Tokenizer> {
    const file = path.join(folder, "tokenizer.json");
    const configFile = path.join(folder, "tokenizer_config.json");
    if (existsSync(file)) {
      const definition = (await readJson(file)) as TokenizerJson;
      if (typeof definition?.model?.vocab !== "object")
        throw new FormatError(file, "there is no model.vocab in it");
      const config = existsSync(configFile) ? ((await readJson(configFile)) as Record<string, unknown>) : {};
      try {
        return new Tokenizer(definition, config);
      } catch (error) {
        throw new FormatError(file, `the tokenizer cannot be used: ${messageOf(error)}`, { cause: error });
      }
    }
    const find = (...names: string[]) =>
      names.map((name) => path.join(folder, name)).find((name) => existsSync(name));
    const vocabulary = find("vocab.json", "encoder.json", "gpt2_encoder.json");
    const merges = find("merges.txt", "vocab.bpe", "gpt2_vocab.bpe");
    if (!vocabulary || !merges) {
      throw new LineageError(
        "tokenizer",
        `${folder} has no tokenizer: neither tokenizer.json nor vocab.json with merges.txt`,
      );
    }
    const lines = (await readText(merges))
      .split("\n")
      .filter((line) => line !== "" && !line.startsWith("#version"));
    return byteLevelTokenizer((await readJson(vocabulary)) as Record<string, number>, lines);
  }
}

/** GPT-2's tokenizer from its vocabulary and merges. */
function byteLevelTokenizer(vocab: Record<string, number>, merges: readonly string[]): Tokenizer {
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
  return new Tokenizer({
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
      merges,
    },
  } as TokenizerJson);
}

/** GPT-2's printable stand-ins for bytes, and the bytes back. */
const byteOfCharacter = new Map<string, number>();
const characterOfByte: string[] = [];
for (let byte = 0, next = 256; byte < 256; byte++) {
  const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  const character = String.fromCodePoint(printable ? byte : next++);
  byteOfCharacter.set(character, byte);
  characterOfByte.push(character);
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
    } as TokenizerJson,
    { lineage_level: "character" },
  );
}

/** Text from token ids as they come: a character appears once all its bytes are there. */
export class StreamDecoder {
  private readonly decoder = new TextDecoder("utf-8", { ignoreBOM: true });

  constructor(private readonly tokenizer: Tokenizer) {}

  /** The characters that `id` completes. */
  push(id: number): string {
    return this.decoder.decode(this.tokenizer.bytesOf(id), { stream: true });
  }

  /** What an unfinished character leaves: U+FFFD, or nothing. */
  flush(): string {
    return this.decoder.decode();
  }
}
