import { LineageError } from "../base/errors.js";
import type { InferenceCheckpoint, InferenceEncoderDecoder } from "../checkpoints/index.js";
import type { TaskName } from "../data/index.js";
import {
  type CacheType,
  ConstraintCompiler,
  Decoder,
  type InfillOptions,
  type Infilled,
  type TextReport,
  type TransformOptions,
  type Transformation,
  type WriteOptions,
  checkTransform,
  endOfText,
  gapPrompt,
  generateText,
  infillText,
  promptIds,
  transform,
} from "../generation/index.js";
import { type LookOptions, type Looked, Looker, type Subject } from "../look/index.js";
import { type SystemKind, kindWords } from "../models/index.js";
import { scaledContext, unknownAdapter } from "../nn/index.js";
import type { EmbedOptions, Embedder } from "../search/index.js";
import type { AnswerOptions, Prediction, Predictor, PredictorInput } from "../tasks/index.js";
import { type ChatMessage, ChatTemplate, type Tokenizer, controlled } from "../tokenizers/index.js";

export interface ReplyOptions extends Omit<WriteOptions, "control"> {
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
  /** Names of the adapters that a text can have (`adapter` of its options), where several were loaded. */
  readonly adapters: readonly string[];
  /**
   * Continues a prompt, piece by piece as it is written:
   *
   *     for await (const piece of model.generate("Once upon a time")) process.stdout.write(piece);
   */
  generate(prompt: string, options?: WriteOptions): AsyncGenerator<string, TextReport>;
  /**
   * Writes what is missing in a text where it has `<gap>`:
   *
   *     const { text, gaps } = await model.infill("Once upon a time <gap>. They lived happily <gap>.");
   *
   * Throws `tokenizer` for a model that never learned hidden spans.
   */
  infill(text: string, options?: InfillOptions): Promise<Infilled>;
  /** Answers the last message of a conversation. Throws `tokenizer` for a model without a chat template. */
  chat(messages: readonly ChatMessage[], options?: ReplyOptions): Promise<string>;
}

/** What `stream` takes: a text that is written token by token, so without beams and in one piece. */
export interface StreamOptions
  extends
    Omit<WriteOptions, "cache">,
    Pick<TransformOptions, "prefix" | "minNewTokens" | "noRepeatNgram" | "begin"> {}

/** An encoder-decoder: it writes texts about texts, such as translations and summaries. */
export interface EncoderDecoderModel extends BaseModel {
  readonly kind: "encoder-decoder";
  /** Texts that a search follows where a call does not say. */
  readonly beams: number;
  /**
   * One text, or the best few, about each text, in their order. What the options leave open is as the model's files say:
   *
   *     const [{ text }] = await model.transform(["Ein Hund rennt."], { beams: 4 });
   */
  transform(texts: readonly string[], options?: TransformOptions): Promise<Transformation[]>;
  /** The same for texts that come one by one: those that wait are transformed together, and results keep the order. */
  transformEach(
    texts: Iterable<string> | AsyncIterable<string>,
    options?: TransformOptions,
  ): AsyncGenerator<Transformation>;
  /** Writes what is missing in a text where it has `<gap>`, as a decoder's `infill`: of T5, which learned hidden spans. */
  infill(text: string, options?: InfillOptions): Promise<Infilled>;
  /** One text, piece by piece as it is written. Default: the likeliest token each time; `temperature` draws. */
  stream(text: string, options?: StreamOptions): AsyncGenerator<string, StreamReport>;
}

/** How a text about a text came about. */
export interface StreamReport extends TextReport {
  /** Tokens of the source beyond the context, which were not read. */
  readonly cutTokens: number;
}

/** An encoder without a head: it turns texts into vectors. */
export interface EncoderModel extends BaseModel {
  readonly kind: "encoder";
  /** One vector for each text, as sentence-transformers computes them. */
  embed(texts: readonly string[], options?: EmbedOptions): Promise<Float32Array[]>;
}

/** An encoder or a decoder that was fine-tuned to a task. */
export interface TaskModel<T extends TaskName = TaskName> extends BaseModel {
  readonly kind: "encoder" | "decoder";
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

  infill(_text: string, _options?: InfillOptions): Promise<Infilled> {
    return this.rejects(
      "infill",
      "needs a model that learned hidden spans: a decoder (train --objective ul2r), or T5",
    );
  }

  chat(_messages: readonly ChatMessage[], _options?: ReplyOptions): Promise<string> {
    return this.rejects("chat", "needs a decoder, such as GPT-2 or LLaMA");
  }

  embed(_texts: readonly string[], _options?: EmbedOptions): Promise<Float32Array[]> {
    return this.rejects("embed", "needs an encoder without a head, such as all-MiniLM-L6-v2");
  }

  predict(_input: PredictorInput, _options?: AnswerOptions): Promise<Prediction> {
    return this.rejects("predict", "needs a model that finetune has trained to a task");
  }

  transform(_texts: readonly string[], _options?: TransformOptions): Promise<Transformation[]> {
    return this.rejects("transform", needsEncoderDecoder);
  }

  transformEach(
    _texts: Iterable<string> | AsyncIterable<string>,
    _options?: TransformOptions,
  ): AsyncGenerator<Transformation> {
    return this.cannot("transform", needsEncoderDecoder);
  }

  stream(_text: string, _options?: StreamOptions): AsyncGenerator<string, StreamReport> {
    return this.cannot("transform", needsEncoderDecoder);
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

const needsEncoderDecoder = "needs an encoder-decoder, such as T5, BART or Marian's translation models";

/** Tokens that a decoder has room for at least, so that one serves several texts. */
const leastCapacity = 512;

/** A decoder, and how many texts are being written with it. */
interface Shared {
  readonly decoder: Decoder;
  texts: number;
}

/** What texts are written in. */
interface Words {
  readonly tokenizer: Tokenizer;
  readonly stopIds: readonly number[];
}

export class LoadedDecoder extends LoadedModel implements DecoderModel {
  readonly kind = "decoder";
  readonly description: string;
  /** What new texts are written with; a longer one takes its place when a text needs it. */
  private shared: Shared | undefined;
  private making: Promise<unknown> = Promise.resolve();
  /** By the adapter that writes. */
  private readonly compilers = new Map<string | undefined, Promise<ConstraintCompiler>>();
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

  override async infill(text: string, options: InfillOptions = {}): Promise<Infilled> {
    this.requireOpen();
    const { model } = this.loaded;
    const { tokenizer, stopIds } = this.words(options.adapter);
    const { ids, maxNewTokens } = gapPrompt(tokenizer, text, options);
    const shared = await this.take(Math.min(scaledContext(model.config), ids.length + maxNewTokens));
    try {
      return await infillText({ decoder: shared.decoder, tokenizer, stopIds }, text, options);
    } finally {
      shared.texts--;
      this.release(shared);
    }
  }

  override async chat(messages: readonly ChatMessage[], options: ReplyOptions = {}): Promise<string> {
    const { template, onText, ...rest } = options;
    let reply = "";
    for await (const piece of this.write(
      new ChatTemplate(this.words(options.adapter).tokenizer, template).encode(messages),
      rest,
    )) {
      reply += piece;
      onText?.(piece);
    }
    return reply;
  }

  private async *write(
    prompt: string | readonly number[],
    { rule, control, cache, maxNewTokens = 200, ...options }: WriteOptions,
  ): AsyncGenerator<string, TextReport> {
    this.requireOpen();
    const { model } = this.loaded;
    const { tokenizer, stopIds } = this.words(options.adapter);
    const ids =
      typeof prompt === "string" ? promptIds(tokenizer, controlled(tokenizer, prompt, control)) : prompt;
    const capacity = Math.min(scaledContext(model.config), ids.length + Math.max(1, maxNewTokens));
    const shared = await (cache === undefined ? this.take(capacity) : this.make(capacity, cache));
    try {
      using constraint = rule && (await (await this.compile(options.adapter)).compile(rule));
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

  private compile(adapter: string | undefined): Promise<ConstraintCompiler> {
    let compiler = this.compilers.get(adapter);
    if (!compiler) {
      const { vocabSize } = this.loaded.model.config;
      const { tokenizer, stopIds } = this.words(adapter);
      compiler = ConstraintCompiler.create(tokenizer, { vocabSize, stopIds });
      this.compilers.set(adapter, compiler);
    }
    return compiler;
  }

  /** Ids that end what it writes. */
  get stopIds(): readonly number[] {
    return this.words(undefined).stopIds;
  }

  /** Names of the adapters that a text can have. */
  get adapters(): readonly string[] {
    return [...(this.loaded.adapters?.keys() ?? [])];
  }

  /** What the texts of an adapter are written in. Throws `argument` for one that is not there. */
  private words(adapter: string | undefined): Words {
    const own = adapter === undefined ? {} : this.loaded.adapters?.get(adapter);
    if (!own) throw unknownAdapter(adapter!, this.adapters);
    const tokenizer = own.tokenizer ?? this.loaded.tokenizer;
    return { tokenizer, stopIds: own.stopIds ?? this.loaded.stopIds ?? endOfText(tokenizer) };
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
    for (const compiler of this.compilers.values())
      void compiler.then((one) => {
        one.dispose();
      });
    this.loaded.weights.dispose();
  }
}

/** Sources that are written about side by side. */
const usualSlots = 32;

/** Texts that `transformEach` takes together at most. */
const textsAtOnce = 1024;

export class LoadedEncoderDecoder extends LoadedModel implements EncoderDecoderModel {
  readonly kind = "encoder-decoder";
  readonly description: string;
  /** Decoders by their beams. The last one stays for the next call. */
  private readonly shared = new Map<number, { readonly decoder: Promise<Decoder>; users: number }>();
  private compiler: Promise<ConstraintCompiler> | undefined;
  private disposed = false;

  /** @param slots rows that are written side by side, each beam counted; default 32 sources */
  constructor(
    source: string,
    private readonly loaded: InferenceEncoderDecoder,
    private readonly slots: number | undefined,
  ) {
    super(source, loaded);
    this.description = `${loaded.system.title}, an encoder-decoder`;
  }

  override async transform(
    texts: readonly string[],
    options: TransformOptions = {},
  ): Promise<Transformation[]> {
    const whole = this.withDefaults(options);
    checkTransform(whole);
    return this.using(whole.beams ?? 1, (decoder) => transform(this.writer(decoder), texts, whole));
  }

  override async *transformEach(
    texts: Iterable<string> | AsyncIterable<string>,
    options: TransformOptions = {},
  ): AsyncGenerator<Transformation> {
    checkTransform(this.withDefaults(options));
    for await (const batch of inBatches(texts, textsAtOnce)) yield* await this.transform(batch, options);
  }

  override infill(text: string, options: InfillOptions = {}): Promise<Infilled> {
    return this.using(1, (decoder) => infillText(this.writer(decoder), text, options));
  }

  override async *stream(text: string, options: StreamOptions = {}): AsyncGenerator<string, StreamReport> {
    const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
    const { rule, prefix = "", ...rest } = given as StreamOptions;
    const { begin, maxNewTokens, ...defaults } = this.defaults;
    const { tokenizer } = this.loaded;
    const draws = [rest.temperature, rest.topK, rest.topP, rest.minP].some((value) => value !== undefined);
    const shared = this.take(1);
    try {
      const decoder = await shared.decoder;
      using constraint = rule && (await (await this.compile()).compile(rule));
      const { sourceCapacity: maxLength } = decoder;
      const { ids, truncated } = tokenizer.encodePair(prefix + text, undefined, { maxLength });
      const written = generateText(
        this.writer(decoder),
        { source: ids, begin: rest.begin ?? begin },
        { ...defaults, maxNewTokens, ...(!draws && { temperature: 0 }), ...rest, constraint },
      );
      yield* written;
      return { ...written.report!, cutTokens: truncated };
    } finally {
      this.leave(shared);
    }
  }

  get beams(): number {
    return this.loaded.generation?.numBeams ?? 1;
  }

  /** What the model's files say of how it writes. */
  private get defaults(): TransformOptions {
    const { generation = {}, model } = this.loaded;
    const { maxLength, minLength, noRepeatNgramSize, forcedEosId } = generation;
    // Lengths there count the start token.
    const most = generation.maxNewTokens ?? (maxLength === undefined ? undefined : maxLength - 1);
    return {
      begin: [generation.startId ?? model.config.decoderStartTokenId],
      maxNewTokens: most,
      minNewTokens: generation.minNewTokens ?? Math.max(0, (minLength ?? 1) - 1),
      noRepeatNgram: noRepeatNgramSize === 0 ? undefined : noRepeatNgramSize,
      banned: generation.bannedIds,
      forcedFirst: generation.forcedBosId,
      forcedLast: forcedEosId === undefined ? undefined : [forcedEosId],
    };
  }

  private withDefaults(options: TransformOptions): TransformOptions {
    const { numBeams, lengthPenalty, earlyStopping } = this.loaded.generation ?? {};
    const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
    // Whoever asks for samples does not want the beams of the files.
    const { temperature, topK, topP, minP } = options;
    const draws = [temperature, topK, topP, minP].some((value) => value !== undefined);
    return { ...this.defaults, ...(!draws && { beams: numBeams }), lengthPenalty, earlyStopping, ...given };
  }

  private writer(decoder: Decoder) {
    const { tokenizer, stopIds } = this.loaded;
    return { decoder, tokenizer, stopIds };
  }

  private async using<T>(beams: number, work: (decoder: Decoder) => Promise<T>): Promise<T> {
    const shared = this.take(beams);
    try {
      return await work(await shared.decoder);
    } finally {
      this.leave(shared);
    }
  }

  /** A decoder with so many beams: the one that is there, or a new one in the place of those that nobody uses. */
  private take(beams: number) {
    if (this.disposed) throw new LineageError("disposed", `${this.source} was disposed`);
    let shared = this.shared.get(beams);
    if (!shared) {
      for (const [key, other] of this.shared) {
        if (other.users > 0) continue;
        this.shared.delete(key);
        letGo(other.decoder);
      }
      const { model, weights } = this.loaded;
      const slots = this.slots === undefined ? usualSlots : Math.max(1, Math.ceil(this.slots / beams));
      shared = { decoder: Decoder.create({ model, weights, slots, beams }), users: 0 };
      this.shared.set(beams, shared);
    }
    shared.users++;
    return shared;
  }

  private leave(shared: { readonly decoder: Promise<Decoder>; users: number }): void {
    shared.users--;
    if (this.disposed && shared.users === 0) letGo(shared.decoder);
  }

  private compile(): Promise<ConstraintCompiler> {
    const { model, tokenizer, stopIds = endOfText(tokenizer) } = this.loaded;
    const { vocabSize } = model.config;
    return (this.compiler ??= ConstraintCompiler.create(tokenizer, { vocabSize, stopIds }));
  }

  override dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    for (const { decoder } of this.shared.values()) letGo(decoder);
    void this.compiler?.then((compiler) => {
      compiler.dispose();
    });
    this.loaded.weights.dispose();
  }
}

/** One that could not be made has been told to whoever asked for it. */
function letGo(decoder: Promise<Decoder>): void {
  decoder.then(
    (made) => {
      made.dispose();
    },
    () => undefined,
  );
}

/** What has come of a stream whenever somebody asks for more: one text of a slow one, many of a file. */
async function* inBatches(
  texts: Iterable<string> | AsyncIterable<string>,
  most: number,
): AsyncGenerator<string[]> {
  const iterator = Symbol.asyncIterator in texts ? texts[Symbol.asyncIterator]() : texts[Symbol.iterator]();
  const ask = (): Promise<IteratorResult<string>> => {
    const next = Promise.resolve(iterator.next());
    // It may fail while a batch is being worked on; whoever waits for it is told then.
    next.catch(() => undefined);
    return next;
  };
  try {
    for (let next = ask(), ended = false; !ended;) {
      const batch: string[] = [];
      while (batch.length < most) {
        const come = await (batch.length === 0 ? next : Promise.race([next, soon()]));
        if (come === undefined) break;
        if (come.done) {
          ended = true;
          break;
        }
        batch.push(come.value);
        next = ask();
      }
      if (batch.length > 0) yield batch;
    }
  } finally {
    await iterator.return?.();
  }
}

const soon = (): Promise<undefined> =>
  new Promise((resolve) =>
    setImmediate(() => {
      resolve(undefined);
    }),
  );

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
  readonly kind: "encoder" | "decoder";
  readonly description: string;

  constructor(
    source: string,
    private readonly predictor: Predictor,
  ) {
    super(source, predictor.loaded);
    this.kind = predictor.loaded.system.kind;
    this.description = `${kindWords[this.kind]} with a head for ${predictor.task}`;
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
