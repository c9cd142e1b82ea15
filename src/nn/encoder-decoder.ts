import { type CrossEntropyOptions, type Tensor, linearTokenLosses, matmul } from "../graph/index.js";
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

/** What the decoder is told besides the text so far. */
export interface DecoderInputs {
  /** The encoder's states, `[batch, sourceSequence, hiddenSize]`. */
  readonly memory: Tensor;
  /** Bool `[batch, sourceSequence]`: true for a real token of the source. Default: all are. */
  readonly memoryMask?: Tensor | undefined;
}

/** A network that reads one sequence and writes another, with its language-modelling head. */
export abstract class EncoderDecoder extends Module {
  abstract readonly config: EncoderDecoderConfig;

  /** The states of the text that is read, `[batch, sourceSequence, hiddenSize]`. */
  abstract encode(inputs: EncoderInputs, context?: ForwardContext): Tensor;

  /** The last normalised states of the text that is written, `[batch, sequence, hiddenSize]`. */
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
    const { outputBias } = this;
    return linearTokenLosses(
      this.scaled(this.states(inputs, decoderInputIds, context)),
      this.outputEmbeddings,
      labels,
      { ...options, ...(outputBias && { bias: outputBias }) },
    );
  }

  private states(inputs: EncoderInputs, decoderInputIds: Tensor, context: ForwardContext): Tensor {
    const memory = this.encode(inputs, context);
    return this.hiddenStates(decoderInputIds, { memory, memoryMask: inputs.attentionMask }, context);
  }
}
