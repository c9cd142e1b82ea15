import { Tensor, checkpoint, observe } from "../graph/index.js";
import type { ForwardContext } from "./context.js";

/**
 * Layers one after the other; `[batch, sequence, hiddenSize]` in and out. Whoever observes sees what every layer reads and
 * what comes out at the end: transformers' `hidden_states`.
 * @param x what the first layer reads
 * @param final what follows the last layer, such as a norm
 */
export function throughLayers<C extends ForwardContext & { readonly memory?: unknown }>(
  layers: readonly { forward(x: Tensor, context: C): Tensor }[],
  x: Tensor,
  context: C,
  final: (x: Tensor) => Tensor = (h) => h,
): Tensor {
  // What a decoder's layers compute of the source is no function of what they read.
  const source = context.memory instanceof Tensor ? [context.memory] : [];
  const last = layers.reduce((h, layer) => {
    observe("hidden", h);
    return throughLayer([h, ...source], context, () => layer.forward(h, context));
  }, x);
  const states = final(last);
  observe("hidden", states);
  return states;
}

/**
 * What one layer makes of `inputs`. With gradient checkpointing its insides are computed again in the backward pass; what
 * depends neither on the inputs nor on random numbers is kept.
 */
export const throughLayer = <T extends Tensor | readonly Tensor[]>(
  inputs: readonly Tensor[],
  { gradientCheckpointing, random }: ForwardContext,
  layer: () => T,
): T => (gradientCheckpointing ? checkpoint(layer, inputs, random) : layer());
