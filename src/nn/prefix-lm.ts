import { LineageError } from "../base/errors.js";
import { configEntries } from "./config.js";
import { type Field, entry } from "./config-table.js";

/**
 * Whether a decoder is a prefix language model, whose prompts are read both ways before it writes from left to right; Raffel
 * et al. 2020, section 3.2.1, "non-causal decoder" in Tay et al. 2022, section 3.2. No library has an entry for it: this one
 * is lineage's own, and is written where it is true.
 */
export const prefixLmField: Field<boolean | undefined> = {
  ...entry("prefix_lm", configEntries.flag.optional(), { absent: undefined }),
  write: (value) => (value ? { prefix_lm: true } : {}),
};

/** Throws `config` for a window, from which the beginning of a prompt cannot see its end. */
export function checkPrefixLm({
  prefixLm,
  slidingWindow,
}: {
  readonly prefixLm?: boolean | undefined;
  readonly slidingWindow?: number | undefined;
}): void {
  if (prefixLm && slidingWindow !== undefined)
    throw new LineageError(
      "config",
      "prefix_lm is true, but a prompt cannot be read both ways through a sliding window",
    );
}
