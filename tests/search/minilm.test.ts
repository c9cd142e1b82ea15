import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Embedder, cosineSimilarity } from "../../src/search/index.js";
import { MaskFiller } from "../../src/tasks/index.js";
import { createRuntime } from "../../src/runtime/index.js";

const folder = process.env["LINEAGE_MINILM"];
const reference = JSON.parse(
  readFileSync(new URL("../reference/values/minilm.json", import.meta.url), "utf8"),
) as { texts: string[]; ids: number[][]; vectors: number[][] };

describe.skipIf(folder === undefined)("all-MiniLM-L6-v2 (needs its folder in LINEAGE_MINILM)", () => {
  let embedder: Embedder;
  beforeAll(async () => {
    embedder = await Embedder.load(folder!, { runtime: createRuntime() });
  });
  afterAll(() => {
    embedder.dispose();
  });

  it("reads short, long, empty, accented, CJK and emoji texts as the Python library does", () => {
    const { texts, ids } = reference;
    texts.forEach((text, place) => {
      expect(embedder.encode(text).ids, text.slice(0, 40)).toEqual(ids[place]);
    });
  });

  it("gives sentence-transformers' vectors, in the order of the texts, and counts what was cut", async () => {
    const { texts, vectors } = reference;
    const cut: [number, number][] = [];
    const found = await embedder.embed(texts, {
      batchSize: 5,
      onTruncated: (place, tokens) => cut.push([place, tokens]),
    });
    found.forEach((vector, place) => {
      const cosine = cosineSimilarity(vector, Float32Array.from(vectors[place]!));
      expect(cosine, texts[place]!.slice(0, 40)).toBeGreaterThan(0.9999);
      const length = Math.hypot(...vector);
      expect(length).toBeCloseTo(1, 5);
    });
    const long = texts.findIndex((text) => text.length > 2000);
    const whole = texts[long]!;
    expect(cut).toEqual([[long, 12 * (embedder.encode(texts[long + 1]!).ids.length - 2) - 254]]);
    expect(embedder.encode(whole).ids).toHaveLength(256);
  });

  it("gives a text the vector in a batch that it has alone", async () => {
    const [alone] = await embedder.embed([reference.texts[0]!]);
    const [, , among] = await embedder.embed([reference.texts[7]!, "x", reference.texts[0]!]);
    expect(cosineSimilarity(alone!, among!)).toBeGreaterThan(0.999999);
  });

  it("refuses to fill masks, for it has no head that could", async () => {
    await expect(MaskFiller.load(folder!)).rejects.toThrow("has no head for filling masks");
  });
});
