import { allocate, elementCount } from "../base/dtype.js";
import { LineageError, ShapeError } from "../base/errors.js";
import type { Batch, BatchTensor } from "../data/index.js";
import {
  type ConstantWeights,
  RandomStream,
  type Tensor,
  add,
  compile,
  formatShape,
  gradients,
  input,
  mul,
} from "../graph/index.js";
import { type ForwardContext, type WeightSet, type Weights, namedParameters } from "../nn/index.js";
import type { Binding, DeviceTensor, Program, Runtime, RunOptions } from "../runtime/types.js";
import type { InputSpec, Objective } from "./objective.js";

/** Numbers by part of the loss. */
export type PartValues = Readonly<Record<string, number>>;

/** The loss of one or several batches. */
export interface Loss {
  /** Weighted sum of the parts. */
  readonly loss: number;
  /** Mean of each part over the positions that count; a part without any is left out. */
  readonly parts: PartValues;
}

/** Adds values by part to a running total. */
export function addParts(total: Record<string, number>, parts: PartValues): void {
  for (const [part, value] of Object.entries(parts)) total[part] = (total[part] ?? 0) + value;
}

/** Counts of each part over some batches. Throws `data` when no part has anything to learn from. */
export function totalCounts(objective: Objective, batches: readonly Batch[]): PartValues {
  const totals: Record<string, number> = {};
  for (const { counts } of batches) addParts(totals, counts);
  if (Object.entries(totals).every(([part, count]) => count === 0 || objective.lossWeights?.[part] === 0))
    throw new LineageError("data", "a batch has no label that counts: every one is ignored");
  return totals;
}

const weightOf = (objective: Objective, part: string): number => objective.lossWeights?.[part] ?? 1;

/** The count of a part: its own, or the only one that there is. */
function countOf(part: string, counts: PartValues): number {
  const [only, ...others] = Object.values(counts);
  const count = Object.hasOwn(counts, part) ? counts[part] : others.length === 0 ? only : undefined;
  if (count === undefined)
    throw new LineageError(
      "argument",
      `the batches count no "${part}", a part of the loss; they count ${Object.keys(counts).join(", ")}`,
    );
  return count;
}

/** The loss from the sums and counts of its parts. */
export function lossOf(objective: Objective, sums: PartValues, counts: PartValues): Loss {
  const parts: Record<string, number> = {};
  let loss = 0;
  for (const [part, sum] of Object.entries(sums)) {
    const count = countOf(part, counts);
    if (count === 0) continue;
    parts[part] = sum / count;
    loss += weightOf(objective, part) * parts[part];
  }
  return { loss, parts };
}

/** The inputs of an objective as tensors of a graph, and the scalars that it makes of them. */
export function lossGraph(
  objective: Objective,
  context: ForwardContext,
): { inputs: Record<string, Tensor>; sums: Readonly<Record<string, Tensor>> } {
  namedParameters(objective.model);
  const inputs = Object.fromEntries(
    Object.entries(objective.inputs).map(([name, { dtype, shape }]) => [name, input(name, dtype, shape)]),
  );
  const sums = objective.losses(inputs, context);
  for (const [part, tensor] of Object.entries(sums)) {
    if (tensor.rank !== 0)
      throw new ShapeError(`the loss "${part}" must be a scalar, not ${tensor.describe()}: sum it`);
  }
  return { inputs, sums };
}

/** The device's side of a batch: one buffer an input, as large as the largest batch so far, and a tensor over its used part. */
class BatchInputs implements Disposable {
  private readonly slots = new Map<string, { buffer: DeviceTensor; tensor: DeviceTensor }>();

  constructor(
    private readonly runtime: Runtime,
    private readonly specs: Readonly<Record<string, InputSpec>>,
  ) {}

  get tensors(): Record<string, DeviceTensor> {
    return Object.fromEntries([...this.slots].map(([name, { tensor }]) => [name, tensor]));
  }

  /** Copies a batch into place. The names of the inputs whose tensor is another one than before. */
  write({ tensors }: Batch): string[] {
    const sizes = new Map<string, number>();
    const changed: string[] = [];
    for (const [name, spec] of Object.entries(this.specs)) {
      const given = tensors[name];
      if (!given)
        throw new LineageError(
          "argument",
          `the batch has no tensor "${name}"; it has ${Object.keys(tensors).join(", ")}`,
        );
      checkInput(name, spec, given, sizes);
      if (this.place(name, spec, given)) changed.push(name);
    }
    return changed;
  }

  private place(name: string, { dtype }: InputSpec, { data, shape }: BatchTensor): boolean {
    let slot = this.slots.get(name);
    const same = slot !== undefined && slot.tensor.shape.join() === shape.join();
    if (!slot || (!same && slot.buffer.size < data.length)) {
      slot?.tensor.dispose();
      slot?.buffer.dispose();
      const buffer = this.runtime.createTensor(dtype, [data.length]);
      slot = { buffer, tensor: buffer.slice(0, shape) };
    } else if (!same) {
      slot.tensor.dispose();
      slot = { buffer: slot.buffer, tensor: slot.buffer.slice(0, shape) };
    }
    this.slots.set(name, slot);
    slot.tensor.write(data);
    return !same;
  }

  dispose(): void {
    for (const { buffer, tensor } of this.slots.values()) {
      tensor.dispose();
      buffer.dispose();
    }
    this.slots.clear();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Throws where an input is not of its specification, or gives a named dimension a second size. */
function checkInput(
  name: string,
  spec: InputSpec,
  { data, shape }: BatchTensor,
  sizes: Map<string, number>,
): void {
  const wanted = `${spec.dtype} ${formatShape(spec.shape)}`;
  const fits =
    shape.length === spec.shape.length &&
    spec.shape.every((dim, axis) => {
      if (typeof dim === "number") return dim === shape[axis];
      const known = sizes.get(dim) ?? shape[axis]!;
      sizes.set(dim, known);
      return known === shape[axis];
    });
  if (!fits) {
    const known = [...sizes].map(([dim, size]) => `${dim} = ${size}`).join(", ");
    throw new ShapeError(
      `the batch's "${name}" is ${formatShape(shape)}, but the objective takes ${wanted}${known ? ` with ${known}` : ""}`,
    );
  }
  if (data.length !== elementCount(shape) || data.constructor !== allocate(spec.dtype, 0).constructor) {
    throw new ShapeError(
      `the batch's "${name}" holds ${data.length} elements of ${data.constructor.name}, but ${formatShape(shape)} of ${wanted} was announced`,
    );
  }
}

/** A program bound to a batch's inputs, bound again where their shapes change. */
class BoundProgram implements Disposable {
  private binding: Binding | undefined;

  constructor(
    private readonly program: Program,
    private readonly inputs: BatchInputs,
    private readonly fixed: Readonly<Record<string, DeviceTensor>>,
    private readonly outputs: Readonly<Record<string, DeviceTensor>>,
  ) {}

  run(options: RunOptions): Promise<void> {
    this.binding ??= this.bind();
    return this.binding.run(options);
  }

  /** To be called with the inputs that have become other tensors. */
  replaced(names: readonly string[]): void {
    if (!this.binding) return;
    const { tensors } = this.inputs;
    const used = new Set(this.program.inputs.map(({ name }) => name));
    for (const name of names) if (used.has(name)) this.binding.set(name, tensors[name]!);
  }

  private bind(): Binding {
    const all = { ...this.fixed, ...this.inputs.tensors };
    return this.program.bind(
      Object.fromEntries(this.program.inputs.map(({ name }) => [name, all[name]!])),
      this.outputs,
    );
  }

  dispose(): void {
    this.binding?.dispose();
    this.program.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Whether the engine makes something of constant weights that it keeps beside them: its products over blocks need that. */
export const prepacks = ({ packed }: ConstantWeights): boolean =>
  Object.values(packed).some(({ kind }) => kind === "blocks" || kind === "rows");

/** How programs of training take frozen weights: as constants, and with products that are what is differentiated. */
export const withConstants = ({ constants }: WeightSet) => ({
  constants,
  exactProducts: true,
  prepacking: constants && prepacks(constants),
});

const gradientName = (parameter: string): string => `${parameter}.gradient`;
const accumulatedName = (parameter: string): string => `${parameter}.accumulated`;
const sumName = (part: string): string => `${part}.sum`;
const scaleName = (part: string): string => `${part}.scale`;

async function readParts(sums: Readonly<Record<string, DeviceTensor<"float32">>>): Promise<PartValues> {
  const values: Record<string, number> = {};
  for (const [part, tensor] of Object.entries(sums)) values[part] = (await tensor.read())[0]!;
  return values;
}

/** How the forward and backward pass are written. */
export interface PassOptions {
  /** Computes the insides of every layer again in the backward pass, Chen et al. 2016: less memory, a third more time. Default false. */
  readonly gradientCheckpointing?: boolean | undefined;
}

/**
 * The forward and backward pass over one micro-batch. The first micro-batch of a step writes the gradient buffers, later
 * ones add to them; both in place. The gradient buffers have a tensor for each parameter that learns: `weights.like` of
 * those. Frozen constants of `weights`, in few bits too, are differentiated through and take no gradient.
 */
export class TrainingStep implements Disposable {
  private readonly programs = new Map<boolean, Promise<BoundProgram>>();

  private constructor(
    private readonly objective: Objective,
    private readonly compileProgram: (accumulates: boolean) => Promise<BoundProgram>,
    private readonly inputs: BatchInputs,
    private readonly scales: Readonly<Record<string, DeviceTensor<"float32">>>,
    private readonly sums: Readonly<Record<string, DeviceTensor<"float32">>>,
    private readonly seed: DeviceTensor<"uint32">,
  ) {}

  /**
   * Compiles the program that writes gradients; the one that adds to them is compiled when it is first used, and takes as
   * much memory again. With `accumulates` it is the other way round.
   */
  static async create(
    objective: Objective,
    weights: Weights,
    gradientBuffers: Weights,
    { accumulates = false, gradientCheckpointing }: PassOptions & { readonly accumulates?: boolean } = {},
  ): Promise<TrainingStep> {
    const { runtime } = weights;
    const random = new RandomStream(input("seed", "uint32", []));
    const { sums } = lossGraph(objective, { random, gradientCheckpointing });
    const parts = Object.keys(sums);
    const total = parts
      .map((part) => mul(sums[part]!, input(scaleName(part), "float32", [])))
      .reduce((a, b) => add(a, b));
    const parameters = namedParameters(objective.model);
    // The engine begins with what leads to the last of a program's results alone: the last layers, whose activations are free
    // again before the first layers' gradients are computed.
    const names = [...parameters.keys()].filter((name) => gradientBuffers.tensors[name]);
    const found = gradients(
      total,
      names.map((name) => parameters.get(name)!.tensor),
      // A model may have parts that this objective does not use: a pooler, a head of another task.
      { allowUnused: true },
    );
    const partSums = Object.fromEntries(parts.map((part) => [sumName(part), sums[part]!]));
    const seed = runtime.createTensor("uint32", []);
    const scalars = () =>
      Object.fromEntries(parts.map((part) => [part, runtime.createTensor("float32", [])]));
    const [scales, sumTensors] = [scalars(), scalars()];
    const inputs = new BatchInputs(runtime, objective.inputs);
    const rename = <T>(values: Readonly<Record<string, T>>, name: (key: string) => string) =>
      Object.fromEntries(Object.entries(values).map(([key, value]) => [name(key), value]));
    const fixed = {
      ...weights.tensors,
      ...rename(gradientBuffers.tensors, accumulatedName),
      ...rename(scales, scaleName),
      seed,
    };
    const outputs = { ...rename(sumTensors, sumName), ...rename(gradientBuffers.tensors, gradientName) };
    const compileProgram = async (added: boolean): Promise<BoundProgram> => {
      const results = names.map((name, index) => {
        const gradient = found[index]!;
        const whole = added
          ? add(input(accumulatedName(name), "float32", gradient.shape), gradient)
          : gradient;
        return [gradientName(name), whole] as const;
      });
      const program = await compile(
        runtime,
        { ...partSums, ...Object.fromEntries(results) },
        {
          ...withConstants(weights),
          name: added ? "step (accumulating)" : "step",
          memoryPattern: false,
        },
      );
      return new BoundProgram(program, inputs, fixed, outputs);
    };
    const step = new TrainingStep(objective, compileProgram, inputs, scales, sumTensors, seed);
    await step.program(accumulates);
    return step;
  }

  private program(accumulates: boolean): Promise<BoundProgram> {
    const known = this.programs.get(accumulates);
    if (known) return known;
    const made = this.compileProgram(accumulates);
    this.programs.set(accumulates, made);
    return made;
  }

  /**
   * Runs one micro-batch and returns the sum of each part of its loss.
   * @param options.counts those of the whole step, `totalCounts` of its micro-batches: they make accumulated batches
   *   weigh as one big batch does. Default: the batch's own
   * @param options.accumulate whether the gradients are added to those in the buffers
   */
  async run(
    batch: Batch,
    options: RunOptions & {
      readonly counts?: PartValues;
      readonly accumulate?: boolean;
      readonly seed?: number;
    } = {},
  ): Promise<PartValues> {
    const program = await this.program(options.accumulate ?? false);
    const replaced = this.inputs.write(batch);
    // Also in the one that this run does not use: the next one may.
    for (const made of this.programs.values()) (await made).replaced(replaced);
    for (const [part, scale] of Object.entries(this.scales)) {
      const count = countOf(part, options.counts ?? batch.counts);
      scale.write(Float32Array.of(count === 0 ? 0 : weightOf(this.objective, part) / count));
    }
    this.seed.write(Uint32Array.of(options.seed ?? 0));
    await program.run({ signal: options.signal });
    return readParts(this.sums);
  }

  dispose(): void {
    for (const made of this.programs.values()) {
      made.then(
        (program) => {
          program.dispose();
        },
        () => undefined, // What could not be compiled has been reported, and holds nothing.
      );
    }
    this.inputs.dispose();
    for (const tensor of [this.seed, ...Object.values(this.scales), ...Object.values(this.sums)])
      tensor.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** The forward pass alone, without dropout: the loss over batches of any number. */
export class EvaluationStep implements Disposable {
  private constructor(
    private readonly objective: Objective,
    private readonly program: BoundProgram,
    private readonly inputs: BatchInputs,
    private readonly sums: Readonly<Record<string, DeviceTensor<"float32">>>,
  ) {}

  static async create(objective: Objective, weights: WeightSet): Promise<EvaluationStep> {
    const { runtime } = weights;
    const { sums } = lossGraph(objective, {});
    const parts = Object.keys(sums);
    const program = await compile(
      runtime,
      Object.fromEntries(parts.map((part) => [sumName(part), sums[part]!])),
      { ...withConstants(weights), name: "evaluation", memoryPattern: false },
    );
    const tensors = Object.fromEntries(parts.map((part) => [part, runtime.createTensor("float32", [])]));
    const inputs = new BatchInputs(runtime, objective.inputs);
    const outputs = Object.fromEntries(parts.map((part) => [sumName(part), tensors[part]!]));
    return new EvaluationStep(
      objective,
      new BoundProgram(program, inputs, weights.tensors, outputs),
      inputs,
      tensors,
    );
  }

  /** Sums of the parts of one batch. */
  async run(batch: Batch, options: RunOptions = {}): Promise<PartValues> {
    this.program.replaced(this.inputs.write(batch));
    await this.program.run(options);
    return readParts(this.sums);
  }

  /** The loss over all of `batches`. Throws `data` when they have nothing that counts. */
  async evaluate(
    batches: Iterable<Batch> | AsyncIterable<Batch>,
    options: RunOptions = {},
  ): Promise<Loss & { readonly counts: PartValues }> {
    const sums: Record<string, number> = {};
    const counts: Record<string, number> = {};
    for await (const batch of batches) {
      addParts(sums, await this.run(batch, options));
      addParts(counts, batch.counts);
    }
    if (Object.values(counts).every((count) => count === 0))
      throw new LineageError("data", "there is nothing to evaluate: no batch has a label that counts");
    return { ...lossOf(this.objective, sums, counts), counts };
  }

  dispose(): void {
    this.program.dispose();
    this.inputs.dispose();
    for (const tensor of Object.values(this.sums)) tensor.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
