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
import { checkCopy, checkJoined, checkShape, describeTensor } from "../signature.js";
import type { DeviceTensor } from "../types.js";
import type { Api, Pointer } from "./api.js";
import { detach } from "./detach.js";
import type { DeviceMemory, Place } from "./device-memory.js";

/** What every tensor needs of the engine: its functions and its memory. */
export interface Memory {
  readonly api: Api;
  readonly allocator: Pointer;
  readonly memoryInfo: Pointer;
  /** Bytes of live allocations. */
  allocatedBytes: number;
  /** Tensors disposed or moved so far; tells a binding whether it has to look at its tensors again. */
  changes: number;
}

/** Up to so many bytes lie where both the processor and a device reach them: what is read or written between runs. */
const sharedBytes = 65_536;

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

  /** Runs that read or write the memory now. */
  private users = 0;

  private constructor(
    /** Of the block as it lies now: `moveToHost` gives it another. */
    public address: Pointer,
    private readonly byteLength: number,
    private free: () => void,
    /** The memory, where it is JavaScript's own. */
    private readonly adopted?: ArrayBuffer,
    /** A device's memory, in which the block lies or lay. */
    private readonly device?: DeviceMemory,
    public place: Place = "host",
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

  /** Memory that a device reaches, with any bytes. Throws `memory` where there is not as much. */
  static onDevice(memory: Memory, device: DeviceMemory, byteLength: number): Allocation {
    const place = byteLength <= sharedBytes ? "shared" : "device";
    const address = device.allocate(place, byteLength);
    memory.allocatedBytes += byteLength;
    const free = () => {
      memory.allocatedBytes -= byteLength;
      device.free(place, address);
    };
    return new Allocation(address, byteLength, free, undefined, device, place);
  }

  /** The engine's name for where the block lies. */
  memoryInfo(memory: Memory): Pointer {
    return this.place === "host" ? memory.memoryInfo : this.device!.info;
  }

  /**
   * Moves a block of the device's memory to where the processor sees it and the device reaches it over the bus. Throws
   * `unsupported` while a run uses it.
   */
  private moveToHost(memory: Memory): void {
    if (this.place !== "device") return;
    if (this.users > 0)
      throw new LineageError(
        "unsupported",
        "a tensor in the memory of a device cannot be viewed while a run uses it: read it, or view it before",
      );
    const [device, { address, byteLength, free }] = [this.device!, this];
    const shared = device.allocate("shared", byteLength);
    device.copy(shared, address, byteLength);
    free();
    memory.allocatedBytes += byteLength;
    memory.changes++;
    this.address = shared;
    this.place = "shared";
    this.free = () => {
      memory.allocatedBytes -= byteLength;
      device.free("shared", shared);
    };
  }

  /** Some bytes of the block: themselves where JavaScript sees them, else a copy. */
  bytes(byteOffset: number, byteLength: number): Bytes {
    if (this.place !== "device") return this.seen(byteOffset, byteLength);
    const buffer = new ArrayBuffer(byteLength);
    this.device!.copy(koffi.address(buffer) as Pointer, this.address + BigInt(byteOffset), byteLength);
    return { buffer, byteOffset: 0 };
  }

  /** Writes bytes of ordinary memory into the block. */
  write(byteOffset: number, source: NodeJS.TypedArray): void {
    const { byteLength } = source;
    if (byteLength === 0) return;
    if (this.place === "device")
      this.device!.copy(
        this.address + BigInt(byteOffset),
        (koffi.address(source.buffer) as Pointer) + BigInt(source.byteOffset),
        byteLength,
      );
    else {
      const seen = this.seen(byteOffset, byteLength);
      new Uint8Array(seen.buffer, seen.byteOffset, byteLength).set(
        new Uint8Array(source.buffer, source.byteOffset, byteLength),
      );
    }
  }

  /** Copies bytes of another block, or of this one, where the ranges may overlap. */
  copy(byteOffset: number, source: Allocation, sourceOffset: number, byteLength: number): void {
    if (this.place === "device" && source.place === "device") {
      const device = this.device!;
      const [to, from] = [this.address + BigInt(byteOffset), source.address + BigInt(sourceOffset)];
      const distance = Math.abs(byteOffset - sourceOffset);
      if (this !== source || distance >= byteLength) return void device.copy(to, from, byteLength);
      const between = device.allocate("device", byteLength);
      device.copy(between, from, byteLength);
      device.copy(to, between, byteLength);
      device.free("device", between);
    } else {
      const { buffer, byteOffset: start } = source.bytes(sourceOffset, byteLength);
      this.write(byteOffset, new Uint8Array(buffer, start, byteLength));
    }
  }

  hold(): void {
    this.users++;
  }

  letGo(): void {
    this.users--;
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

  /**
   * A buffer with these bytes of the block, and where they begin in it. Memory of a device moves to the host's first. Throws
   * `memory` for more than a buffer can have.
   */
  view(memory: Memory, byteOffset: number, byteLength: number): Bytes {
    this.moveToHost(memory);
    return this.seen(byteOffset, byteLength);
  }

  private seen(byteOffset: number, byteLength: number): Bytes {
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

  /** Sets bytes to zero. */
  clear(from = 0, byteLength = this.byteLength): void {
    if (this.place === "device") return void this.device!.clear(this.address + BigInt(from), byteLength);
    const part = 2 ** 30;
    for (let start = from; start < from + byteLength; start += part) {
      const length = Math.min(part, from + byteLength - start);
      const { buffer, byteOffset } = this.seen(start, length);
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
  /** The OrtValue, and the address that it was made for. */
  private pointer: Pointer;
  private pointsAt: Pointer;
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
    this.pointsAt = allocation.address;
    this.pointer = this.makeValue();
    allocation.retain();
    abandoned.register(this, releaser(memory.api, this.pointer, allocation), this);
  }

  private makeValue(): Pointer {
    const { memory, allocation, shape } = this;
    return memory.api.out(
      "CreateTensorWithDataAsOrtValue",
      allocation.memoryInfo(memory),
      allocation.address + BigInt(this.byteOffset),
      this.byteLength,
      BigInt64Array.from(shape, BigInt),
      shape.length,
      onnxDataType(this.dtype),
    );
  }

  /** The OrtValue, another one after the memory has moved. Throws `disposed` after `dispose`. */
  get value(): Pointer {
    this.checkAlive();
    const { memory, allocation } = this;
    if (this.pointsAt !== allocation.address) {
      const before = this.pointer;
      this.pointer = this.makeValue();
      this.pointsAt = allocation.address;
      memory.api.release("ReleaseValue", before);
      abandoned.unregister(this);
      abandoned.register(this, releaser(memory.api, this.pointer, allocation), this);
    }
    return this.pointer;
  }

  get apart(): boolean {
    return this.allocation.place === "device";
  }

  view(): TypedArrayOf[D] {
    this.checkAlive();
    const { buffer, byteOffset } = this.allocation.view(this.memory, this.byteOffset, this.byteLength);
    return viewOf(this.dtype, buffer, byteOffset, this.size);
  }

  contents(): TypedArrayOf[D] {
    this.checkAlive();
    const { buffer, byteOffset } = this.allocation.bytes(this.byteOffset, this.byteLength);
    return viewOf(this.dtype, buffer, byteOffset, this.size);
  }

  read(): Promise<TypedArrayOf[D]> {
    const contents = this.contents();
    return Promise.resolve(this.apart ? contents : (contents.slice() as TypedArrayOf[D]));
  }

  write(data: TypedArrayOf[D]): void {
    if (data.length !== this.size) {
      throw new LineageError(
        "argument",
        `write: ${data.length} elements for a tensor of [${this.shape.join(", ")}], which has ${this.size}`,
      );
    }
    this.checkAlive();
    this.allocation.write(this.byteOffset, data);
  }

  clear(): void {
    this.checkAlive();
    this.allocation.clear(this.byteOffset, this.byteLength);
  }

  copy(offset: number, source: DeviceTensor, from: number, count: number): void {
    if (!(source instanceof NativeTensor))
      throw new LineageError("argument", "copy: the source is a tensor of another runtime");
    this.checkAlive();
    source.checkAlive();
    checkCopy(this, offset, source, from, count);
    const bytes = bytesPerElement(this.dtype);
    const [to, start] = [this.byteOffset + offset * bytes, source.byteOffset + from * bytes];
    this.allocation.copy(to, source.allocation, start, count * bytes);
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

  /** The same contents in memory that the engine takes for the host's: this tensor, where it is; else one to be disposed. */
  onHost(): NativeTensor<D> {
    this.checkAlive();
    const { memory, allocation, dtype, shape } = this;
    if (allocation.place === "host") return this;
    if (allocation.place === "device") {
      const copy = new NativeTensor(memory, Allocation.create(memory, this.byteLength), dtype, shape, 0);
      copy.copy(0, this, 0, this.size);
      return copy;
    }
    const address = allocation.retain().address + BigInt(this.byteOffset);
    const same = Allocation.at(address, this.byteLength, () => {
      allocation.release();
    });
    return new NativeTensor(memory, same, dtype, shape, 0);
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
    return describeTensor(this, this.disposed ? undefined : this.contents());
  }

  /**
   * Keeps the memory in place until `letGo`, whoever disposes the tensor meanwhile. Throws `disposed` where it has been
   * freed already.
   */
  hold(): void {
    if (this.users === 0) this.checkAlive();
    this.users++;
    this.allocation.hold();
  }

  letGo(): void {
    this.allocation.letGo();
    if (--this.users === 0 && this.disposed) this.free();
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.memory.changes++;
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
