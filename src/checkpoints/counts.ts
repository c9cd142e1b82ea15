import { FormatError } from "../base/errors.js";
import type { SystemConfig } from "../models/index.js";

/** More layers than any model has; a network of more could not be built in time. */
const mostLayers = 10_000;
/** More positions than any model was made for. */
const mostPositions = 2 ** 24;

/**
 * Compares how many layers a configuration has with the tensors that are there, before anything is built: a count that a
 * file makes up would take all time and memory. Throws FormatError.
 * @param tensors how many tensors the files have
 */
export function requireLayers<C extends SystemConfig>(
  file: string,
  { title, ownLayers }: { readonly title: string; ownLayers?(config: C): number },
  config: C,
  tensors: number,
): void {
  const { numLayers, contextLength } = config;
  if (contextLength > mostPositions)
    throw new FormatError(
      file,
      `it describes a ${title} of ${contextLength} positions; no model has that many`,
    );
  if (numLayers > mostLayers)
    throw new FormatError(file, `it describes a ${title} of ${numLayers} layers; no model has that many`);
  const own = ownLayers?.(config) ?? numLayers;
  if (own > tensors)
    throw new FormatError(
      file,
      `it describes a ${title} of ${own} layers, but holds ${tensors} tensors; every layer has some`,
    );
}
