import { type Example, batchesByLength } from "../data/index.js";
import { EncoderProgram } from "./encoder-program.js";
import type { EncoderWithHead, Weights } from "../nn/index.js";
import {
  type Item,
  type ItemLogits,
  type Measured,
  type PredictOptions,
  type Prediction,
  type Task,
  type TaskContext,
  inputsOf,
  logitsOf,
  thresholdFor,
} from "./tasks.js";

export interface AnswerOptions extends PredictOptions {
  /** Rows that run together. Default 32. */
  readonly batchSize?: number;
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** A task's network as one program: answers about examples of any number and length, in the order given. */
export class Answerer implements Disposable {
  private constructor(
    private readonly task: Task,
    private readonly context: TaskContext,
    private readonly program: EncoderProgram,
  ) {}

  static async create(
    task: Task,
    context: TaskContext,
    model: EncoderWithHead,
    weights: Weights,
  ): Promise<Answerer> {
    const program = await EncoderProgram.create(
      model,
      weights,
      (inputs) => model.forward(inputs),
      task.shape,
    );
    return new Answerer(task, context, program);
  }

  /** The logits of all items, by example. */
  private async run(items: readonly Item[], options: AnswerOptions): Promise<Map<number, ItemLogits[]>> {
    const { batchSize = 32, onProgress, signal } = options;
    const found = new Map<number, ItemLogits[]>();
    let done = 0;
    for (const places of batchesByLength(items, { batchSize, lengthOf: ({ length }) => length })) {
      const batch = places.map((place) => items[place]!);
      const answer = await this.program.run(inputsOf(this.task, batch, this.context), { signal });
      for (const logits of logitsOf(this.task, batch, answer, this.context)) {
        const others = found.get(logits.item.place);
        if (others) others.push(logits);
        else found.set(logits.item.place, [logits]);
      }
      done += places.length;
      onProgress?.(done, items.length);
    }
    return found;
  }

  private prepare(examples: readonly Example[]): Item[] {
    return examples.flatMap((example, place) => this.task.prepare(example, place, this.context));
  }

  /** One answer for each example. */
  async predict(examples: readonly Example[], options: AnswerOptions = {}): Promise<Prediction[]> {
    const found = await this.run(this.prepare(examples), options);
    return examples.map((example, place) =>
      this.task.predict(example, found.get(place)!, this.context, options),
    );
  }

  /** The answers' measures against the examples' labels; with a threshold of their own choice, that too. */
  async measure(
    examples: readonly Example[],
    {
      threshold: given,
      metric = "f1",
      ...options
    }: Omit<AnswerOptions, "threshold"> & {
      readonly items?: readonly Item[];
      /** `auto` takes that at which the answers are best by `metric`. */
      readonly threshold?: number | "auto" | undefined;
      readonly metric?: string | undefined;
    } = {},
  ): Promise<Measured & { readonly predictions: readonly Prediction[] }> {
    const found = await this.run(options.items ?? this.prepare(examples), options);
    let [sum, count] = [0, 0];
    for (const logits of [...found.values()].flat()) {
      const part = this.task.itemLoss(logits, this.context);
      sum += part.sum;
      count += part.count;
    }
    const answers = (threshold?: number) =>
      examples.map((example, place) =>
        this.task.predict(example, found.get(place)!, this.context, { threshold }),
      );
    const loss = count === 0 ? 0 : sum / count;
    const threshold =
      given === "auto" ? thresholdFor(metric, examples, answers(), this.context.labels) : given;
    const predictions = answers(threshold);
    const measured = this.task.measure(examples, predictions, loss, this.context);
    if (given !== "auto") return { ...measured, predictions };
    return { ...measured, metrics: { ...measured.metrics, threshold: threshold! }, predictions };
  }

  dispose(): void {
    this.program.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
