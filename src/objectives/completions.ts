import type { BatchTensor } from "../data/index.js";
import { type Tensor, addRows, gather, neg, sum, zeros } from "../graph/index.js";
import { CausalLm, EncoderDecoder, type ForwardContext, statesAt } from "../nn/index.js";
import type { InputSpec, Objective } from "../training/objective.js";

// Log-probabilities of completions of prompts: what every objective on preferences and rewards is made of. Only the tokens of
// completions are followed through the output embeddings, and batches list them one after the other, without padding.

/** A network that writes: it continues prompts, or writes about sources. */
export type Writer = CausalLm | EncoderDecoder;

/** A prompt and what was written after it; with an encoder-decoder the source, and the text about it. */
export interface Completion {
  readonly prompt: readonly number[];
  /** Its end token is part of it, where it has ended. */
  readonly completion: readonly number[];
}

const perRow = { dtype: "int32", shape: ["rows", "sequence"] } as const;
const perToken = { dtype: "int32", shape: ["tokens"] } as const;

const ofBoth = {
  /** Places `[rows * sequence]` of the states that predict each token of the completions. */
  statePositions: perToken,
  completionLabels: perToken,
  /** Which row each token belongs to. */
  completionRows: perToken,
  /** Tokens of each completion. */
  completionLengths: { dtype: "float32", shape: ["rows"] },
} as const;

/** Inputs of a forward pass over completions, as `completionTensors` makes them. */
export const completionInputs = (model: Writer): Readonly<Record<string, InputSpec>> =>
  model instanceof EncoderDecoder
    ? {
        inputIds: { dtype: "int32", shape: ["sources", "source"] },
        attentionMask: { dtype: "bool", shape: ["sources", "source"] },
        /** Which source each row is about. */
        rowSources: { dtype: "int32", shape: ["rows"] },
        decoderInputIds: perRow,
        ...ofBoth,
      }
    : { inputIds: perRow, ...ofBoth };

type Inputs = Readonly<Record<string, Tensor>>;

/** The states that predict each token of the completions, `[tokens, hiddenSize]`. */
export function completionStates(model: Writer, inputs: Inputs, context: ForwardContext): Tensor {
  return statesAt(allStates(model, inputs, context), inputs["statePositions"]!);
}

function allStates(model: Writer, inputs: Inputs, context: ForwardContext): Tensor {
  if (model instanceof CausalLm) return model.hiddenStates(inputs["inputIds"]!, context.positionIds, context);
  const { inputIds, attentionMask, decoderInputIds, rowSources } = inputs;
  const memory = gather(model.encode({ inputIds: inputIds!, attentionMask }, context), rowSources!);
  const memoryMask = gather(attentionMask!, rowSources!);
  return model.hiddenStates(decoderInputIds!, { memory, memoryMask }, context);
}

/** Log-probability of each token of the completions from its state, `[tokens]`. */
export const tokenLogProbs = (model: Writer, states: Tensor, inputs: Inputs): Tensor =>
  neg(model.lossesOf(states, inputs["completionLabels"]!));

/** Sums by row of numbers of tokens: `[tokens]` -> `[rows]`. */
export const sumByRow = (perTokenValues: Tensor, { completionRows, completionLengths }: Inputs): Tensor =>
  addRows(zeros(completionLengths!.shape, perTokenValues.dtype), completionRows!, perTokenValues);

/** Log-probability of each whole completion, `[rows]`. */
export const completionLogProbs = (model: Writer, inputs: Inputs, context: ForwardContext): Tensor =>
  sumByRow(tokenLogProbs(model, completionStates(model, inputs, context), inputs), inputs);

/**
 * Rows filled up to the longest. With an encoder-decoder a prompt that several rows in sequence share, one array, is read
 * once for all of them.
 */
export function completionTensors(
  model: Writer,
  rows: readonly Completion[],
  padId = 0,
): Record<string, BatchTensor> {
  const reads = model instanceof EncoderDecoder;
  const start = reads ? [model.config.decoderStartTokenId] : [];
  // The last token is predicted and never read.
  const texts = rows.map(({ prompt, completion }) =>
    [...(reads ? start : prompt), ...completion].slice(0, -1),
  );
  const written = padded(texts, padId);
  const sequence = written.shape[1];
  const lengths = rows.map(({ completion }) => completion.length);
  const total = lengths.reduce((sum, length) => sum + length, 0);
  const [positions, labels, owners] = [0, 1, 2].map(() => new Int32Array(total)) as [
    Int32Array,
    Int32Array,
    Int32Array,
  ];
  let token = 0;
  rows.forEach(({ prompt, completion }, row) => {
    const first = row * sequence + (reads ? 0 : prompt.length - 1);
    completion.forEach((id, index) => {
      positions[token] = first + index;
      labels[token] = id;
      owners[token++] = row;
    });
  });
  const shape = [total];
  const common = {
    statePositions: { data: positions, shape },
    completionLabels: { data: labels, shape },
    completionRows: { data: owners, shape },
    completionLengths: { data: Float32Array.from(lengths), shape: [rows.length] },
  };
  if (!reads) return { inputIds: written, ...common };
  const sources: (readonly number[])[] = [];
  const owned = rows.map(({ prompt }) => {
    if (sources.at(-1) !== prompt) sources.push(prompt);
    return sources.length - 1;
  });
  const inputIds = padded(sources, model.config.padTokenId);
  const mask = new Uint8Array(inputIds.data.length);
  sources.forEach((ids, row) => mask.fill(1, row * inputIds.shape[1], row * inputIds.shape[1] + ids.length));
  return {
    inputIds,
    attentionMask: { data: mask, shape: inputIds.shape },
    rowSources: { data: Int32Array.from(owned), shape: [rows.length] },
    decoderInputIds: written,
    ...common,
  };
}

/** Rows of ids filled up to the longest at their ends. */
export function padded(
  rows: readonly (readonly number[])[],
  padId: number,
): { readonly data: Int32Array; readonly shape: readonly [number, number] } {
  const length = Math.max(1, ...rows.map((ids) => ids.length));
  const data = new Int32Array(rows.length * length).fill(padId);
  rows.forEach((ids, row) => {
    data.set(ids, row * length);
  });
  return { data, shape: [rows.length, length] };
}

/** The completions' own loss, the mean over their tokens: supervised fine-tuning on what follows prompts. */
export const completionObjective = (model: Writer): Objective => ({
  model,
  inputs: completionInputs(model),
  losses: (inputs, context) => ({
    tokens: neg(sum(tokenLogProbs(model, completionStates(model, inputs, context), inputs))),
  }),
});
