import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
import type { ConstantWeights, PackedWeight } from "../graph/index.js";
import type { DeviceTensor, Runtime } from "../runtime/types.js";
import { type Module, type Parameter, namedParameters } from "./module.js";

/** Slices start at multiples of this many elements: one 64-byte line of float32. */
const alignment = 16;

/** A parameter's place in the flat buffer. */
export interface Placement {
  readonly parameter: Parameter;
  readonly offset: number;
  readonly size: number;
}

/**
 * Which parameters lie next to which. Weight decay applies to matrices and not to biases and norms, so each kind lies
 * together: an optimiser walks over long runs of the buffer.
 */
export interface FlatLayout {
  /** In the order of their offsets. */
  readonly placements: ReadonlyMap<string, Placement>;
  /** Elements of the buffer, the gaps included. */
  readonly size: number;
}

/** Elements that a parameter takes in a buffer, the gap after it included. */
export const alignedSize = (size: number): number => Math.ceil(size / alignment) * alignment;

/** Lays out the parameters of a model: matrices first, then vectors. */
export function flatLayout(parameters: ReadonlyMap<string, Parameter>): FlatLayout {
  const placements = new Map<string, Placement>();
  let offset = 0;
  for (const matrices of [true, false]) {
    for (const [key, parameter] of parameters) {
      if (parameter.shape.length >= 2 !== matrices) continue;
      placements.set(key, { parameter, offset, size: parameter.size });
      offset += alignedSize(parameter.size);
    }
  }
  return { placements, size: offset };
}

/** A model's weights as programs take them: tensors that may change between runs, and frozen constants. */
export interface WeightSet {
  readonly runtime: Runtime;
  /** Parameters by dotted name that are bound at every run. */
  readonly tensors: Readonly<Record<string, DeviceTensor>>;
  /** Frozen parameters, some of them in few bits: they become part of the program, since nothing changes them. */
  readonly constants?: ConstantWeights | undefined;
  /** The same parameters once more for reading prompts, in a form that is faster over many tokens. */
  readonly promptConstants?: ConstantWeights | undefined;
}

/**
 * The numbers of a model's parameters: one buffer of native memory, and a tensor over each parameter's part of it. Where a
 * model learns in part, the buffer has the parameters that learn, and the others are constants.
 */
export class Weights implements WeightSet, Disposable {
  /** By dotted name; what programs bind. */
  readonly tensors: Readonly<Record<string, DeviceTensor<"float32">>>;

  private constructor(
    readonly runtime: Runtime,
    readonly layout: FlatLayout,
    readonly flat: DeviceTensor<"float32">,
    /** Parameters that do not learn. They belong to whoever loaded them, and are not disposed with these weights. */
    readonly constants?: ConstantWeights | undefined,
  ) {
    this.tensors = sliceByName(flat, layout);
  }

  /** Memory for a model's weights, all zero. */
  static allocate(runtime: Runtime, model: Module): Weights {
    const layout = flatLayout(namedParameters(model));
    return new Weights(runtime, layout, runtime.createTensor("float32", [layout.size]));
  }

  /**
   * A model's first weights by its initialisers. Each parameter draws from its own stream, so that the order of definition
   * does not matter.
   * @param includes which parameters get values; the others stay zero. Default all
   */
  static initialize(
    runtime: Runtime,
    model: Module,
    seed: number,
    includes: (name: string) => boolean = () => true,
  ): Weights {
    const weights = Weights.allocate(runtime, model);
    const random = new Random(seed);
    for (const [name, { parameter }] of weights.layout.placements) {
      if (!includes(name)) continue;
      weights.tensors[name]!.write(firstValues(parameter, name, random));
    }
    return weights;
  }

  /**
   * Weights of which a part learns: the parameters with `trainable` get memory of their own, with their values in `base`,
   * or first values by their initialisers where it has none (an adapter's). All others stay what they are in `base`, in few
   * bits or in full precision, as constants. `base` has to outlive the result. Throws `argument` for a parameter that
   * learns and is in fewer bits, and for one that does not learn and is not in `base`.
   */
  static partlyFrozen(model: Module, base: WeightSet, seed = 0): Weights {
    const { runtime, constants = { tensors: {}, packed: {} } } = base;
    const learning = new Map<string, Parameter>();
    const frozen = {
      tensors: {} as Record<string, DeviceTensor>,
      packed: {} as Record<string, PackedWeight>,
    };
    for (const [name, parameter] of namedParameters(model)) {
      const packed = constants.packed[name];
      const tensor = base.tensors[name] ?? constants.tensors[name];
      if (parameter.trainable) {
        if (packed || (tensor && tensor.dtype !== "float32"))
          throw new LineageError(
            "argument",
            `${name} is to learn, but has few bits: load it in full precision, or set trainable = false`,
          );
        learning.set(name, parameter);
      } else if (packed) frozen.packed[name] = packed;
      else if (tensor) frozen.tensors[name] = tensor;
      else
        throw new LineageError("argument", `${name} is frozen, but the weights given have no values for it`);
    }
    const layout = flatLayout(learning);
    const flat = runtime.createTensor("float32", [layout.size]);
    const weights = new Weights(runtime, layout, flat, frozen);
    const random = new Random(seed);
    for (const [name, parameter] of learning) {
      const known = (base.tensors[name] ?? constants.tensors[name]) as DeviceTensor<"float32"> | undefined;
      weights.tensors[name]!.write(known ? known.contents() : firstValues(parameter, name, random));
    }
    return weights;
  }

  /**
   * A second buffer, all zero: gradients, moments, an average.
   * @param includes which parameters it has room for; default all
   * @param pagedIn a folder on whose disk the numbers lie (`Runtime.createPagedTensor`); default in memory
   */
  like(includes: (name: string, parameter: Parameter) => boolean = () => true, pagedIn?: string): Weights {
    const parameters = new Map<string, Parameter>();
    for (const [name, { parameter }] of this.layout.placements)
      if (includes(name, parameter)) parameters.set(name, parameter);
    const layout = parameters.size === this.layout.placements.size ? this.layout : flatLayout(parameters);
    const { runtime } = this;
    const flat =
      pagedIn === undefined
        ? runtime.createTensor("float32", [layout.size])
        : runtime.createPagedTensor("float32", [layout.size], pagedIn);
    return new Weights(runtime, layout, flat);
  }

  /** The same numbers in a second buffer, over the same constants. */
  copy(): Weights {
    const { runtime, layout, flat, constants } = this;
    const copied = new Weights(runtime, layout, runtime.createTensor("float32", [layout.size]), constants);
    copied.flat.copy(0, flat, 0, flat.size);
    return copied;
  }

  get(name: string): DeviceTensor<"float32"> {
    const tensor = this.tensors[name];
    if (!tensor) throw new LineageError("argument", `the model has no parameter named ${name}`);
    return tensor;
  }

  /** Sets every number to zero. */
  clear(): void {
    this.flat.clear();
  }

  dispose(): void {
    for (const tensor of Object.values(this.tensors)) tensor.dispose();
    this.flat.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** What a parameter begins with: a function of the seed and its name. */
export function firstValues(parameter: Parameter, name: string, random: Random): Float32Array {
  const data = new Float32Array(parameter.size);
  parameter.initializer(data, random.fork(name), parameter.shape);
  return data;
}

function sliceByName(
  flat: DeviceTensor<"float32">,
  layout: FlatLayout,
): Record<string, DeviceTensor<"float32">> {
  const tensors: Record<string, DeviceTensor<"float32">> = {};
  for (const [name, { parameter, offset }] of layout.placements)
    tensors[name] = flat.slice(offset, parameter.shape);
  return tensors;
}
