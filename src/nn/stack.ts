import { type Tensor, observe } from "../graph/index.js";

/**
 * Layers one after the other; `[batch, sequence, hiddenSize]` in and out. Whoever observes sees what every layer reads and
 * what comes out at the end: transformers' `hidden_states`.
 * @param x what the first layer reads
 * @param final what follows the last layer, such as a norm
 */
export function throughLayers<C>(
  layers: readonly { forward(x: Tensor, context: C): Tensor }[],
  x: Tensor,
  context: C,
  final: (x: Tensor) => Tensor = (h) => h,
): Tensor {
  const last = layers.reduce((h, layer) => {
    observe("hidden", h);
    return layer.forward(h, context);
  }, x);
  const states = final(last);
  observe("hidden", states);
  return states;
}
