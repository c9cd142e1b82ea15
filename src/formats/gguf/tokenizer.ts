import { FormatError, LineageError } from "../../base/errors.js";
import { bytePattern } from "../../tokenizers/cutter.js";
import {
  type Piece,
  PieceType,
  sentencePieceDefinition,
  Tokenizer,
  type TokenizerConfig,
  type TokenizerDefinition,
} from "../../tokenizers/index.js";
import type { GgufFile, GgufValue } from "./file.js";

const digits = { type: "Digits", individual_digits: true };
const byteLevel = (useRegex: boolean) => ({
  type: "ByteLevel",
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: useRegex,
});
const split = (regex: string) => ({
  type: "Split",
  pattern: { Regex: regex },
  behavior: "Isolated",
  invert: false,
});
const sequence = (...pretokenizers: object[]) => ({ type: "Sequence", pretokenizers });

/** How llama.cpp calls the ways to cut a text before byte-level merging: `tokenizer.ggml.pre`. */
const preTokenizers: Readonly<Record<string, { type: string }>> = {
  "gpt-2": byteLevel(true),
  smollm: sequence(digits, byteLevel(true)),
  "llama-bpe": sequence(
    split(
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    ),
    byteLevel(false),
  ),
  qwen2: sequence(
    split(
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    ),
    byteLevel(false),
  ),
};
/** Other names for the same cuts. */
const samePreTokenizer: Readonly<Record<string, string>> = {
  default: "gpt-2",
  "mpt-0": "gpt-2",
  olmo: "gpt-2",
  "jina-v2-code": "gpt-2",
  starcoder: "smollm",
  refact: "smollm",
  codeshell: "smollm",
  llama3: "llama-bpe",
  "llama-v3": "llama-bpe",
};

/** The tokenizer in a GGUF's metadata. Throws FormatError where it contradicts itself, `unsupported` for a kind that lineage does not know. */
export function ggufTokenizer(gguf: GgufFile): Tokenizer {
  const key = (name: string) => `tokenizer.ggml.${name}`;
  const kind = gguf.require(key("model"), "string");
  const tokens = gguf.list(key("tokens"), "string");
  if (!tokens?.length) throw new FormatError(gguf.path, "there is no vocabulary: tokenizer.ggml.tokens");
  const types = gguf.list(key("token_type"), "number");
  const scores = gguf.list(key("scores"), "number");
  for (const [name, list] of Object.entries({ token_type: types, scores }))
    if (list && list.length !== tokens.length)
      throw new FormatError(gguf.path, `${key(name)} has ${list.length} values for ${tokens.length} tokens`);
  const id = (name: string): number | undefined => {
    const value = gguf.get(key(`${name}_token_id`), "number");
    if (value !== undefined && tokens[value] === undefined)
      throw new FormatError(
        gguf.path,
        `${key(`${name}_token_id`)} is ${value}, but there are ${tokens.length} tokens`,
      );
    return value;
  };
  const ids = { bos: id("bos"), eos: id("eos"), pad: id("padding"), unk: id("unknown") };
  const content = (value: number | undefined) => (value === undefined ? undefined : tokens[value]);
  const config: TokenizerConfig = {
    add_bos_token: gguf.get(key("add_bos_token"), "boolean") ?? kind === "llama",
    add_eos_token: gguf.get(key("add_eos_token"), "boolean") ?? false,
    bos_token: content(ids.bos),
    eos_token: content(ids.eos),
    pad_token: content(ids.pad),
    unk_token: content(ids.unk),
    chat_template: gguf.get("tokenizer.chat_template", "string"),
    clean_up_tokenization_spaces: false,
  };
  const typeOf = (index: number) => types?.[index] ?? PieceType.normal;

  if (kind === "llama") {
    if (!scores) throw new FormatError(gguf.path, `a tokenizer of SentencePiece needs ${key("scores")}`);
    const pieces: Piece[] = tokens.map((piece, index) => ({
      piece,
      score: scores[index]!,
      type: typeOf(index),
    }));
    const own = sentencePieceDefinition({
      kind: "bpe",
      pieces,
      charactersMap: new Uint8Array(),
      addPrefix: gguf.get(key("add_space_prefix"), "boolean") ?? true,
      removeExtraSpaces: false,
      byteFallback: pieces.some(({ type }) => type === PieceType.byte),
      bosId: ids.bos,
      eosId: ids.eos,
      padId: ids.pad,
      unkId: ids.unk ?? 0,
    });
    return new Tokenizer(own.definition, { ...own.config, ...config }, gguf.path);
  }

  if (kind !== "gpt2")
    throw new LineageError(
      "unsupported",
      `${gguf.path} has a tokenizer of the kind ${kind}; lineage knows llama (SentencePiece) and gpt2 (byte-level BPE)`,
    );
  const pre = gguf.get(key("pre"), "string") ?? "gpt-2";
  const preTokenizer = preTokenizers[samePreTokenizer[pre] ?? pre];
  if (!preTokenizer)
    throw new LineageError(
      "unsupported",
      `${gguf.path} cuts its texts by the rules ${pre}; lineage knows ${[...Object.keys(preTokenizers), ...Object.keys(samePreTokenizer)].join(", ")}`,
    );
  const merges = gguf.list(key("merges"), "string");
  if (!merges) throw new FormatError(gguf.path, `a byte-level tokenizer needs ${key("merges")}`);
  const definition: TokenizerDefinition = {
    version: "1.0",
    added_tokens: tokens.flatMap((token, index) => {
      const type = typeOf(index);
      return type === PieceType.normal || type === PieceType.unused
        ? []
        : [
            {
              id: index,
              content: token,
              special: type !== PieceType.userDefined,
              single_word: false,
              lstrip: false,
              rstrip: false,
              normalized: false,
            },
          ];
    }),
    normalizer: null,
    pre_tokenizer: preTokenizer,
    post_processor: null,
    decoder: byteLevel(true),
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: "",
      end_of_word_suffix: "",
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: (samePreTokenizer[pre] ?? pre) === "llama-bpe",
      vocab: Object.fromEntries(tokens.map((token, index) => [token, index])),
      merges: [...merges],
    },
  };
  if (new Set(tokens).size !== tokens.length)
    throw new FormatError(gguf.path, "the same token is in the vocabulary twice");
  return new Tokenizer(definition, config, gguf.path);
}

/** Ids that end an answer: the end of a sequence, and of a turn where the file names one. */
export function ggufStopIds(gguf: GgufFile): number[] {
  const ids = ["eos", "eot", "eom"].map((name) => gguf.get(`tokenizer.ggml.${name}_token_id`, "number"));
  return [...new Set(ids.filter((value) => value !== undefined))];
}

/**
 * The metadata entries of a tokenizer, for a model of `vocabSize` embeddings. Throws `unsupported` for a tokenizer that
 * llama.cpp cannot run.
 */
export function ggufTokenizerMetadata(
  tokenizer: Tokenizer,
  vocabSize: number,
  stopIds: readonly number[],
): Map<string, GgufValue> {
  const { definition, config } = tokenizer;
  const { model } = definition;
  const metadata = new Map<string, GgufValue>();
  const set = (key: string, value: GgufValue) => metadata.set(`tokenizer.ggml.${key}`, value);
  const merges = (model.merges ?? []).map((merge) =>
    typeof merge === "string" ? (merge.split(" ") as [string, string]) : merge,
  );
  const refuse = (why: string): never => {
    throw new LineageError("unsupported", `llama.cpp cannot run this tokenizer: ${why}`);
  };
  if ((model.type ?? "BPE") !== "BPE" || config["lineage_level"] === "character")
    refuse(`it is a ${config["lineage_level"] === "character" ? "character" : model.type} tokenizer`);
  const isByteLevel = definition.decoder?.type === "ByteLevel";
  const tokens = Array.from({ length: vocabSize }, (_, id) => tokenizer.idToToken(id) ?? `[PAD${id}]`);
  const added = new Map(definition.added_tokens.map(({ id, special }) => [id, special]));
  const type = (id: number): number => {
    const special = added.get(id);
    const token = tokenizer.idToToken(id);
    if (token === undefined) return PieceType.unused;
    if (id === tokenizer.unkId && !isByteLevel) return PieceType.unknown;
    if (special !== undefined) return special ? PieceType.control : PieceType.userDefined;
    return model.byte_fallback && bytePattern.test(token) ? PieceType.byte : PieceType.normal;
  };
  if (isByteLevel) {
    const wanted = fingerprint(definition.pre_tokenizer);
    const pre = Object.entries(preTokenizers).find(([, known]) => fingerprint(known) === wanted)?.[0];
    set("model", { type: "string", value: "gpt2" });
    set("pre", {
      type: "string",
      value: pre ?? refuse("it knows no name for the way in which it cuts a text into words"),
    });
    set("merges", { type: "array", of: "string", value: merges.map((pair) => pair.join(" ")) });
  } else {
    if (!model.byte_fallback && config["lineage_cut"] !== "sentencepiece")
      refuse("it is neither a byte-level BPE nor one of SentencePiece");
    // Any scores that fall in the order of the merges cut alike.
    const ranks = new Map<string, number>();
    for (const [left, right] of merges) if (!ranks.has(left + right)) ranks.set(left + right, ranks.size);
    set("model", { type: "string", value: "llama" });
    set("pre", { type: "string", value: "default" });
    set("scores", {
      type: "array",
      of: "float32",
      value: tokens.map((token, id) =>
        type(id) === PieceType.normal ? -(ranks.get(token) ?? ranks.size) : 0,
      ),
    });
    const prefixed = JSON.stringify([definition.normalizer, definition.pre_tokenizer]);
    set("add_space_prefix", {
      type: "bool",
      value: /"Prepend"|"prepend_scheme":"(first|always)"/.test(prefixed),
    });
  }
  set("tokens", { type: "array", of: "string", value: tokens });
  set("token_type", { type: "array", of: "int32", value: tokens.map((_, id) => type(id)) });
  const [eos = tokenizer.eosId, eot] = stopIds;
  for (const [key, id] of Object.entries({
    bos: tokenizer.bosId,
    eos,
    eot,
    unknown: tokenizer.unkId,
    padding: tokenizer.padId,
  }))
    if (id !== undefined) set(`${key}_token_id`, { type: "uint32", value: id });
  set("add_bos_token", { type: "bool", value: tokenizer.addsBos });
  const template = tokenizer.chatTemplate();
  if (template !== undefined) metadata.set("tokenizer.chat_template", { type: "string", value: template });
  return metadata;
}

/** What of a pre-tokenizer decides where it cuts. */
function fingerprint(part: unknown): string {
  if (typeof part !== "object" || part === null) return JSON.stringify(part);
  const { type, pretokenizers, pattern, use_regex, individual_digits, add_prefix_space } = part as Record<
    string,
    unknown
  >;
  if (Array.isArray(pretokenizers)) {
    return pretokenizers.length === 1
      ? fingerprint(pretokenizers[0])
      : JSON.stringify(pretokenizers.map(fingerprint));
  }
  return JSON.stringify([type, pattern, use_regex ?? true, individual_digits, add_prefix_space ?? false]);
}
