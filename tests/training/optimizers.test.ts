import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { Module, Parameter, Weights, normalInit, zerosInit } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { type Optimizer, adafactor, adamW, palmAdafactor, schedule, sgd } from "../../src/training/index.js";

type Name = "matrix" | "stack" | "vector";
type Values = Record<Name, number[]>;
const reference = JSON.parse(
  readFileSync(new URL("../reference/values/optimizers.json", import.meta.url), "utf8"),
) as { shapes: Values; start: Values; gradients: Values[]; after: Record<string, Values[]> };

const runtime = createRuntime();
class Parts extends Module {
  readonly matrix = new Parameter(reference.shapes.matrix, normalInit(1));
  readonly vector = new Parameter(reference.shapes.vector, zerosInit);
  readonly stack = new Parameter(reference.shapes.stack, normalInit(1));
  override forward(): void {
    return;
  }
}
const model = new Parts();
const write = (buffer: Weights, values: Partial<Values>): void => {
  for (const [name, data] of Object.entries(values)) buffer.get(name).write(Float32Array.from(data));
};
const everything = { decays: () => true };

describe("an optimiser agrees with PyTorch and transformers after every step:", () => {
  it.each<[string, number | ((step: number) => number), (w: Weights, g: Weights) => Promise<Optimizer>]>([
    ["adamw", 1e-2, (w, g) => adamW(w, g, { betas: [0.9, 0.95], weightDecay: 0.1, ...everything })],
    ["sgd", 1e-2, (w, g) => sgd(w, g, { momentum: 0.9, weightDecay: 0.1, ...everything })],
    ["adafactor", 1e-2, (w, g) => adafactor(w, g, { scaleParameter: false })],
    ["adafactorScaled", 5e-2, (w, g) => adafactor(w, g, { weightDecay: 0.1, ...everything })],
    [
      "adafactorMomentum",
      1e-2,
      (w, g) => adafactor(w, g, { scaleParameter: false, beta1: 0.9, clipThreshold: 0.5, decayRate: -0.5 }),
    ],
    ["adafactorRelative", (step) => Math.min(1e-2, 1 / Math.sqrt(step)), adafactor],
    [
      "palm",
      schedule("relative", { learningRate: 1e-2 }),
      (w, g) => adafactor(w, g, { ...palmAdafactor, ...everything }),
    ],
    [
      "palmLater",
      (step) => schedule("relative", { learningRate: 1e-2 })(40_000 + step),
      async (w, g) => {
        const optimizer = await adafactor(w, g, { ...palmAdafactor, ...everything });
        optimizer.restore(40_000);
        return optimizer;
      },
    ],
  ])("%s", async (name, rate, make) => {
    using weights = Weights.allocate(runtime, model);
    using gradients = weights.like();
    write(weights, reference.start);
    using optimizer = await make(weights, gradients);
    for (const [index, gradient] of reference.gradients.entries()) {
      // Half the gradient, doubled by the scale: what clipping does.
      write(gradients, {
        matrix: gradient.matrix.map((value) => value / 2),
        stack: gradient.stack.map((value) => value / 2),
        vector: gradient.vector.map((value) => value / 2),
      });
      const learningRate = typeof rate === "number" ? rate : rate(index + 1);
      await optimizer.update({ learningRate, gradientScale: 2 });
      for (const [parameter, wanted] of Object.entries(reference.after[name]![index]!)) {
        const got = weights.get(parameter).view();
        const worst = Math.max(...wanted.map((value, place) => Math.abs(value - got[place]!)));
        expect(worst, `${parameter} after step ${index + 1}`).toBeLessThan(2e-6);
      }
    }
  });
});

describe.each<[string, (w: Weights, g: Weights, o: object) => Promise<Optimizer>]>([
  ["adamW", adamW],
  ["sgd", (w, g, options) => sgd(w, g, { momentum: 0.9, weightDecay: 0.1, ...options })],
  ["adafactor", (w, g, options) => adafactor(w, g, { beta1: 0.9, weightDecay: 0.1, ...options })],
  ["PaLM's adafactor", (w, g, options) => adafactor(w, g, { ...palmAdafactor, ...options })],
])("%s", (_, make) => {
  const after = async (options: object, learningRate = 1e-2, includes = (_name: string) => true) => {
    using weights = Weights.allocate(runtime, model);
    using gradients = weights.like(includes);
    write(weights, reference.start);
    write(
      gradients,
      Object.fromEntries(Object.entries(reference.gradients[0]!).filter(([name]) => includes(name))),
    );
    using optimizer = await make(weights, gradients, options);
    for (let step = 0; step < 3; step++) await optimizer.update({ learningRate });
    const read = (name: Name) => Array.from(weights.get(name).view());
    return { matrix: read("matrix"), stack: read("stack"), vector: read("vector") };
  };
  const start = (name: Name) => Array.from(Float32Array.from(reference.start[name]));

  it("leaves a parameter without a gradient as it is, weight decay included", async () => {
    const all = await after({});
    const some = await after({}, 1e-2, (name) => name === "stack");
    expect(some.vector).toEqual(start("vector"));
    expect(some.matrix).toEqual(start("matrix"));
    expect(some.stack).toEqual(all.stack);
    expect(some.stack).not.toEqual(start("stack"));
  });

  it("multiplies the learning rate of a parameter by its own factor", async () => {
    const factors: Record<string, number> = { matrix: 0.5, stack: 1, vector: 0 };
    const mixed = await after({ learningRateFactor: (name: string) => factors[name]! });
    expect(mixed.vector).toEqual(start("vector"));
    expect(mixed.stack).toEqual((await after({})).stack);
    expect(mixed.matrix).toEqual((await after({}, 5e-3)).matrix);
  });
});
