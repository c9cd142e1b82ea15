import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
import { StreamDecoder, type Tokenizer, beginSequence, controlled } from "../tokenizers/index.js";
import { type WeightSet, scaledContext } from "../nn/index.js";
import type { CacheType } from "./cache.js";
import { ConstraintCompiler, type ConstraintRule } from "./constraint.js";
import { Decoder } from "./decoder.js";
import { type ContinuationOptions, checkGeneration } from "./generate.js";
import { type FinishReason, GenerationQueue } from "./queue.js";
import type { CausalModel, Prompt } from "./model.js";
import type { Sequence, SequenceEvent, Speculation, TokenConstraint } from "./sequence.js";
import { StopStrings } from "./stops.js";

/** A decoder with what turns its tokens into text. It may write several texts at the same time. */
export interface TextWriter {
  readonly decoder: Decoder;
  readonly tokenizer: Tokenizer;
  /** Ids that end a text. Default: the tokenizer's end of text. */
  readonly stopIds?: readonly number[] | undefined;
}

/** Begins a new text of a rule. */
export interface TextRule {
  begin(): Promise<TokenConstraint & Disposable>;
}

export interface TextOptions extends ContinuationOptions {
  /** Strings that end the text and are not part of it. The names of special tokens count, though no text shows them. */
  readonly stop?: readonly string[] | undefined;
  /** What the whole text must be, such as a compiled `Constraint`. It stays the caller's, to be used again and disposed. */
  readonly constraint?: TextRule | undefined;
  /** Which of the seed's streams of random numbers to draw from, so that samples of one prompt differ. Default 0. */
  readonly stream?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** How a text came about. */
export interface TextReport {
  readonly finish: FinishReason;
  /** Of the prompt, and of the source where there is one. */
  readonly promptTokens: number;
  /** Of these, how many the decoder still held. */
  readonly reusedTokens: number;
  readonly newTokens: number;
  /** Seconds until the first token, waiting for a slot included. */
  readonly promptSeconds: number;
  /** Seconds from the first token, which comes with the prompt, to the last. */
  readonly writeSeconds: number;
  /** Of a text with a drafter. */
  readonly speculation?: Speculation;
}

/** What ends a text where the model's files do not say. */
export const endOfText = ({ endOfTextId }: Tokenizer): readonly number[] =>
  endOfTextId === undefined ? [] : [endOfTextId];

/** The ids of a prompt, after the token that begins a sequence where the model was trained with one. */
export function promptIds(tokenizer: Tokenizer, prompt: string): number[] {
  const ids = beginSequence(tokenizer, tokenizer.encode(prompt));
  // An empty prompt starts like a document, after the end of the one before it.
  if (ids.length === 0 && tokenizer.endOfTextId !== undefined) ids.push(tokenizer.endOfTextId);
  if (ids.length === 0)
    throw new LineageError("argument", "the prompt is empty, and this tokenizer has no token to start with");
  return ids;
}

/**
 * Continues a prompt, given as text or as ids; or writes about a source, given by its ids. The text is asked for at once, and written as it is read: several of them on
 * one decoder share its slots, whichever is read first.
 *
 *   for await (const piece of generateText(writer, "Once upon a time", { temperature: 0.7 })) process.stdout.write(piece);
 *
 *   const samples = [0, 1, 2].map((stream) => generateText(writer, "Once", { stream }));
 *   for (const sample of samples) console.log((await sample.all()).text);
 *
 * Throws `argument` for an option out of its range, `length` for a prompt that leaves no room for an answer.
 */
export function generateText(
  writer: TextWriter,
  prompt: string | Prompt,
  options: TextOptions = {},
): TextStream {
  checkGeneration(options);
  const asked = typeof prompt === "string" ? promptIds(writer.tokenizer, prompt) : prompt;
  const { ids } = writer.decoder.whole(asked);
  const { capacity } = writer.decoder;
  if (ids.length >= capacity && options.maxNewTokens !== 0)
    throw new LineageError(
      "length",
      `the prompt has ${ids.length} tokens, but the context holds ${capacity} and needs room for the answer; shorten the prompt`,
    );
  return new TextStream(writer, asked, options);
}

/** A text on its way: pieces of whole characters, none of them part of a stop string; at the end the report. */
export class TextStream implements AsyncIterableIterator<string, TextReport> {
  /** How the text came about; undefined until it has ended. */
  report: TextReport | undefined;
  private readonly queue: GenerationQueue;
  private readonly events: SequenceEvent[] = [];
  private readonly started = performance.now();
  private firstAt: number | undefined;
  private lastAt = this.started;
  private newTokens = 0;
  private sequence: Sequence | undefined;
  private readonly pieces: AsyncGenerator<string, TextReport>;

  /** @internal */
  constructor(
    private readonly writer: TextWriter,
    private readonly prompt: Prompt,
    private readonly options: TextOptions,
  ) {
    this.queue = GenerationQueue.of(writer.decoder);
    if (!options.constraint) this.sequence = this.submit();
    this.pieces = this.write();
  }

  async next(): Promise<IteratorResult<string, TextReport>> {
    const result = await this.pieces.next();
    if (result.done) this.report = result.value;
    return result;
  }

  /** Ends the text where it is. */
  async return(): Promise<IteratorResult<string, TextReport>> {
    if (this.sequence) this.queue.cancel(this.sequence);
    return this.pieces.return(undefined as unknown as TextReport);
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** How far the text has come: the report before its end, and of a text that was cut off by its signal. */
  get progress(): Omit<TextReport, "finish"> {
    const first = this.firstAt ?? performance.now();
    const { ids, source = [] } = this.writer.decoder.whole(this.prompt);
    return {
      promptTokens: source.length + ids.length,
      reusedTokens: this.sequence?.reusedTokens ?? 0,
      newTokens: this.newTokens,
      promptSeconds: (first - this.started) / 1000,
      writeSeconds: Math.max(0, this.lastAt - first) / 1000,
    };
  }

  /** The whole text. */
  async all(): Promise<{ readonly text: string; readonly report: TextReport }> {
    let text = "";
    for (;;) {
      const next = await this.next();
      if (next.done) return { text, report: next.value };
      text += next.value;
    }
  }

  private submit(constraint?: TokenConstraint): Sequence {
    const { tokenizer, stopIds = endOfText(tokenizer) } = this.writer;
    const { seed = 0, stream = 0 } = this.options;
    return this.queue.submit({
      vocabSize: tokenizer.target.vocabSize,
      ...this.options,
      prompt: this.prompt,
      random: new Random(seed, stream),
      stopIds,
      constraint,
      emit: (event) => {
        this.lastAt = performance.now();
        this.firstAt ??= this.lastAt;
        this.events.push(event);
      },
    });
  }

  private async *write(): AsyncGenerator<string, TextReport> {
    const { tokenizer } = this.writer;
    const { stop = [], constraint, signal } = this.options;
    const characters = new StreamDecoder(tokenizer.target);
    const stops = new StopStrings(stop);
    using walk = constraint && (await constraint.begin());
    const sequence = (this.sequence ??= this.submit(walk));
    let last: SequenceEvent = {};
    try {
      for await (const event of this.queue.follow([sequence], this.events, signal)) {
        last = event;
        if (event.id === undefined) continue;
        this.newTokens++;
        const text = characters.push(event.id);
        const name = tokenizer.isSpecial(event.id) ? tokenizer.idToToken(event.id) : undefined;
        const piece = stops.push(text) + (name === undefined ? "" : stops.push(name, { hidden: true }));
        if (piece !== "") yield piece;
        if (stops.stopped) break;
      }
    } finally {
      this.queue.cancel(sequence);
    }
    const rest = stops.push(characters.flush()) + stops.flush();
    if (rest !== "") yield rest;
    return {
      ...this.progress,
      finish: stops.stopped ? "stop" : last.finish!,
      ...(last.speculation && { speculation: last.speculation }),
    };
  }
}

/** A model that writes text. */
export interface TextModel extends Omit<TextWriter, "decoder"> {
  readonly model: CausalModel;
  readonly weights: WeightSet;
}

export interface WriteOptions extends Omit<TextOptions, "constraint"> {
  /** What the whole text must be. */
  readonly rule?: ConstraintRule | undefined;
  /** Labels of the documents that the text is to be like, each `column=label`, of a model that learned marked documents. */
  readonly control?: readonly string[] | undefined;
  /** What keys and values are kept as. */
  readonly cache?: CacheType | undefined;
}

/**
 * Continues one prompt with a decoder that is made for it and is no longer than the text needs.
 * @returns how the text came about
 */
export async function* writeText(
  { model, weights, tokenizer, stopIds = endOfText(tokenizer) }: TextModel,
  prompt: string,
  { rule, control, cache, maxNewTokens = 200, ...options }: WriteOptions = {},
): AsyncGenerator<string, TextReport> {
  checkGeneration({ ...options, maxNewTokens });
  const { vocabSize } = model.config;
  const ids = promptIds(tokenizer, controlled(tokenizer, prompt, control));
  using decoder = await Decoder.create({
    model,
    weights,
    capacity: Math.min(scaledContext(model.config), ids.length + Math.max(1, maxNewTokens)),
    cacheType: cache,
  });
  using compiler = rule && (await ConstraintCompiler.create(tokenizer, { vocabSize, stopIds }));
  using constraint = rule && (await compiler?.compile(rule));
  const text = generateText({ decoder, tokenizer, stopIds }, ids, { ...options, maxNewTokens, constraint });
  yield* text;
  return text.report!;
}
