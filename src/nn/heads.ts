import { type Tensor, linear, linearTokenLosses, squeeze } from "../graph/index.js";
import type { ForwardContext } from "./context.js";
import { type Encoder, type EncoderInputs, firstToken } from "./encoder.js";
import { normalInit, zerosInit } from "./initializers.js";
import { type ActivationName, Dropout, LayerNorm, Linear, activations } from "./layers.js";
import { Module, Parameter } from "./module.js";

/** What a network is asked for, in the words of the tasks: the word behind a mask, a class of a text, of each token, a span, or a choice. */
export const headNames = ["fill-mask", "classify", "tag", "span", "choice"] as const;
export type HeadName = (typeof headNames)[number];

/** What transformers' classes end with, by head; the beginning is the family's. */
export const headClasses: Readonly<Record<HeadName, string>> = {
  "fill-mask": "ForMaskedLM",
  classify: "ForSequenceClassification",
  tag: "ForTokenClassification",
  span: "ForQuestionAnswering",
  choice: "ForMultipleChoice",
};

/** What a head does with the encoder's states `[batch, sequence, hiddenSize]` of its inputs. */
export interface Head<Output = Tensor> extends Module {
  forward(hidden: Tensor, context: ForwardContext, inputs?: EncoderInputs): Output;
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

  get config(): E["config"] {
    return this.encoder.config;
  }

  override get partNames(): Readonly<Record<string, string>> {
    return this.mounts as unknown as Readonly<Record<string, string>>;
  }

  override forward(inputs: EncoderInputs, context: ForwardContext = {}): ReturnType<H["forward"]> {
    return this.answer(this.states(inputs, context), inputs, context);
  }

  /** The encoder's states `[rows, sequence, hiddenSize]`, a row for each choice. */
  states(inputs: EncoderInputs, context: ForwardContext = {}): Tensor {
    return this.encoder.encode(flatChoices(inputs), context);
  }

  /** What the head makes of the states. */
  answer(hidden: Tensor, inputs: EncoderInputs, context: ForwardContext = {}): ReturnType<H["forward"]> {
    const answer = this.head.forward(hidden, context, flatChoices(inputs)) as ReturnType<H["forward"]>;
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

/** One of a system's heads. */
export interface HeadDefinition<C> {
  /**
   * @param numLabels classes that are told apart; heads of words and spans have their own number
   * @param options.language whether a decoder's words are learned beside the task. Default: they are not
   */
  create(config: C, numLabels: number, options?: { readonly language?: boolean }): EncoderWithHead;
  /** Dotted name of the linear layer that the answers come from; absent where they are words. */
  readonly output?: string;
  /** What transformers calls the class behind the family's name, where it is not the usual one. */
  readonly className?: string;
}

/**
 * A head whose parts lie at the top of a checkpoint.
 * @param head makes the head of an encoder, for so many classes
 */
export const headOn = <C, E extends Encoder>(
  prefix: string,
  encoder: (config: C) => E,
  head: (encoder: E, config: C, numLabels: number) => Head,
  output: string,
  mount = "",
): HeadDefinition<C> & { readonly output: string } => ({
  create: (config, numLabels) => {
    const made = encoder(config);
    return new EncoderWithHead(made, head(made, config, numLabels), { encoder: prefix, head: mount });
  },
  output,
});

/**
 * The heads that read a state of each token, which all families share: classes of tokens, and spans. Devlin et al. 2019,
 * figure 4 (c, d).
 * @param dropout probability of dropout before the classifier. Default: the configuration's
 */
export const tokenHeads = <C extends Omit<HeadConfig, "classifierDropout">>(
  prefix: string,
  encoder: (config: C) => Encoder,
  dropout: (config: C) => number,
) => ({
  tag: headOn(
    prefix,
    encoder,
    (_, config: C, numLabels) => new TokenHead({ ...config, classifierDropout: dropout(config) }, numLabels),
    "classifier",
  ),
  span: headOn(prefix, encoder, (_, config: C) => new SpanHead(config), "qa_outputs"),
});

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
  /** Whether words are predicted by the token embeddings. */
  readonly tieEmbeddings: boolean;
}

/** The matrix that predicts words where it is not the token embeddings, `[vocabSize, embeddingSize]`. */
export const ownOutputEmbeddings = (
  config: Pick<MaskedLmConfig, "tieEmbeddings" | "vocabSize" | "initializerRange">,
  embeddingSize: number,
): Parameter | undefined =>
  config.tieEmbeddings
    ? undefined
    : new Parameter([config.vocabSize, embeddingSize], normalInit(config.initializerRange));

/**
 * The masked language model's head, Devlin et al. 2019, section 3.1: a layer, a norm, and logits by the token embeddings
 * and a bias. The embeddings are the encoder's own and stay among its parameters, unless the configuration unties them.
 */
export class MaskedLmHead extends Module {
  static override readonly names: Readonly<Record<string, string>> = {
    norm: "LayerNorm",
    decoder: "decoder.weight",
  };
  readonly dense: Linear;
  readonly norm: LayerNorm;
  readonly bias: Parameter;
  /** The matrix of a head whose embeddings are its own. */
  readonly decoder: Parameter | undefined;

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
    this.decoder = ownOutputEmbeddings(config, embeddingSize);
  }

  /** Logits `[..., vocabSize]` of states `[..., hiddenSize]`. */
  override forward(hidden: Tensor): Tensor {
    return linear(this.transform(hidden), this.outputEmbeddings, this.bias.tensor, { transposeWeight: true });
  }

  /**
   * Cross-entropy of states `[..., hiddenSize]` under labels `[...]`, 0 where the label is -100. Pass the states of the
   * masked positions alone (`statesAt`): the logits of the others, most of the head's work, are then never computed.
   */
  losses(hidden: Tensor, labels: Tensor): Tensor {
    return linearTokenLosses(this.transform(hidden), this.outputEmbeddings, labels, {
      bias: this.bias.tensor,
    });
  }

  private get outputEmbeddings(): Tensor {
    return this.decoder?.tensor ?? this.embedding;
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
