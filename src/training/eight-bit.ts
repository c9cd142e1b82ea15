import { LineageError } from "../base/errors.js";
import { compile, input } from "../graph/index.js";
import { type Parameter, type Weights } from "../nn/index.js";
import { DynamicRounding, dynamicBlock } from "../quantization/index.js";
import type { Binding, DeviceTensor, Program } from "../runtime/types.js";
import {
  type AdamWOptions,
  type Optimizer,
  type OptimizerState,
  type RatedScalars,
  type UpdateOptions,
  adamWRule,
  isMatrix,
  stateOf,
  usualDecay,
  writeScalars,
} from "./optimizers.js";

// AdamW whose moments are kept in 8 bits, Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization", with the sizes
// of bitsandbytes.

/** Elements of an update at once: all that it reads and writes of them stays within the cache of a processor. */
const chunkSize = 65_536;

/** Parameters of fewer elements keep their moments in float32, as in bitsandbytes. */
const leastSize = 4096;

const isPacked = ({ size }: Parameter): boolean => size >= leastSize;

/** Float32 elements that the moments of a parameter take. */
export const adamW8bitStateSize = (parameter: Parameter): number =>
  isPacked(parameter)
    ? 2 * (parameter.size / 4 + Math.ceil(parameter.size / dynamicBlock))
    : 2 * parameter.size;

const moments = ["firstMoment", "secondMoment"] as const;
type Moment = (typeof moments)[number];

/** The first moment has a sign, the second has none. */
const roundings: Readonly<Record<Moment, DynamicRounding>> = {
  firstMoment: new DynamicRounding(true),
  secondMoment: new DynamicRounding(false),
};

/** A moment of a run of elements in 8 bits. */
interface PackedMoment {
  readonly codes: Uint8Array;
  readonly largest: Float32Array;
}

/** Elements of one parameter that an update treats at once. */
interface Chunk {
  readonly binding: Binding;
  readonly length: number;
  /** Absent where the moments are in float32 and bound themselves. */
  readonly packed: Readonly<Record<Moment, PackedMoment>> | undefined;
}

/**
 * `adamW` with moments in 8 bits: a quarter of their memory. Every 256 of a parameter's elements share a scale. The update is
 * computed in float32; what it leaves is rounded to the nearest of 256 numbers of a dynamic data type, signed for the first
 * moment. Throws `unsupported` on other devices than the CPU.
 */
export const adamW8bit = (
  weights: Weights,
  gradients: Weights,
  options: AdamWOptions = {},
): Promise<Optimizer> => EightBitAdamW.create(weights, gradients, options);

class EightBitAdamW implements Optimizer {
  steps = 0;

  private constructor(
    private readonly program: Program,
    private readonly chunks: readonly Chunk[],
    private readonly owned: readonly DeviceTensor[],
    private readonly scalars: RatedScalars,
    /** Moments of a chunk in float32, for the time of its update. */
    private readonly wide: Readonly<Record<Moment, Float32Array>>,
    readonly state: Readonly<Record<string, OptimizerState>>,
    private readonly scalarsAt: ReturnType<typeof adamWRule>["scalarsAt"],
  ) {}

  static async create(weights: Weights, gradients: Weights, options: AdamWOptions): Promise<EightBitAdamW> {
    const { runtime } = weights;
    if (runtime.device !== "cpu" && runtime.device !== "wasm")
      throw new LineageError(
        "unsupported",
        `moments in 8 bits are rounded by the processor, not by ${runtime.device}: train on the CPU, or with adamw`,
      );
    const { learningRateFactor = () => 1, decays = isMatrix, weightDecay = usualDecay, pagedIn } = options;
    const { rule, scalarsAt } = adamWRule(options);
    const elementwise = ["parameter", "gradient", ...moments];
    const named = (names: readonly string[], shape: readonly string[]) =>
      Object.fromEntries(names.map((name) => [name, input(name, "float32", shape)]));
    const names = Object.keys(scalarsAt(1, { learningRate: 0 }));
    const updated = rule(named(elementwise, ["elements"]), named([...names, "weightDecay"], []));
    const program = await compile(
      runtime,
      Object.fromEntries(Object.entries(updated).map(([name, tensor]) => [`${name}.new`, tensor])),
      { name: "adamW8bit" },
    );
    const wide = {
      firstMoment: runtime.createTensor("float32", [chunkSize]),
      secondMoment: runtime.createTensor("float32", [chunkSize]),
    };
    const decay = runtime.createTensor("float32", [], Float32Array.of(weightDecay));
    const noDecay = runtime.createTensor("float32", []);
    const owned: DeviceTensor[] = [decay, noDecay, ...Object.values(wide)];
    const tensors: Record<string, Record<string, DeviceTensor<"float32" | "uint8">>> = {};
    const zeros = <D extends "float32" | "uint8">(dtype: D, size: number): DeviceTensor<D> =>
      pagedIn === undefined
        ? runtime.createTensor(dtype, [size])
        : runtime.createPagedTensor(dtype, [size], pagedIn);
    const keep = <D extends "float32" | "uint8">(kind: string, name: string, tensor: DeviceTensor<D>) => {
      (tensors[kind] ??= {})[name] = tensor;
      return tensor;
    };
    const scalars = new Map<number, Record<string, DeviceTensor<"float32">>>();
    const chunks: Chunk[] = [];
    for (const [name, { parameter, offset, size }] of gradients.layout.placements) {
      const factor = learningRateFactor(name);
      const rated =
        scalars.get(factor) ??
        Object.fromEntries(names.map((scalar) => [scalar, runtime.createTensor("float32", [])]));
      scalars.set(factor, rated);
      const packed = isPacked(parameter);
      const own = moments.map((moment) =>
        packed
          ? ({
              codes: keep(moment, name, zeros("uint8", size)),
              largest: keep(`${moment}Largest`, name, zeros("float32", Math.ceil(size / dynamicBlock))),
            } as const)
          : keep(moment, name, zeros("float32", size)),
      );
      for (let start = 0; start < size; start += chunkSize) {
        const length = Math.min(chunkSize, size - start);
        const slice = (tensor: DeviceTensor, at: number): DeviceTensor => {
          const part = tensor.slice(at, [length]);
          owned.push(part);
          return part;
        };
        const views: Partial<Record<Moment, PackedMoment>> = {};
        const elements: Record<string, DeviceTensor> = {
          parameter: slice(weights.flat, weights.layout.placements.get(name)!.offset + start),
          gradient: slice(gradients.flat, offset + start),
        };
        moments.forEach((moment, index) => {
          const kept = own[index]!;
          if ("codes" in kept) {
            const blocks = [start, start + length].map((at) => Math.ceil(at / dynamicBlock));
            views[moment] = {
              codes: kept.codes.view().subarray(start, start + length),
              largest: kept.largest.view().subarray(...blocks),
            };
            elements[moment] = slice(wide[moment], 0);
          } else elements[moment] = slice(kept, start);
        });
        const inputs = { ...rated, ...elements, weightDecay: decays(name, parameter) ? decay : noDecay };
        const outputs = Object.keys(updated).map((key) => [`${key}.new`, elements[key]!] as const);
        chunks.push({
          binding: program.bind(inputs, Object.fromEntries(outputs)),
          length,
          packed: packed ? (views as Record<Moment, PackedMoment>) : undefined,
        });
      }
    }
    const state = Object.fromEntries(
      Object.entries(tensors).map(([kind, byName]) => [kind, stateOf(byName)]),
    );
    const wideViews = { firstMoment: wide.firstMoment.view(), secondMoment: wide.secondMoment.view() };
    return new EightBitAdamW(program, chunks, owned, scalars, wideViews, state, scalarsAt);
  }

  async update(options: UpdateOptions): Promise<void> {
    options.signal?.throwIfAborted();
    const step = this.steps + 1;
    writeScalars(this.scalars, (rated) => this.scalarsAt(step, rated), options);
    let pause = performance.now() + 8;
    // No signal inside: a half-updated model is neither the old one nor the new one.
    for (const { binding, length, packed } of this.chunks) {
      for (const moment of packed ? moments : [])
        roundings[moment].widen(packed![moment], this.wide[moment].subarray(0, length));
      if (binding.synchronous) binding.runSync();
      else await binding.run();
      for (const moment of packed ? moments : [])
        roundings[moment].round(this.wide[moment].subarray(0, length), packed![moment]);
      if (performance.now() > pause) {
        await new Promise((resolve) => setImmediate(resolve));
        pause = performance.now() + 8;
      }
    }
    this.steps = step;
  }

  restore(steps: number): void {
    this.steps = steps;
  }

  dispose(): void {
    for (const { binding } of this.chunks) binding.dispose();
    for (const tensor of this.owned) tensor.dispose();
    for (const scalars of this.scalars.values())
      for (const scalar of Object.values(scalars)) scalar.dispose();
    for (const state of Object.values(this.state)) state[Symbol.dispose]();
    this.program.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
