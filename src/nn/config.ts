import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { type ActivationName, activations } from "./layers.js";

const wholeNumber = { error: "it must be a whole number of at least 1" };
const positive = { error: "it must be a number above 0" };
const probability = { error: "it must be a number of at least 0 and below 1" };
const id = { error: "it must be a whole number of at least 0" };
const names = Object.keys(activations) as [ActivationName, ...ActivationName[]];

/** Entries of Hugging Face's `config.json` that several models have, as zod schemas. */
export const configEntries = {
  size: z.int(wholeNumber).positive(wholeNumber),
  activation: z.enum(names, { error: `it must be one of ${names.join(", ")}` }),
  dropout: z.number(probability).min(0, probability).lt(1, probability),
  epsilon: z.number(positive).positive(positive),
  positive: z.number(positive).positive(positive),
  /** The id of a token. */
  tokenId: z.int(id).nonnegative(id),
  flag: z.boolean({ error: "it must be true or false" }),
  /** A list, or one text with bars between its parts; in lower case. */
  list: z
    .union([z.string(), z.array(z.string())])
    .nullish()
    .transform((value) =>
      (typeof value === "string" ? value.split("|") : (value ?? [])).map((part) => part.trim().toLowerCase()),
    ),
} as const;

/** Throws `config` unless the hidden size divides into the heads. */
export function checkHeads({ hiddenSize, numHeads }: { hiddenSize: number; numHeads: number }): void {
  if (hiddenSize % numHeads !== 0)
    throw new LineageError("config", `hiddenSize ${hiddenSize} does not divide into ${numHeads} heads`);
}
