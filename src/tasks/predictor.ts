import type { Example, TaskName } from "../data/index.js";
import { type HeadCheckpoint, classesOf, loadTaskForInference } from "../checkpoints/index.js";
import type { ModelWeights, QuantizationScheme } from "../quantization/index.js";
import { createRuntime } from "../runtime/index.js";
import type { Runtime } from "../runtime/types.js";
import { type AnswerOptions, Answerer } from "./answers.js";
import { taskOf } from "./both-orders.js";
import { contextOf, labelsOf, readAdapterSettings, readSettings } from "./settings.js";
import { checkLabels } from "./labels.js";
import type { Measured, Prediction, Task, TaskContext } from "./task.js";

export interface PredictorOptions {
  /** Default: as the folder says. */
  readonly task?: TaskName;
  /** Tokens of a row. Default: as in fine-tuning. */
  readonly maxLength?: number;
  /** Folder of an adapter for the model, in peft's layout; it may bring the head. Default: none. */
  readonly adapter?: string | undefined;
  /** Adds the adapter to the matrices, in float32, instead of computing it beside them. */
  readonly mergeAdapter?: boolean | undefined;
  /** Keeps the matrices in fewer bits, but for the head's. Default: as the folder has them. */
  readonly quantize?: QuantizationScheme | undefined;
  readonly runtime?: Runtime;
}

/** What a prediction is asked for: a text, or its parts. */
export type PredictorInput = string | Omit<Example, "row" | "label">;

/**
 * Answers of a fine-tuned encoder or decoder:
 *
 *     const predictor = await Predictor.load("runs/sentiment");
 *     const [answer] = await predictor.predict(["a lovely film"]);
 *     console.log(answer.label, answer.probability);
 */
export class Predictor implements Disposable {
  private constructor(
    private readonly answers: Task,
    /** The network with its weights and its tokenizer. */
    readonly loaded: HeadCheckpoint<ModelWeights>,
    private readonly context: TaskContext,
    private readonly answerer: Answerer,
    /** Probability that decides unless it is told otherwise, as fine-tuning chose it. */
    readonly threshold: number | undefined,
  ) {}

  /** Throws `checkpoint` where the folder has no head for the task. */
  static async load(folder: string, options: PredictorOptions = {}): Promise<Predictor> {
    const { adapter, mergeAdapter, quantize } = options;
    const settings =
      adapter === undefined
        ? await readSettings(folder, options.task)
        : await readAdapterSettings(adapter, folder, options.task);
    const task = taskOf(settings.task, settings);
    const loaded = await loadTaskForInference(options.runtime ?? createRuntime(), folder, task.head, {
      numLabels: task.hasClasses ? undefined : task.numLabels([]),
      adapter,
      mergeAdapter,
      quantize,
    });
    const named = {
      ...loaded,
      labels: task.hasClasses ? (labelsOf(settings, loaded) ?? loaded.labels ?? numbered(loaded)) : undefined,
    };
    const context = contextOf(named, settings.task, {
      ...settings,
      maxLength: options.maxLength ?? settings.maxLength,
    });
    const answerer = new Answerer(task, context, loaded.model, loaded.weights);
    return new Predictor(task, loaded, context, answerer, settings.threshold);
  }

  /** Whether every text has a second one. */
  get readsPairs(): boolean {
    return this.answers.name === "pair" || this.answers.shape.includes("orders");
  }

  get task(): TaskName {
    return this.answers.name;
  }

  /** Names of the classes or tags; empty where there are none. */
  get labels(): readonly string[] {
    return this.context.labels;
  }

  /**
   * One answer for each input, in the order given: a class with its probability, a number, tags, an answer or a choice. A
   * tuple for a tuple, so that `const [answer] = await predictor.predict([text])` is one.
   */
  async predict<T extends readonly PredictorInput[] | [PredictorInput]>(
    inputs: T,
    options: AnswerOptions = {},
  ): Promise<{ [I in keyof T]: Prediction }> {
    const examples = inputs.map((input, place): Example =>
      typeof input === "string"
        ? { row: place + 1, text: input, words: input.split(/\s+/).filter((word) => word !== "") }
        : { row: place + 1, ...input },
    );
    return (await this.answerer.predict(examples, this.decided(options))) as { [I in keyof T]: Prediction };
  }

  /** Answers to labelled examples, and how right they are. Throws `data` for a label that the model does not know. */
  async evaluate(
    examples: readonly Example[],
    options: AnswerOptions & { readonly file?: string } = {},
  ): Promise<Measured & { readonly predictions: readonly Prediction[] }> {
    if (this.answers.hasClasses) checkLabels(options.file ?? "the data", examples, this.labels);
    return this.answerer.measure(examples, this.decided(options));
  }

  private decided<O extends AnswerOptions>(options: O): O {
    return { ...options, threshold: options.threshold ?? this.threshold };
  }

  /** Tokens of a text that do not fit a row and are not read; none in tasks that read long texts part by part. */
  truncatedTokens(example: Example): number {
    return this.answers
      .prepare({ ...example, label: undefined }, 0, this.context)
      .reduce((total, { truncated }) => total + truncated, 0);
  }

  dispose(): void {
    this.answerer.dispose();
    this.loaded.weights.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Names for classes that nobody named, as transformers has them. */
const numbered = (loaded: HeadCheckpoint<ModelWeights>): string[] =>
  Array.from({ length: classesOf(loaded) }, (_, id) => `LABEL_${id}`);
