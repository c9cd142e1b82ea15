import { describe, expect, it } from "vitest";
import { freeze } from "../../src/tasks/layers.js";
import { albert, encoderOf, systemsOfKind } from "../../src/models/index.js";
import { type HeadName, headNames, namedParameters } from "../../src/nn/index.js";
import { referenceJson } from "./encoders.js";

const encoders = systemsOfKind("encoder");
const small = (type: string, name: string) =>
  referenceJson(`${name === "unilm" ? name : type}/config.json`) as Record<string, unknown>;

describe.each(encoders)("the definition of $name", (system) => {
  const config = system.config.read(small(system.type, system.name));
  const { numLayers } = config;

  it("says where each parameter stands", () => {
    const depths = new Map<number, string[]>();
    for (const head of headNames)
      for (const name of namedParameters(system.heads[head].create(config, 2)).keys()) {
        const depth = system.depth(name, config);
        depths.set(depth, [...(depths.get(depth) ?? []), name]);
      }
    const names = (depth: number) => depths.get(depth) ?? [];
    // Every parameter of the encoder but its pooler is one of the embeddings or of a layer.
    for (const name of names(numLayers + 1))
      if (name.startsWith(`${system.prefix}.`)) expect(name).toContain(".pooler.");
    expect(names(0).some((name) => /word_embedding|transformer\.embeddings\.weight/.test(name))).toBe(true);
    for (const name of names(0)) expect(name).toMatch(/emb|LayerNorm/);
    const shared = system.sharesLayers?.(config) ?? false;
    const layers = [...depths.keys()]
      .filter((depth) => depth > 0 && depth <= numLayers)
      .sort((a, b) => a - b);
    if (!shared) expect(layers).toEqual(Array.from({ length: numLayers }, (_, layer) => layer + 1));
    expect(layers.at(-1)).toBe(numLayers);
  });

  it("names the linear layer that each head answers with", () => {
    const outputs: Readonly<Record<HeadName, number | undefined>> = {
      "fill-mask": undefined,
      classify: 3,
      tag: 3,
      span: 2,
      choice: 1,
    };
    for (const head of headNames) {
      const { output, create } = system.heads[head];
      const parameters = namedParameters(create(config, 3));
      if (output === undefined) expect(head).toBe("fill-mask");
      else expect(parameters.get(`${output}.weight`)!.shape[0], head).toBe(outputs[head]);
    }
  });

  it("finds itself by its config.json", () => {
    expect(encoderOf({ ...small(system.type, system.name), ...system.config.write(config) }).name).toBe(
      system.name,
    );
  });
});

it("tells no layers apart where all have the same parameters", () => {
  const config = albert.config.read(small("albert", "albert"));
  const model = albert.heads.classify.create({ ...config, numLayers: 4, numGroups: 1 }, 2);
  const loaded = { system: albert, model, fresh: [] } as unknown as Parameters<typeof freeze>[1];
  const options = { freezeEmbeddings: false, freezeLayers: 0, layerDecay: 1 };
  expect(() => {
    freeze({ ...options, freezeLayers: 2 }, loaded);
  }).toThrow("the 4 layers of ALBERT share their parameters, so --freeze-layers has no meaning");
  expect(() => {
    freeze({ ...options, layerDecay: 0.9 }, loaded);
  }).toThrow("share their parameters, so --layer-decay has no meaning");
  freeze({ ...options, freezeEmbeddings: true }, loaded);
  const frozen = [...namedParameters(model)].filter(([, { trainable }]) => !trainable).map(([name]) => name);
  expect(frozen.length).toBeGreaterThan(0);
  for (const name of frozen)
    expect(name).toMatch(/^albert\.(embeddings|encoder\.embedding_hidden_mapping_in)\./);
});
