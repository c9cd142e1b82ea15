import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, expectTypeOf, it } from "vitest";
import { loadModel } from "../../src/checkpoints/index.js";
import { Decoder, generate } from "../../src/generation/index.js";
import {
  type DecoderModel,
  type EncoderModel,
  type TaskModel,
  cosineSimilarity,
  createRuntime,
  load,
  systems,
  train,
} from "../../src/index.js";
import { beginSequence } from "../../src/tokenizers/index.js";
import { writeTinyBert } from "../support/tiny-encoder.js";

const text = "the cat sat on the mat and the dog sat on the log.\n".repeat(60);
let folder = "";
const place = (name: string): string => path.join(folder, name);
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage-"));
  await writeFile(place("text.txt"), text);
  await train({
    system: "llama",
    data: place("text.txt"),
    sizes: { hiddenSize: 32, numLayers: 1, numHeads: 2, contextLength: 64, tieEmbeddings: true },
    vocabSize: 270,
    steps: 30,
    out: place("llama"),
  });
  for (const [name, head] of [
    ["encoder", "fill-mask"],
    ["mood", "classify"],
  ] as const) {
    await mkdir(place(name));
    await writeTinyBert(place(name), head);
  }
});
afterAll(() => rm(folder, { recursive: true }));

const whole = async (pieces: AsyncIterable<string>): Promise<string> => {
  let all = "";
  for await (const piece of pieces) all += piece;
  return all;
};
const greedy = { temperature: 0, maxNewTokens: 12 };

describe("a loaded decoder", () => {
  it("writes what the decoder writes token by token, also two texts at once", async () => {
    const runtime = createRuntime();
    const { model, weights, tokenizer } = await loadModel(runtime, place("llama"), { kind: "decoder" });
    expect(model.config).toMatchObject({ hiddenSize: 32, contextLength: 64, tieEmbeddings: true });
    const expected: string[] = [];
    const prompts = ["the cat", "the dog sat on"];
    for (const prompt of prompts) {
      using decoder = await Decoder.create({ model, weights });
      const ids: number[] = [];
      for await (const { id } of generate(decoder, [beginSequence(tokenizer, tokenizer.encode(prompt))], {
        ...greedy,
        stopIds: [tokenizer.endOfTextId!],
      }))
        if (id !== undefined) ids.push(id);
      expected.push(tokenizer.decode(ids));
    }
    weights.dispose();
    using loaded = await load(place("llama"), { runtime });
    expect(await whole(loaded.generate(prompts[0]!, greedy))).toBe(expected[0]);
    expect(await Promise.all(prompts.map((prompt) => whole(loaded.generate(prompt, greedy))))).toEqual(
      expected,
    );
  });

  it("answers a conversation as it continues the text of its template", async () => {
    using model = await load(place("llama"), { kind: "decoder" });
    const template = "{% for message in messages %}{{ message.content }}{% endfor %}";
    const pieces: string[] = [];
    const reply = await model.chat([{ role: "user", content: "the dog" }], {
      ...greedy,
      template,
      onText: (piece) => pieces.push(piece),
    });
    expect(reply).toBe(await whole(model.generate("the dog", greedy)));
    expect(pieces.join("")).toBe(reply);
    await expect(model.chat([{ role: "user", content: "the dog" }])).rejects.toThrow("no chat template");
  });

  it("says what it is when it is asked for something else, and when it was disposed", async () => {
    const model = await load(place("llama"));
    await expect(model.embed(["a"])).rejects.toThrow("is LLaMA, a decoder: it does not embed");
    await expect(model.predict("a")).rejects.toThrow("is LLaMA, a decoder: it does not predict");
    model.dispose();
    await expect(whole(model.generate("a"))).rejects.toThrow("was disposed");
    await expect(load(place("llama"), { kind: "encoder" })).rejects.toThrow(
      "holds a decoder, not an encoder",
    );
    await expect(load(place("llama"), { task: "classify" })).rejects.toThrow("has no head for classify");
  });
});

describe("a loaded encoder", () => {
  it("embeds: the same text the same vector of length 1", async () => {
    using model = await load(place("encoder"));
    const [a, b, c] = await model.embed(["good dog", "good dog", "old red film"]);
    expect(cosineSimilarity(a!, b!)).toBeCloseTo(1, 5);
    expect(Math.hypot(...a!)).toBeCloseTo(1, 5);
    expect(cosineSimilarity(a!, c!)).toBeLessThan(0.9999);
    expect(() => model.generate("a")).toThrow("an encoder without a head of a task: it does not generate");
  });

  it("with a head predicts", async () => {
    using model = await load(place("mood"));
    const { label, probability } = await model.predict("the film was good");
    expect(label).toMatch(/^LABEL_[01]$/);
    expect(probability).toBeGreaterThanOrEqual(0.5);
  });
});

it("a token of the hub that cannot be one is refused without showing it, before the hub is asked", async () => {
  const before = process.env["HF_TOKEN"];
  process.env["HF_TOKEN"] = "hf_secret\nsecond";
  try {
    const refused = load("nobody/nothing", { cache: place("cache") });
    await expect(refused).rejects.toThrow(/^the token for the hub \(HF_TOKEN\) holds a space, a line break/);
    await expect(refused).rejects.not.toThrow("hf_secret");
  } finally {
    if (before === undefined) delete process.env["HF_TOKEN"];
    else process.env["HF_TOKEN"] = before;
  }
});

it("a model that was pulled is taken from the cache, and a file that is not there is none of the hub's", async () => {
  const cache = place("cache");
  const folder = path.join(cache, "nobody--mood");
  await mkdir(folder, { recursive: true });
  await writeTinyBert(folder, "classify");
  await writeFile(path.join(folder, ".lineage-pull.json"), "{}");
  using model = await load("nobody/mood", { cache, task: "classify" });
  expect(model.labels).toEqual(["LABEL_0", "LABEL_1"]);
  await expect(load("nowhere/model.gguf", { cache })).rejects.toThrow("there is no nowhere/model.gguf");
  await expect(load(place("moot"))).rejects.toThrow(`did you mean ${place("mood")}?`);
});

it("a source that is nowhere is told apart from a folder that is no model", async () => {
  await expect(load(place("nowhere"))).rejects.toThrow(
    "a model is a folder (what train wrote, or one of Hugging Face), a .gguf file, or ORG/NAME",
  );
  await mkdir(place("empty"));
  await expect(load(place("empty"))).rejects.toThrow("no config.json");
});

it("a system and its sizes are checked by name before anything is read", async () => {
  const request = { data: place("missing.txt"), out: place("never") };
  await expect(train({ ...request, system: "gpt2", sizes: { hiddenSize: 30, numHeads: 4 } })).rejects.toThrow(
    "hiddenSize 30 does not divide into 4 heads",
  );
  const misspelled: Record<string, unknown> = { hidden: 30 };
  await expect(
    train({ ...request, out: place("never2"), system: "gpt2", sizes: misspelled }),
  ).rejects.toThrow("GPT-2 has no hidden");
});

it("the types say what a model can do", () => {
  const typed = () => ({
    decoder: load("x", { kind: "decoder" }),
    encoder: load("x", { kind: "encoder" }),
    mood: load("x", { task: "classify" }),
    number: load("x", { task: "regress" }),
  });
  type Typed = { [K in keyof ReturnType<typeof typed>]: Awaited<ReturnType<typeof typed>[K]> };
  expect(typed).toBeTypeOf("function");
  expectTypeOf<Typed["decoder"]>().toEqualTypeOf<DecoderModel>();
  expectTypeOf<Typed["encoder"]>().toEqualTypeOf<EncoderModel>();
  expectTypeOf<Typed["mood"]>().toEqualTypeOf<TaskModel<"classify">>();
  expectTypeOf<Awaited<ReturnType<Typed["mood"]["predict"]>>["label"]>().toEqualTypeOf<string | null>();
  expectTypeOf<Awaited<ReturnType<Typed["number"]["predict"]>>>().toEqualTypeOf<
    Readonly<{ value: number }>
  >();
  expectTypeOf<Typed["decoder"]>().not.toHaveProperty("embed");
  expectTypeOf<Typed["encoder"]>().not.toHaveProperty("generate");
  expectTypeOf<Parameters<typeof train<"llama">>[0]["sizes"]>().toExtend<
    { readonly tieEmbeddings?: boolean; readonly ropeTheta?: number } | undefined
  >();
  // @ts-expect-error GPT-2 has no rotary positions
  expect(() => train({ system: "gpt2", data: "", sizes: { ropeTheta: 1 }, out: "" })).toBeTypeOf("function");
  // @ts-expect-error there is no such decoder
  expect(() => train({ system: "gpt5", data: "", out: "" })).toBeTypeOf("function");
  expect(systems.llama.sizes["llama-7b"]!.parameters).toBe(6_738_415_616);
});
