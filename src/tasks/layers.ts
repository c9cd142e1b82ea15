import { LineageError } from "../base/errors.js";
import type { HeadCheckpoint } from "../checkpoints/index.js";
import { DecoderBody, namedParameters } from "../nn/index.js";
import type { FinetuneOptions } from "./finetune-options.js";

type LayerOptions = Pick<FinetuneOptions, "layerDecay" | "freezeEmbeddings" | "freezeLayers">;

/**
 * Throws `argument` for layers that a model does not have, and for a choice among layers where all of them have the same
 * parameters.
 */
function checkLayers(
  { layerDecay, freezeEmbeddings, freezeLayers }: LayerOptions,
  { system, model }: HeadCheckpoint,
): void {
  const { config } = model.encoder;
  const { numLayers } = config;
  if (freezeLayers > numLayers)
    throw new LineageError(
      "argument",
      `--freeze-layers must be at most ${numLayers}, the layers of the model, not ${freezeLayers}`,
    );
  if (system.kind === "decoder" && system.rowTokens && (freezeEmbeddings || freezeLayers > 0))
    throw new LineageError(
      "argument",
      `${system.title} learns embeddings of its new tokens (${Object.values(system.rowTokens).join(", ")}), so embeddings cannot be frozen; leave out ${freezeLayers > 0 ? "--freeze-layers" : "--freeze-embeddings"}`,
    );
  const shared = system.kind === "encoder" && (system.sharesLayers?.(config) ?? false);
  const asked = freezeLayers > 0 ? "--freeze-layers" : layerDecay < 1 ? "--layer-decay" : undefined;
  if (shared && asked)
    throw new LineageError(
      "argument",
      `the ${numLayers} layers of ${system.title} share their parameters, so ${asked} has no meaning; leave it out${asked === "--freeze-layers" ? ", or use --freeze-embeddings" : ""}`,
    );
}

/** Keeps the parameters that the options name as they are. */
export function freeze(options: LayerOptions, loaded: HeadCheckpoint): void {
  checkLayers(options, loaded);
  const { model, fresh } = loaded;
  const { freezeEmbeddings, freezeLayers } = options;
  const limit = freezeLayers > 0 ? freezeLayers : freezeEmbeddings ? 0 : -1;
  for (const [name, parameter] of namedParameters(model))
    parameter.trainable = depthOf(name, loaded) > limit || fresh.includes(name);
}

/** Factor of a parameter's learning rate: `layerDecay` once for each layer above it. */
export const learningRateFactor =
  ({ layerDecay }: LayerOptions, loaded: HeadCheckpoint) =>
  (name: string): number =>
    layerDecay ** (loaded.model.encoder.config.numLayers + 1 - depthOf(name, loaded));

/** Where a parameter stands; a head stands above all layers. */
function depthOf(name: string, { system, model: { encoder } }: HeadCheckpoint): number {
  return system.depth(
    encoder instanceof DecoderBody ? encoder.languageModelNameOf(name) : name,
    encoder.config,
  );
}
