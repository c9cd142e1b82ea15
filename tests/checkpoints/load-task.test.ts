import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { compile, input } from "../../src/graph/index.js";
import { SafetensorsFile, tensorsToSave, writeTokenizer, writeSafetensors } from "../../src/formats/index.js";
import { characterTokenizer } from "../../src/tokenizers/index.js";
import { EncoderProgram } from "../../src/tasks/index.js";
import {
  networkForTask,
  encoderModelTypes,
  loadModel,
  loadForTask,
  saveModel,
} from "../../src/checkpoints/index.js";
import { bert, bertForPretraining, bertTable, encoderOf } from "../../src/models/index.js";
import { type HeadName, Weights, headNames, namedParameters } from "../../src/nn/index.js";
import { recorded, referenceJson, relativeError, runtime, weightsOf } from "../models/encoders.js";

const json = referenceJson("bert/config.json") as Record<string, unknown>;
const tokenizer = characterTokenizer("abcdefgh");
const folders: string[] = [];
const scratch = async () => {
  folders.push(await mkdtemp(path.join(os.tmpdir(), "lineage-")));
  return folders.at(-1)!;
};
afterAll(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true }))));

const values: Readonly<Record<HeadName, string>> = {
  "fill-mask": "maskedLm",
  classify: "sequence",
  tag: "token",
  span: "span",
  choice: "choice",
};
const recordedHead = (head: HeadName) => recorded(`bert/${values[head]}.safetensors`);

/** A saved BERT with the recorded weights of a head. */
async function checkpoint(head: HeadName, labels?: readonly string[]): Promise<string> {
  const folder = await scratch();
  const model = networkForTask(json, head, 3);
  using weights = weightsOf(model, await recordedHead(head));
  await saveModel(folder, { system: bert, model, weights, tokenizer, head, labels });
  return folder;
}

const same = (a: Weights, b: ReadonlyMap<string, { data: ArrayLike<number> }>, name: string) =>
  expect(Array.from(a.get(name).view()), name).toEqual(Array.from(b.get(name)!.data));

describe("An encoder's folder", () => {
  it.each(headNames)("comes back with its head for %s", async (head) => {
    const loaded = await loadForTask(runtime, await checkpoint(head), head);
    using weights = loaded.weights;
    const { weights: written } = await recordedHead(head);
    for (const name of namedParameters(loaded.model).keys()) same(weights, written, name);
    expect(loaded).toMatchObject({ fresh: [], statement: undefined });
  });

  it("says which classes its head tells apart, and refuses other numbers of them", async () => {
    const folder = await checkpoint("classify", ["bad", "fair", "good"]);
    const loaded = await loadForTask(runtime, folder, "classify");
    loaded.weights.dispose();
    expect(loaded.labels).toEqual(["bad", "fair", "good"]);
    await expect(loadForTask(runtime, folder, "classify", { numLabels: 2 })).rejects.toThrow(
      "has 3 classes, but the task has 2",
    );
    const again = await loadForTask(runtime, folder, "classify", { numLabels: 2, newHead: "always" });
    again.weights.dispose();
    expect(again.fresh).toEqual(["classifier.weight", "classifier.bias"]);
  });

  it("gives a new head, and says so, where it has none of the task's", async () => {
    const folder = await checkpoint("fill-mask");
    const loaded = await loadForTask(runtime, folder, "classify", { numLabels: 4, seed: 3 });
    using weights = loaded.weights;
    expect(loaded.fresh).toEqual([
      "bert.pooler.dense.weight",
      "bert.pooler.dense.bias",
      "classifier.weight",
      "classifier.bias",
    ]);
    expect(loaded.statement).toMatch(/no head for answers about whole sequences, but one for filling masks/);
    expect(weights.get("classifier.weight").shape).toEqual([4, 20]);
    expect(
      weights
        .get("classifier.weight")
        .view()
        .some((value) => value !== 0),
    ).toBe(true);
    same(
      weights,
      (await recorded("bert/maskedLm.safetensors")).weights,
      "bert.embeddings.word_embeddings.weight",
    );
    await expect(loadForTask(runtime, folder, "classify", { newHead: "never" })).rejects.toThrow(
      "fine-tune it first",
    );
  });

  it("does not take the classifier of tokens for one of sequences, though both have one name", async () => {
    const loaded = await loadForTask(runtime, await checkpoint("tag"), "classify", { numLabels: 3 });
    loaded.weights.dispose();
    expect(loaded.fresh).toContain("classifier.weight");
  });

  it("loads with TensorFlow's names of norms, and without the family's prefix", async () => {
    const folder = await checkpoint("fill-mask");
    const file = await SafetensorsFile.open(path.join(folder, "model.safetensors"));
    const renamed = [];
    for (const [name, { shape, byteLength }] of file.header.tensors) {
      const bytes = new Uint8Array(byteLength);
      await file.readInto(name, bytes);
      const old = name
        .replace("LayerNorm.weight", "LayerNorm.gamma")
        .replace("LayerNorm.bias", "LayerNorm.beta");
      if (name.startsWith("bert."))
        renamed.push({ name: old.slice("bert.".length), dtype: "float32" as const, shape, bytes });
    }
    await writeSafetensors(path.join(folder, "model.safetensors"), renamed);
    const { model: encoder, weights } = await loadModel(runtime, folder, { kind: "encoder" });
    const task = await recorded("bert/maskedLm.safetensors");
    for (const name of namedParameters(encoder).keys())
      expect(Array.from(weights.get(name).view())).toEqual(
        Array.from(task.weights.get(`bert.${name}`)!.data),
      );
    weights.dispose();
  });

  it("has a pooler where the checkpoint has one", async () => {
    const folder = await scratch();
    const model = bertForPretraining(bertTable.read(json));
    using weights = weightsOf(model, await recorded("bert/pretraining.safetensors"));
    await writeSafetensors(path.join(folder, "model.safetensors"), tensorsToSave(weights));
    await writeFile(path.join(folder, "config.json"), JSON.stringify(json));
    await writeTokenizer(tokenizer, folder);
    const loaded = await loadModel(runtime, folder, { kind: "encoder" });
    expect([...namedParameters(loaded.model).keys()].slice(-2)).toEqual([
      "pooler.dense.weight",
      "pooler.dense.bias",
    ]);
    loaded.weights.dispose();
  });

  it.each([
    { type: "deberta", layers: 2, from: "deberta/pretraining", prefix: "", output: "logits" },
    {
      type: "deberta-v2",
      layers: 2,
      from: "deberta-v3/pretraining",
      prefix: "generator.",
      output: "generator",
    },
  ])(
    "of $type fills masks through its decoder where it has the head of its authors ($from)",
    async ({ type, layers, from, prefix, output }) => {
      const folder = await scratch();
      const task = await recorded(`${from}.safetensors`);
      const tensors = [...task.weights].filter(([name]) => name.startsWith(prefix));
      expect(tensors.map(([name]) => name.slice(prefix.length))).toEqual(
        expect.arrayContaining([
          "deberta.embeddings.position_embeddings.weight",
          ...["bias", "dense.weight", "LayerNorm.bias"].map((name) => `lm_predictions.lm_head.${name}`),
        ]),
      );
      const write = (kept: (name: string) => boolean) =>
        writeSafetensors(
          path.join(folder, "model.safetensors"),
          tensors
            .map(([name, { shape, data }]) => ({ name: name.slice(prefix.length), shape, data }))
            .filter(({ name }) => kept(name))
            .map(({ name, shape, data }) => ({
              ...{ name, shape, dtype: "float32" as const },
              bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
            })),
        );
      await write(() => true);
      const config = referenceJson(`${from.split("/")[0]}/config.json`) as Record<string, unknown>;
      // As published: nothing says for which task the weights are.
      const said = { ...config, model_type: type, num_hidden_layers: layers, architectures: undefined };
      await writeFile(path.join(folder, "config.json"), JSON.stringify(said));
      await writeTokenizer(tokenizer, folder);

      const loaded = await loadForTask(runtime, folder, "fill-mask", { newHead: "never" });
      using weights = loaded.weights;
      const mask = task.inputs.get("attention_mask")!;
      using program = await EncoderProgram.create(loaded.model, weights, (inputs) => ({
        logits: loaded.model.forward(inputs),
      }));
      const { logits } = await program.run({
        inputIds: { data: task.inputs.get("input_ids")!.data, shape: mask.shape },
        tokenTypeIds: { data: new Int32Array(mask.data.length), shape: mask.shape },
        attentionMask: { data: Uint8Array.from(mask.data), shape: mask.shape },
      });
      const { data, shape } = logits;
      const wanted = task.outputs.get(output)!;
      expect(shape).toEqual(wanted.shape);
      const real = (values: ArrayLike<number>) =>
        Array.from(values).filter((_, place) => mask.data[Math.floor(place / shape[2]!)]);
      expect(relativeError(real(data), real(wanted.data))).toBeLessThan(1e-4);

      // Without the positions that the decoder begins with there is none.
      await write((name) => !name.includes("position_embeddings"));
      await expect(loadForTask(runtime, folder, "fill-mask", { newHead: "never" })).rejects.toThrow(
        "has no head for filling masks",
      );
    },
  );

  it("is refused with words: another model, a missing tensor, a tokenizer that is too large", async () => {
    const folder = await checkpoint("fill-mask");
    const config = path.join(folder, "config.json");
    const written = JSON.parse(await readFile(config, "utf8")) as Record<string, unknown>;
    await writeFile(config, JSON.stringify({ ...written, model_type: "gpt2" }));
    await expect(loadModel(runtime, folder, { kind: "encoder" })).rejects.toThrow(
      `the encoders here are ${encoderModelTypes.join(", ")}`,
    );
    await writeFile(config, JSON.stringify({ ...written, num_hidden_layers: 3 }));
    await expect(loadModel(runtime, folder, { kind: "encoder" })).rejects.toThrow(
      "has no tensor encoder.layer.2.attention.self.query.weight",
    );
    await writeFile(config, JSON.stringify({ ...written, vocab_size: 4 }));
    await expect(loadModel(runtime, folder, { kind: "encoder" })).rejects.toThrow(
      "the model has embeddings for 4",
    );
    await expect(loadModel(runtime, await scratch(), { kind: "encoder" })).rejects.toThrow(
      "it has no config.json",
    );
  });
});

describe("counts of a config.json that its tensors do not bear out", () => {
  it.each([
    ["albert", { inner_group_num: 16_777_216 }, "33554432 layers, but holds"],
    ["albert", { num_hidden_groups: 3000, num_hidden_layers: 3000 }, "6000 layers, but holds"],
    ["bert", { num_hidden_layers: 1_000_000_000 }, "1000000000 layers; no model has that many"],
    ["deberta", { max_position_embeddings: 2 ** 31 }, "2147483648 positions; no model has that many"],
    ["deberta-v2", { max_position_embeddings: 2 ** 32 - 1 }, "4294967295 positions"],
  ])("are refused before anything is built: %s %o", async (type, entries, message) => {
    const small = referenceJson(`${type}/config.json`) as Record<string, unknown>;
    const folder = await scratch();
    const system = encoderOf(small);
    const model = networkForTask(small, "fill-mask");
    using weights = Weights.initialize(runtime, model, 1);
    await saveModel(folder, { system, model, weights, tokenizer, head: "fill-mask" });
    await writeFile(path.join(folder, "config.json"), JSON.stringify({ ...small, ...entries }));
    await expect(loadModel(runtime, folder, { kind: "encoder" })).rejects.toThrow(message);
    await expect(loadForTask(runtime, folder, "classify")).rejects.toThrow(message);
  });
});

describe.each(encoderModelTypes)("A %s", (type) => {
  it.each(headNames)("builds for %s and describes itself", async (head) => {
    const small = referenceJson(`${type}/config.json`);
    const folder = await scratch();
    const system = encoderOf(small);
    const model = networkForTask(small, head, 3);
    using weights = Weights.initialize(runtime, model, 1);
    await saveModel(folder, { system, model, weights, tokenizer, head });
    const loaded = await loadForTask(runtime, folder, head, { newHead: "never" });
    using again = loaded.weights;
    expect(Array.from(again.flat.view())).toEqual(Array.from(weights.flat.view()));
  });
});

const minilm = process.env["LINEAGE_MINILM"];
describe("all-MiniLM-L6-v2", () => {
  it.skipIf(!minilm)("has transformers' hidden states (LINEAGE_MINILM names its folder)", async () => {
    const { model: encoder, weights } = await loadModel(runtime, minilm!, { kind: "encoder" });
    using held = weights;
    const task = await recorded("minilm.safetensors");
    const [ids, mask] = ["input_ids", "attention_mask"].map((name) => task.inputs.get(name)!);
    const hidden = encoder.encode({
      inputIds: input("ids", "int32", ["batch", "sequence"]),
      attentionMask: input("mask", "bool", ["batch", "sequence"]),
    });
    using program = await compile(runtime, { hidden });
    const result = await program.run({
      ...held.tensors,
      ids: runtime.createTensor("int32", ids!.shape, ids!.data as Int32Array),
      mask: runtime.createTensor("bool", mask!.shape, Uint8Array.from(mask!.data)),
    });
    const got = (await result["hidden"]!.read()) as Float32Array;
    expect(relativeError(got, task.outputs.get("hidden")!.data)).toBeLessThan(1e-5);
    const wanted = task.outputs.get("hidden")!.data;
    expect(Math.max(...got.map((value, index) => Math.abs(value - wanted[index]!)))).toBeLessThan(1e-4);
  });
});
