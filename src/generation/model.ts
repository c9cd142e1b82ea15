import type { Dim, Tensor } from "../graph/index.js";
import type { EncoderDecoder, ForwardContext, LayerType, Module, RotaryScaling } from "../nn/index.js";

/** A model that continues sequences with the help of a cache. */
export interface CausalModel extends Module {
  readonly config: {
    readonly vocabSize: number;
    readonly contextLength: number;
    readonly numLayers: number;
    /** Channels of a head, where the cache may have more. */
    readonly headSize?: number | undefined;
    /** Keys that a query looks back on, itself included; undefined for all. */
    readonly slidingWindow?: number | undefined;
    /** Which layers have the window, by transformers' words for them. Default: all. */
    readonly layerTypes?: readonly LayerType[] | undefined;
    /** How positions reach beyond `contextLength`. */
    readonly ropeScaling?: RotaryScaling | undefined;
    /** Whether it reads prompts both ways. Default: from left to right. */
    readonly prefixLm?: boolean | undefined;
  };
  hiddenStates(inputIds: Tensor, positionIds: Tensor, context: ForwardContext): Tensor;
  logits(hiddenStates: Tensor): Tensor;
  cacheShape(batch: Dim, capacity: Dim): Dim[];
}

/** A model that writes: it continues texts, or writes texts about sources. */
export type GenerativeModel = CausalModel | EncoderDecoder;

/** What a text that an encoder-decoder writes is about. */
export interface SourcePrompt {
  readonly source: readonly number[];
  /** The ids that the text begins with. Default: the model's start token. */
  readonly begin?: readonly number[] | undefined;
}

/** What a text continues: the ids so far, or with an encoder-decoder a source and the beginning of the text about it. */
export type Prompt = readonly number[] | SourcePrompt;

export const isSourcePrompt = (prompt: Prompt): prompt is SourcePrompt => !Array.isArray(prompt);
