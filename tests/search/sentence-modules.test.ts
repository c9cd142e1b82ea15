import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type EmbedOptions, Embedder } from "../../src/search/index.js";
import { referenceJson } from "../models/encoders.js";

const reference = fileURLToPath(new URL("../reference/values/sentence-vectors", import.meta.url));
const { texts, vectors } = referenceJson("sentence-vectors/vectors.json") as {
  texts: readonly string[];
  vectors: Readonly<Record<string, readonly (readonly number[])[]>>;
};

let root = "";
beforeAll(async () => {
  root = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
});
afterAll(() => rm(root, { recursive: true }));

let made = 0;
type Files = Readonly<Record<string, unknown>>;
/** A folder as sentence-transformers keeps it: the encoder, and files by their names. */
async function folderOf(modules: readonly string[], files: Files = {}, encoder = ""): Promise<string> {
  const folder = path.join(root, String(made++));
  await mkdir(path.join(folder, encoder), { recursive: true });
  for (const name of ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
    await cp(path.join(reference, name), path.join(folder, encoder, name));
  const list = modules.map((kind, idx) => ({
    idx,
    name: String(idx),
    path: idx === 0 ? encoder : `${idx}_${kind}`,
    type: `sentence_transformers.models.${kind}`,
  }));
  const all: Files = { ...(modules.length > 0 && { "modules.json": list }), ...files };
  for (const [name, content] of Object.entries(all)) {
    await mkdir(path.dirname(path.join(folder, name)), { recursive: true });
    await writeFile(path.join(folder, name), JSON.stringify(content));
  }
  return folder;
}

const pooling = (...modes: string[]): Files => ({
  word_embedding_dimension: 16,
  ...Object.fromEntries(modes.map((mode) => [`pooling_mode_${mode}`, true])),
});
const meanPooling = { "1_Pooling/config.json": pooling("mean_tokens") };
const dense = {
  in_features: 16,
  out_features: 5,
  bias: true,
  activation_function: "torch.nn.modules.activation.Tanh",
};

async function withDense(folder: string, place: string): Promise<string> {
  await cp(path.join(reference, "dense.safetensors"), path.join(folder, place, "model.safetensors"));
  return folder;
}

async function expectVectors(folder: string, name: string, options: EmbedOptions = {}): Promise<void> {
  const warnings: string[] = [];
  using embedder = await Embedder.load(folder, { warn: (sentence) => warnings.push(sentence) });
  const found = await embedder.embed(texts, { batchSize: 2, ...options });
  expect(warnings).toEqual([]);
  found.forEach((vector, place) => {
    const wanted = vectors[name]![place]!;
    expect(vector).toHaveLength(wanted.length);
    vector.forEach((value, index) => {
      expect(Math.abs(value - wanted[index]!)).toBeLessThan(1e-4);
    });
  });
}

describe("vectors are sentence-transformers'", () => {
  it.each([
    ["cls", "cls_token"],
    ["max", "max_tokens"],
    ["mean", "mean_tokens"],
    ["mean_sqrt_len_tokens", "mean_sqrt_len_tokens"],
    ["weightedmean", "weightedmean_tokens"],
    ["lasttoken", "lasttoken"],
  ])("by %s pooling, of as many tokens as the tokenizer's files allow", async (name, mode) => {
    await expectVectors(
      await folderOf(["Transformer", "Pooling"], { "1_Pooling/config.json": pooling(mode) }),
      name,
    );
    // As later versions write it.
    const later = { embedding_dimension: 16, pooling_mode: name, include_prompt: true };
    await expectVectors(await folderOf(["Transformer", "Pooling"], { "1_Pooling/config.json": later }), name);
  });

  it("of several poolings, one after the other", async () => {
    const files = { "1_Pooling/config.json": pooling("weightedmean_tokens", "cls_token") };
    await expectVectors(await folderOf(["Transformer", "Pooling"], files), "several");
  });

  it("of a linear layer, before a norm, after one and without", async () => {
    const plain = await folderOf(["Transformer", "Pooling", "Dense"], {
      ...meanPooling,
      "2_Dense/config.json": dense,
    });
    await expectVectors(await withDense(plain, "2_Dense"), "dense");
    const before = await folderOf(["Transformer", "Pooling", "Dense", "Normalize"], {
      ...meanPooling,
      "2_Dense/config.json": dense,
    });
    await expectVectors(await withDense(before, "2_Dense"), "denseNormalize");
    const after = await folderOf(["Transformer", "Pooling", "Normalize", "Dense"], {
      ...meanPooling,
      "3_Dense/config.json": dense,
    });
    await expectVectors(await withDense(after, "3_Dense"), "normalizeDense");
  });

  it("in lower case, of the length that is said, and of an encoder in a folder of its own", async () => {
    const say = (settings: object, place = "") => ({
      ...meanPooling,
      [`${place}sentence_bert_config.json`]: settings,
    });
    const modules = ["Transformer", "Pooling"];
    await expectVectors(
      await folderOf(modules, say({ max_seq_length: 16, do_lower_case: true })),
      "lowercase",
    );
    await expectVectors(await folderOf(modules, say({ max_seq_length: 8 })), "length");
    const old = say({ max_seq_length: 8, do_lower_case: false }, "0_Transformer/");
    await expectVectors(await folderOf(modules, old, "0_Transformer"), "length");
  });

  it("of prompts, by what a text is for", async () => {
    const files = {
      ...meanPooling,
      "config_sentence_transformers.json": { prompts: { query: "w9 w9 ", passage: "w8 " } },
    };
    const folder = await folderOf(["Transformer", "Pooling"], files);
    await expectVectors(folder, "query", { use: "query" });
    await expectVectors(folder, "document", { use: "document" });
    await expectVectors(folder, "mean");
    const named = { prompts: { query: "w9 w9 " }, default_prompt_name: "query" };
    await expectVectors(
      await folderOf(["Transformer", "Pooling"], {
        ...meanPooling,
        "config_sentence_transformers.json": named,
      }),
      "query",
    );
  });
});

describe("what is not computed is refused", () => {
  const two = ["Transformer", "Pooling"];
  const withFile = (name: string, content: unknown) => folderOf(two, { ...meanPooling, [name]: content });
  it.each<[string, () => Promise<string>, string]>([
    ["another module", () => folderOf([...two, "LSTM"], meanPooling), "models.LSTM"],
    [
      "a module before the pooling",
      () => folderOf(["Transformer", "CNN", "Pooling"], meanPooling),
      "models.CNN",
    ],
    ["no pooling", () => folderOf(["Transformer"]), "no Pooling"],
    [
      "another pooling",
      () => withFile("1_Pooling/config.json", pooling("mean_tokens", "spiral")),
      "pooling_mode_spiral",
    ],
    [
      "states of another width",
      () => withFile("1_Pooling/config.json", { ...pooling("mean_tokens"), word_embedding_dimension: 17 }),
      "states of 17 numbers",
    ],
    [
      "prompts that are left out",
      () =>
        folderOf(two, {
          "1_Pooling/config.json": { ...pooling("mean_tokens"), include_prompt: false },
          "config_sentence_transformers.json": { prompts: { a: "w1 " }, default_prompt_name: "a" },
        }),
      "include_prompt",
    ],
    [
      "a prompt that is not there",
      () => withFile("config_sentence_transformers.json", { default_prompt_name: "a" }),
      "no such prompt",
    ],
    [
      "a linear layer without weights that can be read",
      () => folderOf([...two, "Dense"], { ...meanPooling, "2_Dense/config.json": dense }),
      "has no model.safetensors",
    ],
    [
      "another activation",
      () =>
        folderOf([...two, "Dense"], {
          ...meanPooling,
          "2_Dense/config.json": { ...dense, activation_function: "torch.nn.modules.activation.Mish" },
        }),
      "activation.Mish",
    ],
  ])("%s", async (_, folder, message) => {
    await expect(Embedder.load(await folder())).rejects.toThrow(message);
  });

  it("and what is not known is named", async () => {
    const warnings: string[] = [];
    const folder = await folderOf(two, {
      ...meanPooling,
      "sentence_bert_config.json": { max_seq_length: 16, modality: "image" },
      "config_sentence_transformers.json": { similarity_fn_name: "dot" },
    });
    (await Embedder.load(folder, { warn: (sentence) => warnings.push(sentence) })).dispose();
    expect(warnings.join("\n")).toContain('does not know the entry "modality"');
    expect(warnings.join("\n")).toContain("compared by dot");
  });
});

it("reads as many tokens as the positions and the tokenizer's files allow", async () => {
  const folder = await folderOf(["Transformer", "Pooling"], meanPooling);
  const limit = async () => {
    using embedder = await Embedder.load(folder);
    return embedder.maxLength;
  };
  expect(await limit()).toBe(16);
  const file = path.join(folder, "tokenizer_config.json");
  const settings = JSON.parse(await readFile(file, "utf8")) as object;
  await writeFile(file, JSON.stringify({ ...settings, model_max_length: 1e30 }));
  expect(await limit()).toBe(64);
  await writeFile(path.join(folder, "sentence_bert_config.json"), JSON.stringify({ max_seq_length: 32 }));
  expect(await limit()).toBe(32);
});
