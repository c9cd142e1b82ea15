import { describe, expect, it } from "vitest";
import { type LearningPlan, learningPlans, plannedSchedule, warmupSteps } from "../../src/training/index.js";

const plans: Readonly<Record<string, LearningPlan>> = learningPlans;

describe.each(Object.keys(plans))("the plan of %s", (kind) => {
  const plan = plans[kind]!;
  const steps = 1000;
  const rate = plannedSchedule(plan, steps);

  it("rises to its peak over the warm-up, and learns something from the last step", () => {
    const warmup = warmupSteps(plan, steps);
    if (plan.schedule === "relative") return;
    expect(rate(warmup)).toBeCloseTo(plan.learningRate, 12);
    expect(rate(warmup / 2)).toBeCloseTo(plan.learningRate / 2, 12);
    expect(rate(steps)).toBeGreaterThan(0);
    // The inverse root of the steps falls more slowly than what ends with the run: Vaswani et al. 2017, equation 3.
    if (plan.schedule === "inverse-root")
      expect(rate(steps)).toBeCloseTo(plan.learningRate * Math.sqrt(warmup / steps), 12);
    else expect(rate(steps)).toBeLessThan(plan.learningRate / 9);
  });

  it("gives way to what is chosen", () => {
    const chosen = plannedSchedule(plan, steps, { schedule: "constant", learningRate: 2, warmup: 4 });
    expect([chosen(1), chosen(4), chosen(steps)]).toEqual([0.5, 2, 2]);
  });
});

it("PaLM's Adafactor learns at 1e-2 for 10,000 steps, and at the inverse root of the steps from then on", () => {
  const rate = plannedSchedule(learningPlans.palm, 255_000);
  expect([1, 100, 10_000].map(rate)).toEqual([1e-2, 1e-2, 1e-2]);
  expect(rate(40_000)).toBeCloseTo(5e-3, 12);
  expect(rate(250_000)).toBeCloseTo(2e-3, 12);
});

it("a decoder warms up over a third of a short run, and over 100 steps of a long one", () => {
  expect([3, 150, 300, 10_000].map((steps) => warmupSteps(learningPlans.train, steps))).toEqual([
    1, 50, 100, 100,
  ]);
});
