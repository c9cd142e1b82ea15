import { type DType, type TypedArray } from "../base/dtype.js";
import { LineageError } from "../base/errors.js";
import { type AttributeValue, type NodeOptions, OnnxBuilder, encodeModel } from "../onnx/builder.js";
import type { Device, DeviceTensor } from "../runtime/types.js";
import { type Dim, type Shape, isStatic, parseDim } from "./dims.js";
import type { Limit } from "./limits.js";
import type { Node } from "./op.js";
import { type InputSource, inputSource } from "./ops/leaf.js";
import { unpackedWhole } from "./ops/packed.js";
import { type ConstantWeights, type PackedWeight, packedParts } from "./packed.js";
import type { Tensor } from "./tensor.js";

/** A weight in fewer bits as a lowering rule sees it. */
export interface PackedInput {
  readonly name: string;
  readonly weight: PackedWeight;
  /** The value that holds a part of the weight. */
  readonly part: (name: string) => string;
}

/** What a lowering rule writes with: an ONNX graph, the names of values, and symbolic dimensions at run time. */
export class Lowering {
  private readonly names = new Map<Tensor, string>();
  private readonly dims = new Map<Dim, string>();
  private readonly packed = new Map<Tensor, PackedInput>();
  private readonly symbols = new Map<string, { input: string; axis: number }>();
  private readonly declared = new Set<string>();
  private readonly found = new Map<Dim, Limit>();
  private readonly packedBy = new Map<Tensor, PackedInput[]>();
  private readonly written = new Map<string, unknown>();
  private readonly wholes = new Map<string, string>();
  private scopeName = "";
  /** Constants that are several of the given ones as one, by name. */
  readonly joined: Record<string, DeviceTensor> = {};

  constructor(
    readonly builder: OnnxBuilder,
    /** Whether composites are written as the engine's fused operators. */
    readonly fused: boolean,
    /** Values of inputs that become part of the program, by name. */
    private readonly initializers: Readonly<Record<string, TypedArray>> = {},
    /** Weights that the program shares with its maker, by name. */
    private readonly constants: ConstantWeights = { tensors: {}, packed: {} },
    /** Whether constants that lie side by side in memory may be taken as one. */
    private readonly joins = false,
    /** Whether products with packed weights are computed in float32. */
    readonly exactProducts = false,
    /** Where the program is to run, if that is known. */
    readonly device?: Device,
  ) {}

  /** The ONNX value that holds `tensor`. */
  nameOf(tensor: Tensor): string {
    const name = this.names.get(tensor);
    const packed = this.packed.get(tensor);
    if (packed) return this.once(`${packed.name} unpacked`, () => unpackedWhole(this, packed));
    if (name === undefined) throw new LineageError("internal", `${tensor.node.op.name} was not lowered`);
    return name;
  }

  /** What `tensor` is packed into, where it is a weight in fewer bits. */
  packedWeight(tensor: Tensor): PackedInput | undefined {
    return this.packed.get(tensor);
  }

  /** The weights in fewer bits that `x` is multiplied by, without a bias. */
  packedProducts(x: Tensor): readonly PackedInput[] {
    return this.packedBy.get(x) ?? [];
  }

  /** What several lowering rules need and one of them writes. */
  once<T>(key: string, write: () => T): T {
    if (!this.written.has(key)) this.written.set(key, write());
    return this.written.get(key) as T;
  }

  /** A part of several packed weights as one value, the weights one after the other along `axis`. */
  packedParts(weights: readonly PackedInput[], part: string, axis: 0 | 1): string {
    const name = weights.map((each) => `${each.name}.${part}`).join("+");
    if (this.joined[name]) return name;
    const [first, ...others] = weights.map(({ weight }) => packedParts(weight)[part]!);
    const rows = others.reduce((sum, { shape }) => sum + shape[0]!, first!.shape[0]!);
    const whole =
      this.joins && axis === 0 ? first!.join(others, [rows, ...first!.shape.slice(1)]) : undefined;
    if (!whole)
      return this.op(
        "Concat",
        weights.map((each) => each.part(part)),
        { axis },
      );
    this.joined[name] = whole;
    this.declareConstant(name, whole.dtype, whole.shape);
    return name;
  }

  private packedPart(name: string, weight: PackedWeight, part: string): string {
    const full = `${name}.${part}`;
    if (!this.declared.has(full)) {
      this.declared.add(full);
      const { dtype, shape } = packedParts(weight)[part]!;
      this.declareConstant(full, dtype, shape);
    }
    return full;
  }

  private declareConstant(name: string, dtype: DType, shape: readonly number[]): void {
    const value = this.initializers[name];
    if (value) this.builder.weight(name, dtype, shape, value);
    else this.builder.shared(name, dtype, shape);
  }

  op(
    type: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, AttributeValue | undefined>> = {},
    options: NodeOptions = {},
  ): string {
    return this.ops(type, inputs, attributes, options)[0]!;
  }

  ops(
    type: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, AttributeValue | undefined>> = {},
    options: NodeOptions = {},
  ): string[] {
    return this.builder.nodes(type, inputs, attributes, { ...options, name: this.scopeName });
  }

  /**
   * `value` cut into `count` parts along an axis, counted from the last as -1.
   * @param sizes the value that holds the sizes of the parts
   */
  cut(value: string, sizes: string, axis: number, count: number): string[] {
    const parts = this.ops("Split", [value, sizes], { axis }, { outputs: count });
    if (axis === -1) this.wholes.set(parts.join("\n"), value);
    return parts;
  }

  /** What `parts` are all of along the last axis, in their order, where it was cut into these. */
  wholeOf(parts: readonly string[]): string | undefined {
    return this.wholes.get(parts.join("\n"));
  }

  /** `value`, whose shape the engine cannot find out by itself. */
  shaped(value: string, dtype: DType, shape: Shape): string {
    this.builder.describe(value, dtype, shape);
    return value;
  }

  constant(dtype: DType, shape: readonly number[], data: TypedArray): string {
    return this.builder.constant(dtype, shape, data);
  }

  ints(values: readonly number[]): string {
    return this.builder.ints(values);
  }

  scalar(dtype: DType, value: number): string {
    return this.builder.scalar(dtype, value);
  }

  /** A 1-D int64 value holding a shape: a constant where the shape is static. */
  shape(shape: Shape): string {
    if (isStatic(shape)) return this.ints(shape);
    // Runs of static dimensions are one constant each, so that the engine folds what it can.
    const parts: string[] = [];
    let fixed: number[] = [];
    for (const dim of shape) {
      if (typeof dim === "number") fixed.push(dim);
      else {
        if (fixed.length > 0) parts.push(this.ints(fixed));
        fixed = [];
        parts.push(this.dim(dim));
      }
    }
    if (fixed.length > 0) parts.push(this.ints(fixed));
    if (parts.length === 1) return parts[0]!;
    return this.once(`shape ${parts.join()}`, () => this.op("Concat", parts, { axis: 0 }));
  }

  /** A one-element int64 value holding a dimension. */
  dim(dim: Dim): string {
    if (typeof dim === "number") return this.ints([dim]);
    const known = this.dims.get(dim);
    if (known !== undefined) return known;
    let sum: string | undefined;
    for (const [monomial, coefficient] of parseDim(dim)) {
      let product: string | undefined =
        coefficient === 1 && monomial !== "" ? undefined : this.ints([coefficient]);
      for (const symbol of monomial.split("*").filter(Boolean)) {
        const value = this.symbol(symbol);
        product = product === undefined ? value : this.op("Mul", [product, value]);
      }
      sum = sum === undefined ? product! : this.op("Add", [sum, product!]);
    }
    this.dims.set(dim, sum!);
    return sum!;
  }

  /** Says that `dim` can be no more than `atMost`, which is all that `table` has; told when the program runs. */
  limit(dim: Dim, atMost: number, table: Tensor): void {
    if (typeof dim === "number" || (this.found.get(dim)?.atMost ?? Infinity) <= atMost) return;
    this.found.set(dim, { dim, atMost, of: inputSource(table.node)?.name ?? this.scopeName });
  }

  get limits(): readonly Limit[] {
    return [...this.found.values()];
  }

  /** Makes `tensor` an input of the program. */
  give(name: string, tensor: Tensor): void {
    this.names.set(tensor, name);
    this.inputOf(name, tensor);
  }

  /** Writes `roots` and all that they need. */
  emit(roots: readonly Tensor[]): void {
    const order = schedule(roots, this.fused, (tensor) => this.names.has(tensor));
    for (const node of order) {
      const source = inputSource(node);
      if (source) this.declareInput(node, source);
    }
    for (const { op, inputs, attributes } of order) {
      const packed = op.name === "matmul" && this.packed.get(inputs[1]!);
      if (packed && packed.weight.transposed === (attributes as { transposeB: boolean }).transposeB) continue;
      // The last of an operation's inputs is scheduled first: queries, keys and values come in this order from the end.
      if (packed) this.packedBy.set(inputs[0]!, [packed, ...(this.packedBy.get(inputs[0]!) ?? [])]);
    }
    for (const node of order) if (!inputSource(node)) this.write(node);
  }

  private declareInput(node: Node, source: InputSource): void {
    const tensor = node.outputs[0]!;
    const name = source.name;
    this.names.set(tensor, name);
    const packed = this.constants.packed[name];
    if (packed) {
      this.packed.set(tensor, { name, weight: packed, part: (part) => this.packedPart(name, packed, part) });
      return;
    }
    if (this.constants.tensors[name]) {
      this.declareConstant(name, tensor.dtype, tensor.shape as readonly number[]);
      return;
    }
    const value = this.initializers[name];
    if (value) {
      this.builder.weight(name, tensor.dtype, tensor.shape as readonly number[], value);
      return;
    }
    this.inputOf(name, tensor);
  }

  private inputOf(name: string, tensor: Tensor): void {
    this.builder.input(name, tensor.dtype, tensor.shape);
    tensor.shape.forEach((dim, axis) => {
      if (typeof dim !== "string" || !/^\w+$/.test(dim)) return;
      if (!this.symbols.has(dim)) this.symbols.set(dim, { input: name, axis });
    });
  }

  private write(node: Node): void {
    const path = node.scope?.path;
    this.scopeName = path ? `${path}/${node.op.name}` : node.op.name;
    const outputs = usesDecomposition(node, this.fused) ? undefined : node.op.lower?.(node, this);
    const names =
      outputs === undefined
        ? this.writeDecomposition(node)
        : typeof outputs === "string"
          ? [outputs]
          : outputs;
    node.outputs.forEach((tensor, index) => {
      const name = names[index];
      if (name === undefined) return;
      this.names.set(tensor, name);
      this.builder.describe(name, tensor.dtype, tensor.shape);
    });
  }

  private writeDecomposition(node: Node): string[] {
    const parts = decompositionOf(node);
    for (const inner of schedule(parts, this.fused, (tensor) => this.names.has(tensor))) this.write(inner);
    return parts.map((part) => this.nameOf(part));
  }

  private symbol(symbol: string): string {
    const known = this.dims.get(symbol);
    if (known !== undefined) return known;
    const place = this.symbols.get(symbol);
    if (!place) {
      throw new LineageError(
        "shape",
        `the dimension "${symbol}" is needed when the program runs, but no input of the program has it alone as a dimension`,
      );
    }
    const value = this.builder.node(
      "Shape",
      [place.input],
      { start: place.axis, end: place.axis + 1 },
      { name: `dim/${symbol}` },
    );
    this.dims.set(symbol, value);
    return value;
  }
}

/** The primitives of a composite, built once per node. */
export function decompositionOf(node: Node): readonly Tensor[] {
  if (!node.decomposition) {
    if (!node.op.decompose) {
      throw new LineageError(
        "internal",
        `${node.op.name} has neither a lowering for its inputs nor a decomposition`,
      );
    }
    node.decomposition = node.op.decompose(node);
  }
  return node.decomposition;
}

/**
 * A composite goes through its decomposition when primitives are asked for, or when its gradient has been taken through
 * the decomposition: forward and backward then share what they both need.
 */
function usesDecomposition(node: Node, fused: boolean): boolean {
  return (
    node.decomposition !== undefined ||
    (!fused && node.op.decompose !== undefined) ||
    node.op.lower === undefined
  );
}

/** The nodes that `roots` need, each after what it needs itself. */
function schedule(roots: readonly Tensor[], fused: boolean, done: (tensor: Tensor) => boolean): Node[] {
  const order: Node[] = [];
  const state = new Map<Node, "open" | "written">();
  const stack: Node[] = [];
  const dependencies = (node: Node): readonly Tensor[] =>
    node.decomposition !== undefined && usesDecomposition(node, fused)
      ? [...node.inputs, ...node.decomposition]
      : node.inputs;
  for (const root of roots) {
    if (done(root)) continue;
    stack.push(root.node);
    while (stack.length > 0) {
      const node = stack.at(-1)!;
      const status = state.get(node);
      if (status === "written") {
        stack.pop();
        continue;
      }
      if (status === "open") {
        stack.pop();
        state.set(node, "written");
        order.push(node);
        continue;
      }
      state.set(node, "open");
      for (const dependency of dependencies(node)) {
        if (!done(dependency) && !state.has(dependency.node)) stack.push(dependency.node);
      }
    }
  }
  return order;
}

export interface LowerOptions {
  /** Name of the ONNX graph. */
  readonly name?: string;
  /** `true` (default) writes composites as fused operators where the engine has them; `false` writes primitives alone. */
  readonly fused?: boolean;
  /** Values of inputs that become part of the program instead, by name. */
  readonly initializers?: Readonly<Record<string, TypedArray>>;
  /** Weights that become part of the program without a copy, some of them in fewer bits. */
  readonly constants?: ConstantWeights | undefined;
  /**
   * Whether products with packed weights round nothing but the weights, as a program that is differentiated wants it.
   * Default: the engine may round the other factor to whole numbers as well, which is faster.
   */
  readonly exactProducts?: boolean | undefined;
  /** Where the program is to run: operators that the engine does not have there are written as others. */
  readonly device?: Device | undefined;
  /** Tensors that the program is given instead of computing them, by the names of its inputs for them. */
  readonly given?: Readonly<Record<string, Tensor>> | undefined;
}

/**
 * Writes the program that computes `outputs` from the inputs that they depend on.
 * @param joins whether constants that lie side by side in memory may become one, which the result then names
 */
export function lower(
  outputs: Readonly<Record<string, Tensor>>,
  {
    name = "lineage",
    fused = true,
    initializers,
    constants,
    given = {},
    exactProducts,
    device,
  }: LowerOptions = {},
  joins = false,
): Lowering {
  const builder = new OnnxBuilder(name);
  const lowering = new Lowering(builder, fused, initializers, constants, joins, exactProducts, device);
  for (const [key, tensor] of Object.entries(given)) lowering.give(key, tensor);
  lowering.emit(Object.values(outputs));
  for (const [key, tensor] of Object.entries(outputs)) {
    builder.output(key, lowering.nameOf(tensor), tensor.dtype, tensor.shape);
  }
  return lowering;
}

/** The serialised ONNX model that computes `outputs`. */
export function toOnnx(outputs: Readonly<Record<string, Tensor>>, options: LowerOptions = {}): Uint8Array {
  return encodeModel(lower(outputs, options).builder.build());
}
