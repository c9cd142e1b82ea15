import {
  type Dim,
  type RandomStream,
  type Tensor,
  dropout,
  gather,
  gelu,
  layerNorm,
  less,
  linear,
  maximum,
  minimum,
  relu,
  rmsNorm,
  scalar,
  silu,
  slice,
  sub,
  unsqueeze,
  where,
} from "../graph/index.js";
import { type Initializer, normalInit, onesInit, residualInit, zerosInit } from "./initializers.js";
import { Module, Parameter } from "./module.js";

export interface LinearOptions {
  readonly bias?: boolean;
  /** How the weight is stored: `out,in` as PyTorch's `nn.Linear` (default), or `in,out` as GPT-2's `Conv1D`. */
  readonly layout?: "out,in" | "in,out";
  readonly initializer?: Initializer;
}

/** What an adapter adds to a linear layer's output, from the same input and that output; undefined for nothing. */
export type LinearAdapter = Module & { forward(x: Tensor, output: Tensor): Tensor | undefined };

/** `[..., inSize]` -> `[..., outSize]`: a matrix product and a bias. */
export class Linear extends Module {
  // An adapter's parameters stand beside the layer's own.
  static override readonly names = { adapter: "" };
  /** Default: none. */
  adapter: LinearAdapter | undefined = undefined;
  readonly weight: Parameter;
  readonly bias: Parameter | undefined;
  /** Whether the weight is `[outSize, inSize]`. */
  readonly transposeWeight: boolean;

  constructor(inSize: number, outSize: number, options: LinearOptions = {}) {
    super();
    const { bias = true, layout = "out,in", initializer = normalInit(0.02) } = options;
    this.transposeWeight = layout === "out,in";
    this.weight = new Parameter(this.transposeWeight ? [outSize, inSize] : [inSize, outSize], initializer);
    this.bias = bias ? new Parameter([outSize], zerosInit) : undefined;
  }

  get inSize(): number {
    return this.weight.shape[this.transposeWeight ? 1 : 0]!;
  }
  get outSize(): number {
    return this.weight.shape[this.transposeWeight ? 0 : 1]!;
  }

  override forward(x: Tensor): Tensor {
    const { weight, bias, transposeWeight, adapter } = this;
    const product = linear(x, weight.tensor, bias?.tensor, { transposeWeight });
    const update = adapter?.forward(x, product);
    return update ? product.add(update) : product;
  }
}

/** Rows of a table by integer ids: `[...]` -> `[..., hiddenSize]`. */
export class Embedding extends Module {
  readonly weight: Parameter;
  /** Rows of the ids from `count` on, `[tokens, hiddenSize]`: a soft prompt's. Default: there are no such ids. */
  virtual: Tensor | undefined = undefined;

  constructor(
    readonly count: number,
    readonly hiddenSize: number,
    initializer: Initializer = normalInit(0.02),
  ) {
    super();
    this.weight = new Parameter([count, hiddenSize], initializer);
  }

  override forward(ids: Tensor): Tensor {
    const { weight, virtual, count } = this;
    if (!virtual) return gather(weight.tensor, ids);
    const rows = gather(weight.tensor, minimum(ids, scalar(count - 1, ids.dtype)));
    const learned = gather(virtual, maximum(sub(ids, count), scalar(0, ids.dtype)));
    return where(unsqueeze(less(ids, scalar(count, ids.dtype)), -1), rows, learned);
  }

  /** Rows of ids, or the first `count` rows where there are none, `[count, hiddenSize]`: positions 0, 1, 2, … */
  forwardOrFirst(ids: Tensor | undefined, count: Dim): Tensor {
    return ids ? this.forward(ids) : this.rows(0, count);
  }

  /** Rows `start` to `end`, which is left out: `[end - start, hiddenSize]`. */
  rows(start: Dim, end: Dim): Tensor {
    return slice(this.weight.tensor, 0, start, end);
  }
}

/** Layer normalisation over the last axis, Ba et al. 2016. */
export class LayerNorm extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter | undefined;

  constructor(
    hiddenSize: number,
    private readonly epsilon = 1e-5,
    { bias = true }: { readonly bias?: boolean } = {},
  ) {
    super();
    this.weight = new Parameter([hiddenSize], onesInit);
    this.bias = bias ? new Parameter([hiddenSize], zerosInit) : undefined;
  }

  override forward(x: Tensor): Tensor {
    return layerNorm(x, this.weight.tensor, this.bias?.tensor, this.epsilon);
  }
}

/** Root-mean-square normalisation over the last axis, Zhang & Sennrich 2019: no mean, no bias. */
export class RMSNorm extends Module {
  readonly weight: Parameter;

  constructor(
    hiddenSize: number,
    private readonly epsilon = 1e-6,
  ) {
    super();
    this.weight = new Parameter([hiddenSize], onesInit);
  }

  override forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight.tensor, this.epsilon);
  }
}

export interface SwiGLUConfig {
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  /** Whether its three products have biases. Default: they have none. */
  readonly mlpBias?: boolean | undefined;
  /** Layers of the whole network, which first weights depend on. */
  readonly numLayers: number;
  /** Standard deviation of the first weights. Default 0.02. */
  readonly initializerRange?: number | undefined;
  /** First values of all matrices, instead of normal ones of `initializerRange`. */
  readonly initializer?: Initializer | undefined;
}

/**
 * Gated feed-forward layer with SiLU, Shazeer 2020, "GLU Variants Improve Transformer": `down(silu(gate(x)) * up(x))`,
 * without biases. `[..., hiddenSize]` in and out. The names are those that the LLaMA family publishes.
 */
export class SwiGLU extends Module {
  static override readonly names = { gate: "gate_proj", up: "up_proj", down: "down_proj" };
  readonly gate: Linear;
  readonly up: Linear;
  readonly down: Linear;

  constructor(config: SwiGLUConfig) {
    super();
    const {
      hiddenSize,
      intermediateSize,
      numLayers,
      initializerRange = 0.02,
      mlpBias: bias = false,
    } = config;
    const options = { bias, initializer: config.initializer ?? normalInit(initializerRange) };
    this.gate = new Linear(hiddenSize, intermediateSize, options);
    this.up = new Linear(hiddenSize, intermediateSize, options);
    this.down = new Linear(intermediateSize, hiddenSize, {
      bias,
      initializer: config.initializer ?? residualInit({ initializerRange, numLayers }),
    });
  }

  override forward(x: Tensor): Tensor {
    return this.down.forward(silu(this.gate.forward(x)).mul(this.up.forward(x)));
  }
}

/** Zeroes elements while training; the identity where the context has no random numbers. */
export class Dropout extends Module {
  constructor(private readonly probability: number) {
    super();
  }

  override forward(x: Tensor, random: RandomStream | undefined): Tensor {
    return dropout(x, this.probability, random);
  }
}

/** Activation functions by the names of Hugging Face's `config.json`. */
export const activations = {
  relu,
  gelu: (x: Tensor) => gelu(x, "none"),
  gelu_new: (x: Tensor) => gelu(x, "tanh"),
  gelu_pytorch_tanh: (x: Tensor) => gelu(x, "tanh"),
  silu,
  tanh: (x: Tensor) => x.tanh(),
} as const;

export type ActivationName = keyof typeof activations;

/** `[batch, sequence, numHeads * headSize]` -> `[batch, numHeads, sequence, headSize]`. */
export function splitHeads(x: Tensor, numHeads: number): Tensor {
  const [batch, sequence, width] = x.shape as readonly [Dim, Dim, number];
  return x.reshape([batch, sequence, numHeads, width / numHeads]).transpose([0, 2, 1, 3]);
}

/** `[batch, numHeads, sequence, headSize]` -> `[batch, sequence, numHeads * headSize]`. */
export function mergeHeads(x: Tensor): Tensor {
  const [batch, numHeads, sequence, headSize] = x.shape as readonly [Dim, number, Dim, number];
  return x.transpose([0, 2, 1, 3]).reshape([batch, sequence, numHeads * headSize]);
}
