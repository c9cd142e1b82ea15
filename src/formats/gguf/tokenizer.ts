import { FormatError, LineageError } from "../../base/errors.js";
import {
  type Piece,
  PieceType,
  byteLevelBpe,
  bytePattern,
  sentencePieceDefinition,
  sentencePieceRules,
  type SentencePieceRules,
  template,
  Tokenizer,
  type TokenizerConfig,
  type TokenizerDefinition,
} from "../../tokenizers/index.js";
import { type Warn, emitWarning } from "../../base/warnings.js";
import { endIds } from "./ends.js";
import type { GgufFile, GgufValue } from "./file.js";
import { type PreTokenizer, preTokenizerName, preTokenizers } from "./pre-tokenizers.js";

const key = (name: string): string => `tokenizer.ggml.${name}`;

function tokensOf(gguf: GgufFile): readonly string[] {
  const tokens = gguf.list(key("tokens"), "string");
  if (!tokens?.length) throw new FormatError(gguf.path, `there is no vocabulary: ${key("tokens")}`);
  return tokens;
}

/** The id of a special token; undefined where the file says none, or one that there is not, as -1. */
function idOf(gguf: GgufFile, tokens: readonly string[], name: string): number | undefined {
  const value = gguf.get(key(`${name}_token_id`), "number");
  return value !== undefined && Object.hasOwn(tokens, value) ? value : undefined;
}

/** Where llama.cpp looks for special tokens that a file has no ids for. */
const usualIds: Readonly<Record<string, Readonly<Partial<Record<"bos" | "eos" | "pad" | "unk", number>>>>> = {
  llama: { bos: 1, eos: 2, unk: 0 },
  t5: { eos: 1, pad: 0, unk: 2 },
};

/** A token of T5's that stands for a hidden span. */
const sentinel = /^<extra_id_\d+>$/;

/** The tokens without those at the end that only fill the vocabulary up to the model's embeddings. */
function withoutFilling(gguf: GgufFile, tokens: readonly string[]): readonly string[] {
  const types = valuesOf(gguf, "token_type", tokens.length);
  let count = tokens.length;
  while (count > 1 && types?.[count - 1] === PieceType.unused && /^\[PAD\d+\]$/.test(tokens[count - 1]!))
    count--;
  return tokens.slice(0, count);
}

/** A value for every token; more are left over. Throws FormatError where there are fewer. */
function valuesOf(gguf: GgufFile, name: string, count: number): readonly number[] | undefined {
  const values = gguf.list(key(name), "number");
  if (values && values.length < count)
    throw new FormatError(gguf.path, `${key(name)} has ${values.length} values for ${count} tokens`);
  return values;
}

/**
 * The tokenizer in a GGUF's metadata, with what llama.cpp makes of entries that are missing. Throws FormatError where the
 * file contradicts itself, `unsupported` for a kind that lineage does not know.
 */
export function ggufTokenizer(gguf: GgufFile, warn: Warn = emitWarning): Tokenizer {
  const given = gguf.require(key("model"), "string");
  const kind = given === "gemma4" || given === "whitespace" ? "gpt2" : given;
  if (kind !== "llama" && kind !== "gpt2" && kind !== "t5")
    throw new LineageError(
      "unsupported",
      `${gguf.path} has a tokenizer of the kind ${given}; lineage knows llama and t5 (SentencePiece), gpt2 (byte-level BPE), gemma4 and whitespace`,
    );
  const all = tokensOf(gguf).map((token, id) => (token === "" ? `[EMPTY_${id}]` : token));
  const tokens = kind === "t5" ? withoutFilling(gguf, all) : all;
  if (new Set(tokens).size !== tokens.length)
    throw new FormatError(gguf.path, "the same token is in the vocabulary twice");
  const types = valuesOf(gguf, "token_type", tokens.length);
  const scores = valuesOf(gguf, "scores", tokens.length);
  const id = (name: string) => idOf(gguf, tokens, name);
  // llama.cpp's places for them: SentencePiece's own, and T5's.
  const usual = (name: "bos" | "eos" | "pad" | "unk"): number | undefined => {
    const place = usualIds[kind]?.[name];
    return place !== undefined && place < tokens.length ? place : undefined;
  };
  const ids = {
    bos: id("bos") ?? usual("bos"),
    eos: id("eos") ?? usual("eos"),
    pad: id("padding") ?? usual("pad"),
    unk: id("unknown") ?? usual("unk"),
  };
  const pre =
    kind === "gpt2" ? preTokenizerOf(gguf, given === "gemma4" ? given : undefined, warn) : undefined;
  const content = (value: number | undefined) => (value === undefined ? undefined : tokens[value]);
  const config: TokenizerConfig = {
    add_bos_token:
      (pre?.forcesBos ?? false) ||
      (gguf.get(key("add_bos_token"), "boolean") ?? pre?.addsBos ?? kind === "llama"),
    add_eos_token: gguf.get(key("add_eos_token"), "boolean") ?? kind === "t5",
    bos_token: content(ids.bos),
    eos_token: content(ids.eos),
    pad_token: content(ids.pad),
    unk_token: content(ids.unk),
    chat_template: templatesOf(gguf),
    clean_up_tokenization_spaces: false,
  };
  const endings = new Set(endIds(tokens, id));
  const typeOf = (index: number): number => {
    if (endings.has(index)) return PieceType.control;
    const type = types?.[index] ?? PieceType.normal;
    // llama.cpp's converter calls T5's sentinels user-defined, and finds them as it finds special tokens.
    return type === PieceType.userDefined && kind === "t5" && sentinel.test(tokens[index]!)
      ? PieceType.control
      : type;
  };

  if (kind !== "gpt2") {
    if (!scores) throw new FormatError(gguf.path, `a tokenizer of SentencePiece needs ${key("scores")}`);
    const isUnigram = kind === "t5";
    if (isUnigram && ids.unk === undefined)
      throw new FormatError(gguf.path, `a unigram tokenizer needs ${key("unknown_token_id")}`);
    // Unused tokens have scores far below all others, which would make what is unknown cheaper than it is.
    const least = scores.reduce(
      (low, score, index) => (typeOf(index) === PieceType.normal && score < low ? score : low),
      0,
    );
    const pieces: Piece[] = tokens.map((piece, index) => ({
      piece,
      score: isUnigram && typeOf(index) === PieceType.unused ? least : scores[index]!,
      type: typeOf(index),
    }));
    const own = sentencePieceDefinition({
      kind: isUnigram ? "unigram" : "bpe",
      pieces,
      charactersMap: Uint8Array.from(gguf.list(key("precompiled_charsmap"), "number") ?? []),
      addPrefix: gguf.get(key("add_space_prefix"), "boolean") ?? !isUnigram,
      removeExtraSpaces: isUnigram && (gguf.get(key("remove_extra_whitespaces"), "boolean") ?? false),
      byteFallback: pieces.some(({ type }) => type === PieceType.byte),
      bosId: ids.bos,
      eosId: ids.eos,
      padId: ids.pad,
      unkId: ids.unk ?? 0,
    });
    const end = isUnigram && config.add_eos_token === true ? config.eos_token : undefined;
    const definition: TokenizerDefinition =
      typeof end === "string"
        ? {
            ...own.definition,
            post_processor: template(["A", end], ["A", end, "B", end], [[end, ids.eos!]]),
          }
        : own.definition;
    return new Tokenizer(definition, { ...own.config, ...config }, gguf.path);
  }

  const merges = gguf.list(key("merges"), "string") ?? (pre?.needsNoMerges ? [] : undefined);
  if (!merges) throw new FormatError(gguf.path, `a byte-level tokenizer needs ${key("merges")}`);
  const { writtenSpace } = pre!;
  const definition: TokenizerDefinition = {
    version: "1.0",
    added_tokens: tokens.flatMap((token, index) => {
      const type = typeOf(index);
      return type === PieceType.normal || type === PieceType.unused || type === PieceType.byte
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
    normalizer: writtenSpace === undefined ? null : written(gguf, writtenSpace),
    pre_tokenizer: pre!.definition,
    post_processor: null,
    decoder:
      writtenSpace === undefined
        ? { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true }
        : {
            type: "Sequence",
            decoders: [replacing(writtenSpace, " "), { type: "ByteFallback" }, { type: "Fuse" }],
          },
    model: {
      ...byteLevelBpe(
        tokens.map((token, index) => [token, index]),
        merges,
      ),
      byte_fallback: writtenSpace !== undefined,
      ignore_merges: pre!.ignoresMerges ?? false,
    },
  };
  return new Tokenizer(definition, config, gguf.path);
}

/** What a unigram tokenizer does to a text, where llama.cpp does it too. */
function rulesOf(definition: Tokenizer["definition"], refuse: (why: string) => never): SentencePieceRules {
  try {
    return sentencePieceRules(definition);
  } catch (error) {
    if (!(error instanceof LineageError)) throw error;
    return refuse(error.message);
  }
}

const replacing = (from: string, to: string) => ({
  type: "Replace",
  pattern: { String: from },
  content: to,
});

/** What a text is before it is cut, where tokens are written as text. */
function written(gguf: GgufFile, space: string): { readonly type: string } {
  const lowercase = gguf.get(key("normalizer.lowercase"), "boolean") ?? false;
  const strips = gguf.get(key("normalizer.strip_accents"), "boolean") ?? lowercase;
  if (strips)
    throw new LineageError(
      "unsupported",
      `${gguf.path} has a tokenizer that takes accents away, which lineage does not do for its kind`,
    );
  return {
    type: "Sequence",
    normalizers: [
      ...(lowercase ? [{ type: "Lowercase" }] : []),
      ...(space === " " ? [] : [replacing(" ", space)]),
    ],
  } as { readonly type: string };
}

/** The template of a conversation, or all where there are several: the others' names are parts of their keys. */
function templatesOf(gguf: GgufFile): TokenizerConfig["chat_template"] {
  const start = "tokenizer.chat_template";
  const main = gguf.get(start, "string");
  const named = [...gguf.header.metadata.keys()].flatMap((name) => {
    const template = name.startsWith(`${start}.`) ? gguf.get(name, "string") : undefined;
    return template === undefined ? [] : [{ name: name.slice(start.length + 1), template }];
  });
  if (named.length === 0) return main;
  return main === undefined ? named : [{ name: "default", template: main }, ...named];
}

function preTokenizerOf(gguf: GgufFile, kind: string | undefined, warn: Warn): PreTokenizer {
  const name = kind ?? gguf.get(key("pre"), "string");
  if (!name)
    warn(
      `${gguf.path} does not name its pre-tokenizer (${key("pre")}); llama.cpp's default is used, which may be wrong: convert the model again`,
    );
  const pre = preTokenizers.get(name || "default");
  if (pre) return pre;
  throw new LineageError(
    "unsupported",
    `${gguf.path} has the pre-tokenizer ${JSON.stringify(name)}; lineage knows ${[...preTokenizers.keys()].join(", ")}`,
  );
}

/** Ids after which llama.cpp stops: the end of a text, of a turn, and of a message. */
export function ggufStopIds(gguf: GgufFile): number[] {
  const tokens = tokensOf(gguf);
  const usual = usualIds[gguf.require(key("model"), "string")]?.eos;
  const usualEnd = usual !== undefined && usual < tokens.length ? usual : undefined;
  return endIds(tokens, (name) => idOf(gguf, tokens, name) ?? (name === "eos" ? usualEnd : undefined));
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
  if (config["lineage_level"] === "character") refuse("it is a character tokenizer");
  if (tokenizer.target !== tokenizer) refuse("it has another vocabulary for the texts that are written");
  const isUnigram = Array.isArray(model.vocab);
  if (!isUnigram && (model.type ?? "BPE") !== "BPE") refuse(`it is a ${model.type} tokenizer`);
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
  if (isUnigram) {
    const scores = model.vocab as readonly (readonly [string, number])[];
    const { charactersMap, addPrefix, removeExtraSpaces } = rulesOf(definition, refuse);
    if (tokenizer.unkId === undefined) refuse("it has no token for what is unknown");
    set("model", { type: "string", value: "t5" });
    set("pre", { type: "string", value: "default" });
    set("scores", {
      type: "array",
      of: "float32",
      // What llama.cpp's own converter gives to tokens that only fill the vocabulary.
      value: tokens.map((_, id) => (type(id) === PieceType.unused ? -10_000 : (scores[id]?.[1] ?? 0))),
    });
    set("add_space_prefix", { type: "bool", value: addPrefix });
    set("remove_extra_whitespaces", { type: "bool", value: removeExtraSpaces });
    if (charactersMap.byteLength > 0)
      set("precompiled_charsmap", { type: "array", of: "uint8", value: [...charactersMap] });
    const bare = tokenizer.encode("a");
    const added = tokenizer.encodePair("a").ids.slice(bare.length);
    if (tokenizer.encodePair("a").ids.join() !== [...bare, ...added].join() || added.length > 1)
      refuse("it puts more than one token at the end around a text");
    if (added.length > 0 && added[0] !== tokenizer.eosId)
      refuse("it ends a text with another token than its EOS");
    set("add_eos_token", { type: "bool", value: added.length > 0 });
  } else if (isByteLevel) {
    const pre = preTokenizerName(definition.pre_tokenizer);
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
  const given = config.chat_template ?? [];
  const templates = typeof given === "string" ? [{ name: "default", template: given }] : given;
  const names: string[] = [];
  for (const { name: written, template: value } of templates) {
    // What llama.cpp's own converter leaves of a name.
    const name = written.replace(/[^A-Za-z0-9]/g, "_");
    if (name !== "default") names.push(name);
    metadata.set(`tokenizer.chat_template${name === "default" ? "" : `.${name}`}`, { type: "string", value });
  }
  if (names.length > 0)
    metadata.set("tokenizer.chat_templates", { type: "array", of: "string", value: names });
  return metadata;
}
