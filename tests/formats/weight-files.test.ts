import { mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { loadWeights, writeSafetensors } from "../../src/formats/index.js";
import { LayerNorm } from "../../src/nn/index.js";
import { bfloat16Bits, float16Bits } from "../../src/base/half.js";
import { createRuntime } from "../../src/runtime/index.js";

const runtime = createRuntime();
const model = new LayerNorm(4);
const values = [1.5, -0.25, 65504, 2 ** -24];
let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
});
afterAll(() => rm(folder, { recursive: true }));

const bits = (convert: (value: number) => number) => new Uint8Array(Uint16Array.from(values, convert).buffer);
const index = (weightMap: Record<string, string>) =>
  writeFile(path.join(folder, "model.safetensors.index.json"), JSON.stringify({ weight_map: weightMap }));

it("weights come from shards, and from 16-bit floats without loss", async () => {
  await writeSafetensors(path.join(folder, "a.safetensors"), [
    { name: "weight", dtype: "float16", shape: [4], bytes: bits(float16Bits) },
  ]);
  await writeSafetensors(path.join(folder, "b.safetensors"), [
    { name: "bias", dtype: "bfloat16", shape: [4], bytes: bits(bfloat16Bits) },
  ]);
  await index({ weight: "a.safetensors", bias: "b.safetensors" });
  using weights = await loadWeights(runtime, model, folder);
  expect([...weights.get("weight").view()]).toEqual(values);
  // 65504 needs eleven bits; bfloat16 keeps eight, and rounds it to 65536.
  expect([...weights.get("bias").view()]).toEqual([1.5, -0.25, 65536, 2 ** -24]);
});

it("an index that names a missing shard, or one outside the folder, is refused", async () => {
  await index({ weight: "a.safetensors", bias: "gone.safetensors" });
  await expect(loadWeights(runtime, model, folder)).rejects.toThrow(
    "has no gone.safetensors, a shard that its index names",
  );
  for (const outside of ["../a.safetensors", ".", "..", "", "/etc/passwd", "a\\b", "a\0b"]) {
    await index({ weight: outside });
    await expect(loadWeights(runtime, model, folder)).rejects.toThrow("must be a file of the same folder");
  }
  await index({});
  await expect(loadWeights(runtime, model, folder)).rejects.toThrow("names no tensor");
  await writeSafetensors(path.join(folder, "twice.safetensors"), [
    { name: "weight", dtype: "float16", shape: [4], bytes: bits(float16Bits) },
  ]);
  await index({ weight: "a.safetensors", bias: "twice.safetensors" });
  await expect(loadWeights(runtime, model, folder)).rejects.toThrow(/the tensor "weight" is in .*, too/);
  await index({ weight: "a.safetensors" });
  await expect(loadWeights(runtime, model, folder)).rejects.toThrow(
    "has no tensor bias, which the model needs",
  );
});

it("shards without an index are read where their numbers say that they are all", async () => {
  const place = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
  const shard = (name: string, tensor: string) =>
    writeSafetensors(path.join(place, `${name}.safetensors`), [
      { name: tensor, dtype: "float16", shape: [4], bytes: bits(float16Bits) },
    ]);
  try {
    await expect(loadWeights(runtime, model, place)).rejects.toThrow("nor shards of one");
    await shard("model-00001-of-00002", "weight");
    await expect(loadWeights(runtime, model, place)).rejects.toThrow("has 1 of 2 shards");
    await expect(loadWeights(runtime, model, place)).rejects.toThrow("missing: 2");
    await shard("model-00002-of-00002", "bias");
    using weights = await loadWeights(runtime, model, place);
    expect([...weights.get("bias").view()]).toEqual(values);
    await shard("other-00001-of-00002", "weight");
    await expect(loadWeights(runtime, model, place)).rejects.toThrow("shards of several models");
  } finally {
    await rm(place, { recursive: true });
  }
});
