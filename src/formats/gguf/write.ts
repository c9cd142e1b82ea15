import { LineageError } from "../../base/errors.js";
import { type Chunk, writeAtomically } from "../../base/files.js";
import { type GgufFormat, rowBytes } from "./blocks.js";
import { type GgufType, type GgufValue, defaultAlignment, ggufTypeBytes, ggufTypes } from "./file.js";

export interface GgufTensorToSave {
  readonly name: string;
  readonly format: GgufFormat;
  /** Outermost dimension first. */
  readonly shape: readonly number[];
  /** Called when the tensor's turn comes, so that one at a time is in memory. */
  readonly values: () => Float32Array | Promise<Float32Array>;
}

/** Writes a GGUF file, version 3, whole or not at all. Throws `argument` for rows that are no whole blocks. */
export async function writeGguf(
  file: string,
  metadata: ReadonlyMap<string, GgufValue>,
  tensors: readonly GgufTensorToSave[],
): Promise<void> {
  let offset = 0;
  const descriptions = tensors.map(({ name, format, shape }) => {
    const row = rowBytes(format, shape.at(-1) ?? 1);
    if (row === undefined || !format.quantize)
      throw new LineageError(
        "argument",
        `the tensor ${name} [${shape.join(", ")}] cannot be written as ${format.name}, whose blocks have ${format.elements} numbers`,
      );
    const byteLength = shape.slice(0, -1).reduce((product, dim) => product * dim, row);
    const description = { name, format, shape, offset };
    offset = aligned(offset + byteLength);
    return description;
  });
  const header = new Bytes();
  header.raw(new TextEncoder().encode("GGUF"));
  header.scalar("uint32", 3);
  header.scalar("uint64", tensors.length);
  header.scalar("uint64", metadata.size);
  for (const [key, entry] of metadata) {
    header.string(key);
    header.scalar("uint32", ggufTypes.indexOf(entry.type));
    if (entry.type === "array") header.array(entry.of, entry.value);
    else header.scalar(entry.type, entry.value);
  }
  for (const { name, format, shape, offset: place } of descriptions) {
    header.string(name);
    header.scalar("uint32", shape.length);
    for (const size of [...shape].reverse()) header.scalar("uint64", size);
    header.scalar("uint32", format.id);
    header.scalar("uint64", place);
  }
  await writeAtomically(file, chunks(header.bytes(), tensors));
}

const aligned = (place: number): number => Math.ceil(place / defaultAlignment) * defaultAlignment;
const padding = (place: number): Uint8Array => new Uint8Array(aligned(place) - place);

async function* chunks(header: Uint8Array, tensors: readonly GgufTensorToSave[]): AsyncGenerator<Chunk> {
  yield header;
  yield padding(header.byteLength);
  for (const { format, values } of tensors) {
    const bytes = format.quantize!(await values());
    yield bytes;
    yield padding(bytes.byteLength);
  }
}

/** Bytes that grow. */
class Bytes {
  private buffer = new Uint8Array(2 ** 16);
  private length = 0;

  raw(bytes: Uint8Array): void {
    const at = this.reserve(bytes.byteLength);
    this.buffer.set(bytes, at);
  }

  string(text: string): void {
    const bytes = new TextEncoder().encode(text);
    this.scalar("uint64", bytes.byteLength);
    this.raw(bytes);
  }

  array(of: GgufType, values: readonly unknown[]): void {
    this.scalar("uint32", ggufTypes.indexOf(of));
    this.scalar("uint64", values.length);
    for (const value of values) this.scalar(of, value);
  }

  scalar(type: GgufType, value: unknown): void {
    if (type === "string") {
      this.string(String(value));
      return;
    }
    if (type === "array") throw new LineageError("unsupported", "arrays of arrays are not written");
    const at = this.reserve(ggufTypeBytes[type]);
    const view = new DataView(this.buffer.buffer);
    const number = Number(value);
    switch (type) {
      case "uint8":
      case "bool":
        view.setUint8(at, number);
        break;
      case "int8":
        view.setInt8(at, number);
        break;
      case "uint16":
        view.setUint16(at, number, true);
        break;
      case "int16":
        view.setInt16(at, number, true);
        break;
      case "uint32":
        view.setUint32(at, number, true);
        break;
      case "int32":
        view.setInt32(at, number, true);
        break;
      case "float32":
        view.setFloat32(at, number, true);
        break;
      case "float64":
        view.setFloat64(at, number, true);
        break;
      case "uint64":
        view.setBigUint64(at, BigInt(value as number | bigint), true);
        break;
      case "int64":
        view.setBigInt64(at, BigInt(value as number | bigint), true);
        break;
    }
  }

  bytes(): Uint8Array {
    return this.buffer.subarray(0, this.length);
  }

  private reserve(count: number): number {
    const at = this.length;
    this.length += count;
    if (this.length > this.buffer.byteLength) {
      const larger = new Uint8Array(Math.max(2 * this.buffer.byteLength, this.length));
      larger.set(this.buffer);
      this.buffer = larger;
    }
    return at;
  }
}
