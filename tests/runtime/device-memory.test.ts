import { describe, expect, it } from "vitest";
import { compile, input } from "../../src/graph/index.js";
import { Decoder, beamSearch, generate } from "../../src/generation/index.js";
import { Gpt2, gpt2Config } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { nextTokenObjective } from "../../src/objectives/index.js";
import { tokenBatch } from "../../src/data/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { GradientNorm, TrainingStep, adamW, clippingFactor } from "../../src/training/index.js";
import type { Runtime } from "../../src/runtime/types.js";
import { adviceOnCuda } from "../../src/runtime/node/library.js";
import { memoryApart } from "../support/memory-apart.js";

/** More than what is shared from the start. */
const many = 20_000;
const numbers = (count: number, start = 0): Float32Array =>
  Float32Array.from({ length: count }, (_, index) => start + index);

describe("tensors in the memory of a device", () => {
  it("are written, read, cleared and copied where they lie", async () => {
    const { runtime } = memoryApart();
    using tensor = runtime.createTensor("float32", [many]);
    expect(tensor.apart).toBe(true);
    expect((await tensor.read()).every((value) => value === 0)).toBe(true);
    tensor.write(numbers(many));
    using part = tensor.slice(100, [10]);
    expect([...part.contents()]).toEqual([...numbers(10, 100)]);
    part.clear();
    expect([...tensor.contents().subarray(99, 111)]).toEqual([99, ...Array<number>(10).fill(0), 110]);
    tensor.write(numbers(many));
    tensor.copy(1, tensor, 0, many - 1);
    expect([...tensor.contents().subarray(0, 3), tensor.contents()[many - 1]]).toEqual([0, 0, 1, many - 2]);
    tensor.write(numbers(many));
    tensor.copy(0, tensor, 5, many - 5);
    expect([...tensor.contents().subarray(0, 2), tensor.contents()[many - 6]]).toEqual([5, 6, many - 1]);
    expect(tensor.apart).toBe(true);
  });

  it("are copied from and to tensors that JavaScript sees", () => {
    const { runtime } = memoryApart();
    using far = runtime.createTensor("float32", [many], numbers(many));
    using near = runtime.createTensor("float32", [4]);
    expect(near.apart).toBe(false);
    near.copy(1, far, 10, 3);
    expect([...near.view()]).toEqual([0, 10, 11, 12]);
    far.copy(many - 4, near, 0, 4);
    expect([...far.contents().subarray(many - 5)]).toEqual([many - 5, 0, 10, 11, 12]);
    using own = createRuntime().wrapTensor("float32", [2], Float32Array.of(7, 8));
    far.copy(0, own, 0, 2);
    expect([...far.contents().subarray(0, 3)]).toEqual([7, 8, 2]);
  });

  it("move with all over the same memory when they are viewed, and stay bound", async () => {
    const { runtime, blocks } = memoryApart();
    using program = await compile(runtime, { y: input("x", "float32", ["n"]).mul(2) });
    const tensor = runtime.createTensor("float32", [many], numbers(many));
    const part = tensor.slice(2, [3]);
    const binding = program.bind({ x: part }, { y: part });
    binding.runSync();
    expect(blocks()).toEqual({ device: 1, shared: 0 });
    const view = tensor.view();
    expect(blocks()).toEqual({ device: 0, shared: 1 });
    expect(part.apart).toBe(false);
    expect([...view.subarray(0, 6)]).toEqual([0, 1, 4, 6, 8, 5]);
    await binding.run();
    expect([...view.subarray(0, 6)]).toEqual([0, 1, 8, 12, 16, 5]);
    binding.dispose();
    part.dispose();
    tensor.dispose();
    expect(blocks()).toEqual({ device: 0, shared: 0 });
  });

  it("are constants of a program by a copy of their own", async () => {
    const { runtime, blocks } = memoryApart();
    const tensor = runtime.createTensor("float32", [many], numbers(many));
    const w = input("w", "float32", [many]);
    using program = await compile(
      runtime,
      { y: input("x", "float32", [many]).add(w) },
      { constants: { tensors: { w: tensor }, packed: {} } },
    );
    tensor.dispose();
    expect(blocks().device).toBe(0);
    using x = runtime.createTensor("float32", [many], numbers(many));
    const { y } = await program.run({ x });
    expect((await y!.read())[many - 1]).toBe(2 * (many - 1));
  });

  it("are constants where they lie once JavaScript sees them", async () => {
    const { runtime, blocks } = memoryApart();
    const tensor = runtime.createTensor("float32", [4], numbers(4));
    const w = input("w", "float32", [4]);
    const constants = { tensors: { w: tensor }, packed: {} };
    const program = await compile(runtime, { y: input("x", "float32", [4]).add(w) }, { constants });
    tensor.dispose();
    expect(blocks()).toEqual({ device: 0, shared: 1 });
    using x = createRuntime().wrapTensor("float32", [4], numbers(4));
    const { y } = await program.run({ x });
    expect([...y!.view()]).toEqual([0, 2, 4, 6]);
    program.dispose();
    expect(blocks()).toEqual({ device: 0, shared: 0 });
  });

  it("refuse a copy that does not lie within both", () => {
    const { runtime } = memoryApart();
    using a = runtime.createTensor("float32", [4]);
    using b = runtime.createTensor("int32", [4]);
    expect(() => {
      a.copy(2, a, 0, 3);
    }).toThrow("copy: 3 elements from 0 of 4 to 2 of 4 do not lie within both");
    expect(() => {
      a.copy(0, b, 0, 1);
    }).toThrow("copy: int32 elements do not go into a tensor of float32");
  });
});

/** Wide enough that weights, caches and logits do not fit into what is shared from the start. */
const config = gpt2Config({
  hiddenSize: 64,
  numLayers: 2,
  numHeads: 2,
  vocabSize: 512,
  contextLength: 512,
  dropout: 0,
});

describe("a model in the memory of a device", () => {
  /** The weights after two steps, and how many blocks the device still has. */
  async function train(runtime: Runtime): Promise<Float32Array> {
    const model = new Gpt2(config);
    using weights = Weights.initialize(runtime, model, 1);
    using gradients = weights.like();
    const objective = nextTokenObjective(model, { batchSize: 2, sequenceLength: 16 });
    using step = await TrainingStep.create(objective, weights, gradients);
    using optimizer = await adamW(weights, gradients);
    using norm = await GradientNorm.create(runtime, gradients);
    const ids = Int32Array.from({ length: 32 }, (_, index) => (index * 7919) % 512);
    for (let index = 0; index < 2; index++) {
      const batch = tokenBatch(
        ids,
        ids.map((id) => (id * 3 + index) % 512),
        [2, 16],
      );
      await step.run(batch);
      await step.run(batch, { accumulate: true });
      await optimizer.update({
        learningRate: 1e-3,
        gradientScale: clippingFactor(await norm.measure(), 1),
      });
    }
    expect(weights.flat.apart).toBe(runtime !== plain);
    return weights.flat.read();
  }
  const plain = createRuntime();

  it("learns what it learns elsewhere, and leaves nothing behind", async () => {
    const { runtime, blocks } = memoryApart();
    expect(await train(runtime)).toEqual(await train(plain));
    expect(blocks()).toEqual({ device: 0, shared: 0 });
  });

  it.each([1, 3])("writes with %i beams what it writes elsewhere", async (beams) => {
    const write = async (runtime: Runtime): Promise<unknown> => {
      const model = new Gpt2(config);
      using weights = Weights.initialize(runtime, model, 2);
      using decoder = await Decoder.create({ model, weights, slots: 2, beams, cacheType: "float32" });
      const prompts = [9, 3].map((length) => Array.from({ length }, (_, index) => index * 11 + length));
      const texts: unknown[] = [];
      // The second time a slot goes on from what it holds.
      for (const more of [[], [7, 8]])
        for (const prompt of prompts) {
          const ids = [...prompt, ...more];
          if (beams > 1) texts.push(await beamSearch(decoder, ids, { maxNewTokens: 12 }));
          else
            for await (const { id } of generate(decoder, [ids], { temperature: 0, maxNewTokens: 12 }))
              texts.push(id);
        }
      return texts;
    };
    const { runtime, blocks } = memoryApart();
    expect(await write(runtime)).toEqual(await write(plain));
    expect(blocks()).toEqual({ device: 0, shared: 0 });
  });
});

describe("a CUDA half of the engine that does not load", () => {
  it.each([
    ["libcublasLt.so.13", "install CUDA 13, and name its folder of libraries in LD_LIBRARY_PATH"],
    ["libcudart.so.12", "install CUDA 12, and"],
    ["libcudnn.so.9", "install cuDNN 9, and"],
    ["libcurand.so.10", "install CUDA's libraries, and"],
    ["libcuda.so.1", "this machine has no NVIDIA GPU, or its driver is not installed"],
  ])("says what to do where %s is missing", (library, advice) => {
    const message = `Failed to load library x.so with error: ${library}: cannot open shared object file: No such file`;
    expect(adviceOnCuda(message)).toContain(advice);
  });

  it("says nothing more of other failures", () => {
    expect(adviceOnCuda("invalid ELF header")).toBe("");
  });
});
