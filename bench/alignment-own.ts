import {
  CompletionReader,
  RolloutWriter,
  actorCriticWeights,
  pairBatch,
  ppo,
} from "../src/alignment/index.js";
import { Random } from "../src/base/random.js";
import type { Batch } from "../src/data/index.js";
import { Llama, llamaConfig, systems } from "../src/models/index.js";
import { saveGguf } from "../src/checkpoints/index.js";
import { sample } from "../src/generation/index.js";
import { DecoderBody, Weights } from "../src/nn/index.js";
import { ActorCritic, dpo, preferenceObjective } from "../src/objectives/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { trainByteLevelBpe } from "../src/tokenizers/index.js";
import { GradientNorm, type Objective, TrainingStep, adamW, clippingFactor } from "../src/training/index.js";
import { type Answer, peakMiB, request, respond, timed } from "./harness.js";
import { LlamaCppModel } from "./llama-cpp.js";

// What the alignment bench measures, in a process of its own: lineage, and llama.cpp.

export interface Shape {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly numKeyValueHeads: number;
  readonly contextLength: number;
}

export interface Question {
  readonly op: "rollouts" | "llama.cpp" | "gguf" | "dpo" | "ppo";
  readonly shape: Shape;
  readonly threads: number;
  readonly prompts: readonly (readonly number[])[];
  /** Tokens of a completion. */
  readonly tokens: number;
  readonly pairs: readonly {
    readonly prompt: number[];
    readonly chosen: number[];
    readonly rejected: number[];
  }[];
  /** Pairs of a step. */
  readonly batch: number;
  /** Steps that are measured, after one that is not. */
  readonly steps: number;
  readonly epochs: number;
  /** Of llama.cpp: the same shape. */
  readonly gguf: string;
}

const question = request<Question>();
const { shape, threads, prompts, tokens } = question;
const runtime = createRuntime({ threads });
const config = llamaConfig({ ...shape, tieEmbeddings: true });

async function rollouts(): Promise<number[]> {
  const model = new Llama(config);
  using weights = Weights.initialize(runtime, model, 1);
  const options = {
    ...{ model, weights },
    stopIds: [],
    longestPrompt: Math.max(...prompts.map(({ length }) => length)),
    slots: prompts.length,
  };
  using first = await RolloutWriter.create({ ...options, maxNewTokens: 2 });
  await first.write(prompts, { seed: 1 });
  using writer = await RolloutWriter.create({ ...options, maxNewTokens: tokens });
  return await timed(1, () => writer.write(prompts, { seed: 1 }));
}

/** llama.cpp takes all prompts in one batch, then one token of each sequence. Tokens are drawn from its logits as lineage draws. */
async function peer(): Promise<number[]> {
  const room = Math.max(...prompts.map(({ length }) => length)) + tokens + 1;
  using model = LlamaCppModel.load(question.gguf, {
    threads,
    contextLength: room * prompts.length,
    sequences: prompts.length,
    batch: prompts.reduce((sum, { length }) => sum + length, 0),
    cache: "float32",
  });
  const random = new Random(1);
  const drawn = (logits: Float32Array): number => sample(logits, { temperature: 1 }, random);
  const write = (count: number): void => {
    model.reset();
    let ids = model.begin(prompts).map(drawn);
    for (let token = 1; token < count; token++) ids = model.step(ids).map(drawn);
  };
  write(2);
  return await timed(1, () => write(tokens));
}

async function writeGguf(): Promise<number[]> {
  const model = new Llama(config);
  using weights = Weights.initialize(runtime, model, 1);
  const tokenizer = trainByteLevelBpe(["the cat sat on the mat and the dog on the log"], { vocabSize: 280 });
  const checkpoint = { system: systems.llama, model, weights, tokenizer };
  await saveGguf(question.gguf, checkpoint, { format: "F32", name: "bench" });
  return [];
}

/** A step as `runTraining` takes it: forward, backward, norm, AdamW. */
async function trainer(objective: Objective, weights: Weights) {
  const gradients = weights.like();
  const step = await TrainingStep.create(objective, weights, gradients);
  const optimizer = await adamW(weights, gradients);
  const norm = await GradientNorm.create(runtime, gradients);
  return async (batch: Batch): Promise<void> => {
    await step.run(batch);
    await optimizer.update({ learningRate: 1e-6, gradientScale: clippingFactor(await norm.measure(), 1) });
  };
}

async function preferences(): Promise<number[]> {
  const model = new Llama(config);
  using weights = Weights.initialize(runtime, model, 1);
  const { pairs, batch, steps } = question;
  let batches: Batch[];
  {
    using reference = await CompletionReader.logProbs(model, weights);
    const read = await reference.read(
      pairs.flatMap(({ prompt, chosen, rejected }) => [
        { prompt, completion: chosen },
        { prompt, completion: rejected },
      ]),
    );
    const sums = read.map(({ logProbs }) => logProbs!.reduce((sum, value) => sum + value, 0));
    const known = pairs.map((pair, index) => ({
      ...pair,
      reference: [sums[2 * index]!, sums[2 * index + 1]!] as const,
    }));
    batches = Array.from({ length: steps + 1 }, (_, index) =>
      pairBatch(model, known.slice(index * batch, (index + 1) * batch)),
    );
  }
  const train = await trainer(preferenceObjective(model, dpo()), weights);
  await train(batches[0]!);
  const seconds: number[] = [];
  for (const one of batches.slice(1)) seconds.push(...(await timed(1, () => train(one))));
  return seconds;
}

/** A round: completions, rewards, log-probabilities of policy and reference, values, and the steps that learn from them. */
async function policy(): Promise<number[]> {
  const { epochs, steps } = question;
  const policyModel = new Llama(config);
  using start = Weights.initialize(runtime, policyModel, 1);
  const frozen = new Llama(config);
  using reference = await CompletionReader.logProbs(frozen, start);
  const model = new ActorCritic(policyModel, new DecoderBody(new Llama(config)));
  const weights = actorCriticWeights(model, start);
  using method = await ppo(model, weights, {
    prompts,
    reward: (samples) => samples.map(({ completion }) => completion[0]! % 2),
    reference,
    tokenizer: trainByteLevelBpe(["the cat sat on the mat"], { vocabSize: 270 }),
    stopIds: [],
    maxNewTokens: tokens,
    promptsPerRound: prompts.length,
    slots: prompts.length,
    epochs,
    seed: 1,
  });
  const train = await trainer(method.objective, weights);
  const round = async (): Promise<void> => {
    for (let epoch = 0; epoch < epochs; epoch++) await train(await method.source.next());
  };
  await round();
  return await timed(steps, round);
}

const seconds = await { rollouts, "llama.cpp": peer, gguf: writeGguf, dpo: preferences, ppo: policy }[
  question.op
]();
respond({ seconds, peakMiB: peakMiB() } satisfies Answer);
