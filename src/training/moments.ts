import { type AdamWOptions, type Optimizer, adamW } from "./optimizers.js";
import { adamW8bit } from "./eight-bit.js";
import type { Weights } from "../nn/index.js";

/** How AdamW keeps its moments: in float32 or in 8 bits, in memory or in a file (`paged`, Dettmers et al. 2023, section 3). */
export const adamWNames = ["adamw", "adamw8bit", "paged-adamw", "paged-adamw8bit"] as const;
export type AdamWName = (typeof adamWNames)[number];

const pagedNames: readonly string[] = adamWNames.filter((name) => name.startsWith("paged"));

export const isAdamW = (name: string): name is AdamWName => (adamWNames as readonly string[]).includes(name);

/** AdamW by its name. @param folder whose disk holds paged moments: that of the run */
export function adamWOf(
  name: AdamWName,
  folder: string,
): (weights: Weights, gradients: Weights, options: AdamWOptions) => Promise<Optimizer> {
  const make = name.endsWith("8bit") ? adamW8bit : adamW;
  return pagedNames.includes(name)
    ? (weights, gradients, options) => make(weights, gradients, { ...options, pagedIn: folder })
    : make;
}
