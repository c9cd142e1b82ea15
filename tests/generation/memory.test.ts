import { describe, expect, it } from "vitest";
import { compile, input } from "../../src/graph/index.js";
import { Decoder, type GenerateOptions, beamSearch, generate } from "../../src/generation/index.js";
import { loadWeights } from "../../src/formats/index.js";
import { systemOf } from "../../src/models/index.js";
import { type EncoderDecoder, type Weights, namedParameters } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { Reference, relativeError } from "../support/reference.js";

const runtime = createRuntime({ threads: 1 });

interface Values {
  source: number[][];
  mask: number[][];
  greedy: number[][];
  beams: number[][];
}

async function loaded(name: string): Promise<{
  model: EncoderDecoder;
  weights: Weights;
  values: Values;
  sources: number[][];
  stopIds: number[];
}> {
  const reference = new Reference(name);
  const json = reference.json("config.json") as { eos_token_id: number };
  const system = systemOf(json);
  if (system.kind !== "encoder-decoder") throw new Error(`${name} is no encoder-decoder`);
  const model = system.create(system.config.read(json));
  const values = reference.json("values.json") as Values;
  const sources = values.source.map((row, index) =>
    row.filter((_, place) => values.mask[index]![place] === 1),
  );
  const weights = await loadWeights(runtime, model, reference.path());
  return { model, weights, values, sources, stopIds: [json.eos_token_id] };
}

/** What transformers generated, without the start token and the padding behind the end. */
function continuation(row: readonly number[], stopIds: readonly number[]): number[] {
  const written = row.slice(1);
  const end = written.findIndex((id) => stopIds.includes(id));
  return end < 0 ? written : written.slice(0, end + 1);
}

const names = ["t5-tiny", "t5-gated-tiny", "mt5-tiny", "bart-tiny", "mbart-tiny", "marian-tiny"];

async function write(
  decoder: Decoder,
  sources: number[][],
  options: GenerateOptions = {},
): Promise<number[][]> {
  const rows: number[][] = sources.map(() => []);
  const prompts = sources.map((source) => ({ source }));
  for await (const { row, id } of generate(decoder, prompts, {
    temperature: 0,
    maxNewTokens: 20,
    ...options,
  }))
    if (id !== undefined) rows[row]!.push(id);
  return rows;
}

describe.each(names)("a decoder of %s", (name) => {
  it("writes greedily what transformers writes, side by side and alone", async () => {
    const { model, weights, values, sources, stopIds } = await loaded(name);
    using decoder = await Decoder.create({ model, weights, slots: 2, capacity: 30 });
    const wanted = values.greedy.map((row) =>
      continuation(row, stopIds).filter((id) => !stopIds.includes(id)),
    );
    expect(await write(decoder, sources, { stopIds })).toEqual(wanted);
    using single = await Decoder.create({ model, weights, capacity: 30 });
    for (const [index, source] of sources.entries())
      expect(await write(single, [source], { stopIds })).toEqual([wanted[index]]);
    weights.dispose();
  });

  it("finds in beam search what transformers finds", async () => {
    const { model, weights, values, sources, stopIds } = await loaded(name);
    using decoder = await Decoder.create({ model, weights, slots: 2, beams: 4, capacity: 30 });
    const options = { maxNewTokens: 20, numReturned: 2, lengthPenalty: 0.8, stopIds };
    const found = await Promise.all(sources.map((source) => beamSearch(decoder, { source }, options)));
    expect(found.flat().map(({ ids }) => ids)).toEqual(values.beams.map((row) => continuation(row, stopIds)));
    weights.dispose();
  });

  it("gives the logits of a pass without a cache, token by token and at once", async () => {
    const { model, weights, sources } = await loaded(name);
    namedParameters(model);
    const inputIds = input("inputIds", "int32", [1, "source"]);
    const decoderInputIds = input("decoderInputIds", "int32", [1, "target"]);
    using program = await compile(runtime, { logits: model.forward({ inputIds }, decoderInputIds) });
    const expected = async (source: number[], text: number[]): Promise<Float32Array> => {
      using given = runtime.createTensor("int32", [1, source.length], Int32Array.from(source));
      using written = runtime.createTensor("int32", [1, text.length], Int32Array.from(text));
      using logits = (await program.run({ ...weights.tensors, inputIds: given, decoderInputIds: written }))[
        "logits"
      ]!;
      return (logits.view() as Float32Array).slice(-model.config.vocabSize);
    };
    using decoder = await Decoder.create({ model, weights, slots: 2, capacity: 30, prefillChunk: 4 });
    const texts = [
      [model.config.decoderStartTokenId, 7, 9, 11, 5, 6],
      [model.config.decoderStartTokenId, 8],
    ];
    const slots = sources.map(() => decoder.open());
    const found = [];
    for (const [index, slot] of slots.entries())
      found.push(await decoder.read(slot, { source: sources[index]!, begin: texts[index]! }));
    for (let step = 0; step < 6; step++) {
      for (const [row, text] of texts.entries())
        expect(relativeError(found[row]!, await expected(sources[row]!, text))).toBeLessThan(1e-5);
      for (const [row, text] of texts.entries()) text.push(12 + step * 3 + row);
      const next = texts.map((text) => text.at(-1)!);
      found.splice(0, 2, ...(await decoder.step(slots, next)));
    }
    const more = [20, 21, 22];
    const all = await decoder.extend(slots[1]!, more);
    for (const [index, logits] of all.entries())
      expect(
        relativeError(logits, await expected(sources[1]!, [...texts[1]!, ...more.slice(0, index + 1)])),
      ).toBeLessThan(1e-5);
    weights.dispose();
  });
});
