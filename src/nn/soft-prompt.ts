import { LineageError } from "../base/errors.js";
import {
  type Dim,
  type Tensor,
  addDims,
  concat,
  constant,
  expand,
  ones,
  range,
  reshape,
  slice,
  transpose,
  unsqueeze,
} from "../graph/index.js";
import type { ForwardContext } from "./context.js";
import { normalInit } from "./initializers.js";
import { Module, Parameter } from "./module.js";

// What is learned before a text while the network stays as it is: prompt tuning, Lester et al. 2021, and prefix tuning, Li &
// Liang 2021, with the layouts of Hugging Face's peft.

/** A pass over tokens: ids `[batch, sequence]` -> hidden states `[batch, sequence, hiddenSize]`. */
type Pass = (inputIds: Tensor, positionIds: Tensor | undefined, context: ForwardContext) => Tensor;

/**
 * Embeddings of virtual tokens that stand before every text, Lester et al. 2021, "The Power of Scale for Parameter-Efficient
 * Prompt Tuning", section 2. Their ids come after those of the vocabulary, and they take the first positions.
 */
export class SoftPrompt extends Module {
  static override readonly names = { values: "prompt_embeddings" };
  readonly kind = "prompt";
  readonly values: Parameter;

  constructor(
    readonly tokens: number,
    hiddenSize: number,
    /** Id of the first virtual token. */
    readonly firstId: number,
  ) {
    super();
    this.values = new Parameter([tokens, hiddenSize], normalInit(0.02));
  }

  /** Hidden states of the text alone, `[batch, sequence, hiddenSize]`. */
  override forward(
    inputIds: Tensor,
    positionIds: Tensor | undefined,
    context: ForwardContext,
    pass: Pass,
  ): Tensor {
    const { tokens } = this;
    const [batch, sequence] = inputIds.shape as [Dim, Dim];
    const ids = constant("int64", [1, tokens], BigInt64Array.from(virtualIds(this), BigInt)).cast(
      inputIds.dtype,
    );
    const positions =
      positionIds &&
      concat(
        [
          expand(unsqueeze(range(tokens, positionIds.dtype), 0), [positionIds.dim(0), tokens]),
          positionIds.add(tokens),
        ],
        1,
      );
    const states = pass(concat([expand(ids, [batch, tokens]), inputIds], 1), positions, {
      ...context,
      prefix: context.prefix && seeingAll(context.prefix, tokens, -1),
      attentionMask:
        context.attentionMask && seeingAll(seeingAll(context.attentionMask, tokens, -2), tokens, -1),
    });
    return slice(states, 1, tokens, addDims(sequence, tokens));
  }
}

/** What of a network decides how a prefix is laid out. */
export interface PrefixShape {
  readonly numLayers: number;
  readonly numKeyValueHeads: number;
  readonly headSize: number;
}

/**
 * Keys and values of every layer that stand before those of every text, Li & Liang 2021, "Prefix-Tuning". The numbers are
 * peft's without a projection: `[tokens, numLayers * 2 * numKeyValueHeads * headSize]`, a layer's keys before its values.
 * Keys are what the attention multiplies by: no rotary position turns them.
 */
export class Prefix extends Module {
  static override readonly names = { values: "prompt_embeddings" };
  readonly kind = "prefix";
  readonly values: Parameter;

  constructor(
    readonly tokens: number,
    readonly shape: PrefixShape,
    /** Id of the first virtual token, by which a cache knows what stands there. */
    readonly firstId: number,
  ) {
    super();
    const { numLayers, numKeyValueHeads, headSize } = shape;
    this.values = new Parameter([tokens, 2 * numLayers * numKeyValueHeads * headSize], normalInit(0.02));
  }

  /** Hidden states of the text, `[batch, sequence, hiddenSize]`. */
  override forward(
    inputIds: Tensor,
    positionIds: Tensor | undefined,
    context: ForwardContext,
    pass: Pass,
  ): Tensor {
    const { tokens, shape } = this;
    const { numLayers, numKeyValueHeads, headSize } = shape;
    // [layers * 2, heads, tokens, headSize]
    const all = transpose(
      reshape(this.values.tensor, [tokens, 2 * numLayers, numKeyValueHeads, headSize]),
      [1, 2, 0, 3],
    );
    const batch = inputIds.dim(0);
    const part = (index: number): Tensor =>
      expand(slice(all, 0, index, index + 1), [batch, numKeyValueHeads, tokens, headSize]);
    const learnedPrefix = Array.from({ length: numLayers }, (_, layer) => ({
      key: part(2 * layer),
      value: part(2 * layer + 1),
    }));
    const positions = positionIds ?? unsqueeze(range(inputIds.dim(1), "int64"), 0);
    return pass(inputIds, positions.add(tokens), {
      ...context,
      learnedPrefix,
      prefix: context.prefix && seeingAll(context.prefix, tokens, -1),
      attentionMask: context.attentionMask && seeingAll(context.attentionMask, tokens, -1),
    });
  }
}

/** A mask with `tokens` more places before the others of an axis, where all is seen. */
function seeingAll(mask: Tensor, tokens: number, axis: -1 | -2): Tensor {
  const place = mask.rank + axis;
  // A single place counts for every one.
  if (place < 0 || mask.shape[place] === 1) return mask;
  const shape = mask.shape.map((dim, index) => (index === place ? tokens : dim));
  return concat([ones(shape, "bool"), mask], place);
}

/** Keys and values with a layer's prefix before them, `[batch, numKeyValueHeads, length, headSize]` each. */
export function afterPrefix(
  key: Tensor,
  value: Tensor,
  { learnedPrefix }: ForwardContext,
  layer: number,
): [key: Tensor, value: Tensor] {
  const own = learnedPrefix?.[layer];
  return own ? [concat([own.key, key], 2), concat([own.value, value], 2)] : [key, value];
}

/** Ids of the virtual tokens. */
export const virtualIds = ({ firstId, tokens }: SoftPrompt | Prefix): number[] =>
  Array.from({ length: tokens }, (_, index) => firstId + index);

/** What stands before the texts of a model, as an adapter of it. */
export class SoftPromptAdapter {
  constructor(
    readonly prompt: SoftPrompt | Prefix,
    private readonly takeOff: () => void,
  ) {}

  get kind(): "prompt" | "prefix" {
    return this.prompt.kind;
  }

  /** Its one parameter, by dotted name. */
  get parameters(): Map<string, Parameter> {
    const { values } = this.prompt;
    return new Map([[values.name, values]]);
  }

  /** Takes it off the model. Programs that were compiled with it keep it. */
  remove(): void {
    this.takeOff();
  }
}

/** Throws `argument` unless `tokens` can stand before a text in a context of `contextLength`. */
export function checkVirtualTokens(tokens: number, contextLength: number): void {
  if (!Number.isInteger(tokens) || tokens < 1 || tokens >= contextLength)
    throw new LineageError(
      "argument",
      `${tokens} virtual tokens: a soft prompt has at least 1, and fewer than the context of ${contextLength}`,
    );
}
