import { describe, expect, it } from "vitest";
import { compile, input, sum } from "../../src/graph/index.js";
import { T5, mt5, mt5Sizes, mt5Table, t5, t5Sizes, t5Table } from "../../src/models/index.js";
import { Weights, countParameters, relativeBucket } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { Reference } from "../support/reference.js";
import { agreesWithTransformers } from "./encoder-decoders.js";

const runtime = createRuntime();

agreesWithTransformers("t5-tiny", t5Table, (config) => new T5(config));
agreesWithTransformers("t5-gated-tiny", t5Table, (config) => new T5(config));
agreesWithTransformers("mt5-tiny", mt5Table, (config) => new T5(config));

it("the published sizes have as many parameters as transformers' T5 and mT5", () => {
  const { parameters } = new Reference(".").json("t5-sizes.json") as { parameters: Record<string, number> };
  const all = { ...t5Sizes, ...mt5Sizes };
  expect(Object.keys(all).sort()).toEqual(Object.keys(parameters).sort());
  for (const [name, { config, parameters: stated }] of Object.entries(all)) {
    expect(stated, name).toBe(parameters[name]);
    expect(countParameters(new T5(config)), name).toBe(stated);
  }
});

describe("what transformers 5 writes", () => {
  it("tells scaled states from tied embeddings", () => {
    const read = (entries: object) => t5.config.read({ model_type: "t5", ...entries });
    expect(read({}).scaleOutputs).toBe(true);
    expect(read({ tie_word_embeddings: false }).scaleOutputs).toBe(false);
    expect(read({ tie_word_embeddings: true, scale_decoder_outputs: false })).toMatchObject({
      tieEmbeddings: true,
      scaleOutputs: false,
    });
  });

  it("never scales the states of an mT5", () => {
    const read = (entries: object) =>
      mt5.config.read({ model_type: "mt5", tie_word_embeddings: true, ...entries }).scaleOutputs;
    expect(read({ transformers_version: "4.57.6" })).toBe(true);
    expect(read({ transformers_version: "5.24.0" })).toBe(false);
    const tied = mt5.config.read({ tie_word_embeddings: true, transformers_version: "5.24.0" });
    expect(mt5.config.read(mt5.config.write(tied))).toEqual(tied);
  });

  it("has no whole number where transformers 5 wants one with a fraction", () => {
    const small = t5Sizes["t5-small"];
    expect(t5.config.write(small.config)).not.toHaveProperty("initializer_factor");
    expect(t5.config.read(t5.config.write({ ...small.config, initializerFactor: 0.5 }))).toMatchObject({
      initializerFactor: 0.5,
    });
    expect(t5.config.read(t5.config.write(small.config))).toEqual(small.config);
  });

  it("is an mT5 of its own sizes where a file says none", () => {
    expect(mt5.config.read({ model_type: "mt5" })).toEqual({
      ...mt5Sizes["mt5-small"].config,
    });
  });
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
