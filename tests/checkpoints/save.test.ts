import { existsSync, mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { loadForInference, loadModel, saveGguf, saveModel } from "../../src/checkpoints/index.js";
import { Decoder } from "../../src/generation/index.js";
import { Llama, T5, defineSystem, llamaConfig, systems, t5Table } from "../../src/models/index.js";
import { type WeightSet, Weights, namedParameters } from "../../src/nn/index.js";
import { quantizeWeights } from "../../src/quantization/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { trainByteLevelBpe } from "../../src/tokenizers/index.js";

const runtime = createRuntime();
const tokenizer = trainByteLevelBpe(["the cat sat on the mat"], { vocabSize: 262 });
const { vocabSize } = tokenizer;
const system = systems.llama;
const config = llamaConfig({ vocabSize, hiddenSize: 64, numLayers: 2, numHeads: 2, contextLength: 16 });
const root = mkdtempSync(path.join(os.tmpdir(), "lineage-"));
afterAll(() => {
  rmSync(root, { recursive: true });
});
const folder = (name: string) => path.join(root, name);

/** A LLaMA whose norms learn and whose matrices are frozen. */
function partlyFrozen(): Llama {
  const model = new Llama(config);
  for (const [name, parameter] of namedParameters(model)) parameter.trainable = name.includes("norm");
  return model;
}

/** Changes what learns, so that a file with the frozen values alone is found out. */
function trained(weights: Weights): Weights {
  for (const tensor of Object.values(weights.tensors))
    tensor.write(tensor.view().map((value, i) => value + 0.1 * Math.sin(i)));
  return weights;
}

const logitsOf = async (model: Llama, weights: WeightSet): Promise<number[]> => {
  using decoder = await Decoder.create({ model, weights, capacity: 16 });
  return Array.from(await decoder.read(decoder.open(), [3, 1, 4, 1, 5]));
};

describe("weights of which a part is frozen", () => {
  it("are saved whole where they are in full precision", async () => {
    const model = partlyFrozen();
    using base = Weights.initialize(runtime, model, 3);
    using weights = trained(Weights.partlyFrozen(model, base));
    await saveModel(folder("full"), { system, model, weights, tokenizer });
    await saveGguf(folder("full.gguf"), { system, model, weights, tokenizer }, { format: "F32" });
    for (const place of ["full", "full.gguf"]) {
      const loaded = await loadModel(runtime, folder(place), { kind: "decoder" });
      using found = loaded.weights;
      for (const name of namedParameters(model).keys())
        expect(found.get(name).view(), name).toEqual((weights.tensors[name] ?? base.get(name)).view());
    }
  });

  it("are widened where they are halves", async () => {
    const model = new Llama(config);
    using base = Weights.initialize(runtime, model, 3);
    await saveModel(folder("original"), { system, model, weights: base, tokenizer }, { dtype: "bfloat16" });
    using halves = (await loadForInference(runtime, folder("original"))).weights;
    await saveModel(folder("halves"), { system, model, weights: halves, tokenizer });
    const { weights: wanted } = await loadModel(runtime, folder("original"), { kind: "decoder" });
    const { weights: found } = await loadModel(runtime, folder("halves"), { kind: "decoder" });
    for (const name of namedParameters(model).keys())
      expect(found.get(name).view(), name).toEqual(wanted.get(name).view());
    for (const each of [wanted, found]) each.dispose();
  });

  it("stay in few bits, with what was trained, in a folder that is for inference", async () => {
    const model = partlyFrozen();
    using whole = Weights.initialize(runtime, model, 3);
    using base = await quantizeWeights(model, whole, { bits: 4 });
    using weights = trained(Weights.partlyFrozen(model, base));
    await saveModel(folder("packed"), { system, model, weights, tokenizer });
    const again = await loadForInference(runtime, folder("packed"));
    using found = again.weights;
    expect(await logitsOf(again.model as Llama, found)).toEqual(await logitsOf(model, weights));
    await expect(loadModel(runtime, folder("packed"))).rejects.toThrow("is quantised");
    const kept = { system, model, weights, tokenizer };
    await expect(saveModel(folder("half"), kept, { dtype: "float16" })).rejects.toThrow("is quantised");
    await expect(saveGguf(folder("half.gguf"), kept)).rejects.toThrow("is quantised");
  });

  it("are refused where a parameter has no values, and no folder is left", async () => {
    const model = partlyFrozen();
    using weights = Weights.initialize(runtime, model, 3).like((name) => name.includes("norm"));
    await expect(saveModel(folder("part"), { system, model, weights, tokenizer })).rejects.toThrow(
      "no values for model.embed_tokens.weight",
    );
    expect(existsSync(folder("part"))).toBe(false);
  });
});

it("an encoder-decoder comes back as it was saved, and only as what it is", async () => {
  const own = defineSystem({
    kind: "encoder-decoder",
    name: "own-t5",
    className: "T5ForConditionalGeneration",
    config: t5Table,
    sizes: {},
    create: (sizes) => new T5(sizes),
    startId: ({ padTokenId }) => padTokenId,
    depth: () => 0,
    tokenizer: { kind: "unigram", style: "albert" },
  });
  const model = new T5(
    t5Table.create({
      vocabSize,
      hiddenSize: 16,
      headSize: 8,
      numHeads: 2,
      intermediateSize: 32,
      numLayers: 1,
    }),
  );
  using weights = Weights.initialize(runtime, model, 3);
  await saveModel(folder("t5"), { system: own, model, weights, tokenizer, stopIds: [1] });
  const loaded = await loadModel(runtime, folder("t5"), { kind: "encoder-decoder", systems: [own] });
  using found = loaded.weights;
  expect(loaded.system.startId(loaded.model.config)).toBe(0);
  expect(loaded.stopIds).toEqual([1]);
  for (const name of namedParameters(model).keys())
    expect(found.get(name).view(), name).toEqual(weights.get(name).view());
  const { system: told, weights: again } = await loadModel(runtime, folder("t5"), { systems: [own] });
  again.dispose();
  expect(told).toBe(own);
  await expect(loadModel(runtime, folder("t5"), { kind: "decoder", systems: [own] })).rejects.toThrow(
    'model_type is "t5" (T5, an encoder-decoder), but the decoders here are',
  );
});
