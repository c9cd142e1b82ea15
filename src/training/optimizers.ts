import { LineageError } from "../base/errors.js";
import { type Tensor, add, compile, div, input, mul, sqrt, square, sub, sum } from "../graph/index.js";
import type { Weights } from "../nn/index.js";
import type { Binding, DeviceTensor, Program, Runtime, RunOptions } from "../runtime/types.js";

/**
 * Elements that one run of an update touches: four float32 buffers of this length stay within the cache while a dozen
 * operations pass over them.
 */
const chunkSize = 65_536;

export interface UpdateOptions extends RunOptions {
  readonly learningRate: number;
  /** Factor of the gradients: that of clipping, or of loss scaling. Default 1. */
  readonly gradientScale?: number;
}

/** An optimiser whose state lies beside the weights, in buffers of the same layout. */
export interface Optimizer extends Disposable {
  /** Steps taken. */
  readonly steps: number;
  /** State buffers by name, as a checkpoint keeps them. */
  readonly state: Readonly<Record<string, Weights>>;
  /** Updates the weights in place from the gradients. */
  update(options: UpdateOptions): Promise<void>;
  /** Continues after that many steps, with the state as it was loaded. */
  restore(steps: number): void;
  dispose(): void;
}

/** The new values of one run of elements from the old ones; all `[elements]`, the hyper-parameters scalars. */
type Rule = (
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
    private readonly scalars: Readonly<Record<string, DeviceTensor<"float32">>>,
    readonly state: Readonly<Record<string, Weights>>,
    private readonly scalarsAt: (step: number, options: UpdateOptions) => Record<string, number>,
  ) {}

  static async create(
    weights: Weights,
    gradients: Weights,
    options: {
      name: string;
      state: readonly string[];
      weightDecay: number;
      rule: Rule;
      scalarsAt: (step: number, options: UpdateOptions) => Record<string, number>;
    },
  ): Promise<ElementwiseOptimizer> {
    const { runtime } = weights;
    const state = Object.fromEntries(options.state.map((name) => [name, weights.like()]));
    const buffers: Record<string, Weights> = { parameter: weights, gradient: gradients, ...state };
    const values = Object.fromEntries(
      Object.keys(buffers).map((name) => [name, input(name, "float32", ["elements"])]),
    );
    const names = [...Object.keys(options.scalarsAt(1, { learningRate: 0 })), "weightDecay"];
    const scalarInputs = Object.fromEntries(names.map((name) => [name, input(name, "float32", [])]));
    const updated = options.rule(values, scalarInputs);
    const program = await compile(
      runtime,
      Object.fromEntries(Object.entries(updated).map(([name, tensor]) => [`${name}.new`, tensor])),
      { name: options.name },
    );
    const used = new Set(program.inputs.map(({ name }) => name));
    const scalars = Object.fromEntries(names.map((name) => [name, runtime.createTensor("float32", [])]));
    const decay = {
      matrices: runtime.createTensor("float32", [], Float32Array.of(options.weightDecay)),
      vectors: runtime.createTensor("float32", []),
    };
    const slices: DeviceTensor[] = [decay.matrices, decay.vectors];
    const bindings: Binding[] = [];
    for (const { name: group, offset, size } of weights.layout.groups) {
      for (let start = offset; start < offset + size; start += chunkSize) {
        const length = Math.min(chunkSize, offset + size - start);
        const chunk = Object.fromEntries(
          Object.entries(buffers).map(([name, buffer]) => [name, buffer.flat.slice(start, [length])]),
        );
        slices.push(...Object.values(chunk));
        const inputs = Object.fromEntries(
          Object.entries({ ...scalars, ...chunk, weightDecay: decay[group] }).filter(([name]) =>
            used.has(name),
          ),
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
    for (const [name, value] of Object.entries(this.scalarsAt(step, options)))
      this.scalars[name]!.write(Float32Array.of(value));
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
    for (const scalar of Object.values(this.scalars)) scalar.dispose();
    for (const buffer of Object.values(this.state)) buffer.dispose();
    this.program.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
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

export interface AdamWOptions {
  readonly betas?: readonly [number, number];
  readonly epsilon?: number;
  /** Applied to matrices alone. Default 0.01. */
  readonly weightDecay?: number;
}

/** Adam with decoupled weight decay, Loshchilov & Hutter 2019, algorithm 2; the same numbers as PyTorch's `AdamW`. */
export function adamW(weights: Weights, gradients: Weights, options: AdamWOptions = {}): Promise<Optimizer> {
  const { betas: [beta1, beta2] = [0.9, 0.999], epsilon = 1e-8, weightDecay = 0.01 } = options;
  return ElementwiseOptimizer.create(weights, gradients, {
    name: "adamW",
    state: ["firstMoment", "secondMoment"],
    weightDecay,
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
  });
}

export interface SgdOptions {
  /** Default 0. */
  readonly momentum?: number;
  /** Added to the gradient of matrices, as PyTorch's `SGD` has it. Default 0. */
  readonly weightDecay?: number;
}

/** Stochastic gradient descent with momentum, as PyTorch's `SGD`. */
export function sgd(
  weights: Weights,
  gradients: Weights,
  { momentum = 0, weightDecay = 0 }: SgdOptions = {},
): Promise<Optimizer> {
  return ElementwiseOptimizer.create(weights, gradients, {
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
      { sum: sum(square(input("gradient", "float32", ["elements"]))) },
      { name: "gradientNorm" },
    );
    const count = Math.ceil(gradients.layout.size / chunkSize);
    const sums = runtime.createTensor("float32", [count]);
    const slices: DeviceTensor[] = [];
    const bindings = Array.from({ length: count }, (_, index) => {
      const start = index * chunkSize;
      const chunk = gradients.flat.slice(start, [Math.min(chunkSize, gradients.layout.size - start)]);
      const result = sums.slice(index, []);
      slices.push(chunk, result);
      return program.bind({ gradient: chunk }, { sum: result });
    });
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
    const average = weights.like();
    average.flat.write(weights.flat.view());
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
