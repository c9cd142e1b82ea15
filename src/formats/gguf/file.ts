import { FormatError, LineageError } from "../../base/errors.js";
import { openFile, readFully } from "../../base/files.js";
import { type GgufFormat, ggufFormatOfId, ggufFormats, rowBytes } from "./blocks.js";
import { joinParts, partCount, partPaths } from "./parts.js";

// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The package @huggingface/gguf reads the same header, but
// takes a string that ends with its two-megabyte window, pads a short file with zeros, and checks neither names nor offsets.

/** A value of a GGUF's metadata, with the type that it has in the file. */
export type GgufValue =
  | { readonly type: GgufNumberType; readonly value: number }
  /** A 64-bit number beyond what a JavaScript number holds exactly. */
  | { readonly type: "uint64" | "int64"; readonly value: bigint }
  | { readonly type: "bool"; readonly value: boolean }
  | { readonly type: "string"; readonly value: string }
  | { readonly type: "array"; readonly of: GgufType; readonly value: readonly GgufScalar[] };

type GgufScalar = number | bigint | boolean | string | readonly GgufScalar[];
export type GgufNumberType =
  "uint8" | "int8" | "uint16" | "int16" | "uint32" | "int32" | "float32" | "uint64" | "int64" | "float64";
export type GgufType = GgufNumberType | "bool" | "string" | "array";

/** In the order of their numbers in the file. */
export const ggufTypes: readonly GgufType[] = [
  "uint8",
  "int8",
  "uint16",
  "int16",
  "uint32",
  "int32",
  "float32",
  "bool",
  "string",
  "array",
  "uint64",
  "int64",
  "float64",
];

/** Bytes of a value; of a string or an array, those of its length. */
export const ggufTypeBytes: Readonly<Record<GgufType, number>> = {
  uint8: 1,
  int8: 1,
  uint16: 2,
  int16: 2,
  uint32: 4,
  int32: 4,
  float32: 4,
  bool: 1,
  string: 8,
  array: 12,
  uint64: 8,
  int64: 8,
  float64: 8,
};

export interface GgufTensor {
  readonly format: GgufFormat;
  /** Outermost dimension first, as everywhere here; the file has them the other way round. */
  readonly shape: readonly number[];
  /** The file that it lies in; a model may be in parts. */
  readonly file: string;
  /** From the start of the file. */
  readonly byteOffset: number;
  readonly byteLength: number;
}

export interface GgufHeader {
  readonly version: number;
  readonly alignment: number;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: ReadonlyMap<string, GgufTensor>;
}

const magic = 0x4655_4747;
export const defaultAlignment = 32;
/** A vocabulary of a million tokens with its merges fits. */
const maxHeaderLength = 2 ** 28;

/** More of the file is needed than `head` has. */
class Short extends Error {}

/**
 * Reads and checks a header: every count possible in a file of this size, no name twice, every tensor's bytes as many as
 * its shape needs, within the file, aligned and its own. Throws FormatError saying what is wrong.
 * @param head the file's first bytes: at least its header
 * @param fileSize bytes of the whole file
 */
export function parseGguf(file: string, head: Uint8Array, fileSize: number): GgufHeader {
  try {
    return new HeaderReader(file, head, fileSize).header();
  } catch (error) {
    if (error instanceof Short) throw new FormatError(file, "the header is cut short", { cause: error });
    throw error;
  }
}

class HeaderReader {
  private readonly view: DataView;
  private place = 0;
  private readonly utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

  constructor(
    private readonly file: string,
    private readonly head: Uint8Array,
    private readonly fileSize: number,
  ) {
    this.view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  }

  header(): GgufHeader {
    if (this.fileSize < 24 || this.uint32() !== magic)
      return this.fail("it does not begin as a GGUF file does; is it one, and whole?");
    const version = this.uint32();
    if (version !== 2 && version !== 3) {
      return this.fail(
        version % 0x10000 === 0
          ? "it is written for big-endian machines, which lineage does not read"
          : `it has version ${version} of the format; versions 2 and 3 are known`,
      );
    }
    const tensorCount = this.count("tensors", 24);
    const entryCount = this.count("metadata entries", 13);
    const metadata = new Map<string, GgufValue>();
    for (let i = 0; i < entryCount; i++) {
      const key = this.string("a metadata key");
      if (metadata.has(key)) return this.fail(`the metadata key ${JSON.stringify(key)} is there twice`);
      metadata.set(key, this.value(key));
    }
    const alignment = this.alignmentOf(metadata.get("general.alignment"));
    const described = Array.from({ length: tensorCount }, () => this.tensor());
    const start = Math.ceil(this.place / alignment) * alignment;
    return { version, alignment, metadata, tensors: this.placeTensors(described, start, alignment) };
  }

  private alignmentOf(entry: GgufValue | undefined): number {
    if (entry === undefined) return defaultAlignment;
    const { value } = entry;
    if (typeof value !== "number" || !Number.isInteger(Math.log2(value)) || value < 8 || value > 2 ** 20)
      return this.fail("general.alignment must be a power of two from 8 to 1,048,576");
    return value;
  }

  private tensor(): {
    name: string;
    format: GgufFormat;
    shape: number[];
    offset: number;
    byteLength: number;
  } {
    const name = this.string("a tensor's name");
    const fail = (reason: string): never => this.fail(`the tensor ${JSON.stringify(name)} ${reason}`);
    const rank = this.uint32();
    if (rank > 4) return fail(`has ${rank} dimensions; a GGUF tensor has four at most`);
    const shape: number[] = [];
    for (let i = 0; i < rank; i++) {
      const size = this.uint64();
      if (size > Number.MAX_SAFE_INTEGER) return fail(`has a dimension of ${size}`);
      shape.unshift(Number(size));
    }
    const id = this.uint32();
    const format = ggufFormatOfId(id);
    if (!format) return fail(`has the type ${id}, which lineage does not know`);
    const offset = this.uint64();
    const bytes = rowBytes(format, shape.at(-1) ?? 1);
    if (bytes === undefined)
      return fail(
        `has rows of ${shape.at(-1)}, which are no whole blocks of ${format.elements} (${format.name})`,
      );
    const byteLength = shape.slice(0, -1).reduce((product, dim) => product * dim, bytes);
    if (!(byteLength <= this.fileSize))
      return fail(
        `needs ${byteLength} bytes for ${format.name} [${shape.join(", ")}], more than the whole file has`,
      );
    if (offset > this.fileSize) return fail(`begins at byte ${offset} of the data, outside the file`);
    return { name, format, shape, offset: Number(offset), byteLength };
  }

  private placeTensors(
    described: readonly ReturnType<HeaderReader["tensor"]>[],
    start: number,
    alignment: number,
  ): Map<string, GgufTensor> {
    const tensors = new Map<string, GgufTensor>();
    for (const { name, format, shape, offset, byteLength } of described) {
      const fail = (reason: string): never => this.fail(`the tensor ${JSON.stringify(name)} ${reason}`);
      if (tensors.has(name)) return fail("is there twice");
      if (offset % alignment !== 0)
        return fail(`begins at byte ${offset} of the data, which is no multiple of ${alignment}`);
      const byteOffset = start + offset;
      if (byteOffset + byteLength > this.fileSize)
        return fail(
          `lies at bytes ${byteOffset} to ${byteOffset + byteLength}, but the file has ${this.fileSize}: it is cut short`,
        );
      tensors.set(name, { format, shape, file: this.file, byteOffset, byteLength });
    }
    let end = 0;
    let before = "";
    for (const [name, { byteOffset, byteLength }] of [...tensors].sort(
      ([, a], [, b]) => a.byteOffset - b.byteOffset || a.byteLength - b.byteLength,
    )) {
      if (byteOffset < end)
        return this.fail(`the tensors ${JSON.stringify(before)} and ${JSON.stringify(name)} overlap`);
      [end, before] = [byteOffset + byteLength, name];
    }
    return tensors;
  }

  private value(key: string): GgufValue {
    const type = this.type(key);
    if (type === "array") return { type, ...this.array(key, 0) };
    return { type, value: this.scalar(type) } as GgufValue;
  }

  private array(key: string, depth: number): { of: GgufType; value: GgufScalar[] } {
    if (depth > 3) return this.fail(`the metadata entry ${JSON.stringify(key)} nests too deeply`);
    const of = this.type(key);
    const length = this.count(`values of ${JSON.stringify(key)}`, ggufTypeBytes[of]);
    const value: GgufScalar[] = [];
    for (let i = 0; i < length; i++)
      value.push(of === "array" ? this.array(key, depth + 1).value : this.scalar(of));
    return { of, value };
  }

  private type(key: string): GgufType {
    const number = this.uint32();
    return (
      ggufTypes[number] ??
      this.fail(`the metadata entry ${JSON.stringify(key)} has the type ${number}, which there is not`)
    );
  }

  private scalar(type: Exclude<GgufType, "array">): number | bigint | boolean | string {
    if (type === "string") return this.string("a metadata string");
    const at = this.take(ggufTypeBytes[type]);
    const { view } = this;
    switch (type) {
      case "uint8":
        return view.getUint8(at);
      case "int8":
        return view.getInt8(at);
      case "uint16":
        return view.getUint16(at, true);
      case "int16":
        return view.getInt16(at, true);
      case "uint32":
        return view.getUint32(at, true);
      case "int32":
        return view.getInt32(at, true);
      case "float32":
        return view.getFloat32(at, true);
      case "float64":
        return view.getFloat64(at, true);
      case "bool":
        return view.getUint8(at) !== 0;
      case "uint64":
        return smallest(view.getBigUint64(at, true));
      case "int64":
        return smallest(view.getBigInt64(at, true));
    }
  }

  private string(what: string): string {
    const length = this.count(`bytes of ${what}`, 1);
    const at = this.take(length);
    try {
      return this.utf8.decode(this.head.subarray(at, at + length));
    } catch (error) {
      throw new FormatError(this.file, `${what} is not UTF-8`, { cause: error });
    }
  }

  /** A number of things that take at least `bytes` each, so that no more can be claimed than the file has room for. */
  private count(what: string, bytes: number): number {
    const count = this.uint64();
    if (count * BigInt(bytes) > BigInt(this.fileSize - this.place))
      return this.fail(`it claims ${count} ${what}, more than a file of ${this.fileSize} bytes can hold`);
    return Number(count);
  }

  private uint32(): number {
    return this.view.getUint32(this.take(4), true);
  }
  private uint64(): bigint {
    return this.view.getBigUint64(this.take(8), true);
  }

  /** Where the next `bytes` bytes lie. */
  private take(bytes: number): number {
    const at = this.place;
    if (at + bytes > this.head.byteLength) throw new Short();
    this.place += bytes;
    return at;
  }

  private fail(reason: string): never {
    throw new FormatError(this.file, reason);
  }
}

const smallest = (value: bigint): number | bigint =>
  value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER ? Number(value) : value;

/** A GGUF file, or all parts of a model in several, open for reading tensors one at a time. */
export class GgufFile {
  private constructor(
    readonly path: string,
    readonly header: GgufHeader,
  ) {}

  /**
   * Reads and checks the header; for a part of a model, those of all parts. Throws FormatError for a malformed file,
   * LineageError `storage` for one that cannot be read or is missing.
   */
  static async open(path: string): Promise<GgufFile> {
    const header = await GgufFile.readHeader(path);
    if (partCount(header) === 1) return new GgufFile(path, header);
    const paths = partPaths(path, header);
    const headers: GgufHeader[] = [];
    for (const part of paths) headers.push(await GgufFile.readHeader(part));
    return new GgufFile(path, joinParts(paths, headers));
  }

  private static async readHeader(path: string): Promise<GgufHeader> {
    const { handle, size } = await openFile(path);
    try {
      for (let length = Math.min(size, 2 ** 22); ; length = Math.min(size, 4 * length)) {
        const head = new Uint8Array(length);
        await readFully(handle, path, head, 0);
        try {
          return new HeaderReader(path, head, size).header();
        } catch (error) {
          if (!(error instanceof Short)) throw error;
          if (length === size || length > maxHeaderLength)
            throw new FormatError(path, "the header is cut short, or longer than any model's", {
              cause: error,
            });
        }
      }
    } finally {
      await handle.close();
    }
  }

  get tensors(): ReadonlyMap<string, GgufTensor> {
    return this.header.tensors;
  }

  /** A metadata value of one JavaScript type; undefined where there is none. Throws FormatError where it has another type. */
  get(key: string, type: "string"): string | undefined;
  get(key: string, type: "number"): number | undefined;
  get(key: string, type: "boolean"): boolean | undefined;
  get(key: string, type: "string" | "number" | "boolean"): unknown {
    const value = this.header.metadata.get(key)?.value;
    if (value !== undefined && typeof value !== type)
      throw new FormatError(this.path, `the metadata entry ${key} must be a ${type}`);
    return value;
  }

  /** As `get`, of an entry that must be there. */
  require(key: string, type: "string"): string;
  require(key: string, type: "number"): number;
  require(key: string, type: "string" | "number"): string | number {
    const value = type === "string" ? this.get(key, type) : this.get(key, type);
    if (value === undefined) throw new FormatError(this.path, `there is no metadata entry ${key}`);
    return value;
  }

  /** The values of an array entry, each of one JavaScript type; undefined where there is none. */
  list(key: string, type: "string"): readonly string[] | undefined;
  list(key: string, type: "number"): readonly number[] | undefined;
  list(key: string, type: "string" | "number"): readonly unknown[] | undefined {
    const entry = this.header.metadata.get(key);
    if (entry === undefined) return undefined;
    if (entry.type !== "array" || entry.value.some((value) => typeof value !== type))
      throw new FormatError(this.path, `the metadata entry ${key} must be an array of ${type}s`);
    return entry.value;
  }

  tensor(name: string): GgufTensor {
    const tensor = this.tensors.get(name);
    if (!tensor) throw new FormatError(this.path, `there is no tensor ${name}`);
    return tensor;
  }

  /** Bytes of a tensor as they lie in the file. */
  async readBytes(name: string): Promise<Uint8Array> {
    const { file, byteOffset, byteLength } = this.tensor(name);
    const bytes = new Uint8Array(byteLength);
    const { handle } = await openFile(file);
    try {
      await readFully(handle, file, bytes, byteOffset);
    } finally {
      await handle.close();
    }
    return bytes;
  }

  /** Whether two tensors hold the same bytes in the same shape and format. */
  async same(name: string, other: string): Promise<boolean> {
    const [a, b] = [this.tensor(name), this.tensor(other)];
    if (a.format !== b.format || a.shape.join() !== b.shape.join()) return false;
    return Buffer.compare(await this.readBytes(name), await this.readBytes(other)) === 0;
  }

  /** Values of a tensor. Throws `unsupported` for a format that lineage only knows by size. */
  async readValues(name: string): Promise<Float32Array<ArrayBuffer>> {
    const { format, shape } = this.tensor(name);
    if (!format.dequantize)
      throw new LineageError(
        "unsupported",
        `${this.path}: the tensor ${name} is ${format.name}; lineage reads ${ggufFormats.readable.join(", ")}`,
      );
    const values = new Float32Array(shape.reduce((product, dim) => product * dim, 1));
    format.dequantize(await this.readBytes(name), values);
    return values;
  }
}
