import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { loadAdapter, mergeAdapter, saveAdapter } from "../../src/checkpoints/index.js";
import { PackedLoader, documentsIn, tokenBatch } from "../../src/data/index.js";
import { SafetensorsFile, loadWeights } from "../../src/formats/index.js";
import { Decoder, generate } from "../../src/generation/index.js";
import { compile, input } from "../../src/graph/index.js";
import { Gpt2, Gpt3, Llama, Mistral, Palm, systems } from "../../src/models/index.js";
import { type CausalLm, Weights, addSoftPrompt, namedParameters } from "../../src/nn/index.js";
import { nextTokenObjective, packedObjective } from "../../src/objectives/index.js";
import { ModelWeights, quantizeWeights } from "../../src/quantization/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { EvaluationStep, TrainingStep } from "../../src/training/index.js";
import { Reference, relativeError } from "../support/reference.js";

const runtime = createRuntime();
const root = mkdtempSync(path.join(os.tmpdir(), "soft-prompt-"));
afterAll(() => {
  rmSync(root, { recursive: true });
});

const bases = [
  ["gpt2-tiny", (json: unknown): CausalLm => new Gpt2(systems.gpt2.config.read(json))],
  ["llama-grouped-tiny", (json: unknown): CausalLm => new Llama(systems.llama.config.read(json))],
] as const;
const cases = bases.flatMap(([folder, create]) =>
  (["prompt", "prefix"] as const).map((kind) => [`${kind}-${folder}`, folder, create] as const),
);

async function base(name: string, create: (json: unknown) => CausalLm) {
  const reference = new Reference(name);
  const model = create(reference.json("config.json"));
  const { tensors } = await loadWeights(runtime, model, reference.path());
  return { model, weights: new ModelWeights(runtime, { tensors, packed: {} }) };
}

describe.each(cases)("%s of peft's", (name, folder, create) => {
  const files = new Reference(`adapters/${name}`);
  const { inputIds, labels } = new Reference(folder).json("values.json") as {
    inputIds: number[][];
    labels: number[][];
  };
  const wanted = async (part: string) => (await files.tensors("logits.safetensors")).get(part)!;

  it("gives peft's logits, read whole and read by a decoder", async () => {
    const { model, weights: own } = await base(folder, create);
    const { weights } = await loadAdapter(files.path(), { model, weights: own });
    const shape = [inputIds.length, inputIds[0]!.length];
    const ids = input("inputIds", "int32", ["batch", "sequence"]);
    using program = await compile(runtime, { logits: model.forward(ids) }, { constants: weights.constants });
    const results = await program.run({
      inputIds: runtime.createTensor("int32", shape, Int32Array.from(inputIds.flat())),
    });
    const logits = await wanted("logits");
    expect(relativeError((await results["logits"]!.read()) as Float32Array, logits)).toBeLessThan(1e-5);

    using decoder = await Decoder.create({ model, weights, slots: 2 });
    const { vocabSize } = decoder;
    for (const [row, prompt] of inputIds.entries()) {
      using slot = decoder.open(prompt);
      const last = (row + 1) * prompt.length - 1;
      const rowOf = (place: number) => logits.subarray(place * vocabSize, (place + 1) * vocabSize);
      expect(relativeError(await decoder.read(slot, prompt), rowOf(last))).toBeLessThan(1e-5);
      expect(slot.length).toBe(prompt.length);
      decoder.truncate(slot, 1);
      const [stepped] = await decoder.step([slot], [prompt[1]!]);
      expect(relativeError(stepped!, rowOf(row * prompt.length + 1))).toBeLessThan(1e-5);
      decoder.truncate(slot, 0);
      const all = await decoder.extend(slot, prompt);
      expect(relativeError(all.at(-1)!, rowOf(last))).toBeLessThan(1e-5);
    }
    // A row that copies what another holds has the whole of what stands before the text.
    using first = decoder.open(inputIds[0]);
    await decoder.read(first, inputIds[0]!);
    using second = decoder.open([inputIds[0]![0]!]);
    const one = await decoder.read(second, [inputIds[0]![0]!]);
    expect(relativeError(one, logits.subarray(0, vocabSize))).toBeLessThan(1e-5);
  });

  it("has peft's loss and gradient, and no other", async () => {
    const { model, weights: frozen } = await base(folder, create);
    const { adapter, weights: both } = await loadAdapter(files.path(), { model, weights: frozen });
    for (const [one, parameter] of namedParameters(model)) parameter.trainable = adapter.parameters.has(one);
    using weights = Weights.partlyFrozen(model, both);
    using found = weights.like();
    using step = await TrainingStep.create(nextTokenObjective(model), weights, found);
    const shape = [labels.length, labels[0]!.length] as const;
    const sums = await step.run(
      tokenBatch(Int32Array.from(inputIds.flat()), Int32Array.from(labels.flat()), shape),
    );
    const { loss } = files.json("values.json") as { loss: number };
    expect(sums["tokens"]! / labels.flat().filter((id) => id >= 0).length).toBeCloseTo(loss, 4);
    expect(Object.keys(found.tensors)).toEqual([...adapter.parameters.keys()]);
    expect(relativeError(Object.values(found.tensors)[0]!.view(), await wanted("gradient"))).toBeLessThan(
      1e-4,
    );
  });

  it("is written with peft's names and numbers", async () => {
    const { model, weights } = await base(folder, create);
    const { adapter, weights: both } = await loadAdapter(files.path(), { model, weights });
    const out = path.join(root, name);
    await saveAdapter(out, { model, adapter, weights: both, base: folder });
    const written = JSON.parse(readFileSync(path.join(out, "adapter_config.json"), "utf8")) as object;
    const peft = files.json("adapter_config.json") as Record<string, unknown>;
    for (const [entry, value] of Object.entries(written))
      expect([entry, value]).toEqual([entry, peft[entry]]);
    const bytes = (place: string) => readFileSync(path.join(place, "adapter_model.safetensors"));
    const header = async (place: string) =>
      (await SafetensorsFile.open(path.join(place, "adapter_model.safetensors"))).header.tensors.get(
        "prompt_embeddings",
      )!;
    const [ours, theirs] = [await header(out), await header(files.path())];
    expect(ours.shape).toEqual(theirs.shape);
    expect(bytes(out).subarray(-ours.byteLength)).toEqual(bytes(files.path()).subarray(-theirs.byteLength));
    adapter.remove();
    expect([...namedParameters(model).keys()].some((one) => one.includes("prompt"))).toBe(false);
  });

  it.each([
    [{ num_virtual_tokens: 3 }, "but this model wants [3,"],
    [{ num_virtual_tokens: 0 }, "num_virtual_tokens"],
    [{ num_virtual_tokens: 1e6 }, "fewer than the context"],
    [{ num_transformer_submodules: 2 }, "num_transformer_submodules"],
    [{ a_new_way: 3 }, "a_new_way is 3"],
  ])("is refused by name: %j", async (change, words) => {
    const { model, weights } = await base(folder, create);
    const place = path.join(root, `${name}-${Object.values(change)[0]}`);
    cpSync(files.path(), place, { recursive: true });
    writeFileSync(
      path.join(place, "adapter_config.json"),
      JSON.stringify({ ...(files.json("adapter_config.json") as object), ...change }),
    );
    await expect(loadAdapter(place, { model, weights })).rejects.toThrow(words);
    expect(model.softPrompt).toBeUndefined();
  });

  it("is not merged", async () => {
    const { model, weights } = await base(folder, create);
    const adapted = await loadAdapter(files.path(), { model, weights });
    expect(() => mergeAdapter(adapted)).toThrow("no matrices to merge");
  });
});

const sizes = { hiddenSize: 64, numLayers: 2, numHeads: 4, vocabSize: 50, contextLength: 64 };
const makers: readonly [string, () => CausalLm][] = [
  ["GPT-2", () => new Gpt2(systems.gpt2.config.create({ ...sizes, dropout: 0 }))],
  ["GPT-3", () => new Gpt3(systems.gpt3.config.create({ ...sizes, dropout: 0, slidingWindow: 8 }))],
  ["LLaMA", () => new Llama(systems.llama.config.create({ ...sizes, numKeyValueHeads: 2 }))],
  [
    "Mistral",
    () => new Mistral(systems.mistral.config.create({ ...sizes, numKeyValueHeads: 2, slidingWindow: 16 })),
  ],
  ["PaLM", () => new Palm(systems.palm.config.create(sizes))],
];

describe.each(makers)("before %s", (_, make) => {
  const ids = Array.from({ length: 12 }, (__, i) => (i * i + 3) % 50);

  it("a prompt of real embeddings gives what the tokens themselves give, and so does a prefix of their keys and values", async () => {
    const hard = [7, 8, 9, 10];
    const model = make();
    using weights = Weights.initialize(runtime, model, 3);
    using plain = await Decoder.create({ model, weights });
    const wanted = (await plain.read(plain.open(), [...hard, ...ids])).slice();
    const keysAndValues = await (async () => {
      using other = await Decoder.create({ model, weights });
      return await other.prefixOf(hard);
    })();
    const table = weights.get(model.transformer.tokenEmbedding.weight.name).view();
    const rows = Float32Array.from(hard.flatMap((id) => [...table.subarray(id * 64, (id + 1) * 64)]));
    for (const [kind, values] of [
      ["prompt", rows],
      ["prefix", keysAndValues],
    ] as const) {
      const adapter = addSoftPrompt(model, { kind, tokens: hard.length });
      using both = Weights.partlyFrozen(model, weights);
      both.get([...adapter.parameters.keys()][0]!).write(values);
      using decoder = await Decoder.create({ model, weights: both });
      expect(relativeError(await decoder.read(decoder.open(), ids), wanted), kind).toBeLessThan(1e-4);
      adapter.remove();
    }
  });

  it.each(["prompt", "prefix"] as const)(
    "a %s stands before each of several packed documents",
    async (kind) => {
      const model = make();
      using own = Weights.initialize(runtime, model, 3);
      const adapter = addSoftPrompt(model, { kind, tokens: 3 });
      using weights = Weights.partlyFrozen(model, own, 4);
      if (model.config.slidingWindow !== undefined) {
        // A later document would be farther from it than the window reaches.
        await expect(EvaluationStep.create(packedObjective(model), weights)).rejects.toThrow(
          "packed documents",
        );
        return;
      }
      weights.flat.view().forEach((__, i, view) => (view[i] = 0.3 * Math.sin(3 * i)));
      const documents = [
        [1, 5, 9, 13, 0],
        [2, 4, 8, 16, 32, 0],
        [3, 9, 27, 0],
      ];
      const tokens = Int32Array.from(documents.flat());
      const shape = { batchSize: 1, sequenceLength: 16 };
      const { pieces } = documentsIn(tokens, 0, 16);
      using packed = await EvaluationStep.create(packedObjective(model, shape), weights);
      const batch = await new PackedLoader(pieces, { ...shape, seed: 1 }, "documents").next();
      const together = (await packed.run(batch))["tokens"]!;
      using single = await EvaluationStep.create(nextTokenObjective(model), weights);
      let apart = 0;
      for (const document of documents) {
        const [row, next] = [document.slice(0, -1), document.slice(1)];
        apart += (await single.run(tokenBatch(Int32Array.from(row), Int32Array.from(next), [1, row.length])))[
          "tokens"
        ]!;
      }
      expect(together).toBeCloseTo(apart, 3);
      adapter.remove();
    },
  );

  it.each(["prompt", "prefix"] as const)(
    "writes with a %s side by side what it writes alone",
    async (kind) => {
      const model = make();
      using own = Weights.initialize(runtime, model, 3);
      addSoftPrompt(model, { kind, tokens: 3 });
      using trained = Weights.partlyFrozen(model, own, 4);
      trained.flat.view().forEach((__, i, view) => (view[i] = 0.3 * Math.sin(3 * i)));
      const weights = new ModelWeights(runtime, {
        tensors: { ...own.tensors, ...trained.tensors },
        packed: {},
      });
      const prompts = [[1], [1, 2], [1, 2, 3, 4, 5, 6], [9, 8, 7]];
      const written = async (slots: number, asked: readonly number[][]) => {
        using decoder = await Decoder.create({ model, weights, slots });
        const texts: number[][] = asked.map(() => []);
        for await (const { row, id } of generate(decoder, asked, { temperature: 0, maxNewTokens: 8 }))
          if (id !== undefined) texts[row]!.push(id);
        return texts;
      };
      const alone = [];
      for (const prompt of prompts) alone.push(...(await written(1, [prompt])));
      expect(await written(3, prompts)).toEqual(alone);
      using decoder = await Decoder.create({ model, weights, capacity: 10 });
      expect(decoder.capacity).toBe(7);
      expect(() => {
        decoder.checkPrompt([1, 2, 3, 4, 5, 6, 7, 8]);
      }).toThrow("does not fit the 7 tokens");
    },
  );
});

it("a soft prompt stands before a base in few bits, and a prefix in a cache of 16 bits", async () => {
  const model = makers[2]![1]();
  using own = Weights.initialize(runtime, model, 3);
  using few = await quantizeWeights(model, own, { bits: "nf4" });
  addSoftPrompt(model, { kind: "prefix", tokens: 3 });
  using trained = Weights.partlyFrozen(model, few, 4);
  const logits = [];
  for (const cacheType of ["float32", "float16"] as const) {
    using decoder = await Decoder.create({ model, weights: trained, cacheType });
    logits.push((await decoder.read(decoder.open(), [1, 2, 3])).slice());
  }
  expect(relativeError(logits[1]!, logits[0]!)).toBeLessThan(1e-2);
  await expect(Decoder.create({ model, weights: trained, cacheType: "int8" })).rejects.toThrow("int8");
  await expect(Decoder.create({ model, weights: trained, capacity: 3 })).rejects.toThrow("leaves no room");
});

it("a prefix that is longer than what a layer with a window keeps is refused in words", async () => {
  const model = makers[3]![1]();
  addSoftPrompt(model, { kind: "prefix", tokens: 20 });
  using weights = Weights.initialize(runtime, model, 3);
  // 16 - 1 + 4 cells.
  await expect(Decoder.create({ model, weights, prefillChunk: 4 })).rejects.toThrow(
    "a prefix of 20 tokens does not fit the 19 that a layer with a window keeps; choose a larger prefillChunk",
  );
});
