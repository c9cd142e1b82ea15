import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { saveModel } from "../../src/checkpoints/index.js";
import { Decoder, generate, generateText } from "../../src/generation/index.js";
import { Llama, llamaConfig, systems } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { quantizeWeights } from "../../src/quantization/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { trainByteLevelBpe } from "../../src/tokenizers/index.js";

const runtime = createRuntime({ threads: 1 });
const tokenizer = trainByteLevelBpe(["the cat sat on the mat. ".repeat(9)], { vocabSize: 280 });
const model = new Llama(
  llamaConfig({
    vocabSize: tokenizer.vocabSize,
    hiddenSize: 64,
    numLayers: 2,
    numHeads: 2,
    contextLength: 512,
    initializerRange: 0.3,
  }),
);
const weights = Weights.initialize(runtime, model, 1);

describe("use after dispose is a typed error, in a process that goes on", () => {
  let folder: string;
  beforeAll(async () => {
    folder = mkdtempSync(path.join(os.tmpdir(), "lineage-"));
    const loaded = { system: systems.llama, model, tokenizer };
    // Weights in full precision lie in the memory of their file, which goes with them.
    await saveModel(path.join(folder, "plain"), { ...loaded, weights });
    using quantized = await quantizeWeights(model, weights, { bits: 4 });
    await saveModel(path.join(folder, "packed"), { ...loaded, weights: quantized });
  });
  afterAll(() => {
    rmSync(folder, { recursive: true });
  });

  /** What a process of its own says; a crash leaves it without words. */
  function said(form: "plain" | "packed", script: string): string {
    const url = (file: string) => JSON.stringify(pathToFileURL(path.resolve("dist/src", file)).href);
    const source = `
      import { createRuntime } from ${url("runtime/index.js")};
      import { loadForInference } from ${url("checkpoints/index.js")};
      import { Decoder, generate } from ${url("generation/index.js")};
      const loaded = await loadForInference(createRuntime({ threads: 1 }), ${JSON.stringify(path.join(folder, form))});
      const tell = (error) => console.log(error.code ?? error.name, error.message);
      ${script}
      console.log("went on");`;
    const { stdout, stderr, signal } = spawnSync(
      process.execPath,
      ["--expose-gc", "--input-type=module", "-e", source],
      { encoding: "utf8" },
    );
    expect({ signal, stderr }).toEqual({ signal: null, stderr: "" });
    return stdout;
  }

  it.each(["plain", "packed"] as const)("of %s weights, when a decoder is made of them", (form) => {
    const text = said(
      form,
      `
      loaded.weights.dispose();
      for (let i = 0; i < 5; i++) await Decoder.create({ ...loaded, capacity: 64 }).catch(tell);
      gc();`,
    );
    expect(text).toMatch(/^(disposed .* was used after it was disposed\n){5}went on\n$/);
  });

  it.each(["plain", "packed"] as const)("of %s weights, while a decoder is made of them", (form) => {
    const text = said(
      form,
      `
      const making = Decoder.create({ ...loaded, capacity: 64 });
      loaded.weights.dispose();
      await making.then((decoder) => decoder.read(decoder.open(), [1, 2, 3])).catch(tell);
      gc();`,
    );
    expect(text).toMatch(/^(disposed .*\n)?went on\n$/);
  });

  it("of a decoder, at any moment of its work", () => {
    const text = said(
      "packed",
      `
      for (let moment = 0; moment < 30; moment++) {
        const decoder = await Decoder.create({ ...loaded, capacity: 400, slots: 2 });
        const prompt = Array.from({ length: 300 }, (_, i) => i % 250);
        const write = async () => {
          for await (const token of generate(decoder, [prompt, [1, 2]], { temperature: 0 }));
        };
        const writing = [write(), write()].map((promise) => promise.catch(tell));
        for (let i = 0; i < moment; i++) await new Promise((resolve) => setImmediate(resolve));
        decoder.dispose();
        await Promise.all(writing);
      }
      gc();`,
    );
    const lines = text.trim().split("\n");
    expect(lines.at(-1)).toBe("went on");
    expect(lines.length).toBeGreaterThan(30);
    for (const line of lines.slice(0, -1))
      expect(line).toBe("disposed the decoder was used after it was disposed");
  });
});

it("a decoder gives all its memory back, also when it is disposed while it runs", async () => {
  const before = runtime.allocatedBytes;
  const decoder = await Decoder.create({ model, weights, capacity: 400, prefillChunk: 32 });
  const prompt = Array.from({ length: 300 }, (_, i) => i % 250);
  const reading = decoder.read(decoder.open(), prompt);
  await new Promise((resolve) => setImmediate(resolve));
  decoder.dispose();
  await expect(reading).rejects.toThrow("the decoder was used after it was disposed");
  expect(runtime.allocatedBytes).toBe(before);
  await expect(generate(decoder, [[1]]).next()).rejects.toThrow("the decoder was used after it was disposed");
  expect(() => generateText({ decoder, tokenizer }, "the")).toThrow(
    "the decoder was used after it was disposed",
  );
});
