import { type Tensor, linear, linearTokenLosses, squeeze } from "../graph/index.js";
import type { ForwardContext } from "./context.js";
import { type Encoder, type EncoderInputs, firstToken } from "./encoder.js";
import { normalInit, zerosInit } from "./initializers.js";
import { type ActivationName, Dropout, LayerNorm, Linear, activations } from "./layers.js";
import { Module, Parameter } from "./module.js";

/** What an encoder is asked for, in the words of the tasks: the word behind a mask, a class of a text, of each token, a span, or a choice. */
export const headNames = ["fill-mask", "classify", "tag", "span", "choice"] as const;
export type HeadName = (typeof headNames)[number];

/** What a head does with the encoder's states `[batch, sequence, hiddenSize]`. */
export interface Head<Output = Tensor> extends Module {
  forward(hidden: Tensor, context: ForwardContext): Output;
}

/** The published names under which a checkpoint keeps an encoder and its head: `bert.…` and `cls.predictions.…`. */
export interface Mounts {
  readonly encoder: string;
  /** "" for a head whose own parts lie at the top. */
  readonly head: string;
}

/**
 * An encoder with a head, under published names. Inputs may be `[batch, choices, sequence]`: every choice is then a
 * sequence of its own, and the answer is `[batch, choices, ...]`.
 */
export class EncoderWithHead<E extends Encoder = Encoder, H extends Head<unknown> = Head> extends Module {
  constructor(
    readonly encoder: E,
    readonly head: H,
    readonly mounts: Mounts,
  ) {
    super();
  }

  override get partNames(): Readonly<Record<string, string>> {
    return this.mounts as unknown as Readonly<Record<string, string>>;
  }

  override forward(inputs: EncoderInputs, context: ForwardContext = {}): ReturnType<H["forward"]> {
    const hidden = this.encoder.encode(flatChoices(inputs), context);
    const answer = this.head.forward(hidden, context) as ReturnType<H["forward"]>;
    const { shape } = inputs.inputIds;
    if (shape.length === 2) return answer;
    const logits = answer as Tensor;
    return logits.reshape([shape[0]!, shape[1]!, ...logits.shape.slice(1)]) as ReturnType<H["forward"]>;
  }
}

/** `[batch, choices, sequence]` as `[batch * choices, sequence]`. */
function flatChoices(inputs: EncoderInputs): EncoderInputs {
  if (inputs.inputIds.rank === 2) return inputs;
  const flat = Object.entries(inputs).map(([name, tensor]: [string, Tensor | undefined]) => [
    name,
    tensor?.reshape([-1, tensor.shape.at(-1)!]),
  ]);
  return Object.fromEntries(flat) as EncoderInputs;
}

export interface HeadConfig {
  readonly hiddenSize: number;
  readonly initializerRange: number;
  /** Probability of dropout before the classifier. */
  readonly classifierDropout: number;
}

export interface MaskedLmConfig {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly embeddingSize: number;
  readonly activation: ActivationName;
  readonly layerNormEpsilon: number;
  readonly initializerRange: number;
}

/**
 * The masked language model's head, Devlin et al. 2019, section 3.1: a layer, a norm, and logits by the token embeddings
 * and a bias. The embeddings are the encoder's own and stay among its parameters.
 */
export class MaskedLmHead extends Module {
  static override readonly names: Readonly<Record<string, string>> = { norm: "LayerNorm" };
  readonly dense: Linear;
  readonly norm: LayerNorm;
  readonly bias: Parameter;

  /** @param embedding the token embeddings, `[vocabSize, embeddingSize]` */
  constructor(
    private readonly config: MaskedLmConfig,
    private readonly embedding: Tensor,
  ) {
    super();
    const { hiddenSize, embeddingSize, vocabSize } = config;
    this.dense = new Linear(hiddenSize, embeddingSize, { initializer: normalInit(config.initializerRange) });
    this.norm = new LayerNorm(embeddingSize, config.layerNormEpsilon);
    this.bias = new Parameter([vocabSize], zerosInit);
  }

  /** Logits `[..., vocabSize]` of states `[..., hiddenSize]`. */
  override forward(hidden: Tensor): Tensor {
    return linear(this.transform(hidden), this.embedding, this.bias.tensor, { transposeWeight: true });
  }

  /**
   * Cross-entropy of states `[..., hiddenSize]` under labels `[...]`, 0 where the label is -100. Pass the states of the
   * masked positions alone (`statesAt`): the logits of the others, most of the head's work, are then never computed.
   */
  losses(hidden: Tensor, labels: Tensor): Tensor {
    return linearTokenLosses(this.transform(hidden), this.embedding, labels, { bias: this.bias.tensor });
  }

  private transform(hidden: Tensor): Tensor {
    return this.norm.forward(activations[this.config.activation](this.dense.forward(hidden)));
  }
}

/** One answer about a whole sequence from what `pool` makes of the states: logits `[batch, numLabels]`. */
export class PooledHead extends Module {
  readonly classifier: Linear;
  private readonly dropout: Dropout;

  constructor(
    config: HeadConfig,
    numLabels: number,
    private readonly pool: (hidden: Tensor, context: ForwardContext) => Tensor,
  ) {
    super();
    this.classifier = new Linear(config.hiddenSize, numLabels, {
      initializer: normalInit(config.initializerRange),
    });
    this.dropout = new Dropout(config.classifierDropout);
  }

  override forward(hidden: Tensor, context: ForwardContext): Tensor {
    return this.classifier.forward(this.dropout.forward(this.pool(hidden, context), context.random));
  }
}

/** RoBERTa's and ELECTRA's answer about a whole sequence: a layer over the first token's state, then logits `[batch, numLabels]`. */
export class DenseHead extends Module {
  static override readonly names = { output: "out_proj" };
  readonly dense: Linear;
  readonly output: Linear;
  private readonly dropout: Dropout;

  constructor(
    config: HeadConfig,
    numLabels: number,
    private readonly activation: ActivationName,
  ) {
    super();
    const options = { initializer: normalInit(config.initializerRange) };
    this.dense = new Linear(config.hiddenSize, config.hiddenSize, options);
    this.output = new Linear(config.hiddenSize, numLabels, options);
    this.dropout = new Dropout(config.classifierDropout);
  }

  override forward(hidden: Tensor, { random }: ForwardContext): Tensor {
    const first = this.dropout.forward(firstToken(hidden), random);
    const x = activations[this.activation](this.dense.forward(first));
    return this.output.forward(this.dropout.forward(x, random));
  }
}

/** One answer for every token: logits `[batch, sequence, numLabels]`. */
export class TokenHead extends Module {
  readonly classifier: Linear;
  private readonly dropout: Dropout;

  constructor(config: HeadConfig, numLabels: number) {
    super();
    this.classifier = new Linear(config.hiddenSize, numLabels, {
      initializer: normalInit(config.initializerRange),
    });
    this.dropout = new Dropout(config.classifierDropout);
  }

  override forward(hidden: Tensor, { random }: ForwardContext): Tensor {
    return this.classifier.forward(this.dropout.forward(hidden, random));
  }
}

/** Where an answer starts and ends in the text: logits `[batch, sequence, 2]`. */
export class SpanHead extends Module {
  static override readonly names = { outputs: "qa_outputs" };
  readonly outputs: Linear;

  constructor(config: Pick<HeadConfig, "hiddenSize" | "initializerRange">) {
    super();
    this.outputs = new Linear(config.hiddenSize, 2, { initializer: normalInit(config.initializerRange) });
  }

  override forward(hidden: Tensor): Tensor {
    return this.outputs.forward(hidden);
  }
}

/** A score for each choice: the answer of a sequence head with one label, `[batch * choices]`. */
export class ChoiceHead<H extends Head> extends Module {
  static override readonly names = { scorer: "" };

  constructor(readonly scorer: H) {
    super();
  }

  override forward(hidden: Tensor, context: ForwardContext): Tensor {
    return squeeze(this.scorer.forward(hidden, context), 1);
  }
}
