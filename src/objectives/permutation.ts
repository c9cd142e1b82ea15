import { LineageError } from "../base/errors.js";
import { type Random, drawIndex } from "../base/random.js";
import { type Tensor, squeeze, sum } from "../graph/index.js";
import type { ForwardContext, Module } from "../nn/index.js";
import type { Batch } from "../data/index.js";
import type { Objective } from "../training/index.js";
import type { SentenceVocabulary } from "./vocabulary.js";

// Yang et al. 2019, "XLNet: Generalized Autoregressive Pretraining for Language Understanding".

export type PermutationVocabulary = Pick<
  SentenceVocabulary,
  "classId" | "separatorId" | "specialIds" | "startsWord"
>;

export interface PermutationOptions {
  /** Tokens of one segment. Published: 512. */
  readonly sequenceLength: number;
  /**
   * Tokens at the beginning of a segment that go on with the text of the one before and become memory for the next.
   * Published: half of the segment.
   */
  readonly reuseLength: number;
  /** One token in this many is predicted, `K` of section 2.3. Published: 6. */
  readonly partial?: number;
  /** Longest span of words that is predicted together, its length being drawn with weight 1/length. Published: 5. */
  readonly maxSpan?: number;
  /** Whether the text runs from its end to its beginning, the pieces of a word with it. */
  readonly backwards?: boolean;
}

/** A segment with one factorisation order, as the two streams need it. */
export interface PermutedSegment {
  readonly inputIds: Int32Array;
  /** 0, 1 and 2 for the first stretch, the second and `[CLS]`; only whether two are equal matters (section 2.5). */
  readonly typeIds: Int32Array;
  /**
   * `[sequence, sequence]`: whether the query stream at place `i` sees the content at place `j`. The content stream sees
   * the same and itself.
   */
  readonly visible: Uint8Array;
  /** Places to predict, ascending; their number depends on the options alone. */
  readonly targets: Int32Array;
  readonly labels: Int32Array;
}

/** Tokens to predict in each segment. */
export function targetsOf({ sequenceLength, reuseLength, partial = 6 }: PermutationOptions): number {
  return Math.floor(reuseLength / partial) + Math.floor((sequenceLength - reuseLength) / partial);
}

/**
 * A segment from place `start` of a text: its first part goes on with the text, its second is `A [SEP] B [SEP] [CLS]`, where
 * `B` follows `A`, or in half of the cases comes from a random place, section 2.5. Each part has an order of its own, and the
 * first never looks at the second, since it is there that the next segment goes on.
 */
export function permutedSegment(
  text: ArrayLike<number>,
  start: number,
  vocabulary: PermutationVocabulary,
  options: PermutationOptions,
  random: Random,
): PermutedSegment {
  const { sequenceLength, reuseLength } = options;
  const room = sequenceLength - reuseLength - 3;
  if (room < 2 || reuseLength < 0)
    throw new LineageError(
      "argument",
      `a segment of ${sequenceLength} tokens with ${reuseLength} reused has no room for two stretches and three special tokens`,
    );
  const take = (from: number, count: number): number[] =>
    Array.from({ length: count }, (_, index) => text[(from + index) % text.length]!);
  const cut = 1 + random.integer(room - 1);
  const following = start + reuseLength + cut;
  const second = random.uniform() < 0.5 ? following : random.integer(text.length);
  const a = take(start + reuseLength, cut);
  const b = take(second, room - cut);
  const { separatorId, classId } = vocabulary;
  const ids = [...take(start, reuseLength), ...a, separatorId, ...b, separatorId, classId];
  const typeIds = ids.map((_, place) =>
    place <= reuseLength + cut ? 0 : place < sequenceLength - 1 ? 1 : 2,
  );
  const inputIds = Int32Array.from(ids);

  const visible = new Uint8Array(sequenceLength ** 2);
  const targets: number[] = [];
  for (const [from, to] of [
    [0, reuseLength],
    [reuseLength, sequenceLength],
  ] as const) {
    if (from === to) continue;
    const part = inputIds.subarray(from, to);
    const chosen = options.backwards
      ? mirrored(chooseTargets(part.slice().reverse(), vocabulary, options, random), part.length)
      : chooseTargets(part, vocabulary, options, random);
    const sees = factorization(part, chosen, vocabulary.specialIds, random);
    for (let query = from; query < to; query++) {
      visible.fill(1, query * sequenceLength, query * sequenceLength + from);
      for (let key = from; key < to; key++)
        visible[query * sequenceLength + key] = Number(sees(query - from, key - from));
    }
    for (const place of chosen) targets.push(from + place);
  }
  const places = Int32Array.from(targets).sort();
  return {
    inputIds,
    typeIds: Int32Array.from(typeIds),
    visible,
    targets: places,
    labels: places.map((place) => inputIds[place]!),
  };
}

/**
 * Who sees whom under a random factorisation order in which the tokens to predict come last, section 2.3: everyone sees the
 * ordinary tokens that are not predicted, and a token sees the predicted ones that precede it in the order. A predicted
 * token does not see itself; special tokens stand in the order too, and see themselves.
 */
export function factorization(
  ids: ArrayLike<number>,
  targets: ReadonlySet<number>,
  specialIds: ReadonlySet<number>,
  random: Random,
): (query: number, key: number) => boolean {
  const rank = random.permutation(ids.length);
  const hidden = Array.from(ids, (id, place) => targets.has(place) || specialIds.has(id));
  return (query, key) => {
    if (!hidden[key]) return true;
    if (query === key) return !targets.has(key);
    return hidden[query] === true && rank[key]! < rank[query]!;
  };
}

/** Places counted from the other end. */
const mirrored = (places: ReadonlySet<number>, length: number): Set<number> =>
  new Set([...places].map((place) => length - 1 - place));

/** Spans of whole words with their context, `K` times as long; single tokens fill up what is missing. */
function chooseTargets(
  ids: ArrayLike<number>,
  { specialIds, startsWord = () => true }: PermutationVocabulary,
  { partial = 6, maxSpan = 5 }: PermutationOptions,
  random: Random,
): Set<number> {
  const goal = Math.floor(ids.length / partial);
  const weights = Array.from({ length: maxSpan }, (_, index) => 1 / (index + 1));
  const chosen = new Set<number>();
  let place = 0;
  while (place < ids.length && chosen.size < goal) {
    const words = drawIndex(weights, random) + 1;
    const context = words * (partial - 1);
    const left = random.integer(context + 1);
    let begin = place + left;
    while (begin < ids.length && !startsWord(ids[begin]!)) begin++;
    let end = begin;
    for (let word = 0; word < words && end < ids.length; word++) {
      end++;
      while (end < ids.length && !startsWord(ids[end]!)) end++;
    }
    for (let index = begin; index < end && chosen.size < goal; index++)
      if (!specialIds.has(ids[index]!)) chosen.add(index);
    place = end + context - left;
  }
  const rest = Array.from({ length: ids.length }, (_, index) => index).filter(
    (index) => !chosen.has(index) && !specialIds.has(ids[index]!),
  );
  for (const index of random.shuffle(rest)) {
    if (chosen.size >= goal) break;
    chosen.add(index);
  }
  if (chosen.size < goal)
    throw new LineageError(
      "data",
      `a segment has ${chosen.size} ordinary tokens, but ${goal} are to be predicted`,
    );
  return chosen;
}

/** Loss of the predicted tokens among the counts of a batch. */
export const permutationLm = "permutationLm";

/** Rows of consecutive segments: `[batch, segments, ...]` each. */
export function permutationBatch(rows: readonly (readonly PermutedSegment[])[]): Batch {
  const [segments, sequence] = [rows[0]!.length, rows[0]![0]!.inputIds.length];
  const targets = rows[0]![0]!.targets.length;
  const join = (pick: (segment: PermutedSegment) => Int32Array, size: number) => {
    const data = new Int32Array(rows.length * segments * size);
    rows.flat().forEach((segment, index) => {
      data.set(pick(segment), index * size);
    });
    return { data, shape: [rows.length, segments, size] };
  };
  const visible = new Uint8Array(rows.length * segments * sequence ** 2);
  rows.flat().forEach((segment, index) => {
    visible.set(segment.visible, index * sequence ** 2);
  });
  return {
    tensors: {
      inputIds: join(({ inputIds }) => inputIds, sequence),
      tokenTypeIds: join(({ typeIds }) => typeIds, sequence),
      visible: { data: visible, shape: [rows.length, segments, sequence, sequence] },
      targets: join((segment) => segment.targets, targets),
      labels: join(({ labels }) => labels, targets),
    },
    counts: { [permutationLm]: rows.length * segments * targets },
    tokens: rows.length * segments * sequence,
  };
}

/** One segment's inputs, as `permutationBatch` lays them out. */
export interface SegmentInputs {
  /** Int32 `[batch, sequence]`, as are `tokenTypeIds`. */
  readonly inputIds: Tensor;
  readonly tokenTypeIds: Tensor;
  /** Bool `[batch, sequence, sequence]`. */
  readonly visible: Tensor;
  /** Int32 `[batch, targets]`. */
  readonly targets: Tensor;
  /** Hidden states of earlier text, one for each layer, `[batch, memory, hiddenSize]`. */
  readonly memory?: readonly Tensor[] | undefined;
}

export interface PermutationParts {
  readonly model: Module;
  /** The query stream at the targets, `[batch, targets, hiddenSize]`, and what the segment leaves to the next. */
  readonly segment: (
    inputs: SegmentInputs,
    context: ForwardContext,
  ) => { readonly hidden: Tensor; readonly memory: readonly Tensor[] };
  /** Losses of hidden states under int32 labels, both without their last axis alike. */
  readonly losses: (hidden: Tensor, labels: Tensor) => Tensor;
}

/** Consecutive segments of a text and those of the same text read backwards. */
export interface BothWays {
  readonly forwards: readonly PermutedSegment[];
  readonly backwards: readonly PermutedSegment[];
}

/** A batch for a network with bidirectional data, section 3.1: the rows of its second half are read backwards. */
export const bothWaysBatch = (rows: readonly BothWays[]): Batch =>
  permutationBatch([...rows.map(({ forwards }) => forwards), ...rows.map(({ backwards }) => backwards)]);

/**
 * Permutation language modelling over consecutive segments, each with the memory of those before it, through which no
 * gradient flows. The first segment of a row has none.
 */
export function permutationObjective(
  { model, segment, losses }: PermutationParts,
  options: PermutationOptions & { readonly segments: number },
): Objective {
  const { segments, sequenceLength } = options;
  const targets = targetsOf(options);
  const shape = (...last: number[]) => ["batch", segments, ...last];
  return {
    model,
    inputs: {
      inputIds: { dtype: "int32", shape: shape(sequenceLength) },
      tokenTypeIds: { dtype: "int32", shape: shape(sequenceLength) },
      visible: { dtype: "bool", shape: shape(sequenceLength, sequenceLength) },
      targets: { dtype: "int32", shape: shape(targets) },
      labels: { dtype: "int32", shape: shape(targets) },
    },
    losses(inputs, context) {
      let memory: readonly Tensor[] | undefined;
      let total: Tensor | undefined;
      for (let index = 0; index < segments; index++) {
        const part = (name: string): Tensor => squeeze(inputs[name]!.slice(1, index, index + 1), 1);
        const result = segment(
          {
            inputIds: part("inputIds"),
            tokenTypeIds: part("tokenTypeIds"),
            visible: part("visible"),
            targets: part("targets"),
            memory,
          },
          context,
        );
        memory = result.memory;
        const loss = sum(losses(result.hidden, part("labels")));
        total = total ? total.add(loss) : loss;
      }
      return { [permutationLm]: total! };
    },
  };
}
