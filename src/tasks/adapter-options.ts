import { z } from "zod";

/** What decides an adapter of matrices, in every kind of run. */
export const loraOptions = {
  rank: z.int().positive().default(16),
  /** Scales the update by `alpha / rank`. */
  alpha: z.number().positive().default(32),
  /** Scales by `alpha / sqrt(rank)` instead. */
  rsLora: z.boolean().default(false),
  /** Learns the lengths of the rows of every matrix by themselves: DoRA, Liu et al. 2024. */
  dora: z.boolean().default(false),
  loraDropout: z.number().min(0).lt(1).default(0),
  /** `all-linear`, names between commas, or a regular expression between slashes. */
  loraTargets: z.string().default("all-linear"),
};

/** The same for a run that trains all weights unless it is told otherwise. */
export const besideOptions = {
  /** `lora` learns an adapter beside the model's frozen weights, `qlora` one beside weights in 4-bit NormalFloat; `none` trains all weights. */
  adapter: z.enum(["lora", "qlora", "none"]).default("none"),
  ...loraOptions,
};
