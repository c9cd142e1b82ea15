/** What the recipes of adapters share: rows with a prompt and an answer, and a run over them. */
import { type BatchSource, type TokenBatch, tokenBatch } from "../src/data/index.js";
import { Random } from "../src/base/random.js";
import type { Weights } from "../src/nn/index.js";
import { type Objective, Trainer, adamW, schedule } from "../src/training/index.js";
import type { Tokenizer } from "../src/tokenizers/index.js";

/** Ids of a prompt and its answer; the answer alone is learned. */
export interface AnswerRow {
  readonly ids: readonly number[];
  /** Ids of the prompt. */
  readonly prompt: number;
}

/** A prompt whose beginning is left out where it is too long, and an answer that ends. */
export function answerRow(tokenizer: Tokenizer, prompt: string, answer: string, length: number): AnswerRow {
  const end = [...tokenizer.encode(answer), tokenizer.endOfTextId!].slice(0, length - 8);
  const begin = tokenizer.encode(prompt).slice(-(length - end.length));
  return { ids: [...begin, ...end], prompt: begin.length };
}

/** Rows as a batch: labels are the next ids, those of answers alone. */
export function answerBatch(rows: readonly AnswerRow[], length: number): TokenBatch {
  const ids = new Int32Array(rows.length * length);
  const labels = new Int32Array(rows.length * length).fill(-100);
  for (const [row, { ids: own, prompt }] of rows.entries())
    for (const [place, id] of own.entries()) {
      ids[row * length + place] = id;
      if (place >= prompt) labels[row * length + place - 1] = id;
    }
  return tokenBatch(ids, labels, [rows.length, length]);
}

/** Rows in a new order each time around. */
export class AnswerSource implements BatchSource {
  private position = 0;

  constructor(
    private readonly rows: readonly AnswerRow[],
    private readonly options: { readonly batchSize: number; readonly length: number; readonly seed: number },
  ) {}

  get state(): unknown {
    return this.position;
  }

  restore(state: unknown): void {
    this.position = Number(state);
  }

  next(): TokenBatch {
    const { batchSize, length, seed } = this.options;
    const rows = Array.from({ length: batchSize }, () => {
      const random = new Random(seed, this.position++);
      return this.rows[random.integer(this.rows.length)]!;
    });
    return answerBatch(rows, length);
  }
}

/** AdamW over batches, with a warm-up of a tenth and a cosine down to a tenth of the rate; mean seconds of a step. */
export async function learn(
  label: string,
  options: {
    readonly objective: Objective;
    readonly weights: Weights;
    readonly source: BatchSource;
    readonly steps: number;
    readonly learningRate: number;
    readonly weightDecay?: number;
  },
): Promise<{ readonly losses: { step: number; loss: number }[]; readonly seconds: number }> {
  const { objective, weights, source, steps, learningRate, weightDecay = 0 } = options;
  using trainer = await Trainer.create({
    objective,
    weights,
    source,
    optimizer: (all, gradients) => adamW(all, gradients, { betas: [0.9, 0.99], weightDecay }),
    schedule: schedule("cosine", {
      learningRate,
      warmupSteps: Math.floor(steps / 10),
      totalSteps: steps,
      minimum: learningRate / 10,
    }),
    seed: 1,
  });
  const losses: { step: number; loss: number }[] = [];
  let [seconds, sum, count] = [0, 0, 0];
  for (let step = 1; step <= steps; step++) {
    const report = await trainer.step();
    seconds += report.seconds;
    sum += report.loss;
    count++;
    if (step % 10 !== 0 && step !== steps) continue;
    losses.push({ step, loss: sum / count });
    [sum, count] = [0, 0];
    if (step % 50 === 0 || step === steps)
      process.stderr.write(`${label}: step ${step} of ${steps}, loss ${losses.at(-1)!.loss.toFixed(4)}\n`);
  }
  return { losses, seconds: seconds / steps };
}
