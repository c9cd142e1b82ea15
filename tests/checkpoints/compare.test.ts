import { expect, it } from "vitest";
import { compareModels } from "../../src/checkpoints/compare.js";
import { Llama, llamaConfig, systems } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { Tokenizer } from "../../src/tokenizers/index.js";

it("compares models whose tokenizer knows no text but its own", async () => {
  const letters = [..."abcdefgh"];
  const tokenizer = new Tokenizer({
    version: "1.0",
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: "Split", pattern: { Regex: "." }, behavior: "Isolated", invert: false } as {
      type: string;
    },
    post_processor: null,
    decoder: { type: "Fuse" },
    model: { type: "WordLevel", vocab: Object.fromEntries(letters.map((letter, id) => [letter, id])) },
  });
  const model = new Llama(
    llamaConfig({ vocabSize: 8, hiddenSize: 16, numLayers: 1, numHeads: 2, contextLength: 16 }),
  );
  using weights = Weights.initialize(createRuntime({ threads: 1 }), model, 1);
  const loaded = { kind: "decoder", system: systems.llama, model, weights, tokenizer } as const;
  const { files, largestDivergence } = await compareModels(loaded, loaded);
  expect(files?.sameCut).toBe(true);
  expect(largestDivergence).toBeLessThan(1e-6);
});
