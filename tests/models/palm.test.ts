import { describe, expect, it } from "vitest";
import { tokenBatch } from "../../src/data/index.js";
import { loadWeights } from "../../src/formats/index.js";
import { Palm, palmConfig, palmSizes, systems } from "../../src/models/index.js";
import { Weights, countParameters, namedParameters } from "../../src/nn/index.js";
import { nextTokenObjective } from "../../src/objectives/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { trainUnigram } from "../../src/tokenizers/index.js";
import { EvaluationStep, TrainingStep } from "../../src/training/index.js";
import { Reference, relativeError } from "../support/reference.js";
import { type DecoderValues, agreesWithReference } from "./decoders.js";

describe.each(["palm-tiny", "palm-serial-tiny"])(
  "%s agrees with the paper's equations in PyTorch",
  (name) => {
    agreesWithReference(name, (json) => new Palm(systems.palm.config.read(json)));
  },
);

it("adds the z-loss of section 5 in training, and not in evaluation", async () => {
  const reference = new Reference("palm-tiny");
  const values = reference.json("values.json") as DecoderValues & { zLoss: number };
  const model = new Palm(systems.palm.config.read(reference.json("config.json")));
  using weights = await loadWeights(createRuntime(), model, reference.path());
  using gradients = weights.like();
  const objective = nextTokenObjective(model, { zLoss: 1e-4 });
  const batch = tokenBatch(
    Int32Array.from(values.inputIds.flat()),
    Int32Array.from(values.labels.flat()),
    [2, 16],
  );
  using step = await TrainingStep.create(objective, weights, gradients);
  const counted = batch.counts["tokens"]!;
  expect((await step.run(batch))["tokens"]! / counted).toBeCloseTo(values.loss + values.zLoss, 4);
  const embeddings = "model.embed_tokens.weight";
  const wanted = (await reference.tensors("z-loss.safetensors")).get(embeddings)!;
  expect(relativeError(gradients.get(embeddings).view(), wanted)).toBeLessThan(1e-5);
  using evaluation = await EvaluationStep.create(objective, weights);
  expect((await evaluation.run(batch))["tokens"]! / counted).toBeCloseTo(values.loss, 4);
});

describe("the catalogue of PaLM", () => {
  /** Billions, table 1. */
  it.each([
    ["palm-8b", 8.63],
    ["palm-62b", 62.5],
    ["palm-540b", 540.35],
    // Trained further, U-PaLM has PaLM's parameters.
    ["u-palm-8b", 8.63],
    ["u-palm-62b", 62.5],
    ["u-palm-540b", 540.35],
  ] as const)("%s has the published number of parameters", (name, billions) => {
    const { config, parameters } = palmSizes[name];
    expect(countParameters(new Palm(config))).toBe(parameters);
    expect(Math.abs(parameters / 1e9 - billions)).toBeLessThan(0.01);
  });
});

it("begins with embeddings of deviation 1 and with matrices of 1 / sqrt(inputs), as section 5 says", () => {
  const model = new Palm(
    palmConfig({ hiddenSize: 128, numLayers: 2, numHeads: 4, headSize: 16, vocabSize: 600 }),
  );
  using weights = Weights.initialize(createRuntime(), model, 1);
  for (const [name, { shape }] of namedParameters(model)) {
    if (shape.length < 2) continue;
    const values = weights.get(name).view();
    const deviation = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
    expect(deviation / (name.includes("embed") ? 1 : shape[1]! ** -0.5), name).toBeCloseTo(1, 1);
  }
});

describe("PaLM's tokenizer", () => {
  const tokenizer = trainUnigram(
    ["def square(x):\n    return x * x  # 1024 times\n\n\tand tabs", "Two  spaces and   three."],
    { vocabSize: 340, style: "lossless" },
  );

  it.each([
    "    indented\n\tdeeper   \n\n",
    " leading, trailing ",
    "日本語 and 🙂 that it has never seen: \u0000\u0007 e\u0301 é ﬁ",
    "12345.678",
    "",
  ])("loses nothing: %j", (text) => {
    expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
  });

  it("makes a token of every digit and bytes of what it has no piece for", () => {
    expect(tokenizer.encode("1024")).toHaveLength(4);
    const ids = tokenizer.encode("🙂");
    expect(ids.map((id) => tokenizer.idToToken(id))).toEqual(["<0xF0>", "<0x9F>", "<0x99>", "<0x82>"]);
  });
});
