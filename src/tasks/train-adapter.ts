import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
import {
  type InferenceCheckpoint,
  embeddingsOf,
  loadForInference,
  saveAdapter,
} from "../checkpoints/index.js";
import { Decoder } from "../generation/index.js";
import {
  type Adapter,
  type CausalLm,
  Weights,
  addLora,
  addSoftPrompt,
  checkVirtualTokens,
  parseLoraTargets,
  scaledContext,
} from "../nn/index.js";
import type { ModelWeights } from "../quantization/index.js";
import type { Runtime } from "../runtime/types.js";
import type { TrainOptions } from "./train-options.js";

/** A base with an adapter that is to be trained beside its frozen weights, which are disposed with it. */
export interface Adapted extends Omit<InferenceCheckpoint, "weights">, Disposable {
  readonly adapter: Adapter;
  /** The adapter's, over the base's as constants. */
  readonly weights: Weights;
  /** Tokens of a text that the context has room for. */
  readonly room: number;
}

/** The same for a run on text. */
export interface AdaptedBase extends Adapted {
  /** Tokens of a row. */
  readonly sequenceLength: number;
  /** Writes the adapter as peft does. */
  readonly save: (kept: Weights) => Promise<void>;
}

/** What decides an adapter. */
export type AdapterChoice = Pick<
  TrainOptions,
  "rank" | "alpha" | "rsLora" | "loraDropout" | "loraTargets" | "virtualTokens" | "promptInit" | "seed"
> &
  Partial<Pick<TrainOptions, "doubleQuantization">> & {
    readonly adapter: Exclude<NonNullable<TrainOptions["adapter"]>, "none">;
  };

/** Puts a new adapter beside a model's layers, or before its texts. */
function addAdapter(model: CausalLm, options: AdapterChoice): Adapter {
  const { adapter: kind, virtualTokens: tokens } = options;
  if (kind === "prompt" || kind === "prefix") return addSoftPrompt(model, { kind, tokens });
  return addLora(model, {
    rank: options.rank,
    alpha: options.alpha,
    rankStabilized: options.rsLora,
    dropout: options.loraDropout,
    targets: parseLoraTargets(options.loraTargets),
  });
}

/**
 * What a soft prompt begins as, Lester et al. 2021, section 2.1.1: a text, repeated until it is long enough, or tokens of the
 * vocabulary at random. A prompt takes their embeddings; a prefix takes the keys and values that the base has of them, which
 * Li & Liang 2021, section 7.4, found best. Undefined for an adapter of matrices.
 */
async function firstPrompt(
  { model, tokenizer }: Omit<InferenceCheckpoint, "weights">,
  frozen: ModelWeights,
  { adapter: kind, virtualTokens: tokens, promptInit: text, seed }: AdapterChoice,
): Promise<Float32Array | undefined> {
  if (kind !== "prompt" && kind !== "prefix") {
    if (text !== undefined)
      throw new LineageError("argument", `a ${kind} adapter does not begin as a text; leave the text out`);
    return undefined;
  }
  checkVirtualTokens(tokens, scaledContext(model.config));
  const given = text === undefined ? [] : tokenizer.encode(text);
  if (text !== undefined && given.length === 0)
    throw new LineageError("argument", "the text that a soft prompt begins as has no tokens");
  const random = new Random(seed).fork("soft prompt");
  const ids = Array.from({ length: tokens }, (_, index) =>
    given.length > 0 ? given[index % given.length]! : random.integer(tokenizer.vocabSize),
  );
  if (kind === "prompt") return embeddingsOf({ model, weights: frozen }, ids);
  using decoder = await Decoder.create({ model, weights: frozen, capacity: Math.max(2, tokens) });
  return await decoder.prefixOf(ids);
}

/**
 * Loads the base of a run and puts a new adapter beside it.
 * @param rowLength tokens of a row at most
 */
export async function openAdapted(
  runtime: Runtime,
  place: string,
  out: string,
  options: AdapterChoice,
  rowLength: number,
): Promise<AdaptedBase> {
  const base = await loadAdapted(runtime, place, options);
  const { model, adapter } = base;
  const sequenceLength = Math.min(rowLength, base.room);
  const save = (kept: Weights) => saveAdapter(out, { model, adapter, weights: kept, base: place });
  return { ...base, sequenceLength, save };
}

/** Loads a decoder and puts a new adapter beside it, which alone learns. */
export async function loadAdapted(runtime: Runtime, place: string, options: AdapterChoice): Promise<Adapted> {
  const { weights: frozen, ...base } = await loadForInference(runtime, place, {
    quantize: options.adapter === "qlora" ? { bits: "nf4", double: options.doubleQuantization } : undefined,
  });
  const { model } = base;
  try {
    const first = await firstPrompt(base, frozen, options);
    const adapter = addAdapter(model, options);
    const weights = Weights.partlyFrozen(model, frozen, options.seed);
    for (const name of adapter.parameters.keys()) if (first) weights.get(name).write(first);
    const room = scaledContext(model.config) - (adapter.kind === "lora" ? 0 : adapter.prompt.tokens);
    const dispose = () => {
      frozen.dispose();
    };
    return { ...base, adapter, weights, room, [Symbol.dispose]: dispose };
  } catch (error) {
    frozen.dispose();
    throw error;
  }
}
