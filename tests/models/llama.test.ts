import { describe, expect, it } from "vitest";
import { compile, input } from "../../src/graph/index.js";
import { loadWeights } from "../../src/formats/index.js";
import {
  Llama,
  llamaConfig,
  llamaSizes,
  Mistral,
  mistralConfig,
  mistralSizes,
  Qwen2,
  qwen2Sizes,
  systems,
} from "../../src/models/index.js";
import { Weights, countParameters, namedParameters } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { Reference, relativeError } from "../support/reference.js";
import { agreesWithReference } from "./decoders.js";

const runtime = createRuntime();

describe.each([
  ["llama-tiny", (json: unknown) => new Llama(systems.llama.config.read(json))],
  ["llama-grouped-tiny", (json: unknown) => new Llama(systems.llama.config.read(json))],
  ["qwen2-tiny", (json: unknown) => new Qwen2(systems.qwen2.config.read(json))],
  ["qwen2-window-tiny", (json: unknown) => new Qwen2(systems.qwen2.config.read(json))],
  ["mistral-tiny", (json: unknown) => new Mistral(systems.mistral.config.read(json))],
])("%s agrees with Hugging Face transformers on random weights", (name, create) => {
  agreesWithReference(name, create);
});

describe("every scaling of rotary positions gives transformers' logits beyond the context", () => {
  const reference = new Reference("llama-rope");
  const { inputIds, configs } = reference.json("values.json") as {
    inputIds: number[][];
    configs: Record<string, Record<string, unknown>>;
  };
  it.each(Object.entries(configs))("%s", async (kind, json) => {
    const model = new Llama(systems.llama.config.read(json));
    expect(model.config.ropeScaling?.kind).toBe(kind);
    using weights = await loadWeights(runtime, model, reference.path());
    using program = await compile(runtime, { logits: model.forward(input("inputIds", "int32", [1, 40])) });
    const { logits } = await program.run({
      ...weights.tensors,
      inputIds: runtime.createTensor("int32", [1, 40], Int32Array.from(inputIds.flat())),
    });
    const wanted = (await reference.tensors("logits.safetensors")).get(kind)!;
    expect(relativeError((await logits!.read()) as Float32Array, wanted)).toBeLessThan(1e-5);
  });
});

describe("first weights", () => {
  const sizes = { hiddenSize: 256, numLayers: 8, numHeads: 4, numKeyValueHeads: 2, vocabSize: 512 };
  it.each([
    ["LLaMA", new Llama(llamaConfig(sizes))],
    ["Mistral", new Mistral(mistralConfig(sizes))],
  ])("%s: those whose products are summed start smaller by the root of two a layer", (_, model) => {
    using weights = Weights.initialize(runtime, model, 1);
    for (const [name, { shape }] of namedParameters(model)) {
      const values = weights.get(name).view();
      const deviation = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
      const wanted =
        shape.length === 1 ? 1 : /(o|down)_proj\.weight$/.test(name) ? 0.02 / Math.sqrt(2 * 8) : 0.02;
      expect(deviation / wanted, name).toBeCloseTo(1, 1);
    }
  });
});

describe("the catalogue", () => {
  const { parameters } = new Reference(".").json("llama-sizes.json") as {
    parameters: Record<string, number>;
  };
  /** Billions, as the papers and model cards state them. */
  const published: Record<string, number> = {
    "llama-7b": 6.7,
    "llama-13b": 13.0,
    "llama-30b": 32.5,
    "llama-65b": 65.2,
    "llama-2-7b": 6.7,
    "llama-2-13b": 13.0,
    "llama-2-70b": 69.0,
    "llama-3-8b": 8.0,
    "llama-3-70b": 70.6,
    "llama-3.1-8b": 8.0,
    "llama-3.2-1b": 1.2,
    "mistral-7b-v0.1": 7.2,
    "mistral-7b-v0.2": 7.2,
    "mistral-7b-v0.3": 7.2,
    "qwen2.5-0.5b": 0.49,
    "qwen2.5-1.5b": 1.54,
    "qwen2.5-7b": 7.61,
  };

  it("has the published numbers of parameters, and takes no memory for it", () => {
    const before = runtime.allocatedBytes;
    const counts = Object.fromEntries([
      ...Object.entries(llamaSizes).map(([name, { config }]) => [name, countParameters(new Llama(config))]),
      ...Object.entries(mistralSizes).map(([name, { config }]) => [
        name,
        countParameters(new Mistral(config)),
      ]),
      ...Object.entries(qwen2Sizes).map(([name, { config }]) => [name, countParameters(new Qwen2(config))]),
    ]) as Record<string, number>;
    expect(counts).toEqual(parameters);
    const stated = Object.entries({ ...llamaSizes, ...mistralSizes, ...qwen2Sizes });
    expect(Object.fromEntries(stated.map(([name, size]) => [name, size.parameters]))).toEqual(parameters);
    // Some papers round and some cut.
    for (const [name, billions] of Object.entries(published))
      expect(Math.abs(counts[name]! / 1e9 - billions), name).toBeLessThan(0.1);
    expect(runtime.allocatedBytes).toBe(before);
  });

  it("keeps its configurations through Hugging Face's", () => {
    const { llama, mistral, qwen2 } = systems;
    for (const { config } of Object.values(llamaSizes))
      expect(llama.config.read(llama.config.write(config))).toEqual(config);
    for (const { config } of Object.values(mistralSizes))
      expect(mistral.config.read(mistral.config.write(config))).toEqual(config);
    for (const { config } of Object.values(qwen2Sizes))
      expect(qwen2.config.read(qwen2.config.write(config))).toEqual(config);
  });
});

describe("a configuration that contradicts itself is refused in words", () => {
  const sizes = { hiddenSize: 64, numLayers: 1, numHeads: 4 };
  it.each([
    [{ ...sizes, numHeads: 5 }, "hiddenSize 64 does not divide into 5 heads"],
    [{ ...sizes, numKeyValueHeads: 3 }, "4 heads do not divide among 3 key-value heads"],
    [{ ...sizes, headSize: 15 }, "headSize 15 must be even"],
  ])("%o", (given, message) => {
    expect(() => llamaConfig(given)).toThrow(message);
  });

  it("names the entry of a config.json that it cannot follow", () => {
    const { config } = systems.llama;
    const json = config.write(llamaConfig(sizes));
    expect(() => config.read({ ...json, hidden_act: "gelu" })).toThrow("hidden_act");
    expect(() => config.read({ ...json, attention_bias: "yes" })).toThrow("attention_bias");
    expect(() => config.read({ ...json, rope_scaling: { type: "longrope" } })).toThrow(
      "rope_scaling: short_factor is missing",
    );
    expect(() => config.read({ ...json, rope_scaling: { rope_type: "linear", factor: 0.5 } })).toThrow(
      "factor",
    );
  });
});

describe("Qwen2's layers with a window", () => {
  const { config } = systems.qwen2;
  const json = {
    ...config.write(config.create({ hiddenSize: 32, numLayers: 3, numHeads: 4, numKeyValueHeads: 2 })),
    use_sliding_window: true,
    sliding_window: 5,
  };
  it("are those from max_window_layers on, or what layer_types says, as in transformers", () => {
    const full = "full_attention";
    const sliding = "sliding_attention";
    expect(config.read({ ...json, max_window_layers: 1 })).toMatchObject({
      slidingWindow: 5,
      layerTypes: [full, sliding, sliding],
    });
    // The entry's own default is 28.
    expect(config.read(json).layerTypes).toEqual([full, full, full]);
    const mixed = [sliding, full, sliding];
    expect(config.read({ ...json, max_window_layers: 1, layer_types: mixed }).layerTypes).toEqual(mixed);
    const none = { ...json, use_sliding_window: false };
    expect(config.read(none).slidingWindow).toBeUndefined();
    expect(config.read({ ...json, sliding_window: null }).slidingWindow).toBeUndefined();
    expect(() => config.read({ ...none, layer_types: mixed })).toThrow("give none");
    expect(() => config.read({ ...json, layer_types: [full] })).toThrow("layer_types has 1 layers, not 3");
  });

  it("are written so that they are read again", () => {
    const read = config.read({
      ...json,
      layer_types: ["full_attention", "sliding_attention", "full_attention"],
    });
    expect(config.read(config.write(read))).toEqual(read);
    expect(config.write(read)).toMatchObject({
      use_sliding_window: true,
      sliding_window: 5,
      max_window_layers: 1,
    });
  });
});
