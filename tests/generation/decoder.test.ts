import { describe, expect, it } from "vitest";
import { compile, input } from "../../src/graph/index.js";
import { Decoder, type DecoderOptions, generate } from "../../src/generation/index.js";
import { loadWeights } from "../../src/formats/index.js";
import { Llama, llamaConfig, Mistral, mistralConfig, systems } from "../../src/models/index.js";
import { type CausalLm, Weights, namedParameters } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { Reference, relativeError } from "../support/reference.js";

const runtime = createRuntime();
const sizes = {
  vocabSize: 61,
  contextLength: 96,
  hiddenSize: 32,
  numLayers: 2,
  numHeads: 4,
  numKeyValueHeads: 2,
  initializerRange: 0.3,
};
const models = {
  llama: new Llama(llamaConfig(sizes)),
  "dynamic rotary scaling": new Llama(
    llamaConfig({ ...sizes, contextLength: 96, ropeScaling: { kind: "dynamic", factor: 2 } }),
  ),
  mistral: new Mistral(mistralConfig({ ...sizes, slidingWindow: 6 })),
  // Heads of 16 channels, whose positions the engine's attention turns itself where tokens stay in their slots.
  "llama with wide heads": new Llama(llamaConfig({ ...sizes, numHeads: 2, numKeyValueHeads: 1 })),
  "mistral with wide heads": new Mistral(
    mistralConfig({ ...sizes, numHeads: 2, numKeyValueHeads: 1, slidingWindow: 6 }),
  ),
} satisfies Record<string, CausalLm>;
const each = Object.entries(models).map(
  ([name, model]) => [name, model, Weights.initialize(runtime, model, 5)] as const,
);
const ids = (count: number, seed = 0) =>
  Array.from({ length: count }, (_, i) => (i * i * 7 + i * 13 + seed * 29) % sizes.vocabSize);

async function write(
  model: CausalLm,
  weights: Weights,
  prompts: number[][],
  options: Partial<DecoderOptions> = {},
): Promise<number[][]> {
  using decoder = await Decoder.create(model, weights, { batch: prompts.length, ...options });
  const rows: number[][] = prompts.map(() => []);
  for await (const { row, id } of generate(decoder, prompts, { temperature: 0, maxNewTokens: 40 }))
    if (id !== undefined) rows[row]!.push(id);
  return rows;
}

describe.each(each)("a decoder of %s", (_, model, weights) => {
  it.each([
    ["whole", 1],
    ["in parts", 2],
  ])(
    "gives for rows in chunks and token by token what a pass without a cache gives, %s",
    async (_name, parts) => {
      const inputIds = input("inputIds", "int32", [1, "sequence"]);
      namedParameters(model);
      using program = await compile(runtime, { logits: model.forward(inputIds) });
      const expected = async (tokens: number[]): Promise<Float32Array> => {
        using given = runtime.createTensor("int32", [1, tokens.length], Int32Array.from(tokens));
        using logits = (await program.run({ ...weights.tensors, inputIds: given }))["logits"]!;
        return (logits.view() as Float32Array).slice(-sizes.vocabSize);
      };
      const rows = [ids(30), ids(11, 1)];
      using decoder = await Decoder.create(model, weights, {
        batch: 2,
        prefillChunk: 7,
        capacity: 60,
        parts,
      });
      let found = await decoder.prefill(rows);
      for (let step = 0; step < 12; step++) {
        for (const [row, tokens] of rows.entries())
          expect(relativeError(found[row]!, await expected(tokens))).toBeLessThan(1e-5);
        for (const [row, tokens] of rows.entries()) tokens.push((step * 5 + row) % sizes.vocabSize);
        found = await decoder.step(rows.map((tokens) => tokens.at(-1)!));
      }
    },
  );

  it("gives the same logits for a prompt in chunks of any size", async () => {
    const prompt = ids(50);
    using whole = await Decoder.create(model, weights, { batch: 1 });
    const [wanted] = await whole.prefill([prompt]);
    for (const prefillChunk of [1, 7, 25]) {
      using decoder = await Decoder.create(model, weights, { batch: 1, prefillChunk });
      const [logits] = await decoder.prefill([prompt]);
      expect(relativeError(logits!, wanted!), `chunks of ${prefillChunk}`).toBeLessThan(1e-5);
    }
  });

  it("gives for tokens taken at once what it gives one by one", async () => {
    using one = await Decoder.create(model, weights, { batch: 1 });
    using many = await Decoder.create(model, weights, { batch: 1 });
    await one.prefill([ids(9)]);
    await many.prefill([ids(9)]);
    const next = ids(5, 3);
    const all = await many.extend(0, next);
    for (const [index, id] of next.entries()) {
      const [logits] = await one.step([id]);
      expect(relativeError(all[index]!, logits!)).toBeLessThan(1e-5);
    }
    expect(many.lengths).toEqual(one.lengths);
  });

  it("writes for every row of a batch what it writes alone", async () => {
    const prompts = [ids(30), ids(3, 1), ids(17, 2)];
    const alone = await Promise.all(
      prompts.map(async (prompt) => (await write(model, weights, [prompt]))[0]),
    );
    expect(await write(model, weights, prompts)).toEqual(alone);
  });

  it("keeps the longest common beginning of the next prompt, and says so", async () => {
    using decoder = await Decoder.create(model, weights, { batch: 1 });
    using fresh = await Decoder.create(model, weights, { batch: 1 });
    const first = ids(20);
    await decoder.prefill([first]);
    expect(decoder.reused).toEqual([0]);
    for (const prompt of [
      [...first, ...ids(6, 1)],
      [...first.slice(0, 12), ...ids(4, 2)],
      first.slice(0, 5),
    ]) {
      const [logits] = await decoder.prefill([prompt]);
      fresh.reset();
      const [wanted] = await fresh.prefill([prompt]);
      expect(fresh.reused).toEqual([0]);
      expect(relativeError(logits!, wanted!)).toBeLessThan(1e-5);
    }
    // The whole of the last prompt but its last token, whose logits are wanted.
    expect(decoder.reused).toEqual([4]);
  });

  it("lets a row begin with what another row holds", async () => {
    using decoder = await Decoder.create(model, weights, { batch: 3 });
    const system = ids(15);
    const prompts = [1, 2, 3].map((seed) => [...system, ...ids(3 + seed, seed)]);
    const logits = await decoder.prefill(prompts);
    expect(decoder.reused).toEqual([0, 15, 15]);
    for (const [row, prompt] of prompts.entries()) {
      using alone = await Decoder.create(model, weights, { batch: 1 });
      const [wanted] = await alone.prefill([prompt]);
      expect(relativeError(logits[row]!, wanted!)).toBeLessThan(1e-5);
    }
  });

  it("goes on after tokens were taken back as if they had never come", async () => {
    using decoder = await Decoder.create(model, weights, { batch: 1 });
    await decoder.prefill([ids(20)]);
    await decoder.step([4]);
    await decoder.extend(0, [7, 8, 9]);
    decoder.truncate(0, 21);
    const [logits] = await decoder.step([5]);
    using other = await Decoder.create(model, weights, { batch: 1 });
    const [wanted] = await other.prefill([[...ids(20), 4, 5]]);
    expect(relativeError(logits!, wanted!)).toBeLessThan(1e-5);
    expect(() => {
      decoder.truncate(0, 40);
    }).toThrow("row 0 holds 22 tokens and cannot go back to 40");
  });

  it.each([
    ["float16", 2, 0.01],
    ["int8", 1, 0.08],
  ] as const)(
    "keeps its cache in %s of %i bytes a number, and nearly the same logits",
    async (cacheType, bytes, limit) => {
      const sizeOf = async (options: DecoderOptions): Promise<[Float32Array, Float32Array, number]> => {
        const before = runtime.allocatedBytes;
        using decoder = await Decoder.create(model, weights, options);
        const held = runtime.allocatedBytes - before;
        const [prompt] = await decoder.prefill([ids(40)]);
        return [prompt!, (await decoder.step([3]))[0]!.slice(), held];
      };
      const [wanted, wantedNext, wide] = await sizeOf({ batch: 1 });
      const [logits, next, narrow] = await sizeOf({ batch: 1, cacheType });
      for (const [found, reference] of [
        [logits, wanted],
        [next, wantedNext],
      ] as const) {
        expect(relativeError(found, reference)).toBeLessThan(limit);
        expect(relativeError(found, reference)).toBeGreaterThan(0);
      }
      // 2 layers of keys and values, 2 heads of 8 or one of 16, 96 places.
      expect(wide - narrow).toBe(2 * 2 * 2 * 8 * 96 * (4 - bytes));
    },
  );

  it("allocates nothing from step to step", async () => {
    using decoder = await Decoder.create(model, weights, { batch: 2 });
    await decoder.prefill([ids(5), ids(9)]);
    await decoder.step([1, 2]);
    const before = runtime.allocatedBytes;
    for (let i = 0; i < 40; i++) await decoder.step([i, i + 1]);
    expect(runtime.allocatedBytes).toBe(before);
  });

  it("can be stopped within a prompt and used again", async () => {
    using decoder = await Decoder.create(model, weights, { batch: 1, prefillChunk: 4 });
    const controller = new AbortController();
    const stopped = decoder.prefill([ids(60)], { signal: controller.signal });
    controller.abort(new Error("enough"));
    await expect(stopped).rejects.toThrow("enough");
    const [logits] = await decoder.prefill([ids(30)]);
    using fresh = await Decoder.create(model, weights, { batch: 1 });
    const [wanted] = await fresh.prefill([ids(30)]);
    expect(relativeError(logits!, wanted!)).toBeLessThan(1e-5);
  });
});

describe("a sliding window", () => {
  const reference = new Reference("mistral-tiny");
  const { prompt, greedy } = reference.json("values.json") as { prompt: number[]; greedy: number[] };
  const model = new Mistral(systems.mistral.config.read(reference.json("config.json")));

  it.each([1, 3, 8])(
    "keeps window and chunk alone, and transformers' ids long past both (chunks of %i)",
    async (prefillChunk) => {
      using weights = await loadWeights(runtime, model, reference.path());
      const before = runtime.allocatedBytes;
      using decoder = await Decoder.create(model, weights, { batch: 1, capacity: 64, prefillChunk });
      const tokens: number[] = [];
      for await (const { id } of generate(decoder, [prompt], { temperature: 0, maxNewTokens: 48 }))
        if (id !== undefined) tokens.push(id);
      expect(tokens).toEqual(greedy);
      // 2 layers of keys and values, 2 heads of 8, 4 bytes; the rest are the step's inputs and logits.
      const cache = 2 * 2 * 2 * 8 * 4 * (5 - 1 + prefillChunk);
      expect(runtime.allocatedBytes - before).toBeLessThan(cache + 4000);
    },
  );

  it("reads a beginning again whose keys it has let go", async () => {
    using weights = await loadWeights(runtime, model, reference.path());
    using decoder = await Decoder.create(model, weights, { batch: 1, capacity: 64, prefillChunk: 4 });
    const long = Array.from({ length: 40 }, (_, i) => (i * 11) % 97);
    await decoder.prefill([long]);
    const [logits] = await decoder.prefill([[...long.slice(0, 10), 3]]);
    expect(decoder.reused).toEqual([0]);
    using fresh = await Decoder.create(model, weights, { batch: 1, capacity: 64 });
    const [wanted] = await fresh.prefill([[...long.slice(0, 10), 3]]);
    expect(relativeError(logits!, wanted!)).toBeLessThan(1e-5);
    await decoder.prefill([long]);
    expect(() => {
      decoder.truncate(0, 12);
    }).toThrow("cannot go back to 12");
  });
});

describe("what a decoder cannot do is said before it begins", () => {
  it("a capacity beyond the context", async () => {
    const [, model, weights] = each[0]!;
    await expect(Decoder.create(model, weights, { batch: 1, capacity: 97 })).rejects.toThrow(
      "97 tokens do not fit the model's context of 96",
    );
  });

  it("a cache that no memory here can hold, with its size", async () => {
    const model = new Llama(llamaConfig({ ...sizes, contextLength: 2 ** 34 }));
    using weights = Weights.initialize(runtime, model, 1);
    // 2 layers of keys and values, 2 heads of 8 floats of 4 bytes, times 2^34.
    await expect(Decoder.create(model, weights, { batch: 1 })).rejects.toThrow(
      /the keys and values of 1 x 17179869184 tokens in float32 need 4\.4 TB of memory/,
    );
  });

  it("a token that the vocabulary does not have", async () => {
    const [, model, weights] = each[0]!;
    using decoder = await Decoder.create(model, weights, { batch: 1 });
    await expect(decoder.prefill([[61]])).rejects.toThrow(
      "there is no token 61: the model's vocabulary has 61",
    );
  });
});
