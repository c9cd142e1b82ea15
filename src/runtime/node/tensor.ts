import koffi from "koffi";
import {
  type DType,
  type TypedArrayOf,
  bytesPerElement,
  elementCount,
  onnxDataType,
  viewOf,
} from "../../base/dtype.js";
import { LineageError } from "../../base/errors.js";
import { checkShape } from "../signature.js";
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

/** A block of native memory that lives as long as any tensor over it. One ArrayBuffer views it. */
export class Allocation {
  private references = 0;
  private viewed: ArrayBuffer | undefined;

  private constructor(
    readonly address: Pointer,
    private readonly byteLength: number,
    private readonly free: () => void,
    /** The memory's own buffer, where somebody else owns it. */
    private readonly owned?: ArrayBuffer,
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

  /** Memory that somebody else keeps in place; `owner` stays reachable with it. */
  static wrap(owner: NodeJS.TypedArray): Allocation {
    const address = koffi.address(owner) as Pointer;
    return new Allocation(address, owner.byteLength, () => undefined, owner.buffer as ArrayBuffer);
  }

  /** Memory at an address that nobody else frees. */
  static at(address: Pointer, byteLength: number, free: () => void): Allocation {
    return new Allocation(address, byteLength, free);
  }

  get buffer(): ArrayBuffer {
    if (this.owned) return this.owned;
    this.viewed ??= this.byteLength === 0 ? new ArrayBuffer(0) : koffi.view(this.address, this.byteLength);
    return this.viewed;
  }

  retain(): this {
    this.references++;
    return this;
  }

  release(): void {
    if (--this.references > 0) return;
    // Views that somebody still holds become empty instead of pointing at memory that is no longer theirs.
    if (this.viewed) detach(this.viewed);
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
    /** From the start of the allocation's buffer; differs for wrapped memory. */
    private readonly bufferOffset = byteOffset,
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
    return viewOf(this.dtype, this.allocation.buffer, this.bufferOffset, this.size);
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
    return new NativeTensor(
      this.memory,
      this.allocation,
      this.dtype,
      shape,
      this.byteOffset + bytes,
      this.bufferOffset + bytes,
    );
  }

  /** Keeps the memory in place until `letGo`, whoever disposes the tensor meanwhile. */
  hold(): void {
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
