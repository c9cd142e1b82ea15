import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { type ActivationName, activations } from "./layers.js";

/** Entries of Hugging Face's `config.json` that several models have, as zod schemas. */
export const configEntries = {
  size: z.int().positive(),
  activation: z.enum(Object.keys(activations) as [ActivationName, ...ActivationName[]]),
  dropout: z.number().min(0).lt(1),
  epsilon: z.number().positive(),
  /** A list, or one text with bars between its parts; in lower case. */
  list: z
    .union([z.string(), z.array(z.string())])
    .nullish()
    .transform((value) =>
      (typeof value === "string" ? value.split("|") : (value ?? [])).map((part) => part.trim().toLowerCase()),
    ),
} as const;

/** `json` by `schema`. Throws `config` saying which entry of the model's `config.json` is wrong. */
export function parseConfig<T>(schema: z.ZodType<T>, json: unknown, model: string): T {
  const parsed = schema.safeParse(json);
  if (!parsed.success)
    throw new LineageError(
      "config",
      `this is not the configuration of a ${model}: ${z.prettifyError(parsed.error)}`,
    );
  return parsed.data;
}

/** Throws `config` unless the hidden size divides into the heads. */
export function checkHeads({ hiddenSize, numHeads }: { hiddenSize: number; numHeads: number }): void {
  if (hiddenSize % numHeads !== 0)
    throw new LineageError("config", `hiddenSize ${hiddenSize} does not divide into ${numHeads} heads`);
}
