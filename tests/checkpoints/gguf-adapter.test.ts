import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import {
  isGgufAdapter,
  loadAdapter,
  loadAdapters,
  mergeAdapter,
  saveGguf,
  saveGgufAdapter,
  withRowNorms,
} from "../../src/checkpoints/index.js";
import {
  GgufFile,
  type GgufTensorToSave,
  type GgufValue,
  ggufFormat,
  loadWeights,
  writeGguf,
} from "../../src/formats/index.js";
import { compile, input } from "../../src/graph/index.js";
import {
  type DecoderSystem,
  gpt2Config,
  llamaConfig,
  palmConfig,
  qwen2Config,
  systems,
} from "../../src/models/index.js";
import {
  type CausalLm,
  type LoraAdapter,
  type LoraOptions,
  type WeightSet,
  Weights,
  addLora,
} from "../../src/nn/index.js";
import { ModelWeights } from "../../src/quantization/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { trainByteLevelBpe } from "../../src/tokenizers/index.js";
import { LlamaCppModel, divergence, llamaCppFolder } from "../../bench/llama-cpp.js";
import { Reference, relativeError } from "../support/reference.js";

const runtime = createRuntime({ threads: 1 });
const root = mkdtempSync(path.join(os.tmpdir(), "gguf-adapter-"));
const place = (name: string) => path.join(root, name);
afterAll(() => {
  rmSync(root, { recursive: true });
});

const tokenizer = trainByteLevelBpe(["the cat sat on the mat, and the dog\n".repeat(20)], { vocabSize: 280 });
const sizes = {
  vocabSize: tokenizer.vocabSize,
  hiddenSize: 64,
  numLayers: 2,
  numHeads: 4,
  contextLength: 64,
  initializerRange: 0.2,
};
const ids = tokenizer.encode("the cat sat on the mat, and the dog sat");

interface Base {
  readonly system: DecoderSystem;
  readonly model: CausalLm;
  readonly weights: ModelWeights;
}

/** A base of random weights. */
function baseOf(system: DecoderSystem, config: unknown): Base {
  const model = system.create(config as never);
  const { tensors } = Weights.initialize(runtime, model, 3);
  return { system, model, weights: new ModelWeights(runtime, { tensors: { ...tensors }, packed: {} }) };
}

const { llama, gpt2, qwen2 } = systems;
const bases: Readonly<Record<string, () => Base>> = {
  "LLaMA with grouped queries": () =>
    baseOf(llama, llamaConfig({ ...sizes, intermediateSize: 96, numKeyValueHeads: 2 })),
  "GPT-2": () => baseOf(gpt2, gpt2Config({ ...sizes, dropout: 0 })),
  Qwen2: () => baseOf(qwen2, qwen2Config({ ...sizes, intermediateSize: 96, numKeyValueHeads: 2 })),
};

const adapters: Readonly<Record<string, LoraOptions>> = {
  "all layers": { rank: 4, alpha: 6, targets: "all-linear" },
  "ranks and scales of their own": {
    rank: 3,
    alpha: 5,
    rankStabilized: true,
    targets: /.*\.(q_proj|v_proj|c_attn|down_proj|mlp\.c_proj)/,
    ranks: new Map([["q_proj|c_attn", 5]]),
    alphas: new Map([["down_proj|c_proj", 2]]),
  },
};

/** An adapter of random numbers beside a base. */
function adapted(base: Base, options: LoraOptions): { adapter: LoraAdapter; weights: Weights } {
  const adapter = addLora(base.model, options);
  const weights = Weights.partlyFrozen(base.model, withRowNorms(adapter, base.weights), 5);
  for (const tensor of Object.values(weights.tensors))
    tensor.view().forEach((_, i, view) => (view[i] = 0.1 * Math.sin(5 * i + view.length)));
  return { adapter, weights };
}

/** Logits `[tokens, vocabSize]`. */
async function logitsOf(
  model: CausalLm,
  { tensors, constants }: WeightSet,
  tokens: readonly number[] = ids,
): Promise<Float32Array> {
  const inputIds = input("inputIds", "int32", [1, tokens.length]);
  using program = await compile(runtime, { logits: model.forward(inputIds) }, { constants });
  const results = await program.run({
    ...tensors,
    inputIds: runtime.createTensor("int32", [1, tokens.length], Int32Array.from(tokens)),
  });
  return (await results["logits"]!.read()) as Float32Array;
}

const rowsOf = (logits: Float32Array, count: number): Float32Array[] =>
  Array.from({ length: count }, (_, row) =>
    logits.slice((row * logits.length) / count, ((row + 1) * logits.length) / count),
  );

describe.each(Object.keys(bases))("an adapter of %s as a GGUF", (name) => {
  it.each(Object.keys(adapters))("is the same adapter when it is read again: %s", async (kind) => {
    const base = bases[name]!();
    const { adapter, weights } = adapted(base, adapters[kind]!);
    const wanted = await logitsOf(base.model, weights);
    const file = place("again.gguf");
    await saveGgufAdapter(file, { ...base, adapter, weights });
    adapter.remove();
    const without = await logitsOf(base.model, base.weights);
    expect(relativeError(without, wanted)).toBeGreaterThan(0.05);
    const read = await loadAdapter(file, base);
    expect(relativeError(await logitsOf(base.model, read.weights), wanted)).toBeLessThan(1e-5);
    const merged = mergeAdapter(read);
    expect(relativeError(await logitsOf(base.model, merged), wanted)).toBeLessThan(1e-5);
  });

  it.skipIf(!llamaCppFolder).each(Object.keys(adapters))(
    "gives llama.cpp's distributions beside it and merged: %s",
    async (kind) => {
      const base = bases[name]!();
      const file = place("base.gguf");
      await saveGguf(file, { ...base, tokenizer }, { format: "F32" });
      const { adapter, weights } = adapted(base, adapters[kind]!);
      const lora = place("adapter.gguf");
      await saveGgufAdapter(lora, { ...base, adapter, weights });
      const ours = rowsOf(await logitsOf(base.model, weights), ids.length);
      using peer = LlamaCppModel.load(file, { cache: "float32", contextLength: 64 });
      const alone = peer.evaluate(ids, { all: true }).map((row) => row.slice());
      peer.reset();
      peer.adapt(lora);
      const theirs = peer.evaluate(ids, { all: true }).map((row) => row.slice());
      expect(Math.max(...theirs.map((row, i) => divergence(row, ours[i]!)))).toBeLessThan(1e-5);
      // An adapter without effect would agree with nothing of this.
      expect(Math.max(...theirs.map((row, i) => divergence(row, alone[i]!)))).toBeGreaterThan(0.01);
      adapter.remove();
      const read = await loadAdapter(lora, base);
      const whole = place("merged.gguf");
      await saveGguf(whole, { ...base, weights: mergeAdapter(read), tokenizer }, { format: "F32" });
      using merged = LlamaCppModel.load(whole, { cache: "float32", contextLength: 64 });
      const after = merged.evaluate(ids, { all: true }).map((row) => row.slice());
      expect(Math.max(...after.map((row, i) => divergence(row, ours[i]!)))).toBeLessThan(1e-5);
    },
  );
});

it("peft's adapter of a small LLaMA gives peft's logits from a GGUF", async () => {
  const files = new Reference("llama-grouped-tiny");
  const peft = new Reference("adapters/llama-grouped-tiny");
  const { inputIds } = files.json("values.json") as { inputIds: number[][] };
  const model = llama.create(llama.config.read(files.json("config.json")));
  const { tensors } = await loadWeights(runtime, model, files.path());
  const base = { system: llama, model, weights: new ModelWeights(runtime, { tensors, packed: {} }) };
  const { adapter, weights } = await loadAdapter(peft.path(), base);
  await saveGgufAdapter(place("peft.gguf"), { ...base, adapter: adapter as LoraAdapter, weights });
  adapter.remove();
  const read = await loadAdapter(place("peft.gguf"), base);
  const wanted = (await peft.tensors("logits.safetensors")).get("logits")!;
  const found = await Promise.all(inputIds.map((row) => logitsOf(model, read.weights, row)));
  expect(
    relativeError(
      found.flatMap((row) => [...row]),
      wanted,
    ),
  ).toBeLessThan(1e-5);
});

// What llama.cpp computed with the file that is kept here: made by this test where LINEAGE_WRITE_VALUES is set.
describe("llama.cpp's logits that are kept here", () => {
  const kept = new Reference("llama-cpp-adapter");
  const [name, kind] = ["LLaMA with grouped queries", "ranks and scales of their own"] as const;
  const read = () => (kept.json("logits.json") as { logits: number[] }).logits;

  it("are those of the adapter as it is written and read", async () => {
    const base = bases[name]!();
    const { adapter, weights } = adapted(base, adapters[kind]!);
    await saveGgufAdapter(place("adapter.gguf"), { ...base, adapter, weights });
    expect(readFileSync(place("adapter.gguf")).equals(readFileSync(kept.path("adapter.gguf")))).toBe(true);
    adapter.remove();
    const [alone] = rowsOf(await logitsOf(base.model, base.weights), ids.length).slice(-1);
    expect(divergence(Float32Array.from(read()), alone!)).toBeGreaterThan(0.01);
    const found = await loadAdapter(kept.path("adapter.gguf"), base);
    const [row] = rowsOf(await logitsOf(base.model, found.weights), ids.length).slice(-1);
    expect(divergence(Float32Array.from(read()), row!)).toBeLessThan(1e-5);
  });

  it.skipIf(!llamaCppFolder)("are llama.cpp's", async () => {
    const base = bases[name]!();
    await saveGguf(place("kept-base.gguf"), { ...base, tokenizer }, { format: "F32" });
    if (process.env["LINEAGE_WRITE_VALUES"]) {
      const { adapter, weights } = adapted(base, adapters[kind]!);
      await saveGgufAdapter(kept.path("adapter.gguf"), { ...base, adapter, weights }, { name: "adapter" });
    }
    using peer = LlamaCppModel.load(place("kept-base.gguf"), { cache: "float32", contextLength: 64 });
    peer.adapt(kept.path("adapter.gguf"));
    const [last] = peer.evaluate(ids);
    const logits = Array.from(last!, (value) => Number(value.toPrecision(7)));
    if (process.env["LINEAGE_WRITE_VALUES"])
      writeFileSync(kept.path("logits.json"), `${JSON.stringify({ logits })}\n`);
    expect(relativeError(logits, Float32Array.from(read()))).toBeLessThan(1e-5);
  });
});

describe("a GGUF that is no adapter for this base", () => {
  const base = bases["LLaMA with grouped queries"]!();
  const good = place("good.gguf");
  const prepared = (async () => {
    const { adapter, weights } = adapted(base, adapters["all layers"]!);
    await saveGgufAdapter(good, { ...base, adapter, weights });
    adapter.remove();
  })();
  /** The good file with other entries and tensors. */
  const changed = async (
    entries: Readonly<Record<string, GgufValue | undefined>>,
    change: (tensors: Map<string, GgufTensorToSave>) => void = () => undefined,
  ): Promise<string> => {
    await prepared;
    const gguf = await GgufFile.open(good);
    const metadata = new Map(gguf.header.metadata);
    for (const [key, value] of Object.entries(entries))
      if (value) metadata.set(key, value);
      else metadata.delete(key);
    const tensors = new Map<string, GgufTensorToSave>();
    for (const [name, { format, shape }] of gguf.tensors) {
      const values = await gguf.readValues(name);
      tensors.set(name, { name, format, shape, values: () => values });
    }
    change(tensors);
    await writeGguf(place("changed.gguf"), metadata, [...tensors.values()]);
    return place("changed.gguf");
  };
  const text = (value: string): GgufValue => ({ type: "string", value });
  const q = "blk.0.attn_q.weight";
  const tensor = (name: string, shape: readonly number[], value = 1): GgufTensorToSave => ({
    ...{ name, format: ggufFormat("F32"), shape },
    values: () => new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(value),
  });

  it.each<
    readonly [
      string,
      Readonly<Record<string, GgufValue | undefined>>,
      ((tensors: Map<string, GgufTensorToSave>) => void) | undefined,
    ]
  >([
    ["it holds a model, and an adapter is needed", { "general.type": text("model") }, undefined],
    ["no metadata entry adapter.type", { "adapter.type": undefined }, undefined],
    ["the adapter is of the type ia3", { "adapter.type": text("ia3") }, undefined],
    ["no metadata entry adapter.lora.alpha", { "adapter.lora.alpha": undefined }, undefined],
    ["adapter.lora.alpha is NaN", { "adapter.lora.alpha": { type: "float32", value: NaN } }, undefined],
    ["must be a number", { "adapter.lora.alpha": text("6") }, undefined],
    [
      "adapter.alora.invocation_tokens is set, which lineage does not compute",
      { "adapter.alora.invocation_tokens": { type: "array", of: "uint32", value: [1, 2] } },
      undefined,
    ],
    [
      "is for the architecture gpt2, but the model is a LLaMA (llama): the adapter was made for another base",
      { "general.architecture": text("gpt2") },
      undefined,
    ],
    [
      "the adapter has no tensors",
      {},
      (all) => {
        all.clear();
      },
    ],
    [`there is ${q}.lora_a, but no ${q}.lora_b`, {}, (all) => void all.delete(`${q}.lora_b`)],
    [
      "the tensor blk.0.attn_norm.weight is no half",
      {},
      (all) => void all.set("norm", tensor("blk.0.attn_norm.weight", [64])),
    ],
    [
      "updates blk.7.attn_q.weight, for which this model has no place",
      {},
      (all) => {
        all.set("a", tensor("blk.7.attn_q.weight.lora_a", [4, 64]));
        all.set("b", tensor("blk.7.attn_q.weight.lora_b", [64, 4]));
      },
    ],
    [
      "lineage has no adapters of embeddings",
      {},
      (all) => {
        all.set("a", tensor("token_embd.weight.lora_a", [4, 280]));
        all.set("b", tensor("token_embd.weight.lora_b", [64, 4]));
      },
    ],
    [
      "not [rank, in] and [out, rank]",
      {},
      (all) => void all.set(`${q}.lora_a`, tensor(`${q}.lora_a`, [5, 64])),
    ],
    ["not [rank, in] and [out, rank]", {}, (all) => void all.set(`${q}.lora_a`, tensor(`${q}.lora_a`, [64]))],
    [
      "from 32 to 64 numbers, but this model's layer is from 64 to 64",
      {},
      (all) => void all.set(`${q}.lora_a`, tensor(`${q}.lora_a`, [4, 32])),
    ],
    [
      "has numbers that are not finite",
      {},
      (all) => void all.set(`${q}.lora_b`, tensor(`${q}.lora_b`, [64, 4], Infinity)),
    ],
  ])("is refused: %s", async (words, entries, change) => {
    const file = await changed(entries, change);
    await expect(loadAdapter(file, base)).rejects.toThrow(words);
    expect(
      relativeError(await logitsOf(base.model, base.weights), await logitsOf(base.model, base.weights)),
    ).toBe(0);
  });

  it("is refused where it is cut short, at every place", async () => {
    await prepared;
    const bytes = readFileSync(good);
    for (const share of [0, 0.01, 0.1, 0.3, 0.9, 0.999]) {
      writeFileSync(place("cut.gguf"), bytes.subarray(0, Math.floor(share * bytes.length)));
      await expect(loadAdapter(place("cut.gguf"), base)).rejects.toThrow(
        /cut short|does not begin|outside the file|bytes/,
      );
    }
    writeFileSync(place("other.gguf"), "not a GGUF");
    await expect(loadAdapter(place("other.gguf"), base)).rejects.toThrow(
      "does not begin as a GGUF file does",
    );
    await expect(loadAdapter(place("nowhere.gguf"), base)).rejects.toThrow("no such file or folder");
  });

  it("has a scale of 1 without an alpha, as in llama.cpp", async () => {
    const file = await changed({ "adapter.lora.alpha": { type: "float32", value: 0 } });
    const { adapter } = await loadAdapter(file, base);
    for (const { lora } of (adapter as LoraAdapter).layers.values()) expect(lora.scaling).toBe(1);
    adapter.remove();
  });

  it("may be one of several adapters, and is told from a model", async () => {
    await prepared;
    expect(await isGgufAdapter(good)).toBe(true);
    const again = bases["LLaMA with grouped queries"]!();
    const { bank } = await loadAdapters(new Map([["one", good]]), again);
    expect(bank.rank).toBe(4);
    bank.remove();
  });

  it("is not written for what llama.cpp has no words for", async () => {
    const again = bases["LLaMA with grouped queries"]!();
    for (const [options, words] of [
      [{ dora: true }, "llama.cpp has no adapters with DoRA"],
      [{ whole: ["model.norm"] }, "modules that learned whole (model.norm.weight)"],
    ] as const) {
      const { adapter, weights } = adapted(again, { rank: 2, alpha: 2, targets: ["q_proj"], ...options });
      await expect(saveGgufAdapter(place("no.gguf"), { ...again, adapter, weights })).rejects.toThrow(words);
      adapter.remove();
    }
    const palm = baseOf(
      systems.palm,
      palmConfig({ vocabSize: 280, hiddenSize: 64, numLayers: 1, numHeads: 4 }),
    );
    const { adapter, weights } = adapted(palm, { rank: 2, alpha: 2, targets: "all-linear" });
    await expect(saveGgufAdapter(place("no.gguf"), { ...palm, adapter, weights })).rejects.toThrow(
      "llama.cpp does not know PaLM",
    );
  });
});
