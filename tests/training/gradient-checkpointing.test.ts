import { execFileSync } from "node:child_process";
import { describe, expect, it } from "vitest";
import { type Tensor, square, sum } from "../../src/graph/index.js";
import {
  Albert,
  Bart,
  Bert,
  Deberta,
  DebertaV2,
  Gpt2,
  Llama,
  Palm,
  T5,
  Xlm,
  Xlnet,
  albertTable,
  bartTable,
  bertTable,
  debertaTable,
  debertaV2Table,
  gpt2Table,
  llamaTable,
  palmTable,
  t5Table,
  xlmTable,
  xlnetTable,
} from "../../src/models/index.js";
import {
  type CausalLm,
  type Encoder,
  type EncoderDecoder,
  type ForwardContext,
  type Module,
  Weights,
} from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { type Objective, TrainingStep } from "../../src/training/index.js";

const runtime = createRuntime();
const small = { vocabSize: 40, hiddenSize: 32, numLayers: 3, numHeads: 2, contextLength: 16 };
const [rows, length] = [2, 8];

/** The squares of a network's states, which every part of it has a share in. */
function objectiveOf<M extends Module>(
  model: M,
  states: (inputIds: Tensor, context: ForwardContext) => Tensor,
): Objective {
  return {
    model,
    inputs: { inputIds: { dtype: "int32", shape: [rows, length] } },
    losses: ({ inputIds }, context) => ({ squares: sum(square(states(inputIds!, context))) }),
  };
}
const decoder = (model: CausalLm) =>
  objectiveOf(model, (ids, context) => model.forward(ids, undefined, context));
const encoder = (model: Encoder) =>
  objectiveOf(model, (inputIds, context) => model.encode({ inputIds }, context));
const encoderDecoder = (model: EncoderDecoder) =>
  objectiveOf(model, (inputIds, context) =>
    model.hiddenStates(inputIds, { memory: model.encode({ inputIds }, context) }, context),
  );

const models: Readonly<Record<string, () => Objective>> = {
  "GPT-2": () => decoder(new Gpt2(gpt2Table.create({ ...small, dropout: 0.2, attentionDropout: 0.2 }))),
  LLaMA: () => decoder(new Llama(llamaTable.create({ ...small, numKeyValueHeads: 1, intermediateSize: 48 }))),
  PaLM: () => decoder(new Palm(palmTable.create({ ...small }))),
  BERT: () => encoder(new Bert(bertTable.create({ ...small, hiddenDropout: 0.2, attentionDropout: 0.2 }))),
  ALBERT: () => encoder(new Albert(albertTable.create({ ...small, embeddingSize: 16 }))),
  DeBERTa: () => encoder(new Deberta(debertaTable.create({ ...small }))),
  "DeBERTa-v2": () => encoder(new DebertaV2(debertaV2Table.create({ ...small }))),
  XLM: () => encoder(new Xlm(xlmTable.create({ ...small }))),
  XLNet: () => encoder(new Xlnet(xlnetTable.create({ ...small }))),
  BART: () => encoderDecoder(new Bart(bartTable.create({ ...small, dropout: 0.2 }))),
  T5: () => encoderDecoder(new T5(t5Table.create({ ...small, dropout: 0.2 }))),
};

async function gradientsOf(objective: Objective, gradientCheckpointing: boolean): Promise<Float32Array> {
  using weights = Weights.initialize(runtime, objective.model, 1);
  using gradients = weights.like();
  using step = await TrainingStep.create(objective, weights, gradients, { gradientCheckpointing });
  const data = Int32Array.from({ length: rows * length }, (_, i) => (i * i + 3) % small.vocabSize);
  await step.run(
    { tensors: { inputIds: { data, shape: [rows, length] } }, counts: { squares: 1 } },
    { seed: 7 },
  );
  return gradients.flat.read();
}

describe("gradient checkpointing", () => {
  it.each(Object.entries(models))(
    "leaves the gradients of %s as they are, dropout included",
    async (_, make) => {
      const kept = await gradientsOf(make(), false);
      const again = await gradientsOf(make(), true);
      const largest = kept.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      expect(largest).toBeGreaterThan(0);
      const difference = kept.reduce((most, value, i) => Math.max(most, Math.abs(value - again[i]!)), 0);
      expect(difference / largest).toBeLessThan(1e-5);
    },
  );

  it("takes less than half of the memory, and is expected to", () => {
    const module = (name: string) =>
      JSON.stringify(new URL(`../../dist/src/${name}/index.js`, import.meta.url).href);
    const measure = (gradientCheckpointing: boolean) => {
      const script = `
        const { createRuntime } = await import(${module("runtime")});
        const { Gpt2, gpt2Table } = await import(${module("models")});
        const { Weights } = await import(${module("nn")});
        const { nextTokenObjective } = await import(${module("objectives")});
        const { TrainingStep, trainingMemory } = await import(${module("training")});
        const runtime = createRuntime({ threads: 1 });
        const model = new Gpt2(gpt2Table.create({ vocabSize: 256, hiddenSize: 256, numLayers: 12, numHeads: 4, contextLength: 256 }));
        const weights = Weights.initialize(runtime, model, 1);
        const gradients = weights.like();
        const objective = nextTokenObjective(model, { batchSize: 4, sequenceLength: 256 });
        const options = { gradientCheckpointing: ${gradientCheckpointing} };
        const expected = trainingMemory(objective, {}, { optimizer: () => 0, average: false, ...options });
        const step = await TrainingStep.create(objective, weights, gradients, options);
        const before = process.memoryUsage.rss();
        const tokens = { data: new Int32Array(1024), shape: [4, 256] };
        await step.run({ tensors: { inputIds: tokens, labels: tokens }, counts: { tokens: 1024 } });
        const measured = 1024 * process.resourceUsage().maxRSS - before;
        console.log(JSON.stringify({ measured, expected: expected.activations }));`;
      return JSON.parse(
        execFileSync(process.execPath, ["--input-type=module", "-e", script], { encoding: "utf8" }),
      ) as { measured: number; expected: number };
    };
    const [kept, again] = [measure(false), measure(true)];
    expect(again.measured).toBeLessThan(0.5 * kept.measured);
    expect(again.expected).toBeLessThan(0.8 * kept.expected);
    expect(again.expected).toBeGreaterThan(0.8 * again.measured);
  });
});
