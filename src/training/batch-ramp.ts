import { LineageError } from "../base/errors.js";

/** How many micro-batches the steps of a run have, where they do not all have as many. */
export interface BatchRamp {
  /** Micro-batches of the largest step. */
  readonly most: number;
  /**
   * Micro-batches of a step.
   * @param step steps count from 1
   * @param tokens what the run has learned from before it
   */
  microBatches(step: number, tokens: number): number;
}

const form =
  "write 16,32@500,64@1150 for rows of a step and the steps after which they are more, or 16-64@2000000 for rows that " +
  "grow evenly over so many tokens";

const refuse = (text: string, why: string): never => {
  throw new LineageError("argument", `the batch ramp ${text}: ${why}; ${form}`);
};

/**
 * A batch that grows: `16,32@500,64@1150` has 16 rows, after step 500 it has 32, and after step 1,150 64, as PaLM's 512, 1,024 and
 * 2,048 (Chowdhery et al. 2022, section 5); `16-64@2000000` has 16 rows at first, and a number that grows evenly to 64 over the first
 * 2,000,000 tokens, as GPT-3's (Brown et al. 2020, appendix B), rounded down to whole micro-batches. The memory that a step takes stays
 * that of one micro-batch. Throws `argument` for another form, and for rows that are no multiple of `batch`.
 * @param batch rows of a micro-batch
 */
export function batchRamp(text: string, batch: number): BatchRamp {
  const linear = /^(\d+)-(\d+)@(\d+)$/.exec(text.trim());
  const micro = (rows: number): number => {
    if (rows < 1 || rows % batch !== 0)
      refuse(text, `${rows} rows are no multiple of the ${batch} rows of a micro-batch`);
    return rows / batch;
  };
  if (linear) {
    const [first, last, tokens] = linear.slice(1).map(Number) as [number, number, number];
    const [from, to] = [micro(first), micro(last)];
    if (to <= from) refuse(text, `${last} rows are not more than ${first}`);
    if (tokens === 0) refuse(text, "it needs some tokens to grow over");
    return {
      most: to,
      microBatches: (_, seen) => from + Math.floor((to - from) * Math.min(1, seen / tokens)),
    };
  }
  const parts = text.split(",").map((part) => /^\s*(\d+)(?:@(\d+))?\s*$/.exec(part));
  const stages = parts.map((part, index) => {
    if (!part || (index === 0) !== (part[2] === undefined))
      return refuse(text, "it is not a list of rows and steps");
    return { micro: micro(Number(part[1])), after: Number(part[2] ?? 0) };
  });
  for (const [index, { micro: size, after }] of stages.entries()) {
    const before = stages[index - 1];
    if (before && (after <= before.after || size <= before.micro))
      refuse(text, "each stage must be later and larger than the one before");
  }
  return {
    most: stages.at(-1)!.micro,
    microBatches: (step) => stages.findLast(({ after }) => step > after)!.micro,
  };
}
