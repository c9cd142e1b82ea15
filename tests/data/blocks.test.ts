import { mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import {
  type Batch,
  type BlockOptions,
  BlockSource,
  blocksOnce,
  markedCorpus,
} from "../../src/data/index.js";
import { controlToken } from "../../src/tokenizers/index.js";

const root = await mkdtemp(path.join(os.tmpdir(), "blocks-"));
afterAll(() => rm(root, { recursive: true, force: true }));

const options: BlockOptions<number[]> = {
  blockLength: 4,
  batchSize: 3,
  seed: 7,
  transform: (block) => Array.from(block),
  collate: (rows) => ({
    tensors: { rows: { data: Int32Array.from(rows.flat()), shape: [rows.length, 4] } },
    counts: { tokens: rows.length },
  }),
};
const numbers = (start: number, count: number) => Int32Array.from({ length: count }, (_, at) => start + at);
const firsts = ({ tensors }: Batch) => {
  const data = Array.from(tensors["rows"]!.data, Number);
  return data.filter((_, at) => at % 4 === 0);
};

describe("blocks of texts", () => {
  const parts = [
    { tokens: numbers(0, 401), rate: 3, name: "a" },
    { tokens: numbers(1000, 42), rate: 1, name: "b" },
  ];

  it("come once in every epoch of their part, by the rates of the parts", () => {
    const source = new BlockSource(parts, options);
    expect(source.blocks).toBe(110);
    expect(source.droppedTokens).toBe(1 + 2);
    const seen = Array.from({ length: 400 }, () => firsts(source.next())).flat();
    const ofB = seen.filter((first) => first >= 1000);
    // A quarter of 1,200 rows, within four deviations.
    expect(Math.abs(ofB.length - 300)).toBeLessThan(60);
    for (let epoch = 0; epoch < 10; epoch++)
      expect(new Set(ofB.slice(epoch * 10, (epoch + 1) * 10)).size).toBe(10);
    const ofA = seen.filter((first) => first < 1000).slice(0, 100);
    expect([...ofA].sort((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, at) => 4 * at));
  });

  it("go on where they stood", () => {
    const source = new BlockSource(parts, options);
    for (let batch = 0; batch < 50; batch++) source.next();
    const again = new BlockSource(parts, options);
    again.restore(JSON.parse(JSON.stringify(source.state)));
    for (let batch = 0; batch < 40; batch++) expect(firsts(again.next())).toEqual(firsts(source.next()));
    expect(() => {
      again.restore({ rows: 1, drawn: [1] });
    }).toThrow("not a place in these texts");
  });

  it("are refused where a part does not fill one", () => {
    expect(() => new BlockSource([{ tokens: numbers(0, 3), rate: 1, name: "short.txt" }], options)).toThrow(
      "short.txt has 3 tokens",
    );
  });

  it("are held out each once, the end of a text too", () => {
    const rows: number[][] = [];
    const collate = (made: readonly number[][]) => {
      rows.push(...made);
      return { tensors: {}, counts: {} };
    };
    expect([...blocksOnce([numbers(0, 10), numbers(50, 5)], { ...options, collate })]).toHaveLength(2);
    // A single token has nothing to predict.
    expect(rows).toEqual([
      [0, 1, 2, 3],
      [4, 5, 6, 7],
      [8, 9],
      [50, 51, 52, 53],
    ]);
  });
});

describe("marked documents", () => {
  const file = path.join(root, "documents.jsonl");
  const documents = Array.from({ length: 200 }, (_, index) => ({
    text: `document ${index}`,
    toxicity: index % 4 === 0 ? "high" : "low",
  }));
  const write = (rows: readonly object[]) =>
    writeFile(file, rows.map((row) => JSON.stringify(row)).join("\n"));
  const options = { column: "toxicity", rate: 0.25, seed: 3, tokenOf: controlToken };

  it("begin with the token of their label, as many as the rate says", async () => {
    await write(documents);
    const corpus = await markedCorpus(file, options);
    expect(corpus.markers).toEqual(["<|toxicity:high|>", "<|toxicity:low|>"]);
    const parts = [...corpus.parts()];
    expect(parts).toHaveLength(200);
    let marked = 0;
    for (const [index, part] of parts.entries()) {
      const { text, toxicity } = documents[index]!;
      if (part === text) continue;
      marked++;
      expect(part).toBe(`<|toxicity:${toxicity}|>${text}`);
    }
    // Four deviations of a share of 200 draws.
    expect(Math.abs(marked - 50)).toBeLessThan(25);
    expect(corpus.marked).toBe(marked);
    expect([...(await markedCorpus(file, options)).parts()]).toEqual(parts);
    const every = await markedCorpus(file, { ...options, rate: 1 });
    expect(every.marked).toBe(200);
  });

  it.each([
    [[{ text: "a", other: "b" }], "no toxicity"],
    [[{ words: "a", toxicity: "low" }], "name the one with the documents text"],
    [[{ text: "a", toxicity: "" }], "row 1"],
    [[{ text: "a", toxicity: "very high" }], "one word"],
    [[{ text: "  ", toxicity: "low" }], "no text"],
    [documents.map(({ text }, index) => ({ text, toxicity: `l${index}` })), "200 different labels"],
  ])("are refused: %#", async (rows, message) => {
    await write(rows);
    await expect(markedCorpus(file, options)).rejects.toThrow(message);
  });
});
