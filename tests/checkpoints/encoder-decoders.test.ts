import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { loadForInference, loadModel, saveModel } from "../../src/checkpoints/index.js";
import { SafetensorsFile, writeSafetensors, writeTokenizer } from "../../src/formats/index.js";
import { compile, input } from "../../src/graph/index.js";
import { type EncoderDecoderSystem, systems } from "../../src/models/index.js";
import { type EncoderDecoder, type WeightSet, Weights, namedParameters } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { characterTokenizer } from "../../src/tokenizers/index.js";
import { Reference, relativeError } from "../support/reference.js";

type Json = Record<string, unknown>;
interface Written {
  readonly config: Json;
  readonly generation: Json;
  readonly copies: Readonly<Record<string, string | null>>;
}

const runtime = createRuntime();
const tokenizer = characterTokenizer("abcdefgh");
const versions = [4, 5].map(
  (version) =>
    new Reference(".").json(`encoder-decoder-folders-${version}.json`) as {
      readonly transformers: string;
      readonly folders: Readonly<Record<string, Written>>;
    },
);
const cases = versions.flatMap(({ transformers, folders }) =>
  Object.entries(folders).map(([name, written]) => ({ transformers, name, written })),
);
const classes: Readonly<Record<string, EncoderDecoderSystem>> = {
  "t5-tiny": systems.t5,
  "t5-gated-tiny": systems.t5,
  "mt5-tiny": systems.mt5,
  "bart-tiny": systems.bart,
  "mbart-tiny": systems.mbart,
  "marian-tiny": systems.transformer,
};

let folder = "";
beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
});
afterEach(() => rm(folder, { recursive: true }));

const json = async (file: string): Promise<Json> =>
  JSON.parse(await readFile(path.join(folder, file), "utf8")) as Json;
const write = (file: string, content: unknown) => writeFile(path.join(folder, file), JSON.stringify(content));

/** A folder as transformers writes it, with the copies of tensors that its older versions wrote, or without. */
async function published(name: string, { config, generation, copies }: Written, withCopies: boolean) {
  const reference = await new Reference(name).tensors("model.safetensors");
  const { header } = await SafetensorsFile.open(new Reference(name).path("model.safetensors"));
  const tensors = [...reference].map(([key, values]) => ({
    name: key,
    dtype: "float32" as const,
    shape: header.tensors.get(key)!.shape,
    bytes: new Uint8Array(values.buffer),
  }));
  const more = Object.entries(copies).flatMap(([key, holder]) => {
    // Positions that are computed: whatever the file has of them is not looked at.
    const [first] = tensors;
    return [{ ...(tensors.find((one) => one.name === holder) ?? first!), name: key }];
  });
  await write("config.json", config);
  await write("generation_config.json", generation);
  await writeTokenizer(tokenizer, folder);
  await writeSafetensors(path.join(folder, "model.safetensors"), [...tensors, ...(withCopies ? more : [])]);
}

/** Logits of a reference folder's batch. */
async function logitsOf(name: string, model: EncoderDecoder, weights: WeightSet): Promise<Float32Array> {
  const values = new Reference(name).json("values.json") as Record<string, number[][]>;
  const inputIds = input("inputIds", "int32", ["batch", "source"]);
  const attentionMask = input("attentionMask", "bool", ["batch", "source"]);
  const decoderInputIds = input("decoderInputIds", "int32", ["batch", "target"]);
  using program = await compile(
    runtime,
    { logits: model.forward({ inputIds, attentionMask }, decoderInputIds) },
    weights.constants ? { constants: weights.constants } : {},
  );
  const shape = (rows: number[][]) => [rows.length, rows[0]!.length];
  const ids = (rows: number[][]) => runtime.createTensor("int32", shape(rows), Int32Array.from(rows.flat()));
  const { logits } = await program.run({
    ...weights.tensors,
    inputIds: ids(values["source"]!),
    decoderInputIds: ids(values["decoderInputIds"]!),
    attentionMask: runtime.createTensor(
      "bool",
      shape(values["mask"]!),
      Uint8Array.from(values["mask"]!.flat()),
    ),
  });
  using result = logits!;
  return (await result.read()) as Float32Array;
}

const wantedLogits = async (name: string): Promise<Float32Array> =>
  (await new Reference(name).tensors("logits.safetensors")).get("logits")!;

describe.each(cases)("$name as transformers $transformers saves it", ({ name, written }) => {
  it.each([false, true])("loads, with copies of tied tensors: %s", async (withCopies) => {
    await published(name, written, withCopies);
    const warnings: string[] = [];
    const loaded = await loadModel(runtime, folder, {
      kind: "encoder-decoder",
      warn: (sentence) => warnings.push(sentence),
    });
    using weights = loaded.weights;
    expect(warnings).toEqual([]);
    expect(loaded.system).toBe(classes[name]);
    expect(relativeError(await logitsOf(name, loaded.model, weights), await wantedLogits(name))).toBeLessThan(
      1e-5,
    );
    expect(loaded.stopIds).toEqual([written.generation["eos_token_id"]]);
    expect(loaded.generation).toMatchObject({
      startId: written.generation["decoder_start_token_id"],
      numBeams: 4,
      lengthPenalty: 0.8,
      maxLength: 40,
      noRepeatNgramSize: 3,
    });
    expect(loaded.generation?.forcedEosId).toBe(written.generation["forced_eos_token_id"]);
  });

  it.each(["float32", "float16", "bfloat16"] as const)(
    "is saved again in %s and in shards",
    async (dtype) => {
      await published(name, written, true);
      const loaded = await loadModel(runtime, folder, { kind: "encoder-decoder" });
      using weights = loaded.weights;
      await saveModel(folder, loaded, { dtype, shardBytes: 20_000 });
      const again = await loadModel(runtime, folder, { kind: "encoder-decoder" });
      using kept = again.weights;
      expect({ ...again, model: again.model.config, weights: 0, tokenizer: 0 }).toEqual({
        ...loaded,
        model: loaded.model.config,
        weights: 0,
        tokenizer: 0,
      });
      const close = { float32: 0, float16: 2 ** -10, bfloat16: 2 ** -7 }[dtype];
      for (const parameter of namedParameters(loaded.model).keys())
        expect(
          relativeError(kept.get(parameter).view(), weights.get(parameter).view() as Float32Array),
          parameter,
        ).toBeLessThanOrEqual(close);
      const config = await json("config.json");
      for (const [entry, value] of Object.entries(written.config))
        if (entry in config && entry !== "tie_word_embeddings" && !/version|dtype|architectures/.test(entry))
          expect([entry, config[entry] === "silu" ? "swish" : config[entry]]).toEqual([entry, value]);
      expect(config["architectures"]).toEqual(written.config["architectures"]);
      const generation = Object.entries(written.generation).filter(
        ([entry]) => !/^_|version|output_|use_cache|bos_token_id$/.test(entry),
      );
      expect(await json("generation_config.json")).toMatchObject(Object.fromEntries(generation));
    },
  );

  it("runs over mapped weights, and in 8 bits", async () => {
    await published(name, written, true);
    const wanted = await wantedLogits(name);
    for (const [options, close] of [
      [{}, 1e-5],
      // Random weights with a gate amplify the rounding; trained ones do not.
      [{ quantize: { bits: 8, blockSize: 16 } }, 0.2],
    ] as const) {
      const loaded = await loadForInference(runtime, folder, { kind: "encoder-decoder", ...options });
      using weights = loaded.weights;
      expect(Object.keys(weights.constants.packed).length > 0).toBe("quantize" in options);
      expect(relativeError(await logitsOf(name, loaded.model, weights), wanted)).toBeLessThan(close);
    }
  });
});

it.each(["t5-gated-tiny", "marian-tiny"])("%s in 8 bits comes back as it was saved", async (name) => {
  await published(name, versions[0]!.folders[name]!, true);
  const options = { kind: "encoder-decoder", quantize: { bits: 8, blockSize: 16 } } as const;
  const loaded = await loadForInference(runtime, folder, options);
  using weights = loaded.weights;
  const before = await logitsOf(name, loaded.model, weights);
  const out = path.join(folder, "quantised");
  await saveModel(out, loaded);
  const again = await loadForInference(runtime, out, { kind: "encoder-decoder" });
  using kept = again.weights;
  expect(Object.keys(kept.constants.packed).sort()).toEqual(Object.keys(weights.constants.packed).sort());
  expect(await logitsOf(name, again.model, kept)).toEqual(before);
  expect(again.generation).toEqual(loaded.generation);
  await expect(loadModel(runtime, out, { kind: "encoder-decoder" })).rejects.toThrow("is quantised");
});

describe("a folder that is not as the newest transformers writes it", () => {
  const { folders } = versions[0]!;

  it("holds the embeddings under the name of a copy alone, and no bias of the logits", async () => {
    const written = folders["bart-tiny"]!;
    await published("bart-tiny", written, false);
    const file = path.join(folder, "model.safetensors");
    const loaded = await loadModel(runtime, folder, { kind: "encoder-decoder" });
    using weights = loaded.weights;
    const tensors = Object.entries(weights.tensors)
      .filter(([name]) => name !== "final_logits_bias")
      .map(([name, tensor]) => ({
        name: name === "model.shared.weight" ? "model.decoder.embed_tokens.weight" : name,
        dtype: "float32" as const,
        shape: tensor.shape,
        bytes: new Uint8Array((tensor.view() as Float32Array).slice().buffer),
      }));
    await writeSafetensors(file, tensors);
    const again = await loadModel(runtime, folder, { kind: "encoder-decoder" });
    using kept = again.weights;
    expect(kept.get("model.shared.weight").view()).toEqual(weights.get("model.shared.weight").view());
    expect([...kept.get("final_logits_bias").view()].every((value) => value === 0)).toBe(true);
    const mapped = await loadForInference(runtime, folder, { kind: "encoder-decoder" });
    using run = mapped.weights;
    expect(run.constants.tensors["model.shared.weight"]!.view()).toEqual(
      weights.get("model.shared.weight").view(),
    );
  });

  it("says in config.json how it writes, where there is no generation_config.json", async () => {
    const written = folders["marian-tiny"]!;
    await published("marian-tiny", written, false);
    await rm(path.join(folder, "generation_config.json"));
    await write("config.json", {
      ...written.config,
      bad_words_ids: [[60]],
      num_beams: 6,
      forced_bos_token_id: 5,
    });
    const { weights, generation, stopIds } = await loadModel(runtime, folder, { kind: "encoder-decoder" });
    weights.dispose();
    expect({ generation, stopIds }).toEqual({
      generation: { startId: 60, forcedBosId: 5, forcedEosId: 0, bannedIds: [[60]], numBeams: 6 },
      stopIds: [0],
    });
  });

  it("is refused with what is wrong", async () => {
    await published("bart-tiny", folders["bart-tiny"]!, false);
    await write("generation_config.json", { num_beams: "four" });
    await expect(loadModel(runtime, folder)).rejects.toThrow(/generation_config\.json.*num_beams/s);
    await write("generation_config.json", {});
    await write("config.json", { ...folders["bart-tiny"]!.config, decoder_layers: 4 });
    await expect(loadModel(runtime, folder)).rejects.toThrow(
      "has no tensor model.decoder.layers.3.self_attn.q_proj.weight",
    );
    await write("config.json", { ...folders["bart-tiny"]!.config, decoder_layers: 2 });
    await expect(loadModel(runtime, folder)).rejects.toThrow("holds the tensor model.decoder.layers.2.");
    await write("config.json", { ...folders["bart-tiny"]!.config, decoder_start_token_id: 61 });
    await expect(loadModel(runtime, folder)).rejects.toThrow(
      "decoder_start_token_id is 61, but the vocabulary has 61 tokens",
    );
    await write("config.json", folders["bart-tiny"]!.config);
    await expect(loadModel(runtime, folder, { kind: "decoder" })).rejects.toThrow(
      'model_type is "bart" (BART, an encoder-decoder), but the decoders here are',
    );
    await expect(loadForInference(runtime, folder)).rejects.toThrow("(BART, an encoder-decoder)");
  });
});

it("a MASS comes back as a MASS, and transformers reads it as a BART", async () => {
  const { mass } = systems;
  const config = mass.config.create({
    vocabSize: tokenizer.vocabSize,
    contextLength: 16,
    hiddenSize: 16,
    numLayers: 1,
    numHeads: 2,
  });
  const model = mass.create(config);
  using weights = Weights.initialize(runtime, model, 3);
  await saveModel(folder, { system: mass, model, weights, tokenizer });
  expect(await json("config.json")).toMatchObject({
    model_type: "bart",
    architectures: ["BartForConditionalGeneration"],
  });
  expect(await json("generation_config.json")).toMatchObject({ decoder_start_token_id: 1 });
  const again = await loadModel(runtime, folder, { kind: "encoder-decoder" });
  using kept = again.weights;
  expect(again.system).toBe(mass);
  expect(again.model.config).toEqual(config);
  for (const name of namedParameters(model).keys())
    expect(kept.get(name).view(), name).toEqual(weights.get(name).view());
});
