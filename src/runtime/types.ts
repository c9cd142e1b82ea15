import type { DType, TypedArray, TypedArrayOf } from "../base/dtype.js";

/** Where programs run. What a machine has is `Runtime.devices`. */
export type Device = "cpu" | "webgpu" | "cuda" | "wasm";

/**
 * A tensor that lives in the engine's memory and stays there: parameters, gradients, moments, KV caches.
 * A run binds it as an input or as an output, and writes in place.
 */
export interface DeviceTensor<D extends DType = DType> extends Disposable {
  readonly dtype: D;
  readonly shape: readonly number[];
  /** Number of elements. */
  readonly size: number;
  readonly byteLength: number;
  /** Whether the tensor lies in memory that JavaScript does not see: that of a CUDA device. */
  readonly apart: boolean;
  /**
   * The tensor's own memory as a typed array, without a copy; valid until `dispose`. A tensor that lies apart moves, with
   * all over the same memory, to where both the processor and the device see it, and stays there: runs then reach it over
   * the bus. So it is for what is written or read around every run; `contents`, `write` and `copy` leave a tensor where it
   * is. Throws `memory` where the tensor has more bytes than a buffer can (4 GiB in Node 20): slices of it can be seen;
   * `unsupported` for a tensor that lies apart while a run uses it.
   */
  view(): TypedArrayOf[D];
  /** The contents, to be read at once and not to be written: the tensor's own memory, or a copy of a tensor that lies apart. */
  contents(): TypedArrayOf[D];
  /** A copy of the contents. */
  read(): Promise<TypedArrayOf[D]>;
  /** Replaces the contents; `data` has `size` elements. */
  write(data: TypedArrayOf[D]): void;
  /** Sets every element to zero. */
  clear(): void;
  /**
   * Copies `count` elements of `source`, from element `from` on, to element `offset` of this one. `source` has the same
   * dtype and may be this tensor: the ranges may overlap.
   */
  copy(offset: number, source: DeviceTensor, from: number, count: number): void;
  /**
   * A tensor over part of this one's memory, from element `offset`, without a copy. It keeps the memory alive; the
   * memory is freed when every tensor over it is disposed.
   */
  slice(offset: number, shape: readonly number[]): DeviceTensor<D>;
  /**
   * One tensor over this one's memory and that of `others`, without a copy; undefined where they do not lie one after the
   * other in one piece of memory.
   */
  join(others: readonly DeviceTensor[], shape: readonly number[]): DeviceTensor<D> | undefined;
  dispose(): void;
}

/** A dimension in a program's signature: a number, or the name of a symbolic one (null when it has none). */
export interface ValueInfo {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly (number | string | null)[];
}

export interface RunOptions {
  /** Aborting stops the run within the engine; the promise rejects with the signal's reason. */
  readonly signal?: AbortSignal;
}

/** Tensors by input or output name. */
export type Tensors = Readonly<Record<string, DeviceTensor>>;

/** A fixed set of inputs and outputs of one program, bound once and run many times. The cheapest way to run. */
export interface Binding extends Disposable {
  /** Whether `runSync` works. */
  readonly synchronous: boolean;
  /** Replaces the tensor of one input or output; its dtype must match, its shape must fit. */
  set(name: string, tensor: DeviceTensor): void;
  /** Runs without blocking the event loop. Outputs that no tensor was bound to are not returned: `Program.run` does. */
  run(options?: RunOptions): Promise<void>;
  /** Runs on the calling thread. Throws `unsupported` in the browser. */
  runSync(): void;
  dispose(): void;
}

/** A compiled ONNX model. */
export interface Program extends Disposable {
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
  /**
   * Runs once. `outputs` says where results go: a tensor to write in place; results that it leaves out come back as new
   * tensors, which the caller disposes. Every output is in the result, given or new.
   */
  run(inputs: Tensors, outputs?: Tensors, options?: RunOptions): Promise<Record<string, DeviceTensor>>;
  /** Binds every input and every output. A tensor may be bound as an input and as an output: the run updates it. */
  bind(inputs: Tensors, outputs: Tensors): Binding;
  dispose(): void;
}

/**
 * Rewritings of the engine that are left out: what it makes of a sum and its norm takes eight times as long as the two one
 * after the other, and is less exact.
 */
export const disabledOptimizers = "SkipLayerNormFusion";

export interface ProgramOptions {
  /** Graph optimisation of the engine. Default `all`. */
  readonly optimization?: "none" | "basic" | "extended" | "all";
  /** Tensors by the names of the model's external initializers. The engine copies what it does not take in place. */
  readonly weights?: Tensors;
  /**
   * Names of weights that the engine takes where they lie. Their initializers have `Runtime.locationInPlace` for a location,
   * and no node has constants alone for its inputs, one of these among them.
   */
  readonly inPlace?: ReadonlySet<string> | undefined;
  /** Where the model's external data files are, if it has any. Default: the program has none. */
  readonly directory?: string;
  /** Writes a Chrome-trace profile of every run with this file name prefix (Node only). */
  readonly profile?: string;
  /** Signals a program that is still being made to stop. */
  readonly signal?: AbortSignal;
  /** Name for error messages. */
  readonly name?: string;
  /** Told what each named dimension is before a run; throws where the program cannot be run with that. */
  readonly checkSizes?: ((program: string, sizes: ReadonlyMap<string, number>) => void) | undefined;
  /**
   * Memory arena of this program's temporaries: `true` (default) keeps freed memory for the next run,
   * `false` returns it to the system at once.
   */
  readonly arena?: boolean;
  /**
   * Whether the engine plans all temporaries of a run as one block from the second run on, which it holds besides what
   * the first run took. Default true; false halved the memory of training steps.
   */
  readonly memoryPattern?: boolean;
  /**
   * Whether the engine keeps constant matrices a second time, in the order in which its products read them (Node only). Over
   * hundreds of rows that saves no time. Default true.
   */
  readonly prepacking?: boolean | undefined;
}

export interface RuntimeOptions {
  /** Default: `cpu` in Node; `wasm` in the browser. */
  readonly device?: Device;
  /** Threads of one operation. Default: the environment's LINEAGE_THREADS in Node, else the machine's cores. */
  readonly threads?: number;
  /**
   * Whether products of float32 may be computed in TensorFloat-32 on CUDA: several times as fast, with 10 bits of their
   * factors' fractions instead of 23. Default false.
   */
  readonly tf32?: boolean;
}

/** A file in memory. Tensors over it keep the memory alive. */
export interface FileMapping extends Disposable {
  readonly byteLength: number;
  /**
   * A tensor over the bytes from `byteOffset` on, without a copy where the offset is a multiple of the element's size.
   * Writing to it changes this process's memory, not the file.
   */
  tensor<D extends DType>(dtype: D, shape: readonly number[], byteOffset: number): DeviceTensor<D>;
  dispose(): void;
}

/** The engine on one device: the only way to memory and to execution that the floors above know. */
export interface Runtime extends Disposable {
  readonly device: Device;
  /** Devices that this build of the engine offers on this machine. */
  readonly devices: readonly Device[];
  /** The same engine on the plain CPU (itself, where that is the device): what other devices are checked against. */
  readonly cpu: Runtime;
  /** Version of the engine. */
  readonly version: string;
  readonly threads: number;
  /** The location of external initializers that stay in place, as a model names it. Absent where the engine copies all. */
  readonly locationInPlace?: string | undefined;
  /** A tensor of zeros, or of a copy of `data`. */
  createTensor<D extends DType>(dtype: D, shape: readonly number[], data?: TypedArrayOf[D]): DeviceTensor<D>;
  /**
   * A tensor over ordinary memory, which it takes over without a copy: disposing the tensor empties `memory`, which must be
   * the whole of its buffer. Elsewhere than in Node it copies.
   */
  wrapTensor<D extends DType>(dtype: D, shape: readonly number[], memory: TypedArrayOf[D]): DeviceTensor<D>;
  /**
   * A file's bytes as memory, read from disk when they are first used and shared between processes. The file must stay as
   * it is meanwhile. Where the system has no memory maps (Windows), the file is read. Throws `unsupported` in the browser,
   * `storage` for a file that cannot be read.
   */
  mapFile(file: string): FileMapping;
  /**
   * Zeros in a file on the disk of `folder` that has no name and goes with the tensor: where memory is short, the system writes
   * pages out that rest, instead of ending a process. Throws `unsupported` on other devices than the CPU and where the system
   * has no memory maps (Windows, the browser), `storage` where the disk has not as much room.
   */
  createPagedTensor<D extends DType>(dtype: D, shape: readonly number[], folder: string): DeviceTensor<D>;
  /** Compiles a serialised ONNX model. Throws RuntimeError with the node and module path that the engine refused. */
  createProgram(model: Uint8Array, options?: ProgramOptions): Promise<Program>;
  /** Bytes of tensors created here and not yet disposed. */
  readonly allocatedBytes: number;
  dispose(): void;
}

export type { DType, TypedArray, TypedArrayOf };
