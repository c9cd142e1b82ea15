import { existsSync } from "node:fs";
import path from "node:path";
import { z } from "zod";
import { validated } from "../base/check.js";
import { FormatError } from "../base/errors.js";
import { readJson, writeJson } from "../base/files.js";
import type { Tokenizer } from "../tokenizers/index.js";

const file = "generation_config.json";
const id = z.int().nonnegative();
const count = z.int().nonnegative();

/** What a `generation_config.json` says, or a `config.json` that is older than such files; null counts for nothing. */
const entries = z.looseObject({
  eos_token_id: z.union([z.int(), z.array(z.int())]).nullish(),
  decoder_start_token_id: z.union([id, z.array(id).length(1)]).nullish(),
  forced_bos_token_id: id.nullish(),
  forced_eos_token_id: z.union([id, z.array(id).length(1)]).nullish(),
  bad_words_ids: z.array(z.array(id).min(1)).nullish(),
  suppress_tokens: z.array(id).nullish(),
  num_beams: z.int().positive().nullish(),
  length_penalty: z.number().nullish(),
  early_stopping: z.union([z.boolean(), z.literal("never")]).nullish(),
  no_repeat_ngram_size: count.nullish(),
  min_length: count.nullish(),
  max_length: count.nullish(),
  min_new_tokens: count.nullish(),
  max_new_tokens: count.nullish(),
});

/** How an encoder-decoder writes where a call says nothing, as its authors published it. */
export interface GenerationDefaults {
  /** What the decoder reads before a text. */
  readonly startId?: number;
  /** What a text begins with after that: the language of a model that writes several. */
  readonly forcedBosId?: number;
  /** What ends a text that reaches its greatest length. */
  readonly forcedEosId?: number;
  /** Sequences of ids that are never written. */
  readonly bannedIds?: readonly (readonly number[])[];
  readonly numBeams?: number;
  /** Exponent of the length by which a beam's score is divided. */
  readonly lengthPenalty?: number;
  readonly earlyStopping?: boolean | "never";
  /** Size of the n-grams that are written once at most. */
  readonly noRepeatNgramSize?: number;
  /** Least and greatest number of ids, the first one that the decoder reads counted in. */
  readonly minLength?: number;
  readonly maxLength?: number;
  /** The same without the first one; they come before the others. */
  readonly minNewTokens?: number;
  readonly maxNewTokens?: number;
}

/** What a folder says of how its model writes. */
export interface GenerationConfig {
  readonly stopIds: readonly number[] | undefined;
  readonly generation: GenerationDefaults;
}

const single = (value: number | readonly number[] | null | undefined): number | undefined =>
  typeof value === "number" ? value : value?.[0];

function defined<T extends object>(record: {
  readonly [K in keyof T]?: T[K] | null | undefined;
}): T {
  const kept = Object.entries(record).filter(([, value]) => value !== undefined && value !== null);
  return Object.fromEntries(kept) as T;
}

const check = (source: string, json: unknown): z.infer<typeof entries> =>
  validated(entries, json, (problem) => new FormatError(source, problem));

/**
 * How the model of a folder writes: by its `generation_config.json`; what ends a text also by `config.json` where that file
 * says nothing, and all of it where there is no such file. Throws FormatError naming the entry that is wrong.
 * @param config the content of `config.json`
 */
export async function readGenerationConfig(folder: string, config: unknown): Promise<GenerationConfig> {
  const own = path.join(folder, file);
  const older = check(path.join(folder, "config.json"), config);
  const json = existsSync(own) ? check(own, await readJson(own)) : older;
  const stop = json.eos_token_id ?? older.eos_token_id ?? undefined;
  const banned = [...(json.bad_words_ids ?? []), ...(json.suppress_tokens ?? []).map((one) => [one])];
  return {
    stopIds: typeof stop === "number" ? [stop] : stop,
    generation: defined<GenerationDefaults>({
      startId: single(json.decoder_start_token_id),
      forcedBosId: json.forced_bos_token_id,
      forcedEosId: single(json.forced_eos_token_id),
      bannedIds: banned.length > 0 ? banned : undefined,
      numBeams: json.num_beams,
      lengthPenalty: json.length_penalty,
      earlyStopping: json.early_stopping,
      noRepeatNgramSize: json.no_repeat_ngram_size,
      minLength: json.min_length,
      maxLength: json.max_length,
      minNewTokens: json.min_new_tokens,
      maxNewTokens: json.max_new_tokens,
    }),
  };
}

/** Writes how a model writes beside it. */
export async function writeGenerationConfig(
  folder: string,
  tokenizer: Tokenizer,
  {
    stopIds,
    generation = {},
    padId = tokenizer.padId,
  }: Partial<GenerationConfig> & { readonly padId?: number | undefined },
): Promise<void> {
  const ends = stopIds ?? (tokenizer.eosId === undefined ? [] : [tokenizer.eosId]);
  await writeJson(path.join(folder, file), {
    bos_token_id: tokenizer.bosId,
    eos_token_id: ends.length === 1 ? ends[0] : ends,
    pad_token_id: padId,
    decoder_start_token_id: generation.startId,
    forced_bos_token_id: generation.forcedBosId,
    forced_eos_token_id: generation.forcedEosId,
    bad_words_ids: generation.bannedIds,
    num_beams: generation.numBeams,
    length_penalty: generation.lengthPenalty,
    early_stopping: generation.earlyStopping,
    no_repeat_ngram_size: generation.noRepeatNgramSize,
    min_length: generation.minLength,
    max_length: generation.maxLength,
    min_new_tokens: generation.minNewTokens,
    max_new_tokens: generation.maxNewTokens,
  });
}
