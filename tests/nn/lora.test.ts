import { describe, expect, it } from "vitest";
import { tokenBatch } from "../../src/data/index.js";
import { Gpt2, Llama, gpt2Config, llamaConfig } from "../../src/models/index.js";
import { Weights, addLora, namedParameters } from "../../src/nn/index.js";
import { nextTokenObjective, withAdapter } from "../../src/objectives/index.js";
import { quantizeWeights } from "../../src/quantization/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { EvaluationStep, Trainer, TrainingStep } from "../../src/training/index.js";
import { DataLoader } from "../../src/data/index.js";

const runtime = createRuntime();
const sizes = { hiddenSize: 64, numLayers: 2, numHeads: 2, vocabSize: 50, contextLength: 16 };
const llama = () => new Llama(llamaConfig({ ...sizes, tieEmbeddings: false }));
const gpt2 = () => new Gpt2(gpt2Config({ ...sizes, dropout: 0 }));
const shape = [2, 16] as const;
const ids = Int32Array.from({ length: 32 }, (_, i) => (i * i) % 50);
const batch = tokenBatch(ids, ids, shape);

const lossOf = async (model: Llama | Gpt2, weights: Weights): Promise<number> => {
  using evaluation = await EvaluationStep.create(nextTokenObjective(model), weights);
  return (await evaluation.run(batch))["tokens"]!;
};

describe("a low-rank adapter", () => {
  it("begins as the base, with A uniform within the root of the input's width and B zero", async () => {
    const model = llama();
    using base = Weights.initialize(runtime, model, 3);
    const before = await lossOf(model, base);
    addLora(model, { rank: 8, alpha: 16, targets: "all-linear" });
    using weights = Weights.partlyFrozen(model, base, 5);
    expect(await lossOf(model, weights)).toBeCloseTo(before, 4);
    for (const [name, tensor] of Object.entries(weights.tensors)) {
      const values = [...tensor.view()];
      if (name.includes("lora_B")) expect(values.every((value) => value === 0)).toBe(true);
      else {
        const bound = 1 / Math.sqrt(tensor.shape[1]!);
        expect(Math.max(...values.map(Math.abs))).toBeLessThanOrEqual(bound);
        // The mean square of a uniform distribution is a third of its bound's square.
        const square = values.reduce((sum, value) => sum + value * value, 0) / values.length;
        expect(square / (bound * bound)).toBeGreaterThan(0.27);
        expect(square / (bound * bound)).toBeLessThan(0.4);
      }
    }
  });

  it.each([
    ["LLaMA", llama, /^model\.layers\.\d\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)$/, 14],
    ["GPT-2", gpt2, /^transformer\.h\.\d\.(attn\.c_(attn|proj)|mlp\.c_(fc|proj))$/, 8],
  ] as const)("stands beside all linear layers but the output embeddings: %s", (_, make, path, count) => {
    const { layers } = addLora(make(), { rank: 2, alpha: 2, targets: "all-linear" });
    expect(layers.size).toBe(count);
    for (const place of layers.keys()) expect(place).toMatch(path);
  });

  it("scales by alpha over the rank, or over its root", () => {
    const scaling = (rankStabilized: boolean) =>
      [...addLora(llama(), { rank: 16, alpha: 32, rankStabilized, targets: ["q_proj"] }).layers.values()][0]!
        .lora.scaling;
    expect(scaling(false)).toBe(2);
    expect(scaling(true)).toBe(8);
  });

  it("names what there is where a target matches nothing", () => {
    const there = /linear layers are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj or down_proj/;
    for (const targets of [["c_attn"], ["q_proj", "lm_head"], /q_pro/])
      expect(() => addLora(llama(), { rank: 2, alpha: 2, targets })).toThrow(there);
    expect(() => addLora(llama(), { rank: 2, alpha: 2, targets: ["q_proj"], exclude: /.*/ })).toThrow(
      /that is not excluded/,
    );
    const model = llama();
    addLora(model, { rank: 2, alpha: 2, targets: ["q_proj"] });
    expect(() => addLora(model, { rank: 2, alpha: 2, targets: ["q_proj"] })).toThrow(
      /has an adapter already/,
    );
  });

  it("is taken off without a trace", async () => {
    const model = gpt2();
    using base = Weights.initialize(runtime, model, 3);
    const names = [...namedParameters(model).keys()];
    addLora(model, { rank: 2, alpha: 2, targets: "all-linear" }).remove();
    expect([...namedParameters(model).keys()]).toEqual(names);
    expect(await lossOf(model, base)).toBeGreaterThan(0);
  });

  it("drops its input out while training and not in evaluation", async () => {
    const model = llama();
    using base = Weights.initialize(runtime, model, 3);
    const adapter = addLora(model, { rank: 4, alpha: 8, dropout: 0.5, targets: "all-linear" });
    using weights = Weights.partlyFrozen(model, base, 5);
    for (const tensor of Object.values(weights.tensors))
      tensor.view().forEach((_, i, view) => (view[i] = 0.1 * Math.sin(3 * i)));
    using gradients = weights.like();
    const objective = withAdapter(nextTokenObjective(model), adapter);
    using step = await TrainingStep.create(objective, weights, gradients);
    using evaluation = await EvaluationStep.create(objective, weights);
    const losses = [];
    for (const seed of [1, 1, 2]) losses.push((await step.run(batch, { seed }))["tokens"]!);
    expect(losses[1]).toBe(losses[0]);
    expect(losses[2]).not.toBe(losses[0]);
    const evaluated = (await evaluation.run(batch))["tokens"]!;
    expect(evaluated).toBeCloseTo(await lossOf(model, weights), 4);
    expect(losses).not.toContain(evaluated);
  });

  it.each([undefined, 4, "nf4"] as const)(
    "learns over a frozen base of %s bits, in memory of its own size",
    async (bits) => {
      const model = llama();
      using whole = Weights.initialize(runtime, model, 3);
      const base = bits === undefined ? whole : await quantizeWeights(model, whole, { bits });
      const adapter = addLora(model, { rank: 4, alpha: 8, targets: "all-linear" });
      using weights = Weights.partlyFrozen(model, base, 5);
      const elements = [...adapter.parameters.values()].reduce((sum, { size }) => sum + size, 0);
      expect(weights.flat.size).toBe(elements);
      const source = new DataLoader(
        Int32Array.from({ length: 2000 }, (_, i) => (i * i) % 50),
        { batchSize: 4, sequenceLength: 16, seed: 5 },
      );
      const before = runtime.allocatedBytes;
      using trainer = await Trainer.create({
        objective: withAdapter(nextTokenObjective(model), adapter),
        weights,
        source,
        schedule: () => 1e-2,
        seed: 9,
      });
      // Gradients and two moments, besides scalars.
      expect(runtime.allocatedBytes - before).toBeLessThan(4 * 3 * elements + 4096);
      const losses: number[] = [];
      for (let i = 0; i < 25; i++) losses.push((await trainer.step()).loss);
      expect(losses.at(-1)!).toBeLessThan(losses[0]! - 0.2);
    },
  );
});
