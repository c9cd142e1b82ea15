import {
  type Dim,
  type Tensor,
  cast,
  linearTokenLosses,
  maximum,
  mul,
  multiplyDims,
  range,
  squeeze,
  sum,
} from "../graph/index.js";
import type { CausalLm, CausalLmConfig, CausalTransformer } from "./causal-lm.js";
import type { ForwardContext } from "./context.js";
import { Encoder, type EncoderConfig, type EncoderInputs, statesAt } from "./encoder.js";
import { EncoderWithHead, type Head, type HeadDefinition, type HeadName } from "./heads.js";
import { normalInit } from "./initializers.js";
import { Dropout, Linear } from "./layers.js";
import { Module } from "./module.js";

/**
 * A decoder without its language-modelling head, which reads whole rows as an encoder does: what heads of tasks stand on.
 * Rows are filled up behind their tokens, so that causality alone hides the padding and nothing has to be masked.
 */
export class DecoderBody extends Encoder {
  readonly config: EncoderConfig;
  readonly transformer: CausalTransformer;
  /** The output embeddings, where they are the model's own and its words are learned, too. */
  readonly head: Linear | undefined;
  readonly #lm: CausalLm;
  readonly #prefix: string | undefined;

  /**
   * @param options.language whether the words are learned beside the task: the model then keeps its output embeddings
   * @param options.prefix the published name of the network, where it is not the language model's
   */
  constructor(
    lm: CausalLm,
    { language = false, prefix }: { readonly language?: boolean; readonly prefix?: string | undefined } = {},
  ) {
    super();
    const { initializerRange = 0.02 } = lm.config as { readonly initializerRange?: number };
    this.config = { ...lm.config, initializerRange, padTokenId: 0 };
    this.transformer = lm.transformer;
    this.head = language ? lm.head : undefined;
    this.#lm = lm;
    this.#prefix = prefix;
  }

  override get partNames(): Readonly<Record<string, string>> {
    return { ...this.#lm.partNames, transformer: this.prefix };
  }

  /** Name of the network below the heads: `model`, `transformer`. */
  get prefix(): string {
    return this.#prefix ?? this.languageModelName;
  }

  /** Name under which the language model keeps the network. */
  get languageModelName(): string {
    return this.#lm.partNames["transformer"] ?? "transformer";
  }

  /** The name that the language model has for a parameter of the network. */
  languageModelNameOf(parameter: string): string {
    const start = `${this.prefix}.`;
    return parameter.startsWith(start)
      ? `${this.languageModelName}.${parameter.slice(start.length)}`
      : parameter;
  }

  /** Whether a parameter is the decoder's, and not of a head that was put onto it. */
  owns(parameter: string): boolean {
    const parts = [this.prefix, ...(this.head ? [this.partNames["head"] ?? "head"] : [])];
    return parts.some((part) => parameter.startsWith(`${part}.`));
  }

  /** Factor of the states before a head of a task. */
  get stateScale(): number {
    return this.#lm.stateScale;
  }

  override forward({ inputIds, positionIds }: EncoderInputs, context: ForwardContext = {}): Tensor {
    return this.#lm.hiddenStates(inputIds, positionIds, context);
  }

  /** Cross-entropy of every next token, `[batch, sequence]`, from the states; 0 where the label is -100. */
  languageLosses(hidden: Tensor, labels: Tensor): Tensor {
    const { weight } = this.#lm.head ?? this.#lm.transformer.tokenEmbedding;
    return linearTokenLosses(hidden, weight.tensor, labels);
  }
}

/**
 * The state of every row's last token, `[batch, sequence, hiddenSize]` -> `[batch, hiddenSize]`.
 * @param mask bool `[batch, sequence]`, false for padding, which stands behind the tokens. Default: there is none
 */
export function lastToken(hidden: Tensor, mask: Tensor | undefined): Tensor {
  if (!mask) return squeeze(hidden.slice(1, -1), 1);
  const [batch, length] = hidden.shape as [Dim, Dim];
  // A row without any token gives its first one.
  const last = maximum(sum(cast(mask, "int32"), { axes: 1 }).sub(1), 0);
  const places = range(multiplyDims(batch, length)).reshape([batch, length]);
  return statesAt(hidden, squeeze(places.slice(1, 0, 1), 1).add(last));
}

/** A linear layer over states. Its published name is the definition's. */
class Scorer extends Module {
  static override readonly names = { layer: "" };
  readonly layer: Linear;
  private readonly dropout: Dropout;

  constructor(
    private readonly body: DecoderBody,
    outputs: number,
    options: { readonly bias: boolean; readonly dropout: number },
  ) {
    super();
    const { hiddenSize, initializerRange } = body.config;
    this.layer = new Linear(hiddenSize, outputs, {
      bias: options.bias,
      initializer: normalInit(initializerRange),
    });
    this.dropout = new Dropout(options.dropout);
  }

  override forward(states: Tensor, { random }: ForwardContext): Tensor {
    const { stateScale } = this.body;
    const scaled = stateScale === 1 ? states : mul(states, stateScale);
    return this.layer.forward(this.dropout.forward(scaled, random));
  }
}

/**
 * One answer about a whole row, from its last token, which alone has seen all of it: logits `[batch, outputs]`, or `[batch]`
 * of a single one. Radford et al. 2018, section 3.2; transformers' `*ForSequenceClassification`.
 */
class LastTokenHead extends Module {
  static override readonly names = { scorer: "" };

  constructor(
    readonly scorer: Scorer,
    private readonly single = false,
  ) {
    super();
  }

  override forward(hidden: Tensor, context: ForwardContext, inputs?: EncoderInputs): Tensor {
    const logits = this.scorer.forward(lastToken(hidden, inputs?.attentionMask), context);
    return this.single ? squeeze(logits, 1) : logits;
  }
}

/** What of a decoder's heads differs between families: names as transformers has them, and dropout. */
export interface DecoderHeadNames<C> {
  /** The layer that answers for each token, which has a bias. Default `score`. */
  readonly tag?: string;
  /** The layer that scores a choice. Default `score`, without a bias. */
  readonly choice?: string;
  /** What transformers calls the class of multiple choice behind the family's name. */
  readonly choiceClass?: string;
  /** The network's name beside the head of spans. Default: the language model's. */
  readonly spanPrefix?: string;
  /** Probability of dropout before the layer that answers. Default 0. */
  dropout?(config: C): number;
}

/** The heads of a decoder. None fills masks: each token has seen only what comes before it. */
export type DecoderHeads<C> = Readonly<Record<Exclude<HeadName, "fill-mask">, HeadDefinition<C>>> & {
  readonly classify: HeadDefinition<C> & { readonly output: string };
};

/** A decoder's heads: a class or a number from the last token, a class of each token, a span, and a score for each choice. */
export function decoderHeads<C extends CausalLmConfig>(
  create: (config: C) => CausalLm,
  names: DecoderHeadNames<C> = {},
): DecoderHeads<C> {
  const { tag = "score", choice = "score", choiceClass, spanPrefix } = names;
  const head = (
    output: string,
    make: (body: DecoderBody, numLabels: number, dropout: number) => Head,
    prefix?: string,
  ): HeadDefinition<C> & { readonly output: string } => ({
    create: (config, numLabels, { language } = {}) => {
      const body = new DecoderBody(create(config), { language: language ?? false, prefix });
      const made = make(body, numLabels, names.dropout?.(config) ?? 0);
      return new EncoderWithHead(body, made, { encoder: "", head: output });
    },
    output,
  });
  return {
    classify: head(
      "score",
      (body, labels, dropout) => new LastTokenHead(new Scorer(body, labels, { bias: false, dropout })),
    ),
    tag: head(tag, (body, labels, dropout) => new Scorer(body, labels, { bias: true, dropout })),
    span: head("qa_outputs", (body) => new Scorer(body, 2, { bias: true, dropout: 0 }), spanPrefix),
    choice: {
      ...head(
        choice,
        (body, _, dropout) =>
          new LastTokenHead(new Scorer(body, 1, { bias: choice !== "score", dropout }), true),
      ),
      ...(choiceClass !== undefined && { className: choiceClass }),
    },
  };
}
