import { describe, expect, it } from "vitest";
import { CompletionReader, likedBatch, pairBatch } from "../../src/alignment/index.js";
import { loadWeights } from "../../src/formats/index.js";
import { Gpt2, bart, gpt2Config, llama, t5 } from "../../src/models/index.js";
import { Weights, addLora } from "../../src/nn/index.js";
import {
  type Completion,
  type PairLoss,
  type Writer,
  cpo,
  dpo,
  hinge,
  ipo,
  ktoObjective,
  nextTokenObjective,
  orpo,
  preferenceObjective,
  sequenceToSequenceObjective,
  simpo,
} from "../../src/objectives/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { EvaluationStep, TrainingStep, lossOf } from "../../src/training/index.js";
import { Reference, relativeError } from "../support/reference.js";

const runtime = createRuntime();

async function open(name: string): Promise<{ model: Writer; weights: Weights }> {
  const reference = new Reference(name);
  const system = { "llama-tiny": llama, "t5-tiny": t5, "bart-tiny": bart }[name]!;
  const model = (system.create as (config: unknown) => Writer)(
    system.config.read(reference.json("config.json"), () => undefined),
  );
  return { model, weights: await loadWeights(runtime, model, reference.path()) };
}

const prompt = [5, 9, 11, 4];
const other = [7, 3];
const pairs = [
  { prompt, chosen: [8, 6, 2], rejected: [10, 12, 14, 3, 2] },
  { prompt: other, chosen: [20, 2], rejected: [9] },
  { prompt: [13], chosen: [4, 4, 4, 4, 4, 2], rejected: [30, 2] },
];
const rows: Completion[] = pairs.flatMap(({ prompt: own, chosen, rejected }) => [
  { prompt: own, completion: chosen },
  { prompt: own, completion: rejected },
]);

/** The loss of the completion's tokens by the objective that the model is trained with. */
async function lossAlone(
  { model, weights }: Awaited<ReturnType<typeof open>>,
  row: Completion,
): Promise<number> {
  const count = row.completion.length;
  const int = (ids: readonly number[]) => ({ data: Int32Array.from(ids), shape: [1, ids.length] });
  if ("decoderStartTokenId" in model.config) {
    const objective = sequenceToSequenceObjective(model as Parameters<typeof sequenceToSequenceObjective>[0]);
    using step = await EvaluationStep.create(objective, weights);
    const { tokens } = await step.run({
      tensors: {
        inputIds: int(row.prompt),
        attentionMask: { data: new Uint8Array(row.prompt.length).fill(1), shape: [1, row.prompt.length] },
        decoderInputIds: int([model.config.decoderStartTokenId, ...row.completion.slice(0, -1)]),
        labels: int(row.completion),
      },
      counts: { tokens: count },
    });
    return tokens!;
  }
  const ids = [...row.prompt, ...row.completion];
  using step = await EvaluationStep.create(
    nextTokenObjective(model as Parameters<typeof nextTokenObjective>[0]),
    weights,
  );
  const labels = ids.slice(1).map((id, index) => (index < row.prompt.length - 1 ? -100 : id));
  const { tokens } = await step.run({
    tensors: { inputIds: int(ids.slice(0, -1)), labels: int(labels) },
    counts: { tokens: count },
  });
  return tokens!;
}

describe.each(["llama-tiny", "t5-tiny", "bart-tiny"])("%s", (name) => {
  it("gives completions side by side the log-probabilities that each has alone", async () => {
    const opened = await open(name);
    using reader = await CompletionReader.logProbs(opened.model, opened.weights);
    const read = await reader.read(rows);
    for (const [index, row] of rows.entries()) {
      const { logProbs } = read[index]!;
      expect(logProbs).toHaveLength(row.completion.length);
      const sum = logProbs!.reduce((a, b) => a + b, 0);
      expect(-sum / (await lossAlone(opened, row))).toBeCloseTo(1, 4);
    }
    opened.weights.dispose();
  });

  it.each([
    [dpo(), Math.log(2)],
    [hinge(), 1],
    [ipo({ beta: 0.1 }), 25],
    [dpo({ labelSmoothing: 0.3 }), Math.log(2)],
  ] as [PairLoss, number][])("begins $name where the model is its own reference", async (loss, wanted) => {
    const { model, weights } = await open(name);
    using reader = await CompletionReader.logProbs(model, weights);
    const found = (await reader.read(rows)).map(({ logProbs }) => logProbs!.reduce((a, b) => a + b, 0));
    const batch = pairBatch(
      model,
      pairs.map((pair, index) => ({ ...pair, reference: [found[2 * index]!, found[2 * index + 1]!] })),
    );
    const objective = preferenceObjective(model, loss);
    using step = await EvaluationStep.create(objective, weights);
    const { loss: total, parts } = lossOf(objective, await step.run(batch), batch.counts);
    expect(total).toBeCloseTo(wanted, 4);
    expect(parts["margin"]).toBeCloseTo(0, 4);
    expect(parts["kl"]).toBeCloseTo(0, 4);
    expect(parts["chosen"]).toBeCloseTo((found[0]! + found[2]! + found[4]!) / 3, 3);
    weights.dispose();
  });

  it("begins KTO at a half, with nothing gained", async () => {
    const { model, weights } = await open(name);
    const liked = pairs.map(({ prompt: own, chosen }, index) => ({
      prompt: own,
      completion: chosen,
      other: pairs[(index + 1) % pairs.length]!.chosen,
      liked: index !== 1,
    }));
    using reader = await CompletionReader.logProbs(model, weights);
    const sums = async (list: Completion[]) =>
      (await reader.read(list)).map(({ logProbs }) => logProbs!.reduce((a, b) => a + b, 0));
    const own = await sums(liked);
    const others = await sums(liked.map((row) => ({ ...row, completion: row.other })));
    const batch = likedBatch(
      model,
      liked.map((row, index) => ({ ...row, reference: [own[index]!, others[index]!] })),
    );
    const objective = ktoObjective(model);
    using step = await EvaluationStep.create(objective, weights);
    const { loss, parts } = lossOf(objective, await step.run(batch), batch.counts);
    expect(loss).toBeCloseTo(0.5, 4);
    expect(parts["kl"]).toBeCloseTo(0, 4);
    weights.dispose();
  });

  it("learns by every loss what is preferred", async () => {
    const all = [dpo({ beta: 0.5 }), cpo(), ipo(), hinge(), simpo(), orpo({ beta: 1 })];
    for (const loss of name === "llama-tiny" ? all : all.slice(0, 2)) {
      const { model, weights } = await open(name);
      const objective = preferenceObjective(model, loss);
      const gradients = weights.like();
      using step = await TrainingStep.create(objective, weights, gradients);
      const batch = pairBatch(model, pairs);
      const measure = async () => lossOf(objective, await step.run(batch), batch.counts);
      const before = await measure();
      // A small step against the gradient makes a smaller loss.
      const norm = Math.hypot(...gradients.flat.view());
      weights.flat.view().forEach((value, index, all) => {
        all[index] = value - (1e-3 / norm) * gradients.flat.view()[index]!;
      });
      const after = await measure();
      expect(after.loss).toBeLessThan(before.loss);
      // To first order by the length of the step times the norm.
      expect((before.loss - after.loss) / (1e-3 * norm)).toBeCloseTo(1, 0);
      for (const one of [gradients, weights]) one.dispose();
    }
  });
});

describe.each(["t5-tiny", "bart-tiny"])("DPO of the encoder-decoder %s", (name) => {
  it("has the log-probabilities, the loss and the gradient that it has in transformers", async () => {
    const { models } = new Reference(".").json("preference-readers.json") as {
      models: Record<string, { logProbs: number[]; loss: number; parameter: string; gradient: number[] }>;
    };
    const { logProbs, loss, parameter, gradient } = models[name]!;
    const { model, weights } = await open(name);
    using reader = await CompletionReader.logProbs(model, weights);
    const read = (await reader.read(rows)).map((one) => one.logProbs!.reduce((a, b) => a + b, 0));
    read.forEach((value, index) => {
      expect(value).toBeCloseTo(logProbs[index]!, 3);
    });
    const reference = [
      [-9, -16.5],
      [-8.25, -4],
      [-21, -7.5],
    ] as const;
    const batch = pairBatch(
      model,
      pairs.map((pair, index) => ({ ...pair, reference: reference[index] })),
    );
    const objective = preferenceObjective(model, dpo());
    using gradients = weights.like();
    using step = await TrainingStep.create(objective, weights, gradients);
    expect(lossOf(objective, await step.run(batch), batch.counts).loss).toBeCloseTo(loss, 4);
    expect(
      relativeError(gradients.get(parameter).view() as Float32Array, Float32Array.from(gradient)),
    ).toBeLessThan(1e-3);
    weights.dispose();
  });
});

describe("an adapter", () => {
  it("learns beside a base that is its reference", async () => {
    const model = new Gpt2(
      gpt2Config({ hiddenSize: 16, numLayers: 1, numHeads: 2, vocabSize: 40, contextLength: 16 }),
    );
    using base = Weights.initialize(runtime, model, 1);
    using reader = await CompletionReader.logProbs(model, base);
    const before = (await reader.read(rows)).map(({ logProbs }) => logProbs!.reduce((a, b) => a + b, 0));
    addLora(model, { rank: 2, alpha: 4, targets: "all-linear" });
    using weights = Weights.partlyFrozen(model, base, 1);
    const objective = preferenceObjective(model, dpo());
    using step = await EvaluationStep.create(objective, weights);
    const batch = pairBatch(
      model,
      pairs.map((pair, index) => ({ ...pair, reference: [before[2 * index]!, before[2 * index + 1]!] })),
    );
    expect(lossOf(objective, await step.run(batch), batch.counts).loss).toBeCloseTo(Math.log(2), 5);
    // The adapter moves, and the reference does not.
    weights.flat.view().forEach((_, index, all) => {
      all[index] = Math.sin(index);
    });
    const moved = lossOf(objective, await step.run(batch), batch.counts).loss;
    expect(Math.abs(moved - Math.log(2))).toBeGreaterThan(1e-4);
    const again = (await reader.read(rows)).map(({ logProbs }) => logProbs!.reduce((a, b) => a + b, 0));
    expect(again).toEqual(before);
  });
});
