import { LineageError } from "../base/errors.js";
import { type InferenceCheckpoint, loadForInference, saveAdapter } from "../checkpoints/index.js";
import { type LoraAdapter, type LoraTargets, Weights, addLora } from "../nn/index.js";
import type { Runtime } from "../runtime/types.js";
import { smallSizes } from "./run.js";
import type { TrainOptions } from "./train-options.js";

/** A base with an adapter that is to be trained beside its frozen weights, which are disposed with it. */
export interface AdaptedBase extends Omit<InferenceCheckpoint, "weights">, Disposable {
  readonly adapter: LoraAdapter;
  /** The adapter's, over the base's as constants. */
  readonly weights: Weights;
  /** Tokens of a row. */
  readonly sequenceLength: number;
  /** Writes the adapter as peft does. */
  readonly save: (kept: Weights) => Promise<void>;
}

/** Names between commas, `all-linear`, or a regular expression between slashes. */
function targetsOf(text: string): LoraTargets {
  if (text === "all-linear") return text;
  const source = /^\/(.+)\/$/.exec(text)?.[1];
  if (source === undefined) return text.split(",").map((name) => name.trim());
  try {
    return new RegExp(source);
  } catch (error) {
    throw new LineageError("argument", `the targets ${text} are no regular expression`, { cause: error });
  }
}

/** Loads the base of a run and puts a new adapter beside it. Throws `argument` for options of a model from nothing. */
export async function openBase(
  runtime: Runtime,
  place: string,
  out: string,
  options: TrainOptions,
): Promise<AdaptedBase> {
  const { contextLength: asked, ...others } = options.sizes;
  const [size] = Object.keys(others);
  if (size !== undefined)
    throw new LineageError("argument", `${size} is a size of a model from nothing; ${place} has its own`);
  if (options.tokenizer !== "bpe")
    throw new LineageError("argument", `${place} has its own tokenizer; leave --tokenizer out`);
  const { weights: frozen, ...base } = await loadForInference(runtime, place, {
    quantize: options.adapter === "qlora" ? { bits: "nf4" } : undefined,
  });
  const { model } = base;
  try {
    const adapter = addLora(model, {
      rank: options.rank,
      alpha: options.alpha,
      rankStabilized: options.rsLora,
      dropout: options.loraDropout,
      targets: targetsOf(options.loraTargets),
    });
    const weights = Weights.partlyFrozen(model, frozen, options.seed);
    const sequenceLength = Math.min(Number(asked ?? smallSizes.contextLength), model.config.contextLength);
    const save = (kept: Weights) => saveAdapter(out, { model, adapter, weights: kept, base: place });
    const dispose = () => {
      frozen.dispose();
    };
    return { ...base, adapter, weights, sequenceLength, save, [Symbol.dispose]: dispose };
  } catch (error) {
    frozen.dispose();
    throw error;
  }
}
