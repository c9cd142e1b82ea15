import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.js";
import {
  Decoder,
  StopStrings,
  beamSearch,
  distribution,
  generate,
  generateText,
  penalize,
  sample,
} from "../../src/generation/index.js";
import { Gpt2, gpt2Config } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { trainByteLevelBpe } from "../../src/tokenizers/index.js";

const runtime = createRuntime();
const model = new Gpt2(
  gpt2Config({
    hiddenSize: 48,
    numLayers: 2,
    numHeads: 3,
    vocabSize: 61,
    contextLength: 32,
    initializerRange: 0.3,
  }),
);
const weights = Weights.initialize(runtime, model, 4);

async function write(prompts: number[][], options = {}): Promise<number[][]> {
  using decoder = await Decoder.create({ model, weights, slots: prompts.length, capacity: 32 });
  const rows: number[][] = prompts.map(() => []);
  for await (const { row, id } of generate(decoder, prompts, { maxNewTokens: 15, ...options }))
    if (id !== undefined) rows[row]!.push(id);
  return rows;
}

describe("generation", () => {
  const prompts = [[1, 2, 3, 4, 5, 6, 7, 8], [9], [10, 11, 12]];

  it.each([{ temperature: 0 }, { temperature: 1, seed: 8 }, { temperature: 1.2, topK: 5, seed: 2 }])(
    "gives every row of a padded batch what it gives alone (%o)",
    async (options) => {
      const alone = await Promise.all(
        prompts.map(async (prompt, stream) => (await write([prompt], { ...options, stream }))[0]),
      );
      expect(await write(prompts, options)).toEqual(alone);
    },
  );

  it("draws for every row from a stream of its own, so that samples of one prompt differ", async () => {
    const rows = await write(
      [
        [1, 2],
        [1, 2],
        [1, 2],
      ],
      { seed: 3 },
    );
    expect(new Set(rows.map((row) => row.join())).size).toBe(3);
    const seeds = [3, 9, 3];
    const [first, second, third] = await write(
      [
        [1, 2],
        [1, 2],
        [1, 2],
      ],
      { seeds },
    );
    expect(third).toEqual(first);
    expect(second).not.toEqual(first);
    expect(first).toEqual(rows[0]);
    await expect(write([[1]], { seeds })).rejects.toThrow("3 seeds were given for 1 prompts");
  });

  it("goes on with the rows that have room when one has filled its context", async () => {
    const uneven = [Array.from({ length: 27 }, (_, i) => i), [5, 6, 7], [8]];
    const options = { maxNewTokens: 25, temperature: 0 };
    const alone = await Promise.all(uneven.map(async (prompt) => (await write([prompt], options))[0]!));
    expect(alone.map(({ length }) => length)).toEqual([6, 25, 25]);
    expect(await write(uneven, options)).toEqual(alone);
  });

  it("ends when the context is full, and says so", async () => {
    using decoder = await Decoder.create({ model, weights, capacity: 32 });
    const events = [];
    for await (const event of generate(decoder, [[1, 2, 3]])) events.push(event);
    expect(events.at(-1)).toMatchObject({ row: 0, finish: "context" });
    expect(events).toHaveLength(31);
  });

  it("refuses a prompt that does not fit, with both numbers", async () => {
    using decoder = await Decoder.create({ model, weights, capacity: 32 });
    const long = Array.from({ length: 40 }, () => 1);
    await expect(generate(decoder, [long]).next()).rejects.toThrow(
      "a prompt of 40 tokens does not fit the 32 tokens of the context",
    );
  });

  it("stops when its signal is aborted", async () => {
    using decoder = await Decoder.create({ model, weights, capacity: 32 });
    const controller = new AbortController();
    const tokens = generate(decoder, [[1]], { signal: controller.signal });
    await tokens.next();
    controller.abort(new Error("enough"));
    await expect(tokens.next()).rejects.toThrow("enough");
  });
});

describe("a model whose embeddings are padded", () => {
  const tokenizer = trainByteLevelBpe(["the moon and the sun and the stars"], { vocabSize: 270 });
  const known = tokenizer.vocabSize;
  const create = (vocabSize: number) => {
    const sizes = { hiddenSize: 48, numLayers: 1, numHeads: 3, contextLength: 64, initializerRange: 0.3 };
    return new Gpt2(gpt2Config({ ...sizes, vocabSize }));
  };
  const [padded, cut] = [create(known + 90), create(known)];
  const paddedWeights = Weights.initialize(runtime, padded, 4);
  const cutWeights = Weights.initialize(runtime, cut, 1);
  for (const [name, tensor] of Object.entries(cutWeights.tensors)) {
    const values = tensor.view();
    values.set(paddedWeights.tensors[name]!.view().subarray(0, values.length));
  }

  it.each([
    { temperature: 0 },
    { temperature: 3, seed: 1 },
    { temperature: 3, topK: 200, seed: 2 },
    { temperature: 2, topP: 0.9, seed: 3 },
    { temperature: 3, repetitionPenalty: 1.3, seed: 4 },
  ])("writes what it writes without the padding (%o)", async (options) => {
    const textOf = async (model: Gpt2, weights: Weights): Promise<string> => {
      using decoder = await Decoder.create({ model, weights });
      const written = generateText({ decoder, tokenizer, stopIds: [] }, "the moon", {
        maxNewTokens: 40,
        ...options,
      });
      return (await written.all()).text;
    };
    expect(await textOf(padded, paddedWeights)).toBe(await textOf(cut, cutWeights));
  });

  it.each([known + 80, known])("follows beams of the %i tokens alone", async (vocabSize) => {
    using decoder = await Decoder.create({ model: padded, weights: paddedWeights, beams: 3 });
    const search = (options = {}) =>
      beamSearch(decoder, [1, 2, 3], { maxNewTokens: 20, numReturned: 3, vocabSize, ...options });
    const found = await search();
    expect(Math.max(...found.flatMap(({ ids }) => ids))).toBeLessThan(vocabSize);
    // A bias, even of nothing, needs all logits instead of the likeliest tokens.
    expect((await search({ logitBias: { 0: 0 } })).map(({ ids }) => ids)).toEqual(
      found.map(({ ids }) => ids),
    );
  });
});

describe("sampling", () => {
  const logits = Float32Array.from([0.7, 0.1, 0.15, 0.05].map(Math.log));

  it("keeps what top-k, top-p and min-p leave, scaled to sum to 1", () => {
    expect([...distribution(logits, { topK: 2 }).ids]).toEqual([0, 2]);
    const nucleus = distribution(logits, { topP: 0.84 });
    expect([...nucleus.ids]).toEqual([0, 2]);
    expect(nucleus.probabilities[0]).toBeCloseTo(0.7 / 0.85, 5);
    expect([...distribution(logits, { minP: 0.2 }).ids]).toEqual([0, 2]);
    expect([...distribution(logits, { topP: 0.01 }).ids]).toEqual([0]);
  });

  it("keeps what sorting the whole vocabulary keeps, however flat or steep it is", () => {
    fc.assert(
      fc.property(
        fc.record({
          seed: fc.nat(),
          size: fc.integer({ min: 1, max: 300 }),
          spread: fc.constantFrom(0, 0.1, 3, 40),
          temperature: fc.constantFrom(0.1, 1, 5),
          topK: fc.constantFrom(undefined, 1, 7, 1000),
          topP: fc.constantFrom(undefined, 0.05, 0.6, 0.999),
          minP: fc.constantFrom(undefined, 0.001, 0.3),
        }),
        ({ seed, size, spread, temperature, ...cuts }) => {
          const random = new Random(seed);
          const scores = Float32Array.from({ length: size }, () => spread * (random.uniform() - 0.5));
          const options = Object.fromEntries(
            Object.entries(cuts).filter(([, value]) => value !== undefined),
          ) as { topK?: number; topP?: number; minP?: number };
          const weights = Array.from(scores, (score, id) => ({ id, weight: Math.exp(score / temperature) }));
          weights.sort((a, b) => scores[b.id]! - scores[a.id]! || a.id - b.id);
          const ofK = weights.slice(0, options.topK ?? size);
          const limit = (options.topP ?? 2) * ofK.reduce((sum, { weight }) => sum + weight, 0);
          let reached = 0;
          const ofP = ofK.filter(({ weight }) => {
            const wanted = reached < limit;
            reached += weight;
            return wanted;
          });
          const kept = ofP.filter(
            ({ weight }, rank) => rank === 0 || weight >= (options.minP ?? 0) * ofP[0]!.weight,
          );
          const total = kept.reduce((sum, { weight }) => sum + weight, 0);
          const found = distribution(scores, { temperature, ...options });
          const wanted = new Map(kept.map(({ id, weight }) => [id, weight / total]));
          // At the edge of top-p and min-p the two may differ by one token, by rounding.
          expect(Math.abs(found.ids.length - wanted.size)).toBeLessThanOrEqual(1);
          if (found.ids.length !== wanted.size) return;
          for (const [place, id] of found.ids.entries())
            expect(found.probabilities[place]).toBeCloseTo(wanted.get(id)!, 6);
        },
      ),
      { numRuns: 500 },
    );
  });

  it("follows the distribution", () => {
    const random = new Random(1);
    const counts = [0, 0, 0, 0];
    for (let i = 0; i < 20_000; i++) counts[sample(logits, {}, random)]!++;
    counts.forEach((count, id) => {
      expect(Math.abs(count / 20_000 - Math.exp(logits[id]!))).toBeLessThan(0.015);
    });
  });

  it.each([
    ["flat", () => 0],
    ["steep", (id: number) => -id],
    ["one that is far above", (id: number) => (id === 140 ? 6 : 0)],
    ["wavy, with tokens that may not come", (id: number) => (id % 3 === 0 ? -Infinity : 2 * Math.sin(id))],
  ])("draws from a vocabulary of many as often as the distribution says: %s", (_, logitOf) => {
    const many = Float32Array.from({ length: 150 }, (_value, id) => logitOf(id));
    const [random, draws, temperature] = [new Random(5), 60_000, 0.8];
    const counts = new Map<number, number>();
    for (let i = 0; i < draws; i++) {
      const id = sample(many, { temperature }, random);
      counts.set(id, (counts.get(id) ?? 0) + 1);
    }
    const weights = Array.from(many, (logit) => Math.exp(logit / temperature));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    // Pearson's statistic over tokens that are expected 5 times or more; its deviation is the root of twice their number.
    let [statistic, tokens] = [0, 0];
    for (const [id, weight] of weights.entries()) {
      const expected = (draws * weight) / total;
      if (weight === 0) expect(counts.has(id)).toBe(false);
      if (expected < 5) continue;
      statistic += ((counts.get(id) ?? 0) - expected) ** 2 / expected;
      tokens++;
    }
    expect(statistic).toBeLessThan(tokens + 5 * Math.sqrt(2 * tokens));
  });

  it("applies penalties by their definitions", () => {
    const scores = Float32Array.of(2, -1, 3, 0);
    penalize(scores, [0], [1, 2, 2], {
      repetitionPenalty: 2,
      frequencyPenalty: 0.5,
      presencePenalty: 0.25,
      logitBias: { 3: 4 },
    });
    expect([...scores]).toEqual([1, -2.75, 0.25, 4]);
  });

  it("refuses options out of range", async () => {
    await expect(write([[1]], { topP: 0 })).rejects.toThrow("topP must be above 0 and at most 1, not 0");
    await expect(write([[1]], { temperature: -1 })).rejects.toThrow("temperature must be 0 or more, not -1");
  });
});

describe("stop strings", () => {
  it("never let out what they cut, however the text is cut into pieces", () => {
    fc.assert(
      fc.property(
        fc.array(fc.stringMatching(/^[abc]{0,3}$/)),
        fc.array(fc.stringMatching(/^[abc]{1,3}$/), { maxLength: 2 }),
        (pieces, stops) => {
          const filter = new StopStrings(stops);
          const streamed = pieces.map((piece) => filter.push(piece)).join("") + filter.flush();
          const whole = pieces.join("");
          // The text up to the first moment at which a stop string has been completed.
          let cut = whole.length;
          for (let end = 1; end <= whole.length; end++) {
            const places = stops
              .map((stop) => whole.slice(0, end).indexOf(stop))
              .filter((place) => place >= 0);
            if (places.length > 0) {
              cut = Math.min(...places);
              break;
            }
          }
          // A piece may complete two stop strings at once; the earlier one in the text wins.
          expect(whole.startsWith(streamed)).toBe(true);
          expect(streamed.length).toBeLessThanOrEqual(cut);
          for (const stop of stops) expect(streamed.includes(stop)).toBe(false);
          if (!stops.some((stop) => whole.includes(stop))) expect(streamed).toBe(whole);
        },
      ),
    );
  });
});
