import { type Optimizer, adafactor, adamW } from "./optimizers.js";
import { adamW8bit } from "./eight-bit.js";
import type { Weights } from "../nn/index.js";

/** How AdamW keeps its moments: in float32 or in 8 bits, in memory or in a file (`paged`, Dettmers et al. 2023, section 3). */
export const adamWNames = ["adamw", "adamw8bit", "paged-adamw", "paged-adamw8bit"] as const;
export type AdamWName = (typeof adamWNames)[number];

const pagedNames: readonly string[] = adamWNames.filter((name) => name.startsWith("paged"));

export const isAdamW = (name: string): name is AdamWName => (adamWNames as readonly string[]).includes(name);

/** What a run says of its optimiser. */
export interface OptimizerChoice {
  readonly optimizer: AdamWName | "adafactor";
  /** AdamW's. */
  readonly betas: readonly [number, number];
  readonly weightDecay: number;
}

/** The optimiser that a run asks for. @param folder whose disk holds paged moments: that of the run */
export function chosenOptimizer(
  { optimizer, betas, weightDecay }: OptimizerChoice,
  folder: string,
  weights: Weights,
  gradients: Weights,
): Promise<Optimizer> {
  if (optimizer === "adafactor") return adafactor(weights, gradients, { weightDecay });
  const make = optimizer.endsWith("8bit") ? adamW8bit : adamW;
  const paged = pagedNames.includes(optimizer);
  return make(weights, gradients, { betas, weightDecay, ...(paged && { pagedIn: folder }) });
}
