import type { Warn } from "../base/warnings.js";
import type {
  DecoderSystem,
  EncoderDecoderSystem,
  EncoderSystem,
  HeadSystem,
  System,
} from "../models/index.js";
import type { EncoderWithHead, HeadName, Module, WeightSet, Weights } from "../nn/index.js";
import type { Tokenizer } from "../tokenizers/index.js";
import type { GenerationDefaults } from "./generation-config.js";

/**
 * A model of a system with what it needs, as loaders give it and `saveModel` takes it.
 *
 * @typeParam W how its weights are kept: they train, unless another set is named
 * @typeParam M its network: the system's own, unless it carries a head
 */
export interface Checkpoint<
  S extends System = System,
  W extends WeightSet = Weights,
  M extends Module = ReturnType<S["create"]>,
> {
  readonly system: S;
  readonly model: M;
  readonly weights: W;
  readonly tokenizer: Tokenizer;
  /**
   * Ids that end what the model writes, as it was trained; never the padding's unless it is one of them. Default: the
   * tokenizer's EOS.
   */
  readonly stopIds?: readonly number[] | undefined;
  /** How an encoder-decoder writes where a call says nothing. Default: as its system says, greedily. */
  readonly generation?: GenerationDefaults | undefined;
}

export type DecoderCheckpoint<W extends WeightSet = Weights> = Checkpoint<DecoderSystem, W>;
export type EncoderCheckpoint<W extends WeightSet = Weights> = Checkpoint<EncoderSystem, W>;
export type EncoderDecoderCheckpoint<W extends WeightSet = Weights> = Checkpoint<EncoderDecoderSystem, W>;

/** Checkpoints by their system's kind. */
export interface CheckpointOfKind<W extends WeightSet = Weights> {
  readonly decoder: DecoderCheckpoint<W>;
  readonly encoder: EncoderCheckpoint<W>;
  readonly "encoder-decoder": EncoderDecoderCheckpoint<W>;
}

/** An encoder or a decoder with a head of a task. */
export interface HeadCheckpoint<W extends WeightSet = Weights> extends Checkpoint<
  HeadSystem,
  W,
  EncoderWithHead
> {
  readonly head: HeadName;
  /** Names of the classes, where the checkpoint has names for them. */
  readonly labels: readonly string[] | undefined;
  /** Parameters that the files did not have, which begin at random. */
  readonly fresh: readonly string[];
  /** What is new, as a sentence for a person; undefined where nothing is. */
  readonly statement: string | undefined;
}

/** What every loader takes. */
export interface LoadOptions {
  /** Takes sentences about what a file says and lineage does not know. Default: Node's warnings. */
  readonly warn?: Warn;
  /** Systems besides the library's, which come first. */
  readonly systems?: readonly System[];
}
