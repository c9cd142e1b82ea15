import { LineageError } from "../base/errors.js";

/** Reference translations: `references[k][i]` is the k-th reference of text `i`. */
export type References = readonly (readonly string[])[];

/** Throws `argument` unless every list of references has as many texts as there are hypotheses, and there is one. */
export function checkReferences(hypotheses: readonly string[], references: References): void {
  if (references.length === 0)
    throw new LineageError("argument", "a score needs one or more lists of references");
  for (const [index, list] of references.entries())
    if (list.length !== hypotheses.length)
      throw new LineageError(
        "argument",
        `there are ${hypotheses.length} texts to score, but ${list.length} references` +
          (references.length > 1 ? ` in list ${index + 1}` : "") +
          ": line i of one belongs to line i of the other",
      );
  if (hypotheses.length === 0) throw new LineageError("argument", "there are no texts to score");
}
