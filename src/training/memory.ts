import { bytesPerElement } from "../base/dtype.js";
import {
  type ConstantWeights,
  RandomStream,
  type Tensor,
  add,
  constantBytes,
  decompositionOf,
  evaluateDim,
  gradients,
  input,
  packedBytes,
  unpackedBytes,
} from "../graph/index.js";
import { type Parameter, namedParameters } from "../nn/index.js";
import { adamW8bitStateSize } from "./eight-bit.js";
import { nodesOf } from "./diagnosis.js";
import type { Objective } from "./objective.js";
import { type PassOptions, lossGraph, prepacks } from "./step.js";

/** Bytes that training takes, by what takes them. */
export interface TrainingMemory {
  readonly weights: number;
  /** Frozen weights, with what the engine makes of them for its products. */
  readonly frozen: number;
  readonly gradients: number;
  readonly optimizer: number;
  readonly average: number;
  /** Intermediate results of a micro-batch's forward and backward pass: an estimate from the graph, made to be a little more than is measured. */
  readonly activations: number;
  /** The same of a forward pass over as many rows, for evaluations. */
  readonly evaluation: number;
  /** Node, the engine and what JavaScript holds, whatever is trained. */
  readonly process: number;
  /** The most that the process takes. */
  readonly total: number;
}

/** Elements of state that an optimiser keeps for a parameter. */
export const optimizerStateSize = {
  adamw: ({ size }: Parameter): number => 2 * size,
  adamw8bit: adamW8bitStateSize,
  // Their pages are the system's to keep or to write out.
  "paged-adamw": (): number => 0,
  "paged-adamw8bit": (): number => 0,
  palm: ({ size }: Parameter): number => 2 * size,
  /** With momentum. */
  sgd: ({ size }: Parameter): number => size,
  adafactor: ({ shape, size }: Parameter): number => {
    const [rows = 1, columns = 1] = shape.slice(-2);
    return shape.length < 2 ? size : (size / (rows * columns)) * (rows + columns);
  },
} as const;

/** What the engine's arena takes beyond the results that it holds: it grows in steps. Measured: 1.2 to 1.4. */
const engineOverhead = 1.25;
/** The same with gradient checkpointing, where a few large results are most of it. Measured: 1.7 to 2.5. */
const checkpointingOverhead = 2.5;

/** What the engine and JavaScript take for a run besides its tensors. Measured: 50 to 80 MB. */
const runBytes = 65e6;
/** What a process takes before its run where nobody measured it. */
const usualResident = 190e6;

/** Operations whose results lie in their input's memory. */
const aliases = new Set(["reshape", "unsqueeze", "squeeze", "stopGradient", "limit"]);
/** Operations whose results are given, or small: the engine computes them once. */
const free = new Set(["input", "constant", "full", "range"]);

/**
 * What training an objective will take, before any of it is taken.
 * @param sizes of the named dimensions of its inputs, in the largest micro-batch
 */
export function trainingMemory(
  objective: Objective,
  sizes: Readonly<Record<string, number>>,
  options: PassOptions & {
    readonly optimizer: (parameter: Parameter) => number;
    readonly average: boolean;
    /** Parameters that do not learn, where there are any. */
    readonly frozen?: ConstantWeights | undefined;
    /** Worker threads, each with weights, gradients and a batch of its own, and its part of the shared memory. */
    readonly workers?: number | undefined;
    /** Bytes that the process takes before the run. Default: what is usual after a text has been read. */
    readonly resident?: number | undefined;
  },
): TrainingMemory {
  const { workers = 0, resident = usualResident, frozen = { tensors: {}, packed: {} } } = options;
  const { gradientCheckpointing } = options;
  const parameters = [...namedParameters(objective.model)].flatMap(([name, parameter]) =>
    frozen.tensors[name] || frozen.packed[name] ? [] : [parameter],
  );
  const trained = parameters.filter(({ trainable }) => trainable);
  const bytes = (list: readonly Parameter[], size: (parameter: Parameter) => number): number =>
    4 * list.reduce((total, parameter) => total + size(parameter), 0);
  const random = new RandomStream(input("seed", "uint32", []));
  const { sums } = lossGraph(objective, { random, gradientCheckpointing });
  const total = Object.values(sums).reduce((a, b) => add(a, b));
  const found = gradients(
    total,
    trained.map(({ tensor }) => tensor),
    { allowUnused: true },
  );
  const ofTraining = {
    weights: (workers > 0 ? 2 + workers : 1) * bytes(parameters, ({ size }) => size),
    frozen: frozenBytes(frozen),
    gradients: (1 + 2 * workers) * bytes(trained, ({ size }) => size),
    optimizer: bytes(trained, options.optimizer),
    average: options.average ? bytes(parameters, ({ size }) => size) : 0,
    activations: Math.ceil(
      Math.max(1, workers) *
        ((gradientCheckpointing ? checkpointingOverhead : engineOverhead) *
          peakBytes([total, ...found.toReversed()], found, sizes) +
          largestUnpacked(frozen)),
    ),
  };
  const losses = Object.values(lossGraph(objective, {}).sums);
  const parts = {
    ...ofTraining,
    evaluation: Math.ceil(engineOverhead * peakBytes(losses, [], sizes, evaluated)),
    process: resident + runBytes,
  };
  return { ...parts, total: Object.values(parts).reduce((a, b) => a + b) };
}

/** Where the engine keeps something of matrices in blocks, it does so of all; of halves it makes floats. */
const frozenBytes = (frozen: ConstantWeights): number =>
  Object.values(frozen.packed).reduce(
    (sum, weight) => sum + (weight.kind === "half" ? 4 * weight.rows * weight.columns : packedBytes(weight)),
    (prepacks(frozen) ? 2 : 1) * constantBytes({ tensors: frozen.tensors, packed: {} }) +
      constantBytes({ tensors: {}, packed: frozen.packed }),
  );

/** Bytes of a packed matrix that the backward pass unpacks. */
const largestUnpacked = ({ packed }: ConstantWeights): number =>
  Math.max(
    0,
    ...Object.values(packed).map(({ kind, rows, columns }) =>
      kind === "half" ? 0 : Math.min(4 * rows * columns, kind === "nf4" ? Infinity : unpackedBytes),
    ),
  );

/** What a composite was differentiated through, where it was: the engine runs that. */
function primitive(tensor: Tensor): Tensor {
  const { decomposition } = tensor.node;
  return decomposition ? primitive(decomposition[tensor.index]!) : tensor;
}

/** The same for a graph that has not been differentiated: what has no operator of the engine is computed by its parts. */
function evaluated(tensor: Tensor): Tensor {
  const { op } = tensor.node;
  return op.decompose && !op.lower ? evaluated(decompositionOf(tensor.node)[tensor.index]!) : tensor;
}

/**
 * The most bytes of intermediate results at any time, when operations run in the order in which they are written and a
 * result is freed after its last use. `given` are results that lie in buffers of their own; `run` tells what the engine
 * computes for a tensor.
 */
function peakBytes(
  roots: readonly Tensor[],
  given: readonly Tensor[],
  sizes: Readonly<Record<string, number>>,
  run: (tensor: Tensor) => Tensor = primitive,
): number {
  const elsewhere = new Set(given.map(run));
  const order = nodesOf(roots.map(run), (node) => node.inputs.map(run));
  const owner = (tensor: Tensor): Tensor => {
    const actual = run(tensor);
    return aliases.has(actual.node.op.name) ? owner(actual.node.inputs[0]!) : actual;
  };
  const uses = new Map<Tensor, number>();
  for (const node of order)
    for (const tensor of node.inputs) uses.set(owner(tensor), (uses.get(owner(tensor)) ?? 0) + 1);
  let [live, peak] = [0, 0];
  const bytesOf = (tensor: Tensor): number =>
    free.has(tensor.node.op.name) || elsewhere.has(tensor)
      ? 0
      : tensor.shape.reduce<number>(
          (size, dim) => size * evaluateDim(dim, sizes),
          bytesPerElement(tensor.dtype),
        );
  for (const node of order) {
    if (aliases.has(node.op.name)) {
      // Its use of the input lasts as long as its own result: count the consumers of both together.
      const input = owner(node.inputs[0]!);
      uses.set(input, uses.get(input)! - 1);
      continue;
    }
    for (const output of node.outputs) if (uses.has(output)) live += bytesOf(output);
    peak = Math.max(peak, live);
    for (const tensor of node.inputs) {
      const input = owner(tensor);
      const left = uses.get(input)! - 1;
      uses.set(input, left);
      if (left === 0) live -= bytesOf(input);
    }
  }
  return peak;
}
