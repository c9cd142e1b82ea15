import os from "node:os";
import koffi from "./koffi.js";
import { type DType, type TypedArrayOf, bytesPerElement, elementCount } from "../../base/dtype.js";
import { LineageError, RuntimeError, messageOf } from "../../base/errors.js";
import { checkShape } from "../signature.js";
import {
  type Device,
  type DeviceTensor,
  type FileMapping,
  type Program,
  type ProgramOptions,
  type Runtime,
  type RuntimeOptions,
  disabledOptimizers,
} from "../types.js";
import { Api, type Pointer } from "./api.js";
import { type DeviceMemory, cudaMemory } from "./device-memory.js";
import { adviceOnCuda, hasCuda, locateLibrary } from "./library.js";
import { createPaged, mapFile } from "./mapping.js";
import { NameList, NativeProgram } from "./program.js";
import { disableTelemetry } from "./telemetry.js";
import { Allocation, type Memory, NativeTensor } from "./tensor.js";

const optimizationLevels = { none: 0, basic: 1, extended: 2, all: 99 } as const;

// The WebGPU provider of ONNX Runtime 1.30 ends the process at its first run (seen with a software Vulkan driver); a page has it.
const providers: Readonly<Record<string, Device>> = {
  CPUExecutionProvider: "cpu",
  CUDAExecutionProvider: "cuda",
};

/** One engine for the whole thread: loaded at the first use and kept until the process ends. */
interface Engine {
  readonly api: Api;
  readonly env: Pointer;
  /** Threads of the pool that all sessions share. */
  readonly threads: number;
  readonly memory: Memory;
  readonly devices: readonly Device[];
  /** Of the CUDA device, once it is used. */
  cuda?: DeviceMemory;
}

let engine: Engine | undefined;

/** Failures come back as statuses; the engine need not print them as well. */
const fatalOnly = 4;

function loadEngine(threads: number): Engine {
  if (engine) return engine;
  disableTelemetry();
  const library = locateLibrary();
  const api = new Api(library);
  // One pool for all sessions: the programs of a training step take turns, and pools of their own would spin against each other.
  const threading = api.out("CreateThreadingOptions");
  api.call("SetGlobalIntraOpNumThreads", threading, threads);
  const env = api.out("CreateEnvWithGlobalThreadPools", fatalOnly, "lineage", threading);
  api.release("ReleaseThreadingOptions", threading);
  // Windows has its own way to report, which the variable does not end.
  api.call("DisableTelemetryEvents", env);
  const memory: Memory = {
    api,
    allocator: api.out("GetAllocatorWithDefaultOptions"),
    memoryInfo: api.out("CreateCpuMemoryInfo", 0, 0),
    allocatedBytes: 0,
    changes: 0,
  };
  engine = { api, env, threads, memory, devices: availableDevices(api, library) };
  return engine;
}

/** The devices for which the library was built and has all its parts. */
function availableDevices(api: Api, library: string): Device[] {
  const list = new BigUint64Array(1);
  const count = new Int32Array(1);
  api.call("GetAvailableProviders", list, count);
  const names = Array.from({ length: count[0]! }, (_, index) => {
    const text = koffi.decode(list[0]!, index * 8, "void *") as Pointer;
    return koffi.decode(text, "char", -1) as string;
  });
  api.call("ReleaseAvailableProviders", list[0]!, count[0]!);
  return names
    .flatMap((name) => providers[name] ?? [])
    .filter((device) => device !== "cuda" || hasCuda(library));
}

/** How sessions use a CUDA device. The arena grows by what is asked for, so that much is left for others. */
const cudaOptions = (tf32: boolean): Record<string, string> => ({
  use_tf32: tf32 ? "1" : "0",
  arena_extend_strategy: "kSameAsRequested",
});

/** Makes a session run on `device`. Throws `unsupported` where this machine has none. */
function appendDevice(api: Api, session: Pointer, device: Device, tf32: boolean): void {
  if (device === "cpu") return;
  try {
    const options = api.out("CreateCUDAProviderOptions");
    try {
      const entries = Object.entries(cudaOptions(tf32));
      const [keys, values] = [0, 1].map((part) => new NameList(entries.map((entry) => entry[part]!)));
      api.call("UpdateCUDAProviderOptions", options, keys!.pointers, values!.pointers, entries.length);
      api.call("SessionOptionsAppendExecutionProvider_CUDA_V2", session, options);
    } finally {
      api.release("ReleaseCUDAProviderOptions", options);
    }
  } catch (error) {
    throw new LineageError(
      "unsupported",
      `the device ${device} cannot be used on this machine: ${messageOf(error)}${adviceOnCuda(messageOf(error))}`,
      {
        cause: error,
      },
    );
  }
}

/** More threads than a machine has only wait for each other; each of a hundred thousand would take a stack. */
const mostThreads = Math.max(256, 4 * os.availableParallelism());

/** Throws `argument` for a number of threads that is none, naming where it was given. */
function checkThreads(given: number | undefined): number {
  const variable = process.env["LINEAGE_THREADS"];
  const threads = given ?? Number(variable ?? os.availableParallelism());
  if (Number.isInteger(threads) && threads >= 1 && threads <= mostThreads) return threads;
  const [name, value] =
    given === undefined ? ["LINEAGE_THREADS", JSON.stringify(variable)] : ["threads", given];
  throw new LineageError("argument", `${name} must be a whole number from 1 to ${mostThreads}, not ${value}`);
}

/**
 * The engine on one device of this machine. Throws `unsupported` where the platform has no engine or the engine not the
 * device, `argument` for a thread count that is none.
 */
export function createRuntime({
  device = "cpu",
  threads: given,
  tf32 = false,
}: RuntimeOptions = {}): Runtime {
  const threads = checkThreads(given);
  const loaded = loadEngine(threads);
  if (!loaded.devices.includes(device)) {
    throw new LineageError(
      "unsupported",
      `ONNX Runtime ${loaded.api.version} has no device ${device} here; it has ${loaded.devices.join(", ")}` +
        (device === "cuda"
          ? " (npm install onnxruntime-node: its install script fetches the CUDA libraries)"
          : device === "webgpu"
            ? " (WebGPU is for pages: lineage/browser)"
            : ""),
    );
  }
  if (device === "cpu") return new NativeRuntime(loaded, device, threads);
  // A device that the library knows may still be missing from the machine: say so here, not at the first program.
  const options = loaded.api.out("CreateSessionOptions");
  try {
    appendDevice(loaded.api, options, device, tf32);
  } finally {
    loaded.api.release("ReleaseSessionOptions", options);
  }
  const [deviceAllocator, firstDevice, ordinary] = [0, 0, 0];
  loaded.cuda ??= cudaMemory(
    loaded.api.out("CreateMemoryInfo", "Cuda", deviceAllocator, firstDevice, ordinary),
  );
  return new NativeRuntime(loaded, device, threads, loaded.cuda, tf32);
}

/**
 * The processor with its tensors in memory of their own, as on a device that has one: what tests of such devices use where
 * there is none.
 * @param memory made from the engine's name for its memory
 */
export function runtimeWithMemory(memory: (info: Pointer, api: Api) => DeviceMemory): Runtime {
  const threads = checkThreads(undefined);
  const loaded = loadEngine(threads);
  return new NativeRuntime(loaded, "cpu", threads, memory(loaded.memory.memoryInfo, loaded.api));
}

class NativeRuntime implements Runtime {
  constructor(
    private readonly engine: Engine,
    readonly device: Device,
    readonly threads: number,
    /** Where tensors lie, if not in the host's memory. */
    private readonly deviceMemory?: DeviceMemory,
    private readonly tf32 = false,
  ) {}

  get devices(): readonly Device[] {
    return this.engine.devices;
  }
  /** The engine wants a place that exists, and looks no further at it; to read from a folder would fail. */
  get locationInPlace(): string | undefined {
    return this.device === "cpu" ? "." : undefined;
  }
  get cpu(): Runtime {
    return this.device === "cpu" ? this : new NativeRuntime(this.engine, "cpu", this.threads);
  }
  get version(): string {
    return this.engine.api.version;
  }
  get allocatedBytes(): number {
    return this.engine.memory.allocatedBytes;
  }

  createTensor<D extends DType>(dtype: D, shape: readonly number[], data?: TypedArrayOf[D]): DeviceTensor<D> {
    checkShape("createTensor", shape);
    if (data && data.length !== elementCount(shape)) {
      throw new LineageError(
        "argument",
        `createTensor: ${data.length} elements cannot have the shape [${shape.join(", ")}]`,
      );
    }
    const { memory } = this.engine;
    const byteLength = elementCount(shape) * bytesPerElement(dtype);
    if (!Number.isSafeInteger(byteLength)) {
      throw new LineageError(
        "memory",
        `createTensor: [${shape.join(", ")}] has more elements than any memory`,
      );
    }
    const allocation = this.deviceMemory
      ? Allocation.onDevice(memory, this.deviceMemory, byteLength)
      : Allocation.create(memory, byteLength);
    const tensor = new NativeTensor(memory, allocation, dtype, shape, 0);
    if (data) tensor.write(data);
    else allocation.clear();
    return tensor;
  }

  wrapTensor<D extends DType>(dtype: D, shape: readonly number[], memory: TypedArrayOf[D]): DeviceTensor<D> {
    checkShape("wrapTensor", shape);
    if (memory.length !== elementCount(shape)) {
      throw new LineageError(
        "shape",
        `wrapTensor: ${memory.length} elements cannot have the shape [${shape.join(", ")}]`,
      );
    }
    if (!(memory.buffer instanceof ArrayBuffer) || memory.byteLength !== memory.buffer.byteLength) {
      throw new LineageError(
        "argument",
        "wrapTensor: only a whole ArrayBuffer can be taken over, not a part of one or a shared one",
      );
    }
    const allocation = Allocation.adopt(this.engine.memory, memory.buffer);
    return new NativeTensor(this.engine.memory, allocation, dtype, shape, 0);
  }

  mapFile(file: string): FileMapping {
    return mapFile(this.engine.memory, file);
  }

  createPagedTensor<D extends DType>(dtype: D, shape: readonly number[], folder: string): DeviceTensor<D> {
    if (this.device !== "cpu")
      throw new LineageError(
        "unsupported",
        `memory of ${this.device} cannot be paged to a file: use the CPU`,
      );
    return createPaged(this.engine.memory, dtype, shape, folder);
  }

  async createProgram(model: Uint8Array, options: ProgramOptions = {}): Promise<Program> {
    const { signal } = options;
    signal?.throwIfAborted();
    if (model.byteLength >= 2 ** 31) {
      throw new LineageError(
        "argument",
        `a model of ${model.byteLength.toLocaleString("en-US")} bytes is more than the 2 GB that ONNX allows; ` +
          `keep its weights outside, as external data or as inputs`,
      );
    }
    const { api, env, memory } = this.engine;
    const given = Object.entries(options.weights ?? {}).map(([name, tensor]) => {
      if (!(tensor instanceof NativeTensor))
        throw new LineageError("argument", `the weight ${name} is a tensor of another runtime`);
      // Before anything is held, so that nothing is let go that was not.
      tensor.checkAlive();
      return [name, tensor] as const;
    });
    // The engine takes constants from the host's memory alone.
    const weights = given.map(([name, tensor]) => [name, tensor.onHost()] as const);
    const session = api.out("CreateSessionOptions");
    const cancel = () => {
      api.call("SessionOptionsSetLoadCancellationFlag", session, 1);
    };
    for (const [, tensor] of weights) tensor.hold();
    try {
      this.configure(session, options);
      const copied = weights.filter(([name]) => !options.inPlace?.has(name));
      if (copied.length > 0) {
        const names = new NameList(copied.map(([name]) => name));
        const values = BigUint64Array.from(copied, ([, tensor]) => tensor.value);
        api.call("AddExternalInitializers", session, names.pointers, values, copied.length);
      }
      for (const [name, tensor] of weights)
        if (options.inPlace?.has(name)) api.call("AddInitializer", session, name, tensor.value);
      signal?.addEventListener("abort", cancel, { once: true });
      const pointer = new BigUint64Array(1);
      // On a thread of the pool: optimising the graph of a training step takes long enough to be felt.
      await api.callAsync("CreateSessionFromArray", env, model, model.byteLength, session, pointer);
      const kept = weights.map(([, tensor]) => tensor);
      try {
        return new NativeProgram(memory, pointer[0]!, options.name ?? "program", kept, options.checkSizes);
      } catch (error) {
        api.release("ReleaseSession", pointer[0]!);
        throw error;
      }
    } catch (error) {
      signal?.throwIfAborted();
      // What the engine reads of constants while it makes a program may differ from processor to processor, and so do its
      // words for one that it cannot read. With copies it either has what it asked for or fails for another reason.
      if (options.inPlace?.size && error instanceof RuntimeError)
        return this.createProgram(model, { ...options, inPlace: undefined });
      throw error;
    } finally {
      signal?.removeEventListener("abort", cancel);
      for (const [, tensor] of weights) tensor.letGo();
      weights.forEach(([, tensor], index) => {
        if (tensor !== given[index]![1]) tensor.dispose();
      });
      api.release("ReleaseSessionOptions", session);
    }
  }

  private configure(session: Pointer, options: ProgramOptions): void {
    const { api, threads } = this.engine;
    api.call("SetSessionGraphOptimizationLevel", session, optimizationLevels[options.optimization ?? "all"]);
    const entry = (key: string, value: string): void => {
      api.call("AddSessionConfigEntry", session, key, value);
    };
    entry("optimization.disable_specified_optimizers", disabledOptimizers);
    if (this.threads === threads) api.call("DisablePerSessionThreads", session);
    else api.call("SetIntraOpNumThreads", session, this.threads);
    if (options.arena === false) api.call("DisableCpuMemArena", session);
    if (options.memoryPattern === false) api.call("DisableMemPattern", session);
    if (options.prepacking === false) entry("session.disable_prepacking", "1");
    if (options.profile) api.call("EnableProfiling", session, options.profile);
    if (options.directory) entry("session.model_external_initializers_file_folder_path", options.directory);
    appendDevice(api, session, this.device, this.tf32);
  }

  dispose(): void {
    // The engine is the thread's own and goes with it; tensors and programs have lifetimes of their own.
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
