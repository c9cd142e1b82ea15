import { z } from "zod";
import { FormatError } from "../base/errors.js";

const addedToken = z.looseObject({
  id: z
    .int()
    .min(0)
    .max(2 ** 24),
  content: z.string().min(1),
  special: z.boolean().default(false),
  normalized: z.boolean().default(false),
});

const part = z.looseObject({ type: z.string() });
const id = z
  .int()
  .min(0)
  .max(2 ** 24);

const definitionSchema = z.looseObject({
  added_tokens: z.array(addedToken).default([]),
  normalizer: part.nullable().default(null),
  pre_tokenizer: part.nullable().default(null),
  post_processor: part.nullable().default(null),
  decoder: part.nullable().default(null),
  model: z.looseObject({
    type: z.string().optional(),
    vocab: z.union([z.record(z.string(), id), z.array(z.tuple([z.string(), z.number()]))]),
    merges: z.array(z.union([z.string(), z.tuple([z.string(), z.string()])])).optional(),
    unk_token: z.string().nullish(),
    byte_fallback: z.boolean().nullish(),
  }),
});

/** The content of a `tokenizer.json`. */
export type TokenizerDefinition = z.input<typeof definitionSchema>;
/** A definition whose every part is there. */
export type CheckedDefinition = z.output<typeof definitionSchema>;

const tokenName = z.union([z.string(), z.looseObject({ content: z.string() })]).nullish();

const configSchema = z.looseObject({
  bos_token: tokenName,
  eos_token: tokenName,
  pad_token: tokenName,
  unk_token: tokenName,
  mask_token: tokenName,
  add_bos_token: z.boolean().nullish(),
  chat_template: z
    .union([z.string(), z.array(z.looseObject({ name: z.string(), template: z.string() }))])
    .nullish(),
  added_tokens_decoder: z.record(z.string(), z.looseObject({ content: z.string() })).nullish(),
});

/** The content of a `tokenizer_config.json`. */
export type TokenizerConfig = z.infer<typeof configSchema>;

/** Throws FormatError saying which entry of `file` is wrong. */
export function checkDefinition(file: string, value: unknown): CheckedDefinition {
  return check(definitionSchema, file, value);
}

/** Throws FormatError saying which entry of `file` is wrong. */
export function checkConfig(file: string, value: unknown): TokenizerConfig {
  return check(configSchema, file, value);
}

function check<T>(schema: z.ZodType<T>, file: string, value: unknown): T {
  const parsed = schema.safeParse(value);
  if (!parsed.success) throw new FormatError(file, z.prettifyError(parsed.error));
  return parsed.data;
}
