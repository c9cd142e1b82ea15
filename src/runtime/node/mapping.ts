import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import koffi from "./koffi.js";
import { type DType, type TypedArrayOf, bytesPerElement, elementCount, viewOf } from "../../base/dtype.js";
import { LineageError } from "../../base/errors.js";
import { storageError } from "../../base/files.js";
import type { DeviceTensor, FileMapping } from "../types.js";
import type { Pointer } from "./api.js";
import { Allocation, type Memory, NativeTensor } from "./tensor.js";
import { checkShape } from "../signature.js";

/** The C library's memory maps. */
interface Mapper {
  readonly map: (fd: number, byteLength: number) => Pointer | undefined;
  readonly unmap: (address: Pointer, byteLength: number) => void;
}

const libraries: Partial<Record<NodeJS.Platform, string>> = {
  linux: "libc.so.6",
  darwin: "/usr/lib/libSystem.B.dylib",
};

let mapper: Mapper | undefined;

function loadMapper(): Mapper | undefined {
  const file = libraries[process.platform];
  if (mapper || file === undefined) return mapper;
  const library = koffi.load(file);
  const mmap = library.func("void *mmap(void *, size_t, int, int, int, int64_t)");
  const munmap = library.func("int munmap(void *, size_t)");
  const [readAndWrite, privately] = [1 | 2, 2];
  const failed = 2n ** 64n - 1n;
  mapper = {
    // Private: a write through a tensor makes a page of this process's own instead of reaching the file.
    map: (fd, byteLength) => {
      const address = mmap(null, byteLength, readAndWrite, privately, fd, 0) as Pointer | null;
      return address === null || address === failed ? undefined : address;
    },
    unmap: (address, byteLength) => {
      munmap(address, byteLength);
    },
  };
  return mapper;
}

export function mapFile(memory: Memory, file: string): FileMapping {
  let fd: number;
  try {
    fd = openSync(file, "r");
  } catch (error) {
    throw storageError("read", file, error);
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw new LineageError("storage", `cannot map ${file}: it is not a file`);
    const { size } = stat;
    const maps = size > 0 ? loadMapper() : undefined;
    const address = maps?.map(fd, size);
    if (maps && address !== undefined) {
      return new Mapping(
        memory,
        file,
        size,
        Allocation.at(address, size, () => {
          maps.unmap(address, size);
        }),
      );
    }
    const allocation = Allocation.create(memory, size);
    const mapping = new Mapping(memory, file, size, allocation);
    for (let done = 0; done < size;) {
      const length = Math.min(size - done, 2 ** 30);
      const { buffer, byteOffset } = allocation.bytes(done, length);
      const read = readSync(fd, new Uint8Array(buffer, byteOffset, length), 0, length, done);
      if (read === 0) throw new LineageError("storage", `cannot read ${file}: it became shorter meanwhile`);
      done += read;
    }
    return mapping;
  } finally {
    closeSync(fd);
  }
}

class Mapping implements FileMapping {
  private disposed = false;

  constructor(
    private readonly memory: Memory,
    private readonly file: string,
    readonly byteLength: number,
    private readonly allocation: Allocation,
  ) {
    allocation.retain();
  }

  tensor<D extends DType>(dtype: D, shape: readonly number[], byteOffset: number): DeviceTensor<D> {
    checkShape("mapFile", shape);
    if (this.disposed)
      throw new LineageError("disposed", `the mapping of ${this.file} was used after it was disposed`);
    const byteLength = elementCount(shape) * bytesPerElement(dtype);
    if (!Number.isSafeInteger(byteOffset) || byteOffset < 0 || byteOffset + byteLength > this.byteLength) {
      throw new LineageError(
        "argument",
        `${byteLength} bytes from byte ${byteOffset} on do not lie within the ${this.byteLength} of ${this.file}`,
      );
    }
    if (byteOffset % bytesPerElement(dtype) === 0)
      return new NativeTensor(this.memory, this.allocation, dtype, shape, byteOffset);
    const copy = new NativeTensor(this.memory, Allocation.create(this.memory, byteLength), dtype, shape, 0);
    const bytes = new Uint8Array(byteLength);
    const seen = this.allocation.bytes(byteOffset, byteLength);
    bytes.set(new Uint8Array(seen.buffer, seen.byteOffset, byteLength));
    copy.write(viewOf(dtype, bytes.buffer, 0, elementCount(shape)) as TypedArrayOf[D]);
    return copy;
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.allocation.release();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
