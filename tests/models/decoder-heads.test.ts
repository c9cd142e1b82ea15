import { copyFile, mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { readJson } from "../../src/base/files.js";
import { loadForTask, loadTaskForInference, saveModel } from "../../src/checkpoints/index.js";
import { SafetensorsFile, loadWeights, writeTokenizer } from "../../src/formats/index.js";
import {
  type Tensor,
  compile,
  crossEntropy,
  div,
  gradients,
  ignoredLabel,
  input,
  squeeze,
  sum,
  tokenLosses,
  where,
} from "../../src/graph/index.js";
import { llama } from "../../src/models/index.js";
import { DecoderBody, type HeadName, Weights, namedParameters } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { characterTokenizer } from "../../src/tokenizers/index.js";
import { networkForTask } from "../../src/checkpoints/index.js";
import { Reference, relativeError } from "../support/reference.js";

const runtime = createRuntime();

interface Values {
  readonly head: HeadName;
  readonly loss: number;
  readonly inputIds: readonly (number | readonly number[])[];
  readonly attentionMask: readonly (number | readonly number[])[];
  readonly labels?: readonly (number | readonly number[])[];
  readonly starts?: readonly number[];
  readonly ends?: readonly number[];
}

const cases = ["gpt1-classify", "llama-classify", "gpt1-choice", "llama-tag", "llama-span"];
const flat = (values: readonly unknown[]): number[] => values.flat(3) as number[];
const shapeOf = (values: unknown): number[] =>
  Array.isArray(values) ? [values.length, ...shapeOf(values[0])] : [];

/** Mean loss of a head's logits, as transformers has it. */
function lossOf(values: Values, logits: Tensor, inputs: Readonly<Record<string, Tensor>>): Tensor {
  if (values.head !== "span") {
    const labels = inputs["labels"]!;
    const counted = flat(values.labels!).filter((label) => label !== ignoredLabel).length;
    return div(sum(tokenLosses(logits, labels)), counted);
  }
  const [start, end] = logits
    .split(2, 2)
    .map((part) => where(inputs["attentionMask"]!, squeeze(part, 2), -1e4));
  return crossEntropy(start!, inputs["starts"]!).add(crossEntropy(end!, inputs["ends"]!)).mul(0.5);
}

describe.each(cases)("%s agrees with Hugging Face transformers on padded rows", (name) => {
  const reference = new Reference(`decoder-heads/${name}`);
  const values = reference.json("values.json") as Values;
  const language = name === "gpt1-choice";

  it("in logits, loss and the gradient of every parameter", async () => {
    const model = networkForTask(reference.json("config.json"), values.head, 3);
    using weights = await loadWeights(runtime, model, reference.path(), { unused: /^lm_head\.weight$/ });
    const data = Object.fromEntries(
      ["inputIds", "attentionMask", "labels", "starts", "ends"].flatMap((key) => {
        const given = values[key as keyof Values];
        return Array.isArray(given) ? [[key, given as readonly unknown[]] as const] : [];
      }),
    );
    const dtype = (key: string) => (key === "attentionMask" ? "bool" : "int32");
    const inputs = Object.fromEntries(
      Object.entries(data).map(([key, given]) => [key, input(key, dtype(key), shapeOf(given))]),
    );
    const network = { inputIds: inputs["inputIds"]!, attentionMask: inputs["attentionMask"] };
    const hidden = model.states(network);
    const logits = model.answer(hidden, network);
    const task = lossOf(values, logits, inputs);
    // The words that follow, of which each row has one less than tokens; half of their loss is added.
    const length = network.inputIds.shape.at(-1) as number;
    const next = flat(values.inputIds).map((_, place, ids) => {
      const isLast = place % length === length - 1;
      return isLast || flat(values.attentionMask)[place + 1] === 0 ? ignoredLabel : ids[place + 1]!;
    });
    const words = input("words", "int32", [next.length / length, length]);
    const loss = language
      ? task.add(
          div(
            sum((model.encoder as DecoderBody).languageLosses(hidden, words)),
            next.filter((id) => id !== ignoredLabel).length,
          ).mul(0.5),
        )
      : task;
    const parameters = [...namedParameters(model)];
    const found = gradients(
      loss,
      parameters.map(([, parameter]) => parameter.tensor),
    );
    using program = await compile(runtime, {
      logits,
      loss,
      ...Object.fromEntries(parameters.map(([key], index) => [`${key}.gradient`, found[index]!])),
    });
    const results = await program.run({
      ...weights.tensors,
      ...Object.fromEntries(
        Object.entries(data).map(([key, given]) => [
          key,
          runtime.createTensor(
            dtype(key),
            shapeOf(given),
            key === "attentionMask" ? Uint8Array.from(flat(given)) : Int32Array.from(flat(given)),
          ),
        ]),
      ),
      ...(language && {
        words: runtime.createTensor("int32", words.shape as number[], Int32Array.from(next)),
      }),
    });
    const got = (await results["logits"]!.read()) as Float32Array;
    const mask = flat(values.attentionMask);
    const perToken = values.head === "tag" || values.head === "span" ? got.length / mask.length : undefined;
    const real = got.map((value, place) =>
      perToken === undefined || mask[Math.floor(place / perToken)] === 1 ? value : 0,
    );
    expect(relativeError(real, (await reference.tensors("logits.safetensors")).get("logits")!)).toBeLessThan(
      2e-5,
    );
    expect(Number((await results["loss"]!.read())[0])).toBeCloseTo(values.loss, 4);
    const wanted = await reference.tensors("gradients.safetensors");
    let compared = 0;
    for (const [key] of parameters) {
      const gradient = (await results[`${key}.gradient`]!.read()) as Float32Array;
      const right = wanted.get(key);
      if (right) expect(relativeError(gradient, right), key).toBeLessThan(1e-4);
      else expect(Math.max(...gradient.map(Math.abs)), key).toBeLessThan(1e-5);
      compared += right ? 1 : 0;
    }
    expect(compared).toBe(wanted.size);
  });

  it("in the names of its files, which come back as they were", async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
    folders.push(folder);
    for (const file of ["config.json", "model.safetensors"])
      await copyFile(reference.path(file), path.join(folder, file));
    await writeTokenizer(characterTokenizer("abcdefgh"), folder);
    const loaded = await loadForTask(runtime, folder, values.head, { newHead: "never" });
    using weights = loaded.weights;
    expect(loaded.fresh).toEqual([]);
    const out = path.join(folder, "again");
    await saveModel(out, { ...loaded, weights });
    const [before, after] = await Promise.all(
      [reference.path("model.safetensors"), path.join(out, "model.safetensors")].map((file) =>
        SafetensorsFile.open(file),
      ),
    );
    expect([...after!.header.tensors.keys()].sort()).toEqual([...before!.header.tensors.keys()].sort());
    const [given, written] = (await Promise.all(
      [reference.path("config.json"), path.join(out, "config.json")].map((file) => readJson(file)),
    )) as [Record<string, unknown>, Record<string, unknown>];
    expect(written["architectures"]).toEqual(given["architectures"]);
    expect(written["pad_token_id"]).toEqual(expect.any(Number));
    const run = await loadTaskForInference(runtime, out, values.head);
    using same = run.weights;
    expect(Object.keys({ ...same.tensors, ...same.constants.tensors }).length).toBeGreaterThan(0);
  });
});

const folders: string[] = [];
afterAll(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true }))));

describe("A head on a decoder's folder", () => {
  const language = async (): Promise<string> => {
    const folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
    folders.push(folder);
    const tokenizer = characterTokenizer("abcdefgh");
    const config = llama.config.create({
      vocabSize: tokenizer.vocabSize,
      hiddenSize: 16,
      numLayers: 2,
      numHeads: 2,
    });
    const model = llama.create(config);
    using weights = Weights.initialize(runtime, model, 4);
    await saveModel(folder, { system: llama, model, weights, tokenizer });
    return folder;
  };

  it("begins at random on a language model, and leaves its output embeddings out", async () => {
    const loaded = await loadForTask(runtime, await language(), "classify", { numLabels: 1, seed: 3 });
    using weights = loaded.weights;
    expect(loaded.fresh).toEqual(["score.weight"]);
    expect(weights.get("score.weight").shape).toEqual([1, 16]);
    expect(Object.keys(weights.tensors)).not.toContain("lm_head.weight");
    expect(loaded.statement).toMatch(/has no head for answers about whole sequences: score\.weight/);
  });

  it("keeps its output embeddings where words are learned beside the task", async () => {
    const loaded = await loadForTask(runtime, await language(), "classify", { language: () => true });
    using weights = loaded.weights;
    expect(Object.keys(weights.tensors)).toContain("lm_head.weight");
  });

  it("gives tokens that a task adds embeddings of their own, and keeps those that were there", async () => {
    const folder = await language();
    const plain = await loadForTask(runtime, folder, "classify");
    using before = plain.weights;
    const larger = characterTokenizer("abcdefghijk");
    const loaded = await loadForTask(runtime, folder, "classify", { tokenizer: () => larger });
    using weights = loaded.weights;
    const [old, grown] = [before, weights].map((one) => one.get("model.embed_tokens.weight"));
    expect(grown!.shape).toEqual([old!.shape[0]! + 3, 16]);
    const values = grown!.view() as Float32Array;
    expect(Array.from(values.subarray(0, old!.view().length))).toEqual(Array.from(old!.view()));
    expect(values.subarray(old!.view().length).every((value) => value !== 0)).toBe(true);
  });

  it("fills no masks", async () => {
    await expect(loadForTask(runtime, await language(), "fill-mask")).rejects.toThrow("fills no masks");
  });
});
