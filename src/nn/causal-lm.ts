import { LineageError } from "../base/errors.js";
import {
  type Dim,
  type LinearLossOptions,
  type Tensor,
  cachedHeadSize,
  linearTokenLosses,
  matmul,
} from "../graph/index.js";
import type { ForwardContext } from "./context.js";
import { normalInit } from "./initializers.js";
import { type Embedding, Linear } from "./layers.js";
import { Module, namedParameters } from "./module.js";
import type { LayerType } from "./attention.js";
import { type RotaryScaling, scaledContext } from "./rotary.js";
import { Prefix, SoftPrompt, SoftPromptAdapter, checkVirtualTokens } from "./soft-prompt.js";

/** What is common to the configurations of decoders. */
export interface CausalLmConfig {
  readonly vocabSize: number;
  /** Positions that the model was made for. */
  readonly contextLength: number;
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  /** Heads of keys and values, each shared by a group of query heads. Default: as many as heads. */
  readonly numKeyValueHeads?: number | undefined;
  /** Channels of a head. Default: hiddenSize / numHeads. */
  readonly headSize?: number | undefined;
  /** Keys that a query looks back on, itself included; undefined for all. */
  readonly slidingWindow?: number | undefined;
  /** Which layers have the window. Default: all. */
  readonly layerTypes?: readonly LayerType[] | undefined;
  /** How positions reach beyond `contextLength`. */
  readonly ropeScaling?: RotaryScaling | undefined;
  /** Whether it reads prompts both ways. Default: from left to right. */
  readonly prefixLm?: boolean | undefined;
}

/** Heads of keys and values, and channels of each. */
export const keyValueShape = ({
  numHeads,
  numKeyValueHeads = numHeads,
  hiddenSize,
  headSize = hiddenSize / numHeads,
}: CausalLmConfig): { readonly numKeyValueHeads: number; readonly headSize: number } => ({
  numKeyValueHeads,
  headSize,
});

/** The network below the language-modelling head: embeddings, blocks, final norm. */
export interface CausalTransformer extends Module {
  readonly tokenEmbedding: Embedding;
  /** The last layer's normalised states `[batch, sequence, hiddenSize]` of token ids `[batch, sequence]`. */
  forward(inputIds: Tensor, positionIds: Tensor | undefined, context: ForwardContext): Tensor;
}

/** The output embeddings `[vocabSize, hiddenSize]` of a model whose token embeddings do not serve as such. */
export const outputHead = ({
  hiddenSize,
  vocabSize,
  tieEmbeddings,
  initializerRange,
}: {
  readonly hiddenSize: number;
  readonly vocabSize: number;
  readonly tieEmbeddings: boolean;
  readonly initializerRange: number;
}): Linear | undefined =>
  tieEmbeddings
    ? undefined
    : new Linear(hiddenSize, vocabSize, { bias: false, initializer: normalInit(initializerRange) });

/** A decoder with its language-modelling head. Its property names are those of the published checkpoint, by `static names`. */
export abstract class CausalLm extends Module {
  abstract readonly config: CausalLmConfig;
  abstract readonly transformer: CausalTransformer;
  /** Absent where the token embeddings serve as output embeddings. */
  abstract readonly head: Linear | undefined;
  /** What stands before every text; a cached pass finds it in the cache. Default: nothing. */
  softPrompt: SoftPrompt | Prefix | undefined = undefined;

  /**
   * Logits `[batch, sequence, vocabSize]` of token ids `[batch, sequence]`.
   * @param positionIds position of every token, `[batch, sequence]` or `[1, sequence]`; default 0, 1, 2, …
   */
  override forward(inputIds: Tensor, positionIds?: Tensor, context: ForwardContext = {}): Tensor {
    return this.logits(this.hiddenStates(inputIds, positionIds, context));
  }

  /** The last layer's normalised states `[batch, sequence, hiddenSize]`. */
  hiddenStates(inputIds: Tensor, positionIds?: Tensor, context: ForwardContext = {}): Tensor {
    const pass = (...inputs: Parameters<CausalTransformer["forward"]>): Tensor =>
      this.transformer.forward(...inputs);
    if (this.softPrompt && context.attentionMask && this.config.slidingWindow !== undefined)
      throw new LineageError(
        "unsupported",
        "a soft prompt does not stand before packed documents in a model with a sliding window: it would be out of sight of the later ones",
      );
    return this.softPrompt && !context.cache
      ? this.softPrompt.forward(inputIds, positionIds, context, pass)
      : pass(inputIds, positionIds, context);
  }

  /** Logits `[..., vocabSize]` of hidden states `[..., hiddenSize]`. */
  logits(hiddenStates: Tensor): Tensor {
    return matmul(hiddenStates, this.outputEmbeddings, { transposeB: true });
  }

  /**
   * Cross-entropy of every next token, `[batch, sequence]`: `labels[i]` is the token after `inputIds[i]`, or -100 for a
   * position that counts for nothing.
   */
  losses(
    inputIds: Tensor,
    labels: Tensor,
    context: ForwardContext = {},
    options: Pick<LinearLossOptions, "zLoss"> = {},
  ): Tensor {
    return this.lossesOf(this.hiddenStates(inputIds, context.positionIds, context), labels, options);
  }

  /** Cross-entropy of hidden states `[..., hiddenSize]` under labels `[...]`: of chosen positions, whose logits alone are computed. */
  lossesOf(hidden: Tensor, labels: Tensor, options: Pick<LinearLossOptions, "zLoss"> = {}): Tensor {
    return linearTokenLosses(hidden, this.outputEmbeddings, labels, options);
  }

  /** Factor of the states before a head of a task, where the model makes them small for the sake of its own output. */
  get stateScale(): number {
    return 1;
  }

  /** Shape of one layer's key or value cache. */
  cacheShape(batch: Dim, capacity: Dim): Dim[] {
    const { numKeyValueHeads, headSize } = keyValueShape(this.config);
    return [batch, numKeyValueHeads, capacity, cachedHeadSize(headSize)];
  }

  private get outputEmbeddings(): Tensor {
    return (this.head ?? this.transformer.tokenEmbedding).weight.tensor;
  }
}

/**
 * Puts a soft prompt or a prefix of so many virtual tokens before all texts of a model, and freezes all other parameters.
 * Throws `argument` for a model that has one already, and for more tokens than its context holds; `unsupported` for a prefix
 * language model.
 */
export function addSoftPrompt(
  model: CausalLm,
  { kind, tokens }: { readonly kind: "prompt" | "prefix"; readonly tokens: number },
): SoftPromptAdapter {
  const { config } = model;
  if (model.softPrompt)
    throw new LineageError("argument", "the model has a soft prompt already; take that one off first");
  checkVirtualTokens(tokens, scaledContext(config));
  if (config.prefixLm)
    throw new LineageError(
      "unsupported",
      "a prefix language model reads prompts both ways, and soft prompts and prefixes are learned from left to right; take LoRA (--adapter lora), or a causal model",
    );
  for (const parameter of namedParameters(model).values()) parameter.trainable = false;
  const table = model.transformer.tokenEmbedding;
  if (kind === "prompt") {
    const prompt = new SoftPrompt(tokens, table.hiddenSize, table.count);
    table.virtual = prompt.values.tensor;
    model.softPrompt = prompt;
  } else {
    const shape = { numLayers: config.numLayers, ...keyValueShape(config) };
    model.softPrompt = new Prefix(tokens, shape, table.count);
  }
  namedParameters(model);
  return new SoftPromptAdapter(model.softPrompt, () => {
    model.softPrompt = undefined;
    table.virtual = undefined;
  });
}
