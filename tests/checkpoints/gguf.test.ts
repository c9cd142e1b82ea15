import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Decoder, generate } from "../../src/generation/index.js";
import { GgufFile, type GgufValue, loadSentencePiece, writeGguf } from "../../src/formats/index.js";
import { trainByteLevelBpe } from "../../src/tokenizers/index.js";
import {
  type DecoderSystem,
  Gpt2,
  gpt2Config,
  Llama,
  llamaConfig,
  Mistral,
  mistralConfig,
  Qwen2,
  type Qwen2Config,
  qwen2Config,
  systems,
} from "../../src/models/index.js";
import { type DecoderCheckpoint, loadGguf, saveGguf } from "../../src/checkpoints/index.js";
import { type CausalLm, Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { LlamaCppModel, divergence, llamaCppFolder } from "../../bench/llama-cpp.js";

const runtime = createRuntime({ threads: 1 });
const prompt = "the cat sat on the mat, and the dog";
const documents = ["the cat sat on the mat, and the dog sat on the cat; naïve café 日本 🙂\n".repeat(20)];
const tokenizer = trainByteLevelBpe(documents, { vocabSize: 320 });
const sizes = {
  vocabSize: tokenizer.vocabSize,
  hiddenSize: 64,
  numLayers: 2,
  numHeads: 4,
  contextLength: 128,
};
const systemOf = (model: CausalLm): DecoderSystem =>
  model instanceof Gpt2 ? systems.gpt2 : model instanceof Mistral ? systems.mistral : systems.llama;
const models: Readonly<Record<string, () => CausalLm>> = {
  "LLaMA with grouped queries": () =>
    new Llama(llamaConfig({ ...sizes, intermediateSize: 96, numKeyValueHeads: 2, initializerRange: 0.2 })),
  "LLaMA with tied embeddings and LLaMA-3's positions": () =>
    new Llama(
      llamaConfig({
        ...sizes,
        intermediateSize: 96,
        tieEmbeddings: true,
        initializerRange: 0.2,
        ropeTheta: 500_000,
        ropeScaling: {
          kind: "llama3",
          factor: 8,
          lowFrequencyFactor: 1,
          highFrequencyFactor: 4,
          originalContextLength: 8192,
        },
      }),
    ),
  // llama.cpp chooses the factors by the tokens that it allots, which are fewer than the original context here.
  "LLaMA with LongRoPE": () =>
    new Llama(
      llamaConfig({
        ...sizes,
        intermediateSize: 96,
        initializerRange: 0.2,
        ropeScaling: {
          kind: "longrope",
          shortFactors: [1, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6],
          longFactors: [1, 1.5, 2, 2.5, 3, 3.5, 4, 5],
          originalContextLength: 1024,
          attentionFactor: 1.3,
        },
      }),
    ),
  Mistral: () =>
    new Mistral(
      mistralConfig({
        ...sizes,
        intermediateSize: 96,
        numKeyValueHeads: 2,
        slidingWindow: 64,
        initializerRange: 0.2,
      }),
    ),
  "GPT-2": () => new Gpt2(gpt2Config({ ...sizes, initializerRange: 0.2 })),
};

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
});
afterAll(async () => {
  await rm(folder, { recursive: true });
});

/** Logits after every prefix of `ids`, from a decoder of our own. */
async function ourLogits(
  { model, weights }: DecoderCheckpoint,
  ids: readonly number[],
): Promise<Float32Array[]> {
  using decoder = await Decoder.create({ model, weights, capacity: ids.length + 1 });
  const slot = decoder.open();
  const rows: Float32Array[] = [];
  for (const id of ids) rows.push((await decoder.step([slot], [id]))[0]!.slice());
  return rows;
}

async function greedy(
  { model, weights }: DecoderCheckpoint,
  ids: readonly number[],
  count: number,
): Promise<number[]> {
  using decoder = await Decoder.create({ model, weights, capacity: ids.length + count });
  const written: number[] = [];
  for await (const token of generate(decoder, [ids], { temperature: 0, maxNewTokens: count }))
    if (token.id !== undefined) written.push(token.id);
  return written;
}

for (const [name, create] of Object.entries(models)) {
  describe(`a GGUF of ${name}`, () => {
    for (const format of ["F32", "F16", "Q8_0", "Q4_0"]) {
      it(`in ${format} comes back: weights, configuration and tokenizer`, async () => {
        const model = create();
        using weights = Weights.initialize(runtime, model, 3);
        const file = path.join(folder, `${model.constructor.name}-${format}.gguf`);
        await saveGguf(
          file,
          { system: systemOf(model), model, weights, tokenizer, stopIds: [0] },
          { format },
        );
        const loaded = await loadGguf(runtime, file);
        using loadedWeights = loaded.weights;
        expect(loaded.model.config).toMatchObject({
          ...model.config,
          ...("initializerRange" in model.config ? { initializerRange: 0.02 } : {}),
          ...("dropout" in model.config ? { dropout: expect.any(Number) as number } : {}),
        });
        expect(loaded.stopIds).toEqual([0]);
        expect(loaded.tokenizer.encode(prompt)).toEqual(tokenizer.encode(prompt));
        const tolerance = { F32: 0, F16: 6e-4, Q8_0: 0.01, Q4_0: 0.15 }[format]!;
        for (const [key, tensor] of Object.entries(weights.tensors)) {
          const [before, after] = [tensor.view(), loadedWeights.get(key).view()];
          const largest = before.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
          const error = before.reduce((a, b, i) => Math.max(a, Math.abs(b - after[i]!)), 0);
          expect(error, key).toBeLessThanOrEqual(tolerance * largest);
        }
      });
    }

    it.skipIf(!llamaCppFolder)(
      "gives llama.cpp the same distributions and the same greedy text (needs @node-llama-cpp/linux-x64)",
      async () => {
        const model = create();
        // A seed whose 40 greedy tokens have no tie within rounding: the texts of untrained models part at one.
        using weights = Weights.initialize(runtime, model, 4);
        const file = path.join(folder, "peer.gguf");
        const loaded = { system: systemOf(model), model, weights, tokenizer };
        await saveGguf(file, loaded, { format: "F32" });
        using peer = LlamaCppModel.load(file, { contextLength: 128, cache: "float32" });
        const ids = tokenizer.encode(prompt);
        expect(peer.tokenize(prompt)).toEqual(ids);
        const ours = await ourLogits(loaded, ids);
        const theirs = peer.evaluate(ids, { all: true }).map((row) => row.slice());
        ours.forEach((row, index) => {
          expect(divergence(theirs[index]!, row)).toBeLessThan(1e-5);
        });
        expect(await greedy(loaded, ids, 40)).toEqual(peer.greedy(ids, 40));
      },
    );
  });
}

describe("a GGUF's counts", () => {
  it("are compared with its tensors before anything is built", async () => {
    const model = models["GPT-2"]!();
    using weights = Weights.initialize(runtime, model, 3);
    const file = path.join(folder, "counts.gguf");
    await saveGguf(file, { system: systems.gpt2, model, weights, tokenizer }, { format: "F16" });
    const bytes = await readFile(file);
    const key = bytes.indexOf("gpt2.block_count") + "gpt2.block_count".length + 4;
    for (const count of [100, 2 ** 31]) {
      bytes.writeUInt32LE(count, key);
      await writeFile(file, bytes);
      await expect(loadGguf(runtime, file)).rejects.toThrow(`a GPT-2 of ${count} layers`);
    }
  });
});

const shared = process.env["LINEAGE_DATA"];
const sentencePiece = shared && path.join(shared, "llama_tokenizer.model");
describe.skipIf(!sentencePiece || !existsSync(sentencePiece) || !llamaCppFolder)(
  "a GGUF with LLaMA's tokenizer (needs LINEAGE_DATA and @node-llama-cpp/linux-x64)",
  () => {
    it("is cut by llama.cpp as by the tokenizer that it was written from", async () => {
      const llama = await loadSentencePiece(sentencePiece!);
      const model = new Llama(llamaConfig({ ...sizes, vocabSize: 32_010, intermediateSize: 96 }));
      using weights = Weights.initialize(runtime, model, 3);
      const file = path.join(folder, "sentencepiece.gguf");
      await saveGguf(file, { system: systems.llama, model, weights, tokenizer: llama }, { format: "Q8_0" });
      using peer = LlamaCppModel.load(file);
      const { tokenizer: back } = await loadGguf(runtime, file);
      expect([back.bosId, back.eosId, back.unkId, back.addsBos]).toEqual([1, 2, 0, true]);
      for (const text of [
        "Hello world",
        "  two  spaces",
        "吾輩は猫である",
        "🙂\t\n\u0001",
        "def f(x): return x**2",
        " ",
      ]) {
        const ids = llama.encode(text);
        expect(peer.tokenize(text), text).toEqual(ids);
        expect(back.encode(text), text).toEqual(ids);
      }
    });
  },
);

describe("entries of a GGUF's metadata", () => {
  const open = async (entries: Readonly<Record<string, GgufValue>>) => {
    const file = path.join(folder, "entries.gguf");
    const model = models["LLaMA with grouped queries"]!();
    {
      using weights = Weights.initialize(runtime, model, 1);
      await saveGguf(file, { system: systems.llama, model, weights, tokenizer });
    }
    const gguf = await GgufFile.open(file);
    const tensors = await Promise.all(
      Array.from(gguf.tensors, async ([name, { format, shape }]) => {
        const values = await gguf.readValues(name);
        return { name, format, shape, values: () => values };
      }),
    );
    await writeGguf(file, new Map([...gguf.header.metadata, ...Object.entries(entries)]), tensors);
    const warnings: string[] = [];
    const loaded = await loadGguf(runtime, file, { warn: (sentence) => warnings.push(sentence) });
    loaded.weights.dispose();
    return warnings;
  };
  const float = (value: number): GgufValue => ({ type: "float32", value });

  it("that make another model of the same tensors are refused by name", async () => {
    for (const [key, value] of Object.entries({
      "llama.logit_scale": float(0.5),
      "llama.attention.scale": float(0.1),
      "llama.attn_logit_softcapping": float(30),
      "llama.expert_count": { type: "uint32", value: 8 },
      "llama.rope.dimension_sections": { type: "array", of: "int32", value: [8, 4, 4, 0] },
    } satisfies Record<string, GgufValue>))
      await expect(open({ [key]: value }), key).rejects.toThrow(/expert|lineage does not compute/);
    expect(await open({ "llama.logit_scale": float(1), "llama.attention.scale": float(0) })).toEqual([]);
  });

  it("that scale positions by LongRoPE need its factors", async () => {
    const type: GgufValue = { type: "string", value: "longrope" };
    await expect(open({ "llama.rope.scaling.type": type })).rejects.toThrow(
      "no tensor rope_factors_short.weight",
    );
  });

  it("that nobody knows are named in a warning", async () => {
    const warnings = await open({
      "llama.future.gate": float(2),
      "general.url": { type: "string", value: "x" },
    });
    expect(warnings).toEqual([expect.stringContaining("llama.future.gate")]);
    expect(warnings[0]).not.toContain("general.url");
  });
});

describe("Qwen2 with a window, which llama.cpp computes without one", () => {
  const window = { slidingWindow: 16, layerTypes: ["full_attention", "sliding_attention"] } as const;
  const file = () => path.join(folder, "qwen2.gguf");
  const save = async (choices: Partial<Qwen2Config>, system: DecoderSystem = systems.qwen2) => {
    const model = new Qwen2(qwen2Config({ ...sizes, intermediateSize: 96, numKeyValueHeads: 2, ...choices }));
    using weights = Weights.initialize(runtime, model, 1);
    await saveGguf(file(), { system, model, weights, tokenizer });
  };

  it("is refused where the window is shorter than the context, and written where it changes nothing", async () => {
    await expect(save(window)).rejects.toThrow("llama.cpp computes Qwen2 without a window");
    await save({ ...window, slidingWindow: 128 });
    const { weights, model } = await loadGguf(runtime, file());
    weights.dispose();
    expect(model.config.slidingWindow).toBeUndefined();
  });

  it("is read without one", async () => {
    const { write } = systems.qwen2.gguf!;
    const entry: GgufValue = { type: "uint32", value: 16 };
    await save(
      {},
      {
        ...systems.qwen2,
        gguf: {
          ...systems.qwen2.gguf!,
          write: (config: Qwen2Config) => {
            const { metadata, vectors } = write!(config);
            return { metadata: { ...metadata, "attention.sliding_window": entry }, vectors };
          },
        },
      },
    );
    const { weights, model } = await loadGguf(runtime, file());
    weights.dispose();
    expect(model.config.slidingWindow).toBeUndefined();
  });
});

const smol = process.env["LINEAGE_SMOLLM2"];
describe.skipIf(!smol)("SmolLM2 (needs LINEAGE_SMOLLM2)", () => {
  const conversation =
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\nWhat is the capital of France?  Think, then answer in 3 words.<|im_end|>\n<|im_start|>assistant\n";

  it.skipIf(!llamaCppFolder)("has llama.cpp's tokens, distributions and greedy text", async () => {
    const loaded = await loadGguf(runtime, smol!);
    using weights = loaded.weights;
    using peer = LlamaCppModel.load(smol!, { cache: "float32" });
    for (const text of [conversation, "x = 12345 +  67 # naïve 日本語 🙂\n\n\tif a:\r\n", "\u0000\u0007 ¼ Ⅷ"])
      expect(loaded.tokenizer.encode(text)).toEqual(peer.tokenize(text));
    const ids = loaded.tokenizer.encode(conversation);
    const ours = await ourLogits({ ...loaded, weights }, ids);
    const theirs = peer.evaluate(ids, { all: true }).map((row) => row.slice());
    const divergences = ours.map((row, index) => divergence(theirs[index]!, row));
    const mean = divergences.reduce((a, b) => a + b, 0) / ids.length;
    // llama.cpp rounds activations to 8 bits for quantised weights; ours stay in float32.
    expect(mean).toBeLessThan(0.02);
    console.info(
      `SmolLM2: mean divergence ${mean.toExponential(2)}, largest ${Math.max(...divergences).toExponential(2)} nats`,
    );
    expect((await greedy({ ...loaded, weights }, ids, 24)).slice(0, 8)).toEqual(peer.greedy(ids, 8));
  });

  it("is read as llama.cpp's own tools read it", async () => {
    const { header } = await GgufFile.open(smol!);
    expect(header.tensors.size).toBe(272);
    expect(header.metadata.get("general.architecture")).toEqual({ type: "string", value: "llama" });
  });
});
