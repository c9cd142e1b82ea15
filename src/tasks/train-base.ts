import { LineageError } from "../base/errors.js";
import { type DecoderCheckpoint, loadModel, saveModel, widenDecoder } from "../checkpoints/index.js";
import { type Adapter, type Weights, scaledContext } from "../nn/index.js";
import { type DenoiserMixture, denoisingTokens, isCausal } from "../objectives/index.js";
import type { Runtime } from "../runtime/types.js";
import { type Tokenizer, endOfText, withTokens } from "../tokenizers/index.js";
import { smallSizes } from "./run.js";
import { openAdapted } from "./train-adapter.js";
import { type TrainOptions, adapterOf } from "./train-options.js";

/** A finished model that is to be trained further. Its weights are disposed with it. */
export interface OpenedBase extends Omit<DecoderCheckpoint, "weights">, Disposable {
  /** An adapter that learns beside frozen weights. Default: all weights learn. */
  readonly adapter?: Adapter;
  /** What learns: of an adapter its own, over the base's as constants. */
  readonly weights: Weights;
  /** Tokens of a row. */
  readonly sequenceLength: number;
  /** Writes the model, or the adapter as peft does. */
  readonly save: (kept: Weights) => Promise<void>;
}

/** What the data and the objective of a run ask of its tokenizer. */
export interface Asked {
  readonly mixture: DenoiserMixture;
  /** Tokens that mark documents. */
  readonly markers: readonly string[];
}

/** A tokenizer with the tokens that a run needs, and the mode before prompts where its objective has one. */
export function tokenizerFor(
  tokenizer: Tokenizer,
  { mixture, markers }: Asked,
  sequenceLength: number,
): Tokenizer {
  const wanted = [...markers, ...denoisingTokens(mixture, sequenceLength + 1)];
  const ends = mixture.some(({ denoiser: { kind } }) => kind === "spans");
  if (ends && tokenizer.endOfTextId === undefined) wanted.push(endOfText);
  const [prompt] = mixture.flatMap(({ denoiser }) =>
    denoiser.kind === "prefix" && denoiser.mode !== undefined ? [denoiser.mode] : [],
  );
  return wanted.length === 0 ? tokenizer : withTokens(tokenizer, wanted, { prompt });
}

/**
 * Loads the base of a run, and puts a new adapter beside it where one is to be trained; else gives it the tokens that the run
 * needs. Throws `argument` for options of a model from nothing.
 */
export async function openBase(
  runtime: Runtime,
  place: string,
  out: string,
  options: TrainOptions,
  asked: Asked,
): Promise<OpenedBase> {
  const { contextLength: rowLength = smallSizes.contextLength, ...others } = options.sizes;
  const [size] = Object.keys(others);
  if (size !== undefined)
    throw new LineageError("argument", `${size} is a size of a model from nothing; ${place} has its own`);
  if (options.tokenizer !== "bpe")
    throw new LineageError("argument", `${place} has its own tokenizer; leave --tokenizer out`);
  const adapter = adapterOf(options);
  if (adapter === "none") return openWhole(runtime, place, out, options, asked, Number(rowLength));
  const base = await openAdapted(runtime, place, out, { ...options, adapter }, Number(rowLength));
  const unknown = asked.markers.find((marker) => base.tokenizer.tokenToId(marker) === undefined);
  if (unknown === undefined && (isCausal(asked.mixture) || base.model.config.prefixLm)) return base;
  base[Symbol.dispose]();
  throw new LineageError(
    "argument",
    `an adapter leaves ${place} as it is, ${unknown === undefined ? "which reads prompts from left to right" : `which has no token ${unknown}`}; train all of it with --adapter none`,
  );
}

async function openWhole(
  runtime: Runtime,
  place: string,
  out: string,
  { seed }: TrainOptions,
  asked: Asked,
  rowLength: number,
): Promise<OpenedBase> {
  const loaded = await loadModel(runtime, place, { kind: "decoder" });
  try {
    const { config } = loaded.model;
    const sequenceLength = Math.min(rowLength, scaledContext(config));
    const tokenizer = tokenizerFor(loaded.tokenizer, asked, sequenceLength);
    const base = await widenDecoder(loaded, {
      tokenizer,
      prefixLm: config.prefixLm === true || !isCausal(asked.mixture),
      seed,
    });
    const save = (kept: Weights) => saveModel(out, { ...base, weights: kept });
    const dispose = () => {
      base.weights.dispose();
    };
    return { ...base, sequenceLength, save, [Symbol.dispose]: dispose };
  } finally {
    loaded.weights.dispose();
  }
}
