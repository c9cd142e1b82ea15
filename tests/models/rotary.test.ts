import { describe, expect, it } from "vitest";
import { loadWeights } from "../../src/formats/index.js";
import { Decoder, generate } from "../../src/generation/index.js";
import { compile, input } from "../../src/graph/index.js";
import { Llama, llamaConfig, systems } from "../../src/models/index.js";
import { scaledContext } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { Reference, relativeError } from "../support/reference.js";

type Json = Record<string, unknown>;

const runtime = createRuntime();
const { ids, cases } = new Reference(".").json("rotary-scalings.json") as {
  ids: number[];
  cases: Record<string, { config: Json; runs: { length: number; logits: number[]; greedy: number[] }[] }>;
};
const { config: table } = systems.llama;
const weightsOf = (model: Llama) => loadWeights(runtime, model, new Reference("llama-rope").path());

/** The same configuration as transformers 5 writes it. */
function newSpelling({ rope_theta, rope_scaling, original_max_position_embeddings, ...rest }: Json): Json {
  const original = original_max_position_embeddings ?? rest["max_position_embeddings"];
  return {
    ...rest,
    rope_parameters: { original_max_position_embeddings: original, ...(rope_scaling as Json), rope_theta },
  };
}

const all = Object.entries(cases).map(([name, { config, runs }]) => ({ name, config, runs }));

async function greedyIds(decoder: Decoder, prompt: readonly number[], count: number): Promise<number[]> {
  const out: number[] = [];
  for await (const { id } of generate(decoder, [prompt], { temperature: 0, maxNewTokens: count }))
    if (id !== undefined) out.push(id);
  return out;
}

describe.each(all)(
  "$name: transformers' numbers within the original context and beyond",
  ({ config, runs }) => {
    const model = new Llama(table.read(config));

    it("gives its logits of prompts in one pass", async () => {
      using weights = await weightsOf(model);
      for (const { length, logits: wanted } of runs) {
        using program = await compile(runtime, {
          logits: model.forward(input("inputIds", "int32", [1, length])),
        });
        const { logits } = await program.run({
          ...weights.tensors,
          inputIds: runtime.createTensor("int32", [1, length], Int32Array.from(ids.slice(0, length))),
        });
        const last = ((await logits!.read()) as Float32Array).slice(-97);
        expect(relativeError(last, Float32Array.from(wanted)), String(length)).toBeLessThan(1e-5);
      }
    });

    it("gives its ids, read at once, in small chunks and after what another prompt has left", async () => {
      using weights = await weightsOf(model);
      const { contextLength } = model.config;
      expect(scaledContext(model.config)).toBe(64);
      for (const prefillChunk of [512, 4]) {
        using decoder = await Decoder.create({ model, weights, capacity: 64, prefillChunk });
        expect(contextLength).toBeLessThanOrEqual(decoder.capacity);
        for (const { length, greedy } of [...runs, ...runs.toReversed()])
          expect(await greedyIds(decoder, ids.slice(0, length), greedy.length)).toEqual(greedy);
      }
    });

    it("reads the spelling of transformers 5, and keeps the configuration when it is written", () => {
      expect(table.read(newSpelling(config))).toEqual(model.config);
      expect(table.read(table.write(model.config))).toEqual(model.config);
    });
  },
);

it("continues a text beyond max_position_embeddings as far as the scaling reaches", async () => {
  const { config, runs } = cases["dynamic"]!;
  const model = new Llama(table.read(config));
  using weights = await weightsOf(model);
  const { length, greedy } = runs.at(-1)!;
  using decoder = await Decoder.create({ model, weights, capacity: length + greedy.length });
  const slot = decoder.open();
  await decoder.read(slot, ids.slice(0, length));
  // A draft that is checked at once gives what steps give.
  const drafted = await decoder.extend(slot, greedy.slice(0, 5));
  expect(drafted.map((logits) => logits.indexOf(Math.max(...logits)))).toEqual(greedy.slice(1, 6));
  await expect(Decoder.create({ model, weights, capacity: 65 })).rejects.toThrow("context of 64");
});

it("refuses a scaling that does not fit the heads, and names entries that nobody knows", () => {
  const sizes = { hiddenSize: 64, numLayers: 1, numHeads: 4 };
  const json = table.write(llamaConfig(sizes));
  const long = { rope_type: "longrope", short_factor: [1, 2], long_factor: [1, 2] };
  expect(() => table.read({ ...json, rope_scaling: long })).toThrow(
    "short_factor has 2 numbers; heads of 16 channels need 8",
  );
  expect(() => table.read({ ...json, rope_scaling: { ...long, long_factor: undefined } })).toThrow(
    "long_factor",
  );
  expect(() =>
    table.read({ ...json, rope_parameters: { rope_type: "default", partial_rotary_factor: 0.5 } }),
  ).toThrow("partial_rotary_factor is 0.5");
  const warnings: string[] = [];
  table.read({ ...json, rope_scaling: { type: "linear", factor: 2, bend: 1 } }, (text) =>
    warnings.push(text),
  );
  expect(warnings).toEqual([expect.stringContaining("does not know bend of rope_scaling")]);
});
