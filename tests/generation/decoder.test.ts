import { describe, expect, it, onTestFinished } from "vitest";
import { compile, input } from "../../src/graph/index.js";
import { type CacheType, Decoder, type DecoderOptions, generate } from "../../src/generation/index.js";
import { loadWeights } from "../../src/formats/index.js";
import { KeyValueBuffers } from "../../src/generation/cache.js";
import {
  Gpt3,
  gpt3Config,
  Llama,
  llamaConfig,
  Mistral,
  mistralConfig,
  Qwen2,
  qwen2Config,
  systems,
} from "../../src/models/index.js";
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
const gpt3Sizes = {
  vocabSize: 61,
  contextLength: 96,
  hiddenSize: 32,
  numLayers: 2,
  numHeads: 4,
  initializerRange: 0.3,
};
const models = {
  llama: new Llama(llamaConfig(sizes)),
  "dynamic rotary scaling": new Llama(
    llamaConfig({ ...sizes, contextLength: 96, ropeScaling: { kind: "dynamic", factor: 2 } }),
  ),
  mistral: new Mistral(mistralConfig({ ...sizes, slidingWindow: 6 })),
  "a window in one of two layers": new Qwen2(
    qwen2Config({ ...sizes, slidingWindow: 6, layerTypes: ["full_attention", "sliding_attention"] }),
  ),
  "gpt3, whose every second layer has a band": new Gpt3(
    gpt3Config({ ...gpt3Sizes, hiddenSize: 16, numHeads: 2, slidingWindow: 6 }),
  ),
  "heads that the cache fills up": new Llama(llamaConfig({ ...sizes, headSize: 6 })),
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
  using decoder = await Decoder.create({ model, weights, slots: prompts.length, ...options });
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
      using decoder = await Decoder.create({
        model,
        weights,
        slots: 2,
        prefillChunk: 7,
        capacity: 60,
        parts,
      });
      const slots = rows.map(() => decoder.open());
      let found = [await decoder.read(slots[0]!, rows[0]!), await decoder.read(slots[1]!, rows[1]!)];
      for (let step = 0; step < 12; step++) {
        for (const [row, tokens] of rows.entries())
          expect(relativeError(found[row]!, await expected(tokens))).toBeLessThan(1e-5);
        for (const [row, tokens] of rows.entries()) tokens.push((step * 5 + row) % sizes.vocabSize);
        found = await decoder.step(
          slots,
          rows.map((tokens) => tokens.at(-1)!),
        );
      }
    },
  );

  const fresh = async (prompt: number[], options: Partial<DecoderOptions> = {}): Promise<Float32Array> => {
    using decoder = await Decoder.create({ model, weights, ...options });
    return await decoder.read(decoder.open(), prompt);
  };

  it("gives the same logits for a prompt in chunks of any size", async () => {
    const prompt = ids(50);
    const wanted = await fresh(prompt);
    for (const prefillChunk of [1, 7, 25]) {
      const logits = await fresh(prompt, { prefillChunk });
      expect(relativeError(logits, wanted), `chunks of ${prefillChunk}`).toBeLessThan(1e-5);
    }
  });

  it.each([true, false])(
    "gives after each token of a tree what its branch gives alone, in one run: %s",
    async (branching) => {
      using decoder = await Decoder.create({ model, weights, slots: 3, branching });
      // Two branches after the text, one of which parts again; the tree makes the text as long as a window, then longer.
      const parents = [-1, 0, 1, 0, 3, -1, 5];
      const tokens = ids(parents.length, 3);
      const wanted = [0, 2, 4, 5, 6];
      for (const held of [0, 3, 20]) {
        const text = ids(held, 1);
        using slot = decoder.open();
        if (held > 0) await decoder.read(slot, text);
        const found = await decoder.branch(slot, { ids: tokens, parents, wanted });
        expect(slot.length).toBe(held);
        for (const [index, end] of wanted.entries()) {
          const branch: number[] = [];
          for (let at = end; at >= 0; at = parents[at]!) branch.unshift(tokens[at]!);
          expect(relativeError(found[index]!, await fresh([...text, ...branch]))).toBeLessThan(1e-5);
        }
        // What other runs give is what they give without branches.
        if (held > 0) {
          const [next] = await decoder.step([slot], [7]);
          expect(relativeError(next!, await fresh([...text, 7]))).toBeLessThan(1e-5);
        }
      }
      // A tree of more tokens than there is room for, each branch of which fits.
      using short = await Decoder.create({ model, weights, capacity: 5, branching });
      using full = short.open();
      await short.read(full, ids(4));
      const ends = await short.branch(full, { ids: [1, 2, 3], parents: [-1, -1, -1], wanted: [0, 1, 2] });
      for (const [index, end] of ends.entries())
        expect(relativeError(end, await fresh([...ids(4), index + 1]))).toBeLessThan(1e-5);
      await expect(short.branch(full, { ids: [1, 2], parents: [-1, 0], wanted: [1] })).rejects.toThrow(
        /6 tokens do not fit the context of 5/,
      );
      // Several slots at a step.
      const slots = [decoder.open(), decoder.open(), decoder.open()];
      for (const [seed, slot] of slots.entries()) await decoder.read(slot, ids(5 + seed, seed));
      const rows = await decoder.step(slots, [1, 2, 3]);
      for (const [seed, logits] of rows.entries())
        expect(relativeError(logits, await fresh([...ids(5 + seed, seed), seed + 1]))).toBeLessThan(1e-5);
    },
  );

  it("gives for tokens taken at once what it gives one by one", async () => {
    using decoder = await Decoder.create({ model, weights, slots: 2 });
    const [one, many] = [decoder.open(), decoder.open()];
    await decoder.read(one, ids(9));
    await decoder.read(many, ids(9));
    const next = ids(5, 3);
    const all = await decoder.extend(many, next);
    for (const [index, id] of next.entries()) {
      const [logits] = await decoder.step([one], [id]);
      expect(relativeError(all[index]!, logits!)).toBeLessThan(1e-5);
    }
    expect(many.length).toBe(one.length);
  });

  it("writes for every row of a batch what it writes alone", async () => {
    const prompts = [ids(30), ids(3, 1), ids(17, 2)];
    const alone = await Promise.all(
      prompts.map(async (prompt) => (await write(model, weights, [prompt]))[0]),
    );
    expect(await write(model, weights, prompts)).toEqual(alone);
    expect(await write(model, weights, prompts, { slots: 2 })).toEqual(alone);
  });

  it("gives each slot what it gives alone, in whatever company and order it is stepped", async () => {
    const prompts = [ids(30), ids(3, 1), ids(17, 2), ids(8, 3)];
    using decoder = await Decoder.create({ model, weights, slots: 4, capacity: 90, prefillChunk: 9 });
    const slots = prompts.map(() => decoder.open());
    for (const [index, slot] of slots.entries()) await decoder.read(slot, prompts[index]!);
    const lone = await Promise.all(
      prompts.map(async (prompt) => {
        const other = await Decoder.create({ model, weights, capacity: 90, prefillChunk: 9 });
        // What the collector frees at a time of its own would count against a test that counts bytes.
        onTestFinished(() => {
          other.dispose();
        });
        const slot = other.open();
        await other.read(slot, prompt);
        return (id: number) => other.step([slot], [id]);
      }),
    );
    const companies = [[0], [1, 3], [3, 1, 0], [2], [2, 0], [0, 1, 2, 3], [3], [1, 2]];
    for (let step = 0; step < 24; step++) {
      const members = companies[step % companies.length]!;
      const tokens = members.map((index) => (step * 5 + index) % sizes.vocabSize);
      const found = await decoder.step(
        members.map((index) => slots[index]!),
        tokens,
      );
      for (const [place, index] of members.entries()) {
        const [wanted] = await lone[index]!(tokens[place]!);
        expect(relativeError(found[place]!, wanted!), `slot ${index} in step ${step}`).toBeLessThan(1e-5);
      }
    }
  });

  it("keeps the longest common beginning of the next prompt, and says so", async () => {
    using decoder = await Decoder.create({ model, weights });
    const slot = decoder.open();
    const first = ids(20);
    const wanted = (await decoder.read(slot, first)).slice();
    expect(slot.reused).toBe(0);
    for (const [prompt, reused] of [
      [[...first, ...ids(6, 1)], 20],
      [[...first.slice(0, 12), ...ids(4, 2)], 12],
      // Two tokens are read at least, unless the prompt was one before.
      [first.slice(0, 5), 3],
    ] as const) {
      const logits = await decoder.read(slot, prompt);
      expect(slot.reused).toBe(reused);
      expect(relativeError(logits, await fresh([...prompt]))).toBeLessThan(1e-5);
    }
    expect(await decoder.read(slot, first)).toEqual(wanted);
    await decoder.step([slot], [7]);
    expect(await decoder.read(slot, first)).toEqual(wanted);
    expect(slot.reused).toBe(20);
  });

  it("lets a slot begin with what another one holds, closed or open", async () => {
    using decoder = await Decoder.create({ model, weights, slots: 3 });
    const system = ids(15);
    const reused: number[] = [];
    for (const seed of [1, 2, 3, 3]) {
      const prompt = [...system, ...ids(3 + seed, seed)];
      const slot = decoder.open(prompt);
      expect(relativeError(await decoder.read(slot, prompt), await fresh(prompt))).toBeLessThan(1e-5);
      reused.push(slot.reused);
      if (seed > 1) slot.close();
    }
    expect(reused).toEqual([0, 15, 15, 21]);
  });

  it("makes beams of a slot go on from others, from any common beginning", async () => {
    using decoder = await Decoder.create({ model, weights, slots: 2, beams: 3, prefillChunk: 9 });
    const prompt = ids(20);
    const slot = decoder.open();
    // Another slot takes part, so that the first one moves.
    const other = decoder.open();
    await decoder.read(other, ids(4, 3));
    await decoder.read(slot, prompt);
    const texts = [prompt, prompt, prompt].map((text) => [...text]);
    const step = async (parents: (number | undefined)[], tokens: number[]) => {
      await decoder.follow(slot, parents);
      for (const [beam, parent] of parents.entries())
        if (parent !== undefined) texts[beam] = [...texts[parent]!];
      for (const [beam, token] of tokens.entries()) texts[beam]!.push(token);
      const [found] = await decoder.stepBeams([{ slot, tokens }]);
      for (const [beam, text] of texts.entries())
        expect(relativeError(found![beam] as Float32Array, await fresh(text))).toBeLessThan(1e-5);
    };
    await step([undefined, 0, 0], [1, 2, 3]);
    await step([], [4, 5, 6]);
    await decoder.step([other], [9]);
    await step([undefined, 2, undefined], [7, 8, 9]);
    await step([1, undefined, 1], [10, 11, 12]);
    await step([], [13, 14, 15]);
  });

  it("goes on after tokens were taken back as if they had never come", async () => {
    using decoder = await Decoder.create({ model, weights });
    const slot = decoder.open();
    await decoder.read(slot, ids(20));
    await decoder.step([slot], [4]);
    await decoder.extend(slot, [7, 8, 9]);
    decoder.truncate(slot, 21);
    const [logits] = await decoder.step([slot], [5]);
    expect(relativeError(logits!, await fresh([...ids(20), 4, 5]))).toBeLessThan(1e-5);
    expect(() => {
      decoder.truncate(slot, 40);
    }).toThrow("the slot holds 22 tokens and cannot go back to 40");
  });

  it.each([
    ["float16", 2, 0.01],
    ["int8", 1, 0.08],
  ] as const)(
    "keeps its cache in %s of %i bytes a number, and nearly the same logits",
    async (cacheType, bytes, limit) => {
      const sizeOf = async (type: CacheType): Promise<[Float32Array, Float32Array, number]> => {
        const before = runtime.allocatedBytes;
        using decoder = await Decoder.create({ model, weights, cacheType: type });
        const held = runtime.allocatedBytes - before;
        const slot = decoder.open();
        const prompt = (await decoder.read(slot, ids(40))).slice();
        return [prompt, (await decoder.step([slot], [3]))[0]!.slice(), held];
      };
      const [wanted, wantedNext, wide] = await sizeOf("float32");
      const [logits, next, narrow] = await sizeOf(cacheType);
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
    using decoder = await Decoder.create({ model, weights, slots: 2 });
    const slots = [decoder.open(), decoder.open()];
    for (const slot of slots) await decoder.read(slot, ids(5));
    await decoder.step(slots, [1, 2]);
    const before = runtime.allocatedBytes;
    for (let i = 0; i < 40; i++) await decoder.step(slots, [i, i + 1]);
    expect(runtime.allocatedBytes).toBe(before);
  });

  it("can be stopped within a prompt and used again", async () => {
    using decoder = await Decoder.create({ model, weights, prefillChunk: 4 });
    const slot = decoder.open();
    const controller = new AbortController();
    const stopped = decoder.read(slot, ids(60), { signal: controller.signal });
    controller.abort(new Error("enough"));
    await expect(stopped).rejects.toThrow("enough");
    expect(relativeError(await decoder.read(slot, ids(30)), await fresh(ids(30)))).toBeLessThan(1e-5);
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
      using decoder = await Decoder.create({ model, weights, capacity: 64, prefillChunk });
      const tokens: number[] = [];
      for await (const { id } of generate(decoder, [prompt], { temperature: 0, maxNewTokens: 48 }))
        if (id !== undefined) tokens.push(id);
      expect(tokens).toEqual(greedy);
      // 2 layers of keys and values, 2 heads of 8, 4 bytes; the rest are the step's inputs and logits.
      const cache = 2 * 2 * 2 * 8 * 4 * (5 - 1 + prefillChunk);
      expect(runtime.allocatedBytes - before).toBeLessThan(cache + 4000);
    },
  );

  it("of some layers keeps window and chunk in those alone, and gives what caches of whole texts give", async () => {
    const gpt3 = new Gpt3(gpt3Config({ ...gpt3Sizes, contextLength: 400, slidingWindow: 12 }));
    using weights = Weights.initialize(runtime, gpt3, 3);
    const long = ids(300);
    const read = async (prefillChunk: number) => {
      const before = runtime.allocatedBytes;
      using decoder = await Decoder.create({ model: gpt3, weights, prefillChunk, slots: 2 });
      const bytes = runtime.allocatedBytes - before;
      const [first, second] = [decoder.open(), decoder.open()];
      const logits = [(await decoder.read(first, long)).slice()];
      // The same beginning in another slot: with windows too little of it is left, and it is read again.
      logits.push((await decoder.read(second, [...long.slice(0, 100), 7, 8])).slice());
      const { reused } = second;
      for (const token of ids(30, 4))
        logits.push(...(await decoder.step([first, second], [token, token])).map((row) => row.slice()));
      return { bytes, logits, reused };
    };
    // 4 * (12 - 1 + 50) tokens fit 400, 4 * (12 - 1 + 100) do not.
    const [banded, whole] = [await read(50), await read(100)];
    for (const [index, logits] of banded.logits.entries())
      expect(relativeError(logits, whole.logits[index]!)).toBeLessThan(1e-5);
    expect([banded.reused, whole.reused]).toEqual([0, 100]);
    // Of one of two layers: keys and values of 2 rows, 4 heads of 8, 4 bytes.
    expect(whole.bytes - banded.bytes).toBe(2 * 2 * 4 * 8 * 4 * (400 - 61));
  });

  it("reads a beginning again whose keys it has let go", async () => {
    using weights = await loadWeights(runtime, model, reference.path());
    using decoder = await Decoder.create({ model, weights, capacity: 64, prefillChunk: 4 });
    const slot = decoder.open();
    const long = Array.from({ length: 40 }, (_, i) => (i * 11) % 97);
    await decoder.read(slot, long);
    const logits = await decoder.read(slot, [...long.slice(0, 10), 3]);
    expect(slot.reused).toBe(0);
    using fresh = await Decoder.create({ model, weights, capacity: 64 });
    const wanted = await fresh.read(fresh.open(), [...long.slice(0, 10), 3]);
    expect(relativeError(logits, wanted)).toBeLessThan(1e-5);
    await decoder.read(slot, long);
    expect(() => {
      decoder.truncate(slot, 12);
    }).toThrow("cannot go back to 12");
  });
});

describe("what a decoder cannot do is said before it begins", () => {
  it("a capacity beyond the context", async () => {
    const [, model, weights] = each[0]!;
    await expect(Decoder.create({ model, weights, capacity: 97 })).rejects.toThrow(
      "97 tokens do not fit the model's context of 96",
    );
  });

  it("a cache that no memory here can hold, with its size", async () => {
    const model = new Llama(llamaConfig({ ...sizes, contextLength: 2 ** 34 }));
    using weights = Weights.initialize(runtime, model, 1);
    // 2 layers of keys and values, 2 heads of 8 floats of 4 bytes, times 2^34.
    await expect(Decoder.create({ model, weights })).rejects.toThrow(
      /the keys and values of 1 x 17179869184 tokens in float32 need 4\.4 TB of memory/,
    );
  });

  it("a token that the vocabulary does not have", async () => {
    const [, model, weights] = each[0]!;
    using decoder = await Decoder.create({ model, weights });
    await expect(decoder.read(decoder.open(), [61])).rejects.toThrow(
      "there is no token 61: the model's vocabulary has 61",
    );
  });

  it("more slots than it has", async () => {
    const [, model, weights] = each[0]!;
    using decoder = await Decoder.create({ model, weights, slots: 2 });
    const [first] = [decoder.open(), decoder.open()];
    expect(() => decoder.open()).toThrow("all 2 slots of the decoder are taken");
    first!.close();
    decoder.open();
    await expect(decoder.step([first!], [1])).rejects.toThrow(
      "a slot of the decoder was used after it was closed",
    );
  });
});

it("chooses the scales of an int8 cache by the pairs of a head, not by what fills it up", () => {
  // Heads of 6 channels in a cache of 8: channels i and i + 3 are turned into each other.
  using buffers = new KeyValueBuffers(runtime, [0], [1, 1, 2, 8], "float32");
  const { "0.key": key, "0.value": value } = buffers.window(0, 1);
  const cells = [
    [3, 0, 1, 4, 0, 0, 0, 0],
    [0, 5, 0, 0, 12, 2, 0, 0],
  ];
  for (const tensor of [key!, value!]) (tensor.view() as Float32Array).set(cells.flat());
  const scales = buffers.scales(0, 2, 6);
  const steps = (name: string) =>
    Array.from(scales[name]!, (scale) => Math.round((scale / 1.25) * 127 * 100) / 100);
  expect(steps("0.key")).toEqual([5, 13, 2, 5, 13, 2, 0, 0]);
  expect(steps("0.value")).toEqual([3, 5, 1, 4, 12, 2, 0, 0]);
});
