import { describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.js";
import {
  type ContinuationOptions,
  Decoder,
  type GenerateOptions,
  type TextRule,
  type TokenConstraint,
  beamSearch,
  checkGeneration,
  generate,
  generateText,
} from "../../src/generation/index.js";
import { Llama, Mistral, llamaConfig, mistralConfig } from "../../src/models/index.js";
import { type CausalLm, Weights } from "../../src/nn/index.js";
import { quantizeWeights } from "../../src/quantization/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { trainByteLevelBpe, Tokenizer } from "../../src/tokenizers/index.js";

const runtime = createRuntime({ threads: 1 });
const sizes = { vocabSize: 61, contextLength: 96, hiddenSize: 32, numLayers: 2, initializerRange: 0.3 };
const llama = new Llama(llamaConfig({ ...sizes, numHeads: 4, numKeyValueHeads: 2 }));
const mistral = new Mistral(mistralConfig({ ...sizes, numHeads: 2, numKeyValueHeads: 1, slidingWindow: 6 }));
const trained = [llama, mistral].map((model) => Weights.initialize(runtime, model, 5));

interface Text {
  readonly prompt: readonly number[];
  readonly options: Omit<GenerateOptions, "seeds" | "constraints">;
}

/** Texts of all kinds: lengths, samplers, limits, stops. */
function texts(count: number, seed: number): Text[] {
  const random = new Random(seed);
  return Array.from({ length: count }, (_, stream) => ({
    prompt: Array.from({ length: 1 + random.integer(40) }, () => random.integer(sizes.vocabSize)),
    options: {
      temperature: [0, 0.7, 1, 1.5][random.integer(4)],
      maxNewTokens: 1 + random.integer(40),
      repetitionPenalty: [1, 1.2][random.integer(2)],
      topK: [5, 61][random.integer(2)],
      stopIds: [random.integer(sizes.vocabSize)],
      seed,
      stream,
    },
  }));
}

async function collect(decoder: Decoder, { prompt, options }: Text): Promise<unknown[]> {
  const events: unknown[] = [];
  for await (const { id, finish } of generate(decoder, [prompt], options)) events.push(id ?? finish);
  return events;
}

describe("texts that share a decoder", () => {
  it.each([
    ["llama", llama, 0, {}],
    ["mistral with a rolling window", mistral, 1, { prefillChunk: 9 }],
    ["llama with an int8 cache", llama, 0, { cacheType: "int8" }],
  ] as const)("are each what they are alone: %s", async (_, model: CausalLm, index, more) => {
    const settings = { model, weights: trained[index]!, ...more };
    for (let seed = 0; seed < 6; seed++) {
      const wanted: unknown[][] = [];
      using single = await Decoder.create(settings);
      for (const text of texts(9, seed)) {
        single.forget();
        wanted.push(await collect(single, text));
      }
      using shared = await Decoder.create({ ...settings, slots: 4 });
      expect(await Promise.all(texts(9, seed).map((text) => collect(shared, text)))).toEqual(wanted);
      expect(shared.freeSlots).toBe(4);
    }
  });

  it("are to the last bit what they are alone where weights are constants, in few bits too", async () => {
    using weights = await quantizeWeights(llama, trained[0]!, { bits: 4 });
    const logits = async (slots: number, row: number): Promise<Float32Array[]> => {
      using decoder = await Decoder.create({ model: llama, weights, slots });
      const open = Array.from({ length: slots }, () => decoder.open());
      const prompts = texts(4, 7).map(({ prompt }) => prompt);
      for (const [index, slot] of open.entries())
        await decoder.read(slot, prompts[slots === 1 ? row : index]!);
      const found: Float32Array[] = [];
      for (let step = 0; step < 12; step++) {
        const all = await decoder.step(
          open,
          open.map((_, index) => (step * 7 + (slots === 1 ? row : index)) % sizes.vocabSize),
        );
        found.push(all[slots === 1 ? 0 : row]!.slice());
      }
      return found;
    };
    for (const row of [0, 2, 3]) expect(await logits(4, row)).toEqual(await logits(1, row));
  });

  it("write in 4 bits the same after a prompt that is read and after one that is held", async () => {
    using weights = await quantizeWeights(llama, trained[0]!, { bits: 4 });
    using decoder = await Decoder.create({ model: llama, weights, slots: 2, prefillChunk: 16 });
    const prompt = texts(1, 3)[0]!.prompt.concat([1, 2, 3, 4]);
    const options = { temperature: 0, maxNewTokens: 40 };
    const fresh = await collect(decoder, { prompt, options });
    // Held whole; held but for its end; held by another slot.
    expect(await collect(decoder, { prompt, options })).toEqual(fresh);
    decoder.forget();
    await collect(decoder, { prompt: [...prompt.slice(0, -3), 9, 9], options: { maxNewTokens: 1 } });
    expect(await collect(decoder, { prompt, options })).toEqual(fresh);
    const two = await Promise.all([0, 1].map(() => collect(decoder, { prompt, options })));
    expect(two).toEqual([fresh, fresh]);
  });

  it("cost as many runs as the longest of them has steps, whatever waits and leaves", async () => {
    using decoder = await Decoder.create({ model: llama, weights: trained[0]!, slots: 4 });
    const sizesOfSteps: number[] = [];
    const step = decoder.stepBeams.bind(decoder);
    decoder.stepBeams = (requests, options) => {
      sizesOfSteps.push(requests.length);
      return step(requests, options);
    };
    const lengths = [30, 3, 3, 10, 5, 5];
    await Promise.all(
      lengths.map((maxNewTokens, seed) =>
        collect(decoder, { prompt: [1 + seed, 2], options: { maxNewTokens, seed } }),
      ),
    );
    // The first token comes with the prompt; every other one is in exactly one step, and no row is in one after its end.
    expect(sizesOfSteps.reduce((sum, size) => sum + size, 0)).toBe(
      lengths.reduce((sum, length) => sum + length - 1, 0),
    );
    expect(sizesOfSteps.length).toBeLessThanOrEqual(30 + 2);
    expect(Math.max(...sizesOfSteps)).toBe(4);
  });

  it("are not held up by a long prompt that is read between their steps", async () => {
    const long = new Llama(llamaConfig({ ...sizes, contextLength: 2048, numHeads: 2 }));
    using weights = Weights.initialize(runtime, long, 1);
    using decoder = await Decoder.create({ model: long, weights, slots: 2 });
    const short = generate(decoder, [[1, 2]], { maxNewTokens: 40, seed: 1 });
    await short.next();
    const prompt = Array.from({ length: 1500 }, (_, i) => i % sizes.vocabSize);
    let first = false;
    const other = generate(decoder, [prompt], { maxNewTokens: 2 });
    const reading = other.next().then(() => (first = true));
    // A piece of 128 tokens for each token: the prompt takes twelve.
    for (let token = 0; token < 8; token++) expect((await short.next()).value?.id).toBeDefined();
    expect(first).toBe(false);
    await reading;
    for await (const token of other) expect(token.row).toBe(0);
    await short.return(undefined);
    expect(decoder.freeSlots).toBe(2);
  });

  it("end alone when one is aborted, fails or is not wanted any more", async () => {
    using decoder = await Decoder.create({ model: llama, weights: trained[0]!, slots: 3 });
    const options = { temperature: 0, maxNewTokens: 30 };
    const wanted = await collect(decoder, { prompt: [1, 2, 3], options });
    const controller = new AbortController();
    const aborted = expect(
      collect(decoder, { prompt: [4, 5], options: { ...options, signal: controller.signal } }),
    ).rejects.toThrow("enough");
    const broken: TokenConstraint = {
      restrict: () => {
        throw new Error("no token will do");
      },
      accept: () => undefined,
      finished: false,
    };
    const failing = expect(generate(decoder, [[6]], { constraints: [broken] }).next()).rejects.toThrow(
      "no token will do",
    );
    const left = generate(decoder, [[7, 8]], options);
    const kept = collect(decoder, { prompt: [1, 2, 3], options });
    await left.next();
    await left.return(undefined);
    controller.abort(new Error("enough"));
    await Promise.all([aborted, failing]);
    expect(await kept).toEqual(wanted);
    expect(decoder.freeSlots).toBe(3);
  });

  it("wait for a slot, or are told who has them all", async () => {
    using decoder = await Decoder.create({ model: llama, weights: trained[0]! });
    const held = decoder.open();
    await expect(generate(decoder, [[1]]).next()).rejects.toThrow("the decoder is in use: it has one slot");
    held.close();
    const two = [1, 2].map((id) =>
      collect(decoder, { prompt: [id], options: { maxNewTokens: 3, seed: id } }),
    );
    for (const events of await Promise.all(two)) expect(events).toHaveLength(4);
  });

  it("go beside a beam search, which gives what it gives alone", async () => {
    using decoder = await Decoder.create({ model: llama, weights: trained[0]!, slots: 3, beams: 3 });
    const search = () => beamSearch(decoder, [3, 1, 4, 1, 5], { maxNewTokens: 20, numBeams: 3 });
    const text = { prompt: [2, 7, 1], options: { temperature: 0, maxNewTokens: 30 } };
    const [wanted, alone] = [await search(), await collect(decoder, text)];
    const [beam, written, again] = await Promise.all([
      search(),
      collect(decoder, text),
      collect(decoder, text),
    ]);
    expect(beam.map(({ ids }) => ids)).toEqual(wanted.map(({ ids }) => ids));
    expect([written, again]).toEqual([alone, alone]);
  });
});

describe("text", () => {
  const trainedTokenizer = trainByteLevelBpe(["the cat sat on the mat. ".repeat(9)], { vocabSize: 280 });
  const { definition, vocabSize } = trainedTokenizer;
  const marks = ["<|eot|>", "<|other|>"].map((content, index) => ({
    id: vocabSize + index,
    content,
    special: true,
  }));
  const tokenizer = new Tokenizer({ ...definition, added_tokens: [...definition.added_tokens, ...marks] });
  const model = new Llama(
    llamaConfig({ ...sizes, vocabSize: tokenizer.vocabSize, numHeads: 4, contextLength: 200 }),
  );
  const weights = Weights.initialize(runtime, model, 2);
  const writer = async (slots = 1) => ({
    decoder: await Decoder.create({ model, weights, slots }),
    tokenizer,
    stopIds: [],
  });
  /** Makes the model write these ids and no others. */
  const forced = (ids: readonly number[]): TextRule => ({
    begin: () => {
      let place = 0;
      return Promise.resolve({
        restrict: (logits: Float32Array) => {
          logits.forEach((_, id) => (logits[id] = id === ids[place] ? 0 : -Infinity));
        },
        accept: () => void place++,
        get finished() {
          return place === ids.length;
        },
        [Symbol.dispose]: () => undefined,
      });
    },
  });

  it("of several prompts is written side by side, each as it is alone", async () => {
    const one = await writer();
    const many = await writer(3);
    const prompts = ["the cat", "on the mat. the", "", "sat"];
    const options = { maxNewTokens: 20, seed: 4 };
    const alone = [];
    for (const prompt of prompts) alone.push((await generateText(one, prompt, options).all()).text);
    const together = prompts.map((prompt) => generateText(many, prompt, options));
    const found = [];
    for (const text of together) found.push((await text.all()).text);
    expect(found).toEqual(alone);
    expect(together[2]!.report).toMatchObject({ finish: "length", newTokens: 20, promptTokens: 1 });
    one.decoder.dispose();
    many.decoder.dispose();
  });

  it("ends at a stop string that is, or holds, the name of a special token, and shows no such name", async () => {
    const to = await writer();
    const the = tokenizer.encode("the cat");
    const ids = [...the, marks[1]!.id, ...tokenizer.encode(" sat"), marks[0]!.id, ...tokenizer.encode(" on")];
    const written = async (stop: string[]) => {
      const { text, report } = await generateText(to, "the", {
        stop,
        constraint: forced(ids),
      }).all();
      return [text, report.finish];
    };
    expect(await written([])).toEqual(["the cat sat on", "stop"]);
    expect(await written(["<|eot|>"])).toEqual(["the cat sat", "stop"]);
    expect(await written(["t<|other|> s"])).toEqual(["the ca", "stop"]);
    expect(await written(["t sat"])).toEqual(["the cat sat on", "stop"]);
    to.decoder.dispose();
  });

  it("of no tokens has none, and reads no prompt", async () => {
    const to = await writer();
    const { text, report } = await generateText(to, "the cat", { maxNewTokens: 0 }).all();
    expect(text).toBe("");
    expect(report).toMatchObject({ finish: "length", newTokens: 0 });
    expect(await collect(to.decoder, { prompt: [1, 2], options: { maxNewTokens: 0 } })).toEqual(["length"]);
    to.decoder.dispose();
  });

  it("leaves its slot when nobody reads on", async () => {
    const to = await writer();
    for await (const piece of generateText(to, "the cat")) {
      expect(piece).not.toBe("");
      break;
    }
    expect(to.decoder.freeSlots).toBe(1);
    const unread = generateText(to, "the cat");
    await unread.return();
    expect((await generateText(to, "the", { maxNewTokens: 2 }).all()).report.newTokens).toBe(2);
    to.decoder.dispose();
  });
});

it("options are refused by the names that they were given by", () => {
  const kebab = (option: string) => `--${option.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
  const refused: [ContinuationOptions & { stop?: string[] }, string][] = [
    [{ temperature: -1 }, "--temperature must be 0 or more, not -1"],
    [{ topP: 3 }, "--top-p must be above 0 and at most 1, not 3"],
    [{ topK: 1.5 }, "--top-k must be a whole number of at least 1, not 1.5"],
    [{ minP: NaN }, "--min-p must be at least 0 and below 1, not NaN"],
    [{ repetitionPenalty: 0 }, "--repetition-penalty must be positive, not 0"],
    [{ presencePenalty: NaN }, "--presence-penalty must be a number, not NaN"],
    [{ maxNewTokens: 1.5 }, "--max-new-tokens must be a whole number of at least 0, not 1.5"],
    [{ draftLength: 0 }, "--draft-length must be a whole number of at least 1, not 0"],
    [{ seed: 0.5 }, "--seed must be a whole number, not 0.5"],
    [{ stop: [""] }, "--stop must not be empty"],
  ];
  for (const [options, message] of refused) expect(() => checkGeneration(options, kebab)).toThrow(message);
});
