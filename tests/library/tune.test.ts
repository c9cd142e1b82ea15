import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { pullFolder } from "../../src/formats/hub.js";
import { finetune, load } from "../../src/index.js";
import { writeTinyBert } from "../support/tiny-encoder.js";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-tune-"));
  const pulled = pullFolder("cats/tiny-bert", folder);
  await mkdir(pulled, { recursive: true });
  await writeTinyBert(pulled, "fill-mask");
  await writeFile(path.join(pulled, ".lineage-pull.json"), "{}");
  vi.stubEnv("LINEAGE_CACHE", folder);
});
afterAll(async () => {
  vi.unstubAllEnvs();
  await rm(folder, { recursive: true });
});

it("fine-tuning takes a pulled model by its name on the hub, and says what is near a path that is not there", async () => {
  const data = path.join(folder, "train.csv");
  const rows = Array.from({ length: 24 }, (_, i) => (i % 2 === 0 ? "the cat sat,good" : "the dog ran,bad"));
  await writeFile(data, `text,label\n${rows.join("\n")}\n`);
  const out = path.join(folder, "mood");
  await finetune({ model: "cats/tiny-bert", task: "classify", data, out, epochs: 1 });
  using model = await load(out, { task: "classify" });
  expect(model.labels).toEqual(["bad", "good"]);
  await expect(
    finetune({ model: path.join(folder, "cats--tiny-brt"), task: "classify", data, out, epochs: 1 }),
  ).rejects.toThrow(`did you mean ${path.join(folder, "cats--tiny-bert")}?`);
});
