import { LineageError } from "../base/errors.js";

// Several answers of one model made one.

/** Writes an answer to a prompt; `sample` tells samples of one prompt apart, as the stream of random numbers of a text. */
export type Write = (prompt: string, sample: number) => Promise<string>;

/** What most answers say, of equals the first; null where there is none (Wang et al. 2022, self-consistency). */
export function majority(answers: readonly (string | null)[]): string | null {
  const counts = new Map<string, number>();
  for (const answer of answers) if (answer !== null) counts.set(answer, (counts.get(answer) ?? 0) + 1);
  let best: string | null = null;
  for (const [answer, votes] of counts) if (best === null || votes > counts.get(best)!) best = answer;
  return best;
}

/** Answers, what was read in each, and what most of them say. */
export interface Vote {
  readonly texts: readonly string[];
  readonly answers: readonly (string | null)[];
  /** Null where nothing was found in any text. */
  readonly answer: string | null;
}

export interface VoteOptions {
  readonly samples: number;
  /** The answer in a text; null where there is none. */
  readonly extract: (text: string) => string | null;
  /** Number of the first sample. Default 0. */
  readonly first?: number;
}

/** Self-consistency, Wang et al. 2022: several reasonings are sampled, and the answer that most of them come to counts. */
export async function selfConsistency(
  write: Write,
  prompt: string,
  { samples, extract, first = 0 }: VoteOptions,
): Promise<Vote> {
  if (!Number.isInteger(samples) || samples < 1)
    throw new LineageError("argument", `a vote needs at least 1 sample, not ${samples}`);
  const texts = await Promise.all(
    Array.from({ length: samples }, (_, sample) => write(prompt, first + sample)),
  );
  const answers = texts.map(extract);
  return { texts, answers, answer: majority(answers) };
}

export interface RefinementOptions extends Omit<VoteOptions, "samples"> {
  /** Reasonings of the first stage. Published: 11. */
  readonly reasonings: number;
  /** Samples of the second stage, which vote. Published: 33. */
  readonly refinements: number;
  /** The prompt of the second stage. Default: the first one after the reasonings, numbered. */
  readonly refine?: (prompt: string, reasonings: readonly string[]) => string;
}

export const refinementPrompt = (prompt: string, reasonings: readonly string[]): string =>
  `${reasonings.map((text, index) => `Answer ${index + 1}: ${text.trim()}`).join("\n")}\n\n${prompt}`;

/**
 * Ensemble refinement, Singhal et al. 2023, "Towards Expert-Level Medical Question Answering with Large Language Models",
 * section 3.4: reasonings are sampled, the model writes again after reading all of them, several times, and these answers vote.
 */
export async function ensembleRefinement(
  write: Write,
  prompt: string,
  { reasonings, refinements, extract, refine = refinementPrompt, first = 0 }: RefinementOptions,
): Promise<Vote & { readonly reasonings: Vote }> {
  const begun = await selfConsistency(write, prompt, { samples: reasonings, extract, first });
  const again = refine(prompt, begun.texts);
  const vote = await selfConsistency(write, again, {
    samples: refinements,
    extract,
    first: first + reasonings,
  });
  return { ...vote, reasonings: begun };
}
