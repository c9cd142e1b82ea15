import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
import type { Tokenizer } from "../tokenizers/index.js";
import type { BeamOptions, BeamSearch } from "./beam.js";
import { checkGeneration } from "./generate.js";
import type { SourcePrompt } from "./model.js";
import { GenerationQueue } from "./queue.js";
import type { OptionName, SamplingOptions } from "./sampling.js";
import type { Sequence } from "./sequence.js";
import { type TextWriter, endOfText } from "./text.js";

/** What becomes of a source that has more tokens than the model reads. */
export const longSources = ["cut", "split"] as const;

export interface TransformOptions
  extends Omit<BeamOptions, "maxNewTokens" | "numBeams" | "numReturned" | "stopIds">, SamplingOptions {
  /** Stands before every source: what the model is to do, such as `translate English to German: `. Default: nothing. */
  readonly prefix?: string | undefined;
  /** Texts that a beam search follows side by side. Default 1: the likeliest token each time. */
  readonly beams?: number | undefined;
  /** How many texts are written about each source: the best of a beam search, or samples. Default 1. */
  readonly best?: number | undefined;
  /** Tokens to write at most. Default 200, as far as the model's context reaches. */
  readonly maxNewTokens?: number | undefined;
  /** The same seed draws the same samples. Default 0. */
  readonly seed?: number | undefined;
  /**
   * What becomes of a source beyond the context: its end is cut off and counted (default), or it is split between sentences
   * into parts that fit, which are transformed one by one.
   */
  readonly long?: (typeof longSources)[number] | undefined;
  /** What the decoder reads first. Default: the model's start token. */
  readonly begin?: readonly number[] | undefined;
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

/** A text about a source. */
export interface WrittenText {
  readonly text: string;
  /** Of a beam search: the log-probability divided by the length's power. Of a source in parts: none. */
  readonly score?: number | undefined;
  /** Tokens that were written. */
  readonly newTokens: number;
  /** Whether the model ended it, or it had all its tokens. */
  readonly finish: "stop" | "length";
}

/** What became of one source: the best text about it, and the others that were asked for. */
export interface Transformation extends WrittenText {
  /** All texts that were asked for, best first. */
  readonly texts: readonly WrittenText[];
  readonly sourceTokens: number;
  /** Tokens of the source beyond the context, which were not read. */
  readonly cutTokens: number;
  /** Parts that the source was split into. */
  readonly parts: number;
}

const drawsFrom = ({ temperature, topK, topP, minP }: SamplingOptions): boolean =>
  temperature !== 0 && [temperature, topK, topP, minP].some((value) => value !== undefined);

/**
 * Throws `argument` for an option out of its range, before anything is loaded.
 * @param nameOf how the person who gave the options calls each of them
 */
export function checkTransform(options: TransformOptions, nameOf: OptionName = (option) => option): void {
  checkGeneration(options, nameOf);
  const { beams = 1, best = 1, lengthPenalty = 1 } = options;
  const draws = drawsFrom(options);
  const rules: [boolean, string][] = [
    [
      Number.isInteger(beams) && beams >= 1 && beams <= mostBeams,
      `${nameOf("beams")} must be a whole number from 1 to ${mostBeams}, not ${beams}`,
    ],
    [
      Number.isInteger(best) && best >= 1,
      `${nameOf("best")} must be a whole number of at least 1, not ${best}`,
    ],
    [Number.isFinite(lengthPenalty), `${nameOf("lengthPenalty")} must be a number, not ${lengthPenalty}`],
    [
      !draws || beams === 1,
      `${nameOf("beams")} looks for the likeliest text, and ${nameOf("temperature")}, ${nameOf("topK")}, ${nameOf("topP")} and ${nameOf("minP")} draw one; give one or the other`,
    ],
    [
      draws || best <= beams,
      `${beams === 1 ? "one beam finds one text" : `${beams} beams find ${beams} texts`}: for the ${best} best give ${nameOf("beams")} ${best} or more, or ${nameOf("temperature")} to draw samples`,
    ],
  ];
  for (const [holds, message] of rules) if (!holds) throw new LineageError("argument", message);
}

/** More beams than anybody has found useful; each takes its own cache. */
const mostBeams = 64;

/** A source, or a part of one, as the model reads it. */
interface Part {
  readonly ids: readonly number[];
  readonly cut: number;
  /** What stands between it and the next part. */
  readonly gap: string;
}

/**
 * Turns texts into texts with an encoder-decoder: translations, summaries, answers. Sources of like length are read and
 * written about together; results come in the order of the texts. A blank text becomes an empty one. Throws `argument` for
 * options that do not go together, `length` where the beginning leaves no room for a text.
 */
export async function transform(
  writer: TextWriter,
  texts: readonly string[],
  options: TransformOptions = {},
): Promise<Transformation[]> {
  checkTransform(options);
  const { decoder, tokenizer } = writer;
  const { prefix = "", long = "cut" } = options;
  const parts = texts.map((text) => partsOf(tokenizer, text, { prefix, long, most: decoder.sourceCapacity }));
  const works = parts.flatMap((all, index) => all.map((part, place) => ({ part, index, place })));
  const written: WrittenText[][][] = parts.map((all) => all.map(() => []));
  let done = 0;
  const open = parts.map((all) => all.length);
  await new Writers(writer, options).writeAll(
    works,
    ({ part: { ids } }) => ids,
    ({ index, place }, found) => {
      written[index]![place] = found;
      if (--open[index]! === 0) options.onProgress?.(++done, works.length === 0 ? 0 : texts.length);
    },
  );
  return parts.map((all, index) => joined(all, written[index]!));
}

/** How the parts of a text come to it, and what the model reads of each. */
function partsOf(
  tokenizer: Tokenizer,
  text: string,
  { prefix, long, most }: { readonly prefix: string; readonly long: string; readonly most: number },
): Part[] {
  if (text.trim() === "") return [];
  const read = (piece: string): Part => {
    const { ids, truncated } = tokenizer.encodePair(prefix + piece, undefined, { maxLength: most });
    return { ids, cut: truncated, gap: piece.slice(piece.trimEnd().length) };
  };
  const whole = read(text);
  if (whole.cut === 0 || long === "cut") return [whole];
  const parts: Part[] = [];
  let [held, part] = ["", undefined as Part | undefined];
  for (const { segment } of new Intl.Segmenter(undefined, { granularity: "sentence" }).segment(text)) {
    const longer = read(held + segment);
    if (part && longer.cut > 0) {
      parts.push(part);
      [held, part] = [segment, read(segment)];
    } else [held, part] = [held + segment, longer];
  }
  if (part) parts.push(part);
  return parts;
}

function joined(parts: readonly Part[], written: readonly (readonly WrittenText[])[]): Transformation {
  const counts = {
    sourceTokens: parts.reduce((sum, { ids }) => sum + ids.length, 0),
    cutTokens: parts.reduce((sum, { cut }) => sum + cut, 0),
    parts: parts.length,
  };
  if (written.length === 1) return { ...written[0]![0]!, texts: written[0]!, ...counts };
  const firsts = written.map(([first]) => first!);
  const whole: WrittenText = {
    text: firsts
      .map(({ text }, place) => text + (place < firsts.length - 1 ? parts[place]!.gap : ""))
      .join(""),
    newTokens: firsts.reduce((sum, { newTokens }) => sum + newTokens, 0),
    finish: firsts.every(({ finish }) => finish === "stop") ? "stop" : "length",
  };
  return { ...whole, texts: [whole], ...counts };
}

/** Writes about sources by what the options ask for. */
class Writers {
  private readonly queue: GenerationQueue;
  private readonly stopIds: readonly number[];
  private readonly maxNewTokens: number;

  constructor(
    private readonly writer: TextWriter,
    private readonly options: TransformOptions,
  ) {
    const { decoder, tokenizer, stopIds = endOfText(tokenizer) } = writer;
    this.queue = GenerationQueue.of(decoder);
    this.stopIds = stopIds;
    const room = decoder.capacity - (options.begin?.length ?? 1);
    this.maxNewTokens = Math.min(options.maxNewTokens ?? usualTokens, room);
    if (room < 1)
      throw new LineageError("length", `the beginning fills the context of ${decoder.capacity} tokens`);
  }

  /** The longest sources first: those of like length are read together, and long ones are not left for the end. */
  async writeAll<Work>(
    works: readonly Work[],
    idsOf: (work: Work) => readonly number[],
    done: (work: Work, found: WrittenText[]) => void,
  ): Promise<void> {
    const order = works.map((work, index) => ({ work, index, ids: idsOf(work) }));
    order.sort((a, b) => b.ids.length - a.ids.length || a.index - b.index);
    const started = order.map(({ work, index, ids }) => ({ work, ...this.start(ids, index) }));
    try {
      await Promise.all(
        started.map(async ({ work, writings, found }) => {
          await this.queue.follow(writings, [], this.options.signal).next();
          done(work, found());
        }),
      );
    } finally {
      for (const { writings } of started) for (const writing of writings) this.queue.cancel(writing);
    }
  }

  private start(
    source: readonly number[],
    index: number,
  ): { writings: (BeamSearch | Sequence)[]; found: () => WrittenText[] } {
    const { options } = this;
    const prompt = { source, begin: options.begin };
    if (drawsFrom(options)) {
      const samples = Array.from({ length: options.best ?? 1 }, (_, sample) =>
        this.sample(prompt, index, sample),
      );
      return {
        writings: samples.map(({ sequence }) => sequence),
        found: () => samples.map(({ ids, finish }) => this.text(ids, finish())),
      };
    }
    const { beams = 1, best = 1 } = options;
    const { maxNewTokens, stopIds } = this;
    const search = this.queue.search({
      ...options,
      prompt,
      maxNewTokens,
      stopIds,
      numBeams: beams,
      numReturned: best,
    });
    return {
      writings: [search],
      found: () =>
        search.found.map(({ ids, score }) => {
          const ends = stopIds.includes(ids.at(-1)!);
          return { ...this.text(ends ? ids.slice(0, -1) : ids, ends ? "stop" : "length"), score };
        }),
    };
  }

  private sample(prompt: SourcePrompt, index: number, sample: number) {
    const { options, maxNewTokens, stopIds } = this;
    const ids: number[] = [];
    let finish: WrittenText["finish"] = "length";
    const sequence = this.queue.submit({
      ...options,
      prompt,
      maxNewTokens,
      stopIds,
      random: new Random(options.seed ?? 0, index * (options.best ?? 1) + sample),
      emit: (event) => {
        if (event.id !== undefined) ids.push(event.id);
        if (event.finish === "stop") finish = "stop";
      },
    });
    return { sequence, ids, finish: () => finish };
  }

  private text(ids: readonly number[], finish: WrittenText["finish"]): WrittenText {
    const { target } = this.writer.tokenizer;
    // A model may have more embeddings than its tokenizer has tokens: such an id stands for no text, as in transformers.
    const known = ids.filter((id) => target.idToToken(id) !== undefined);
    return { text: target.decode(known), newTokens: ids.length, finish };
  }
}

const usualTokens = 200;
