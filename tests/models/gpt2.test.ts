import { describe, expect, it } from "vitest";
import { tokenBatch } from "../../src/data/index.js";
import { Decoder, beamSearch, generate } from "../../src/generation/index.js";
import { compile, gradients, input, sum } from "../../src/graph/index.js";
import { loadWeights } from "../../src/formats/index.js";
import { Gpt2, gpt2Config, gpt2Sizes, systems } from "../../src/models/index.js";
import { Weights, countParameters, namedParameters, summary } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { GradientNorm, TrainingStep, adamW, clippingFactor, sgd } from "../../src/training/index.js";
import { nextTokenObjective } from "../../src/objectives/index.js";
import { Reference } from "../support/reference.js";
import { type DecoderValues, agreesWithReference } from "./decoders.js";

interface Values extends DecoderValues {
  steps: Record<"adamw" | "sgd", { losses: number[]; norms: number[] }>;
  repetitionPenalty: number[];
  beams: { lengthPenalty: number; earlyStopping: boolean; ids: number[] }[];
}

const reference = new Reference("gpt2-tiny");
const values = reference.json("values.json") as Values;
const runtime = createRuntime();
const model = new Gpt2(systems.gpt2.config.read(reference.json("config.json")));
const load = () => loadWeights(runtime, model, reference.path());
const batch = {
  inputIds: Int32Array.from(values.inputIds.flat()),
  labels: Int32Array.from(values.labels.flat()),
};
const micro = tokenBatch(batch.inputIds, batch.labels, [2, 16]);
const objective = nextTokenObjective(model);
const counted = values.labels.flat().filter((label) => label !== -100).length;

describe("GPT-2 agrees with Hugging Face transformers on random weights", () => {
  agreesWithReference("gpt2-tiny", (json) => new Gpt2(systems.gpt2.config.read(json)), { lossDigits: 5 });

  it.each([
    ["adamw", (w: Weights, g: Weights) => adamW(w, g, { betas: [0.9, 0.95], weightDecay: 0.1 }), 1e-3],
    ["sgd", (w: Weights, g: Weights) => sgd(w, g, { momentum: 0.9 }), 1e-2],
  ] as const)("in ten steps of %s", async (name, make, learningRate) => {
    using weights = await load();
    using found = weights.like();
    using step = await TrainingStep.create(objective, weights, found);
    using optimizer = await make(weights, found);
    using norm = await GradientNorm.create(runtime, found);
    for (const [index, loss] of values.steps[name].losses.entries()) {
      expect((await step.run(micro))["tokens"]! / counted).toBeCloseTo(loss, 4);
      const length = await norm.measure();
      expect(length).toBeCloseTo(values.steps[name].norms[index]!, 3);
      await optimizer.update({ learningRate, gradientScale: clippingFactor(length, 1) });
    }
  });

  it("in the ids that it generates with a penalty of repetitions", async () => {
    using weights = await load();
    using decoder = await Decoder.create({ model, weights, capacity: 64 });
    const ids: number[] = [];
    for await (const { id } of generate(decoder, [values.prompt], {
      temperature: 0,
      maxNewTokens: 40,
      repetitionPenalty: 1.3,
    })) {
      if (id !== undefined) ids.push(id);
    }
    expect(ids).toEqual(values.repetitionPenalty);
  });

  it.each(values.beams)(
    "in beam search: penalty $lengthPenalty, early stopping $earlyStopping",
    async (beams) => {
      using weights = await load();
      using decoder = await Decoder.create({ model, weights, beams: 4, capacity: 64 });
      const { lengthPenalty, earlyStopping } = beams;
      const [best] = await beamSearch(decoder, values.prompt, {
        maxNewTokens: 40,
        lengthPenalty,
        earlyStopping,
        stopIds: [9],
      });
      expect(best!.ids).toEqual(beams.ids);
    },
  );
});

describe("GPT-2", () => {
  it("has the published numbers of parameters", () => {
    const counts = Object.values(gpt2Sizes).map(({ config }) => countParameters(new Gpt2(config)));
    const { sizes } = new Reference(".").json("gpt2-init.json") as {
      sizes: Record<string, { parameters: number }>;
    };
    expect(counts).toEqual(Object.values(sizes).map(({ parameters }) => parameters));
    expect(Object.values(gpt2Sizes).map(({ parameters }) => parameters)).toEqual(counts);
  });

  it("starts with the published distribution of weights", () => {
    const config = gpt2Config({ hiddenSize: 256, numLayers: 2, numHeads: 4, vocabSize: 512 });
    using weights = Weights.initialize(runtime, new Gpt2(config), 1);
    const deviation = (name: string) =>
      Math.sqrt(
        weights
          .get(name)
          .view()
          .reduce((s, x) => s + x * x, 0) / weights.get(name).size,
      );
    expect(deviation("transformer.wte.weight")).toBeCloseTo(0.02, 3);
    expect(deviation("transformer.h.0.attn.c_proj.weight")).toBeCloseTo(0.02 / Math.sqrt(4), 3);
    expect([...new Set(weights.get("transformer.h.1.ln_1.weight").view())]).toEqual([1]);
    expect([...new Set(weights.get("transformer.h.1.mlp.c_fc.bias").view())]).toEqual([0]);
  });

  it("keeps its configuration through Hugging Face's", () => {
    const { config } = systems.gpt2;
    const xl = gpt2Sizes["gpt2-xl"].config;
    expect(config.read(config.write(xl))).toEqual(xl);
    expect(() => config.read({ model_type: "gpt2", vocab_size: "many" })).toThrow("vocab_size");
  });

  it("lists its parameters", () => {
    expect(summary(new Gpt2(gpt2Sizes.gpt2.config))).toMatch(
      /transformer\.h\.11\.mlp\.c_proj\.weight +float32 \[3072, 768\] +2,359,296/,
    );
  });

  it("differentiates a loss that does not depend on position 63 of the positions", async () => {
    using weights = await load();
    const ids = input("inputIds", "int32", [1, 4]);
    const position = namedParameters(model).get("transformer.wpe.weight")!.tensor;
    const [gradient] = gradients(sum(model.losses(ids, ids)), [position]);
    using program = await compile(runtime, { gradient: gradient! });
    const { gradient: found } = await program.run({
      ...weights.tensors,
      inputIds: runtime.createTensor("int32", [1, 4], Int32Array.of(1, 2, 3, 4)),
    });
    const data = (await found!.read()) as Float32Array;
    expect(data.subarray(63 * 24).every((value) => value === 0)).toBe(true);
    expect(data.subarray(0, 24).some((value) => value !== 0)).toBe(true);
  });
});
