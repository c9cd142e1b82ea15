import { create, toBinary } from "@bufbuild/protobuf";
import {
  type DType,
  type TypedArray,
  allocate,
  bytesPerElement,
  elementCount,
  onnxDataType,
} from "../base/dtype.js";
import { LineageError } from "../base/errors.js";
import { bfloat16Bits, float16Bits } from "../base/half.js";
import {
  type AttributeProto,
  AttributeProto_AttributeType as AttributeType,
  AttributeProtoSchema,
  GraphProtoSchema,
  type ModelProto,
  ModelProtoSchema,
  NodeProtoSchema,
  type StringStringEntryProto,
  StringStringEntryProtoSchema,
  type TensorProto,
  TensorProto_DataLocation as DataLocation,
  TensorProtoSchema,
  type ValueInfoProto,
  ValueInfoProtoSchema,
} from "./onnx_pb.js";

/** Operator sets of every model that lineage writes. */
export const opsetVersion = 21n;
const irVersion = 10n;

export type AttributeValue =
  | number
  | string
  | { readonly float: number }
  | { readonly ints: readonly number[] }
  | { readonly floats: readonly number[] };

/** A dimension of a graph input or output: a number, or the name of a symbolic one. */
export type OnnxDim = number | string;

export interface NodeOptions {
  /** `com.microsoft` for ONNX Runtime's own operators. */
  readonly domain?: string;
  /** How many outputs the node has. */
  readonly outputs?: number;
  /** Names an error message can be traced by: `transformer.h.0.attn/matmul`. */
  readonly name?: string;
}

/** Writes one graph, node by node, as an ONNX `ModelProto`. Values are known by name. */
export class OnnxBuilder {
  private readonly graph = create(GraphProtoSchema);
  private readonly constants = new Map<string, string>();
  private readonly names = new Map<string, number>();
  private readonly publicNames = new Set<string>();
  /** Values that nodes make, by the names that they were made with. */
  private readonly made = new Set<string>();
  /** The public names of those that are outputs. */
  private readonly outputNames = new Map<string, string>();
  private readonly described = new Map<string, ValueInfoProto>();
  private readonly shares = new Map<string, { readonly tensor: TensorProto; readonly length: number }>();
  private usesContrib = false;

  constructor(name: string) {
    this.graph.name = name;
  }

  /** Adds a node; the name of its first output. */
  node(
    type: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, AttributeValue | undefined>> = {},
    options: NodeOptions = {},
  ): string {
    return this.nodes(type, inputs, attributes, options)[0]!;
  }

  /** Adds a node; the names of all its outputs. */
  nodes(
    type: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, AttributeValue | undefined>> = {},
    { domain = "", outputs = 1, name = type }: NodeOptions = {},
  ): string[] {
    const unique = this.unique(name);
    const outputNames = Array.from({ length: outputs }, (_, index) =>
      outputs === 1 ? unique : `${unique}:${index}`,
    );
    if (domain !== "") this.usesContrib = true;
    this.graph.node.push(
      create(NodeProtoSchema, {
        name: unique,
        opType: type,
        domain,
        input: [...inputs],
        output: outputNames,
        attribute: Object.entries(attributes).flatMap(([key, value]) =>
          value === undefined ? [] : [attributeProto(key, value)],
        ),
      }),
    );
    for (const output of outputNames) this.made.add(output);
    return outputNames;
  }

  /** An initializer; equal small ones are written once. */
  constant(dtype: DType, shape: readonly number[], data: TypedArray): string {
    if (data.length !== elementCount(shape)) {
      throw new LineageError(
        "internal",
        `constant: ${data.length} elements for the shape [${shape.join(", ")}]`,
      );
    }
    const key =
      data.length <= 64
        ? `${dtype}[${shape.join()}]${Array.from(data as ArrayLike<number | bigint>).join()}`
        : undefined;
    const known = key === undefined ? undefined : this.constants.get(key);
    if (known !== undefined) return known;
    const name = this.unique("constant");
    this.graph.initializer.push(tensorProto(name, dtype, shape, data));
    if (key !== undefined) this.constants.set(key, name);
    return name;
  }

  /** A 1-D int64 constant: shapes, axes, starts. */
  ints(values: readonly number[]): string {
    return this.constant("int64", [values.length], BigInt64Array.from(values, BigInt));
  }

  /** A scalar constant. */
  scalar(dtype: DType, value: number): string {
    return this.constant(dtype, [], fillScalar(dtype, value));
  }

  /** A named initializer: the weights of an exported model. */
  weight(name: string, dtype: DType, shape: readonly number[], data: TypedArray): void {
    this.reserve(name);
    this.graph.initializer.push(tensorProto(name, dtype, shape, data));
  }

  /** A named initializer whose memory the program is given when it is compiled. */
  shared(name: string, dtype: DType, shape: readonly number[]): void {
    this.reserve(name);
    const length = elementCount(shape) * bytesPerElement(dtype);
    const tensor = create(TensorProtoSchema, {
      name,
      dataType: onnxDataType(dtype),
      dims: shape.map(BigInt),
      dataLocation: DataLocation.EXTERNAL,
      externalData: entries({ location: name, offset: 0, length }),
    });
    this.shares.set(name, { tensor, length });
    this.graph.initializer.push(tensor);
  }

  /** Names of the initializers that the program has to be given. */
  get sharedNames(): readonly string[] {
    return [...this.shares.keys()];
  }

  /**
   * Lets shared initializers stay where they lie when the program is made, by giving them a location that says so. Left out
   * are those that the engine reads meanwhile: small ones, and what nodes compute from constants alone. The names of the rest.
   */
  placeShared(location: string): ReadonlySet<string> {
    const known = new Set(this.graph.initializer.map(({ name }) => name));
    const read = new Set<string>();
    for (const { input, output } of this.graph.node) {
      if (!input.every((name) => name === "" || known.has(name))) continue;
      for (const name of input) read.add(name);
      for (const name of output) known.add(name);
    }
    const placed = new Set<string>();
    for (const [name, { tensor, length }] of this.shares) {
      if (read.has(name) || length < smallestPlaced) continue;
      // Past the end of any file: to read there fails, and does not give other numbers.
      tensor.externalData = entries({ location, offset: 2 ** 52, length });
      placed.add(name);
    }
    return placed;
  }

  /**
   * Tells the shape of a value that a node makes. The engine keeps values of one shape in the same memory, one after the
   * other; what it does not know the shape of, it compares with every later value, in vain.
   */
  describe(value: string, dtype: DType, shape: readonly OnnxDim[]): void {
    if (this.made.has(value)) this.described.set(value, valueInfo(value, dtype, shape));
  }

  input(name: string, dtype: DType, shape: readonly OnnxDim[]): void {
    this.reserve(name);
    this.graph.input.push(valueInfo(name, dtype, shape));
  }

  /** Gives the value `value` the public name `name`, which no other value may have. */
  output(name: string, value: string, dtype: DType, shape: readonly OnnxDim[]): void {
    this.reserve(name);
    const known = this.outputNames.get(value);
    if (known === undefined && this.made.has(value)) {
      this.rename(value, name);
      this.described.delete(value);
      this.outputNames.set(value, name);
    } else
      this.graph.node.push(
        create(NodeProtoSchema, {
          name: `${name}/Identity`,
          opType: "Identity",
          input: [known ?? value],
          output: [name],
        }),
      );
    this.graph.output.push(valueInfo(name, dtype, shape));
  }

  build(): ModelProto {
    this.leaveOutUnread();
    return create(ModelProtoSchema, {
      irVersion,
      producerName: "lineage",
      opsetImport: [
        { domain: "", version: opsetVersion },
        ...(this.usesContrib ? [{ domain: "com.microsoft", version: 1n }] : []),
      ],
      graph: this.graph,
    });
  }

  /** Leaves out nodes whose values nothing reads: those that another node took over behind them. */
  private leaveOutUnread(): void {
    const read = new Set(this.graph.output.map(({ name }) => name));
    const made = new Set<string>();
    const kept = [...this.graph.node].reverse().filter(({ input, output }) => {
      if (!output.some((name) => read.has(name))) return false;
      for (const name of input) read.add(name);
      for (const name of output) made.add(name);
      return true;
    });
    this.graph.node = kept.reverse();
    this.graph.initializer = this.graph.initializer.filter(
      ({ name }) => read.has(name) || this.publicNames.has(name),
    );
    this.graph.valueInfo = [...this.described].flatMap(([name, info]) => (made.has(name) ? [info] : []));
  }

  private rename(from: string, to: string): void {
    const swap = (names: string[]) => {
      names.forEach((name, index) => {
        if (name === from) names[index] = to;
      });
    };
    for (const node of this.graph.node) {
      swap(node.output);
      swap(node.input);
    }
  }

  private unique(name: string): string {
    const count = this.names.get(name) ?? 0;
    this.names.set(name, count + 1);
    // The mark keeps values of the graph apart from the names that people give to inputs and outputs.
    return `${name}#${count}`;
  }

  private reserve(name: string): void {
    if (this.publicNames.has(name))
      throw new LineageError("internal", `the graph already has a value named ${name}`);
    this.publicNames.add(name);
  }
}

/** Bytes from which on a shared initializer is worth being left in place. */
const smallestPlaced = 65_536;

const entries = (values: Readonly<Record<string, string | number>>): StringStringEntryProto[] =>
  Object.entries(values).map(([key, value]) =>
    create(StringStringEntryProtoSchema, { key, value: String(value) }),
  );

/** The serialised model. */
export const encodeModel = (model: ModelProto): Uint8Array => toBinary(ModelProtoSchema, model);

function fillScalar(dtype: DType, value: number): TypedArray {
  const data = allocate(dtype, 1);
  if (data instanceof BigInt64Array) data[0] = BigInt(value);
  else data[0] = storedAs(dtype)(value);
  return data;
}

/** What a number is in a typed array of `dtype`: its bits for 16-bit floats, else itself. */
export const storedAs = (dtype: DType): ((value: number) => number) =>
  dtype === "float16" ? float16Bits : dtype === "bfloat16" ? bfloat16Bits : (value) => value;

function attributeProto(name: string, value: AttributeValue): AttributeProto {
  const of = (init: {
    type: AttributeType;
    i?: bigint;
    s?: Uint8Array;
    f?: number;
    ints?: bigint[];
    floats?: number[];
  }) => create(AttributeProtoSchema, { name, ...init });
  if (typeof value === "number") return of({ type: AttributeType.INT, i: BigInt(value) });
  if (typeof value === "string")
    return of({ type: AttributeType.STRING, s: new TextEncoder().encode(value) });
  if ("float" in value) return of({ type: AttributeType.FLOAT, f: value.float });
  if ("ints" in value) return of({ type: AttributeType.INTS, ints: value.ints.map(BigInt) });
  return of({ type: AttributeType.FLOATS, floats: [...value.floats] });
}

function tensorProto(name: string, dtype: DType, shape: readonly number[], data: TypedArray): TensorProto {
  return create(TensorProtoSchema, {
    name,
    dataType: onnxDataType(dtype),
    dims: shape.map(BigInt),
    rawData: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
  });
}

function valueInfo(name: string, dtype: DType, shape: readonly OnnxDim[]): ValueInfoProto {
  const dim = shape.map((size) => ({
    value:
      typeof size === "number"
        ? ({ case: "dimValue", value: BigInt(size) } as const)
        : ({ case: "dimParam", value: size } as const),
  }));
  return create(ValueInfoProtoSchema, {
    name,
    type: { value: { case: "tensorType", value: { elemType: onnxDataType(dtype), shape: { dim } } } },
  });
}
