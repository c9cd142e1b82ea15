import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { DataLoader, type TokenBatch } from "../../src/data/index.js";
import { constantTensors } from "../../src/graph/index.js";
import { Gpt2, Llama, gpt2Config, llamaConfig } from "../../src/models/index.js";
import { type WeightSet, Weights, namedParameters } from "../../src/nn/index.js";
import { nextTokenObjective } from "../../src/objectives/index.js";
import { type QuantizationScheme, quantizeWeights } from "../../src/quantization/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import {
  EvaluationStep,
  Trainer,
  TrainingStep,
  optimizerStateSize,
  restoreTraining,
  saveTraining,
  trainingMemory,
} from "../../src/training/index.js";

const runtime = createRuntime();
const shape = { batchSize: 4, sequenceLength: 16 };
const tokens = Int32Array.from({ length: 2000 }, (_, i) => (i * i) % 50);
const sizes = { hiddenSize: 64, numLayers: 2, numHeads: 2, vocabSize: 50, contextLength: 16 };

/** A model in few bits of which only the parameters that match learn. */
async function partly(
  model: Gpt2 | Llama,
  scheme: QuantizationScheme,
  learns: RegExp,
): Promise<{ base: WeightSet; weights: Weights }> {
  using whole = Weights.initialize(runtime, model, 3);
  // Biases that are zero and norms that are one would hide a gradient that goes astray.
  for (const [name, tensor] of Object.entries(whole.tensors))
    if (/bias$|norm|ln_/.test(name))
      tensor.view().forEach((value, i, view) => (view[i] = value + 0.1 * Math.sin(i)));
  for (const [name, parameter] of namedParameters(model)) parameter.trainable = learns.test(name);
  const base = await quantizeWeights(model, whole, scheme);
  return { base, weights: Weights.partlyFrozen(model, base) };
}

const source = () => new DataLoader(tokens, { ...shape, seed: 5 });

function trainerOf(model: Gpt2 | Llama, weights: Weights): Promise<Trainer> {
  return Trainer.create({
    objective: nextTokenObjective(model, shape),
    weights,
    source: source(),
    schedule: () => 1e-2,
    seed: 9,
    averageDecay: 0.9,
  });
}

const bytesOf = ({ constants }: WeightSet): string[] =>
  Object.entries(constantTensors(constants!)).map(([name, tensor]) => {
    const view = tensor.view();
    return `${name} ${Buffer.from(view.buffer, view.byteOffset, view.byteLength).toString("base64")}`;
  });

const schemes: readonly (readonly [string, QuantizationScheme])[] = [
  ["4-bit blocks", { bits: 4 }],
  ["NF4", { bits: "nf4" }],
  ["8-bit blocks", { bits: 8 }],
  ["8-bit rows", { bits: 8, blockSize: "row" }],
];

describe.each(schemes)("a model in %s of which a part learns", (_, scheme) => {
  it.each([
    ["GPT-2", () => new Gpt2(gpt2Config({ ...sizes, dropout: 0 })), /attn\.c_attn\.bias$/],
    ["LLaMA", () => new Llama(llamaConfig({ ...sizes, tieEmbeddings: false })), /norm\.weight$/],
  ] as const)("has the gradient that finite differences give: %s", async (__, make, learns) => {
    const model = make();
    const { weights } = await partly(model, scheme, learns);
    using gradients = weights.like();
    const objective = nextTokenObjective(model, shape);
    using step = await TrainingStep.create(objective, weights, gradients);
    using evaluation = await EvaluationStep.create(objective, weights);
    const batch: TokenBatch = source().next();
    await step.run(batch);
    for (const [name, tensor] of Object.entries(weights.tensors)) {
      const view = tensor.view();
      const gradient = gradients.get(name).view();
      // Along the gradient itself, the slope is its length.
      const length = Math.hypot(...gradient);
      expect(length).toBeGreaterThan(1e-4);
      const start = view.slice();
      const at = async (distance: number): Promise<number> => {
        start.forEach((value, i) => (view[i] = value + (distance * gradient[i]!) / length));
        return (await evaluation.run(batch))["tokens"]! / batch.counts["tokens"]!;
      };
      const h = 0.05;
      const slope =
        (8 * ((await at(h)) - (await at(-h))) - ((await at(2 * h)) - (await at(-2 * h)))) / (12 * h);
      view.set(start);
      expect(Math.abs(slope / length - 1), name).toBeLessThan(scheme.blockSize === "row" ? 0.03 : 0.01);
    }
  });
});

describe("a model in 4 bits of which the biases learn", () => {
  const model = new Gpt2(gpt2Config({ ...sizes, dropout: 0 }));
  const learns = /\.bias$/;

  it("has a lower loss after some steps, and its frozen weights are what they were", async () => {
    const { base, weights } = await partly(model, { bits: 4 }, learns);
    const before = bytesOf(base);
    expect(Object.keys(weights.tensors).every((name) => learns.test(name))).toBe(true);
    using trainer = await trainerOf(model, weights);
    const losses: number[] = [];
    for (let i = 0; i < 30; i++) losses.push((await trainer.step()).loss);
    expect(losses.at(-1)!).toBeLessThan(losses[0]! - 0.1);
    expect(bytesOf(base)).toEqual(before);
    // The average stands on the same constants, and can be evaluated as it is.
    using evaluation = await EvaluationStep.create(
      nextTokenObjective(model, shape),
      trainer.average!.weights,
    );
    const { loss } = await evaluation.evaluate([source().next()]);
    expect(loss).toBeLessThan(losses[0]!);
  });

  it("takes memory for what learns alone", async () => {
    const { weights } = await partly(model, { bits: 4 }, learns);
    const elements = 2 * (3 * 64 + 4 * 64 + 4 * 64) + 64;
    const before = runtime.allocatedBytes;
    using trainer = await trainerOf(model, weights);
    // Gradients, two moments and the average, and a batch and scalars.
    expect(runtime.allocatedBytes - before).toBeGreaterThanOrEqual(4 * 4 * elements);
    expect(runtime.allocatedBytes - before).toBeLessThan(4 * 4 * elements + 4096);
    expect(trainer.gradients.layout.size).toBe(elements);
    const memory = trainingMemory(
      nextTokenObjective(model, shape),
      {},
      {
        optimizer: optimizerStateSize.adamw,
        average: true,
        frozen: weights.constants,
      },
    );
    expect(memory).toMatchObject({
      weights: 4 * elements,
      gradients: 4 * elements,
      optimizer: 8 * elements,
      average: 4 * elements,
    });
    expect(memory.frozen).toBeGreaterThan(0);
  });

  it("goes on from a checkpoint of what learns, over the same frozen weights and no others", async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), "frozen-"));
    try {
      const { base, weights } = await partly(model, { bits: 4 }, learns);
      using trainer = await trainerOf(model, weights);
      const losses: number[] = [];
      for (let i = 0; i < 4; i++) {
        if (i === 2) await saveTraining(folder, trainer, { evaluationsSinceBest: 0 });
        losses.push((await trainer.step()).loss);
      }
      using again = await trainerOf(model, Weights.partlyFrozen(model, base));
      await restoreTraining(folder, again);
      expect([(await again.step()).loss, (await again.step()).loss]).toEqual(losses.slice(2));
      const others = await partly(model, { bits: 8 }, learns);
      using strange = await trainerOf(model, others.weights);
      await expect(restoreTraining(folder, strange)).rejects.toThrow(/trained with other frozen weights/);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it("names the place of a loss that is not finite", async () => {
    const { weights } = await partly(model, { bits: 4 }, learns);
    weights.get("transformer.h.1.attn.c_attn.bias").view()[3] = NaN;
    using trainer = await trainerOf(model, weights);
    await expect(trainer.step()).rejects.toThrow(/transformer\.h\.1\.attn\.c_attn\.bias/);
  });

  it("refuses a parameter that is to learn in few bits, and one without values that is not", async () => {
    const { base } = await partly(model, { bits: 4 }, learns);
    for (const parameter of namedParameters(model).values()) parameter.trainable = true;
    expect(() => Weights.partlyFrozen(model, base)).toThrow(/is to learn, but has few bits/);
    for (const parameter of namedParameters(model).values()) parameter.trainable = false;
    expect(() => Weights.partlyFrozen(model, { runtime, tensors: {} })).toThrow(
      /is frozen, but the weights given have no/,
    );
  });

  it("gives first values to what the loaded weights lack", async () => {
    const { base } = await partly(model, { bits: 4 }, learns);
    const { constants, ...others } = base;
    const tensors = Object.fromEntries(
      Object.entries(constants!.tensors).filter(([name]) => name !== "transformer.h.0.attn.c_attn.bias"),
    );
    using weights = Weights.partlyFrozen(model, {
      ...others,
      runtime,
      tensors: {},
      constants: { ...constants!, tensors },
    });
    expect(
      weights
        .get("transformer.h.0.attn.c_attn.bias")
        .view()
        .every((value) => value === 0),
    ).toBe(true);
    expect(weights.get("transformer.h.1.attn.c_attn.bias").view()).toEqual(
      constants!.tensors["transformer.h.1.attn.c_attn.bias"]!.view(),
    );
  });
});
