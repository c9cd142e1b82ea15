import { describe, expect, it } from "vitest";
import { encoderDecoderOf, systemOf, systems, systemsOfKind } from "../../src/models/index.js";
import { namedParameters } from "../../src/nn/index.js";
import { trainTokenizer } from "../../src/tokenizers/index.js";
import { Reference } from "../support/reference.js";

const reference = new Reference(".");
const tiny: Readonly<Record<string, string>> = { transformer: "marian-tiny", mass: "bart-tiny" };
const encoderDecoders = systemsOfKind("encoder-decoder");
const text = ["ein Hund läuft durch den Park", "a dog runs through the park", "two men are cooking dinner"];

it("lists the encoder-decoders", () => {
  expect(encoderDecoders.map(({ name }) => name).sort()).toEqual(
    ["bart", "mass", "mbart", "mt5", "t5", "transformer"].sort(),
  );
});

describe.each(encoderDecoders)("the definition of $name", (system) => {
  const json = reference.json(`${tiny[system.name] ?? `${system.name}-tiny`}/config.json`) as object;
  const config = system.config.read(json);
  const { numLayers, numDecoderLayers } = config;

  it("says where each parameter stands", () => {
    const depths = new Map<number, string[]>();
    for (const name of namedParameters(system.create(config)).keys()) {
      const depth = system.depth(name, config);
      depths.set(depth, [...(depths.get(depth) ?? []), name]);
    }
    const last = numLayers + numDecoderLayers + 1;
    expect([...depths.keys()].sort((a, b) => a - b)).toEqual(
      expect.arrayContaining(Array.from({ length: last }, (_, depth) => depth)),
    );
    expect(Math.max(...depths.keys())).toBeLessThanOrEqual(last);
    for (const name of depths.get(0)!) expect(name).toMatch(/shared|embed/);
    for (let depth = 1; depth < last; depth++) {
      const [side, layer] = depth <= numLayers ? ["encoder", depth - 1] : ["decoder", depth - numLayers - 1];
      for (const name of depths.get(depth)!)
        expect(name).toMatch(
          new RegExp(`${side}\\.(block|layers)\\.${layer}\\.|encoder\\.\\w*layer_norm\\.`),
        );
    }
    expect(system.ownLayers?.(config)).toBe(numLayers + numDecoderLayers);
  });

  it("finds itself by its config.json", () => {
    const written = { ...json, ...system.config.write(config) };
    expect(encoderDecoderOf(written).name).toBe(system.name);
    expect(systemOf(written)).toBe(encoderDecoderOf(written));
    expect(system.config.read(written)).toEqual(config);
  });

  it("begins a text with an id of its own tokenizer", () => {
    const tokenizer = trainTokenizer(system.tokenizer, text, 400);
    for (const sentence of text) {
      const { ids } = tokenizer.encodePair(sentence);
      expect(ids.at(-1)).toBe(tokenizer.eosId);
      expect(tokenizer.decode(ids)).toBe(sentence);
    }
    const { config: published } = Object.values(system.sizes)[0]!;
    expect(published.padTokenId).toBe(tokenizer.padId);
    expect([tokenizer.padId, tokenizer.eosId]).toContain(system.startId(published));
  });
});

it("trains T5's sentinels behind the pieces, the first of them last", () => {
  const tokenizer = trainTokenizer(systems.t5.tokenizer, text, 400);
  expect(tokenizer.tokenToId("<extra_id_0>")).toBe(tokenizer.vocabSize - 1);
  expect(tokenizer.tokenToId("<extra_id_99>")).toBe(tokenizer.vocabSize - 100);
});

it("says what a model of another kind is", () => {
  expect(() => encoderDecoderOf({ model_type: "gpt2" })).toThrow(
    'model_type is "gpt2" (GPT-2, a decoder), but the encoder-decoders here are bart, mbart, mt5, t5, marian',
  );
  expect(() => systemOf({})).toThrow("there is no model_type, but the systems here are ");
});
