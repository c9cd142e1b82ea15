import { expect, it } from "vitest";
import {
  Bart,
  MBart,
  Transformer,
  bart,
  bartTable,
  mass,
  mbart,
  mbartTable,
  transformer,
  transformerTable,
} from "../../src/models/index.js";
import { countParameters, sinusoidalTable } from "../../src/nn/index.js";
import { Reference } from "../support/reference.js";
import { agreesWithTransformers } from "./encoder-decoders.js";

agreesWithTransformers("bart-tiny", bartTable, (config) => new Bart(config));
agreesWithTransformers("mbart-tiny", mbartTable, (config) => new MBart(config));
agreesWithTransformers("marian-tiny", transformerTable, (config) => new Transformer(config));

it("the published sizes have as many parameters as transformers' models", () => {
  const { parameters } = new Reference(".").json("bart-sizes.json") as { parameters: Record<string, number> };
  const sizes = new Map(
    [bart, mbart, mass, transformer].flatMap((system) =>
      Object.entries(system.sizes).map(([name, { config, parameters: stated }]) => [
        name,
        { stated, model: system.create(config) },
      ]),
    ),
  );
  expect([...sizes.keys()].sort()).toEqual(Object.keys(parameters).sort());
  for (const [name, { stated, model }] of sizes) {
    expect(stated, name).toBe(parameters[name]);
    // The bias of the logits is kept with the weights and does not learn.
    expect(countParameters(model) - model.config.vocabSize, name).toBe(stated);
  }
});

it("sinusoidal positions are those of section 3.5, sines before cosines", () => {
  const table = sinusoidalTable(4, 6);
  for (let position = 0; position < 4; position++)
    for (let pair = 0; pair < 3; pair++) {
      const angle = position / 10_000 ** ((2 * pair) / 6);
      expect(table[position * 6 + pair]).toBeCloseTo(Math.sin(angle), 6);
      expect(table[position * 6 + 3 + pair]).toBeCloseTo(Math.cos(angle), 6);
    }
});

it("refuses configurations whose numbers would differ", () => {
  expect(() => bartTable.read({ model_type: "bart", normalize_before: true })).toThrow(
    "normalize_before is true, but lineage computes it only with false",
  );
  expect(() => transformerTable.read({ share_encoder_decoder_embeddings: false })).toThrow(
    "share_encoder_decoder_embeddings is false",
  );
});
