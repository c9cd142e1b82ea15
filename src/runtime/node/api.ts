import koffi from "./koffi.js";
import { LineageError } from "../../base/errors.js";
import { engineError } from "../failure.js";

/** An address in native memory; 0 is null. */
export type Pointer = bigint;

/** OrtApi only ever grows: its functions keep their places. 22 is the oldest version that has all of these. */
const apiVersion = 22;

/**
 * The functions used, by name: place in the OrtApi table, result, parameters. `s` an OrtStatus, `v` nothing; `p` a pointer
 * or typed array, `z` a size, `i` an int, `l` an int64, `c` a C string, `w` a path in the platform's encoding.
 */
const table = {
  GetErrorCode: [1, "i", "p"],
  GetErrorMessage: [2, "c", "p"],
  DisableTelemetryEvents: [6, "s", "p"],
  CreateSessionFromArray: [8, "s", "ppzpp"],
  Run: [9, "s", "ppppzpzp"],
  CreateSessionOptions: [10, "s", "p"],
  EnableProfiling: [14, "s", "pw"],
  DisableMemPattern: [17, "s", "p"],
  DisableCpuMemArena: [19, "s", "p"],
  SetSessionGraphOptimizationLevel: [23, "s", "pi"],
  SetIntraOpNumThreads: [24, "s", "pi"],
  SessionGetInputCount: [30, "s", "pp"],
  SessionGetOutputCount: [31, "s", "pp"],
  SessionGetInputTypeInfo: [33, "s", "pzp"],
  SessionGetOutputTypeInfo: [34, "s", "pzp"],
  SessionGetInputName: [36, "s", "pzpp"],
  SessionGetOutputName: [37, "s", "pzpp"],
  CreateRunOptions: [39, "s", "p"],
  RunOptionsSetTerminate: [46, "s", "p"],
  CreateTensorWithDataAsOrtValue: [49, "s", "ppzpzip"],
  GetTensorMutableData: [51, "s", "pp"],
  CastTypeInfoToTensorInfo: [55, "s", "pp"],
  GetTensorElementType: [60, "s", "pp"],
  GetDimensionsCount: [61, "s", "pp"],
  GetDimensions: [62, "s", "ppz"],
  GetSymbolicDimensions: [63, "s", "ppz"],
  GetTensorTypeAndShape: [65, "s", "pp"],
  CreateMemoryInfo: [68, "s", "ciiip"],
  CreateCpuMemoryInfo: [69, "s", "iip"],
  AllocatorAlloc: [75, "s", "pzp"],
  AllocatorFree: [76, "s", "pp"],
  GetAllocatorWithDefaultOptions: [78, "s", "p"],
  ReleaseStatus: [93, "v", "p"],
  ReleaseSession: [95, "v", "p"],
  ReleaseValue: [96, "v", "p"],
  ReleaseRunOptions: [97, "v", "p"],
  ReleaseTypeInfo: [98, "v", "p"],
  ReleaseTensorTypeAndShapeInfo: [99, "v", "p"],
  ReleaseSessionOptions: [100, "v", "p"],
  CreateEnvWithGlobalThreadPools: [119, "s", "icpp"],
  DisablePerSessionThreads: [120, "s", "p"],
  CreateThreadingOptions: [121, "s", "p"],
  ReleaseThreadingOptions: [122, "v", "p"],
  GetAvailableProviders: [125, "s", "pp"],
  ReleaseAvailableProviders: [126, "s", "pi"],
  AddSessionConfigEntry: [130, "s", "pcc"],
  SetGlobalIntraOpNumThreads: [147, "s", "pi"],
  AddInitializer: [150, "s", "pcp"],
  SessionOptionsAppendExecutionProvider_CUDA_V2: [204, "s", "pp"],
  CreateCUDAProviderOptions: [205, "s", "p"],
  UpdateCUDAProviderOptions: [206, "s", "pppz"],
  ReleaseCUDAProviderOptions: [208, "v", "p"],
  AddExternalInitializers: [210, "s", "pppz"],
  SessionOptionsAppendExecutionProvider: [216, "s", "pcppz"],
  SessionOptionsSetLoadCancellationFlag: [293, "s", "pi"],
} as const satisfies Record<string, readonly [number, string, string]>;

const parameterTypes: Record<string, string> = {
  p: "void *",
  z: "size_t",
  i: "int",
  l: "int64_t",
  c: "const char *",
  w: process.platform === "win32" ? "const char16_t *" : "const char *",
  s: "void *",
  v: "void",
};

export type Argument = Pointer | number | string | NodeJS.TypedArray | null;

type Name = keyof typeof table;

type Callback = (error: Error | null, result: unknown) => void;

interface NativeFunction {
  (...args: Argument[]): unknown;
  async(...args: [...Argument[], Callback]): void;
}

/** ONNX Runtime's C API: calls by name, with a failed status thrown as RuntimeError. */
export class Api {
  readonly version: string;
  private readonly functions = new Map<Name, NativeFunction>();

  /** @param file the library */
  constructor(file: string) {
    const library = koffi.load(file);
    const base = library.func("OrtGetApiBase", "void *", [])() as Pointer;
    const [getApi, getVersion] = [0, 1].map((index) => koffi.decode(base, index * 8, "void *") as Pointer);
    this.version = koffi.call(getVersion!, koffi.proto("const char *()")) as string;
    const api = koffi.call(getApi!, koffi.proto("void *(uint32_t)"), apiVersion) as Pointer | null;
    if (!api) {
      throw new LineageError(
        "unsupported",
        `ONNX Runtime ${this.version} is too old: its C API lacks version ${apiVersion}`,
      );
    }
    for (const [name, [place, result, parameters]] of Object.entries(table) as [
      Name,
      readonly [number, string, string],
    ][]) {
      const prototype = koffi.proto(
        `${parameterTypes[result]!} (${[...parameters].map((letter) => parameterTypes[letter]!).join(", ")})`,
      );
      const address = koffi.decode(api, place * 8, "void *") as Pointer;
      this.functions.set(name, koffi.decode(address, prototype) as NativeFunction);
    }
  }

  /** Calls a function that gives a status. Throws RuntimeError when it is not OK. */
  call(name: Name, ...args: Argument[]): void {
    this.check(this.functions.get(name)!(...args) as Pointer | null, name, args);
  }

  /** Calls a function that gives nothing. */
  release(name: Name, pointer: Pointer): void {
    this.functions.get(name)!(pointer);
  }

  /** Calls a function that writes a pointer through its last parameter. */
  out(name: Name, ...args: Argument[]): Pointer {
    const out = new BigUint64Array(1);
    this.call(name, ...args, out);
    return out[0]!;
  }

  /** Calls on a thread of the pool; the event loop goes on meanwhile. */
  callAsync(name: Name, ...args: Argument[]): Promise<void> {
    return new Promise((resolve, reject) => {
      this.functions.get(name)!.async(...args, (error: Error | null, status: unknown) => {
        try {
          if (error) throw error;
          // Naming the arguments here keeps them reachable, and in place, until the call has come back.
          this.check(status as Pointer | null, name, args);
          resolve();
        } catch (failure) {
          reject(failure instanceof Error ? failure : new Error(String(failure)));
        }
      });
    });
  }

  private check(status: Pointer | null, name: Name, args: readonly Argument[]): void {
    if (!status) return;
    const code = this.functions.get("GetErrorCode")!(status) as number;
    const message = this.functions.get("GetErrorMessage")!(status) as string;
    this.functions.get("ReleaseStatus")!(status);
    if (name === "AllocatorAlloc") {
      const bytes = Number(args[1]).toLocaleString("en-US");
      throw new LineageError("memory", `there is no memory for a tensor of ${bytes} bytes`);
    }
    throw engineError(code, message);
  }
}
