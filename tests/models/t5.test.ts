import { describe, expect, it } from "vitest";
import { loadWeights } from "../../src/formats/index.js";
import { compile, input, sum } from "../../src/graph/index.js";
import { T5, mt5Sizes, mt5Table, t5Sizes, t5Table } from "../../src/models/index.js";
import { Weights, countParameters, namedParameters, relativeBucket } from "../../src/nn/index.js";
import { sequenceToSequenceObjective } from "../../src/objectives/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { TrainingStep } from "../../src/training/index.js";
import { Reference, relativeError } from "../support/reference.js";

interface Values {
  source: number[][];
  mask: number[][];
  decoderInputIds: number[][];
  labels: number[][];
  loss: number;
}

const runtime = createRuntime();

describe.each([
  ["t5-tiny", t5Table],
  ["t5-gated-tiny", t5Table],
  ["mt5-tiny", mt5Table],
])("%s agrees with Hugging Face transformers on random weights, padded rows included", (name, table) => {
  const reference = new Reference(name);
  const values = reference.json("values.json") as Values;
  const warnings: string[] = [];
  const model = new T5(table.read(reference.json("config.json"), (warning) => void warnings.push(warning)));
  const batch = {
    inputIds: { data: Int32Array.from(values.source.flat()), shape: [2, 23] },
    attentionMask: { data: Uint8Array.from(values.mask.flat()), shape: [2, 23] },
    decoderInputIds: { data: Int32Array.from(values.decoderInputIds.flat()), shape: [2, 19] },
    labels: { data: Int32Array.from(values.labels.flat()), shape: [2, 19] },
  };
  const counted = values.labels.flat().filter((label) => label !== -100).length;
  const load = () => loadWeights(runtime, model, reference.path());

  it("knows every entry of the configuration, and writes them again", () => {
    expect(warnings).toEqual([]);
    // transformers leaves out what is its default.
    const json = { tie_word_embeddings: true, ...(reference.json("config.json") as object) };
    expect(json).toMatchObject(table.write(model.config));
  });

  it.each([true, false])("in its states, logits and loss (fused operators: %s)", async (fused) => {
    using weights = await load();
    const inputIds = input("inputIds", "int32", ["batch", "source"]);
    const attentionMask = input("attentionMask", "bool", ["batch", "source"]);
    const decoderInputIds = input("decoderInputIds", "int32", ["batch", "target"]);
    const labels = input("labels", "int32", ["batch", "target"]);
    const memory = model.encode({ inputIds, attentionMask });
    using program = await compile(
      runtime,
      {
        memory,
        logits: model.logits(model.hiddenStates(decoderInputIds, { memory, memoryMask: attentionMask })),
        loss: sum(model.losses({ inputIds, attentionMask }, decoderInputIds, labels)),
      },
      { fused },
    );
    const given = {
      inputIds: runtime.createTensor("int32", [2, 23], batch.inputIds.data),
      attentionMask: runtime.createTensor("bool", [2, 23], batch.attentionMask.data),
      decoderInputIds: runtime.createTensor("int32", [2, 19], batch.decoderInputIds.data),
      labels: runtime.createTensor("int32", [2, 19], batch.labels.data),
    };
    const results = await program.run({ ...weights.tensors, ...given });
    const wanted = await reference.tensors("logits.safetensors");
    for (const part of ["memory", "logits"])
      expect(
        relativeError((await results[part]!.read()) as Float32Array, wanted.get(part)!),
        part,
      ).toBeLessThan(1e-5);
    expect(Number((await results["loss"]!.read())[0]) / counted).toBeCloseTo(values.loss, 4);
    for (const tensor of [...Object.values(results), ...Object.values(given)]) tensor.dispose();
  });

  it("in the gradient of every parameter", async () => {
    const still = new T5({ ...model.config, dropout: 0 });
    using weights = await loadWeights(runtime, still, reference.path());
    using found = weights.like();
    using step = await TrainingStep.create(sequenceToSequenceObjective(still), weights, found);
    await step.run({ tensors: batch, counts: { tokens: counted } });
    const wanted = await reference.tensors("gradients.safetensors");
    expect([...wanted.keys()].sort()).toEqual([...namedParameters(model).keys()].sort());
    for (const [parameter, gradient] of wanted)
      expect(relativeError(found.get(parameter).view(), gradient), parameter).toBeLessThan(1e-4);
  });
});

it("the published sizes have as many parameters as transformers' T5 and mT5", () => {
  const { parameters } = new Reference(".").json("t5-sizes.json") as { parameters: Record<string, number> };
  const all = { ...t5Sizes, ...mt5Sizes };
  expect(Object.keys(all).sort()).toEqual(Object.keys(parameters).sort());
  for (const [name, { config, parameters: stated }] of Object.entries(all)) {
    expect(stated, name).toBe(parameters[name]);
    expect(countParameters(new T5(config)), name).toBe(stated);
  }
});

describe("relativeBucket", () => {
  const t5 = { buckets: 32, maxDistance: 128 };
  it("has a bucket for each near distance, and one for all far ones", () => {
    for (let distance = 0; distance < 16; distance++)
      expect(relativeBucket(-distance, { ...t5, bidirectional: false })).toBe(distance);
    expect(relativeBucket(-128, { ...t5, bidirectional: false })).toBe(31);
    expect(relativeBucket(-5000, { ...t5, bidirectional: false })).toBe(31);
    expect(relativeBucket(7, { ...t5, bidirectional: false })).toBe(0);
  });
  it("keeps half of the buckets for keys after the query", () => {
    for (let distance = 1; distance < 200; distance++)
      expect(relativeBucket(distance, { ...t5, bidirectional: true })).toBe(
        16 + relativeBucket(-distance, { ...t5, bidirectional: true }),
      );
  });
});

it("a fresh T5 begins near the loss of one who knows nothing", async () => {
  const model = new T5(
    t5Table.create({ vocabSize: 200, hiddenSize: 64, headSize: 16, numLayers: 2, numHeads: 4, dropout: 0 }),
  );
  using weights = Weights.initialize(runtime, model, 3);
  const ids = input("ids", "int32", [4, 12]);
  const labels = ids.add(100);
  using program = await compile(runtime, { loss: sum(model.losses({ inputIds: ids }, ids, labels)) });
  using given = runtime.createTensor(
    "int32",
    [4, 12],
    Int32Array.from({ length: 48 }, (_, index) => (index * 37) % 100),
  );
  const { loss } = await program.run({ ...weights.tensors, ids: given });
  using value = loss!;
  const mean = Number((await value.read())[0]) / 48;
  expect(Math.abs(mean - Math.log(200))).toBeLessThan(1.5);
});
