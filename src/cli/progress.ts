import type { TrainingObserver } from "../training/index.js";
import { type Reporter, bar, colors, count, duration } from "./terminal.js";

/** Runs something that the first Ctrl-C asks to stop and save; the second one ends the process at once. */
export async function interruptible<T>(body: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const interrupt = () => {
    controller.abort();
  };
  const signals = ["SIGINT", "SIGTERM"] as const;
  for (const signal of signals) process.once(signal, interrupt);
  try {
    return await body(controller.signal);
  } finally {
    for (const signal of signals) process.removeListener(signal, interrupt);
  }
}

/** Shows a training run: step, loss, speed and time left in one line that renews itself, evaluations in lines of their own. */
export const progressObserver = (report: Reporter): TrainingObserver => ({
  resumed: (step) => {
    report.say(`going on after step ${step}`, { step });
  },
  stepped: ({ step, loss, tokens, seconds }, { steps, secondsLeft }) => {
    const rate = Math.round(tokens / seconds);
    report.progress(
      `${bar(step / steps)} step ${step}/${steps}  loss ${colors.bold(loss.toFixed(4))}  ${count(rate)} tokens/s  ${duration(secondsLeft)} left`,
      { step, loss, tokensPerSecond: rate, secondsLeft: Math.round(secondsLeft) },
    );
  },
  evaluated: (step, { loss, ...others }, best) => {
    const measured = Object.entries(others).map(([name, value]) => `, ${name} ${value.toFixed(2)}`);
    report.say(`step ${step}: held-out loss ${loss.toFixed(4)}${measured.join("")}`, {
      step,
      validationLoss: loss,
      ...others,
      best,
    });
  },
});
