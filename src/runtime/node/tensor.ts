import { constants } from "node:buffer";
import koffi from "./koffi.js";
import {
  type DType,
  type TypedArrayOf,
  bytesPerElement,
  elementCount,
  onnxDataType,
  viewOf,
} from "../../base/dtype.js";
import { LineageError } from "../../base/errors.js";
import { formatBytes } from "../../base/memory.js";
import { checkJoined, checkShape, describeTensor } from "../signature.js";
import type { DeviceTensor } from "../types.js";
import type { Api, Pointer } from "./api.js";
import { detach } from "./detach.js";

/** What every tensor needs of the engine: its functions and its memory. */
export interface Memory {
  readonly api: Api;
  readonly allocator: Pointer;
  readonly memoryInfo: Pointer;
  /** Bytes of live allocations. */
  allocatedBytes: number;
  /** Tensors disposed so far; tells a binding whether it has to look at its tensors again. */
  disposals: number;
}

/** Bytes as JavaScript sees them. */
interface Bytes {
  readonly buffer: ArrayBuffer;
  readonly byteOffset: number;
}

/** A block of native memory that lives as long as any tensor over it. */
export class Allocation {
  private references = 0;
  /** By the bytes that they view: one of everything, or of parts where there is more than a buffer can have. */
  private readonly viewed = new Map<string, ArrayBuffer>();

  private constructor(
    readonly address: Pointer,
    private readonly byteLength: number,
    private readonly free: () => void,
    /** The memory, where it is JavaScript's own. */
    private readonly adopted?: ArrayBuffer,
  ) {}

  /** @throws LineageError `memory` where the system has not as much */
  static create(memory: Memory, byteLength: number): Allocation {
    // The engine's allocator aligns to what its kernels like best.
    const address = memory.api.out("AllocatorAlloc", memory.allocator, Math.max(byteLength, 1));
    memory.allocatedBytes += byteLength;
    return new Allocation(address, byteLength, () => {
      memory.allocatedBytes -= byteLength;
      memory.api.call("AllocatorFree", memory.allocator, address);
    });
  }

  /** Memory of an OrtValue that the engine made for an output. */
  static ofValue(memory: Memory, value: Pointer, byteLength: number): Allocation {
    const address = memory.api.out("GetTensorMutableData", value);
    memory.allocatedBytes += byteLength;
    return new Allocation(address, byteLength, () => {
      memory.allocatedBytes -= byteLength;
      memory.api.release("ReleaseValue", value);
    });
  }

  /** Ordinary memory, which is emptied with the last tensor over it. */
  static adopt(memory: Memory, buffer: ArrayBuffer): Allocation {
    const { byteLength } = buffer;
    memory.allocatedBytes += byteLength;
    const free = () => {
      memory.allocatedBytes -= byteLength;
      detach(buffer);
    };
    return new Allocation(koffi.address(buffer) as Pointer, byteLength, free, buffer);
  }

  /** Memory at an address that nobody else frees. */
  static at(address: Pointer, byteLength: number, free: () => void): Allocation {
    return new Allocation(address, byteLength, free);
  }

  /** A buffer with these bytes of the block, and where they begin in it. Throws `memory` for more than a buffer can have. */
  view(byteOffset: number, byteLength: number): Bytes {
    if (this.adopted) return { buffer: this.adopted, byteOffset };
    if (this.byteLength <= constants.MAX_LENGTH)
      return { buffer: this.bufferOf(0, this.byteLength), byteOffset };
    if (byteLength > constants.MAX_LENGTH)
      throw new LineageError(
        "memory",
        `${formatBytes(byteLength)} cannot be seen at once: a buffer has at most ${formatBytes(constants.MAX_LENGTH)} in this Node; take slices`,
      );
    return { buffer: this.bufferOf(byteOffset, byteLength), byteOffset: 0 };
  }

  private bufferOf(byteOffset: number, byteLength: number): ArrayBuffer {
    const key = `${byteOffset} ${byteLength}`;
    let buffer = this.viewed.get(key);
    if (!buffer) {
      buffer =
        byteLength === 0 ? new ArrayBuffer(0) : koffi.view(this.address + BigInt(byteOffset), byteLength);
      this.viewed.set(key, buffer);
    }
    return buffer;
  }

  /** Sets every byte to zero. */
  clear(): void {
    const part = 2 ** 30;
    for (let start = 0; start < this.byteLength; start += part) {
      const length = Math.min(part, this.byteLength - start);
      const { buffer, byteOffset } = this.view(start, length);
      new Uint8Array(buffer, byteOffset, length).fill(0);
    }
  }

  retain(): this {
    this.references++;
    return this;
  }

  release(): void {
    if (--this.references > 0) return;
    // Views that somebody still holds become empty instead of pointing at memory that is no longer theirs.
    for (const buffer of this.viewed.values()) detach(buffer);
    this.free();
  }
}

const abandoned = new FinalizationRegistry<() => void>((free) => {
  free();
});

/** An OrtValue over part of an allocation. */
export class NativeTensor<D extends DType = DType> implements DeviceTensor<D> {
  readonly size: number;
  readonly byteLength: number;
  /** The OrtValue. */
  private readonly pointer: Pointer;
  private disposed = false;
  /** Runs that read or write the tensor now. */
  private users = 0;

  constructor(
    private readonly memory: Memory,
    private readonly allocation: Allocation,
    readonly dtype: D,
    readonly shape: readonly number[],
    /** From the start of the allocation. */
    private readonly byteOffset: number,
  ) {
    this.size = elementCount(shape);
    this.byteLength = this.size * bytesPerElement(dtype);
    const { api, memoryInfo } = memory;
    this.pointer = api.out(
      "CreateTensorWithDataAsOrtValue",
      memoryInfo,
      allocation.address + BigInt(byteOffset),
      this.byteLength,
      BigInt64Array.from(shape, BigInt),
      shape.length,
      onnxDataType(dtype),
    );
    allocation.retain();
    abandoned.register(this, releaser(api, this.pointer, allocation), this);
  }

  /** The OrtValue. Throws `disposed` after `dispose`. */
  get value(): Pointer {
    this.checkAlive();
    return this.pointer;
  }

  view(): TypedArrayOf[D] {
    this.checkAlive();
    const { buffer, byteOffset } = this.allocation.view(this.byteOffset, this.byteLength);
    return viewOf(this.dtype, buffer, byteOffset, this.size);
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

  slice(offset: number, shape: readonly number[]): NativeTensor<D> {
    this.checkAlive();
    checkShape("slice", shape);
    const size = elementCount(shape);
    if (!Number.isInteger(offset) || offset < 0 || offset + size > this.size) {
      throw new LineageError(
        "argument",
        `slice: elements ${offset} to ${offset + size} do not lie within the ${this.size} of the tensor`,
      );
    }
    const bytes = offset * bytesPerElement(this.dtype);
    return new NativeTensor(this.memory, this.allocation, this.dtype, shape, this.byteOffset + bytes);
  }

  join(others: readonly DeviceTensor[], shape: readonly number[]): NativeTensor<D> | undefined {
    this.checkAlive();
    let end = this.byteOffset + this.byteLength;
    for (const other of others) {
      if (!(other instanceof NativeTensor) || other.allocation !== this.allocation) return undefined;
      if (other.dtype !== this.dtype || other.byteOffset !== end) return undefined;
      other.checkAlive();
      end += other.byteLength;
    }
    checkJoined(shape, this, others);
    return new NativeTensor(this.memory, this.allocation, this.dtype, shape, this.byteOffset);
  }

  /** What `console.log` shows: dtype, shape and the first values. */
  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return describeTensor(this, this.disposed ? undefined : this.view());
  }

  /**
   * Keeps the memory in place until `letGo`, whoever disposes the tensor meanwhile. Throws `disposed` where it has been
   * freed already.
   */
  hold(): void {
    if (this.users === 0) this.checkAlive();
    this.users++;
  }

  letGo(): void {
    if (--this.users === 0 && this.disposed) this.free();
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.memory.disposals++;
    if (this.users === 0) this.free();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }

  private free(): void {
    abandoned.unregister(this);
    releaser(this.memory.api, this.pointer, this.allocation)();
  }

  /** Throws `disposed` once the tensor has been disposed. */
  checkAlive(): void {
    if (this.disposed) {
      throw new LineageError(
        "disposed",
        `a ${this.dtype} tensor of [${this.shape.join(", ")}] was used after it was disposed`,
      );
    }
  }
}

/** Frees a tensor without holding on to the tensor itself. */
const releaser = (api: Api, value: Pointer, allocation: Allocation) => (): void => {
  api.release("ReleaseValue", value);
  allocation.release();
};
