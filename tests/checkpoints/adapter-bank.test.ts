import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it, onTestFinished } from "vitest";
import {
  loadAdapter,
  loadAdapters,
  mergeAdapter,
  saveAdapter,
  withRowNorms,
} from "../../src/checkpoints/index.js";
import { loadWeights } from "../../src/formats/index.js";
import {
  Decoder,
  type DecoderOptions,
  type GenerativeModel,
  type Prompt,
  beamSearch,
  generate,
} from "../../src/generation/index.js";
import { Gpt2, Llama, Palm, gpt2Config, llamaConfig, palmConfig, systems } from "../../src/models/index.js";
import { type LoraOptions, Weights, addLora, addSoftPrompt, bankOf } from "../../src/nn/index.js";
import { ModelWeights, quantizeWeights } from "../../src/quantization/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { Reference, relativeError } from "../support/reference.js";

const runtime = createRuntime();
const root = mkdtempSync(path.join(os.tmpdir(), "adapter-bank-"));
afterAll(() => {
  rmSync(root, { recursive: true });
});

const sizes = { hiddenSize: 64, numHeads: 2, vocabSize: 60, contextLength: 64 };
const { t5, bart } = systems;
const tiny = (name: string): unknown => new Reference(name).json("config.json");
const decoders: readonly [string, () => GenerativeModel][] = [
  ["GPT-2", () => new Gpt2(gpt2Config({ ...sizes, numLayers: 2, dropout: 0 }))],
  ["LLaMA", () => new Llama(llamaConfig({ ...sizes, numLayers: 2, numKeyValueHeads: 1 }))],
  ["PaLM", () => new Palm(palmConfig({ ...sizes, numLayers: 2 }))],
];
const readers: readonly [string, () => GenerativeModel][] = [
  ["T5", () => t5.create(t5.config.read(tiny("t5-tiny")))],
  ["BART", () => bart.create(bart.config.read(tiny("bart-tiny")))],
];

/** Adapters of several ranks, scales and layers. */
const kinds: Readonly<Record<string, LoraOptions>> = {
  small: { rank: 2, alpha: 4, targets: "all-linear" },
  wide: { rank: 7, alpha: 7, rankStabilized: true, targets: "all-linear" },
  some: { rank: 4, alpha: 16, targets: /.*(q|c_attn|q_proj|fc1|wi|query_key_value|gate_proj).*/ },
};
const names = Object.keys(kinds);

const frozen = (model: GenerativeModel): ModelWeights => {
  using weights = Weights.initialize(runtime, model, 1);
  const tensors = Object.entries(weights.tensors).map(([name, tensor]) => [
    name,
    runtime.createTensor(
      "float32",
      tensor.shape,
      Float32Array.from(tensor.view(), (value) => 3 * value),
    ),
  ]);
  return new ModelWeights(runtime, { tensors: Object.fromEntries(tensors), packed: {} });
};

/** Writes adapters of random numbers for a model into folders. */
async function written(title: string, create: () => GenerativeModel): Promise<Map<string, string>> {
  const folders = new Map<string, string>();
  for (const [index, [name, options]] of Object.entries(kinds).entries()) {
    const model = create();
    using base = Weights.initialize(runtime, model, 1);
    const adapter = addLora(model, options);
    using weights = Weights.partlyFrozen(model, base, 2 + index);
    for (const tensor of Object.values(weights.tensors))
      tensor.view().forEach((_, i, view) => (view[i] = 0.4 * Math.sin((5 + index) * i + view.length)));
    const folder = path.join(root, `${title}-${name}`);
    await saveAdapter(folder, { model, adapter, weights });
    folders.set(name, folder);
  }
  return folders;
}

const prompts: readonly (readonly number[])[] = [
  [5, 6, 7, 8],
  [5, 6, 7, 8],
  [5, 6, 7, 8],
  [5, 6, 7, 8],
  [9, 3, 1],
  [5, 6, 7, 8, 2, 2],
];
const chosen = [undefined, ...names, "wide", "small"];

async function texts(decoder: Decoder, asked: readonly Prompt[], adapters: readonly (string | undefined)[]) {
  const ids: number[][] = asked.map(() => []);
  for await (const { row, id } of generate(decoder, asked, { adapters, temperature: 0, maxNewTokens: 12 }))
    if (id !== undefined) ids[row]!.push(id);
  return ids;
}

/** What each prompt gives with its adapter loaded alone, and another decoder for each. */
async function alone(
  create: () => GenerativeModel,
  folders: ReadonlyMap<string, string>,
  asked: readonly Prompt[],
  form: (model: GenerativeModel) => ModelWeights | Promise<ModelWeights>,
  merges = false,
) {
  const ids: number[][] = [];
  for (const [index, prompt] of asked.entries()) {
    const model = create();
    let weights = await form(model);
    const name = chosen[index];
    if (name !== undefined) {
      const adapted = await loadAdapter(folders.get(name)!, { model, weights });
      weights = merges ? mergeAdapter({ ...adapted, adapter: adapted.adapter }) : adapted.weights;
    }
    using decoder = await Decoder.create({ model, weights });
    ids.push(...(await texts(decoder, [prompt], [undefined])));
    weights.dispose();
  }
  return ids;
}

const packed =
  (bits: 4 | 8 | "nf4") =>
  async (model: GenerativeModel): Promise<ModelWeights> => {
    using weights = frozen(model);
    return await quantizeWeights(model, weights, { bits });
  };

describe.each([...decoders, ...readers])("several adapters beside %s", (title, create) => {
  const asked: readonly Prompt[] = readers.some(([name]) => name === title)
    ? prompts.map((source) => ({ source }))
    : prompts;

  it("give each row in a batch what its adapter alone gives, beside the base and merged", async () => {
    const folders = await written(title, create);
    const model = create();
    const { weights } = await loadAdapters(folders, { model, weights: frozen(model) });
    using decoder = await Decoder.create({ model, weights, slots: 4 });
    const together = await texts(decoder, asked, chosen);
    expect(together).toEqual(await alone(create, folders, asked, frozen));
    expect(together).toEqual(await alone(create, folders, asked, frozen, true));
    // The same prompt has another text with most adapters.
    expect(new Set(together.slice(0, 4).map(String)).size).toBeGreaterThan(2);
    weights.dispose();
  });

  it.each([4, 8, "nf4"] as const)("give the same over matrices in %s bits", async (bits) => {
    const folders = await written(title, create);
    const model = create();
    const { weights } = await loadAdapters(folders, { model, weights: await packed(bits)(model) });
    using decoder = await Decoder.create({ model, weights, slots: 6 });
    expect(await texts(decoder, asked, chosen)).toEqual(await alone(create, folders, asked, packed(bits)));
    weights.dispose();
  });

  it("write by beams what each writes alone", async () => {
    const folders = await written(title, create);
    const options = { maxNewTokens: 6, numReturned: 2 };
    const model = create();
    const { weights } = await loadAdapters(folders, { model, weights: frozen(model) });
    using decoder = await Decoder.create({ model, weights, slots: 2, beams: 3 });
    const together = await Promise.all(
      asked.map((prompt, row) => beamSearch(decoder, prompt, { ...options, adapter: chosen[row] })),
    );
    for (const [row, prompt] of asked.entries()) {
      const single = create();
      const base = frozen(single);
      const name = chosen[row];
      const own = name
        ? (await loadAdapter(folders.get(name)!, { model: single, weights: base })).weights
        : base;
      using one = await Decoder.create({ model: single, weights: own, beams: 3 });
      const found = await beamSearch(one, prompt, options);
      expect(together[row]!.map(({ ids }) => ids)).toEqual(found.map(({ ids }) => ids));
      for (const [place, { score }] of found.entries())
        expect(together[row]![place]!.score).toBeCloseTo(score, 3);
      own.dispose();
    }
    weights.dispose();
  });
});

describe("several adapters", () => {
  const create = () => new Llama(llamaConfig({ ...sizes, numLayers: 2, numKeyValueHeads: 1 }));

  async function decoderOf(options: Partial<DecoderOptions> = {}) {
    const model = create();
    const { weights } = await loadAdapters(await written("llama", create), { model, weights: frozen(model) });
    const decoder = await Decoder.create({ model, weights, slots: 3, ...options });
    onTestFinished(() => {
      decoder.dispose();
      weights.dispose();
    });
    return decoder;
  }

  it.each([
    ["gpt2-tiny", (json: unknown) => new Gpt2(systems.gpt2.config.read(json))],
    ["llama-grouped-tiny", (json: unknown) => new Llama(systems.llama.config.read(json))],
  ])("give peft's logits beside another one: %s", async (name, createFrom) => {
    const reference = new Reference(name);
    const make = () => createFrom(reference.json("config.json"));
    const folders = await written(name, make);
    const peft = new Reference(`adapters/${name}`);
    folders.set("peft", peft.path());
    const model = make();
    const { tensors } = await loadWeights(runtime, model, reference.path());
    const { weights } = await loadAdapters(folders, {
      model,
      weights: new ModelWeights(runtime, { tensors, packed: {} }),
    });
    const { inputIds } = reference.json("values.json") as { inputIds: number[][] };
    const wanted = (await peft.tensors("logits.safetensors")).get("logits")!;
    const [rows, length] = [inputIds.length, inputIds[0]!.length];
    const vocabSize = wanted.length / rows / length;
    using decoder = await Decoder.create({ model, weights, slots: 2 });
    using other = decoder.open(inputIds[0]!, { adapter: "small" });
    await decoder.read(other, inputIds[0]!);
    for (const [row, ids] of inputIds.entries()) {
      decoder.forget();
      using slot = decoder.open([], { adapter: "peft" });
      const logits = await decoder.extend(slot, ids);
      for (const [place, values] of logits.entries()) {
        const from = (row * length + place) * vocabSize;
        expect(relativeError(values, wanted.subarray(from, from + vocabSize))).toBeLessThan(1e-4);
      }
    }
    weights.dispose();
  });

  it("change no bit of each other's logits, nor of the base's", async () => {
    const decoder = await decoderOf();
    const adapters = ["small", undefined, "wide"];
    const run = async (together: boolean): Promise<Float32Array[]> => {
      decoder.forget();
      const logits: Float32Array[] = [];
      for (const group of together ? [adapters] : adapters.map((one) => [one])) {
        const slots = group.map((adapter) => decoder.open([5, 6], { adapter }));
        for (const slot of slots) await decoder.read(slot, [5, 6]);
        for (const values of await decoder.step(
          slots,
          group.map(() => 9),
        ))
          logits.push(values.slice());
        for (const slot of slots) slot.close();
      }
      return logits;
    };
    expect(await run(true)).toEqual(await run(false));
  });

  it("share what was read of a prompt with texts of the same adapter alone", async () => {
    const decoder = await decoderOf();
    const prompt = [5, 6, 7, 8, 9, 10];
    const reused: number[] = [];
    for (const adapter of ["small", "small", "wide", undefined, "wide", undefined]) {
      using slot = decoder.open(prompt, { adapter });
      await decoder.read(slot, [...prompt, 3]);
      reused.push(slot.reused);
    }
    expect(reused).toEqual([0, 7, 0, 0, 7, 7]);
    // A slot of the third row takes what another open one with its adapter has read, and not what the nearest text has.
    using first = decoder.open(prompt, { adapter: "small" });
    await decoder.read(first, prompt);
    using second = decoder.open([], { adapter: "small" });
    await decoder.read(second, prompt);
    expect(second.reused).toBe(6);
  });

  it("lie in a cache of 8 bits whose scales reach as far as each of them does", async () => {
    const prompt = [5, 6, 7, 8, 9, 10, 11, 12];
    const folders = await written("llama", create);
    const bytes = await decoderOf({ cacheType: "int8", calibration: prompt });
    for (const [name, folder] of folders) {
      const model = create();
      const { weights } = await loadAdapter(folder, { model, weights: frozen(model) });
      const read = async (decoder: Decoder, adapter?: string): Promise<Float32Array> => {
        using slot = decoder.open(prompt, { adapter });
        return (await decoder.read(slot, prompt)).slice();
      };
      using whole = await Decoder.create({ model, weights });
      using own = await Decoder.create({ model, weights, cacheType: "int8", calibration: prompt });
      const wanted = await read(whole);
      const error = relativeError(await read(own), wanted);
      // A scale serves all adapters, and reaches as far as the largest of them.
      expect(relativeError(await read(bytes, name), wanted)).toBeLessThan(error + 0.15);
      weights.dispose();
    }
  });

  it("say which there are where a text asks for another", async () => {
    const decoder = await decoderOf();
    const there = /there is no adapter sql; loaded are small, wide, some/;
    expect(() => decoder.open([5], { adapter: "sql" })).toThrow(there);
    await expect(texts(decoder, [[5], [6]], ["small", "sql"])).rejects.toThrow(there);
    await expect(texts(decoder, [[5]], ["small", "wide"])).rejects.toThrow(
      /2 adapters were given for 1 prompts/,
    );
    const model = create();
    const weights = frozen(model);
    using plain = await Decoder.create({ model, weights });
    expect(() => plain.open([5], { adapter: "sql" })).toThrow(/loaded without adapters to choose from/);
    weights.dispose();
  });

  it("are refused as a whole where one does not fit, and leave the base as it was", async () => {
    const folders = await written("llama", create);
    const broken = (name: string, change: (values: Float32Array) => void): string => {
      const place = path.join(root, name);
      cpSync(folders.get("small")!, place, { recursive: true });
      const file = path.join(place, "adapter_model.safetensors");
      const bytes = readFileSync(file);
      const start = 8 + Number(bytes.readBigUInt64LE());
      const values = new Float32Array(bytes.subarray(start).buffer.slice(bytes.byteOffset + start));
      change(values);
      writeFileSync(file, Buffer.concat([bytes.subarray(0, start), Buffer.from(values.buffer)]));
      return place;
    };
    const wider = () =>
      new Llama(llamaConfig({ ...sizes, hiddenSize: 32, numLayers: 2, numKeyValueHeads: 1 }));
    const other = (await written("narrow", wider)).get("wide")!;
    const soft = path.join(root, "soft");
    {
      const model = create();
      using base = Weights.initialize(runtime, model, 1);
      const adapter = addSoftPrompt(model, { kind: "prompt", tokens: 3 });
      using weights = Weights.partlyFrozen(model, base, 2);
      await saveAdapter(soft, { model, adapter, weights });
    }
    const more = async (name: string, options: Partial<LoraOptions>) => {
      const model = create();
      using base = Weights.initialize(runtime, model, 1);
      const adapter = addLora(model, { rank: 2, alpha: 2, targets: ["q_proj"], ...options });
      const all = new ModelWeights(runtime, { tensors: { ...base.tensors }, packed: {} });
      using weights = Weights.partlyFrozen(model, withRowNorms(adapter, all), 2);
      await saveAdapter(path.join(root, name), { model, adapter, weights });
      return path.join(root, name);
    };
    const model = create();
    const weights = frozen(model);
    for (const [folder, words] of [
      [other, /made for another base/],
      [await more("dora", { dora: true }), /dora is of DoRA, which is more than an update/],
      [await more("whole", { whole: ["model.norm"] }), /learned whole \(model\.norm\.weight\)/],
      [path.join(root, "nowhere"), /nowhere/],
      [broken("nan", (values) => (values[3] = NaN)), /nan has numbers beside .* that are not finite/],
      [soft, /the adapter second in .* is a soft prompt/],
    ] as const)
      await expect(
        loadAdapters(new Map([...folders, ["second", folder]]), { model, weights }),
      ).rejects.toThrow(words);
    expect(bankOf(model)).toBeUndefined();
    using decoder = await Decoder.create({ model, weights });
    expect(await texts(decoder, [[5, 6, 7, 8]], [undefined])).toEqual(
      await alone(create, folders, [[5, 6, 7, 8]], frozen),
    );
    await expect(loadAdapters(new Map(), { model, weights })).rejects.toThrow(/no adapters to load/);
    weights.dispose();
  });
});
