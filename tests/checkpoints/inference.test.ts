import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { writeJson } from "../../src/base/files.js";
import type { BlockWeight, ConstantWeights } from "../../src/graph/index.js";
import { multipliesBytes } from "../../src/base/processor.js";
import { Decoder } from "../../src/generation/index.js";
import { characterTokenizer } from "../../src/tokenizers/index.js";
import { writeSafetensors } from "../../src/formats/index.js";
import { Gpt2, gpt2Config, Llama, llamaConfig, systems } from "../../src/models/index.js";
import {
  type InferenceCheckpoint,
  type InferenceOptions,
  loadForInference,
  loadModel,
  saveModel,
} from "../../src/checkpoints/index.js";
import { type CausalLm, type WeightSet, Weights } from "../../src/nn/index.js";
import { dequantizeWeight, quantizeWeights } from "../../src/quantization/index.js";
import { type DeviceTensor, createRuntime } from "../../src/runtime/index.js";
import { relativeError } from "../support/reference.js";

const runtime = createRuntime();
const tokenizer = characterTokenizer("abcdefghij klmnop");
const vocabSize = 64;
// Large enough that the engine takes matrices where they lie.
const hiddenSize = 256;
const models = {
  llama: new Llama(
    llamaConfig({
      vocabSize,
      contextLength: 32,
      hiddenSize,
      numLayers: 2,
      numHeads: 4,
      numKeyValueHeads: 2,
      intermediateSize: 384,
      initializerRange: 0.05,
    }),
  ),
  gpt2: new Gpt2(
    gpt2Config({
      vocabSize,
      contextLength: 32,
      hiddenSize,
      numLayers: 2,
      numHeads: 4,
      initializerRange: 0.05,
    }),
  ),
};
/** What a test made: memory is counted exactly only where nothing is left to the collector. */
const owned: Disposable[] = [];
const own = <T extends Disposable>(item: T): T => {
  owned.push(item);
  return item;
};
const load = async (place: string, options?: InferenceOptions): Promise<InferenceCheckpoint> => {
  const loaded = await loadForInference(runtime, place, options);
  own(loaded.weights);
  return loaded;
};
afterEach(() => {
  for (const item of owned.splice(0)) item[Symbol.dispose]();
});

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "lineage-inference-"));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const ids = [3, 1, 4, 1, 5, 9, 2, 6];

/** Logits after a prompt, and after one more token. */
async function logitsOf(model: CausalLm, weights: WeightSet): Promise<Float32Array[]> {
  using decoder = await Decoder.create({ model, weights, capacity: 16 });
  const slot = decoder.open();
  const prompt = (await decoder.read(slot, ids)).slice();
  return [prompt, (await decoder.step([slot], [7]))[0]!.slice()];
}

async function saved(name: "llama" | "gpt2"): Promise<{ place: string; weights: Weights; model: CausalLm }> {
  const place = path.join(folder, name);
  mkdirSync(place, { recursive: true });
  const model = models[name];
  const weights = own(Weights.initialize(runtime, model, 5));
  await saveModel(place, { system: systems[name], model, weights, tokenizer });
  return { place, weights, model };
}

/** Full weights with the values that packed ones stand for. */
function roundedWeights(weights: Weights, { packed }: ConstantWeights): Weights {
  const rounded = weights.like();
  for (const [name, tensor] of Object.entries(weights.tensors)) {
    const weight = packed[name];
    const target = rounded.get(name);
    if (weight === undefined || weight.kind === "half") {
      target.write(tensor.view());
      continue;
    }
    const { rows, columns, transposed } = weight;
    const values = dequantizeWeight(weight);
    target.write(
      transposed ? values.map((_, i) => values[(i % rows) * columns + Math.floor(i / rows)]!) : values,
    );
  }
  return rounded;
}

describe.each(["llama", "gpt2"] as const)("a %s for inference", (name) => {
  it("gives the logits of its trainable weights from mapped ones", async () => {
    const { place, weights, model } = await saved(name);
    const [prompt, step] = await logitsOf(model, weights);
    const before = runtime.allocatedBytes;
    const loaded = await load(place);
    expect(runtime.allocatedBytes).toBe(before);
    const mapped = await logitsOf(loaded.model, loaded.weights);
    expect(relativeError(mapped[0]!, prompt!)).toBeLessThan(1e-5);
    expect(relativeError(mapped[1]!, step!)).toBeLessThan(1e-5);
    loaded.weights.dispose();
  });

  it.each([
    { bits: 8 },
    { bits: 8, blockSize: "row" },
    { bits: 4, candidates: 8 },
    { bits: 4, symmetric: true },
    { bits: "nf4", blockSize: 32 },
  ] as const)(
    "computes in %j what the rounded weights give in full, also through a folder",
    async (scheme) => {
      const { place, weights, model } = await saved(name);
      const quantized: InferenceCheckpoint = {
        system: systems[name],
        model,
        tokenizer,
        weights: own(await quantizeWeights(model, weights, scheme)),
      };
      expect(quantized.weights.byteLength).toBeLessThan(weights.flat.byteLength * 0.45);
      const direct = await logitsOf(model, quantized.weights);
      // Whole numbers multiply inputs that the engine rounds to 8 bits.
      using rounded = roundedWeights(weights, quantized.weights.constants);
      const [prompt, step] = await logitsOf(model, rounded);
      expect(relativeError(direct[0]!, prompt!)).toBeLessThan(0.05);
      expect(relativeError(direct[1]!, step!)).toBeLessThan(0.05);
      const target = `${place}-quantized`;
      await saveModel(target, quantized);
      const again = await load(target);
      expect(await logitsOf(again.model, again.weights)).toEqual(direct);
      const atLoad = await load(place, { quantize: scheme });
      expect(await logitsOf(atLoad.model, atLoad.weights)).toEqual(direct);
      await expect(loadModel(runtime, target)).rejects.toThrow("is quantised: it can be run");
    },
  );

  it.runIf(multipliesBytes() !== false)(
    "reads prompts with matrices of its own where that is asked for, and continues with its weights",
    async () => {
      const { place, model } = await saved(name);
      const prompt = Array.from({ length: 24 }, (_, i) => (7 * i) % vocabSize);
      const logits = async ({ weights }: InferenceCheckpoint): Promise<Float32Array[]> => {
        using decoder = await Decoder.create({ model, weights, capacity: 32, prefillChunk: 10 });
        const slot = decoder.open();
        const first = (await decoder.read(slot, prompt)).slice();
        const second = (await decoder.step([slot], [5]))[0]!.slice();
        // A draft is checked by the weights themselves: one step alone gives the same.
        decoder.truncate(slot, prompt.length);
        const checked = (await decoder.extend(slot, [5, 6]))[0]!.slice();
        // The prompt once more, with an end of its own: its beginning is there.
        const again = (await decoder.read(slot, [...prompt.slice(0, 22), 9, 9])).slice();
        expect(slot.reused).toBe(22);
        expect(relativeError(checked, second)).toBeLessThan(0.05);
        return [first, second, again];
      };
      const plain = await load(place, { quantize: { bits: 4 } });
      const fast = await load(place, { quantize: { bits: 4 }, fastPrompts: true });
      expect(fast.weights.stepBytes).toBe(plain.weights.byteLength);
      expect(fast.weights.byteLength).toBeGreaterThan(1.5 * plain.weights.byteLength);
      const expected = await logits(plain);
      const actual = await logits(fast);
      // Both round inputs; the fast one rounds the matrices to 8 bits more.
      actual.forEach((row, index) => {
        expect(relativeError(row, expected[index]!)).toBeLessThan(0.05);
      });
      expect(actual[0]).not.toEqual(expected[0]);
      const before = runtime.allocatedBytes;
      fast.weights.dispose();
      expect(before - runtime.allocatedBytes).toBeGreaterThanOrEqual(
        fast.weights.byteLength - plain.weights.byteLength,
      );
      plain.weights.dispose();
    },
  );

  it("says how much memory it needs before it takes any", async () => {
    const { place } = await saved(name);
    const before = runtime.allocatedBytes;
    const available = vi.spyOn(process, "availableMemory").mockReturnValue(200_000);
    try {
      for (const options of [{}, { quantize: { bits: 4 } }, { fastPrompts: true }] as const)
        await expect(loadForInference(runtime, place, options)).rejects.toThrow(
          /^the weights and the engine's own arrangement of them need [\d.]+ MB of memory, but 200\.0 kB are free; use a smaller model/,
        );
    } finally {
      available.mockRestore();
    }
    expect(runtime.allocatedBytes).toBe(before);
  });

  it("maps half-precision matrices as they are", async () => {
    const { place, weights, model } = await saved(name);
    // Weights that bfloat16 holds exactly, so that both files hold one model.
    for (const tensor of Object.values(weights.tensors)) {
      const words = new Uint32Array(tensor.view().buffer, tensor.view().byteOffset, tensor.size);
      words.forEach((word, index) => (words[index] = word & 0xffff0000));
    }
    const [prompt] = await logitsOf(model, weights);
    await writeSafetensors(
      path.join(place, "model.safetensors"),
      Object.entries(weights.tensors).map(([key, tensor]) => {
        const words = new Uint32Array(tensor.view().buffer, tensor.view().byteOffset, tensor.size);
        const bits = Uint16Array.from(words, (word) => word >>> 16);
        return { name: key, dtype: "bfloat16", shape: tensor.shape, bytes: new Uint8Array(bits.buffer) };
      }),
    );
    const loaded = await load(place);
    expect(Object.values(loaded.weights.constants.packed).every(({ kind }) => kind === "half")).toBe(true);
    expect(relativeError((await logitsOf(loaded.model, loaded.weights))[0]!, prompt!)).toBeLessThan(1e-5);
  });
});

describe("matrices that one input is multiplied by", () => {
  const attention = "model.layers.0.self_attn";
  const names = ["q_proj", "k_proj", "v_proj"].map((name) => `${attention}.${name}.weight`);

  /** Rows of what queries, keys and values are as one matrix; undefined where they do not lie side by side. */
  function joinedRows({ weights }: InferenceCheckpoint): number[] {
    const blocks = names.map((name) => weights.constants.packed[name] as BlockWeight);
    const rows = blocks.reduce((sum, weight) => sum + weight.rows, 0);
    return (["values", "scales", "zeroPoints"] as const).map((part) => {
      const [first, ...others] = blocks.map((weight) => weight[part] as DeviceTensor);
      using joined = first!.join(others, [rows, ...first!.shape.slice(1)]);
      return joined?.shape[0] ?? 0;
    });
  }

  it("lie side by side in memory, also in a folder's file", async () => {
    const { place } = await saved("llama");
    using atLoad = (await loadForInference(runtime, place, { quantize: { bits: 4 } })).weights;
    const quantized = { system: systems.llama, model: models.llama, tokenizer, weights: atLoad };
    expect(joinedRows(quantized)).toEqual([512, 512, 512]);
    await saveModel(`${place}-joined`, quantized);
    const again = await load(`${place}-joined`);
    expect(joinedRows(again)).toEqual([512, 512, 512]);
    again.weights.dispose();
  });
});

describe("a quantised folder", () => {
  async function quantizedFolder(): Promise<string> {
    const { place, weights, model } = await saved("llama");
    const target = `${place}-damaged`;
    await saveModel(target, {
      system: systems.llama,
      model,
      tokenizer,
      weights: own(await quantizeWeights(model, weights, { bits: 4 })),
    });
    return target;
  }

  it("is refused where its configuration contradicts its tensors", async () => {
    const target = await quantizedFolder();
    const file = path.join(target, "config.json");
    const config = JSON.parse(readFileSync(file, "utf8")) as {
      quantization_config: { quant_method: string; tensors: Record<string, Record<string, unknown>> };
    };
    const first = Object.keys(config.quantization_config.tensors).find((key) => key.includes("q_proj"))!;
    const damaged = async (change: (copy: typeof config) => void): Promise<void> => {
      const copy = structuredClone(config);
      change(copy);
      await writeJson(file, copy);
    };
    await damaged((copy) => (copy.quantization_config.tensors[first]!["block_size"] = 64));
    await expect(loadForInference(runtime, target)).rejects.toThrow(`${first}.values is uint8`);
    await damaged((copy) => (copy.quantization_config.tensors[first]!["block_size"] = 48));
    await expect(loadForInference(runtime, target)).rejects.toThrow(
      /was not quantised by lineage: .*block_size must be one of 16, 32/,
    );
    await damaged((copy) => (copy.quantization_config.quant_method = "gptq"));
    await expect(loadForInference(runtime, target)).rejects.toThrow("was not quantised by lineage");
    await damaged((copy) => Reflect.deleteProperty(copy.quantization_config.tensors, first));
    await expect(loadForInference(runtime, target)).rejects.toThrow(`has no tensor ${first}`);
    await damaged(
      (copy) => (copy.quantization_config.tensors["model.norm.weight"] = { kind: "nf4", block_size: 64 }),
    );
    await expect(loadForInference(runtime, target)).rejects.toThrow("holds the tensor model.norm.weight");
  });

  it("is refused when it is cut short", async () => {
    const target = await quantizedFolder();
    const copy = `${target}-short`;
    cpSync(target, copy, { recursive: true });
    const file = path.join(copy, "model.safetensors");
    writeFileSync(file, readFileSync(file).subarray(0, -9));
    await expect(loadForInference(runtime, copy)).rejects.toThrow("outside the file");
  });
});
