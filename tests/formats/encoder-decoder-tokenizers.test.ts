import { cp, mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { loadTokenizer, writeTokenizer } from "../../src/formats/index.js";
import { inLanguages } from "../../src/tokenizers/index.js";
import { encodePairs } from "../../src/tasks/text-data.js";
import { Reference } from "../support/reference.js";

interface Encoded {
  readonly text: string;
  readonly ids: number[];
}
interface Values {
  readonly encoded: readonly (Encoded & { readonly decoded: string })[];
  readonly pairs: readonly { readonly texts: [string, string]; readonly ids: number[] }[];
  readonly special: Readonly<Record<string, number | null>>;
  readonly targets?: readonly Encoded[];
  readonly codes?: Readonly<Record<string, number>>;
  readonly size?: number;
}

const kinds = ["t5", "mt5", "marian", "mbart", "mbart50", "bart"];
const referenceOf = (kind: string) => new Reference(`encoder-decoder-tokenizers/${kind}`);

let folder = "";
beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
});
afterEach(() => rm(folder, { recursive: true }));

describe.each(kinds)("the published files of a tokenizer of %s", (kind) => {
  const reference = referenceOf(kind);
  const values = reference.json("values.json") as Values;

  it.each([false, true])("give transformers' ids, and again after a save: %s", async (saved) => {
    let tokenizer = await loadTokenizer(reference.path());
    if (saved) {
      await writeTokenizer(tokenizer, folder);
      await cp(reference.path("config.json"), path.join(folder, "config.json"));
      tokenizer = await loadTokenizer(folder);
    }
    expect(tokenizer.warnings).toEqual([]);
    for (const { text, ids } of values.encoded)
      expect([text, tokenizer.encodePair(text).ids]).toEqual([text, ids]);
    for (const { text, ids } of values.targets ?? [])
      expect([text, tokenizer.target.encodePair(text).ids]).toEqual([text, ids]);
    for (const { texts, ids } of values.pairs) expect(tokenizer.encodePair(...texts).ids).toEqual(ids);
    expect(tokenizer.eosId).toBe(values.special["eos_token_id"]);
    expect(tokenizer.padId).toBe(values.special["pad_token_id"]);
    expect(tokenizer.unkId).toBe(values.special["unk_token_id"]);
    for (const [code, id] of Object.entries(values.codes ?? {})) expect(tokenizer.tokenToId(code)).toBe(id);
    if (values.size !== undefined) expect(tokenizer.vocabSize).toBe(values.size);
  });

  it("write the texts that the ids stand for", async () => {
    const tokenizer = await loadTokenizer(reference.path());
    for (const { text, ids, decoded } of values.encoded)
      // The libraries do not agree about spaces at the ends, nor about how the unknown is written.
      if (!/[⁇]|<unk>/.test(decoded) && !ids.includes(tokenizer.unkId!))
        expect([text, tokenizer.decode(ids).trim()]).toEqual([text, decoded.trim()]);
  });
});

it.each(["mt5", "mbart", "mbart50"])(
  "the tokenizer.json that transformers makes of %s gives its ids",
  async (kind) => {
    const reference = referenceOf(`${kind}-fast`);
    const { encoded, targets } = reference.json("values.json") as Values;
    const tokenizer = await loadTokenizer(reference.path());
    expect(tokenizer.warnings).toEqual([]);
    for (const { text, ids } of encoded) expect([text, tokenizer.encodePair(text).ids]).toEqual([text, ids]);
    for (const { text, ids } of targets!)
      expect([text, tokenizer.target.encodePair(text).ids]).toEqual([text, ids]);
  },
);

it("mBART's tokenizer takes other languages, and refuses one that it does not have", async () => {
  const german = await loadTokenizer(referenceOf("mbart").path());
  const french = inLanguages(german, { source: "fr_XX", target: "ja_XX" });
  const ids = german.encodePair("a dog").ids;
  expect(french.encodePair("a dog").ids).toEqual([...ids.slice(0, -1), german.tokenToId("fr_XX")]);
  expect(french.target.encodePair("a dog").ids.at(-1)).toBe(german.tokenToId("ja_XX"));
  expect(() => inLanguages(german, { source: "xx_XX" })).toThrow(
    "the tokenizer has no language xx_XX; it has ar_AR",
  );
  const bart = await loadTokenizer(referenceOf("bart").path());
  expect(() => inLanguages(bart, { source: "de_DE" })).toThrow("it is not mBART's");
});

it("Marian's files are written as they were read, and refused where one is missing or lacks a token", async () => {
  const tokenizer = await loadTokenizer(referenceOf("marian").path());
  await writeTokenizer(tokenizer, folder);
  expect((await readdir(folder)).sort()).toEqual([
    "source.spm",
    "target.spm",
    "tokenizer_config.json",
    "vocab.json",
  ]);
  for (const name of ["source.spm", "target.spm", "vocab.json"])
    expect(await readFile(path.join(folder, name))).toEqual(await readFile(referenceOf("marian").path(name)));
  await writeFile(path.join(folder, "vocab.json"), JSON.stringify({ "</s>": 0, "<unk>": 1 }));
  await expect(loadTokenizer(folder)).rejects.toThrow("the vocabulary lacks <pad>");
  await rm(path.join(folder, "vocab.json"));
  await expect(loadTokenizer(folder)).rejects.toThrow("has no vocab.json");
});

it("pairs of texts are cut by the tokenizer of each side", async () => {
  const reference = referenceOf("marian");
  const { encoded, targets } = reference.json("values.json") as Values;
  const written = targets!.map(({ text }, row) => ({ source: encoded[row]!.text, target: text, row }));
  const options = { maxLength: 1000, long: "refuse", prefix: "" } as const;
  const pairs = encodePairs("pairs", written, await loadTokenizer(reference.path()), options);
  expect(pairs.map(({ source }) => source)).toEqual(encoded.slice(0, written.length).map(({ ids }) => ids));
  expect(pairs.map(({ target }) => target)).toEqual(targets!.map(({ ids }) => ids));
});
