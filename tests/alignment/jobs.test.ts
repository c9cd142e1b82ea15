import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type OnlineControl,
  alignGrpo,
  alignPpo,
  alignPreferences,
  alignRejection,
  resumePpo,
  resumePreferences,
  resumeReward,
  alignReward,
  answerRewards,
  measureRewards,
  openRewardModel,
  rankingBatch,
} from "../../src/alignment/index.js";
import { loadForTask, saveModel } from "../../src/checkpoints/index.js";
import { Gpt2, gpt2Config, systems } from "../../src/models/index.js";
import { Weights } from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { trainByteLevelBpe } from "../../src/tokenizers/index.js";
import { Predictor } from "../../src/tasks/index.js";
import { writeTinyBert } from "../support/tiny-encoder.js";
import { writeTinyTransformer } from "../support/tiny-transformer.js";

const runtime = createRuntime();
const root = mkdtempSync(path.join(os.tmpdir(), "lineage-jobs-"));
const place = (name: string): string => path.join(root, name);
afterAll(() => {
  rmSync(root, { recursive: true });
});

const tokenizer = trainByteLevelBpe(["the cat sat on the mat"], { vocabSize: 264 });
const lines = (count: number, make: (index: number) => object) =>
  Array.from({ length: count }, (_, index) => JSON.stringify(make(index))).join("\n");

beforeAll(async () => {
  const config = gpt2Config({
    contextLength: 32,
    numLayers: 1,
    numHeads: 2,
    hiddenSize: 16,
    vocabSize: tokenizer.vocabSize,
  });
  const model = new Gpt2(config);
  using weights = Weights.initialize(runtime, model, 1);
  await saveModel(place("base"), { system: systems.gpt2, model, weights, tokenizer });
  await writeTinyTransformer(place("t5"), "t5-tiny");
  writeFileSync(
    place("pairs.jsonl"),
    lines(16, (i) => ({ prompt: `A${i}`, chosen: "CAT", rejected: "MAT" })),
  );
  // Three answers to each prompt; the last two are equally good.
  writeFileSync(
    place("ranked.jsonl"),
    lines(12, (i) => ({ prompt: `the ${i}`, answers: [" cat", " mat", " on"], ranks: [0, 1, 1] })),
  );
});

const losses = (folder: string): number[] =>
  readFileSync(path.join(folder, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => (JSON.parse(line) as { loss?: number }).loss)
    .filter((loss) => loss !== undefined);

/** Stops a run after so many steps. */
function stopping(steps: number): OnlineControl {
  const controller = new AbortController();
  return {
    runtime,
    signal: controller.signal,
    observer: {
      stepped: ({ step }) => {
        if (step === steps) controller.abort();
      },
    },
  };
}
const reward: OnlineControl["reward"] = (samples) => samples.map(({ text }) => text.length);

describe("a run that was stopped", () => {
  it("of PPO goes on in the middle of a round to bit-equal losses", async () => {
    const request = {
      model: place("base"),
      data: place("pairs.jsonl"),
      adapter: "none" as const,
      ...{ rounds: 3, prompts: 4, batch: 2, epochs: 2, maxNewTokens: 5, klTarget: 1, learningRate: 1e-3 },
    };
    await alignPpo({ ...request, out: place("whole") }, { runtime, reward });
    const stopped = await alignPpo({ ...request, out: place("parts") }, { ...stopping(6), reward });
    expect(stopped).toMatchObject({ outcome: "interrupted", step: 6 });
    const result = await resumePpo(place("parts"), { runtime, reward });
    expect(result).toMatchObject({ outcome: "finished", step: 12 });
    expect(losses(place("parts"))).toEqual(losses(place("whole")));
  });

  it("of DPO and of a reward model does, too, with the reference that was kept", async () => {
    const request = {
      model: place("base"),
      data: place("pairs.jsonl"),
      batch: 2,
      epochs: 2,
      learningRate: 1e-3,
    };
    await alignPreferences({ ...request, out: place("dpo-whole") }, { runtime });
    await alignPreferences({ ...request, out: place("dpo") }, stopping(5));
    const kept = readFileSync(path.join(place("dpo"), "reference.json"), "utf8");
    await resumePreferences(place("dpo"), { runtime });
    expect(losses(place("dpo"))).toEqual(losses(place("dpo-whole")));
    expect(losses(place("dpo"))[0]).toBeCloseTo(Math.log(2), 4);
    expect(readFileSync(path.join(place("dpo"), "reference.json"), "utf8")).toBe(kept);

    const ranked = { ...request, data: place("ranked.jsonl") };
    await alignReward({ ...ranked, out: place("reward-whole") }, { runtime });
    await alignReward({ ...ranked, out: place("reward") }, stopping(3));
    await resumeReward(place("reward"), { runtime });
    expect(losses(place("reward"))).toEqual(losses(place("reward-whole")));
  });
});

describe("encoder-decoders", () => {
  it("learn from pairs, from rewards and from their own best", async () => {
    const model = place("t5");
    const data = place("pairs.jsonl");
    const small = { model, adapter: "none" as const, rounds: 1, prompts: 4, batch: 4, maxNewTokens: 4 };
    const dpo = await alignPreferences(
      { model, data, adapter: "none", batch: 4, out: place("t5-dpo") },
      { runtime },
    );
    expect(losses(place("t5-dpo"))[0]).toBeCloseTo(Math.log(2), 4);
    expect(dpo.outcome).toBe("finished");
    const lora = await alignPreferences({ model, data, batch: 4, out: place("t5-lora") }, { runtime });
    expect(lora.outcome).toBe("finished");
    const ppo = await alignPpo({ ...small, data, out: place("t5-ppo") }, { runtime, reward });
    expect(ppo.rounds[0]!.kl).toBeCloseTo(0, 4);
    const best = await alignRejection({ ...small, data, out: place("t5-best") }, { runtime, reward });
    expect(best.outcome).toBe("finished");
    const group = await alignGrpo({ ...small, samples: 2, data, out: place("t5-grpo") }, { runtime, reward });
    expect(group.outcome).toBe("finished");
  });
});

describe("a reward model on an encoder", () => {
  it("learns which answer is better, and scores answers in words as it reads pairs of them", async () => {
    await writeTinyBert(place("bert"), "fill-mask");
    writeFileSync(
      place("films.jsonl"),
      lines(24, (i) => ({
        prompt: `the ${["film", "song", "food"][i % 3]!} was`,
        answers: ["very good", "not good", "bad"],
        ranks: [0, 1, 1],
      })),
    );
    const request = {
      model: place("bert"),
      data: place("films.jsonl"),
      batch: 8,
      epochs: 20,
      learningRate: 3e-3,
    };
    const whole = await alignReward({ ...request, out: place("bert-whole") }, { runtime });
    expect(whole.metrics["accuracy"]).toBe(1);
    await alignReward({ ...request, out: place("bert-reward") }, stopping(7));
    await resumeReward(place("bert-reward"), { runtime });
    expect(losses(place("bert-reward"))).toEqual(losses(place("bert-whole")));
    using model = await openRewardModel(runtime, place("bert-whole"));
    const reward = answerRewards(model);
    const [good, bad] = [await reward("the film was", "very good"), await reward("the film was", "bad")];
    expect(good).toBeGreaterThan(bad);
    // An encoder reads a prompt and an answer as it reads two texts.
    const { ids, typeIds } = model.tokenizer.encodePair("the film was", "very good");
    using predictor = await Predictor.load(place("bert-whole"), { runtime });
    const [said] = await predictor.predict([{ text: "the film was", pair: "very good" }]);
    expect([ids.length, typeIds!.includes(1)]).toEqual([8, true]);
    expect(good + model.offset).toBeCloseTo((said as { value: number }).value, 4);
    // It judges what a decoder with another tokenizer writes, by its words.
    const policy = { model: place("base"), data: place("pairs.jsonl"), reward: place("bert-whole") };
    const small = { rounds: 1, prompts: 2, batch: 4, maxNewTokens: 3, adapter: "none" as const };
    const ran = await alignGrpo({ ...policy, ...small, samples: 2, out: place("judged") }, { runtime });
    expect(ran.outcome).toBe("finished");
  });
});

describe("rankings", () => {
  it("make every pair of which one is better, and each prompt counts once", async () => {
    const network = await loadForTask(runtime, place("base"), "classify", { numLabels: 1 });
    const { tensors, counts } = rankingBatch(network, [
      { answers: [[1], [2], [3]], ranks: [0, 1, 1], margin: [3, 1, 0] },
      { answers: [[4], [5]], ranks: [1, 0] },
    ]);
    expect([...tensors["betterRows"]!.data]).toEqual([0, 0, 4]);
    expect([...tensors["worseRows"]!.data]).toEqual([1, 2, 3]);
    expect([...tensors["pairWeights"]!.data]).toEqual([0.5, 0.5, 1]);
    expect([...tensors["margins"]!.data]).toEqual([2, 3, 0]);
    expect(counts).toEqual({ ranking: 2, accuracy: 3, gap: 3, mean: 5 });
    network.weights.dispose();
  });

  it("are measured by margin, and by how sure the model is", () => {
    const rows = [
      { answers: [[1], [2]], ranks: [0, 1], margin: 1 },
      { answers: [[1], [2]], ranks: [0, 1], margin: 1 },
      { answers: [[1], [2]], ranks: [0, 1], margin: 3 },
    ];
    const sure = Math.log(9);
    const measure = measureRewards(rows, [
      [sure, 0],
      [0, sure],
      [sure, 0],
    ]);
    expect(measure.accuracy).toBeCloseTo(2 / 3, 8);
    expect(measure.accuracyByMargin).toEqual([
      { margin: 1, accuracy: 0.5, pairs: 2 },
      { margin: 3, accuracy: 1, pairs: 1 },
    ]);
    // All three are 90% sure, and two are right.
    expect(measure.calibration).toHaveLength(1);
    expect(measure.calibrationError).toBeCloseTo(0.9 - 2 / 3, 8);
  });
});
