import { z } from "zod";
import { validated } from "../base/check.js";
import { FormatError } from "../base/errors.js";
import { shown } from "./entries.js";

/** Of ids: beyond it lies no vocabulary, only a file that would fill the memory. */
const maximumId = 2 ** 24;

const addedToken = z.looseObject({
  id: z.int().min(0).max(maximumId),
  content: z.string().min(1),
  special: z.boolean().default(false),
  normalized: z.boolean().optional(),
  single_word: z.boolean().optional(),
  lstrip: z.boolean().optional(),
  rstrip: z.boolean().optional(),
});

const part = z.looseObject({ type: z.string() });

type Vocabulary = Record<string, number> | [piece: string, score: number][];
type Merges = (string | [left: string, right: string])[];

/** What is wrong first, and at which keys; undefined for nothing. */
type Problem = { readonly path: readonly (string | number)[]; readonly message: string } | undefined;

// A vocabulary has tens of thousands of entries. A schema for each takes several times as long as a loop, and a union of
// the forms that a collection can have does not say which entry is wrong.
const collection = <T>(problemOf: (value: unknown) => Problem) =>
  z.custom<T>().superRefine((value: unknown, context) => {
    const problem = problemOf(value);
    if (problem) context.addIssue({ code: "custom", path: [...problem.path], message: problem.message });
  });

function vocabularyProblem(vocabulary: unknown): Problem {
  if (Array.isArray(vocabulary)) return pieceProblem(vocabulary);
  if (!z.util.isPlainObject(vocabulary))
    return {
      path: [],
      message: `the vocabulary is ${shown(vocabulary)}; it must be an object with the id of each token, or a list of [piece, score]`,
    };
  if (Object.getOwnPropertySymbols(vocabulary).length > 0)
    return { path: [], message: "the vocabulary has a symbol as a token; tokens must be strings" };
  for (const token of Object.keys(vocabulary)) {
    const id: unknown = vocabulary[token];
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id > maximumId)
      return {
        path: [token],
        message: `the token's id is ${shown(id)}; it must be a whole number from 0 to ${maximumId}`,
      };
  }
  return undefined;
}

function pieceProblem(pieces: readonly unknown[]): Problem {
  for (let index = 0; index < pieces.length; index++) {
    const entry = pieces[index];
    if (!Array.isArray(entry) || entry.length !== 2)
      return { path: [index], message: `the entry is ${shown(entry)}; it must be a list of [piece, score]` };
    const [piece, score] = entry as unknown[];
    if (typeof piece !== "string")
      return { path: [index, 0], message: `the piece is ${shown(piece)}; it must be a string` };
    if (!Number.isFinite(score))
      return { path: [index, 1], message: `the score is ${shown(score)}; it must be a finite number` };
  }
  return undefined;
}

function mergesProblem(merges: unknown): Problem {
  if (!Array.isArray(merges))
    return { path: [], message: `the merges are ${shown(merges)}; they must be a list` };
  for (let index = 0; index < merges.length; index++) {
    const merge: unknown = merges[index];
    if (typeof merge === "string") continue;
    if (!Array.isArray(merge) || merge.length !== 2)
      return {
        path: [index],
        message: `the merge is ${shown(merge)}; it must be a string of two tokens, or a list of two`,
      };
    const wrong = merge.findIndex((token) => typeof token !== "string");
    if (wrong >= 0)
      return {
        path: [index, wrong],
        message: `the token is ${shown(merge[wrong])}; it must be a string`,
      };
  }
  return undefined;
}

const definitionSchema = z.looseObject({
  version: z.literal("1.0").nullish(),
  added_tokens: z.array(addedToken).default([]),
  normalizer: part.nullable().default(null),
  pre_tokenizer: part.nullable().default(null),
  post_processor: part.nullable().default(null),
  decoder: part.nullable().default(null),
  model: z.looseObject({
    type: z.string().optional(),
    vocab: collection<Vocabulary>(vocabularyProblem),
    merges: collection<Merges>(mergesProblem).optional(),
    unk_token: z.string().nullish(),
    byte_fallback: z.boolean().nullish(),
  }),
});

/** The content of a `tokenizer.json`. */
export type TokenizerDefinition = z.input<typeof definitionSchema>;
/** A definition whose every part is there. */
export type CheckedDefinition = z.output<typeof definitionSchema>;

const namedToken = z.looseObject({ content: z.string() });
const tokenName = z.union([z.string(), namedToken]).nullish();
/** A token as `added_tokens_decoder` describes it; flags that are absent are those of the reference. */
const describedToken = z.looseObject({
  content: z.string(),
  special: z.boolean().default(false),
  normalized: z.boolean().optional(),
  single_word: z.boolean().optional(),
  lstrip: z.boolean().optional(),
  rstrip: z.boolean().optional(),
});

const configSchema = z.looseObject({
  bos_token: tokenName,
  eos_token: tokenName,
  pad_token: tokenName,
  unk_token: tokenName,
  mask_token: tokenName,
  cls_token: tokenName,
  sep_token: tokenName,
  additional_special_tokens: z.array(z.union([z.string(), namedToken])).nullish(),
  add_bos_token: z.boolean().nullish(),
  chat_template: z
    .union([z.string(), z.array(z.looseObject({ name: z.string(), template: z.string() }))])
    .nullish(),
  added_tokens_decoder: z.record(z.string().regex(/^\d+$/), describedToken).nullish(),
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

const check = <T>(schema: z.ZodType<T>, file: string, value: unknown): T =>
  validated(schema, value, (problem) => new FormatError(file, problem));
