import { FormatError } from "../base/errors.js";
import { type Tensor, constant, div, linear, maximum, sigmoid, sqrt, square, sum } from "../graph/index.js";
import { activations } from "../nn/index.js";
import type { DenseModule, VectorModule } from "./modules.js";
import { type Pooling, pooled } from "./pooling.js";

/** How the states of a text's tokens become its vector. */
export interface VectorRecipe {
  readonly poolings: readonly Pooling[];
  /** What is done with the pooled vector, in this order. */
  readonly modules: readonly VectorModule[];
}

/** States `[batch, sequence, hiddenSize]` and mask, bool `[batch, sequence]` -> `[batch, size]`. */
export const sentenceVector = (hidden: Tensor, mask: Tensor, { poolings, modules }: VectorRecipe): Tensor =>
  modules.reduce(applied, pooled(hidden, mask, poolings));

/** Numbers of a vector. Throws FormatError where one module does not take what another gives. */
export function vectorSize(
  folder: string,
  { poolings: chosen, modules }: VectorRecipe,
  width: number,
  hiddenSize: number,
): number {
  if (width !== hiddenSize)
    throw new FormatError(
      folder,
      `the pooling takes states of ${width} numbers, but the model's have ${hiddenSize}`,
    );
  let size = chosen.length * width;
  for (const module of modules) {
    if (module.kind !== "dense") continue;
    if (module.inputs !== size)
      throw new FormatError(folder, `a linear layer takes ${module.inputs} numbers, but is given ${size}`);
    size = module.outputs;
  }
  return size;
}

/** A vector `[batch, size]` after a module. */
function applied(vector: Tensor, module: VectorModule): Tensor {
  if (module.kind === "normalize")
    return div(vector, maximum(sqrt(sum(square(vector), { axes: 1, keepDims: true })), 1e-12));
  const { weight, bias, inputs, outputs, activation } = module;
  const sums = linear(
    vector,
    constant("float32", [outputs, inputs], weight),
    bias && constant("float32", [outputs], bias),
    { transposeWeight: true },
  );
  return denseActivations[activation](sums);
}

const denseActivations: Readonly<Record<DenseModule["activation"], (x: Tensor) => Tensor>> = {
  identity: (x) => x,
  tanh: (x) => x.tanh(),
  relu: (x) => activations.relu(x),
  gelu: (x) => activations.gelu(x),
  sigmoid: (x) => sigmoid(x),
};
