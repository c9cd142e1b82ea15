import { count } from "../base/numbers.js";
import type { TrainingObserver } from "../training/index.js";
import { type Reporter, colors, duration } from "./terminal.js";

/** Exit codes of a command that a signal has ended, as shells give them. */
const codes = { SIGINT: 130, SIGTERM: 143 } as const;
const signals = ["SIGINT", "SIGTERM"] as const;

/**
 * Runs something that the first Ctrl-C asks to stop and save; the second one ends the process at once. The command that was
 * stopped ends with exit code 130.
 */
export async function interruptible<T>(body: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const interrupt = (signal: (typeof signals)[number]) => {
    process.exitCode = codes[signal];
    controller.abort();
  };
  for (const signal of signals) process.once(signal, interrupt);
  try {
    return await body(controller.signal);
  } finally {
    for (const signal of signals) process.removeListener(signal, interrupt);
  }
}

/** Parts of a loss, or metrics, behind the loss. */
const listed = (values: Readonly<Record<string, number>>): string =>
  Object.entries(values)
    .map(([name, value]) => `, ${name} ${value.toFixed(4)}`)
    .join("");

/** Shows a training run: step, loss, speed and time left in one line that renews itself, evaluations in lines of their own. */
export const progressObserver = (report: Reporter): TrainingObserver => ({
  resumed: (step) => {
    report.say(`resumed after step ${step}`, { step });
  },
  stepped: ({ step, loss, parts, microBatches, tokens, tokensSeen, seconds }, { steps, secondsLeft }) => {
    const rate = Math.round(tokens / seconds);
    const several = Object.keys(parts).length > 1 ? parts : {};
    report.progress(
      `step ${step}/${steps}  loss ${colors.bold(loss.toFixed(4))}${listed(several)}  ` +
        `${microBatches > 1 ? `${microBatches} micro-batches  ` : ""}${count(rate)} tokens/s  ${duration(secondsLeft)} left`,
      {
        step,
        loss,
        ...several,
        ...(microBatches > 1 && { microBatches }),
        tokens,
        tokensSeen,
        tokensPerSecond: rate,
        secondsLeft: Math.round(secondsLeft),
      },
      step / steps,
    );
  },
  spiked: ({ step, since, loss, level, backTo, skippedTokens }) => {
    const high = loss === null ? "the loss is not finite" : `the loss is ${loss.toFixed(4)}`;
    const done =
      backTo === undefined
        ? "going back has not helped before, so the run goes on"
        : `back to step ${backTo}, without the ${count(skippedTokens)} tokens since then`;
    report.say(`spike at step ${since}: ${high}, its level was ${level.toFixed(4)}; ${done}`, {
      spike: { since, step, loss, level, backTo, skippedTokens },
    });
  },
  evaluated: (step, { loss, ...others }, best) => {
    report.say(`step ${step}: held-out loss ${loss.toFixed(4)}${listed(others)}`, {
      step,
      validationLoss: loss,
      ...others,
      best,
    });
  },
});
