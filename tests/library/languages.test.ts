import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { saveModel } from "../../src/checkpoints/index.js";
import { loadTokenizer } from "../../src/formats/index.js";
import { load } from "../../src/index.js";
import { systems } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { lineage } from "../support/cli.js";
import { Reference } from "../support/reference.js";

let folder = "";
const french: Record<string, number> = {};
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-languages-"));
  for (const kind of ["mbart", "mbart50"]) {
    const tokenizer = await loadTokenizer(new Reference(`encoder-decoder-tokenizers/${kind}`).path());
    french[kind] = tokenizer.tokenToId("fr_XX")!;
    const system = systems.mbart;
    const model = system.create(
      system.config.create({
        vocabSize: tokenizer.vocabSize,
        hiddenSize: 32,
        numLayers: 1,
        numHeads: 2,
        intermediateSize: 64,
        contextLength: 64,
      }),
    );
    using weights = Weights.initialize(createRuntime(), model, 3);
    await saveModel(path.join(folder, kind), { system, model, weights, tokenizer });
  }
});
afterAll(() => rm(folder, { recursive: true }));

const options = { maxNewTokens: 8 };
const open = (kind: string, languages: { source?: string; target?: string }) =>
  load(path.join(folder, kind), { kind: "encoder-decoder", languages });

it("an mBART of 25 languages begins with the code of the language that it is to write", async () => {
  using chosen = await open("mbart", { source: "de_DE", target: "fr_XX" });
  using german = await open("mbart", { source: "de_DE" });
  const wanted = await german.transform(["Ein Hund rennt."], { ...options, begin: [french["mbart"]!] });
  expect(await chosen.transform(["Ein Hund rennt."], options)).toEqual(wanted);
});

it("an mBART of 50 languages writes the code first", async () => {
  using chosen = await open("mbart50", { source: "de_DE", target: "fr_XX" });
  using german = await open("mbart50", { source: "de_DE" });
  const wanted = await german.transform(["Ein Hund rennt."], {
    ...options,
    forcedFirst: french["mbart50"]!,
  });
  expect(await chosen.transform(["Ein Hund rennt."], options)).toEqual(wanted);
});

it("the command line chooses them by --from and --to", async () => {
  using chosen = await open("mbart50", { source: "de_DE", target: "fr_XX" });
  const [wanted] = await chosen.transform(["Ein Hund rennt."], options);
  const { stdout, status } = await lineage(
    ...["transform", "--model", path.join(folder, "mbart50"), "--no-prepared", "--json"],
    ...["--from", "de_DE", "--to", "fr_XX", "--max-new-tokens", "8", "Ein Hund rennt."],
  );
  expect(status).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({ text: wanted!.text, newTokens: wanted!.newTokens });
});

it("a language that the model has not got is refused with those that it has", async () => {
  await expect(open("mbart", { target: "xx_XX" })).rejects.toThrow(
    /has no language xx_XX; it has .*\bde_DE\b/,
  );
});
