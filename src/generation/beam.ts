import { LineageError } from "../base/errors.js";
import type { Decoder, Scores } from "./decoder.js";
import type { Prompt } from "./model.js";
import { GenerationQueue } from "./queue.js";
import { type RuleOptions, allowedAfter, countBanned, mayCome } from "./rules.js";
import { type SamplingOptions, penalize, penalizesNothing } from "./sampling.js";
import { type NextRun, Writing, type WritingRequest } from "./writing.js";

export interface BeamOptions
  extends
    RuleOptions,
    Pick<SamplingOptions, "repetitionPenalty" | "frequencyPenalty" | "presencePenalty" | "logitBias"> {
  /** Which of the model's adapters (`loadAdapters`) writes. Default: none, so the base alone. */
  readonly adapter?: string | undefined;
  /** Tokens to write at most. */
  readonly maxNewTokens: number;
  /** Texts that are followed side by side; at most the beams of the decoder's slots, which is the default. */
  readonly numBeams?: number | undefined;
  /** How many of the best texts are given, at most as many as beams. Default 1. */
  readonly numReturned?: number | undefined;
  /** Exponent of the length by which a finished text's log-probability is divided, Wu et al. 2016. Default 1. */
  readonly lengthPenalty?: number | undefined;
  /**
   * Whether to end as soon as there are as many finished texts as beams. Default false: go on while a text of the present
   * length could be better; `never`: while one of any length could be. One beam takes the likeliest token each time, and ends.
   */
  readonly earlyStopping?: boolean | "never" | undefined;
  readonly stopIds?: readonly number[] | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface BeamRequest extends WritingRequest, BeamOptions {}

/** A text that a beam search found. */
export interface Beam {
  /** With the stop id that ends it. */
  readonly ids: readonly number[];
  /** Sum of log-probabilities, divided by the length's power. */
  readonly score: number;
}

/**
 * Beam search over one prompt, in one slot of the decoder. The same texts as Hugging Face transformers, best first. Several
 * searches on one decoder share its steps; what a text gives does not depend on its company.
 */
export async function beamSearch(
  decoder: Decoder,
  prompt: Prompt,
  options: BeamOptions,
): Promise<readonly Beam[]> {
  const queue = GenerationQueue.of(decoder);
  const search = queue.search({ ...options, prompt });
  try {
    await queue.follow([search], [], options.signal).next();
    return search.found;
  } finally {
    queue.cancel(search);
  }
}

/** A text that is being followed, in one of the slot's beams. */
interface Running {
  readonly ids: readonly number[];
  /** Sum of log-probabilities. */
  readonly score: number;
  readonly beam: number;
}

interface Candidate {
  readonly from: Running;
  readonly token: number;
  readonly score: number;
}

/** A beam search on its way. */
export class BeamSearch extends Writing {
  private readonly numBeams: number;
  private running: readonly Running[] = [{ ids: [], score: 0, beam: 0 }];
  private finished: Beam[] = [];
  private parents: (number | undefined)[] | undefined;

  constructor(
    override readonly request: BeamRequest,
    private readonly decoder: Pick<Decoder, "beams" | "capacity" | "ranked" | "vocabSize" | "whole">,
  ) {
    super(request, decoder);
    const { maxNewTokens, numBeams = decoder.beams, numReturned = 1 } = request;
    this.numBeams = numBeams;
    const rules: [boolean, string][] = [
      [
        Number.isInteger(numBeams) && numBeams >= 1 && numBeams <= decoder.beams,
        `numBeams must be a whole number from 1 to the ${decoder.beams} beams of the decoder's slots, not ${numBeams}`,
      ],
      [
        Number.isInteger(numReturned) && numReturned >= 1 && numReturned <= numBeams,
        `numReturned must be a whole number from 1 to the ${numBeams} beams, not ${numReturned}`,
      ],
      [
        Number.isInteger(maxNewTokens) && maxNewTokens >= 0,
        `maxNewTokens must be a whole number of at least 0, not ${maxNewTokens}`,
      ],
    ];
    for (const [holds, message] of rules) if (!holds) throw new LineageError("argument", message);
    if (this.ids.length + maxNewTokens > decoder.capacity)
      throw new LineageError(
        "length",
        `${this.ids.length} prompt tokens and ${maxNewTokens} new ones do not fit the context of ${decoder.capacity}`,
      );
    if (maxNewTokens === 0) {
      this.finished = [{ ids: [], score: 0 }];
      this.ended = true;
    }
  }

  /** The best texts, once the search has ended. */
  get found(): readonly Beam[] {
    return this.finished.slice(0, this.request.numReturned ?? 1);
  }

  override get length(): number {
    return this.ids.length + this.running[0]!.ids.length - 1;
  }

  override next(): Promise<NextRun> {
    const tokens: (number | undefined)[] = Array.from({ length: this.numBeams }, () => undefined);
    for (const { ids, beam } of this.running) tokens[beam] = ids.at(-1) ?? this.ids.at(-1)!;
    const { parents } = this;
    this.parents = undefined;
    return Promise.resolve({ tokens, parents, ranked: this.ranksSuffice() });
  }

  private get candidates(): number {
    return Math.max(2, 1 + (this.request.stopIds?.length ?? 0)) * this.numBeams;
  }

  /** Whether the likeliest tokens alone are enough to go on by. */
  private ranksSuffice(): boolean {
    if (!penalizesNothing(this.request)) return false;
    const { ranked, vocabSize } = this.decoder;
    const most = Math.max(...this.running.map(({ ids }) => countBanned(this.allowedAfter(ids), vocabSize)));
    return this.candidates + most <= ranked;
  }

  private allowedAfter(ids: readonly number[]) {
    return allowedAfter(this.ids, ids, this.request, this.request);
  }

  override take(scores: readonly (Scores | undefined)[]): Promise<void> {
    const { maxNewTokens, lengthPenalty = 1, stopIds = [] } = this.request;
    const { numBeams } = this;
    const earlyStopping = numBeams === 1 || (this.request.earlyStopping ?? false);
    const length = this.running[0]!.ids.length + 1;
    const candidates = this.best(scores);
    const last = length === maxNewTokens;
    const ended = candidates.filter(
      ({ token }, rank) => rank < numBeams && (last || stopIds.includes(token)),
    );
    this.finished = [
      ...this.finished,
      ...ended.map(({ from, token, score }) => ({
        ids: [...from.ids, token],
        score: score / length ** lengthPenalty,
      })),
    ]
      .sort((a, b) => b.score - a.score)
      .slice(0, numBeams);
    const open = candidates.filter(({ token }) => !stopIds.includes(token)).slice(0, numBeams);
    const full = this.finished.length === numBeams;
    const best = open[0]?.score ?? -Infinity;
    const reach = earlyStopping === "never" && lengthPenalty > 0 ? maxNewTokens : length;
    const canImprove = !full || best / reach ** lengthPenalty > this.finished.at(-1)!.score;
    if (last || open.length === 0 || !canImprove || (earlyStopping === true && full)) this.ended = true;
    else this.goOn(open);
    return Promise.resolve();
  }

  /** Finds beams for the texts that go on: one of a text's continuations stays in its beam, where nothing is copied. */
  private goOn(open: readonly Candidate[]): void {
    const parents: (number | undefined)[] = Array.from({ length: this.numBeams }, () => undefined);
    const staying = new Map<Running, Candidate>();
    for (const candidate of open) if (!staying.has(candidate.from)) staying.set(candidate.from, candidate);
    const taken = new Set(Array.from(staying.keys(), ({ beam }) => beam));
    const free = Array.from({ length: this.numBeams }, (_, beam) => beam).filter((beam) => !taken.has(beam));
    this.running = open.map((candidate) => {
      const { from, token, score } = candidate;
      let { beam } = from;
      if (staying.get(from) !== candidate) {
        beam = free.shift()!;
        parents[beam] = from.beam;
      }
      return { ids: [...from.ids, token], score, beam };
    });
    this.parents = parents;
  }

  /** The continuations of any text with the highest scores, best first. */
  private best(scores: readonly (Scores | undefined)[]): Candidate[] {
    const count = this.candidates;
    const best: Candidate[] = [];
    const offer = (from: Running, token: number, score: number): boolean => {
      if (score === -Infinity || (best.length === count && score <= best.at(-1)!.score)) return false;
      let place = best.length;
      while (place > 0 && best[place - 1]!.score < score) place--;
      best.splice(place, 0, { from, token, score });
      if (best.length > count) best.pop();
      return true;
    };
    for (const from of this.running) {
      const allowed = this.allowedAfter(from.ids);
      const told = scores[from.beam]!;
      if (allowed.forced) for (const token of allowed.forced) offer(from, token, from.score);
      else if (told instanceof Float32Array) {
        const logProbabilities = logSoftmax(told);
        penalize(logProbabilities, this.ids, from.ids, this.request);
        logProbabilities.forEach((score, token) => {
          if (mayCome(allowed, token)) offer(from, token, from.score + score);
        });
      } else
        for (const [rank, token] of told.ids.entries())
          if (mayCome(allowed, token) && !offer(from, token, from.score + told.scores[rank]!)) break;
    }
    return best;
  }
}

function logSoftmax(logits: Float32Array): Float32Array {
  const peak = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const normalizer = peak + Math.log(logits.reduce((sum, value) => sum + Math.exp(value - peak), 0));
  return logits.map((value) => value - normalizer);
}
