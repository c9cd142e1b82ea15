import { LineageError } from "../base/errors.js";
import {
  type Tensor,
  add,
  compile,
  div,
  input,
  maximum,
  mean,
  mul,
  sqrt,
  square,
  sub,
  sum,
  unsqueeze,
} from "../graph/index.js";
import { type Parameter, type Weights, alignedSize } from "../nn/index.js";
import type { Binding, DeviceTensor, Program, Runtime, RunOptions } from "../runtime/types.js";

/**
 * Elements that one run of an update touches: four float32 buffers of this length stay within the cache of a processor
 * while a dozen operations pass over them. A GPU's cache is larger, and so are its costs of a run.
 */
const chunkSizeOf = ({ device }: Runtime): number => (device === "cuda" ? 2 ** 22 : 65_536);

export interface UpdateOptions extends RunOptions {
  readonly learningRate: number;
  /** Factor of the gradients: that of clipping, or of loss scaling. Default 1. */
  readonly gradientScale?: number;
}

/** Tensors of an optimiser's memory, by parameter: numbers, or codes that stand for them. */
export interface OptimizerState extends Disposable {
  readonly tensors: Readonly<Record<string, DeviceTensor<"float32" | "uint8">>>;
}

/** An optimiser whose state lies beside the weights. */
export interface Optimizer extends Disposable {
  /** Steps taken. */
  readonly steps: number;
  /** State by name, as a checkpoint keeps it. */
  readonly state: Readonly<Record<string, OptimizerState>>;
  /** Updates the weights in place from the gradients. */
  update(options: UpdateOptions): Promise<void>;
  /** Continues after that many steps, with the state as it was loaded. */
  restore(steps: number): void;
  dispose(): void;
}

/** What an optimiser does differently for some parameters. */
export interface ParameterOptions {
  /** Factor of a parameter's learning rate, by its dotted name: layer-wise decay. Default 1. */
  readonly learningRateFactor?: (name: string) => number;
  /** Whether weight decay applies. Default: to matrices, and not to biases and norms. */
  readonly decays?: (name: string, parameter: Parameter) => boolean;
}

/** Elements that lie together in the weights and in the gradients, and are treated alike. */
interface Run {
  readonly parameterOffset: number;
  readonly gradientOffset: number;
  size: number;
  readonly decays: boolean;
  readonly factor: number;
}

export const isMatrix = (_: string, parameter: Parameter): boolean => parameter.shape.length >= 2;

/** The longest runs of the parameters that have gradients: one for matrices and one for vectors, where nothing parts them. */
function runsOf(weights: Weights, gradients: Weights, options: ParameterOptions): Run[] {
  const { learningRateFactor = () => 1, decays = isMatrix } = options;
  const runs: Run[] = [];
  for (const [name, { parameter, offset, size }] of gradients.layout.placements) {
    const factor = learningRateFactor(name);
    if (!(factor >= 0 && Number.isFinite(factor)))
      throw new LineageError(
        "argument",
        `the factor of the learning rate of ${name} must be 0 or positive, not ${factor}`,
      );
    const next: Run = {
      parameterOffset: weights.layout.placements.get(name)!.offset,
      gradientOffset: offset,
      size: alignedSize(size),
      decays: decays(name, parameter),
      factor,
    };
    const last = runs.at(-1);
    if (
      last?.factor === factor &&
      last.decays === next.decays &&
      last.parameterOffset + last.size === next.parameterOffset &&
      last.gradientOffset + last.size === next.gradientOffset
    )
      last.size += next.size;
    else runs.push(next);
  }
  return runs;
}

/** The new values of one run of elements from the old ones; all `[elements]`, the hyper-parameters scalars. */
export type Rule = (
  values: Readonly<Record<string, Tensor>>,
  scalars: Readonly<Record<string, Tensor>>,
) => Record<string, Tensor>;

/** An elementwise optimiser: one small program, run over slices of the flat buffers, writing in place. */
class ElementwiseOptimizer implements Optimizer {
  steps = 0;

  private constructor(
    private readonly program: Program,
    private readonly bindings: readonly Binding[],
    private readonly slices: readonly DeviceTensor[],
    private readonly scalars: RatedScalars,
    readonly state: Readonly<Record<string, Weights>>,
    private readonly scalarsAt: (step: number, options: UpdateOptions) => Record<string, number>,
  ) {}

  static async create(
    weights: Weights,
    gradients: Weights,
    options: ParameterOptions & {
      name: string;
      state: readonly string[];
      weightDecay: number;
      pagedIn?: string | undefined;
      rule: Rule;
      scalarsAt: (step: number, options: UpdateOptions) => Record<string, number>;
    },
  ): Promise<ElementwiseOptimizer> {
    const { runtime } = weights;
    const chunkSize = chunkSizeOf(runtime);
    const runs = runsOf(weights, gradients, options);
    const state = Object.fromEntries(
      options.state.map((name) => [name, gradients.like(undefined, options.pagedIn)]),
    );
    const values = Object.fromEntries(
      ["parameter", "gradient", ...options.state].map((name) => [name, input(name, "float32", ["elements"])]),
    );
    const names = Object.keys(options.scalarsAt(1, { learningRate: 0 }));
    const scalarInputs = Object.fromEntries(
      [...names, "weightDecay"].map((name) => [name, input(name, "float32", [])]),
    );
    const updated = options.rule(values, scalarInputs);
    const program = await compile(
      runtime,
      Object.fromEntries(Object.entries(updated).map(([name, tensor]) => [`${name}.new`, tensor])),
      { name: options.name },
    );
    const used = new Set(program.inputs.map(({ name }) => name));
    const scalars = new Map(
      [...new Set(runs.map(({ factor }) => factor))].map((factor) => [
        factor,
        Object.fromEntries(names.map((name) => [name, runtime.createTensor("float32", [])])),
      ]),
    );
    const decay = runtime.createTensor("float32", [], Float32Array.of(options.weightDecay));
    const noDecay = runtime.createTensor("float32", []);
    const slices: DeviceTensor[] = [decay, noDecay];
    const bindings: Binding[] = [];
    for (const { parameterOffset, gradientOffset, size, decays, factor } of runs) {
      for (let start = 0; start < size; start += chunkSize) {
        const length = Math.min(chunkSize, size - start);
        const besideGradient = { gradient: gradients, ...state };
        const chunk: Record<string, DeviceTensor> = {
          parameter: weights.flat.slice(parameterOffset + start, [length]),
          ...Object.fromEntries(
            Object.entries(besideGradient).map(([name, buffer]) => [
              name,
              buffer.flat.slice(gradientOffset + start, [length]),
            ]),
          ),
        };
        slices.push(...Object.values(chunk));
        const inputs = Object.fromEntries(
          Object.entries({
            ...scalars.get(factor),
            ...chunk,
            weightDecay: decays ? decay : noDecay,
          }).filter(([name]) => used.has(name)),
        );
        const outputs = Object.fromEntries(Object.keys(updated).map((name) => [`${name}.new`, chunk[name]!]));
        bindings.push(program.bind(inputs, outputs));
      }
    }
    return new ElementwiseOptimizer(program, bindings, slices, scalars, state, options.scalarsAt);
  }

  async update(options: UpdateOptions): Promise<void> {
    options.signal?.throwIfAborted();
    const step = this.steps + 1;
    writeScalars(this.scalars, (rated) => this.scalarsAt(step, rated), options);
    // No signal inside: a half-updated model is neither the old one nor the new one.
    await runAll(this.bindings);
    this.steps = step;
  }

  restore(steps: number): void {
    this.steps = steps;
  }

  dispose(): void {
    for (const binding of this.bindings) binding.dispose();
    for (const slice of this.slices) slice.dispose();
    for (const scalars of this.scalars.values())
      for (const scalar of Object.values(scalars)) scalar.dispose();
    for (const buffer of Object.values(this.state)) buffer.dispose();
    this.program.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Hyper-parameters of a step, by the factor of the learning rate. */
export type RatedScalars = ReadonlyMap<number, Readonly<Record<string, DeviceTensor<"float32">>>>;

/** Writes the hyper-parameters of a step, for each factor of the learning rate its own. */
export function writeScalars(
  scalars: RatedScalars,
  valuesAt: (options: UpdateOptions) => Readonly<Record<string, number>>,
  options: UpdateOptions,
): void {
  for (const [factor, tensors] of scalars) {
    const values = valuesAt({ ...options, learningRate: options.learningRate * factor });
    for (const [name, value] of Object.entries(values)) tensors[name]!.write(Float32Array.of(value));
  }
}

/** Many short runs on this thread, giving the event loop a turn every few milliseconds. */
async function runAll(bindings: readonly Binding[]): Promise<void> {
  let pause = performance.now() + 8;
  for (const binding of bindings) {
    if (!binding.synchronous) {
      await binding.run();
      continue;
    }
    binding.runSync();
    if (performance.now() > pause) {
      await new Promise((resolve) => setImmediate(resolve));
      pause = performance.now() + 8;
    }
  }
}

export interface AdamWOptions extends ParameterOptions {
  readonly betas?: readonly [number, number];
  readonly epsilon?: number;
  /** Of the parameters that `decays` names. Default 0.01. */
  readonly weightDecay?: number;
  /** A folder on whose disk the moments lie (`Runtime.createPagedTensor`). Default: in memory. */
  readonly pagedIn?: string | undefined;
}

/** Adam with decoupled weight decay, Loshchilov & Hutter 2019, algorithm 2; the same numbers as PyTorch's `AdamW`. */
export function adamW(weights: Weights, gradients: Weights, options: AdamWOptions = {}): Promise<Optimizer> {
  return ElementwiseOptimizer.create(weights, gradients, {
    ...options,
    name: "adamW",
    state: ["firstMoment", "secondMoment"],
    weightDecay: options.weightDecay ?? usualDecay,
    ...adamWRule(options),
  });
}

/** AdamW's weight decay where nobody says, as PyTorch has it. */
export const usualDecay = 0.01;

/** What AdamW makes of a run of elements, and the hyper-parameters of a step. */
export function adamWRule({ betas: [beta1, beta2] = [0.9, 0.999], epsilon = 1e-8 }: AdamWOptions): {
  readonly rule: Rule;
  readonly scalarsAt: (step: number, options: UpdateOptions) => Record<string, number>;
} {
  return {
    rule: (
      { parameter, gradient, firstMoment, secondMoment },
      { learningRate, gradientScale, stepSize, inverseRootCorrection, weightDecay: decay },
    ) => {
      const g = mul(gradient!, gradientScale!);
      const m = add(mul(firstMoment!, beta1), mul(g, 1 - beta1));
      const v = add(mul(secondMoment!, beta2), mul(square(g), 1 - beta2));
      const direction = div(m, add(mul(sqrt(v), inverseRootCorrection!), epsilon));
      const kept = mul(parameter!, sub(1, mul(learningRate!, decay!)));
      return { parameter: sub(kept, mul(direction, stepSize!)), firstMoment: m, secondMoment: v };
    },
    scalarsAt: (step, { learningRate, gradientScale = 1 }) => ({
      learningRate,
      gradientScale,
      stepSize: learningRate / (1 - beta1 ** step),
      inverseRootCorrection: 1 / Math.sqrt(1 - beta2 ** step),
    }),
  };
}

export interface SgdOptions extends ParameterOptions {
  /** Default 0. */
  readonly momentum?: number;
  /** Added to the gradient, as PyTorch's `SGD` has it, of the parameters that `decays` names. Default 0. */
  readonly weightDecay?: number;
}

/** Stochastic gradient descent with momentum, as PyTorch's `SGD`. */
export function sgd(weights: Weights, gradients: Weights, options: SgdOptions = {}): Promise<Optimizer> {
  const { momentum = 0, weightDecay = 0 } = options;
  return ElementwiseOptimizer.create(weights, gradients, {
    ...options,
    name: "sgd",
    state: momentum === 0 ? [] : ["velocity"],
    weightDecay,
    rule: ({ parameter, gradient, velocity }, { learningRate, gradientScale, weightDecay: decay }) => {
      const g = add(mul(gradient!, gradientScale!), mul(parameter!, decay!));
      const v = velocity ? add(mul(velocity, momentum), g) : g;
      return { parameter: sub(parameter!, mul(v, learningRate!)), ...(velocity && { velocity: v }) };
    },
    scalarsAt: (_, { learningRate, gradientScale = 1 }) => ({ learningRate, gradientScale }),
  });
}

export interface AdafactorOptions extends ParameterOptions {
  /** Added to squared gradients, and least size of a parameter where steps are relative to it. */
  readonly epsilons?: readonly [number, number];
  /** Limit of the root mean square of an update. Default 1. */
  readonly clipThreshold?: number;
  /** Exponent of the growing memory of squared gradients. Default -0.8. */
  readonly decayRate?: number;
  /** Memory of the updates themselves. Default: none, which saves a buffer as large as the weights. */
  readonly beta1?: number;
  /** Default 0. */
  readonly weightDecay?: number;
  /** Weights lose this power of the learning rate at every step, whatever their size; `weightDecay` has no effect then. */
  readonly weightDecayPower?: number;
  /** Whether a parameter's step is its own root mean square times the learning rate. Default true. */
  readonly scaleParameter?: boolean;
  /** Whether of a matrix's squared gradients only the means of rows and columns are kept. Default true. */
  readonly factored?: boolean;
}

/**
 * Adafactor as PaLM was trained with it, Chowdhery et al. 2022, section 5: squared gradients are kept whole, which is Adam with steps
 * relative to a parameter's size, a momentum of 0.9, and a weight decay of the learning rate squared. The paper clips the global norm
 * of the gradients at 1; its rate is the schedule `relative`.
 *
 * EasyLM's `PalmOptimizerFactory`, an implementation by others, has the same: not factored, steps relative to a parameter's size,
 * momentum 0.9, a rate of 1 / sqrt(max(step, 10,000)), a decay of the rate squared, the norm clipped at 1. It differs in two: the
 * exponent of the memory is 0.99 there and 0.8 here, as in the paper and in Adafactor's, and it does not clip single updates.
 */
export const palmAdafactor = {
  factored: false,
  beta1: 0.9,
  decayRate: -0.8,
  weightDecayPower: 2,
} as const satisfies AdafactorOptions;

/** One parameter's tensors as its program sees them. */
interface AdafactorSlot {
  readonly binding: Binding;
  readonly factor: number;
}

/**
 * Adafactor, Shazeer & Stern 2018, algorithms 4 and 5: squared gradients of a matrix are remembered as the means of its
 * rows and columns alone, of more than two axes for the last two, unless `factored` is off; the same numbers as transformers' `Adafactor`. The
 * paper's relative step sizes are the schedule `step => Math.min(1e-2, 1 / Math.sqrt(step))` with `scaleParameter`.
 */
export async function adafactor(
  weights: Weights,
  gradients: Weights,
  options: AdafactorOptions = {},
): Promise<Optimizer> {
  return Adafactor.create(weights, gradients, options);
}

class Adafactor implements Optimizer {
  steps = 0;

  private constructor(
    private readonly programs: readonly Program[],
    private readonly slots: readonly AdafactorSlot[],
    private readonly owned: readonly DeviceTensor[],
    private readonly scalars: RatedScalars,
    readonly state: Readonly<Record<string, OptimizerState>>,
    private readonly powers: { readonly decayRate: number; readonly weightDecayPower: number | undefined },
  ) {}

  static async create(weights: Weights, gradients: Weights, options: AdafactorOptions): Promise<Adafactor> {
    const { runtime } = weights;
    const {
      decayRate = -0.8,
      beta1,
      weightDecay = 0,
      weightDecayPower,
      factored = true,
      decays = isMatrix,
      learningRateFactor = () => 1,
    } = options;
    const [matrices, vectors] = [
      factored ? await adafactorProgram(runtime, ["stack", "rows", "columns"], options) : undefined,
      await adafactorProgram(runtime, ["elements"], options),
    ];
    // With a power of the rate this says whether there is decay at all.
    const most = weightDecayPower === undefined ? weightDecay : 1;
    const decay = runtime.createTensor("float32", [], Float32Array.of(most));
    const noDecay = runtime.createTensor("float32", []);
    const owned: DeviceTensor[] = [decay, noDecay];
    const kept: Record<string, Record<string, DeviceTensor<"float32">>> = {
      rowMoment: {},
      columnMoment: {},
      secondMoment: {},
    };
    const firstMoment = beta1 === undefined ? undefined : gradients.like();
    const scalars = new Map<number, Record<string, DeviceTensor<"float32">>>();
    const slots: AdafactorSlot[] = [];
    for (const [name, { parameter, offset, size }] of gradients.layout.placements) {
      const { shape } = parameter;
      const matrix = factored && shape.length >= 2;
      const [rows = 1, columns = 1] = shape.slice(-2);
      const view = matrix ? [size / (rows * columns), rows, columns] : [size];
      const memory = (kind: string, memoryShape: readonly number[]) =>
        (kept[kind]![name] = runtime.createTensor("float32", memoryShape));
      const state: Record<string, DeviceTensor> = matrix
        ? {
            rowMoment: memory("rowMoment", [view[0]!, rows]),
            columnMoment: memory("columnMoment", [view[0]!, columns]),
          }
        : { secondMoment: memory("secondMoment", view) };
      if (firstMoment) state["firstMoment"] = firstMoment.flat.slice(offset, view);
      const parameterTensor = weights.flat.slice(weights.layout.placements.get(name)!.offset, view);
      const gradient = gradients.flat.slice(offset, view);
      owned.push(parameterTensor, gradient, ...(firstMoment ? [state["firstMoment"]!] : []));
      const factor = learningRateFactor(name);
      if (!scalars.has(factor))
        scalars.set(
          factor,
          Object.fromEntries(
            ["learningRate", "gradientScale", "keep", "decayOfStep"].map((key) => [
              key,
              runtime.createTensor("float32", []),
            ]),
          ),
        );
      const all: Record<string, DeviceTensor> = {
        ...scalars.get(factor),
        ...state,
        parameter: parameterTensor,
        gradient,
        weightDecay: decays(name, parameter) ? decay : noDecay,
      };
      const program = matrix ? matrices! : vectors;
      slots.push({
        factor,
        binding: program.bind(
          Object.fromEntries(program.inputs.map(({ name: key }) => [key, all[key]!])),
          Object.fromEntries(program.outputs.map(({ name: key }) => [key, all[key.replace(/\.new$/, "")]!])),
        ),
      });
    }
    const state: Record<string, OptimizerState> = Object.fromEntries(
      Object.entries(kept).map(([kind, tensors]) => [kind, stateOf(tensors)]),
    );
    if (firstMoment) state["firstMoment"] = firstMoment;
    const programs = matrices ? [matrices, vectors] : [vectors];
    return new Adafactor(programs, slots, owned, scalars, state, { decayRate, weightDecayPower });
  }

  async update(options: UpdateOptions): Promise<void> {
    options.signal?.throwIfAborted();
    const step = this.steps + 1;
    const { decayRate, weightDecayPower = 0 } = this.powers;
    const scalarsAt = ({ learningRate, gradientScale = 1 }: UpdateOptions) => ({
      learningRate,
      gradientScale,
      keep: 1 - step ** decayRate,
      decayOfStep: learningRate ** weightDecayPower,
    });
    writeScalars(this.scalars, scalarsAt, options);
    // No signal inside: a half-updated model is neither the old one nor the new one.
    for (const { binding } of this.slots) await binding.run();
    this.steps = step;
  }

  restore(steps: number): void {
    this.steps = steps;
  }

  dispose(): void {
    for (const { binding } of this.slots) binding.dispose();
    for (const tensor of this.owned) tensor.dispose();
    for (const scalars of this.scalars.values())
      for (const scalar of Object.values(scalars)) scalar.dispose();
    for (const state of Object.values(this.state)) state[Symbol.dispose]();
    for (const program of this.programs) program.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

export const stateOf = (tensors: OptimizerState["tensors"]): OptimizerState => ({
  tensors,
  [Symbol.dispose]: () => {
    for (const tensor of Object.values(tensors)) tensor.dispose();
  },
});

/** Adafactor's update of one parameter: of matrices `[stack, rows, columns]`, or of a vector `[elements]`. */
function adafactorProgram(
  runtime: Runtime,
  shape: readonly string[],
  options: AdafactorOptions,
): Promise<Program> {
  const { epsilons = [1e-30, 1e-3], clipThreshold = 1, beta1, scaleParameter = true } = options;
  const { weightDecayPower } = options;
  const scalar = (name: string) => input(name, "float32", []);
  const rootMeanSquare = (x: Tensor) => sqrt(mean(square(x)));
  const parameter = input("parameter", "float32", shape);
  const gradient = mul(input("gradient", "float32", shape), scalar("gradientScale"));
  const keep = scalar("keep");
  const blend = (name: string, value: Tensor) =>
    add(mul(input(name, "float32", value.shape), keep), mul(value, sub(1, keep)));
  const squares = add(square(gradient), epsilons[0]);
  const results: Record<string, Tensor> = {};
  let update: Tensor;
  if (shape.length > 1) {
    const rows = (results["rowMoment.new"] = blend("rowMoment", mean(squares, { axes: -1 })));
    const columns = (results["columnMoment.new"] = blend("columnMoment", mean(squares, { axes: -2 })));
    const rowScale = sqrt(div(rows, mean(rows, { axes: -1, keepDims: true })));
    update = div(div(gradient, unsqueeze(rowScale, -1)), unsqueeze(sqrt(columns), -2));
  } else {
    const second = (results["secondMoment.new"] = blend("secondMoment", squares));
    update = div(gradient, sqrt(second));
  }
  const excess = maximum(div(rootMeanSquare(update), clipThreshold), 1);
  const rate = scaleParameter
    ? mul(scalar("learningRate"), maximum(rootMeanSquare(parameter), epsilons[1]))
    : scalar("learningRate");
  update = mul(div(update, excess), rate);
  if (beta1 !== undefined)
    update = results["firstMoment.new"] = add(
      mul(input("firstMoment", "float32", shape), beta1),
      mul(update, 1 - beta1),
    );
  const decay = weightDecayPower === undefined ? rate : scalar("decayOfStep");
  results["parameter.new"] = sub(mul(parameter, sub(1, mul(scalar("weightDecay"), decay))), update);
  return compile(runtime, results, { name: "adafactor" });
}

/**
 * Numbers that are summed as one row: CUDA's sum over all of a vector takes ten times as long as sums of rows and their sum.
 */
const rowSize = 1024;

/** Measures the global norm of the gradients: the root of the sum of all their squares. */
export class GradientNorm implements Disposable {
  private constructor(
    private readonly program: Program,
    private readonly bindings: readonly Binding[],
    private readonly sums: DeviceTensor<"float32">,
    private readonly slices: readonly DeviceTensor[],
  ) {}

  static async create(runtime: Runtime, gradients: Weights): Promise<GradientNorm> {
    const program = await compile(
      runtime,
      { sum: sum(sum(square(input("gradient", "float32", ["rows", "columns"])), { axes: -1 })) },
      { name: "gradientNorm" },
    );
    const chunkSize = chunkSizeOf(runtime);
    const slices: DeviceTensor[] = [];
    for (let start = 0, length; start < gradients.layout.size; start += length) {
      const rest = Math.min(chunkSize, gradients.layout.size - start);
      // What fills no row is a row of its own.
      const rows = Math.floor(rest / rowSize);
      length = rows > 0 ? rows * rowSize : rest;
      slices.push(gradients.flat.slice(start, rows > 0 ? [rows, rowSize] : [1, rest]));
    }
    const sums = runtime.createTensor("float32", [slices.length]);
    const results = slices.map((_, index) => sums.slice(index, []));
    const bindings = slices.map((chunk, index) =>
      program.bind({ gradient: chunk }, { sum: results[index]! }),
    );
    slices.push(...results);
    return new GradientNorm(program, bindings, sums, slices);
  }

  async measure(): Promise<number> {
    await runAll(this.bindings);
    let total = 0;
    for (const part of await this.sums.read()) total += part;
    return Math.sqrt(total);
  }

  dispose(): void {
    for (const binding of this.bindings) binding.dispose();
    for (const slice of this.slices) slice.dispose();
    this.sums.dispose();
    this.program.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** The factor that brings a gradient of norm `norm` down to `limit`; 1 for a shorter one. Pascanu et al. 2013. */
export function clippingFactor(norm: number, limit: number | undefined): number {
  if (limit === undefined) return 1;
  if (!(limit > 0))
    throw new LineageError("argument", `the limit of the gradient norm must be positive, not ${limit}`);
  return Math.min(1, limit / (norm + 1e-6));
}

/**
 * Exponential moving average of the weights, Polyak & Juditsky 1992: `average = decay average + (1 - decay) weights` after
 * every step. It starts as the weights are.
 */
export class WeightAverage implements Disposable {
  private constructor(
    /** The averaged weights. */
    readonly weights: Weights,
    private readonly program: Program,
    private readonly binding: Binding,
  ) {}

  static async create(weights: Weights, decay: number): Promise<WeightAverage> {
    if (!(decay > 0 && decay < 1))
      throw new LineageError("argument", `the decay of the average must lie in (0, 1), not ${decay}`);
    const average = weights.copy();
    const [old, current] = [
      input("average", "float32", ["elements"]),
      input("weights", "float32", ["elements"]),
    ];
    const program = await compile(
      weights.runtime,
      { "average.new": add(old, mul(sub(current, old), 1 - decay)) },
      { name: "weightAverage" },
    );
    const binding = program.bind(
      { average: average.flat, weights: weights.flat },
      { "average.new": average.flat },
    );
    return new WeightAverage(average, program, binding);
  }

  update(): Promise<void> {
    return this.binding.run();
  }

  dispose(): void {
    this.binding.dispose();
    this.program.dispose();
    this.weights.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
