import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import path from "node:path";
import { LineageError } from "../base/errors.js";
import { readBytes, readJson, readText, writeJson } from "../base/files.js";
import { replaceFiles, settleFolder } from "../base/folders.js";
import {
  Tokenizer,
  type TokenizerConfig,
  type TokenizerDefinition,
  byteLevelTokenizer,
  checkConfig,
  parseSentencePiece,
  sentencePieceDefinition,
} from "../tokenizers/index.js";

/**
 * Reads a folder's `tokenizer.json`, SentencePiece's `tokenizer.model`, or GPT-2's vocabulary and merges, with
 * `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja` where they are. Throws `tokenizer` when
 * it has none of them.
 */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  await settleFolder(folder);
  const config = await readConfig(folder);
  const file = path.join(folder, "tokenizer.json");
  if (existsSync(file)) return new Tokenizer((await readJson(file)) as TokenizerDefinition, config, file);
  const find = (...names: string[]) =>
    names.map((name) => path.join(folder, name)).find((name) => existsSync(name));
  const sentencePiece = find("tokenizer.model", "spiece.model", "sentencepiece.bpe.model");
  if (sentencePiece) return loadSentencePiece(sentencePiece, config);
  const vocabulary = find("vocab.json", "encoder.json", "gpt2_encoder.json");
  const merges = find("merges.txt", "vocab.bpe", "gpt2_vocab.bpe");
  if (!vocabulary || !merges) {
    throw new LineageError(
      "tokenizer",
      `${folder} has no tokenizer: neither tokenizer.json, nor tokenizer.model, nor vocab.json with merges.txt`,
    );
  }
  const lines = (await readText(merges))
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("#version"));
  return byteLevelTokenizer((await readJson(vocabulary)) as Record<string, number>, lines, config);
}

/** Reads a SentencePiece `tokenizer.model`; `config` adds to what it says of itself. */
export async function loadSentencePiece(file: string, config: TokenizerConfig = {}): Promise<Tokenizer> {
  const bytes = await readBytes(file);
  const own = sentencePieceDefinition(parseSentencePiece(file, bytes));
  const known = new Set(own.definition.added_tokens?.map(({ id }) => id));
  const added = Object.entries(config.added_tokens_decoder ?? {})
    .filter(([id]) => !known.has(Number(id)))
    .map(([id, token]) => ({ ...token, id: Number(id) }));
  const definition = {
    ...own.definition,
    added_tokens: [...(own.definition.added_tokens ?? []), ...added],
  };
  return new Tokenizer(definition, { ...own.config, ...dropNull(config) }, file);
}

/** Writes `tokenizer.json` and `tokenizer_config.json`. */
export async function writeTokenizer(tokenizer: Tokenizer, folder: string): Promise<void> {
  await replaceFiles(
    folder,
    async (staging) => {
      await writeJson(path.join(staging, "tokenizer.json"), tokenizer.definition);
      await writeJson(path.join(staging, "tokenizer_config.json"), tokenizer.config);
    },
    { part: isTokenizerFile },
  );
}

/** Whether a file of this name is a part of the tokenizer in its folder, lineage's or another program's. */
export const isTokenizerFile = (name: string): boolean =>
  /^((tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template)\.json|vocab\.txt|merges\.txt|(tokenizer|spiece|sentencepiece\.bpe)\.model|chat_template\.jinja)$/.test(
    name,
  );

const dropNull = (config: TokenizerConfig): TokenizerConfig =>
  Object.fromEntries(Object.entries(config).filter(([, value]) => value !== null && value !== undefined));

async function readConfig(folder: string): Promise<TokenizerConfig> {
  const read = async (name: string): Promise<TokenizerConfig> => {
    const file = path.join(folder, name);
    return existsSync(file) ? checkConfig(file, await readJson(file)) : {};
  };
  const config = {
    ...dropNull(await read("special_tokens_map.json")),
    ...dropNull(await read("tokenizer_config.json")),
  };
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
