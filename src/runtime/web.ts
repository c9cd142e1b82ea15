import * as ort from "onnxruntime-web";
import {
  type DType,
  type TypedArrayOf,
  allocate,
  bytesPerElement,
  dtypes,
  elementCount,
  viewOf,
} from "../base/dtype.js";
import { LineageError, messageOf } from "../base/errors.js";
import { engineError } from "./failure.js";
import { Signature, checkCopy, checkJoined, checkShape } from "./signature.js";
import {
  type Binding,
  type Device,
  type DeviceTensor,
  type FileMapping,
  type Program,
  type ProgramOptions,
  type RunOptions,
  type Runtime,
  type RuntimeOptions,
  type Tensors,
  type ValueInfo,
  disabledOptimizers,
} from "./types.js";

export interface WebRuntimeOptions extends RuntimeOptions {
  /** Folder of onnxruntime-web's `.wasm` files, when the bundler does not serve them beside the script. */
  readonly wasmPaths?: string;
}

/** The engine in a browser: onnxruntime-web's WebAssembly build behind the interface of the Node runtime. */
export function createRuntime({ device = "wasm", threads = 1, wasmPaths }: WebRuntimeOptions = {}): Runtime {
  if (device !== "wasm")
    throw new LineageError("unsupported", `the browser runtime has the device wasm, not ${device}`);
  if (wasmPaths !== undefined) ort.env.wasm.wasmPaths = wasmPaths;
  ort.env.wasm.numThreads = threads;
  return new WebRuntime(threads);
}

class WebRuntime implements Runtime {
  readonly device: Device = "wasm";
  readonly devices: readonly Device[] = ["wasm"];
  allocatedBytes = 0;

  constructor(readonly threads: number) {}

  get cpu(): Runtime {
    return this;
  }
  get version(): string {
    return ort.env.versions.web ?? ort.env.versions.common;
  }

  createTensor<D extends DType>(dtype: D, shape: readonly number[], data?: TypedArrayOf[D]): DeviceTensor<D> {
    checkShape("createTensor", shape);
    let memory: TypedArrayOf[D];
    try {
      memory = allocate(dtype, elementCount(shape));
    } catch (error) {
      throw new LineageError("memory", `there is no memory for a tensor of [${shape.join(", ")}]`, {
        cause: error,
      });
    }
    const tensor = new WebTensor(this, memory, dtype, shape);
    if (data) tensor.write(data);
    return tensor;
  }

  wrapTensor<D extends DType>(dtype: D, shape: readonly number[], memory: TypedArrayOf[D]): DeviceTensor<D> {
    return this.createTensor(dtype, shape, memory);
  }

  mapFile(file: string): FileMapping {
    throw new LineageError("unsupported", `${file} cannot be mapped: the browser has no files`);
  }

  createPagedTensor<D extends DType>(_dtype: D, _shape: readonly number[], folder: string): DeviceTensor<D> {
    throw new LineageError("unsupported", `memory cannot be paged to ${folder}: the browser has no files`);
  }

  async createProgram(model: Uint8Array, options: ProgramOptions = {}): Promise<Program> {
    options.signal?.throwIfAborted();
    try {
      const session = await ort.InferenceSession.create(model, {
        executionProviders: ["wasm"],
        externalData: Object.entries(options.weights ?? {}).map(([path, tensor]) => {
          const { buffer, byteOffset, byteLength } = tensor.view();
          return { path, data: new Uint8Array(buffer, byteOffset, byteLength) };
        }),
        graphOptimizationLevel:
          options.optimization === "none" ? "disabled" : (options.optimization ?? "all"),
        extra: { optimization: { disable_specified_optimizers: disabledOptimizers } },
      });
      return new WebProgram(this, session, options.name ?? "program", options.checkSizes);
    } catch (error) {
      throw error instanceof LineageError ? error : engineError(undefined, messageOf(error), error);
    }
  }

  dispose(): void {
    // Tensors are ordinary memory, and sessions have lifetimes of their own.
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

class WebTensor<D extends DType = DType> implements DeviceTensor<D> {
  readonly apart = false;
  readonly size: number;
  readonly byteLength: number;
  private disposed = false;

  constructor(
    private readonly runtime: WebRuntime,
    private readonly memory: TypedArrayOf[D],
    readonly dtype: D,
    readonly shape: readonly number[],
    private readonly owner = true,
  ) {
    this.size = memory.length;
    this.byteLength = memory.byteLength;
    if (owner) runtime.allocatedBytes += this.byteLength;
  }

  view(): TypedArrayOf[D] {
    if (this.disposed)
      throw new LineageError(
        "disposed",
        `a ${this.dtype} tensor of [${this.shape.join(", ")}] was used after it was disposed`,
      );
    return this.memory;
  }
  contents(): TypedArrayOf[D] {
    return this.view();
  }
  read(): Promise<TypedArrayOf[D]> {
    return Promise.resolve(this.view().slice() as TypedArrayOf[D]);
  }
  write(data: TypedArrayOf[D]): void {
    if (data.length !== this.size) {
      throw new LineageError(
        "argument",
        `write: ${data.length} elements for a tensor of [${this.shape.join(", ")}], which has ${this.size}`,
      );
    }
    (this.view() as Uint8Array).set(data as Uint8Array);
  }
  clear(): void {
    const { buffer, byteOffset, byteLength } = this.view();
    new Uint8Array(buffer, byteOffset, byteLength).fill(0);
  }
  copy(offset: number, source: DeviceTensor, from: number, count: number): void {
    checkCopy(this, offset, source, from, count);
    (this.view() as Uint8Array).set(source.view().subarray(from, from + count) as Uint8Array, offset);
  }
  slice(offset: number, shape: readonly number[]): DeviceTensor<D> {
    checkShape("slice", shape);
    const size = elementCount(shape);
    if (!Number.isInteger(offset) || offset < 0 || offset + size > this.size) {
      throw new LineageError(
        "argument",
        `slice: elements ${offset} to ${offset + size} do not lie within the ${this.size} of the tensor`,
      );
    }
    const start = this.memory.byteOffset + offset * bytesPerElement(this.dtype);
    return new WebTensor(
      this.runtime,
      viewOf(this.dtype, this.memory.buffer, start, size),
      this.dtype,
      shape,
      false,
    );
  }
  join(others: readonly DeviceTensor[], shape: readonly number[]): DeviceTensor<D> | undefined {
    const { buffer, byteOffset } = this.view();
    let end = byteOffset + this.byteLength;
    for (const other of others) {
      const memory = other.view();
      if (other.dtype !== this.dtype || memory.buffer !== buffer || memory.byteOffset !== end)
        return undefined;
      end += other.byteLength;
    }
    checkJoined(shape, this, others);
    const memory = viewOf(this.dtype, buffer as ArrayBuffer, byteOffset, elementCount(shape));
    return new WebTensor(this.runtime, memory, this.dtype, shape, false);
  }
  dispose(): void {
    if (!this.disposed && this.owner) this.runtime.allocatedBytes -= this.byteLength;
    this.disposed = true;
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

class WebProgram implements Program {
  private readonly signature: Signature;
  private disposed = false;

  constructor(
    private readonly runtime: WebRuntime,
    private readonly session: ort.InferenceSession,
    private readonly name: string,
    checkSizes: ProgramOptions["checkSizes"],
  ) {
    this.signature = new Signature(
      name,
      session.inputMetadata.map(valueInfo),
      session.outputMetadata.map(valueInfo),
      checkSizes,
    );
  }

  get inputs(): readonly ValueInfo[] {
    return this.signature.inputs;
  }
  get outputs(): readonly ValueInfo[] {
    return this.signature.outputs;
  }

  async run(
    inputs: Tensors,
    outputs: Tensors = {},
    { signal }: RunOptions = {},
  ): Promise<Record<string, DeviceTensor>> {
    signal?.throwIfAborted();
    if (this.disposed) throw new LineageError("disposed", `${this.name} was run after it was disposed`);
    this.signature.checkNames(inputs, outputs);
    const given = [
      ...this.inputs.map(({ name }) => [name, inputs[name]!] as const),
      ...Object.entries(outputs),
    ];
    for (const [name, tensor] of given) this.signature.place(name, tensor);
    this.signature.checkDimensions(given);
    const feeds = Object.fromEntries(
      this.inputs.map(({ name }) => {
        const tensor = inputs[name]!;
        return [name, new ort.Tensor(tensor.dtype as "float32", tensor.view() as Float32Array, tensor.shape)];
      }),
    );
    let results: ort.InferenceSession.OnnxValueMapType;
    try {
      results = await this.session.run(feeds);
    } catch (error) {
      throw engineError(undefined, messageOf(error), error);
    }
    signal?.throwIfAborted();
    const found: Record<string, DeviceTensor> = {};
    for (const { name, dtype } of this.outputs) {
      const value = results[name] as ort.Tensor;
      const target = outputs[name] ?? this.runtime.createTensor(dtype, value.dims);
      target.write(value.data as Float32Array);
      value.dispose();
      found[name] = target;
    }
    return found;
  }

  bind(inputs: Tensors, outputs: Tensors): Binding {
    this.signature.checkBound(outputs);
    this.signature.checkNames(inputs, outputs);
    const bound = { inputs: { ...inputs }, outputs: { ...outputs } };
    return {
      synchronous: false,
      set: (name, tensor) => {
        const { kind } = this.signature.place(name, tensor);
        bound[kind === "input" ? "inputs" : "outputs"][name] = tensor;
      },
      run: async (options) => {
        await this.run(bound.inputs, bound.outputs, options);
      },
      runSync: () => {
        throw new LineageError(
          "unsupported",
          "the browser's engine has no synchronous runs; await run instead",
        );
      },
      dispose: () => undefined,
      [Symbol.dispose]: () => undefined,
    };
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    void this.session.release();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

function valueInfo(metadata: ort.InferenceSession.ValueMetadata): ValueInfo {
  if (!metadata.isTensor || !dtypes.includes(metadata.type as DType)) {
    throw new LineageError("unsupported", `${metadata.name} is not a tensor of a dtype that lineage knows`);
  }
  return { name: metadata.name, dtype: metadata.type as DType, shape: metadata.shape };
}
