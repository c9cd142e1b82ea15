import { LineageError } from "./errors.js";

/** Bytes that this process can still take, limits of its container included; Infinity in a browser, which does not say. */
export function availableMemory(): number {
  const { process: node } = globalThis as { process?: { availableMemory?: () => number } };
  return node?.availableMemory?.() ?? Infinity;
}

/** Bytes for a person: `13.5 GB`. */
export const formatBytes = (bytes: number): string => {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, bytes)) / 3));
  return `${power === 0 ? bytes : (bytes / 1000 ** power).toFixed(1)} ${units[power]!}`;
};

/**
 * Throws `memory` before anything is begun that needs more than there is.
 * @param purpose what needs the memory: "the weights of this model"
 * @param instead what would need less
 */
export function requireMemory(
  bytes: number,
  purpose: string,
  instead: string,
  available = availableMemory(),
): void {
  if (bytes <= available) return;
  throw new LineageError(
    "memory",
    `${purpose} need ${formatBytes(bytes)} of memory, but ${formatBytes(available)} are free; ${instead}`,
  );
}
