import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { saveAdapter, saveModel } from "../../src/checkpoints/index.js";
import { Llama, llamaConfig, systems } from "../../src/models/index.js";
import { Weights, addLora } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { trainByteLevelBpe } from "../../src/tokenizers/index.js";
import { lineage } from "../support/cli.js";

const runtime = createRuntime();
const root = mkdtempSync(path.join(os.tmpdir(), "lineage-adapter-"));
const folder = (name: string): string => path.join(root, name);
afterAll(() => {
  rmSync(root, { recursive: true });
});

const tokenizer = trainByteLevelBpe(["the cat sat on the mat"], { vocabSize: 270 });
const sizes = { contextLength: 64, numLayers: 2, numHeads: 2, vocabSize: tokenizer.vocabSize };

/** A base and an adapter of random numbers for it. */
async function make(name: string, hiddenSize: number): Promise<void> {
  const model = new Llama(llamaConfig({ ...sizes, hiddenSize }));
  using base = Weights.initialize(runtime, model, 1);
  mkdirSync(folder(name));
  await saveModel(folder(name), { system: systems.llama, model, weights: base, tokenizer });
  const adapter = addLora(model, { rank: 4, alpha: 8, targets: "all-linear" });
  using weights = Weights.partlyFrozen(model, base, 2);
  for (const tensor of Object.values(weights.tensors))
    tensor.view().forEach((_, i, view) => (view[i] = 0.3 * Math.sin(5 * i + view.length)));
  await saveAdapter(folder(`${name}-adapter`), { model, adapter, weights, base: name });
}

beforeAll(async () => {
  await make("base", 64);
  await make("other", 32);
});

async function written(...args: string[]): Promise<string> {
  const { stdout, stderr } = await lineage(
    ...[
      "generate",
      "--prompt",
      "the cat",
      "--max-new-tokens",
      "12",
      "--temperature",
      "0",
      "--json",
      "--no-prepared",
    ],
    ...args,
  );
  expect(stderr).toBe("");
  return (JSON.parse(stdout) as { text: string }).text;
}

describe("an adapter on the command line", () => {
  it("writes the same text beside its base, merged while loading, and merged into a folder", async () => {
    const both = ["--model", folder("base"), "--adapter", folder("base-adapter")];
    const text = await written(...both);
    expect(text).not.toBe(await written("--model", folder("base")));
    expect(await written(...both, "--merge-adapter")).toBe(text);
    const merged = await lineage("merge", ...both, "--out", folder("merged"), "--json");
    expect(merged.stderr).toBe("");
    const result = JSON.parse(merged.stdout) as { tokens: number; meanDivergence: number; sameFirst: number };
    expect(result.tokens).toBe(64);
    expect(result.meanDivergence).toBeLessThan(1e-6);
    expect(result.sameFirst).toBe(64);
    expect(await written("--model", folder("merged"))).toBe(text);
  });

  it("is merged into the base's NF4, dequantised, as it was computed beside it", async () => {
    const both = ["--model", folder("base"), "--adapter", folder("base-adapter"), "--quantize", "nf4"];
    const { stdout, stderr } = await lineage("merge", ...both, "--out", folder("merged-nf4"), "--json");
    expect(stderr).toBe("");
    expect((JSON.parse(stdout) as { meanDivergence: number }).meanDivergence).toBeLessThan(1e-4);
    const config = readFileSync(path.join(folder("merged-nf4"), "config.json"), "utf8");
    expect(config).not.toContain("quantization_config");
    expect(await written("--model", folder("merged-nf4"))).toBe(await written(...both));
  });

  it("refuses an adapter for another base, and a merge without an adapter", async () => {
    const wrong = await lineage(
      "generate",
      "--model",
      folder("base"),
      "--adapter",
      folder("other-adapter"),
      "--prompt",
      "a",
    );
    expect(wrong.stderr).toMatch(
      /q_proj\.lora_A\.weight is \[4, 32\], but this model wants \[4, 64\]: the adapter was made for another base/,
    );
    const none = await lineage("generate", "--model", folder("base"), "--merge-adapter", "--prompt", "a");
    expect(none.stderr).toContain("there is no adapter to merge: name its folder");
  });
});
