import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { loadAdapter, mergeAdapter, saveAdapter } from "../../src/checkpoints/index.js";
import { loadWeights, writeSafetensors } from "../../src/formats/index.js";
import { type QuantizedWeight, compile, crossEntropy, gradients, input } from "../../src/graph/index.js";
import { Gpt2, Llama, systems } from "../../src/models/index.js";
import {
  type CausalLm,
  type LoraAdapter,
  type WeightSet,
  Weights,
  namedParameters,
} from "../../src/nn/index.js";
import { nextTokenObjective } from "../../src/objectives/index.js";
import { ModelWeights, dequantizeWeight, quantizeWeights } from "../../src/quantization/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { TrainingStep } from "../../src/training/index.js";
import { tokenBatch } from "../../src/data/index.js";
import { encoderInputs, graphInputs, recorded, referenceJson, weightsOf } from "../models/encoders.js";
import { Reference, relativeError } from "../support/reference.js";
import { storedTensors } from "../support/stored-tensors.js";

const runtime = createRuntime();
const root = mkdtempSync(path.join(os.tmpdir(), "adapter-"));
afterAll(() => {
  rmSync(root, { recursive: true });
});

const kinds = [
  ["gpt2-tiny", (json: unknown): CausalLm => new Gpt2(systems.gpt2.config.read(json))],
  ["llama-grouped-tiny", (json: unknown): CausalLm => new Llama(systems.llama.config.read(json))],
] as const;

async function base(name: string, create: (json: unknown) => CausalLm) {
  const reference = new Reference(name);
  const model = create(reference.json("config.json"));
  const { tensors } = await loadWeights(runtime, model, reference.path());
  return { model, weights: new ModelWeights(runtime, { tensors, packed: {} }) };
}

async function logitsOf(
  model: CausalLm,
  weights: WeightSet,
  ids: readonly number[][],
): Promise<Float32Array> {
  const shape = [ids.length, ids[0]!.length];
  const inputIds = input("inputIds", "int32", shape);
  using program = await compile(
    runtime,
    { logits: model.forward(inputIds) },
    { constants: weights.constants },
  );
  const results = await program.run({
    ...weights.tensors,
    inputIds: runtime.createTensor("int32", shape, Int32Array.from(ids.flat())),
  });
  return (await results["logits"]!.read()) as Float32Array;
}

describe.each(kinds)("an adapter of peft's for %s", (name, create) => {
  const files = new Reference(`adapters/${name}`);
  const { inputIds } = new Reference(name).json("values.json") as { inputIds: number[][] };

  it("gives peft's logits, beside the base and merged", async () => {
    const { model, weights } = await base(name, create);
    const wanted = await files.tensors("logits.safetensors");
    const without = await logitsOf(model, weights, inputIds);
    expect(relativeError(without, wanted.get("logits")!)).toBeGreaterThan(0.01);
    const adapted = await loadAdapter(files.path(), { model, weights });
    const beside = await logitsOf(model, adapted.weights, inputIds);
    expect(relativeError(beside, wanted.get("logits")!)).toBeLessThan(1e-5);
    const merged = mergeAdapter(adapted);
    expect(relativeError(await logitsOf(model, merged, inputIds), wanted.get("merged")!)).toBeLessThan(1e-5);
    expect([...namedParameters(model).keys()].some((one) => one.includes("lora"))).toBe(false);
  });

  it("has peft's gradients of A and B, and no others", async () => {
    const { model, weights: frozen } = await base(name, create);
    const { adapter, weights: both } = await loadAdapter(files.path(), { model, weights: frozen });
    for (const [one, parameter] of namedParameters(model)) parameter.trainable = adapter.parameters.has(one);
    using weights = Weights.partlyFrozen(model, both);
    using found = weights.like();
    using step = await TrainingStep.create(nextTokenObjective(model), weights, found);
    const { labels } = files.json("values.json") as { labels: number[][] };
    const shape = [labels.length, labels[0]!.length] as const;
    await step.run(tokenBatch(Int32Array.from(inputIds.flat()), Int32Array.from(labels.flat()), shape));
    const wanted = await files.tensors("gradients.safetensors");
    expect(Object.keys(found.tensors).sort()).toEqual([...wanted.keys()].sort());
    for (const [one, gradient] of wanted)
      expect(relativeError(found.get(one).view(), gradient), one).toBeLessThan(1e-4);
  });

  it("is written with peft's names and numbers, and is then the same adapter", async () => {
    const { model, weights } = await base(name, create);
    const { adapter, weights: both } = await loadAdapter(files.path(), { model, weights });
    const folder = path.join(root, name);
    await saveAdapter(folder, { model, adapter, weights: both, base: name });
    const tensors = (place: string) => storedTensors(path.join(place, "adapter_model.safetensors"));
    expect(await tensors(folder)).toEqual(await tensors(files.path()));
    const written = JSON.parse(readFileSync(path.join(folder, "adapter_config.json"), "utf8")) as object;
    const peft = files.json("adapter_config.json") as Record<string, unknown>;
    const { task_type: task, ...entries } = written as { task_type: string };
    expect(task).toBe("CAUSAL_LM");
    // peft writes either whole paths or their last parts, and reads both.
    const ends = (targets: unknown) =>
      [...new Set((targets as string[]).map((target) => target.split(".").at(-1)!))].sort();
    for (const [entry, value] of Object.entries(entries))
      if (entry === "target_modules") expect(ends(value)).toEqual(ends(peft[entry]));
      else expect([entry, value]).toEqual([entry, peft[entry]]);
    adapter.remove();
    const again = await loadAdapter(folder, { model, weights: (await base(name, create)).weights });
    const wanted = await files.tensors("logits.safetensors");
    const found = await logitsOf(model, again.weights, inputIds);
    expect(relativeError(found, wanted.get("logits")!)).toBeLessThan(1e-5);
  });
});

it.each([4, "nf4", 8] as const)(
  "merges into a base of %s bits: the dequantised matrix and B A",
  async (bits) => {
    const sizes = { vocabSize: 61, hiddenSize: 64, numLayers: 1, numHeads: 2, contextLength: 16 };
    const model = new Llama(systems.llama.config.create(sizes));
    using whole = Weights.initialize(runtime, model, 3);
    const quantized = await quantizeWeights(model, whole, { bits });
    const name = "model.layers.0.self_attn.q_proj.weight";
    const before = dequantizeWeight(quantized.constants.packed[name] as QuantizedWeight);
    const adapted = await loadAdapter(await randomAdapter(model, `wide-${bits}`), {
      model,
      weights: quantized,
    });
    const [down, up] = ["lora_A", "lora_B"].map((part) =>
      adapted.weights.constants.tensors[name.replace("weight", `${part}.weight`)]!.view().slice(),
    ) as [Float32Array, Float32Array];
    const ids = [[1, 2, 3, 4, 5, 6, 7, 8]];
    const beside = await logitsOf(model, adapted.weights, ids);
    using merged = mergeAdapter(adapted);
    // alpha / rank = 4 / 2.
    const wanted = before.map((value, i) => {
      const [row, column] = [Math.floor(i / 64), i % 64];
      return value + 2 * (up[2 * row]! * down[column]! + up[2 * row + 1]! * down[64 + column]!);
    });
    expect(relativeError(merged.constants.tensors[name]!.view() as Float32Array, wanted)).toBeLessThan(1e-6);
    expect(merged.constants.packed[name]).toBeUndefined();
    expect(merged.constants.packed["model.embed_tokens.weight"]).toBeDefined();
    // Products with whole numbers round their input to whole numbers, too, which the merged matrix does not.
    expect(relativeError(await logitsOf(model, merged, ids), beside)).toBeLessThan(
      bits === "nf4" ? 1e-5 : 0.02,
    );
  },
);

it("gives peft's logits and gradients of a BERT that classifies, by a regular expression and an exclusion", async () => {
  const task = await recorded("bert/sequence.safetensors");
  const config = systems.bert.config.read(referenceJson("bert/config.json"));
  const model = systems.bert.heads.classify.create(config, 3);
  const files = new Reference("adapters/bert");
  using stored = weightsOf(model, task);
  const given = graphInputs(task);
  const frozen = new ModelWeights(runtime, { tensors: stored.tensors, packed: {} });
  const { adapter, weights } = await loadAdapter(files.path(), { model, weights: frozen });
  const logits = model.forward(encoderInputs(given), {});
  const loss = crossEntropy(logits, given["labels"]!);
  const named = adapter.parameters;
  const slopes = gradients(
    loss,
    [...named.values()].map(({ tensor }) => tensor),
  );
  const outputs = Object.fromEntries([...named.keys()].map((one, i) => [`gradient/${one}`, slopes[i]!]));
  using program = await compile(runtime, { logits, ...outputs });
  const bound = Object.fromEntries(
    Object.entries(given).map(([one, { dtype }]) => {
      const { shape, data } = task.inputs.get(one)!;
      return [one, runtime.createTensor(dtype, shape, dtype === "bool" ? Uint8Array.from(data) : data)];
    }),
  );
  const results = await program.run({ ...weights.constants.tensors, ...bound });
  const read = async (one: string) => (await results[one]!.read()) as Float32Array;
  const wanted = await files.tensors("logits.safetensors");
  expect(relativeError(await read("logits"), wanted.get("logits")!)).toBeLessThan(1e-5);
  const wantedSlopes = await files.tensors("gradients.safetensors");
  expect([...named.keys()].sort()).toEqual([...wantedSlopes.keys()].sort());
  for (const [one, slope] of wantedSlopes)
    expect(relativeError(await read(`gradient/${one}`), slope), one).toBeLessThan(1e-4);
});

/** A folder with an adapter of random numbers over q_proj and down_proj of a small LLaMA. */
async function randomAdapter(model: Llama, name: string): Promise<string> {
  const folder = path.join(root, name);
  cpSync(new Reference("adapters/llama-grouped-tiny").path(), folder, { recursive: true });
  const config = {
    peft_type: "LORA",
    r: 2,
    lora_alpha: 4,
    target_modules: ["q_proj", "down_proj"],
    bias: "none",
  };
  writeFileSync(path.join(folder, "adapter_config.json"), JSON.stringify(config));
  const tensors = [];
  for (const [parameter, { shape }] of namedParameters(model)) {
    if (!/(q|down)_proj\.weight$/.test(parameter)) continue;
    for (const [part, size] of [
      ["lora_A", [2, shape[1]!]],
      ["lora_B", [shape[0]!, 2]],
    ] as const) {
      const values = Float32Array.from(
        { length: size[0] * size[1] },
        (_, i) => 0.2 * Math.sin(7 * i + size[0]),
      );
      tensors.push({
        name: `base_model.model.${parameter.replace("weight", `${part}.weight`)}`,
        dtype: "float32" as const,
        shape: size,
        bytes: new Uint8Array(values.buffer),
      });
    }
  }
  await writeSafetensors(path.join(folder, "adapter_model.safetensors"), tensors);
  return folder;
}

describe("an adapter that does not fit", () => {
  const [name, create] = kinds[1];
  const changed = (change: Record<string, unknown>, label: string): string => {
    const folder = path.join(root, label);
    const files = new Reference(`adapters/${name}`);
    cpSync(files.path(), folder, { recursive: true });
    const json = { ...(files.json("adapter_config.json") as object), ...change };
    writeFileSync(path.join(folder, "adapter_config.json"), JSON.stringify(json));
    return folder;
  };

  it.each([
    [{ use_dora: true }, "q_proj.lora_magnitude_vector, which adapter_config.json asks for"],
    [{ use_qalora: true }, "use_qalora is true"],
    [{ trainable_token_indices: [3] }, "trainable_token_indices is [3]"],
    [{ bias: "all" }, 'bias is "all"'],
    [{ modules_to_save: ["pooler"] }, "adapter_config.json: the model has no module pooler"],
    [{ modules_to_save: ["model.norm"] }, "has no tensor base_model.model.model.norm.weight"],
    [{ init_lora_weights: "pissa" }, "changes the base as well"],
    [{ peft_type: "IA3" }, "of the type IA3"],
    [{ layers_to_transform: [0] }, "layers_to_transform"],
    [{ an_entry_of_tomorrow: 3 }, "an_entry_of_tomorrow is 3"],
    [{ target_modules: "(?P<x>a)" }, "no regular expression"],
    [
      { target_modules: ["c_attn"] },
      "the target c_attn matches no linear layer; linear layers are q_proj, k_proj",
    ],
    [{ target_modules: ["q_proj", "v_proj"] }, "down_proj.lora_A.weight, for which this model"],
    [
      { target_modules: ["q_proj", "v_proj", "down_proj", "up_proj"] },
      "has no tensor base_model.model.model.layers.0.mlp.up_proj",
    ],
    [{ rank_pattern: {} }, "q_proj.lora_A.weight is [5, 32], but this model wants [3, 32]"],
    [{ r: 0 }, "r must be above 0"],
  ])("is refused by name: %j", async (change, words) => {
    const { model, weights } = await base(name, create);
    const folder = changed(change, `changed-${Object.keys(change)[0]}-${words.length}`);
    await expect(loadAdapter(folder, { model, weights })).rejects.toThrow(words);
    expect([...namedParameters(model).keys()].some((one) => one.includes("lora"))).toBe(false);
  });

  it("ignores what it may: entries of a newer peft that are off", async () => {
    const { model, weights } = await base(name, create);
    const folder = changed({ a_new_way: null, another: false, third: {} }, "newer");
    const { adapter } = await loadAdapter(folder, { model, weights });
    expect((adapter as LoraAdapter).layers.size).toBe(6);
  });
});
