import { closeSync, fstatSync, openSync, readSync, unlinkSync, writeSync } from "node:fs";
import path from "node:path";
import koffi from "./koffi.js";
import { type DType, type TypedArrayOf, bytesPerElement, elementCount, viewOf } from "../../base/dtype.js";
import { LineageError } from "../../base/errors.js";
import { storageError } from "../../base/files.js";
import { formatBytes } from "../../base/memory.js";
import type { DeviceTensor, FileMapping } from "../types.js";
import type { Pointer } from "./api.js";
import { Allocation, type Memory, NativeTensor } from "./tensor.js";
import { checkShape } from "../signature.js";

/** The C library's memory maps. */
interface Mapper {
  /** Shared: what is written reaches the file. Else a write makes a page of this process's own. */
  readonly map: (fd: number, byteLength: number, shared: boolean) => Pointer | undefined;
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
  const [readAndWrite, shared, privately] = [1 | 2, 1, 2];
  const failed = 2n ** 64n - 1n;
  mapper = {
    map: (fd, byteLength, isShared) => {
      const how = isShared ? shared : privately;
      const address = mmap(null, byteLength, readAndWrite, how, fd, 0) as Pointer | null;
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
    const address = maps?.map(fd, size, false);
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

/** Distinguishes the files of one process. */
let pagedFiles = 0;

/** Zeros in a file of `folder` that has no name. Throws `unsupported` without memory maps, `storage` without room. */
export function createPaged<D extends DType>(
  memory: Memory,
  dtype: D,
  shape: readonly number[],
  folder: string,
): DeviceTensor<D> {
  checkShape("createPagedTensor", shape);
  const byteLength = Math.max(1, elementCount(shape) * bytesPerElement(dtype));
  const maps = loadMapper();
  if (!maps)
    throw new LineageError(
      "unsupported",
      `memory cannot be paged to a file on ${process.platform}: it has no memory maps here`,
    );
  const file = path.join(folder, `.paged-${process.pid}-${pagedFiles++}`);
  let fd: number;
  try {
    fd = openSync(file, "wx+");
  } catch (error) {
    throw storageError("write", file, error);
  }
  try {
    // Nobody else needs the name, and a process that is killed leaves nothing behind.
    unlinkSync(file);
    fill(fd, byteLength);
    const address = maps.map(fd, byteLength, true);
    if (address === undefined)
      throw new LineageError("memory", `the system does not map ${formatBytes(byteLength)} of ${folder}`);
    const allocation = Allocation.at(address, byteLength, () => {
      maps.unmap(address, byteLength);
    });
    return new NativeTensor(memory, allocation, dtype, shape, 0);
  } catch (error) {
    throw error instanceof LineageError ? error : storageError("write", folder, error);
  } finally {
    closeSync(fd);
  }
}

/** Takes the room on the disk now: a full disk would otherwise end the process when a page is written. */
function fill(fd: number, byteLength: number): void {
  const zeros = new Uint8Array(Math.min(byteLength, 2 ** 22));
  for (let done = 0; done < byteLength;)
    done += writeSync(fd, zeros, 0, Math.min(zeros.length, byteLength - done));
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
