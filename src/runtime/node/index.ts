import os from "node:os";
import koffi from "koffi";
import { type DType, type TypedArrayOf, bytesPerElement, elementCount } from "../../base/dtype.js";
import { LineageError } from "../../base/errors.js";
import type { Device, DeviceTensor, Program, ProgramOptions, Runtime, RuntimeOptions } from "../types.js";
import { Api, type Pointer } from "./api.js";
import { NativeProgram } from "./program.js";
import { Allocation, type Memory, NativeTensor } from "./tensor.js";

const optimizationLevels = { none: 0, basic: 1, extended: 2, all: 99 } as const;

const providers: Readonly<Record<string, Device>> = {
  CPUExecutionProvider: "cpu",
  WebGpuExecutionProvider: "webgpu",
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
}

let engine: Engine | undefined;

const warningsAndWorse = 3;

function loadEngine(threads: number): Engine {
  if (engine) return engine;
  const api = new Api();
  // One pool for all sessions: the programs of a training step take turns, and pools of their own would spin against each other.
  const threading = api.out("CreateThreadingOptions");
  api.call("SetGlobalIntraOpNumThreads", threading, threads);
  const env = api.out("CreateEnvWithGlobalThreadPools", warningsAndWorse, "lineage", threading);
  api.release("ReleaseThreadingOptions", threading);
  const memory: Memory = {
    api,
    allocator: api.out("GetAllocatorWithDefaultOptions"),
    memoryInfo: api.out("CreateCpuMemoryInfo", 0, 0),
    allocatedBytes: 0,
  };
  engine = { api, env, threads, memory, devices: availableDevices(api) };
  return engine;
}

function availableDevices(api: Api): Device[] {
  const list = new BigUint64Array(1);
  const count = new Int32Array(1);
  api.call("GetAvailableProviders", list, count);
  const names = Array.from({ length: count[0]! }, (_, index) => {
    const text = koffi.decode(list[0]!, index * 8, "void *") as Pointer;
    return koffi.decode(text, "char", -1) as string;
  });
  api.call("ReleaseAvailableProviders", list[0]!, count[0]!);
  return names.flatMap((name) => providers[name] ?? []);
}

/**
 * The engine on one device of this machine. Throws `unsupported` where the platform has no engine or the engine not the
 * device, `argument` for a thread count that is none.
 */
export function createRuntime({
  device = "cpu",
  threads = os.availableParallelism(),
}: RuntimeOptions = {}): Runtime {
  if (!Number.isInteger(threads) || threads < 1) {
    throw new LineageError("argument", `threads must be a whole number of at least 1, not ${threads}`);
  }
  const loaded = loadEngine(threads);
  if (!loaded.devices.includes(device)) {
    throw new LineageError(
      "unsupported",
      `this build of ONNX Runtime ${loaded.api.version} has no device ${device}; it has ${loaded.devices.join(", ")}`,
    );
  }
  return new NativeRuntime(loaded, device, threads);
}

class NativeRuntime implements Runtime {
  readonly viewable = true;

  constructor(
    private readonly engine: Engine,
    readonly device: Device,
    readonly threads: number,
  ) {}

  get devices(): readonly Device[] {
    return this.engine.devices;
  }
  get version(): string {
    return this.engine.api.version;
  }
  get allocatedBytes(): number {
    return this.engine.memory.allocatedBytes;
  }

  createTensor<D extends DType>(dtype: D, shape: readonly number[], data?: TypedArrayOf[D]): DeviceTensor<D> {
    if (shape.some((dim) => !Number.isSafeInteger(dim) || dim < 0)) {
      throw new LineageError("shape", `createTensor: [${shape.join(", ")}] is not a shape`);
    }
    const { memory } = this.engine;
    const tensor = new NativeTensor(
      memory,
      Allocation.create(memory, elementCount(shape) * bytesPerElement(dtype)),
      dtype,
      shape,
      0,
    );
    if (data) tensor.write(data);
    else (tensor.view() as Uint8Array).fill(0 as never);
    return tensor;
  }

  wrapTensor<D extends DType>(dtype: D, shape: readonly number[], memory: TypedArrayOf[D]): DeviceTensor<D> {
    if (memory.length !== elementCount(shape)) {
      throw new LineageError(
        "shape",
        `wrapTensor: ${memory.length} elements cannot have the shape [${shape.join(", ")}]`,
      );
    }
    return new NativeTensor(this.engine.memory, Allocation.wrap(memory), dtype, shape, 0, memory.byteOffset);
  }

  // Asynchronous for the browser's sake; here the engine compiles on the calling thread.

  async createProgram(model: Uint8Array, options: ProgramOptions = {}): Promise<Program> {
    options.signal?.throwIfAborted();
    const { api, env, memory, threads } = this.engine;
    const session = api.out("CreateSessionOptions");
    try {
      api.call(
        "SetSessionGraphOptimizationLevel",
        session,
        optimizationLevels[options.optimization ?? "all"],
      );
      if (this.threads === threads) api.call("DisablePerSessionThreads", session);
      else api.call("SetIntraOpNumThreads", session, this.threads);
      if (options.arena === false) api.call("DisableCpuMemArena", session);
      if (options.profile) api.call("EnableProfiling", session, options.profile);
      if (options.directory) {
        api.call(
          "AddSessionConfigEntry",
          session,
          "session.model_external_initializers_file_folder_path",
          options.directory,
        );
      }
      if (this.device !== "cpu") {
        const name = this.device === "webgpu" ? "WebGPU" : "CUDA";
        api.call("SessionOptionsAppendExecutionProvider", session, name, null, null, 0);
      }
      const weights = Object.entries(options.weights ?? {});
      for (const [name, tensor] of weights) {
        if (!(tensor instanceof NativeTensor))
          throw new LineageError("argument", `the weight ${name} is a tensor of another runtime`);
        api.call("AddInitializer", session, name, tensor.value);
      }
      const pointer = api.out("CreateSessionFromArray", env, model, model.byteLength, session);
      return new NativeProgram(memory, pointer, options.name ?? "program", weights);
    } finally {
      api.release("ReleaseSessionOptions", session);
    }
  }

  dispose(): void {
    // The engine is the thread's own and goes with it; tensors and programs have lifetimes of their own.
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
