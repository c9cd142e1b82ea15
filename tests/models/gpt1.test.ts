import { mkdtemp, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { loadTokenizer } from "../../src/formats/index.js";
import { Gpt1, gpt1Sizes, systems } from "../../src/models/index.js";
import { countParameters } from "../../src/nn/index.js";
import { trainWordBpe, wordBpeTokenizer } from "../../src/tokenizers/index.js";
import { Reference } from "../support/reference.js";
import { agreesWithReference } from "./decoders.js";

const { publishedParameters, tokenizer: published } = new Reference("gpt1-tiny").json("values.json") as {
  publishedParameters: number;
  tokenizer: {
    vocabulary: Record<string, number>;
    merges: string[];
    texts: { text: string; ids: number[]; decoded: string }[];
  };
};

describe("GPT-1 agrees with Hugging Face transformers on random weights", () => {
  agreesWithReference("gpt1-tiny", (json) => new Gpt1(systems.gpt1.config.read(json)));
});

it("has the parameters of the published size, as transformers counts them", () => {
  const { config, parameters } = gpt1Sizes["openai-gpt"];
  expect(countParameters(new Gpt1(config))).toBe(publishedParameters);
  expect(parameters).toBe(publishedParameters);
  expect(Math.round(parameters / 1e6)).toBe(117);
});

describe("GPT-1's tokenizer", () => {
  const vocabulary = new Map(Object.entries(published.vocabulary));

  it.each(published.texts)("gives the ids and the text of transformers: $text", ({ text, ids, decoded }) => {
    const tokenizer = wordBpeTokenizer({ vocabulary, merges: published.merges });
    expect(tokenizer.encode(text)).toEqual(ids);
    expect(tokenizer.decode(ids, { skipSpecialTokens: false })).toBe(decoded);
  });

  it("is read from vocab.json and merges.txt beside a GPT-1, and refused beside a model that nobody names", async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), "lineage-gpt1-"));
    await writeFile(path.join(folder, "vocab.json"), JSON.stringify(published.vocabulary));
    await writeFile(path.join(folder, "merges.txt"), `#version: 0.2\n${published.merges.join("\n")}\n`);
    await expect(loadTokenizer(folder)).rejects.toThrow("without a tokenizer.json");
    await writeFile(path.join(folder, "config.json"), JSON.stringify({ model_type: "openai-gpt" }));
    const tokenizer = await loadTokenizer(folder);
    for (const { text, ids } of published.texts) expect(tokenizer.encode(text)).toEqual(ids);
  });

  it("is learned from text: words are lower-cased and come back with their spaces", () => {
    const tokenizer = trainWordBpe(["The fox jumps. The fox runs. The boxes run."], { vocabSize: 60 });
    const ids = tokenizer.encode("the FOX runs");
    expect(tokenizer.decode(ids)).toBe("the fox runs");
    expect(tokenizer.encode("the fox")).toHaveLength(2);
    expect(tokenizer.encode("?")[0]).toBe(0);
  });
});
