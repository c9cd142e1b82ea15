import { describe, expect, it } from "vitest";
import { compile, input } from "../../src/graph/index.js";
import {
  type BeamOptions,
  Decoder,
  type Drafter,
  type GenerateOptions,
  type TokenConstraint,
  beamSearch,
  generate,
  modelDrafter,
  promptLookup,
} from "../../src/generation/index.js";
import { loadWeights } from "../../src/formats/index.js";
import { Random } from "../../src/base/random.js";
import { systemOf, systems } from "../../src/models/index.js";
import { type EncoderDecoder, Weights, namedParameters } from "../../src/nn/index.js";
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

describe.each(["transformer", "t5", "bart"] as const)("texts of a %s that share a decoder", (name) => {
  const sizes = {
    vocabSize: 61,
    contextLength: 120,
    hiddenSize: 32,
    numLayers: 2,
    numHeads: 4,
    padTokenId: 0,
    decoderStartTokenId: 0,
  };
  const model =
    name === "t5"
      ? systems.t5.create(systems.t5.config.create({ ...sizes, headSize: 8, intermediateSize: 48 }))
      : systems[name].create(systems[name].config.create({ ...sizes, initializerRange: 0.4 }));
  const weights = Weights.initialize(runtime, model, 8);
  const random = new Random(3);
  const works = Array.from({ length: 11 }, (_, stream) => ({
    source: Array.from({ length: 1 + random.integer(70) }, () => 1 + random.integer(60)),
    maxNewTokens: 1 + random.integer(100),
    stopIds: [random.integer(61), random.integer(61)],
    begin: [0, ...Array.from({ length: random.integer(4) }, () => random.integer(61))],
    seed: 5,
    stream,
  }));

  it("are each what they are alone, however long they and their sources are, and leave no memory", async () => {
    const before = runtime.allocatedBytes;
    const collect = async (decoder: Decoder, work: (typeof works)[number], options: GenerateOptions) => {
      const { source, begin, ...rest } = work;
      const events: unknown[] = [];
      for await (const { id, finish } of generate(decoder, [{ source, begin }], { ...rest, ...options }))
        events.push(id ?? finish);
      return events;
    };
    for (const options of [{ temperature: 0 }, { temperature: 1 }, { topK: 4, noRepeatNgram: 2 }]) {
      const wanted = [];
      for (const work of works) {
        using single = await Decoder.create({ model, weights });
        wanted.push(await collect(single, work, options));
      }
      using shared = await Decoder.create({ model, weights, slots: 3 });
      expect(await Promise.all(works.map((work) => collect(shared, work, options)))).toEqual(wanted);
      expect(shared.freeSlots).toBe(3);
    }
    expect(runtime.allocatedBytes).toBe(before);
  });

  it("are found by beam searches that are each what they are alone", async () => {
    const search = (decoder: Decoder, { source, begin, maxNewTokens, stopIds }: (typeof works)[number]) => {
      const options: BeamOptions = { maxNewTokens, stopIds, numBeams: 3, numReturned: 3, noRepeatNgram: 3 };
      return beamSearch(decoder, { source, begin }, options);
    };
    const wanted = [];
    for (const work of works) {
      using single = await Decoder.create({ model, weights, beams: 3 });
      wanted.push((await search(single, work)).map(({ ids }) => ids));
    }
    using shared = await Decoder.create({ model, weights, slots: 4, beams: 4 });
    const found = await Promise.all(works.map((work) => search(shared, work)));
    expect(found.map((beams) => beams.map(({ ids }) => ids))).toEqual(wanted);
    expect(shared.freeSlots).toBe(4);
  });

  it("are the same with guesses, and are what a constraint allows", async () => {
    using decoder = await Decoder.create({ model, weights });
    using other = await Decoder.create({ model, weights });
    const { source } = works[1]!;
    const write = async (options: GenerateOptions) => {
      decoder.forget();
      const ids: number[] = [];
      const all = { temperature: 0, maxNewTokens: 40, ...options };
      for await (const { id } of generate(decoder, [{ source }], all)) if (id !== undefined) ids.push(id);
      return ids;
    };
    const wanted = await write({});
    const drafters: Drafter[] = [promptLookup(), modelDrafter(other)];
    for (const drafter of drafters) expect(await write({ drafter })).toEqual(wanted);
    const even: TokenConstraint = {
      restrict: (logits) => {
        for (let id = 1; id < logits.length; id += 2) logits[id] = -Infinity;
      },
      accept: () => undefined,
      finished: false,
    };
    const constrained = await write({ constraints: [even] });
    expect(constrained).toHaveLength(40);
    expect(constrained.every((id) => id % 2 === 0)).toBe(true);
  });
});

it("refuses prompts that do not fit the kind of model, and sources that do not fit the model", async () => {
  const { model, weights } = await loaded("bart-tiny");
  using decoder = await Decoder.create({ model, weights });
  await expect(generate(decoder, [[1, 2]]).next()).rejects.toThrow(
    "a prompt of an encoder-decoder has a source",
  );
  await expect(generate(decoder, [{ source: [] }]).next()).rejects.toThrow(
    "a source needs at least one token",
  );
  const long = Array.from({ length: 33 }, () => 5);
  await expect(generate(decoder, [{ source: long }]).next()).rejects.toThrow(
    "a source of 33 tokens does not fit the 32 that the model reads",
  );
  await expect(Decoder.create({ model, weights, cacheType: "int8" })).rejects.toThrow(
    "the cache of an encoder-decoder is float32",
  );
  await expect(beamSearch(decoder, { source: [5] }, { maxNewTokens: 4, numBeams: 2 })).rejects.toThrow(
    "numBeams must be a whole number from 1 to the 1 beams",
  );
  weights.dispose();
});
