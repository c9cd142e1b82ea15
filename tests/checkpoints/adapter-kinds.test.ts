import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { loadAdapter, mergeAdapter, saveAdapter } from "../../src/checkpoints/index.js";
import { loadWeights, writeSafetensors } from "../../src/formats/index.js";
import { type Tensor, compile, crossEntropy, gradients, input } from "../../src/graph/index.js";
import { Gpt2, Llama, systems } from "../../src/models/index.js";
import { type HeadName, type Module, namedParameters } from "../../src/nn/index.js";
import { ModelWeights } from "../../src/quantization/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { type Recorded, encoderInputs, recorded, referenceJson } from "../models/encoders.js";
import { Reference, relativeError } from "../support/reference.js";
import { storedTensors } from "../support/stored-tensors.js";

const runtime = createRuntime();
const root = mkdtempSync(path.join(os.tmpdir(), "adapter-kinds-"));
afterAll(() => {
  rmSync(root, { recursive: true });
});

/** A model with the weights of its base, the inputs that peft's was given, and its logits of them. */
interface Case {
  readonly model: Module;
  readonly weights: ModelWeights;
  readonly given: Readonly<Record<string, { readonly shape: readonly number[]; readonly data: number[] }>>;
  logits(given: Readonly<Record<string, Tensor>>): Tensor;
  readonly head?: HeadName;
}

/** Weights by name; a parameter that the file does not have in this shape is the adapter's alone. */
function only(model: Module, stored: Recorded["weights"]): ModelWeights {
  const tensors = Object.fromEntries(
    [...namedParameters(model)].map(([name, { shape, size }]) => {
      const found = stored.get(name);
      const fits = found?.shape.join() === shape.join();
      return [
        name,
        runtime.createTensor("float32", shape, fits ? (found!.data as Float32Array) : new Float32Array(size)),
      ];
    }),
  );
  return new ModelWeights(runtime, { tensors, packed: {} });
}

async function encoder(
  name: "bert" | "roberta" | "electra",
  file: string,
  head: "classify" | "tag",
  labels: number,
): Promise<Case> {
  const { heads, config } = systems[name];
  const read = (json: unknown) => config.read(json) as never;
  const model = heads[head].create(read(referenceJson(`${name}/config.json`)), labels);
  const sequence = await recorded(`${name}/sequence.safetensors`);
  const task = file === "sequence" ? sequence : await recorded(`${name}/${file}.safetensors`);
  const given = Object.fromEntries(
    [...sequence.inputs]
      .filter(([one]) => one !== "labels")
      .map(([one, { shape, data }]) => [one, { shape, data: [...data] }]),
  );
  return {
    model,
    weights: only(model, task.weights),
    given,
    head,
    logits: (tensors) => model.forward(encoderInputs(tensors), {}),
  };
}

async function pairs(name: "t5-tiny" | "bart-tiny", system: "t5" | "bart"): Promise<Case> {
  const reference = new Reference(name);
  const { config, create } = systems[system];
  const model = create(config.read(reference.json("config.json")) as never);
  const { tensors } = await loadWeights(runtime, model, reference.path(), systems[system]);
  const { source, mask, decoderInputIds } = reference.json("values.json") as Record<string, number[][]>;
  const given = Object.fromEntries(
    Object.entries({ input_ids: source!, attention_mask: mask!, decoder_input_ids: decoderInputIds! }).map(
      ([one, rows]) => [one, { shape: [rows.length, rows[0]!.length], data: rows.flat() }],
    ),
  );
  return {
    model,
    weights: new ModelWeights(runtime, { tensors, packed: {} }),
    given,
    logits: (tensors) =>
      model.forward(
        { inputIds: tensors["input_ids"]!, attentionMask: tensors["attention_mask"] },
        tensors["decoder_input_ids"]!,
      ),
  };
}

async function decoder(name: "gpt2-tiny" | "llama-grouped-tiny"): Promise<Case> {
  const reference = new Reference(name);
  const json = reference.json("config.json");
  const model =
    name === "gpt2-tiny"
      ? new Gpt2(systems.gpt2.config.read(json))
      : new Llama(systems.llama.config.read(json));
  const { tensors } = await loadWeights(runtime, model, reference.path());
  const { inputIds } = reference.json("values.json") as { inputIds: number[][] };
  return {
    model,
    weights: new ModelWeights(runtime, { tensors, packed: {} }),
    given: { input_ids: { shape: [inputIds.length, inputIds[0]!.length], data: inputIds.flat() } },
    logits: (given) => model.forward(given["input_ids"]!),
  };
}

const cases: readonly (readonly [string, () => Promise<Case>])[] = [
  ["bert-classify", () => encoder("bert", "sequence", "classify", 4)],
  ["bert-tag", () => encoder("bert", "token", "tag", 3)],
  ["roberta-classify", () => encoder("roberta", "sequence", "classify", 4)],
  ["electra-dora", () => encoder("electra", "sequence", "classify", 4)],
  ["t5-tiny", () => pairs("t5-tiny", "t5")],
  ["bart-tiny", () => pairs("bart-tiny", "bart")],
  ["dora-gpt2-tiny", () => decoder("gpt2-tiny")],
  ["dora-llama-grouped-tiny", () => decoder("llama-grouped-tiny")],
];

type Given = Case["given"];

/** Runs outputs of inputs under some weights. */
async function run(
  given: Given,
  weights: ModelWeights,
  outputs: (tensors: Readonly<Record<string, Tensor>>) => Record<string, Tensor>,
): Promise<(name: string) => Promise<Float32Array>> {
  const dtype = (name: string) => (name === "attention_mask" ? "bool" : "int32");
  const tensors = Object.fromEntries(
    Object.entries(given).map(([name, { shape }]) => [name, input(name, dtype(name), shape)]),
  );
  using program = await compile(runtime, outputs(tensors));
  const results = await program.run({
    ...weights.constants.tensors,
    ...Object.fromEntries(
      Object.entries(given).map(([name, { shape, data }]) => [
        name,
        dtype(name) === "bool"
          ? runtime.createTensor("bool", shape, Uint8Array.from(data))
          : runtime.createTensor("int32", shape, Int32Array.from(data)),
      ]),
    ),
  });
  return async (name) => (await results[name]!.read()) as Float32Array;
}

describe.each(cases)("peft's adapter %s", (name, make) => {
  const files = new Reference(`adapters/${name}`);

  it("gives peft's logits beside the base and merged, and the gradients of all that learns", async () => {
    const { model, weights, given, logits } = await make();
    const wanted = await files.tensors("logits.safetensors");
    const adapted = await loadAdapter(files.path(), { model, weights });
    const parameters = [...adapted.adapter.parameters];
    const { labels } = files.json("values.json") as { labels: number[] | number[][] };
    const rows = labels.map((row) => (Array.isArray(row) ? row.length : 1));
    const shape = Array.isArray(labels[0]) ? [labels.length, rows[0]!] : [labels.length];
    const read = await run(
      { ...given, labels: { shape, data: labels.flat() } },
      adapted.weights,
      (tensors) => {
        const found = logits(tensors);
        const slopes = gradients(
          crossEntropy(found, tensors["labels"]!),
          parameters.map(([, { tensor }]) => tensor),
        );
        return {
          logits: found,
          ...Object.fromEntries(parameters.map(([one], index) => [`of ${one}`, slopes[index]!])),
        };
      },
    );
    expect(relativeError(await read("logits"), wanted.get("logits")!)).toBeLessThan(2e-5);
    const slopes = await files.tensors("gradients.safetensors");
    expect(parameters.map(([one]) => one).sort()).toEqual([...slopes.keys()].sort());
    for (const [one, slope] of slopes)
      expect(relativeError(await read(`of ${one}`), slope), one).toBeLessThan(2e-4);
    const merged = mergeAdapter(adapted);
    expect([...namedParameters(model).keys()].some((one) => one.includes("lora"))).toBe(false);
    const after = await run(given, merged, (tensors) => ({ logits: logits(tensors) }));
    expect(relativeError(await after("logits"), wanted.get("merged")!)).toBeLessThan(2e-5);
  });

  it("is written with peft's names, entries and numbers", async () => {
    const { model, weights, head } = await make();
    const { adapter, weights: both } = await loadAdapter(files.path(), { model, weights });
    const folder = path.join(root, name);
    await saveAdapter(folder, { model, adapter, weights: both, base: name, head });
    const tensors = (place: string) => storedTensors(path.join(place, "adapter_model.safetensors"));
    expect(await tensors(folder)).toEqual(await tensors(files.path()));
    const written = JSON.parse(readFileSync(path.join(folder, "adapter_config.json"), "utf8")) as object;
    const peft = files.json("adapter_config.json") as Record<string, unknown>;
    // peft writes either whole paths or their last parts, and reads both.
    const ends = (targets: unknown) =>
      [...new Set((targets as string[]).map((target) => target.split(".").at(-1)!))].sort();
    for (const [entry, value] of Object.entries(written))
      if (entry === "target_modules") expect(ends(value)).toEqual(ends(peft[entry]));
      // peft names every head that a model may have.
      else if (entry === "modules_to_save" && value !== null)
        expect(peft[entry]).toEqual(expect.arrayContaining(value as string[]));
      else expect([entry, value]).toEqual([entry, peft[entry]]);
  });
});

it("a soft prompt of peft's for an encoder-decoder is refused by its kind", async () => {
  const { model, weights } = await pairs("t5-tiny", "t5");
  const folder = path.join(root, "soft");
  mkdirSync(folder);
  // As peft writes one for a T5: virtual tokens of the encoder and of the decoder.
  const config = {
    ...{ peft_type: "PROMPT_TUNING", task_type: "SEQ_2_SEQ_LM", num_virtual_tokens: 4, token_dim: 32 },
    ...{ num_transformer_submodules: 2, num_attention_heads: 4, num_layers: 2 },
  };
  writeFileSync(path.join(folder, "adapter_config.json"), JSON.stringify(config));
  await writeSafetensors(path.join(folder, "adapter_model.safetensors"), []);
  await expect(loadAdapter(folder, { model, weights })).rejects.toThrow(
    "the adapter is a soft prompt, which lineage computes for decoders alone",
  );
});
