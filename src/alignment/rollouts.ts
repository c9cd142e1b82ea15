import { elementCount } from "../base/dtype.js";
import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
import { Decoder, type SamplingOptions, generate } from "../generation/index.js";
import { EncoderDecoder, type WeightSet, scaledContext } from "../nn/index.js";
import type { Completion, Writer } from "../objectives/index.js";
import type { Tokenizer } from "../tokenizers/index.js";

/** What a model wrote after a prompt. */
export interface Rollout extends Completion {
  /** Which of the prompts. */
  readonly index: number;
  /** Whether it ended by itself; the token that ended it is then the last of its completion. */
  readonly finished: boolean;
}

export interface RolloutOptions {
  readonly model: Writer;
  /** As they are at each writing. */
  readonly weights: WeightSet;
  /** Ids that end a completion. */
  readonly stopIds: readonly number[];
  /** Tokens of a completion at most. */
  readonly maxNewTokens: number;
  /** The tokenizer's number of ids, where the model's embeddings may be padded beyond them. Default: all are drawn. */
  readonly vocabSize?: number | undefined;
  /** Tokens of the longest prompt. */
  readonly longestPrompt: number;
  /** Completions that are written side by side. Default 64 where their cache stays below a gigabyte, else 32. */
  readonly slots?: number | undefined;
}

const gigabyte = 1e9;

/** More texts share each reading of the weights. What is free at the moment must not count: runs repeat exactly. */
function usualSlots(model: Writer, capacity: number): number {
  if (model instanceof EncoderDecoder) return 32;
  const { numLayers } = model.config;
  const bytes = 64 * 2 * numLayers * elementCount(model.cacheShape(1, capacity) as number[]) * 4;
  return bytes < gigabyte ? 64 : 32;
}

/** Writes completions of prompts with a model that goes on learning. */
export class RolloutWriter implements Disposable {
  private constructor(
    private readonly decoder: Decoder,
    private readonly options: RolloutOptions,
  ) {}

  /** Throws `length` where the longest prompt leaves no room for a completion. */
  static async create(options: RolloutOptions): Promise<RolloutWriter> {
    const { model, weights, maxNewTokens, longestPrompt } = options;
    const contextLength = scaledContext(model.config);
    const reads = model instanceof EncoderDecoder;
    const needed = (reads ? 1 : longestPrompt) + maxNewTokens;
    if (needed > contextLength || longestPrompt > contextLength)
      throw new LineageError(
        "length",
        `a prompt of ${longestPrompt} tokens and a completion of ${maxNewTokens} do not fit the model's context of ${contextLength}; leave out long prompts or allow fewer new tokens`,
      );
    const capacity = Math.min(contextLength, needed + 1);
    const { slots = usualSlots(model, capacity) } = options;
    return new RolloutWriter(await Decoder.create({ model, weights, slots, capacity }), options);
  }

  /**
   * Completions in the order of the prompts. Each draws from a seed of its own, so that it is the same whatever is written
   * beside it.
   */
  async write(
    prompts: readonly (readonly number[])[],
    {
      seed,
      signal,
      ...sampling
    }: SamplingOptions & { readonly seed: number; readonly signal?: AbortSignal | undefined },
  ): Promise<Rollout[]> {
    const { model, stopIds, maxNewTokens, vocabSize } = this.options;
    // What slots hold of earlier texts was computed with the weights of then.
    this.decoder.forget();
    const random = new Random(seed);
    const completions: number[][] = prompts.map(() => []);
    const finished = prompts.map(() => false);
    const reads = model instanceof EncoderDecoder;
    for await (const { row, id, finish, stopId } of generate(
      this.decoder,
      reads ? prompts.map((source) => ({ source })) : prompts,
      {
        ...sampling,
        maxNewTokens,
        stopIds,
        vocabSize,
        signal,
        seeds: prompts.map((_, row) => random.fork(row).nextUint32()),
      },
    )) {
      if (id !== undefined) completions[row]!.push(id);
      if (finish !== "stop") continue;
      finished[row] = true;
      completions[row]!.push(stopId!);
    }
    return prompts.map((prompt, index) => ({
      prompt,
      completion: completions[index]!,
      index,
      finished: finished[index]!,
    }));
  }

  dispose(): void {
    this.decoder.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** What a reward is asked about. */
export interface Sample extends Rollout {
  /** The completion as text, without the token that ended it. */
  readonly text: string;
  /** The prompt as text. */
  readonly promptText: string;
}

/** Rewards of samples, in their order. */
export type RewardFunction = (samples: readonly Sample[]) => readonly number[] | Promise<readonly number[]>;

/** Texts of rollouts. */
export function samplesOf(rollouts: readonly Rollout[], tokenizer: Tokenizer): Sample[] {
  return rollouts.map((rollout) => {
    const { prompt, completion, finished } = rollout;
    return {
      ...rollout,
      promptText: tokenizer.decode(prompt),
      text: tokenizer.decode(finished ? completion.slice(0, -1) : completion),
    };
  });
}

/** Rewards of samples, each a number. Throws `data` with the text of the first that is none. */
export async function rewardsOf(reward: RewardFunction, samples: readonly Sample[]): Promise<number[]> {
  let rewards: readonly number[];
  try {
    rewards = [...(await reward(samples))];
  } catch (error) {
    if (error instanceof LineageError || (error instanceof Error && error.name === "AbortError")) throw error;
    throw new LineageError(
      "data",
      `the reward failed: ${error instanceof Error ? error.message : String(error)}`,
      {
        cause: error,
      },
    );
  }
  if (rewards.length !== samples.length)
    throw new LineageError(
      "data",
      `the reward gave ${rewards.length} numbers for ${samples.length} completions; it gives one for each, in their order`,
    );
  const wrong = rewards.findIndex((value) => typeof value !== "number" || !Number.isFinite(value));
  if (wrong >= 0) {
    const { promptText, text } = samples[wrong]!;
    throw new LineageError(
      "data",
      `the reward of ${JSON.stringify(text.slice(0, 200))} after ${JSON.stringify(promptText.slice(-200))} is ${rewards[wrong]}. ` +
        `A reward is a finite number: a rule may have divided by a length of 0 or parsed no number, or a reward model's weights hold NaN`,
    );
  }
  return [...rewards];
}
