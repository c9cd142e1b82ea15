import { describe, expect, it } from "vitest";
import { loadWeights } from "../../src/formats/index.js";
import { Decoder, generate } from "../../src/generation/index.js";
import { compile, input } from "../../src/graph/index.js";
import { decoderOf } from "../../src/models/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { Reference, relativeError } from "../support/reference.js";

const runtime = createRuntime();

describe.each([
  ["llama-head-size-100", "heads whose size is no multiple of 8"],
  ["llama-own-head-dim", "a size of heads that is not hidden_size / num_attention_heads"],
  ["llama-rope-parameters-llama3", "transformers 5's rope_parameters with LLaMA-3's scaling"],
  ["llama-rope-parameters-theta", "transformers 5's rope_parameters with a base"],
  ["llama-biases", "attention_bias and mlp_bias"],
  ["mistral-sliding-window", "a window, in one pass and past the end of the cache"],
  ["mistral-null-kv-heads", "num_key_value_heads null"],
  ["gpt2-inverse-layer-scale", "scale_attn_by_inverse_layer_idx"],
])("%s: %s", (name) => {
  const reference = new Reference(`cases/${name}`);
  const {
    ids,
    last_logits: wanted,
    greedy_prompt: prompt,
    greedy = [],
  } = reference.json("expected.json") as {
    ids: number[];
    last_logits: number[];
    greedy_prompt?: number[];
    greedy?: number[];
  };
  const json = reference.json("config.json");
  const system = decoderOf(json);
  const model = system.create(system.config.read(json));
  const { unused } = system;

  it("gives the logits of the reference, in one pass and through the cache", async () => {
    using weights = await loadWeights(runtime, model, reference.path(), unused ? { unused } : {});
    using program = await compile(runtime, {
      logits: model.forward(input("inputIds", "int32", [1, ids.length])),
    });
    const { logits } = await program.run({
      ...weights.tensors,
      inputIds: runtime.createTensor("int32", [1, ids.length], Int32Array.from(ids)),
    });
    const { vocabSize } = model.config;
    const all = (await logits!.read()) as Float32Array;
    const expected = Float32Array.from(wanted);
    expect(relativeError(all.slice((ids.length - 1) * vocabSize), expected)).toBeLessThan(1e-5);
    using decoder = await Decoder.create({ model, weights, capacity: ids.length + 1 });
    const slot = decoder.open();
    await decoder.read(slot, ids.slice(0, -1));
    const rows = await decoder.extend(slot, ids.slice(-1));
    expect(relativeError(rows.at(-1)!, expected)).toBeLessThan(1e-5);
  });

  it.runIf(prompt)("gives the ids of the reference", async () => {
    using weights = await loadWeights(runtime, model, reference.path(), unused ? { unused } : {});
    using decoder = await Decoder.create({ model, weights, prefillChunk: 4 });
    const found: number[] = [];
    for await (const { id } of generate(decoder, [prompt!], { temperature: 0, maxNewTokens: greedy.length }))
      if (id !== undefined) found.push(id);
    expect(found).toEqual(greedy);
  });
});
