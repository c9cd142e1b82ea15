import {
  type CrossEntropyOptions,
  type Dim,
  type Tensor,
  cachedHeadSize,
  linearTokenLosses,
  matmul,
} from "../graph/index.js";
import type { ForwardContext } from "./context.js";
import type { EncoderInputs } from "./encoder.js";
import { Module } from "./module.js";

/** What is common to the configurations of encoder-decoders. */
export interface EncoderDecoderConfig {
  readonly vocabSize: number;
  /** Positions that the model was made for, of either text. */
  readonly contextLength: number;
  readonly hiddenSize: number;
  /** Layers of the encoder. */
  readonly numLayers: number;
  readonly numHeads: number;
  readonly numDecoderLayers: number;
  readonly padTokenId: number;
  /** What the decoder reads before a text. */
  readonly decoderStartTokenId: number;
}

/** Keys and values of one layer, `[batch, numHeads, sequence, headSize]` each. */
export interface KeysAndValues {
  readonly key: Tensor;
  readonly value: Tensor;
}

/** What the decoder is told besides the text so far. */
export interface DecoderInputs {
  /**
   * The encoder's states, `[sources, sourceSequence, hiddenSize]`; or what `remember` has made of them. There are as many
   * texts, or the same number for each source, one after the other.
   */
  readonly memory: Tensor | readonly KeysAndValues[];
  /** Bool `[sources, sourceSequence]`: true for a real token of the source. Default: all are. */
  readonly memoryMask?: Tensor | undefined;
}

/** A network that reads one sequence and writes another, with its language-modelling head. */
export abstract class EncoderDecoder extends Module {
  abstract readonly config: EncoderDecoderConfig;

  /** The states of the text that is read, `[batch, sourceSequence, hiddenSize]`. */
  abstract encode(inputs: EncoderInputs, context?: ForwardContext): Tensor;

  /** What each layer of the decoder looks at in a source whose states are `memory`: computed once for all steps of a text. */
  abstract remember(memory: Tensor): readonly KeysAndValues[];

  /** The decoder's attention: its heads, and the channels of each. */
  protected abstract get decoderHeads(): { readonly count: number; readonly size: number };

  /** Shape of one layer's cache of keys or values of the text that is written. */
  cacheShape(batch: Dim, capacity: Dim): Dim[] {
    const { count, size } = this.decoderHeads;
    return [batch, count, capacity, cachedHeadSize(size)];
  }

  /** Shape of one layer's keys or values of sources, as `remember` gives them. */
  memoryShape(sources: Dim, sourceSequence: Dim): Dim[] {
    const { count, size } = this.decoderHeads;
    return [sources, count, sourceSequence, size];
  }

  /**
   * The last normalised states of the text that is written, `[batch, sequence, hiddenSize]`. With a cache in the context the
   * text goes on where the cache ends, and `context.positionIds` says where that is.
   */
  abstract hiddenStates(inputIds: Tensor, inputs: DecoderInputs, context?: ForwardContext): Tensor;

  /** The states that the output embeddings are multiplied by. Default: the hidden states. */
  protected scaled(hiddenStates: Tensor): Tensor {
    return hiddenStates;
  }

  /** `[vocabSize, hiddenSize]`. */
  protected abstract get outputEmbeddings(): Tensor;
  /** Added to the logits, `[vocabSize]`; none by default. */
  protected get outputBias(): Tensor | undefined {
    return undefined;
  }

  /**
   * Logits `[batch, sequence, vocabSize]`.
   * @param decoderInputIds `[batch, sequence]`: the start token, then the text that is written
   */
  override forward(inputs: EncoderInputs, decoderInputIds: Tensor, context: ForwardContext = {}): Tensor {
    return this.logits(this.states(inputs, decoderInputIds, context));
  }

  /** Logits `[..., vocabSize]` of hidden states `[..., hiddenSize]`. */
  logits(hiddenStates: Tensor): Tensor {
    const { outputBias } = this;
    const logits = matmul(this.scaled(hiddenStates), this.outputEmbeddings, { transposeB: true });
    return outputBias ? logits.add(outputBias) : logits;
  }

  /**
   * Cross-entropy of every token that is written, `[batch, sequence]`: `labels[i]` is the token after `decoderInputIds[i]`,
   * or -100 for a position that counts for nothing.
   */
  losses(
    inputs: EncoderInputs,
    decoderInputIds: Tensor,
    labels: Tensor,
    context: ForwardContext = {},
    options: CrossEntropyOptions = {},
  ): Tensor {
    return this.lossesOf(this.states(inputs, decoderInputIds, context), labels, options);
  }

  /** Cross-entropy of hidden states `[..., hiddenSize]` under labels `[...]`: of chosen positions, whose logits alone are computed. */
  lossesOf(hidden: Tensor, labels: Tensor, options: CrossEntropyOptions = {}): Tensor {
    const { outputBias } = this;
    return linearTokenLosses(this.scaled(hidden), this.outputEmbeddings, labels, {
      ...options,
      ...(outputBias && { bias: outputBias }),
    });
  }

  private states(inputs: EncoderInputs, decoderInputIds: Tensor, context: ForwardContext): Tensor {
    const memory = this.encode(inputs, context);
    return this.hiddenStates(decoderInputIds, { memory, memoryMask: inputs.attentionMask }, context);
  }
}
