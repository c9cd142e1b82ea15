import type { Plan } from "../src/evaluation/index.js";
import { commonLength } from "../src/generation/index.js";
import type { LlamaCppModel } from "./llama-cpp.js";

// Likelihoods of the answers of a plan by llama.cpp, from the same ids.

/** What a context of llama.cpp must have for `llamaCppLikelihoods`. */
export const llamaCppShape = { sequences: 129, unified: true } as const;

/** Tokens of the rows that are read together. */
const most = 512;

/** A row of a plan as llama.cpp is asked it: what its answers have in common, and of each the rest. */
interface Row {
  readonly context: readonly number[];
  readonly targets: readonly (readonly number[])[];
}

const rowsOf = ({ asked }: Plan): Row[] =>
  asked
    .filter(({ targets }) => targets.length > 0)
    .map(({ targets }) => ({
      context: targets[0]!.context,
      targets: targets.map(({ target }) => target),
    }));

/** How many tokens all questions of a plan begin with. */
export function sharedLength(plan: Plan): number {
  const [first, ...others] = rowsOf(plan).map(({ context }) => context);
  return Math.min(first!.length - 1, ...others.map((context) => commonLength(first!, context)));
}

export function logSoftmax(logits: Float32Array, id: number): number {
  let peak = -Infinity;
  for (const value of logits) if (value > peak) peak = value;
  let total = 0;
  for (const value of logits) total += Math.exp(value - peak);
  return logits[id]! - peak - Math.log(total);
}

/**
 * The logarithm of the probability of each answer of each question that fits the context. Answers have one beginning: questions whose answers
 * begin a token earlier than others are not for it.
 * @param keep how many tokens all rows begin with are read once for all of them; 0 reads row by row, as llama.cpp's own tool does
 */
export function llamaCppLikelihoods(model: LlamaCppModel, plan: Plan, keep: number): number[][] {
  const { sequences } = llamaCppShape;
  const all = rowsOf(plan);
  const found: number[][] = [];
  model.reset();
  if (keep > 0) model.evaluate(all[0]!.context.slice(0, keep));
  for (let start = 0; start < all.length;) {
    let [tokens, next, end] = [0, 1, start];
    const batch: { id: number; position: number; sequences: number[]; wanted: boolean }[] = [];
    const places: { last: number; answers: { target: readonly number[]; first: number }[] }[] = [];
    for (; end < all.length; end++) {
      const { context, targets } = all[end]!;
      const size = context.length - keep + targets.reduce((sum, { length }) => sum + length - 1, 0);
      if (end > start && (tokens + size > most || next + targets.length > sequences || keep === 0)) break;
      tokens += size;
      const own = targets.map((_, index) => next + index);
      next += targets.length;
      if (keep > 0) for (const sequence of own) model.copySequence(0, sequence);
      for (const [index, id] of context.slice(keep).entries())
        batch.push({
          id,
          position: keep + index,
          sequences: own,
          wanted: index === context.length - keep - 1,
        });
      const last = batch.length - 1;
      const answers = targets.map((target, index) => {
        const first = batch.length;
        for (const [place, id] of target.slice(0, -1).entries())
          batch.push({ id, position: context.length + place, sequences: [own[index]!], wanted: true });
        return { target, first };
      });
      places.push({ last, answers });
    }
    model.decodeTokens(batch);
    for (const { last, answers } of places)
      found.push(
        answers.map(({ target, first }) =>
          target.reduce(
            (sum, id, place) => sum + logSoftmax(model.logitsOf(place === 0 ? last : first + place - 1), id),
            0,
          ),
        ),
      );
    for (let sequence = keep > 0 ? 1 : 0; sequence < next; sequence++) model.removeSequence(sequence);
    start = end;
  }
  return found;
}
