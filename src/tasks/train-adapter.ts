import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
import {
  type HeadCheckpoint,
  type InferenceCheckpoint,
  type InferenceEncoderDecoder,
  type TaskOptions,
  embeddingsOf,
  loadForInference,
  loadTaskForInference,
  saveAdapter,
  withRowNorms,
} from "../checkpoints/index.js";
import { Decoder } from "../generation/index.js";
import {
  type Adapter,
  type CausalLm,
  type HeadName,
  type LoraAdapter,
  type Module,
  Weights,
  addLora,
  addSoftPrompt,
  checkVirtualTokens,
  parseLoraTargets,
  scaledContext,
  wholeNames,
} from "../nn/index.js";
import type { ModelWeights } from "../quantization/index.js";
import type { Runtime } from "../runtime/types.js";
import type { FinetuneOptions } from "./finetune-options.js";
import type { FinetuneTextOptions } from "./text-options.js";
import { rowTokenizer } from "./row-tokens.js";
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

/** What decides an adapter of matrices. */
export type LoraChoice = Pick<
  TrainOptions,
  "rank" | "alpha" | "rsLora" | "dora" | "loraDropout" | "loraTargets" | "seed"
>;

/** What decides an adapter. */
export type AdapterChoice = Pick<TrainOptions, keyof LoraChoice | "virtualTokens" | "promptInit"> &
  Partial<Pick<TrainOptions, "doubleQuantization">> & {
    readonly adapter: Exclude<NonNullable<TrainOptions["adapter"]>, "none">;
  };

/** Puts a new adapter beside a model's layers, or before its texts. */
function addAdapter(model: CausalLm, options: AdapterChoice): Adapter {
  const { adapter: kind, virtualTokens: tokens } = options;
  if (kind === "prompt" || kind === "prefix") {
    if (options.dora) throw new LineageError("argument", `a ${kind} adapter has no matrices; leave DoRA out`);
    return addSoftPrompt(model, { kind, tokens });
  }
  return addMatrices(model, options);
}

/** @param whole modules that learn whole beside the matrices */
const addMatrices = (model: Module, options: LoraChoice, whole: readonly string[] = []): LoraAdapter =>
  addLora(model, {
    rank: options.rank,
    alpha: options.alpha,
    rankStabilized: options.rsLora,
    dropout: options.loraDropout,
    dora: options.dora,
    targets: parseLoraTargets(options.loraTargets),
    whole,
  });

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
  const loaded = await loadForInference(runtime, place, {
    quantize: options.adapter === "qlora" ? { bits: "nf4", double: options.doubleQuantization } : undefined,
  });
  const { model } = loaded;
  const { weights: own, ...base } = loaded;
  let frozen = own;
  try {
    const first = await firstPrompt(base, frozen, options);
    const adapter = addAdapter(model, options);
    frozen = withRowNorms(adapter, frozen);
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

/** A base whose weights are frozen, with an adapter of matrices that learns beside them. */
type Beside<T extends { readonly weights: unknown }> = Omit<T, "weights"> & {
  readonly adapter: LoraAdapter;
  /** The adapter's, over the base's as constants. */
  readonly weights: Weights;
} & Disposable;

/** Puts a new adapter beside a loaded base, whose weights are then disposed with the result. */
function beside<T extends { readonly model: Module; readonly weights: ModelWeights }>(
  loaded: T,
  options: LoraChoice,
  learnsWhole: Iterable<string> = [],
): Beside<T> {
  const { model } = loaded;
  let frozen = loaded.weights;
  try {
    const adapter = addMatrices(model, options, wholeNames(model, learnsWhole));
    frozen = withRowNorms(adapter, frozen);
    const weights = Weights.partlyFrozen(model, frozen, options.seed);
    const dispose = () => {
      weights.dispose();
      frozen.dispose();
    };
    return { ...loaded, adapter, weights, [Symbol.dispose]: dispose };
  } catch (error) {
    frozen.dispose();
    throw error;
  }
}

/** How a base is quantised under an adapter. */
const underAdapter = ({ adapter }: Pick<FinetuneOptions, "adapter">) =>
  adapter === "qlora" ? ({ bits: "nf4" } as const) : undefined;

/** Loads an encoder or a decoder with a task's head, which learns whole, and puts a new adapter beside the rest. */
export async function loadAdaptedTask(
  runtime: Runtime,
  options: FinetuneOptions,
  head: HeadName,
  task: Pick<TaskOptions, "numLabels" | "language">,
): Promise<Beside<HeadCheckpoint<ModelWeights>>> {
  const { headParameters, ...loaded } = await loadTaskForInference(runtime, options.model, head, {
    ...task,
    newHead: options.newHead ? "always" : "if missing",
    seed: options.seed,
    quantize: underAdapter(options),
    tokenizer: (own, system) => {
      const tokenizer = rowTokenizer(own, system);
      if (tokenizer.vocabSize > own.vocabSize)
        throw new LineageError(
          "unsupported",
          `${system.title} learns embeddings of new tokens for a task, which an adapter does not hold; leave --adapter out`,
        );
      return tokenizer;
    },
  });
  return beside(loaded, options, headParameters);
}

/** Loads an encoder-decoder and puts a new adapter beside it. */
export const loadAdaptedPairs = async (
  runtime: Runtime,
  options: LoraChoice & { readonly model: string; readonly adapter: FinetuneTextOptions["adapter"] },
): Promise<Beside<InferenceEncoderDecoder>> =>
  beside(
    await loadForInference(runtime, options.model, {
      kind: "encoder-decoder",
      quantize: underAdapter(options),
    }),
    options,
  );
