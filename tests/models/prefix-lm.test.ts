import { mkdtemp, readFile, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import {
  loadModel,
  saveDecoderOnnx,
  saveGguf,
  saveModel,
  widenDecoder,
} from "../../src/checkpoints/index.js";
import { loadWeights } from "../../src/formats/index.js";
import { Decoder, generate } from "../../src/generation/index.js";
import { compile, input, less, range, unsqueeze } from "../../src/graph/index.js";
import { gpt3Config, Gpt3, mistralConfig, systems } from "../../src/models/index.js";
import { type CausalLm, Weights, namedParameters } from "../../src/nn/index.js";
import { nextTokenObjective, prefixObjective } from "../../src/objectives/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { sentinelToken, trainUnigram, withTokens } from "../../src/tokenizers/index.js";
import { EvaluationStep, TrainingStep } from "../../src/training/index.js";
import { Reference, relativeError } from "../support/reference.js";

const runtime = createRuntime();
const root = await mkdtemp(path.join(os.tmpdir(), "prefix-lm-"));
afterAll(() => rm(root, { recursive: true, force: true }));

interface Values {
  readonly inputIds: number[][];
  readonly labels: number[][];
  readonly lengths: number[];
  readonly prefixes: number[];
  readonly loss: number;
  readonly prompt: number[];
  readonly greedy: number[];
}

const { palm, llama, gpt2 } = systems;
const prefixed = (name: string) => ({
  ...(new Reference(name).json("config.json") as object),
  prefix_lm: true,
});
const models = {
  "palm-tiny": palm.create(palm.config.read(prefixed("palm-tiny"))),
  "llama-grouped-tiny": llama.create(llama.config.read(prefixed("llama-grouped-tiny"))),
  "gpt2-tiny": gpt2.create(gpt2.config.read(prefixed("gpt2-tiny"))),
};
const all: readonly (readonly [string, CausalLm])[] = Object.entries(models);

describe.each(all)("%s as a prefix language model", (name, model) => {
  const reference = new Reference(`prefix-${name}`);
  const values = reference.json("values.json") as Values;
  const load = () => loadWeights(runtime, model, new Reference(name).path(), { unused: /^lm_head/ });
  const [rows, length] = [2, 16];
  const prefix = Uint8Array.from(
    values.prefixes.flatMap((count) => Array.from({ length }, (_, place) => Number(place < count))),
  );
  const ids = Int32Array.from(values.inputIds.flat());

  it.each([true, false])("has PyTorch's logits (fused operators: %s)", async (fused) => {
    using weights = await load();
    const logits = model.forward(input("inputIds", "int32", [rows, length]), undefined, {
      prefix: input("prefix", "bool", [rows, length]),
    });
    namedParameters(model);
    using program = await compile(runtime, { logits }, { fused });
    const results = await program.run({
      ...weights.tensors,
      inputIds: runtime.createTensor("int32", [rows, length], ids),
      prefix: runtime.createTensor("bool", [rows, length], prefix),
    });
    const got = (await results["logits"]!.read()) as Float32Array;
    const wanted = (await reference.tensors("logits.safetensors")).get("logits")!;
    const vocabulary = got.length / (rows * length);
    for (const [row, end] of values.lengths.entries()) {
      const [from, to] = [row * length * vocabulary, (row * length + end) * vocabulary];
      expect(relativeError(got.subarray(from, to), wanted.subarray(from, to))).toBeLessThan(1e-5);
    }
  });

  it("has PyTorch's loss and the gradient of every parameter", async () => {
    using weights = await load();
    using gradients = weights.like();
    using step = await TrainingStep.create(prefixObjective(model), weights, gradients);
    const shape = [rows, length];
    const labels = Int32Array.from(values.labels.flat());
    const counted = labels.filter((label) => label !== -100).length;
    const { tokens } = await step.run({
      tensors: {
        inputIds: { data: ids, shape },
        labels: { data: labels, shape },
        prefix: { data: prefix, shape },
      },
      counts: { tokens: counted },
    });
    expect(tokens! / counted).toBeCloseTo(values.loss, 4);
    const wanted = await reference.tensors("gradients.safetensors");
    const names = [...namedParameters(model).keys()];
    expect(names.filter((parameter) => !wanted.has(parameter))).toEqual([]);
    for (const parameter of names)
      expect(relativeError(gradients.get(parameter).view(), wanted.get(parameter)!), parameter).toBeLessThan(
        1e-4,
      );
  });

  it("reads a prompt both ways and writes PyTorch's greedy ids", async () => {
    using weights = await load();
    for (const options of [{}, { prefillChunk: 4 }, { slots: 3, parts: 2 }]) {
      using decoder = await Decoder.create({ model, weights, capacity: 64, ...options });
      const written: number[] = [];
      const maxNewTokens = values.greedy.length;
      for await (const { id } of generate(decoder, [values.prompt], { temperature: 0, maxNewTokens }))
        if (id !== undefined) written.push(id);
      expect(written).toEqual(values.greedy);
    }
  });

  it("gives with the cache what a pass without one gives, in whichever slot and order", async () => {
    using weights = await load();
    const inputIds = input("inputIds", "int32", [1, "sequence"]);
    const bordered = input("border", "int64", [1]);
    namedParameters(model);
    const prefixed = less(unsqueeze(range("sequence", "int64"), 0), unsqueeze(bordered, 0));
    using program = await compile(runtime, {
      logits: model.forward(inputIds, undefined, { prefix: prefixed }),
    });
    const expected = async (tokens: number[], border: number): Promise<Float32Array> => {
      using given = runtime.createTensor("int32", [1, tokens.length], Int32Array.from(tokens));
      using at = runtime.createTensor("int64", [1], BigInt64Array.of(BigInt(border)));
      using logits = (await program.run({ ...weights.tensors, inputIds: given, border: at }))["logits"]!;
      return (logits.view() as Float32Array).slice(-97);
    };
    const random = (count: number, seed: number) =>
      Array.from({ length: count }, (_, at) => (at * at * 7 + at * 13 + seed * 29) % 97);
    using decoder = await Decoder.create({ model, weights, capacity: 60, slots: 2, prefillChunk: 8 });
    const long = random(30, 1);
    // The second begins like the first, and is no beginning of it that has seen the same end.
    for (const prompt of [long, long.slice(0, 12), [...long, 5, 6], [3], random(9, 2), long]) {
      using slot = decoder.open(prompt);
      expect(
        relativeError(await decoder.read(slot, prompt), await expected(prompt, prompt.length)),
      ).toBeLessThan(1e-5);
      const text = [...prompt];
      for (const token of [11, 7, 40]) {
        text.push(token);
        const [logits] = await decoder.step([slot], [token]);
        expect(relativeError(logits!, await expected(text, prompt.length))).toBeLessThan(1e-5);
      }
      const more = [8, 9];
      const all = await decoder.extend(slot, more);
      text.push(...more);
      expect(relativeError(all[1]!, await expected(text, prompt.length))).toBeLessThan(1e-5);
    }
    // The same prompt once more is not read again.
    using slot = decoder.open(long);
    await decoder.read(slot, long);
    expect(slot.reused).toBe(long.length);
  });

  it.each(["float16", "int8"] as const)("keeps keys and values in %s", async (cacheType) => {
    using weights = await load();
    using plain = await Decoder.create({ model, weights, capacity: 40 });
    using fewer = await Decoder.create({ model, weights, capacity: 40, cacheType });
    const rowsOf: Float32Array[] = [];
    for (const decoder of [plain, fewer]) {
      using slot = decoder.open();
      await decoder.read(slot, values.prompt);
      rowsOf.push((await decoder.step([slot], [4]))[0]!.slice());
    }
    expect(relativeError(rowsOf[1]!, rowsOf[0]!)).toBeLessThan(cacheType === "int8" ? 0.1 : 5e-3);
  });
});

describe("a prefix language model", () => {
  const model = models["palm-tiny"];

  it("is what the entry prefix_lm of config.json says, and is written with it", () => {
    const json = palm.config.write(
      palm.config.create({ hiddenSize: 32, numLayers: 2, numHeads: 4, prefixLm: true }),
    );
    expect(json["prefix_lm"]).toBe(true);
    const causal = Object.fromEntries(Object.entries(json).filter(([entry]) => entry !== "prefix_lm"));
    expect(palm.config.read(causal).prefixLm).toBeUndefined();
    expect(palm.config.write(palm.config.read(causal))).not.toHaveProperty("prefix_lm");
    expect(() => palm.config.read({ ...json, prefix_lm: "yes" })).toThrow('prefix_lm is "yes"');
  });

  it("is refused where a window, or a system, hides a prompt's end from its beginning", () => {
    const sizes = { hiddenSize: 32, numLayers: 2, numHeads: 4 };
    expect(() => mistralConfig({ ...sizes, slidingWindow: 8, prefixLm: true })).toThrow("sliding window");
    const gpt3 = systems.gpt3.config.write(gpt3Config(sizes));
    expect(() => systems.gpt3.config.read({ ...gpt3, prefix_lm: true })).toThrow("prefix_lm is true");
    expect(() => prefixObjective(new Gpt3(gpt3Config({ ...sizes, vocabSize: 61 })))).toThrow(
      "no prefix language model",
    );
  });

  it("does not leave for programs that would read its prompts from left to right", async () => {
    const reference = new Reference("llama-grouped-tiny");
    const leaving = models["llama-grouped-tiny"];
    using weights = await loadWeights(runtime, leaving, reference.path(), { unused: /^lm_head/ });
    const tokenizer = trainUnigram(["some words"], { vocabSize: 300, style: "lossless" });
    const checkpoint = { system: llama, model: leaving, weights, tokenizer };
    await expect(saveGguf(path.join(root, "x.gguf"), checkpoint)).rejects.toThrow("from left to right");
    expect(() => saveDecoderOnnx(path.join(root, "x.onnx"), leaving, weights)).toThrow("from left to right");
  });

  it("is made of a causal model, which keeps its weights and gets rows for new tokens", async () => {
    const tokenizer = trainUnigram(["one two"], { vocabSize: 268, style: "lossless" });
    const wider = withTokens(tokenizer, [0, 1, 2].map(sentinelToken));
    const { vocabSize } = tokenizer;
    const causal = palm.create(palm.config.create({ hiddenSize: 32, numLayers: 1, numHeads: 2, vocabSize }));
    using weights = Weights.initialize(runtime, causal, 5);
    const checkpoint = { system: palm, model: causal, weights, tokenizer };
    const made = await widenDecoder(checkpoint, { tokenizer: wider, prefixLm: true, seed: 3 });
    using kept = made.weights;
    expect(made.model.config).toMatchObject({ vocabSize: vocabSize + 3, prefixLm: true });
    for (const name of namedParameters(causal).keys()) {
      const [old, now] = [weights.get(name).view(), kept.get(name).view()];
      expect(now.slice(0, old.length), name).toEqual(old.slice());
    }
    const table = kept.get("model.embed_tokens.weight").view();
    for (let channel = 0; channel < 32; channel++) {
      const old = Array.from({ length: vocabSize }, (_, row) => table[row * 32 + channel]!);
      const mean = old.reduce((a, b) => a + b, 0) / vocabSize;
      const deviation = Math.sqrt(old.reduce((sum, value) => sum + (value - mean) ** 2, 0) / vocabSize);
      for (let row = vocabSize; row < vocabSize + 3; row++)
        expect(Math.abs(table[row * 32 + channel]! - mean)).toBeLessThan(0.5 * deviation);
    }
    const row = (index: number) => table.slice((vocabSize + index) * 32, (vocabSize + index + 1) * 32);
    expect(row(0)).not.toEqual(row(1));
  });

  it("comes back from its folder as one", async () => {
    const tokenizer = withTokens(
      trainUnigram(["one two three"], { vocabSize: 275, style: "lossless" }),
      ["[S2S]"],
      {
        prompt: "[S2S]",
      },
    );
    const system = palm;
    const config = system.config.create({
      hiddenSize: 16,
      numLayers: 1,
      numHeads: 2,
      vocabSize: tokenizer.vocabSize,
      prefixLm: true,
    });
    const small = system.create(config);
    using weights = Weights.initialize(runtime, small, 1);
    const folder = path.join(root, "saved");
    await saveModel(folder, { system, model: small, weights, tokenizer });
    const loaded = await loadModel(runtime, folder, { kind: "decoder" });
    using again = loaded.weights;
    expect(loaded.model.config.prefixLm).toBe(true);
    expect(again.get("model.norm.weight").view()).toEqual(weights.get("model.norm.weight").view());
    expect(loaded.tokenizer.promptId).toBe(tokenizer.tokenToId("[S2S]"));
    expect(JSON.parse(await readFile(path.join(folder, "config.json"), "utf8"))).toMatchObject({
      prefix_lm: true,
    });
  });

  it("gives a causal model's loss where no row has a prefix", async () => {
    using weights = await loadWeights(runtime, model, new Reference("palm-tiny").path());
    const { inputIds, labels } = new Reference("palm-tiny").json("values.json") as Values;
    const shape = [2, 16];
    const tensors = {
      inputIds: { data: Int32Array.from(inputIds.flat()), shape },
      labels: { data: Int32Array.from(labels.flat()), shape },
    };
    const counts = { tokens: 1 };
    using causal = await EvaluationStep.create(nextTokenObjective(model), weights);
    using prefixed = await EvaluationStep.create(prefixObjective(model), weights);
    const { tokens: wanted } = await causal.run({ tensors, counts });
    const { tokens } = await prefixed.run({
      tensors: { ...tensors, prefix: { data: new Uint8Array(32), shape } },
      counts,
    });
    expect(tokens!).toBeCloseTo(wanted!, 4);
  });
});
