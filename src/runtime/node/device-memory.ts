import koffi from "./koffi.js";
import { LineageError, messageOf } from "../../base/errors.js";
import type { Pointer } from "./api.js";

/** Where a block of memory lies: the host's own; a device's; or the host's, where a device reaches it over the bus. */
export type Place = "host" | "device" | "shared";

/** The memory of a device that has its own. */
export interface DeviceMemory {
  /** The engine's name for it (OrtMemoryInfo): device memory and shared memory alike. */
  readonly info: Pointer;
  /** Throws LineageError `memory` where there is not as much. */
  allocate(place: "device" | "shared", byteLength: number): Pointer;
  free(place: "device" | "shared", address: Pointer): void;
  /** Copies between any two places; the bytes are there when it returns. The ranges must not overlap. */
  copy(target: Pointer, source: Pointer, byteLength: number): void;
  /** Sets bytes of the device's memory to zero. */
  clear(address: Pointer, byteLength: number): void;
}

/** The driver's library, which every machine with such a device has. */
const driverNames: Partial<Record<NodeJS.Platform, string>> = { linux: "libcuda.so.1", win32: "nvcuda.dll" };

/** The functions used; each gives an error code. `p` a pointer to a result, `a` an address, `z` a size, `i` an int. */
const functions = {
  cuInit: "i",
  cuDeviceGet: "pi",
  cuDevicePrimaryCtxRetain: "pi",
  cuCtxSetCurrent: "a",
  cuCtxSynchronize: "",
  cuMemAlloc_v2: "pz",
  cuMemFree_v2: "a",
  cuMemHostAlloc: "pzi",
  cuMemFreeHost: "a",
  cuMemcpy: "aaz",
  cuMemsetD8_v2: "aiz",
} as const;

const parameterTypes: Record<string, string> = { p: "void *", a: "uint64_t", z: "size_t", i: "int" };

const outOfMemory = 2;
/** Flags of cuMemHostAlloc: known to every context, and mapped into the device's addresses. */
const portableAndMapped = 3;

/**
 * Memory of the first CUDA device, through its driver: it is the same for every version of CUDA, and the engine's own
 * functions copy between places only inside a run.
 * @param info the engine's name for this memory
 */
export function cudaMemory(info: Pointer, platform: NodeJS.Platform = process.platform): DeviceMemory {
  const name = driverNames[platform];
  if (name === undefined) throw new LineageError("unsupported", `CUDA has no driver for ${platform}`);
  let library: ReturnType<typeof koffi.load>;
  try {
    library = koffi.load(name);
  } catch (error) {
    throw new LineageError("unsupported", `NVIDIA's driver is missing here: ${messageOf(error)}`, {
      cause: error,
    });
  }
  const bound = new Map(
    Object.entries(functions).map(([key, parameters]) => [
      key,
      library.func(
        key,
        "int",
        [...parameters].map((letter) => parameterTypes[letter]!),
      ),
    ]),
  );
  const call = (key: keyof typeof functions, ...args: unknown[]): number =>
    bound.get(key)!(...args) as number;
  const check = (key: keyof typeof functions, ...args: unknown[]): void => {
    const code = call(key, ...args);
    if (code !== 0)
      throw new LineageError("unsupported", `NVIDIA's driver refuses ${key} with the error ${code}`);
  };
  check("cuInit", 0);
  const device = new Int32Array(1);
  check("cuDeviceGet", device, 0);
  const context = new BigUint64Array(1);
  check("cuDevicePrimaryCtxRetain", context, device[0]!);
  check("cuCtxSetCurrent", context[0]!);
  return {
    info,
    allocate(place, byteLength) {
      const address = new BigUint64Array(1);
      const size = Math.max(byteLength, 1);
      const code =
        place === "device"
          ? call("cuMemAlloc_v2", address, size)
          : call("cuMemHostAlloc", address, size, portableAndMapped);
      if (code === 0) return address[0]!;
      const what = place === "device" ? "of the device" : "that the device can reach";
      throw new LineageError(
        code === outOfMemory ? "memory" : "unsupported",
        `there is no memory ${what} for a tensor of ${byteLength.toLocaleString("en-US")} bytes (CUDA error ${code})`,
      );
    },
    free(place, address) {
      check(place === "device" ? "cuMemFree_v2" : "cuMemFreeHost", address);
    },
    copy(target, source, byteLength) {
      if (byteLength === 0) return;
      check("cuMemcpy", target, source, byteLength);
      // Copies within the device, and the last part of those from ordinary memory, are still under way until then.
      check("cuCtxSynchronize");
    },
    clear(address, byteLength) {
      if (byteLength === 0) return;
      check("cuMemsetD8_v2", address, 0, byteLength);
      check("cuCtxSynchronize");
    },
  };
}
