import { existsSync } from "node:fs";
import { readdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { FormatError, LineageError } from "../base/errors.js";
import { readBytes, readJson, readText, writeJson } from "../base/files.js";
import { replaceFiles, settleFolder } from "../base/folders.js";
import {
  Tokenizer,
  type TokenizerConfig,
  type TokenizerDefinition,
  byteLevelTokenizer,
  type SentencePieceModel,
  checkConfig,
  inLanguages,
  languagePlace,
  marianTokenizer,
  sentencePieceOfMbart,
  mbartLanguages,
  parseSentencePiece,
  sentencePieceDefinition,
  sentencePieceOfT5,
  template,
  wordBpeTokenizer,
  wordEnd,
  wordPieceTokenizer,
} from "../tokenizers/index.js";

/**
 * Reads a folder's `tokenizer.json`, SentencePiece's `tokenizer.model`, BERT's `vocab.txt`, or GPT-2's vocabulary and
 * merges, with `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json` and `chat_template.jinja` where they
 * are. Throws `tokenizer` when it has none of them.
 */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  await settleFolder(folder);
  const own = await readConfig(folder);
  const config = await withClass(folder, own);
  const find = (...names: string[]) =>
    names.map((name) => path.join(folder, name)).find((name) => existsSync(name));
  const file = find("tokenizer.json");
  if (file) {
    // It says all but where languages stand; which class it is of, only its own files tell.
    const given = languagePlace(config["tokenizer_class"]) === undefined ? own : config;
    return inOwnLanguages(new Tokenizer((await readJson(file)) as TokenizerDefinition, given, file));
  }
  const [source, target] = [find("source.spm"), find("target.spm")];
  if (source && target) return loadMarian(folder, config);
  const sentencePiece = find("tokenizer.model", "spiece.model", "sentencepiece.bpe.model");
  if (sentencePiece) return loadSentencePiece(sentencePiece, config);
  const vocabulary = find("vocab.json", "encoder.json", "gpt2_encoder.json");
  const merges = find("merges.txt", "vocab.bpe", "gpt2_vocab.bpe");
  if (vocabulary && merges) return loadByteLevel(vocabulary, merges, config);
  const words = find("vocab.txt");
  if (words) return loadWordPiece(words, config);
  throw new LineageError(
    "tokenizer",
    `${folder} has no tokenizer: neither tokenizer.json, nor tokenizer.model, nor vocab.json with merges.txt, nor vocab.txt`,
  );
}

/** Reads a SentencePiece `tokenizer.model`; `config` adds to what it says of itself, and names the kind that is not plain. */
export async function loadSentencePiece(file: string, config: TokenizerConfig = {}): Promise<Tokenizer> {
  const model = parseSentencePiece(file, await readBytes(file));
  const own = definitionOfClass(file, model, config);
  return inOwnLanguages(new Tokenizer(own.definition, { ...own.config, ...dropNull(config) }, file));
}

function definitionOfClass(file: string, model: SentencePieceModel, config: TokenizerConfig) {
  switch (String(config["tokenizer_class"]).replace(/Fast$/, "")) {
    case "T5Tokenizer": {
      const { extra_ids: sentinels = 100 } = config;
      if (!Number.isInteger(sentinels) || (sentinels as number) < 0 || (sentinels as number) > 10_000)
        throw new FormatError(
          file,
          "tokenizer_config.json: extra_ids must be a whole number from 0 to 10,000",
        );
      return sentencePieceOfT5(model, sentinels as number);
    }
    case "MBartTokenizer":
      return sentencePieceOfMbart(file, model, mbartLanguages.slice(0, 25));
    case "MBart50Tokenizer":
      return sentencePieceOfMbart(file, model, mbartLanguages);
    default:
      return sentencePieceDefinition(model);
  }
}

/** mBART's tokenizers in the languages that their configuration names; another one, beside an mBART, as it is. */
function inOwnLanguages(tokenizer: Tokenizer): Tokenizer {
  const { config } = tokenizer;
  if (languagePlace(config["tokenizer_class"]) === undefined) return tokenizer;
  if (!mbartLanguages.some((code) => tokenizer.tokenToId(code) !== undefined)) return tokenizer;
  const language = (entry: string) => (typeof config[entry] === "string" ? config[entry] : undefined);
  return inLanguages(tokenizer, { source: language("src_lang"), target: language("tgt_lang") });
}

/** Marian's two SentencePiece models and their vocabulary. */
async function loadMarian(folder: string, config: TokenizerConfig): Promise<Tokenizer> {
  if (config["separate_vocabs"] === true)
    throw new LineageError(
      "unsupported",
      `${folder} has a vocabulary for each side; lineage reads models with one`,
    );
  const files = new Map<string, Uint8Array>();
  for (const name of ["source.spm", "target.spm", "vocab.json"]) {
    if (!existsSync(path.join(folder, name)))
      throw new LineageError(
        "tokenizer",
        `${folder} has no ${name}, which belongs to source.spm and target.spm`,
      );
    files.set(name, await readBytes(path.join(folder, name)));
  }
  const model = (name: string) => parseSentencePiece(path.join(folder, name), files.get(name)!);
  const place = path.join(folder, "vocab.json");
  return marianTokenizer({
    source: model("source.spm"),
    target: model("target.spm"),
    vocabulary: idsByToken(place, await readJson(place)),
    config,
    files,
  });
}

/** The class of a tokenizer whose own files do not name it, by the model beside it, as transformers finds it. */
async function withClass(folder: string, config: TokenizerConfig): Promise<TokenizerConfig> {
  const file = path.join(folder, "config.json");
  if (config["tokenizer_class"] !== undefined || !existsSync(file)) return config;
  const json = await readJson(file);
  const { tokenizer_class: named, model_type: type } =
    typeof json === "object" && json !== null ? (json as Record<string, unknown>) : {};
  const usual = classOfModel.get(type);
  return usual === undefined
    ? config
    : { ...config, tokenizer_class: typeof named === "string" ? named : usual };
}

const classOfModel: ReadonlyMap<unknown, string> = new Map([
  ["bart", "BartTokenizer"],
  ["marian", "MarianTokenizer"],
  ["mbart", "MBartTokenizer"],
  ["mt5", "T5Tokenizer"],
  ["t5", "T5Tokenizer"],
]);

/** Writes `tokenizer.json`, or the files that a tokenizer was read from where it has none, and `tokenizer_config.json`. */
export async function writeTokenizer(tokenizer: Tokenizer, folder: string): Promise<void> {
  await replaceFiles(
    folder,
    async (staging) => {
      const { files } = tokenizer;
      if (!files) await writeJson(path.join(staging, "tokenizer.json"), tokenizer.definition);
      else for (const [name, bytes] of files) await writeFile(path.join(staging, name), bytes);
      await writeJson(path.join(staging, "tokenizer_config.json"), tokenizer.config);
    },
    { part: isTokenizerFile },
  );
}

/** Whether a file of this name is a part of the tokenizer in its folder, lineage's or another program's. */
export const isTokenizerFile = (name: string): boolean =>
  /^((tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template)\.json|vocab\.txt|merges\.txt|(tokenizer|spiece|sentencepiece\.bpe)\.model|(source|target)\.spm|chat_template\.jinja)$/.test(
    name,
  );

/** An object with the id of each token. */
function idsByToken(file: string, value: unknown): Map<string, number> {
  const ids = new Map<string, number>();
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new FormatError(file, "it must be an object with the id of each token");
  for (const [token, id] of Object.entries(value)) {
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0)
      throw new FormatError(
        file,
        `the id of ${JSON.stringify(token.slice(0, 60))} must be a whole number of at least 0`,
      );
    ids.set(token, id);
  }
  return ids;
}

// ---- Older folders --------------------------------------------------------------------------------------------------

/** A text's lines, whatever ends them. */
const linesOf = (text: string): string[] => text.replace(/\r?\n$/, "").split(/\r?\n/);

/** BERT's `vocab.txt`: a token a line, in the order of ids. */
async function loadWordPiece(file: string, config: TokenizerConfig): Promise<Tokenizer> {
  const tokens = linesOf(await readText(file));
  const seen = new Set<string>();
  tokens.forEach((token, line) => {
    if (seen.has(token))
      throw new FormatError(
        file,
        `line ${line + 1} has the token ${JSON.stringify(token.slice(0, 60))} once more`,
      );
    seen.add(token);
  });
  const flag = (entry: string): boolean | undefined => {
    const value = config[entry];
    if (value === undefined || typeof value === "boolean") return value;
    throw new FormatError(file, `tokenizer_config.json: ${entry} must be true or false`);
  };
  return wordPieceTokenizer({
    tokens,
    lowercase: flag("do_lower_case") ?? true,
    stripAccents: flag("strip_accents"),
    splitIdeographs: flag("tokenize_chinese_chars"),
    config,
  });
}

/** Qwen2's cut of a text into words. */
const qwen2Words =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/** GPT-2's `vocab.json` and `merges.txt`, and those of its kin, which the configuration tells apart. */
async function loadByteLevel(
  vocabularyFile: string,
  mergesFile: string,
  config: TokenizerConfig,
): Promise<Tokenizer> {
  const vocabulary = idsByToken(vocabularyFile, await readJson(vocabularyFile));
  const merges = linesOf(await readText(mergesFile)).filter((line, index) => {
    if (line === "" || line.startsWith("#version")) return false;
    if (line.split(" ").length !== 2)
      throw new FormatError(
        mergesFile,
        `line ${index + 1} is ${JSON.stringify(line.slice(0, 60))}; it must be two tokens with a space between`,
      );
    return true;
  });
  const given = { vocabulary, merges, config };
  const wordEnds = merges.some((merge) => merge.endsWith(wordEnd));
  const kind = String(
    config["tokenizer_class"] ?? (wordEnds ? await classByModel(vocabularyFile) : "GPT2Tokenizer"),
  ).replace(/Fast$/, "");
  switch (kind) {
    case "GPT2Tokenizer":
    case "CodeGenTokenizer":
    case "PreTrainedTokenizer":
      return byteLevelTokenizer(prefixed(given, config));
    case "OpenAIGPTTokenizer":
      return wordBpeTokenizer({ ...given, special: [withNames(config, { unk_token: "<unk>" }).unk_token] });
    case "Qwen2Tokenizer":
      return byteLevelTokenizer({
        ...given,
        normalizer: { type: "NFC" },
        preTokenizer: {
          type: "Sequence",
          pretokenizers: [
            { type: "Split", pattern: { Regex: qwen2Words }, behavior: "Isolated", invert: false },
            { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
          ],
        },
      });
    case "RobertaTokenizer":
    case "BartTokenizer":
    case "LongformerTokenizer":
    case "LEDTokenizer":
      return roberta(given);
    case "DebertaTokenizer":
      return deberta(given);
    default:
      throw new LineageError(
        "unsupported",
        `${vocabularyFile} is of a ${kind}, which lineage cannot read without a tokenizer.json`,
      );
  }
}

/** The class of a tokenizer whose merges mark the ends of words, by the model beside it, where no file names the class. */
async function classByModel(vocabularyFile: string): Promise<string> {
  const file = path.join(path.dirname(vocabularyFile), "config.json");
  const json = existsSync(file) ? ((await readJson(file)) as { model_type?: unknown } | null) : null;
  return json?.model_type === "openai-gpt" ? "OpenAIGPTTokenizer" : "tokenizer of words without a name";
}

type ByteLevelParts = Parameters<typeof byteLevelTokenizer>[0];

/** With the space before a text that `add_prefix_space` asks for. */
function prefixed(parts: ByteLevelParts, config: TokenizerConfig): ByteLevelParts {
  if (config["add_prefix_space"] !== true) return parts;
  return {
    ...parts,
    preTokenizer: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
  };
}

/** The special tokens that a configuration names, and those of the kind for the others. */
function withNames<K extends string>(
  config: TokenizerConfig,
  defaults: Readonly<Record<K, string>>,
): Record<K, string> {
  const named: Record<K, string> = { ...defaults };
  for (const entry of Object.keys(defaults) as K[]) {
    const token = config[entry];
    const content =
      typeof token === "object" && token !== null ? (token as { content?: unknown }).content : token;
    if (typeof content === "string") named[entry] = content;
  }
  return named;
}

type UsualTokens = Readonly<
  Record<`${"bos" | "eos" | "sep" | "cls" | "unk" | "pad" | "mask"}_token`, string>
>;
type EncoderFiles = ByteLevelParts & { readonly config: TokenizerConfig };
/** What stands around a text, and where: the token's content and its id. */
type Marks = { readonly cls: readonly [string, number]; readonly sep: readonly [string, number] };

/** The byte-level tokenizer of an encoder, whose special tokens have usual names. */
function byteLevelEncoder(
  given: EncoderFiles,
  usual: UsualTokens,
  around: (marks: Marks) => ByteLevelParts["postProcessor"],
): Tokenizer {
  const { vocabulary, config } = given;
  const names = withNames(config, usual);
  const [cls, sep] = [vocabulary.get(names.cls_token), vocabulary.get(names.sep_token)];
  return byteLevelTokenizer({
    ...prefixed(given, config),
    special: [...new Set(Object.values(names))].filter((token) => vocabulary.has(token)),
    // The mask takes the space before it along, as the model was trained.
    leftStripped: [names.mask_token],
    postProcessor:
      cls === undefined || sep === undefined
        ? null
        : around({ cls: [names.cls_token, cls], sep: [names.sep_token, sep] }),
    config: { ...names, ...config },
  });
}

const roberta = (given: EncoderFiles): Tokenizer =>
  byteLevelEncoder(
    given,
    {
      bos_token: "<s>",
      eos_token: "</s>",
      sep_token: "</s>",
      cls_token: "<s>",
      unk_token: "<unk>",
      pad_token: "<pad>",
      mask_token: "<mask>",
    },
    ({ cls, sep }) => ({
      type: "RobertaProcessing",
      sep: [...sep],
      cls: [...cls],
      trim_offsets: true,
      add_prefix_space: given.config["add_prefix_space"] === true,
    }),
  );

const deberta = (given: EncoderFiles): Tokenizer =>
  byteLevelEncoder(
    given,
    {
      bos_token: "[CLS]",
      eos_token: "[SEP]",
      sep_token: "[SEP]",
      cls_token: "[CLS]",
      unk_token: "[UNK]",
      pad_token: "[PAD]",
      mask_token: "[MASK]",
    },
    ({ cls, sep }) =>
      template([cls[0], "A", sep[0]], [cls[0], "A", sep[0], ["B", 1], [sep[0], 1]], [[...cls], [...sep]]),
  );

// ---- Configurations -------------------------------------------------------------------------------------------------

const dropNull = (config: TokenizerConfig): TokenizerConfig =>
  Object.fromEntries(Object.entries(config).filter(([, value]) => value !== null && value !== undefined));

/** What a folder's files say beside the vocabulary; as in transformers, the older files count where no newer one does. */
async function readConfig(folder: string): Promise<TokenizerConfig> {
  const read = async (name: string): Promise<TokenizerConfig> => {
    const file = path.join(folder, name);
    return existsSync(file) ? dropNull(checkConfig(file, await readJson(file))) : {};
  };
  const newer = await read("tokenizer_config.json");
  const map = await read("special_tokens_map.json");
  let config: TokenizerConfig = newer.added_tokens_decoder ? { ...map, ...newer } : { ...newer, ...map };
  const added = path.join(folder, "added_tokens.json");
  if (!newer.added_tokens_decoder && existsSync(added))
    config = { ...config, added_tokens_decoder: olderAddedTokens(added, await readJson(added), config) };
  const templates = await readChatTemplates(folder);
  if (templates.length === 0) return config;
  const own = templates.length === 1 && templates[0]!.name === "default" ? templates[0]!.template : templates;
  return { ...config, chat_template: own };
}

/** The templates that are files of their own: `chat_template.jinja`, and each of `additional_chat_templates/`. */
async function readChatTemplates(folder: string): Promise<{ name: string; template: string }[]> {
  const files: [name: string, file: string][] = [];
  const main = path.join(folder, "chat_template.jinja");
  if (existsSync(main)) files.push(["default", main]);
  const more = path.join(folder, "additional_chat_templates");
  if (existsSync(more))
    for (const file of (await readdir(more)).filter((name) => name.endsWith(".jinja")).sort())
      files.push([file.slice(0, -".jinja".length), path.join(more, file)]);
  return Promise.all(files.map(async ([name, file]) => ({ name, template: await readText(file) })));
}

/** `added_tokens.json`: ids by token; those that the configuration names are special. */
function olderAddedTokens(
  file: string,
  value: unknown,
  config: TokenizerConfig,
): NonNullable<TokenizerConfig["added_tokens_decoder"]> {
  const ids = idsByToken(file, value);
  const special = new Set<unknown>();
  for (const entry of Object.values(config))
    for (const token of Array.isArray(entry) ? (entry as unknown[]) : [entry])
      special.add(
        typeof token === "object" && token !== null ? (token as { content?: unknown }).content : token,
      );
  return Object.fromEntries(
    Array.from(ids, ([content, id]) => [
      String(id),
      { content, special: special.has(content), normalized: !special.has(content) },
    ]),
  );
}
