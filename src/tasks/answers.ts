import { type Example, batchesByLength } from "../data/index.js";
import { type EncoderWithHead, type WeightSet } from "../nn/index.js";
import { batchOf, inputsOf, logitsOf } from "./batches.js";
import { thresholdFor } from "./classify.js";
import { EncoderProgram, type HostTensor } from "./encoder-program.js";
import type { Item, ItemLogits, Measured, PredictOptions, Prediction, Task, TaskContext } from "./task.js";

export interface AnswerOptions extends PredictOptions {
  /** Rows that run together. Default 32. */
  readonly batchSize?: number;
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** A task's network: answers about examples of any number and length, in the order given. */
export class Answerer implements Disposable {
  private answering?: Promise<EncoderProgram<"logits">>;
  private measuring?: Promise<EncoderProgram<"logits" | "loss">>;

  constructor(
    private readonly task: Task,
    private readonly context: TaskContext,
    private readonly model: EncoderWithHead,
    private readonly weights: WeightSet,
  ) {}

  /** Logits of rows. */
  private answers(): Promise<EncoderProgram<"logits">> {
    const { model, weights, task } = this;
    return (this.answering ??= EncoderProgram.create(
      model,
      weights,
      (inputs) => ({ logits: model.forward(inputs) }),
      { shape: task.shape },
    ));
  }

  /** Logits of rows with targets, and the loss that training makes smaller. */
  private losses(): Promise<EncoderProgram<"logits" | "loss">> {
    const { model, weights, task } = this;
    return (this.measuring ??= EncoderProgram.create(
      model,
      weights,
      (inputs, tensors) => {
        const logits = model.forward(inputs);
        return { logits, loss: task.loss(logits, tensors) };
      },
      { shape: task.shape, targets: task.targets },
    ));
  }

  /** The logits of all items by example, batch by batch from `run`. */
  private async run(
    items: readonly Item[],
    { batchSize = 32, onProgress }: AnswerOptions,
    run: (batch: readonly Item[]) => Promise<HostTensor>,
  ): Promise<Map<number, ItemLogits[]>> {
    const found = new Map<number, ItemLogits[]>();
    let done = 0;
    for (const places of batchesByLength(items, { batchSize, lengthOf: ({ length }) => length })) {
      const batch = places.map((place) => items[place]!);
      for (const logits of logitsOf(this.task, batch, await run(batch), this.context)) {
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
    const program = await this.answers();
    const found = await this.run(this.prepare(examples), options, async (batch) => {
      const { logits } = await program.run(inputsOf(this.task, batch, this.context), options);
      return logits;
    });
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
    const program = await this.losses();
    let [total, count] = [0, 0];
    const found = await this.run(options.items ?? this.prepare(examples), options, async (batch) => {
      const { tensors, counts } = batchOf(this.task, batch, this.context);
      const { logits, loss } = await program.run(tensors, options);
      total += loss.data[0]!;
      count += counts[this.task.name]!;
      return logits;
    });
    const answers = (threshold?: number) =>
      examples.map((example, place) =>
        this.task.predict(example, found.get(place)!, this.context, { threshold }),
      );
    const loss = count === 0 ? 0 : total / count;
    const threshold =
      given === "auto" ? thresholdFor(metric, examples, answers(), this.context.labels) : given;
    const predictions = answers(threshold);
    const measured = this.task.measure(examples, predictions, loss, this.context);
    if (given !== "auto") return { ...measured, predictions };
    return { ...measured, metrics: { ...measured.metrics, threshold: threshold! }, predictions };
  }

  dispose(): void {
    const made = (program: EncoderProgram<string>) => {
      program.dispose();
    };
    // One that could not be made has told whoever waited for it.
    const failed = () => undefined;
    void this.answering?.then(made, failed);
    void this.measuring?.then(made, failed);
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
