import { currentScope } from "./scope.js";
import type { Tensor } from "./tensor.js";

/**
 * What a model lets be seen while it is written down:
 * - `attention`: the probabilities of one attention, `[batch, heads, queryLength, keyLength]`, before dropout;
 * - `hidden`: what every layer of a stack reads, and what the stack gives, `[batch, sequence, hiddenSize]`;
 * - `output`: what a module's `forward` gives.
 */
export type ObservationKind = "attention" | "hidden" | "output";

export interface Observation {
  readonly kind: ObservationKind;
  readonly tensor: Tensor;
  /** Dotted place of the module that was being written; empty outside of modules. */
  readonly path: string;
}

const open: Observation[][] = [];

/** Lets a tensor be seen by those who observe; costs nothing where nobody does. */
export function observe(kind: ObservationKind, tensor: Tensor): void {
  if (open.length === 0) return;
  const seen = { kind, tensor, path: currentScope()?.path ?? "" };
  for (const observations of open) observations.push(seen);
}

/** Whether anybody observes: what computes a part of a tensor only has to compute all of it then. */
export const isObserved = (): boolean => open.length > 0;

/**
 * Writes a model down and gives all that its parts let be seen, in the order in which they were written:
 *
 *     const { result, observations } = observing(() => model.forward(inputIds));
 *     const maps = observations.filter(({ kind }) => kind === "attention").map(({ tensor }) => tensor);
 *
 * What is seen becomes part of a program only where it is one of its outputs.
 */
export function observing<T>(build: () => T): {
  readonly result: T;
  readonly observations: readonly Observation[];
} {
  const observations: Observation[] = [];
  open.push(observations);
  try {
    return { result: build(), observations };
  } finally {
    open.pop();
  }
}
