import { cp, mkdtemp, open, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { formatBytes, requireMemory } from "../../src/base/memory.js";
import { characterTokenizer } from "../../src/tokenizers/index.js";
import {
  type DecoderSystem,
  Gpt2,
  gpt2Config,
  Llama,
  llamaConfig,
  llamaSizes,
  Mistral,
  mistralConfig,
  systems,
} from "../../src/models/index.js";
import { loadModel, saveModel } from "../../src/checkpoints/index.js";
import { type CausalLm, Weights, namedParameters } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { Reference } from "../support/reference.js";
import { writeTokenizer } from "../../src/formats/index.js";

const runtime = createRuntime();
const tokenizer = characterTokenizer("abcdefgh");
const sizes = {
  vocabSize: tokenizer.vocabSize,
  contextLength: 16,
  hiddenSize: 16,
  numLayers: 1,
  numHeads: 2,
};

let folder = "";
beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
});
afterEach(() => rm(folder, { recursive: true }));

/** A published checkpoint with entries of its configuration replaced. */
async function checkpoint(name: string, changes: Record<string, unknown> = {}): Promise<void> {
  await cp(new Reference(name).path(), folder, { recursive: true });
  await writeTokenizer(tokenizer, folder);
  const file = path.join(folder, "config.json");
  const config = JSON.parse(await readFile(file, "utf8")) as Record<string, unknown>;
  await writeFile(file, JSON.stringify({ ...config, ...changes }));
}

describe("every causal model comes back from its folder as it was saved", () => {
  const { gpt2, llama, mistral } = systems;
  it.each<[string, DecoderSystem, CausalLm]>([
    ["GPT-2", gpt2, new Gpt2(gpt2Config(sizes))],
    ["GPT-2 with an output of its own", gpt2, new Gpt2(gpt2Config({ ...sizes, tieEmbeddings: false }))],
    ["LLaMA", llama, new Llama(llamaConfig(sizes))],
    [
      "LLaMA with tied embeddings",
      llama,
      new Llama(llamaConfig({ ...sizes, numKeyValueHeads: 1, tieEmbeddings: true })),
    ],
    ["Mistral", mistral, new Mistral(mistralConfig({ ...sizes, slidingWindow: 4 }))],
  ])("%s", async (_, system, model) => {
    using weights = Weights.initialize(runtime, model, 3);
    await saveModel(folder, { system, model, weights, tokenizer });
    const loaded = await loadModel(runtime, folder);
    using found = loaded.weights;
    expect(loaded.model.config).toEqual(model.config);
    expect(loaded.model.constructor).toBe(model.constructor);
    for (const name of namedParameters(model).keys())
      expect(found.get(name).view(), name).toEqual(weights.get(name).view());
    expect(loaded.system).toBe(system);
  });
});

describe("a checkpoint that does not fit together is refused with what is wrong", () => {
  it("an architecture that is not here", async () => {
    await checkpoint("llama-tiny", { model_type: "mamba" });
    await expect(loadModel(runtime, folder)).rejects.toThrow(
      /model_type is "mamba", but the systems here are .*\bllama, mistral\b/,
    );
  });

  it("a width that the tensors do not have", async () => {
    await checkpoint("llama-tiny", { hidden_size: 64 });
    await expect(loadModel(runtime, folder)).rejects.toThrow(
      "model.embed_tokens.weight is float32 [97, 32], but the configuration makes it float32 [97, 64]",
    );
  });

  it("more layers than the file has, and fewer", async () => {
    await checkpoint("llama-tiny", { num_hidden_layers: 3 });
    await expect(loadModel(runtime, folder)).rejects.toThrow("has no tensor model.layers.2.");
    await checkpoint("llama-tiny", { num_hidden_layers: 1 });
    await expect(loadModel(runtime, folder)).rejects.toThrow(
      /holds the tensor model\.layers\.1\..*for which the model of .* has no place/,
    );
  });

  it("a number of layers that no file holds, before anything is built", async () => {
    for (const layers of [40, 1e9]) {
      await checkpoint("llama-tiny", { num_hidden_layers: layers });
      await expect(loadModel(runtime, folder)).rejects.toThrow(`a LLaMA of ${layers} layers`);
    }
  });

  it("output embeddings that are said to be tied and are not there untied", async () => {
    await checkpoint("llama-grouped-tiny", { tie_word_embeddings: false });
    await expect(loadModel(runtime, folder)).rejects.toThrow("has no tensor lm_head.weight");
  });

  it("a shard that is missing", async () => {
    await checkpoint("llama-tiny");
    await rm(path.join(folder, "model.safetensors"));
    await writeFile(
      path.join(folder, "model.safetensors.index.json"),
      JSON.stringify({ weight_map: { "model.norm.weight": "model-00002-of-00003.safetensors" } }),
    );
    await expect(loadModel(runtime, folder)).rejects.toThrow(
      "has no model-00002-of-00003.safetensors, a shard that its index names",
    );
  });

  it("a tokenizer with more tokens than there are embeddings", async () => {
    await checkpoint("llama-tiny", { vocab_size: 3 });
    await expect(loadModel(runtime, folder)).rejects.toThrow(
      `has ${tokenizer.vocabSize} tokens, but the model has embeddings for 3`,
    );
  });

  it("weights that no memory here can hold, before any is taken", async () => {
    const { config } = llamaSizes["llama-65b"];
    const header: Record<string, unknown> = {};
    let end = 0;
    for (const [name, { shape, size }] of namedParameters(new Llama(config)))
      header[name] = { dtype: "F16", shape, data_offsets: [end, (end += 2 * size)] };
    const json = Buffer.from(JSON.stringify(header));
    const prefix = Buffer.alloc(8);
    prefix.writeBigUInt64LE(BigInt(json.byteLength));
    // A file of 131 GB that takes no disk: all of it but the header is a hole.
    const file = await open(path.join(folder, "model.safetensors"), "w");
    await file.write(Buffer.concat([prefix, json]));
    await file.truncate(8 + json.byteLength + end);
    await file.close();
    await writeFile(path.join(folder, "config.json"), JSON.stringify(systems.llama.config.write(config)));
    await writeTokenizer(tokenizer, folder);
    const before = runtime.allocatedBytes;
    await expect(loadModel(runtime, folder)).rejects.toThrow(
      /the weights of .* in float32 need 261\.1 GB of memory, but .* are free/,
    );
    expect(runtime.allocatedBytes).toBe(before);
  });
});

it("memory is asked for in words", () => {
  expect(() => {
    requireMemory(2e9, "the weights", "take less", 1.5e9);
  }).toThrow("the weights need 2.0 GB of memory, but 1.5 GB are free; take less");
  requireMemory(1e9, "the weights", "take less", 1.5e9);
  expect([0, 999, 1000, 13.48e9].map(formatBytes)).toEqual(["0 bytes", "999 bytes", "1.0 kB", "13.5 GB"]);
});
