import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { trainByteLevelBpe } from "../../src/tokenizers/index.js";
import { Llama, llamaConfig, systems } from "../../src/models/index.js";
import { saveModel } from "../../src/checkpoints/index.js";
import { Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { lineage } from "../support/cli.js";

let folder: string;
let source: string;
beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "lineage-quantize-"));
  source = path.join(folder, "full");
  mkdirSync(source);
  const tokenizer = trainByteLevelBpe(["the cat sat on the mat"], { vocabSize: 270 });
  const model = new Llama(
    llamaConfig({
      vocabSize: 320,
      contextLength: 64,
      hiddenSize: 64,
      numLayers: 1,
      numHeads: 2,
      intermediateSize: 96,
    }),
  );
  using weights = Weights.initialize(createRuntime(), model, 1);
  // Ids that the tokenizer has no text for are never the most probable.
  weights
    .get("lm_head.weight")
    .view()
    .fill(0, tokenizer.vocabSize * model.config.hiddenSize);
  await saveModel(source, { system: systems.llama, model, weights, tokenizer });
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const args = ["--prompt", "the cat", "--max-new-tokens", "8", "--temperature", "0", "--json"];

describe("lineage quantize", () => {
  it("writes a folder that generates what packing at load does", async () => {
    const out = path.join(folder, "packed");
    const made = await lineage(
      "quantize",
      "--model",
      source,
      "--out",
      out,
      "--bits",
      "8",
      "--candidates",
      "1",
      "--json",
    );
    expect(made.stderr).toBe("");
    const result = JSON.parse(made.stdout) as { packed: number; inFull: number };
    // Embeddings, head and seven matrices; two norms of the block and the last.
    expect(result).toMatchObject({ packed: 9, inFull: 3 });
    const text = async (...more: string[]): Promise<unknown> =>
      (JSON.parse((await lineage("generate", ...more, ...args)).stdout) as { text: unknown }).text;
    expect(await text("--model", out)).toBe(await text("--model", source, "--quantize", "8"));
  });

  it("gives whole rows one scale where it is asked to, and reads prompts with such a copy", async () => {
    const out = path.join(folder, "rows");
    const made = await lineage(
      "quantize",
      "--model",
      source,
      "--out",
      out,
      "--bits",
      "8",
      "--block-size",
      "row",
    );
    expect(made.stderr).toBe("");
    const { quantization_config: config } = JSON.parse(
      readFileSync(path.join(out, "config.json"), "utf8"),
    ) as {
      quantization_config: { tensors: Record<string, { kind: string }> };
    };
    expect(config.tensors["model.layers.0.mlp.up_proj.weight"]).toEqual({ kind: "rows" });
    expect(config.tensors["model.embed_tokens.weight"]).toMatchObject({ kind: "blocks" });
    // Longer than what a step more for the last token would cost.
    const prompt = ["--prompt", "the cat sat on the mat ".repeat(2), ...args.slice(2)];
    const answer = async (...more: string[]): Promise<unknown> =>
      JSON.parse((await lineage("generate", ...more, ...prompt)).stdout);
    const plain = await answer("--model", source, "--quantize", "4");
    const { promptTokens } = plain as { promptTokens: number };
    expect(promptTokens).toBeGreaterThan(16);
    for (const more of [
      ["--model", source, "--quantize", "4", "--fast-prompts"],
      ["--model", out],
    ])
      expect(await answer(...more)).toMatchObject({ promptTokens, newTokens: 8 });
  });

  it("says what it cannot do in one sentence", async () => {
    const out = path.join(folder, "none");
    const tries = [
      [["--bits", "5"], "--bits must be 4, 8, nf4 or nf4-double, not 5"],
      [["--bits", "4", "--block-size", "row"], "rows with one scale have 8 bits, not 4"],
      [["--candidates", "0"], "--candidates must be above 0, not 0"],
    ] as const;
    for (const [more, sentence] of tries) {
      const { status, stderr } = await lineage("quantize", "--model", source, "--out", out, ...more);
      expect(status).toBe(1);
      expect(stderr).toContain(sentence);
    }
  });
});
