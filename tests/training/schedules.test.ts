import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { schedule } from "../../src/training/index.js";

describe("schedules", () => {
  const options = { learningRate: 1, warmupSteps: 10, totalSteps: 50 };

  it("rise linearly and fall as they are defined", () => {
    const cosine = schedule("cosine", options);
    expect(cosine(5)).toBeCloseTo(0.5);
    expect(cosine(10)).toBe(1);
    expect(cosine(30)).toBeCloseTo(0.5);
    expect(cosine(50)).toBeCloseTo(0);
    expect(cosine(99)).toBeCloseTo(0);
    const linear = schedule("linear", { ...options, minimum: 0.2 });
    expect(linear(30)).toBeCloseTo(0.6);
    expect(schedule("inverse-root", options)(40)).toBeCloseTo(0.5);
    expect(schedule("constant", options)(40)).toBe(1);
  });

  const reference = JSON.parse(
    readFileSync(new URL("../reference/values/schedules.json", import.meta.url), "utf8"),
  ) as {
    learningRate: number;
    warmupSteps: number;
    trainingSteps: number;
    schedules: Record<string, { rates: number[] }>;
  };
  it.each(["linear", "cosine"] as const)("are those of Hugging Face transformers: %s", (name) => {
    const { learningRate, warmupSteps, trainingSteps, schedules } = reference;
    const rate = schedule(name, { learningRate, warmupSteps, totalSteps: trainingSteps });
    // Theirs count from 0, so that the first step of a warm-up learns nothing; ours from 1.
    schedules[name]!.rates.slice(1, trainingSteps + 1).forEach((wanted, index) => {
      expect(rate(index + 1)).toBeCloseTo(wanted, 10);
    });
  });

  it("are those of the original Transformer for its rate and warm-up", () => {
    const [hiddenSize, warmupSteps] = [512, 4000];
    const peak = 1 / Math.sqrt(hiddenSize * warmupSteps);
    const rate = schedule("inverse-root", { learningRate: peak, warmupSteps });
    for (const step of [1, 100, 4000, 4001, 100_000]) {
      expect(rate(step)).toBeCloseTo(
        hiddenSize ** -0.5 * Math.min(step ** -0.5, step * warmupSteps ** -1.5),
        10,
      );
    }
  });

  it("refuse a cosine without an end", () => {
    expect(() => schedule("cosine", { learningRate: 1 })).toThrow(
      "the cosine schedule needs totalSteps beyond its 0 warm-up steps",
    );
  });

  it("holds Adafactor's relative steps at their limit until 1 / root of the step is less", () => {
    // transformers' Adafactor with relative_step: min(1e-2, 1 / sqrt(step)).
    const rate = schedule("relative", { learningRate: 1e-2 });
    expect([1, 9_999, 40_000, 1_000_000].map(rate)).toEqual([1e-2, 1e-2, 5e-3, 1e-3]);
  });
});
