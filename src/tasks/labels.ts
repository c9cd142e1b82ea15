import { LineageError } from "../base/errors.js";
import type { Example, Label } from "../data/index.js";

/** Classes or tags of labelled examples in a settled order: numbers by size, else by the alphabet, "O" before other tags. */
export function distinctLabels(examples: readonly Example[]): string[] {
  const found = new Set(
    examples.flatMap(({ label }: { label?: Label }) =>
      label === undefined ? [] : ([label].flat() as string[]),
    ),
  );
  const names = [...found];
  const numeric = names.every((name) => /^-?\d+(\.\d+)?$/.test(name));
  return names.sort((a, b) => {
    if (numeric) return Number(a) - Number(b);
    if (a === "O" || b === "O") return a === "O" ? -1 : 1;
    return a < b ? -1 : 1;
  });
}

/** Throws `data` naming the row of a label that is none of `labels`. */
export function checkLabels(file: string, examples: readonly Example[], labels: readonly string[]): void {
  const known = new Set(labels);
  for (const { row, label } of examples) {
    const unknown = ([label].flat() as (string | undefined)[]).find(
      (name) => name !== undefined && !known.has(name),
    );
    if (unknown !== undefined) {
      throw new LineageError(
        "data",
        `${file}: row ${row} has the label ${JSON.stringify(unknown)}, which is not in the training data; its labels are ${labels.join(", ")}`,
      );
    }
  }
}

/** `rows / (classes * rows of the class)`, as scikit-learn's "balanced" has it. */
export function balancedWeights(examples: readonly Example[], labels: readonly string[]): number[] {
  const all = examples.flatMap(({ label }) => [label].flat() as string[]);
  return labels.map((name) => {
    const count = all.filter((label) => label === name).length;
    return count === 0 ? 0 : all.length / (labels.length * count);
  });
}
