import type { DType } from "../base/dtype.js";
import { FormatError, messageOf } from "../base/errors.js";
import { openFile, readFully, writeAtomically } from "../base/files.js";
import { float16Value, widen } from "../base/half.js";

/** https://huggingface.co/docs/safetensors: 8 bytes of header length, a JSON header, the tensors' bytes. */
const dtypes = new Map<string, { readonly dtype: SafetensorsDType; readonly bytes: number }>(
  Object.entries({
    F64: { dtype: "float64", bytes: 8 },
    F32: { dtype: "float32", bytes: 4 },
    F16: { dtype: "float16", bytes: 2 },
    BF16: { dtype: "bfloat16", bytes: 2 },
    F8_E4M3: { dtype: "float8_e4m3fn", bytes: 1 },
    F8_E5M2: { dtype: "float8_e5m2", bytes: 1 },
    F8_E8M0: { dtype: "float8_e8m0fnu", bytes: 1 },
    I64: { dtype: "int64", bytes: 8 },
    U64: { dtype: "uint64", bytes: 8 },
    I32: { dtype: "int32", bytes: 4 },
    U32: { dtype: "uint32", bytes: 4 },
    I16: { dtype: "int16", bytes: 2 },
    U16: { dtype: "uint16", bytes: 2 },
    I8: { dtype: "int8", bytes: 1 },
    U8: { dtype: "uint8", bytes: 1 },
    BOOL: { dtype: "bool", bytes: 1 },
    C64: { dtype: "complex64", bytes: 8 },
  }),
);
const namesOfDtypes = new Map(Array.from(dtypes, ([name, { dtype }]) => [dtype, name]));

/** What a file may hold: the dtypes of tensors, and others that are known by their size, as PyTorch names them. */
export type SafetensorsDType =
  DType | "float8_e4m3fn" | "float8_e5m2" | "float8_e8m0fnu" | "int16" | "uint16" | "uint64" | "complex64";

/** By dtype, how numbers become float32 ones. Those of the other dtypes are no weights. */
export const floatReaders: Partial<
  Record<SafetensorsDType, (bytes: Uint8Array, target: Float32Array) => void>
> = {
  float64: (bytes, target) => {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let i = 0; i < target.length; i++) target[i] = view.getFloat64(8 * i, true);
  },
  float32: (bytes, target) => {
    new Uint8Array(target.buffer, target.byteOffset, target.byteLength).set(bytes);
  },
  float16: (bytes, target) => {
    widen.float16!(wordsOf(bytes), target);
  },
  bfloat16: (bytes, target) => {
    widen.bfloat16!(wordsOf(bytes), target);
  },
  float8_e4m3fn: (bytes, target) => {
    for (let i = 0; i < target.length; i++) target[i] = float8Value(bytes[i]!);
  },
  // The upper half of a float16.
  float8_e5m2: (bytes, target) => {
    for (let i = 0; i < target.length; i++) target[i] = float16Value(bytes[i]! << 8);
  },
};

/** 16-bit words of bytes that may lie at any address. */
const wordsOf = (bytes: Uint8Array): Uint16Array =>
  bytes.byteOffset % 2 === 0
    ? new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2)
    : new Uint16Array(bytes.slice().buffer);

/** E4M3 without infinities, Micikevicius et al. 2022, "FP8 Formats for Deep Learning", table 1. */
function float8Value(bits: number): number {
  const size = bits & 127;
  if (size === 127) return NaN;
  const [exponent, fraction] = [size >> 3, size & 7];
  const value = exponent === 0 ? fraction * 2 ** -9 : (8 + fraction) * 2 ** (exponent - 10);
  return bits & 128 ? -value : value;
}

/** The reference implementation refuses longer headers, too. */
const maxHeaderLength = 100_000_000;

export interface SafetensorsEntry {
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  /** From the start of the file. */
  readonly byteOffset: number;
  readonly byteLength: number;
}

export interface SafetensorsHeader {
  readonly tensors: ReadonlyMap<string, SafetensorsEntry>;
  readonly metadata: Readonly<Record<string, string>>;
}

/**
 * Reads and checks a header: every dtype known, every shape as long as its bytes, all bytes of the file used once.
 * @param head the file's first bytes: at least its header
 * @param fileSize bytes of the whole file
 */
export function parseSafetensors(file: string, head: Uint8Array, fileSize: number): SafetensorsHeader {
  const headerLength = readHeaderLength(file, head, fileSize);
  const start = 8 + headerLength;
  let parsed: unknown;
  try {
    parsed = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(head.subarray(8, start)));
  } catch (error) {
    throw new FormatError(file, `the header is not JSON: ${messageOf(error)}`, { cause: error });
  }
  if (!isRecord(parsed)) throw new FormatError(file, "the header must be a JSON object");
  const tensors = new Map<string, SafetensorsEntry>();
  for (const [name, value] of Object.entries(parsed))
    if (name !== "__metadata__") tensors.set(name, parseEntry(file, name, value, start, fileSize));
  const metadata = parseMetadata(file, parsed["__metadata__"]);
  let end = start;
  for (const [name, entry] of [...tensors].sort(
    ([, a], [, b]) => a.byteOffset - b.byteOffset || a.byteLength - b.byteLength,
  )) {
    if (entry.byteOffset !== end) {
      throw new FormatError(
        file,
        `the tensor ${name} starts at byte ${entry.byteOffset - start} of the data, but the one before it ends at ${end - start}`,
      );
    }
    end += entry.byteLength;
  }
  if (end !== fileSize)
    throw new FormatError(
      file,
      `the tensors end at byte ${end}, but the file has ${fileSize}: it is cut short or carries something else`,
    );
  return { tensors, metadata };
}

function readHeaderLength(file: string, head: Uint8Array, fileSize: number): number {
  if (fileSize < 8 || head.byteLength < 8)
    throw new FormatError(file, `${fileSize} bytes are too few for a safetensors file`);
  const length = Number(new DataView(head.buffer, head.byteOffset).getBigUint64(0, true));
  if (length > maxHeaderLength || 8 + length > fileSize) {
    throw new FormatError(
      file,
      `the header claims ${length} bytes in a file of ${fileSize}; this is not a safetensors file, or it is cut short`,
    );
  }
  return length;
}

function parseEntry(
  file: string,
  name: string,
  value: unknown,
  start: number,
  fileSize: number,
): SafetensorsEntry {
  const fail = (reason: string): never => {
    throw new FormatError(file, `the tensor ${JSON.stringify(name)} ${reason}`);
  };
  if (!isRecord(value)) return fail("has no description");
  const stored = value["dtype"];
  if (typeof stored !== "string") return fail("has a dtype that is not a name");
  const known = dtypes.get(stored);
  if (!known) return fail(`has the dtype ${JSON.stringify(stored)}, which lineage does not know`);
  const { dtype } = known;
  const { shape, data_offsets: offsets } = value;
  if (!isSizes(shape)) return fail("has a shape that is not a list of sizes");
  if (!isSizes(offsets) || offsets.length !== 2) return fail("has data_offsets that are not two positions");
  const [from, to] = offsets as [number, number];
  const byteLength = shape.reduce((product, dim) => product * dim, 1) * known.bytes;
  if (to < from || start + to > fileSize)
    return fail(`lies at bytes ${from} to ${to} of the data, outside the file`);
  if (to - from !== byteLength)
    return fail(`has ${to - from} bytes, but ${dtype} [${shape.join(", ")}] needs ${byteLength}`);
  return { dtype, shape, byteOffset: start + from, byteLength };
}

function parseMetadata(file: string, value: unknown): Record<string, string> {
  if (value === undefined || value === null) return {};
  if (!isRecord(value)) throw new FormatError(file, "__metadata__ must be an object of strings");
  const wrong = Object.entries(value).find(([, text]) => typeof text !== "string");
  if (wrong)
    throw new FormatError(file, `the entry ${JSON.stringify(wrong[0])} of __metadata__ is no string`);
  return Object.fromEntries(Object.entries(value)) as Record<string, string>;
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const isSizes = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && (size as number) >= 0);

/** A safetensors file, open for reading tensors one at a time. */
export class SafetensorsFile {
  private constructor(
    readonly path: string,
    readonly header: SafetensorsHeader,
  ) {}

  /** Reads and checks the header. Throws FormatError for a malformed file, LineageError `storage` for one that cannot be read. */
  static async open(path: string): Promise<SafetensorsFile> {
    const { handle, size } = await openFile(path);
    try {
      const prefix = new Uint8Array(Math.min(8, size));
      await readFully(handle, path, prefix, 0);
      const head = new Uint8Array(8 + readHeaderLength(path, prefix, size));
      await readFully(handle, path, head, 0);
      return new SafetensorsFile(path, parseSafetensors(path, head, size));
    } finally {
      await handle.close();
    }
  }

  /** Reads a tensor's bytes straight into `target`, which has as many. Throws FormatError when there is no such tensor. */
  async readInto(name: string, target: Uint8Array): Promise<void> {
    const { byteOffset, byteLength } = this.entry(name);
    if (target.byteLength !== byteLength) {
      throw new FormatError(
        this.path,
        `the tensor ${name} has ${byteLength} bytes, not ${target.byteLength}`,
      );
    }
    await this.read(byteOffset, target);
  }

  /** A tensor's bytes from `start` to `end`, which is left out. Throws FormatError when there is no such tensor. */
  async readPart(name: string, start: number, end: number): Promise<Uint8Array> {
    const part = new Uint8Array(end - start);
    await this.read(this.entry(name).byteOffset + start, part);
    return part;
  }

  private entry(name: string): SafetensorsEntry {
    const entry = this.header.tensors.get(name);
    if (!entry) throw new FormatError(this.path, `there is no tensor ${name}`);
    return entry;
  }

  private async read(offset: number, target: Uint8Array): Promise<void> {
    const { handle } = await openFile(this.path);
    try {
      await readFully(handle, this.path, target, offset);
    } finally {
      await handle.close();
    }
  }
}

export interface TensorToSave {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Bytes in memory order. */
  readonly bytes: Uint8Array;
}

/** Writes a safetensors file, whole or not at all. */
export async function writeSafetensors(
  file: string,
  tensors: readonly TensorToSave[],
  metadata: Readonly<Record<string, string>> = { format: "pt" },
): Promise<void> {
  let offset = 0;
  const header: Record<string, unknown> = { __metadata__: metadata };
  for (const { name, dtype, shape, bytes } of tensors) {
    header[name] = {
      dtype: namesOfDtypes.get(dtype),
      shape,
      data_offsets: [offset, (offset += bytes.byteLength)],
    };
  }
  const json = Buffer.from(JSON.stringify(header));
  // Spaces bring the data to a multiple of 8 bytes, as the reference implementation does.
  const padded = Math.ceil(json.byteLength / 8) * 8;
  const prefix = new DataView(new ArrayBuffer(8));
  prefix.setBigUint64(0, BigInt(padded), true);
  await writeAtomically(file, [
    new Uint8Array(prefix.buffer),
    json,
    " ".repeat(padded - json.byteLength),
    ...tensors.map(({ bytes }) => bytes),
  ]);
}
