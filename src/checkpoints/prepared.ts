import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readdir, rm, stat, statfs, utimes } from "node:fs/promises";
import path from "node:path";
import { crc32 } from "node:zlib";
import { z } from "zod";
import { FormatError, messageOf } from "../base/errors.js";
import { storageError } from "../base/files.js";
import { removeRemains } from "../base/temporary.js";
import { formatBytes } from "../base/memory.js";
import { SafetensorsFile, writeSafetensors } from "../formats/index.js";
import { type QuantizedWeight, packedParts } from "../graph/index.js";
import type { MatrixLayout, QuantizationScheme } from "../quantization/index.js";
import type { FileMapping, Runtime } from "../runtime/types.js";
import {
  type PackedEntry,
  entryOf,
  inPackedOrder,
  mappedPart,
  packedEntry,
  partsOf,
  weightFromParts,
} from "./packed-file.js";

/**
 * Weights as the engine takes them, kept from one load to the next: turning a GGUF's blocks, rounding a checkpoint or making
 * the copy that reads prompts then costs nothing but mapping a file.
 */
export interface PreparedOptions {
  /** Where the files lie: one for each model and way of loading it, about as large as its weights are then. */
  readonly folder: string;
  /** Bytes of all files together; beyond them those unused for longest go. Default 32 GB. */
  readonly limit?: number | undefined;
  /** Bytes of weights from which on a file is kept. Default 32 MB: less is loaded in no time. */
  readonly least?: number | undefined;
  /** Told in a sentence what was kept, or why nothing was. */
  readonly report?: ((sentence: string) => void) | undefined;
}

/** What decides how weights are prepared; another number where the same files give other bytes. */
const version = 2;

/** The file for the weights of these files, loaded in this way, as the files are now. */
export async function preparedFile(
  { folder }: PreparedOptions,
  sources: readonly string[],
  quantize: QuantizationScheme | undefined,
  fastPrompts: boolean,
): Promise<string> {
  const identities = await Promise.all(
    sources.map(async (source) => {
      try {
        const { size, mtimeMs } = await stat(source);
        return [path.resolve(source), size, mtimeMs];
      } catch (error) {
        throw storageError("read", source, error);
      }
    }),
  );
  const key = JSON.stringify({ version, identities, quantize, fastPrompts });
  return path.join(folder, `${createHash("sha256").update(key).digest("hex").slice(0, 32)}.safetensors`);
}

const metadataKey = "lineage.packed";
/** CRC-32 of the tensors' bytes in the order of the file. */
const checksumKey = "lineage.crc32";
const entriesSchema = z.record(z.string(), packedEntry);

/** A file of prepared weights, in memory. */
export class PreparedWeights implements Disposable {
  private constructor(
    private readonly runtime: Runtime,
    private readonly file: SafetensorsFile,
    private readonly mapping: FileMapping,
    private readonly entries: Readonly<Record<string, PackedEntry>>,
  ) {}

  /** Undefined where there is no such file, or none that can be used, which is reported. */
  static async open(
    runtime: Runtime,
    place: string,
    { report }: PreparedOptions,
  ): Promise<PreparedWeights | undefined> {
    if (!existsSync(place)) return undefined;
    try {
      const file = await SafetensorsFile.open(place);
      const entries = entriesSchema.safeParse(parsed(file.header.metadata[metadataKey]));
      if (!entries.success) throw new FormatError(place, "it does not say how its weights are packed");
      const mapping = runtime.mapFile(place);
      try {
        if (file.header.metadata[checksumKey] !== String(checksumOf(file, mapping)))
          throw new FormatError(place, "its weights are not those that were written: the file is damaged");
      } catch (error) {
        mapping.dispose();
        throw error;
      }
      const now = new Date();
      await utimes(place, now, now);
      return new PreparedWeights(runtime, file, mapping, entries.data);
    } catch (error) {
      report?.(`the cached weights cannot be used and are made again: ${messageOf(error)}`);
      return undefined;
    }
  }

  has(name: string): boolean {
    return Object.hasOwn(this.entries, name);
  }

  /** A weight in the file's memory. Throws FormatError where the file holds another matrix. */
  weight(name: string, { rows, columns, transposed }: MatrixLayout): Promise<QuantizedWeight> {
    return weightFromParts(
      this.runtime,
      name,
      this.entries[name]!,
      { rows, columns, transposed },
      (part, dtype, shape) => mappedPart(this.file, this.mapping, `${name}.${part}`, dtype, shape),
    );
  }

  dispose(): void {
    this.mapping.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

function parsed(text: string | undefined): unknown {
  try {
    return JSON.parse(text ?? "");
  } catch {
    return undefined;
  }
}

/**
 * Writes prepared weights for the next load, and lets go of files unused for longest where there are too many. What stands in
 * the way is reported and not thrown: the weights are loaded, and may be used and disposed meanwhile.
 */
export async function keepPrepared(
  place: string,
  weights: Readonly<Record<string, QuantizedWeight>>,
  { limit = 32e9, least = 32e6, report }: PreparedOptions,
): Promise<void> {
  const folder = path.dirname(place);
  const held: Disposable[] = [];
  try {
    // Their memory has to stay until it is written, whoever disposes them.
    for (const weight of Object.values(weights))
      for (const tensor of Object.values(packedParts(weight))) held.push(tensor.slice(0, tensor.shape));
    const parts = Object.entries(weights).flatMap(([name, weight]) => partsOf(name, weight));
    const bytes = parts.reduce((sum, part) => sum + part.bytes.byteLength, 0);
    if (bytes < least || bytes > limit) return;
    // What the weights of a person are is nobody else's.
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const { bavail, bsize } = await statfs(folder);
    if (bavail * bsize < 2 * bytes) {
      report?.(`converted weights (${formatBytes(bytes)}) are not cached: ${folder} has too little space`);
      return;
    }
    const entries = Object.entries(weights).map(([name, weight]) => [name, entryOf(weight)]);
    const ordered = inPackedOrder(parts);
    await writeSafetensors(place, ordered, {
      [metadataKey]: JSON.stringify(Object.fromEntries(entries)),
      [checksumKey]: String(ordered.reduce((sum, part) => addToChecksum(part.bytes, sum), 0)),
    });
    await evict(folder, limit, place);
    report?.(`cached the converted weights (${formatBytes(bytes)}) in ${folder}; the next start is faster`);
  } catch (error) {
    report?.(`converted weights are not cached: ${messageOf(error)}`);
  } finally {
    for (const tensor of held) tensor[Symbol.dispose]();
  }
}

/** CRC-32 with `bytes` after those that gave `sum`. The function of zlib takes less than 4 GB at a time. */
function addToChecksum(bytes: Uint8Array, sum = 0): number {
  for (let at = 0; at < bytes.byteLength; at += 2 ** 30) sum = crc32(bytes.subarray(at, at + 2 ** 30), sum);
  return sum;
}

function checksumOf(file: SafetensorsFile, mapping: FileMapping): number {
  const entries = [...file.header.tensors.values()];
  const start = Math.min(...entries.map(({ byteOffset }) => byteOffset));
  const length = entries.reduce((sum, { byteLength }) => sum + byteLength, 0);
  if (length === 0) return 0;
  using bytes = mapping.tensor("uint8", [length], start);
  return addToChecksum(bytes.view());
}

async function evict(folder: string, limit: number, newest: string): Promise<void> {
  await removeRemains(folder);
  const files = await Promise.all(
    (await readdir(folder)).map(async (name) => {
      const file = path.join(folder, name);
      // Written or, as `open` notes, used.
      const { size, mtimeMs: used } = await stat(file);
      return { file, size, used: file === newest ? Infinity : used };
    }),
  );
  files.sort((a, b) => b.used - a.used);
  let total = 0;
  for (const { file, size } of files) {
    total += size;
    if (total > limit) await rm(file, { force: true });
  }
}
