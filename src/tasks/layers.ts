import { LineageError } from "../base/errors.js";
import type { LoadedTask } from "../checkpoints/index.js";
import { type EncoderWithHead, namedParameters } from "../nn/index.js";
import type { FinetuneOptions } from "./finetune-options.js";

/** How far a parameter is from the input: 0 for embeddings, then the layers, then what follows them. */
export function depthOf(name: string, encoder: string, numLayers: number): number {
  if (!name.startsWith(`${encoder}.`)) return numLayers + 1;
  const own = name.slice(encoder.length + 1);
  const layer = /\.(\d+)(?:\.|$)/.exec(own)?.[1];
  if (layer !== undefined) return Number(layer) + 1;
  return /embed/i.test(own) ? 0 : numLayers + 1;
}

/** Keeps the parameters that the options name as they are. */
export function freeze(model: EncoderWithHead, options: FinetuneOptions, { fresh }: LoadedTask): void {
  const { freezeEmbeddings, freezeLayers } = options;
  const { numLayers } = model.encoder.config;
  if (freezeLayers > numLayers)
    throw new LineageError(
      "argument",
      `the model has ${numLayers} layers; ${freezeLayers} of them cannot be frozen`,
    );
  const limit = freezeLayers > 0 ? freezeLayers : freezeEmbeddings ? 0 : -1;
  for (const [name, parameter] of namedParameters(model))
    parameter.trainable = depthOf(name, model.mounts.encoder, numLayers) > limit || fresh.includes(name);
}
