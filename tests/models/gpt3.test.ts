import { describe, expect, it } from "vitest";
import { Gpt3, gpt3Sizes, systems } from "../../src/models/index.js";
import { countParameters } from "../../src/nn/index.js";
import { Reference } from "../support/reference.js";
import { agreesWithReference } from "./decoders.js";

describe("GPT-3 agrees with transformers' GPT-Neo on random weights", () => {
  agreesWithReference("gpt3-tiny", (json) => new Gpt3(systems.gpt3.config.read(json)));
});

describe("the catalogue of GPT-3", () => {
  const { parameters: counted } = new Reference("gpt3-tiny").json("values.json") as {
    parameters: Record<string, number>;
  };
  /** Billions, table 2.1. */
  it.each([
    ["gpt3-small", 0.125],
    ["gpt3-medium", 0.35],
    ["gpt3-large", 0.76],
    ["gpt3-xl", 1.3],
    ["gpt3-2.7b", 2.7],
    ["gpt3-6.7b", 6.7],
    ["gpt3-13b", 13],
    ["gpt3-175b", 175],
  ] as const)("%s has the parameters that transformers counts, and those of the paper", (name, billions) => {
    const { config, parameters } = gpt3Sizes[name];
    expect(countParameters(new Gpt3(config))).toBe(counted[name]);
    expect(parameters).toBe(counted[name]);
    expect(Math.abs(parameters / 1e9 / billions - 1)).toBeLessThan(0.02);
  });
});

describe("which layers have the band", () => {
  const json = new Reference("gpt3-tiny").json("config.json") as Record<string, unknown>;
  const read = (types: unknown) => systems.gpt3.config.read({ ...json, attention_types: types }).layerTypes;

  it("is every second one, or as attention_types says", () => {
    expect(read(undefined)).toEqual([
      "full_attention",
      "sliding_attention",
      "full_attention",
      "sliding_attention",
    ]);
    expect(read([[["global"], 4]])).toEqual(Array.from({ length: 4 }, () => "full_attention"));
    const uneven = [
      [["local", "global"], 1],
      [["local"], 2],
    ];
    expect(
      systems.gpt3.config.write(systems.gpt3.config.read({ ...json, attention_types: uneven })),
    ).toMatchObject({
      attention_types: [[["local", "global", "local", "local"], 1]],
    });
  });

  it("is refused where it does not say it of every layer, or in other words", () => {
    expect(() => read([[["global", "local"], 3]])).toThrow("what 6 layers attend to; num_layers is 4");
    expect(() => read([[["banded"], 4]])).toThrow("attention_types");
    expect(() => read([[["global"], 1e9]])).toThrow("attention_types");
  });
});
