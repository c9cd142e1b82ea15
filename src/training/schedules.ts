import { LineageError } from "../base/errors.js";

/** The learning rate of a step; steps count from 1. */
export type Schedule = (step: number) => number;

export interface ScheduleOptions {
  readonly learningRate: number;
  /** Steps over which the rate rises linearly from 0. Default 0. */
  readonly warmupSteps?: number;
  /** Step at which linear and cosine schedules end. */
  readonly totalSteps?: number;
  /** Rate at the end of linear and cosine schedules. Default 0. */
  readonly minimum?: number;
}

export const scheduleNames = ["constant", "linear", "cosine", "inverse-root", "relative"] as const;
export type ScheduleName = (typeof scheduleNames)[number];

/** A schedule by name, with linear warm-up. */
export function schedule(name: ScheduleName, options: ScheduleOptions): Schedule {
  const { learningRate, warmupSteps = 0, totalSteps, minimum = 0 } = options;
  const span = (totalSteps ?? 0) - warmupSteps;
  if ((name === "linear" || name === "cosine") && !(span > 0)) {
    throw new LineageError(
      "argument",
      `the ${name} schedule needs totalSteps beyond its ${warmupSteps} warm-up steps, not ${totalSteps}`,
    );
  }
  const decay: Record<ScheduleName, Schedule> = {
    constant: () => learningRate,
    linear: (step) => minimum + (learningRate - minimum) * Math.max(0, 1 - (step - warmupSteps) / span),
    cosine: (step) =>
      minimum +
      ((learningRate - minimum) * (1 + Math.cos(Math.PI * Math.min(1, (step - warmupSteps) / span)))) / 2,
    // Vaswani et al. 2017, equation 3, scaled so that the peak is the given rate.
    "inverse-root": (step) => learningRate * Math.sqrt(Math.max(1, warmupSteps) / step),
    // Adafactor's own, Shazeer & Stern 2018, section 9: T5 was pretrained with it, at 1e-2 for its first 10,000 steps.
    relative: (step) => Math.min(learningRate, 1 / Math.sqrt(step)),
  };
  return (step) => (step < warmupSteps ? (learningRate * step) / warmupSteps : decay[name](step));
}
