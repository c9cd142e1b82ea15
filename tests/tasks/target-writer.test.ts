import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { saveModel } from "../../src/checkpoints/index.js";
import { quantizeEncoderFolder } from "../../src/library/leave.js";
import { unilm, unilmConfig } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { TargetWriter, holdsTargetWriter } from "../../src/tasks/index.js";
import { trainWordPiece } from "../../src/tokenizers/index.js";
import { lineage } from "../support/cli.js";
import { sentences, writeTinyBert } from "../support/tiny-encoder.js";

let root = "";
let folder = "";
beforeAll(async () => {
  root = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
  folder = path.join(root, "unilm");
  const tokenizer = trainWordPiece([...sentences, ...sentences], { vocabSize: 90 });
  const config = unilmConfig({
    ...{ vocabSize: tokenizer.vocabSize, hiddenSize: 32, numLayers: 2, numHeads: 2, contextLength: 24 },
    initializerRange: 0.4,
  });
  const model = unilm.heads["fill-mask"].create(config, 2);
  using runtime = createRuntime();
  using weights = Weights.initialize(runtime, model, 7);
  await saveModel(folder, {
    system: unilm,
    model,
    weights,
    tokenizer,
    head: "fill-mask",
  });
});
afterAll(() => rm(root, { recursive: true }));

it("a UniLM's folder writes what follows from a text, the same by the command", async () => {
  expect(await holdsTargetWriter(folder)).toBe(true);
  using writer = await TargetWriter.load(folder);
  const text = await writer.write("the dog was good", { maxNewTokens: 5 });
  expect(text.trim()).not.toBe("");
  // What is written is a prefix of what more room gives: each word is the likeliest after those before it.
  const longer = await writer.write("the dog was good", { maxNewTokens: 9 });
  expect(longer.startsWith(text)).toBe(true);
  await expect(writer.write("the dog was good ".repeat(8), { maxNewTokens: 5 })).rejects.toThrow(
    "shorten it",
  );
  const given = ["--model", folder, "--prompt", "the dog was good", "--max-new-tokens", "5"];
  const { stdout, status } = await lineage("generate", ...given);
  expect([status, stdout.trim()]).toEqual([0, text.trim()]);
  expect((await lineage("generate", ...given, "--regex", "a*")).stderr).toContain("leave out --regex");
});

it("a UniLM in 8 bits writes the same", async () => {
  using runtime = createRuntime();
  const few = path.join(root, "few");
  await quantizeEncoderFolder(runtime, folder, few, { bits: 8 });
  using full = await TargetWriter.load(folder);
  using writer = await TargetWriter.load(few);
  const options = { maxNewTokens: 5 };
  expect(await writer.write("the dog was good", options)).toBe(await full.write("the dog was good", options));
});

it("another encoder is none", async () => {
  await writeTinyBert(root);
  expect(await holdsTargetWriter(root)).toBe(false);
});
