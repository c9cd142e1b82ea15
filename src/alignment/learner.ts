import { LineageError } from "../base/errors.js";
import { writeGenerationConfig } from "../checkpoints/generation-config.js";
import { kindIn, loadForInference, loadModel, saveAdapter, saveModel } from "../checkpoints/index.js";
import { writeTokenizer } from "../formats/index.js";
import { endOfText } from "../generation/index.js";
import type { DecoderSystem, EncoderDecoderSystem } from "../models/index.js";
import {
  type LoraAdapter,
  type Module,
  type WeightSet,
  Weights,
  addLora,
  parseLoraTargets,
} from "../nn/index.js";
import type { Writer } from "../objectives/index.js";
import type { Runtime } from "../runtime/types.js";
import type { Tokenizer } from "../tokenizers/index.js";
import { CompletionReader } from "./forward.js";
import type { PreferenceOptions } from "./options.js";

/** A model that is to be aligned: all of it learns, or an adapter beside it. */
export interface Learner extends Disposable {
  readonly system: DecoderSystem | EncoderDecoderSystem;
  readonly model: Writer;
  /** As its files have them. Where an adapter learns, they are frozen. */
  readonly base: WeightSet;
  readonly adapter: LoraAdapter | undefined;
  readonly tokenizer: Tokenizer;
  readonly stopIds: readonly number[];
  /** Log-probabilities under the model as its files have it, for as long as nothing has been learned; with an adapter for ever. */
  readonly reference: CompletionReader;
  /** The weights that learn, of the model or of a network that holds it. */
  learning(network: Module, seed: number): Weights;
  /** Writes what was learned: the model, or the adapter as peft does. */
  save(out: string, kept: Weights): Promise<void>;
}

type LearnerOptions = Pick<
  PreferenceOptions,
  "model" | "adapter" | "rank" | "alpha" | "rsLora" | "loraTargets"
>;

/** Opens a model that writes, and puts a new adapter beside it where one is asked for. */
export async function openLearner(runtime: Runtime, options: LearnerOptions): Promise<Learner> {
  const { model: place, adapter: kind } = options;
  const found = await kindIn(place);
  if (found === "encoder")
    throw new LineageError(
      "argument",
      `${place} is an encoder, which writes nothing; align a decoder or an encoder-decoder (an encoder can be a reward model: lineage align reward)`,
    );
  const whole = kind === "none";
  const loaded = whole
    ? await loadModel(runtime, place, { kind: found })
    : await loadForInference(runtime, place, {
        kind: found,
        quantize: kind === "qlora" ? { bits: "nf4" } : undefined,
      });
  const { system, tokenizer, weights: base } = loaded;
  const model = loaded.model as Writer;
  const dispose = () => {
    base.dispose();
  };
  try {
    const reference = await CompletionReader.logProbs(model, base);
    const adapter = whole
      ? undefined
      : addLora(model, {
          rank: options.rank,
          alpha: options.alpha,
          rankStabilized: options.rsLora,
          targets: parseLoraTargets(options.loraTargets),
        });
    const { stopIds = endOfText(tokenizer) } = loaded;
    const checkpoint = { ...loaded, system, stopIds } as Parameters<typeof saveModel>[1];
    return {
      system,
      model,
      base,
      adapter,
      tokenizer,
      stopIds,
      reference,
      learning: (network, seed) =>
        adapter
          ? Weights.partlyFrozen(network, base, seed)
          : network === model
            ? (base as Weights)
            : Weights.initialize(runtime, network, seed),
      save: async (out, kept) => {
        if (!adapter) {
          await saveModel(out, { ...checkpoint, model: model as typeof checkpoint.model, weights: kept });
          return;
        }
        await writeTokenizer(tokenizer, out);
        if (system.kind === "decoder") await writeGenerationConfig(out, tokenizer, { stopIds });
        await saveAdapter(out, { model, adapter, weights: kept, base: place });
      },
      [Symbol.dispose]: () => {
        reference.dispose();
        dispose();
      },
    };
  } catch (error) {
    dispose();
    throw error;
  }
}
