import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { LlamaCppModel, divergence, llamaCppFolder } from "../../bench/llama-cpp.js";
import { type InferenceCheckpoint, loadForInference } from "../../src/checkpoints/index.js";
import { Decoder, generate } from "../../src/generation/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { type ChatMessage, ChatTemplate } from "../../src/tokenizers/index.js";

const file = process.env["LINEAGE_QWEN"];

const weather = {
  type: "function",
  function: {
    name: "get_weather",
    description: "The weather of a city now",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};

describe.skipIf(!file)("Qwen2.5-Coder-0.5B-Instruct in Q4_K_M (needs its GGUF in LINEAGE_QWEN)", () => {
  let loaded: InferenceCheckpoint;
  let template: ChatTemplate;
  beforeAll(async () => {
    loaded = await loadForInference(createRuntime({ threads: 1 }), file!);
    template = new ChatTemplate(loaded.tokenizer);
  });
  afterAll(() => {
    loaded.weights.dispose();
  });

  async function answer(
    messages: readonly ChatMessage[],
    maxNewTokens: number,
    tools?: readonly unknown[],
  ): Promise<{ text: string; ids: number[]; ended: boolean }> {
    const prompt = template.encode(messages, { tools });
    using decoder = await Decoder.create({ ...loaded, capacity: prompt.length + maxNewTokens });
    const ids: number[] = [];
    const stop = new Set(loaded.stopIds);
    const events = generate(decoder, [prompt], {
      temperature: 0,
      maxNewTokens,
      stopIds: loaded.stopIds ?? [],
    });
    let ended = false;
    for await (const { id } of events) {
      if (id === undefined) continue;
      if (stop.has(id)) ended = true;
      else ids.push(id);
    }
    return { text: loaded.tokenizer.decode(ids), ids, ended };
  }

  it("answers in a conversation and ends its turn", async () => {
    const { text } = await answer(
      [{ role: "user", content: "What is the capital of France? One word." }],
      24,
    );
    expect(text).toMatch(/Paris/);
  });

  it("writes code that runs", async () => {
    const { text } = await answer(
      [
        {
          role: "user",
          content: "Write a JavaScript function isPrime(n) that tells whether n is prime. Only the code.",
        },
      ],
      200,
    );
    const code = /```(?:javascript|js)?\n([\s\S]*?)```/.exec(text)?.[1] ?? text;
    const isPrime = new Function(`${code}\nreturn isPrime;`)() as (n: number) => boolean;
    expect([0, 1, 2, 3, 4, 9, 11, 25, 97].filter(isPrime)).toEqual([2, 3, 11, 97]);
  });

  it("calls a tool that its template offers", async () => {
    const { text } = await answer([{ role: "user", content: "What is the weather in Oslo?" }], 64, [weather]);
    expect(text).toMatch(/"name":\s*"get_weather"/);
    expect(text).toMatch(/"city":\s*"Oslo"/);
  });

  it.skipIf(!llamaCppFolder)("has llama.cpp's tokens, and distributions close to its own", async () => {
    using peer = LlamaCppModel.load(file!, { cache: "float32" });
    const prompt = template.encode([
      { role: "user", content: "Explain what a hash map is, with an example." },
    ]);
    const text = template.render([{ role: "user", content: "Explain what a hash map is, with an example." }]);
    expect(prompt).toEqual(peer.tokenize(text));
    for (const sample of [
      "x = 12345 +  67 # naïve 日本語 🙂\n\n\tif a:\r\n",
      "\u0007 ¼ Ⅷ don't WE'LL",
      "   \n  ",
    ])
      expect(loaded.tokenizer.encode(sample)).toEqual(peer.tokenize(sample));
    using decoder = await Decoder.create({ ...loaded, capacity: 128 });
    const slot = decoder.open();
    const ours: Float32Array[] = [];
    for (const id of prompt) ours.push((await decoder.step([slot], [id]))[0]!.slice());
    const theirs = peer.evaluate(prompt, { all: true }).map((row) => row.slice());
    const divergences = ours.map((row, index) => divergence(theirs[index]!, row));
    const mean = divergences.reduce((a, b) => a + b, 0) / divergences.length;
    const first = (row: Float32Array) => row.indexOf(row.reduce((a, b) => Math.max(a, b)));
    const same = ours.filter((row, index) => first(row) === first(theirs[index]!)).length;
    console.info(
      `Qwen2.5-Coder-0.5B: mean divergence ${mean.toExponential(2)}, largest ${Math.max(...divergences).toExponential(2)} nats; the same first token after ${same} of ${prompt.length}`,
    );
    // llama.cpp rounds activations to 8 bits, and ours rounds the blocks that the engine has no kernel for to 8 bits.
    expect(mean).toBeLessThan(0.02);
  });
});
