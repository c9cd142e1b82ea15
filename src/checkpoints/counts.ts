import { FormatError } from "../base/errors.js";
import type { System, SystemConfig } from "../models/index.js";

/** More layers than any model has; a network of more could not be built in time. */
const mostLayers = 10_000;

/**
 * Compares how many layers a configuration has with the tensors that are there, before anything is built: a count that a
 * file makes up would take all time and memory. Throws FormatError.
 * @param tensors how many tensors the files have
 */
export function requireLayers(
  file: string,
  { title, sharesLayers }: Pick<System, "title" | "sharesLayers">,
  { numLayers }: SystemConfig,
  tensors: number,
): void {
  if (numLayers > mostLayers)
    throw new FormatError(file, `it describes a ${title} of ${numLayers} layers; no model has that many`);
  if (!sharesLayers && numLayers > tensors)
    throw new FormatError(
      file,
      `it describes a ${title} of ${numLayers} layers, but holds ${tensors} tensors; every layer has some`,
    );
}
