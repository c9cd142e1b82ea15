/** What the recipes that compare trained decoders share: one training run, like the next but for its network. */
import { DataLoader, type Tokens, evaluationBatches, stories } from "../src/data/index.js";
import type { CausalLm, Weights } from "../src/nn/index.js";
import { nextTokenObjective } from "../src/objectives/index.js";
import { type Tokenizer, trainByteLevelBpe } from "../src/tokenizers/index.js";
import { type Curve, Trainer, adamW, evaluate, schedule } from "../src/training/index.js";

export interface SplitTokens {
  readonly training: Tokens;
  readonly heldOut: Tokens;
}
export interface StoryTokens extends SplitTokens {
  readonly tokenizer: Tokenizer;
}

/** The embedded stories as tokens that byte-level BPE learns from them; the last of them held out. */
export function storyTokens(options: { count: number; vocabSize: number; heldOut: number }): StoryTokens {
  const texts = [...stories({ seed: 1, count: options.count })];
  const tokenizer = trainByteLevelBpe(texts, { vocabSize: options.vocabSize });
  const tokens = (part: readonly string[]): Tokens =>
    Int32Array.from(part.flatMap((text) => [...tokenizer.encode(text), tokenizer.endOfTextId!]));
  const split = Math.ceil(texts.length * (1 - options.heldOut));
  return { tokenizer, training: tokens(texts.slice(0, split)), heldOut: tokens(texts.slice(split)) };
}

export interface DecoderTraining {
  readonly label: string;
  readonly model: CausalLm;
  readonly weights: Weights;
  readonly tokens: SplitTokens;
  readonly batchSize: number;
  readonly sequenceLength: number;
  readonly steps: number;
  readonly evalEvery: number;
  readonly learningRate: number;
}

/** AdamW on the next token: warm-up over a tenth of the steps, at most 100, then a cosine down to a tenth of the rate. */
export async function trainDecoder(run: DecoderTraining): Promise<Curve & { readonly seconds: number }> {
  const { label, model, weights, tokens, steps, evalEvery, learningRate, ...rows } = run;
  const objective = nextTokenObjective(model, rows);
  using trainer = await Trainer.create({
    objective,
    weights,
    source: new DataLoader(tokens.training, { ...rows, seed: 1 }, "the text"),
    optimizer: (all, gradients) => adamW(all, gradients, { betas: [0.9, 0.99], weightDecay: 0.1 }),
    schedule: schedule("cosine", {
      learningRate,
      warmupSteps: Math.min(100, Math.floor(steps / 10)),
      totalSteps: steps,
      minimum: learningRate / 10,
    }),
    seed: 1,
  });
  const points: { step: number; loss: number }[] = [];
  let seconds = 0;
  for (let step = 1; step <= steps; step++) {
    seconds += (await trainer.step()).seconds;
    if (step % evalEvery !== 0 && step !== steps) continue;
    const { loss } = await evaluate(objective, weights, evaluationBatches(tokens.heldOut, rows));
    points.push({ step, loss });
    process.stderr.write(`${label}: step ${step} of ${steps}, held-out loss ${loss.toFixed(4)}\n`);
  }
  return { label, points, seconds };
}
