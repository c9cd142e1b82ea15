import type { Warn } from "../base/warnings.js";
import type { DecoderSystem, System } from "../models/index.js";
import type { CausalLm, WeightSet, Weights } from "../nn/index.js";
import type { Tokenizer } from "../tokenizers/index.js";

/** A model with what it needs; its weights train unless another kind of set is named. */
export interface LoadedModel<W extends WeightSet = Weights> {
  readonly system: DecoderSystem;
  readonly model: CausalLm;
  readonly weights: W;
  readonly tokenizer: Tokenizer;
  /** Ids that end what the model writes, as it was trained; never the padding's unless it is one of them. Default: the tokenizer's EOS. */
  readonly stopIds?: readonly number[] | undefined;
}

/** What every loader takes. */
export interface LoadOptions {
  /** Takes sentences about what a file says and lineage does not know. Default: Node's warnings. */
  readonly warn?: Warn;
  /** Systems besides the library's, which come first. */
  readonly systems?: readonly System[];
}
