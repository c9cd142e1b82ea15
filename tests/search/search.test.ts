import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rm, utimes, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Embedder, cosineSimilarity, SearchIndex } from "../../src/search/index.js";
import { MaskFiller } from "../../src/tasks/index.js";
import { sentences, writeTinyBert } from "../support/tiny-encoder.js";

let folder = "";
let model = "";
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
  model = path.join(folder, "model");
  await mkdir(model);
  await writeTinyBert(model);
});
afterAll(() => rm(folder, { recursive: true }));

describe("an embedder", () => {
  it("pools as it is told and as the folder's modules say", async () => {
    const vector = async (options?: Parameters<typeof Embedder.load>[1]) => {
      using embedder = await Embedder.load(model, options);
      const [, found] = await embedder.embed([sentences[3]!, sentences[0]!]);
      return found!;
    };
    const [mean, cls, raw] = [
      await vector(),
      await vector({ pooling: "cls" }),
      await vector({ pooling: "mean", normalize: false }),
    ];
    expect(Math.hypot(...mean)).toBeCloseTo(1, 5);
    expect(Math.hypot(...raw)).toBeGreaterThan(2);
    expect(cosineSimilarity(mean, raw)).toBeCloseTo(1, 5);
    expect(cosineSimilarity(mean, cls)).toBeLessThan(0.99);
    await writeFile(
      path.join(model, "modules.json"),
      JSON.stringify([
        { idx: 0, path: "", type: "sentence_transformers.models.Transformer" },
        { idx: 1, path: "1_Pooling", type: "sentence_transformers.models.Pooling" },
      ]),
    );
    await mkdir(path.join(model, "1_Pooling"), { recursive: true });
    const config = path.join(model, "1_Pooling", "config.json");
    await writeFile(config, JSON.stringify({ pooling_mode_cls_token: true, pooling_mode_mean_tokens: true }));
    const both = await vector();
    expect(both).toHaveLength(64);
    expect(cosineSimilarity(both.subarray(0, 32), cls)).toBeCloseTo(1, 5);
    expect(cosineSimilarity(both.subarray(32), raw)).toBeCloseTo(1, 5);
    await writeFile(config, JSON.stringify({ pooling_mode_spiral: true }));
    await expect(Embedder.load(model)).rejects.toThrow("asks for pooling_mode_spiral");
    await rm(path.join(model, "modules.json"));
  });

  it("refuses a length that the model does not know", async () => {
    await expect(Embedder.load(model, { maxLength: 65 })).rejects.toThrow("maxLength must be from 3 to 64");
  });
});

describe("a search index", () => {
  it("finds the passage, with its file and lines, and embeds again only what changed", async () => {
    const notes = path.join(folder, "notes");
    await mkdir(path.join(notes, "deep"), { recursive: true });
    await writeFile(path.join(notes, "a.txt"), `${sentences.slice(0, 6).join("\n")}\n\n${sentences[9]!}\n`);
    await writeFile(path.join(notes, "deep", "b.md"), `\n\n${sentences[14]!}\n`);
    await writeFile(path.join(notes, "picture.png"), Uint8Array.of(0, 1, 2));
    using embedder = await Embedder.load(model, { maxLength: 24 });
    const first = await SearchIndex.open(notes, embedder);
    expect(first.report).toMatchObject({ files: 2, embedded: 2, removed: 0, skipped: ["picture.png"] });
    const [best] = await first.search(sentences[14]!);
    expect(best).toMatchObject({ file: "deep/b.md", firstLine: 3, lastLine: 3, text: sentences[14] });
    expect(best!.score).toBeCloseTo(1, 4);
    expect(existsSync(path.join(notes, ".lineage-search.safetensors"))).toBe(true);

    const second = await SearchIndex.open(notes, embedder);
    expect(second.report).toMatchObject({ files: 2, embedded: 0, passages: first.report.passages });
    expect(await second.search(sentences[2]!)).toEqual(await first.search(sentences[2]!));

    await writeFile(path.join(notes, "deep", "b.md"), `${sentences[20]!}\n`);
    await utimes(path.join(notes, "deep", "b.md"), 1e9, 1e9);
    await writeFile(path.join(notes, "c.txt"), sentences[17]!);
    await rm(path.join(notes, "a.txt"));
    const third = await SearchIndex.open(notes, embedder);
    expect(third.report).toMatchObject({ files: 2, embedded: 2, removed: 1, passages: 2 });
    expect((await third.search(sentences[20]!, { topK: 1 }))[0]).toMatchObject({
      file: "deep/b.md",
      firstLine: 1,
    });
  });

  it("refuses a file that is no index, and makes a new one for another model", async () => {
    const notes = path.join(folder, "few");
    await mkdir(notes);
    await writeFile(path.join(notes, "a.txt"), sentences[0]!);
    using embedder = await Embedder.load(model);
    await expect(
      SearchIndex.open(notes, embedder, { cache: path.join(model, "model.safetensors") }),
    ).rejects.toThrow("this is not a search index");
    await SearchIndex.open(notes, embedder);
    using other = await Embedder.load(model, { pooling: "cls" });
    expect((await SearchIndex.open(notes, other)).report).toMatchObject({ embedded: 1, removed: 0 });
  });

  it("cuts long texts into passages that the model reads whole and that hold every line once", async () => {
    const long = path.join(folder, "long");
    await mkdir(long);
    const lines = Array.from({ length: 60 }, (_, i) => (i % 5 === 4 ? "" : sentences[i % sentences.length]!));
    await writeFile(path.join(long, "long.txt"), lines.join("\n"));
    using embedder = await Embedder.load(model, { maxLength: 30 });
    const index = await SearchIndex.open(long, embedder, { cache: null });
    const passages = await index.search("film", { topK: 1000 });
    const covered = passages
      .flatMap(({ firstLine, lastLine }) =>
        Array.from({ length: lastLine - firstLine + 1 }, (_, i) => firstLine + i),
      )
      .sort((a, b) => a - b);
    const full = lines.flatMap((line, i) => (line === "" ? [] : [i + 1]));
    expect(covered.filter((line) => lines[line - 1] !== "")).toEqual(full);
    for (const { text } of passages) expect(embedder.encode(text).truncated).toBe(0);
    expect(existsSync(path.join(long, ".lineage-search.safetensors"))).toBe(false);
    await expect(index.search(" ")).rejects.toThrow("the query is empty");
  });
});

describe("a mask filler", () => {
  it("gives the most probable tokens of every mask", async () => {
    using filler = await MaskFiller.load(model);
    const masks = await filler.fill("the <mask> was [MASK]", { topK: 90 });
    expect(masks).toHaveLength(2);
    for (const fillings of masks) {
      const total = fillings.reduce((sum, { probability }) => sum + probability, 0);
      expect(total).toBeCloseTo(1, 4);
      expect([...fillings].sort((a, b) => b.probability - a.probability)).toEqual(fillings);
    }
    await expect(filler.fill("the film")).rejects.toThrow("the text has no mask: write [MASK]");
  });
});
