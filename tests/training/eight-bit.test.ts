import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { LineageError } from "../../src/base/errors.js";
import { Random } from "../../src/base/random.js";
import { DataLoader } from "../../src/data/index.js";
import { type Tensor, dynamicMap } from "../../src/graph/index.js";
import { Gpt2, gpt2Config } from "../../src/models/index.js";
import { Module, Parameter, Weights, namedParameters, zerosInit } from "../../src/nn/index.js";
import { nextTokenObjective } from "../../src/objectives/index.js";
import { DynamicRounding, dynamicBlock, quantizeDynamic } from "../../src/quantization/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import {
  Trainer,
  adamW8bit,
  optimizerStateSize,
  restoreTraining,
  saveTraining,
} from "../../src/training/index.js";
import { Reference, relativeError } from "../support/reference.js";

const runtime = createRuntime();
let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage é-"));
});
afterAll(() => rm(folder, { recursive: true }));

class Parts extends Module {
  readonly matrix = new Parameter([40, 130], zerosInit);
  readonly small = new Parameter([6, 5], zerosInit);
  override forward(): Tensor {
    return this.matrix.tensor;
  }
}

describe("rounding many numbers to 8 bits", () => {
  it.each([true, false])("gives the codes of a search in the map; signed: %s", (signed) => {
    const random = new Random(4);
    const map = dynamicMap(signed);
    // All sizes, the numbers of the map, what lies half-way between two, and zeros.
    const numbers = [
      ...Array.from({ length: 5000 }, () => (random.uniform() - 0.5) * 10 ** (-9 * random.uniform())),
      ...map,
      ...map.subarray(1).map((value, i) => Math.fround((value + map[i]!) / 2)),
      0,
      -0,
    ];
    const values = Float32Array.from(numbers, (value) => (signed ? value : Math.abs(value)));
    const wanted = quantizeDynamic(values, map);
    const codes = new Uint8Array(values.length);
    const largest = new Float32Array(Math.ceil(values.length / dynamicBlock));
    const rounding = new DynamicRounding(signed);
    rounding.round(values, { codes, largest });
    expect(codes).toEqual(wanted.codes);
    expect(largest).toEqual(wanted.largest);
    const back = new Float32Array(values.length);
    rounding.widen({ codes, largest }, back);
    back.forEach((value, i) => {
      expect(value).toBe(Math.fround(map[codes[i]!]! * largest[Math.floor(i / dynamicBlock)]!));
    });
  });
});

describe("AdamW with moments in 8 bits", () => {
  it("takes the steps of bitsandbytes", async () => {
    const reference = await new Reference("adam-8bit").tensors("steps.safetensors");
    const model = new Parts();
    using weights = Weights.initialize(runtime, model, 1);
    using gradients = weights.like();
    for (const name of ["matrix", "small"]) weights.get(name).write(reference.get(`${name}.0`)!);
    using optimizer = await adamW8bit(weights, gradients, { betas: [0.9, 0.95], weightDecay: 0.1 });
    for (let step = 1; step <= 4; step++) {
      for (const name of ["matrix", "small"])
        gradients.get(name).write(reference.get(`${name}.gradient.${step}`)!);
      await optimizer.update({ learningRate: 1e-2 });
      for (const name of ["matrix", "small"])
        expect(relativeError(weights.get(name).view(), reference.get(`${name}.${step}`)!)).toBeLessThan(1e-6);
    }
    for (const [moment, number] of [
      ["firstMoment", 1],
      ["secondMoment", 2],
    ] as const) {
      const codes = new Uint8Array(reference.get(`matrix.state${number}`)!.buffer);
      const found = optimizer.state[moment]!.tensors["matrix"]!.view();
      // The last bit of a sum decides what lies half-way between two numbers.
      expect(found.filter((code, i) => code !== codes[i]).length).toBeLessThan(0.001 * codes.length);
      const largest = optimizer.state[`${moment}Largest`]!.tensors["matrix"]!.view();
      expect(relativeError(largest, reference.get(`matrix.absmax${number}`)!)).toBeLessThan(1e-6);
      const small = optimizer.state[moment]!.tensors["small"]!.view();
      expect(relativeError(small, reference.get(`small.state${number}`)!)).toBeLessThan(1e-6);
    }
  });

  const config = gpt2Config({
    vocabSize: 300,
    contextLength: 16,
    hiddenSize: 64,
    numLayers: 2,
    numHeads: 2,
  });
  const tokens = Uint16Array.from({ length: 3000 }, (_, i) => (i * i + 7 * i) % 300);
  async function trainer(): Promise<Trainer> {
    const model = new Gpt2(config);
    return Trainer.create({
      objective: nextTokenObjective(model),
      weights: Weights.initialize(runtime, model, 3),
      source: new DataLoader(tokens, { batchSize: 4, sequenceLength: 16, seed: 1 }),
      schedule: () => 1e-3,
      seed: 5,
      optimizer: adamW8bit,
    });
  }

  it("goes on after a resume to bit-equal losses and weights", async () => {
    using whole = await trainer();
    const wanted: number[] = [];
    for (let step = 1; step <= 8; step++) {
      wanted.push((await whole.step()).loss);
      if (step === 4) await saveTraining(folder, whole, { evaluationsSinceBest: 0 });
    }
    using resumed = await trainer();
    await restoreTraining(folder, resumed);
    const found: number[] = [];
    for (let step = 5; step <= 8; step++) found.push((await resumed.step()).loss);
    expect(found).toEqual(wanted.slice(4));
    expect(await resumed.weights.flat.read()).toEqual(await whole.weights.flat.read());
    expect(wanted.at(-1)).toBeLessThan(wanted[0]!);
  });

  it("refuses moments of another optimiser", async () => {
    using plain = await Trainer.create({
      objective: nextTokenObjective(new Gpt2(config)),
      weights: Weights.initialize(runtime, new Gpt2(config), 3),
      source: new DataLoader(tokens, { batchSize: 4, sequenceLength: 16, seed: 1 }),
      schedule: () => 1e-3,
      seed: 5,
    });
    await plain.step();
    await saveTraining(folder, plain, { evaluationsSinceBest: 0 });
    using other = await trainer();
    await expect(restoreTraining(folder, other)).rejects.toThrow(/makes it uint8/);
    await expect(restoreTraining(folder, other)).rejects.toBeInstanceOf(LineageError);
  });

  it("keeps moments in little more than a quarter of the memory, as it states", async () => {
    const model = new Gpt2(gpt2Config({ ...config, hiddenSize: 256, vocabSize: 4000 }));
    using weights = Weights.initialize(runtime, model, 3);
    using gradients = weights.like();
    const before = runtime.allocatedBytes;
    using optimizer = await adamW8bit(weights, gradients);
    const tensors = Object.values(optimizer.state).flatMap((state) => Object.values(state.tensors));
    const held = tensors.reduce((sum, { byteLength }) => sum + byteLength, 0);
    // Besides: a chunk of both moments in float32.
    expect(runtime.allocatedBytes - before).toBeLessThan(held + 2 * 4 * 65_536 + 1000);
    const parameters = [...namedParameters(model).values()];
    const sum = (size: (parameter: Parameter) => number) =>
      4 * parameters.reduce((total, parameter) => total + size(parameter), 0);
    expect(sum(optimizerStateSize.adamw8bit)).toBe(held);
    expect(held).toBeLessThan(0.27 * sum(optimizerStateSize.adamw));
  });
});
