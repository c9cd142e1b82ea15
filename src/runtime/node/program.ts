import koffi from "./koffi.js";
import { type DType, bytesPerElement, dtypeOfOnnx, elementCount } from "../../base/dtype.js";
import { LineageError } from "../../base/errors.js";
import { Signature, type Slot } from "../signature.js";
import type {
  Binding,
  DeviceTensor,
  Program,
  ProgramOptions,
  RunOptions,
  Tensors,
  ValueInfo,
} from "../types.js";
import type { Api, Pointer } from "./api.js";
import { Allocation, type Memory, NativeTensor } from "./tensor.js";

/** NUL-terminated names and the array of their addresses, kept together. */
export class NameList {
  readonly pointers: BigUint64Array;
  private readonly texts: Buffer[];

  constructor(names: readonly string[]) {
    this.texts = names.map((name) => Buffer.from(`${name}\0`, "utf8"));
    this.pointers = BigUint64Array.from(this.texts, (text) => koffi.address(text) as Pointer);
  }
}

const released = new FinalizationRegistry<() => void>((free) => {
  free();
});

/** A session of ONNX Runtime. */
export class NativeProgram implements Program {
  private readonly signature: Signature;
  private readonly inputNames: NameList;
  private readonly outputNames: NameList;
  private disposed = false;
  private running = 0;

  /** @param kept what has to outlive the session: weights that it shares */
  constructor(
    private readonly memory: Memory,
    private readonly session: Pointer,
    private readonly name: string,
    private readonly kept: readonly NativeTensor[],
    checkSizes?: ProgramOptions["checkSizes"],
  ) {
    const { api, allocator } = memory;
    this.signature = new Signature(
      name,
      readValues(api, allocator, session, "Input"),
      readValues(api, allocator, session, "Output"),
      checkSizes,
    );
    this.inputNames = new NameList(this.inputs.map((input) => input.name));
    this.outputNames = new NameList(this.outputs.map((output) => output.name));
    for (const tensor of kept) tensor.hold();
    released.register(this, releaser(api, session, kept), this);
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
    options: RunOptions = {},
  ): Promise<Record<string, DeviceTensor>> {
    const call = this.prepare(inputs, outputs);
    const { outputValues } = await this.execute(call, options);
    const results: Record<string, DeviceTensor> = {};
    this.outputs.forEach(({ name }, index) => {
      results[name] = outputs[name] ?? this.adopt(outputValues[index]!);
    });
    return results;
  }

  bind(inputs: Tensors, outputs: Tensors): Binding {
    this.signature.checkBound(outputs);
    return new NativeBinding(this, this.prepare(inputs, outputs));
  }

  /** @internal The values of the run: of outputs that `call` has no tensor for, those that the engine made. */
  async execute(call: Call, { signal }: RunOptions): Promise<Values> {
    signal?.throwIfAborted();
    this.check(call);
    const { api } = this.memory;
    const runOptions = signal ? api.out("CreateRunOptions") : null;
    const terminate = () => {
      if (runOptions) api.call("RunOptionsSetTerminate", runOptions);
    };
    signal?.addEventListener("abort", terminate, { once: true });
    // The binding may get other tensors while this run is under way, which reads the values on another thread.
    const tensors = [...call.tensors.values()];
    const values = { inputValues: call.inputValues.slice(), outputValues: call.outputValues.slice() };
    for (const tensor of tensors) tensor.hold();
    this.running++;
    try {
      await api.callAsync("Run", ...this.arguments(values, runOptions));
      return values;
    } catch (error) {
      signal?.throwIfAborted();
      throw error;
    } finally {
      signal?.removeEventListener("abort", terminate);
      if (runOptions) api.release("ReleaseRunOptions", runOptions);
      for (const tensor of tensors) tensor.letGo();
      this.running--;
      if (this.disposed && this.running === 0) this.release();
    }
  }

  /** @internal */
  executeSync(call: Call): void {
    this.check(call);
    this.memory.api.call("Run", ...this.arguments(call, null));
  }

  /** @internal The tensor's value at its place in `call`, once it is known to fit. */
  place(call: Call, name: string, tensor: DeviceTensor): void {
    if (!(tensor instanceof NativeTensor)) {
      throw new LineageError("argument", `${this.name}: ${name} is a tensor of another runtime`);
    }
    this.put(call, this.signature.place(name, tensor), tensor);
    call.tensors.set(name, tensor);
    call.checkedAt = undefined;
  }

  private put(call: Call, { kind, index }: Slot, tensor: NativeTensor): void {
    (kind === "input" ? call.inputValues : call.outputValues)[index] = tensor.value;
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    if (this.running === 0) this.release();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }

  private release(): void {
    released.unregister(this);
    releaser(this.memory.api, this.session, this.kept)();
  }

  private prepare(inputs: Tensors, outputs: Tensors): Call {
    const call: Call = {
      inputValues: new BigUint64Array(this.inputs.length),
      outputValues: new BigUint64Array(this.outputs.length),
      tensors: new Map(),
      checkedAt: undefined,
    };
    this.signature.checkNames(inputs, outputs);
    for (const { name } of this.inputs) this.place(call, name, inputs[name]!);
    for (const [name, tensor] of Object.entries(outputs)) this.place(call, name, tensor);
    return call;
  }

  /**
   * Throws unless the program and all tensors of `call` are alive and agree on what each named dimension is. Skipped while
   * nothing has been disposed, moved or bound since the last time.
   */
  private check(call: Call): void {
    if (this.disposed) throw new LineageError("disposed", `${this.name} was run after it was disposed`);
    if (call.checkedAt === this.memory.changes) return;
    // A tensor whose memory has moved since has another value.
    call.tensors.forEach((tensor, name) => {
      this.put(call, this.signature.slot(name), tensor);
    });
    this.signature.checkDimensions(call.tensors);
    call.checkedAt = this.memory.changes;
  }

  private arguments({ inputValues, outputValues }: Values, runOptions: Pointer | null) {
    const { session, inputNames, outputNames } = this;
    return [
      session,
      runOptions,
      inputNames.pointers,
      inputValues,
      inputValues.length,
      outputNames.pointers,
      outputValues.length,
      outputValues,
    ] as const;
  }

  /** A tensor over the OrtValue that the engine made for an output. */
  private adopt(value: Pointer): DeviceTensor {
    const { api } = this.memory;
    const info = api.out("GetTensorTypeAndShape", value);
    const { dtype, dims } = readTensorInfo(api, info);
    api.release("ReleaseTensorTypeAndShapeInfo", info);
    const allocation = Allocation.ofValue(this.memory, value, elementCount(dims) * bytesPerElement(dtype));
    return new NativeTensor(this.memory, allocation, dtype, dims, 0);
  }
}

/** The OrtValues of one run, in the order of the signature. */
interface Values {
  readonly inputValues: BigUint64Array;
  readonly outputValues: BigUint64Array;
}

/** Values and the tensors that keep them alive. */
interface Call extends Values {
  readonly tensors: Map<string, NativeTensor>;
  /** How many tensors had been disposed or moved when these were last known to be alive and to agree. */
  checkedAt: number | undefined;
}

/** Ends a session without holding on to its program. */
const releaser = (api: Api, session: Pointer, kept: readonly NativeTensor[]) => (): void => {
  api.release("ReleaseSession", session);
  for (const tensor of kept) tensor.letGo();
};

class NativeBinding implements Binding {
  readonly synchronous = true;
  private disposed = false;

  constructor(
    private readonly program: NativeProgram,
    private readonly call: Call,
  ) {}

  set(name: string, tensor: DeviceTensor): void {
    this.program.place(this.call, name, tensor);
  }
  async run(options: RunOptions = {}): Promise<void> {
    this.checkAlive();
    await this.program.execute(this.call, options);
  }
  runSync(): void {
    this.checkAlive();
    this.program.executeSync(this.call);
  }
  dispose(): void {
    this.disposed = true;
    this.call.tensors.clear();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }

  private checkAlive(): void {
    if (this.disposed) throw new LineageError("disposed", "a binding was run after it was disposed");
  }
}

function readValues(api: Api, allocator: Pointer, session: Pointer, kind: "Input" | "Output"): ValueInfo[] {
  const count = Number(api.out(`SessionGet${kind}Count`, session));
  return Array.from({ length: count }, (_, index) => {
    const text = api.out(`SessionGet${kind}Name`, session, index, allocator);
    const name = koffi.decode(text, "char", -1) as string;
    api.call("AllocatorFree", allocator, text);
    const type = api.out(`SessionGet${kind}TypeInfo`, session, index);
    try {
      const tensor = api.out("CastTypeInfoToTensorInfo", type);
      if (!tensor) {
        throw new LineageError(
          "unsupported",
          `the ${kind.toLowerCase()} ${name} of this model is not a tensor`,
        );
      }
      const { dtype, shape } = readTensorInfo(api, tensor);
      return { name, dtype, shape };
    } finally {
      api.release("ReleaseTypeInfo", type);
    }
  });
}

function readTensorInfo(
  api: Api,
  info: Pointer,
): { dtype: DType; dims: number[]; shape: (number | string | null)[] } {
  const type = new Int32Array(1);
  api.call("GetTensorElementType", info, type);
  const rank = Number(api.out("GetDimensionsCount", info));
  const sizes = new BigInt64Array(rank);
  const names = new BigUint64Array(rank);
  if (rank > 0) {
    api.call("GetDimensions", info, sizes, rank);
    api.call("GetSymbolicDimensions", info, names, rank);
  }
  const dims = Array.from(sizes, Number);
  const shape = dims.map((dim, axis) => {
    if (dim >= 0) return dim;
    const name = names[axis] ? (koffi.decode(names[axis]!, "char", -1) as string) : "";
    return name === "" ? null : name;
  });
  return { dtype: dtypeOfOnnx(type[0]!), dims, shape };
}
