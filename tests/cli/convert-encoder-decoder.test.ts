import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { saveModel } from "../../src/checkpoints/index.js";
import { T5, bartTable, systems, t5Table } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { trainUnigram } from "../../src/tokenizers/index.js";
import { lineage } from "../support/cli.js";

let folder: string;
const at = (name: string) => path.join(folder, name);

beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
  const runtime = createRuntime({ threads: 1 });
  const documents = Array.from({ length: 30 }, () => "the cat sat on the mat. ein Hund rennt.");
  const tokenizer = trainUnigram(documents, { vocabSize: 90, style: "t5", sentinels: 5 });
  const shared = { vocabSize: 96, hiddenSize: 64, numLayers: 2, numHeads: 4, contextLength: 128 };
  const model = new T5(
    t5Table.create({ ...shared, headSize: 16, intermediateSize: 96, feedForward: "gated-gelu" }),
  );
  using weights = Weights.initialize(runtime, model, 2);
  await saveModel(at("t5"), { system: systems.t5, model, weights, tokenizer });
  const bart = systems.bart.create(
    bartTable.create({ ...shared, intermediateSize: 96, padTokenId: 0, decoderStartTokenId: 1 }),
  );
  using bartWeights = Weights.initialize(runtime, bart, 2);
  await saveModel(at("bart"), { system: systems.bart, model: bart, weights: bartWeights, tokenizer });
});
afterAll(() => rm(folder, { recursive: true }));

interface Converted {
  readonly meanDivergence: number;
  readonly tokens: number;
  readonly problems: readonly string[];
  readonly files: { readonly specialIds: { readonly result: Readonly<Record<string, unknown>> } };
}
const convert = async (...args: string[]): Promise<Converted> => {
  const { stdout, stderr, status } = await lineage("convert", ...args, "--threads", "1", "--json");
  expect([stderr, status]).toEqual(["", 0]);
  return JSON.parse(stdout) as Converted;
};
const refusal = async (...args: string[]): Promise<string> => {
  const { stderr, status } = await lineage(...args);
  expect(status).not.toBe(0);
  return stderr;
};

describe("convert of an encoder-decoder", () => {
  it.each([
    ["F32", 1e-10],
    ["F16", 1e-4],
    ["Q8_0", 1e-2],
  ])("writes a T5 as a GGUF in %s and back, and shows that it is the same model", async (format, limit) => {
    const there = await convert(at("t5"), at(`${format}.gguf`), "--format", format);
    expect(there.problems).toEqual([]);
    expect(there.meanDivergence).toBeLessThan(limit);
    expect(there.tokens).toBeGreaterThan(20);
    expect(there.files.specialIds.result).toMatchObject({ start: 0, eos: 1, padding: 0, stop: [1] });
    const back = await convert(at(`${format}.gguf`), at(`${format}-again`));
    expect(back.meanDivergence).toBeLessThan(1e-10);
  });

  it("writes any as a folder in another dtype", async () => {
    const result = await convert(at("bart"), at("bart-half"), "--dtype", "float16");
    expect(result.meanDivergence).toBeLessThan(1e-4);
  });

  it("says what is not written, and what would be", async () => {
    expect(await refusal("convert", at("bart"), at("bart.gguf"))).toContain("llama.cpp does not know BART");
    expect(await refusal("convert", at("t5"), at("t5.onnx"))).toContain("lineage export");
  });
});

it("a quantised encoder-decoder writes what quantising at load does", async () => {
  const { stderr, status } = await lineage(
    ...["quantize", "--model", at("t5"), "--out", at("t5-8"), "--bits", "8", "--candidates", "1", "--json"],
  );
  expect([stderr, status]).toEqual(["", 0]);
  const transform = ["the cat sat", "--max-new-tokens", "8", "--threads", "1", "--json"];
  const kept = await lineage("transform", "--model", at("t5-8"), ...transform);
  expect(kept.status).toBe(0);
  const text = (line: string) => (JSON.parse(line) as { readonly text: string }).text;
  const gguf = await lineage("quantize", "--model", at("Q8_0.gguf"), "--out", at("again-8"), "--bits", "8");
  expect(gguf.status).toBe(0);
  expect((await lineage("transform", "--model", at("again-8"), ...transform)).status).toBe(0);
  expect(text(kept.stdout)).toBe(
    text((await lineage("transform", "--model", at("t5"), "--quantize", "8", ...transform)).stdout),
  );
});

it("a GGUF is transformed with as it is", async () => {
  await convert(at("t5"), at("own.gguf"), "--format", "F32");
  const transform = ["the cat sat", "--max-new-tokens", "8", "--threads", "1"];
  const folder = await lineage("transform", "--model", at("t5"), ...transform);
  const file = await lineage("transform", "--model", at("own.gguf"), ...transform);
  expect([folder.status, file.status, file.stdout]).toEqual([0, 0, folder.stdout]);
});

it("other commands say what a T5's GGUF is", async () => {
  expect(await refusal("generate", "--model", at("F32.gguf"), "--prompt", "the")).toContain(
    "holds a T5, an encoder-decoder; a decoder is needed here",
  );
  expect(await refusal("embed", "--model", at("F32.gguf"), "the cat")).toContain("GGUF");
});
