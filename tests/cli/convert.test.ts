import { existsSync } from "node:fs";
import { mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Tokenizer, trainByteLevelBpe } from "../../src/tokenizers/index.js";
import { openWeightFiles } from "../../src/formats/index.js";
import { Llama, llamaConfig, systems } from "../../src/models/index.js";
import { loadModel, saveModel } from "../../src/checkpoints/index.js";
import { Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { lineage } from "../support/cli.js";

let folder: string;
const at = (name: string) => path.join(folder, name);
const runtime = createRuntime({ threads: 1 });
const trained = trainByteLevelBpe(["the cat sat on the mat. user assistant ".repeat(20)], { vocabSize: 290 });
const tokenizer = new Tokenizer(trained.definition, {
  ...trained.config,
  chat_template: "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}",
});

beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
  const model = new Llama(
    llamaConfig({
      vocabSize: tokenizer.vocabSize,
      hiddenSize: 64,
      intermediateSize: 96,
      numLayers: 2,
      numHeads: 4,
      numKeyValueHeads: 2,
      contextLength: 128,
      tieEmbeddings: true,
      initializerRange: 0.1,
    }),
  );
  using weights = Weights.initialize(runtime, model, 2);
  await saveModel(folder, { system: systems.llama, model, weights, tokenizer, stopIds: [0, 5] });
});
afterAll(async () => {
  await rm(folder, { recursive: true });
});

const convert = async (...args: string[]) => {
  const { stdout, stderr, status } = await lineage("convert", ...args, "--threads", "1", "--json");
  expect(stderr).toBe("");
  expect(status).toBe(0);
  return JSON.parse(stdout) as {
    meanDivergence: number;
    tokens: number;
    problems: string[];
    files?: { specialIds: { result: { stop: number[] } } };
  };
};

describe("convert", () => {
  it.each([
    ["F32", 1e-10],
    ["F16", 1e-5],
    ["Q8_0", 1e-3],
    ["Q4_0", 0.5],
  ])("writes a GGUF in %s and shows that it is the same model", async (format, limit) => {
    const result = await convert(folder, at(`${format}.gguf`), "--format", format);
    expect(result.problems).toEqual([]);
    expect(result.meanDivergence).toBeLessThan(limit);
    expect(result.files!.specialIds.result.stop).toEqual([0, 5]);
  });

  it("comes back from a GGUF as safetensors, in shards of 16-bit floats", async () => {
    await convert(folder, at("again.gguf"), "--format", "F32");
    const result = await convert(at("again.gguf"), at("bf16"), "--dtype", "bfloat16", "--shard-size", "0.06");
    expect(result.meanDivergence).toBeLessThan(1e-3);
    const files = await openWeightFiles(at("bf16"));
    expect(files.length).toBeGreaterThan(1);
    expect(files[0]!.header.tensors.values().next().value!.dtype).toBe("bfloat16");
    const index = JSON.parse(await readFile(at("bf16/model.safetensors.index.json"), "utf8")) as {
      metadata: { total_size: number };
    };
    const loaded = await loadModel(runtime, at("bf16"));
    using weights = loaded.weights;
    const numbers = Object.values(weights.tensors).reduce((sum, { size }) => sum + size, 0);
    expect(index.metadata.total_size).toBe(2 * numbers);
    // A later save in one file takes the place of the shards.
    await convert(folder, at("bf16"), "--dtype", "float16");
    expect(existsSync(at("bf16/model.safetensors.index.json"))).toBe(false);
    expect((await openWeightFiles(at("bf16"))).map(({ path: file }) => path.basename(file))).toEqual([
      "model.safetensors",
    ]);
  });

  it("writes an ONNX whose own numbers give the same distributions", async () => {
    const result = await convert(folder, at("model.onnx"));
    expect(result.meanDivergence).toBeLessThan(1e-8);
    expect(result.tokens).toBeGreaterThan(50);
  });

  it("takes a GGUF's further ends, which llama.cpp finds by their names, for no difference", async () => {
    const loaded = await loadModel(runtime, folder);
    using weights = loaded.weights;
    // The last token, and the merge that makes it, give way to one with such a name.
    const { definition, config } = tokenizer;
    const id = tokenizer.vocabSize - 1;
    const vocab = Object.entries(definition.model.vocab as Record<string, number>).filter(
      ([, own]) => own !== id,
    );
    const named = new Tokenizer(
      {
        ...definition,
        added_tokens: [
          ...definition.added_tokens,
          { ...definition.added_tokens[0]!, id, content: "<|im_end|>" },
        ],
        model: {
          ...definition.model,
          vocab: Object.fromEntries([...vocab, ["<|im_end|>", id]]),
          merges: definition.model.merges!.slice(0, -1),
        },
      },
      config,
    );
    await saveModel(at("ends"), { ...loaded, weights, tokenizer: named, stopIds: [0] });
    const result = await convert(at("ends"), at("ends.gguf"), "--format", "F32");
    expect(result.problems).toEqual([]);
    expect(result.files!.specialIds.result.stop).toEqual([0, id]);
  });

  it("says what differs, for a person", async () => {
    const { stdout } = await lineage("convert", folder, at("read.gguf"), "--threads", "1");
    expect(stdout).toContain("tied to the output: the same");
    expect(stdout).toContain("chat template  the same");
  });

  it("ends with one sentence where it cannot", async () => {
    expect((await lineage("convert", folder, folder)).stderr).toContain(
      "source and result are the same place",
    );
    expect((await lineage("convert", at("absent.gguf"), at("x"))).stderr).toMatch(
      /^error: there is no .*absent\.gguf; /,
    );
    await writeFile(at("broken.gguf"), "GGUF but not really, and long enough");
    expect((await lineage("convert", at("broken.gguf"), at("x"))).stderr).toMatch(/^error: .*broken\.gguf: /);
    expect(await readdir(folder)).not.toContain("x");
  });
});

describe("inspect", () => {
  it("counts the same numbers in every format of one model", async () => {
    const inspect = async (place: string) =>
      JSON.parse((await lineage("inspect", place, "--json")).stdout) as { parameters: number; kind: string };
    const { parameters } = await inspect(folder);
    expect(parameters).toBeGreaterThan(50_000);
    expect((await inspect(at("model.safetensors"))).parameters).toBe(parameters);
    await convert(folder, at("counted.gguf"), "--format", "Q8_0");
    expect(await inspect(at("counted.gguf"))).toMatchObject({ parameters, kind: "GGUF, version 3" });
    expect((await lineage("inspect", at("counted.gguf"))).stdout).toContain('general.architecture = "llama"');
    expect((await lineage("inspect", at("config.json"))).stderr).toContain(
      "is not a model: inspect reads folders and .gguf",
    );
  });
});
