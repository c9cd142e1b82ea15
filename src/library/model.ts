import { LineageError } from "../base/errors.js";
import type { InferenceCheckpoint } from "../checkpoints/index.js";
import type { TaskName } from "../data/index.js";
import {
  type CacheType,
  ConstraintCompiler,
  Decoder,
  type TextReport,
  type WriteOptions,
  endOfText,
  generateText,
  promptIds,
} from "../generation/index.js";
import { type LookOptions, type Looked, Looker, type Subject } from "../look/index.js";
import type { SystemKind } from "../models/index.js";
import { scaledContext } from "../nn/index.js";
import type { EmbedOptions, Embedder } from "../search/index.js";
import type { AnswerOptions, Prediction, Predictor, PredictorInput } from "../tasks/index.js";
import { type ChatMessage, ChatTemplate } from "../tokenizers/index.js";

export interface ReplyOptions extends WriteOptions {
  /** Jinja instead of the model's own template. */
  readonly template?: string;
  /** Gets the reply piece by piece as it is written. */
  readonly onText?: (piece: string) => void;
}

/** What a model of a task answers. */
export type TaskPrediction<T extends TaskName> = {
  readonly classify: Required<Pick<Prediction, "label" | "probability" | "probabilities">>;
  readonly pair: Required<Pick<Prediction, "label" | "probability" | "probabilities">>;
  readonly regress: Required<Pick<Prediction, "value">>;
  readonly tag: Required<Pick<Prediction, "tags">>;
  readonly span: Required<Pick<Prediction, "answer" | "start" | "end" | "probability">>;
  readonly choice: Required<Pick<Prediction, "choice" | "probability" | "probabilities">>;
}[T];

interface BaseModel extends Disposable {
  /**
   * What its attention and its states are for a text, the same numbers as transformers' `output_attentions` and
   * `output_hidden_states`:
   *
   *     const { tokens, attention } = await model.look("The cat sat on the mat.");
   *
   * Throws `memory` where the maps of so many tokens do not fit.
   */
  look(text: string, options?: LookOptions): Promise<Looked>;

  readonly kind: SystemKind;
  /** What it is, for a person: `LLaMA, a decoder`. */
  readonly description: string;
  dispose(): void;
}

/** A decoder: it continues texts and holds conversations. */
export interface DecoderModel extends BaseModel {
  readonly kind: "decoder";
  /**
   * Continues a prompt, piece by piece as it is written:
   *
   *     for await (const piece of model.generate("Once upon a time")) process.stdout.write(piece);
   */
  generate(prompt: string, options?: WriteOptions): AsyncGenerator<string, TextReport>;
  /** Answers the last message of a conversation. Throws `tokenizer` for a model without a chat template. */
  chat(messages: readonly ChatMessage[], options?: ReplyOptions): Promise<string>;
}

/** An encoder without a head: it turns texts into vectors. */
export interface EncoderModel extends BaseModel {
  readonly kind: "encoder";
  /** One vector for each text, as sentence-transformers computes them. */
  embed(texts: readonly string[], options?: EmbedOptions): Promise<Float32Array[]>;
}

/** An encoder that was fine-tuned to a task. */
export interface TaskModel<T extends TaskName = TaskName> extends BaseModel {
  readonly kind: "encoder";
  readonly task: T;
  /** Names of the classes or tags; empty where there are none. */
  readonly labels: readonly string[];
  predict(input: PredictorInput, options?: AnswerOptions): Promise<TaskPrediction<T>>;
}

/**
 * A model of which only the files say what it is. What its kind or its head cannot do throws `unsupported`, and says what it
 * is.
 */
export abstract class LoadedModel implements BaseModel {
  abstract readonly kind: SystemKind;
  abstract readonly description: string;

  private readonly looker: Looker;

  /**
   * @param source where it was loaded from, for messages
   * @param subject what `look` looks into
   */
  protected constructor(
    protected readonly source: string,
    subject: Subject,
  ) {
    this.looker = new Looker(subject);
  }

  look(text: string, options: LookOptions = {}): Promise<Looked> {
    return this.looker.look(text, options);
  }

  generate(_prompt: string, _options?: WriteOptions): AsyncGenerator<string, TextReport> {
    return this.cannot("generate", "needs a decoder, such as GPT-2 or LLaMA");
  }

  chat(_messages: readonly ChatMessage[], _options?: ReplyOptions): Promise<string> {
    return this.rejects("chat", "needs a decoder, such as GPT-2 or LLaMA");
  }

  embed(_texts: readonly string[], _options?: EmbedOptions): Promise<Float32Array[]> {
    return this.rejects("embed", "needs an encoder without a head, such as all-MiniLM-L6-v2");
  }

  predict(_input: PredictorInput, _options?: AnswerOptions): Promise<Prediction> {
    return this.rejects("predict", "needs an encoder that finetune has trained to a task");
  }

  private cannot(what: string, needs: string): never {
    throw new LineageError(
      "unsupported",
      `${this.source} is ${this.description}: it does not ${what}, which ${needs}`,
    );
  }

  private async rejects(what: string, needs: string): Promise<never> {
    return this.cannot(what, needs);
  }

  dispose(): void {
    this.looker.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Tokens that a decoder has room for at least, so that one serves several texts. */
const leastCapacity = 512;

/** A decoder, and how many texts are being written with it. */
interface Shared {
  readonly decoder: Decoder;
  texts: number;
}

export class LoadedDecoder extends LoadedModel implements DecoderModel {
  readonly kind = "decoder";
  readonly description: string;
  /** What new texts are written with; a longer one takes its place when a text needs it. */
  private shared: Shared | undefined;
  private making: Promise<unknown> = Promise.resolve();
  private compiler: Promise<ConstraintCompiler> | undefined;
  private disposed = false;

  /** @param slots texts that are written side by side; others wait */
  constructor(
    source: string,
    private readonly loaded: InferenceCheckpoint,
    private readonly slots: number,
  ) {
    super(source, loaded);
    this.description = `${loaded.system.title}, a decoder`;
  }

  override generate(prompt: string, options: WriteOptions = {}): AsyncGenerator<string, TextReport> {
    return this.write(prompt, options);
  }

  override async chat(messages: readonly ChatMessage[], options: ReplyOptions = {}): Promise<string> {
    const { template, onText, ...rest } = options;
    let reply = "";
    for await (const piece of this.write(
      new ChatTemplate(this.loaded.tokenizer, template).encode(messages),
      rest,
    )) {
      reply += piece;
      onText?.(piece);
    }
    return reply;
  }

  private async *write(
    prompt: string | readonly number[],
    { rule, cache, maxNewTokens = 200, ...options }: WriteOptions,
  ): AsyncGenerator<string, TextReport> {
    this.requireOpen();
    const { model, tokenizer } = this.loaded;
    const ids = typeof prompt === "string" ? promptIds(tokenizer, prompt) : prompt;
    const capacity = Math.min(scaledContext(model.config), ids.length + Math.max(1, maxNewTokens));
    const shared = await (cache === undefined ? this.take(capacity) : this.make(capacity, cache));
    try {
      using constraint = rule && (await (await this.compile()).compile(rule));
      const { stopIds } = this;
      const writer = { decoder: shared.decoder, tokenizer, stopIds };
      const text = generateText(writer, ids, { ...options, maxNewTokens, constraint });
      yield* text;
      return text.report!;
    } finally {
      shared.texts--;
      this.release(shared);
    }
  }

  /** A decoder with room for so many tokens, for one more text: the one that is there, or a longer one in its place. */
  private take(capacity: number): Promise<Shared> {
    const taken = this.making.then(async () => {
      if (this.shared && this.shared.decoder.capacity >= capacity) {
        this.shared.texts++;
        return this.shared;
      }
      const room = Math.max(leastCapacity, 2 ** Math.ceil(Math.log2(capacity)));
      const before = this.shared;
      this.shared = await this.make(Math.min(scaledContext(this.loaded.model.config), room));
      if (before) this.release(before);
      return this.shared;
    });
    // One that could not be made is no reason to make none.
    this.making = taken.catch(() => undefined);
    return taken;
  }

  private async make(capacity: number, cacheType?: CacheType): Promise<Shared> {
    const { model, weights } = this.loaded;
    return {
      decoder: await Decoder.create({ model, weights, capacity, cacheType, slots: this.slots }),
      texts: 1,
    };
  }

  /** Lets go of a decoder that no text needs any more. */
  private release(one: Shared): void {
    if (one.texts === 0 && (this.disposed || one !== this.shared)) one.decoder.dispose();
  }

  private compile(): Promise<ConstraintCompiler> {
    const { model, tokenizer } = this.loaded;
    const { vocabSize } = model.config;
    return (this.compiler ??= ConstraintCompiler.create(tokenizer, { vocabSize, stopIds: this.stopIds }));
  }

  /** Ids that end what it writes. */
  get stopIds(): readonly number[] {
    return this.loaded.stopIds ?? endOfText(this.loaded.tokenizer);
  }

  private requireOpen(): void {
    if (this.disposed) throw new LineageError("disposed", `${this.source} was disposed`);
  }

  override dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    super.dispose();
    // A decoder with which a text is being written says itself that it was disposed.
    this.shared?.decoder.dispose();
    void this.compiler?.then((compiler) => {
      compiler.dispose();
    });
    this.loaded.weights.dispose();
  }
}

export class LoadedEmbedder extends LoadedModel implements EncoderModel {
  readonly kind = "encoder";
  readonly description = "an encoder without a head of a task";

  constructor(
    source: string,
    private readonly embedder: Embedder,
  ) {
    super(source, embedder.loaded);
  }

  override embed(texts: readonly string[], options: EmbedOptions = {}): Promise<Float32Array[]> {
    return this.embedder.embed(texts, options);
  }

  override dispose(): void {
    super.dispose();
    this.embedder.dispose();
  }
}

export class LoadedPredictor extends LoadedModel {
  readonly kind = "encoder";
  readonly description: string;

  constructor(
    source: string,
    private readonly predictor: Predictor,
  ) {
    super(source, predictor.loaded);
    this.description = `an encoder with a head for ${predictor.task}`;
  }

  get task(): TaskName {
    return this.predictor.task;
  }

  get labels(): readonly string[] {
    return this.predictor.labels;
  }

  override async predict(input: PredictorInput, options: AnswerOptions = {}): Promise<Prediction> {
    const [answer] = await this.predictor.predict([input], options);
    return answer;
  }

  override dispose(): void {
    super.dispose();
    this.predictor.dispose();
  }
}
