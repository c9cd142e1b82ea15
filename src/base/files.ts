import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";
import { type FileHandle, open, rename, rm } from "node:fs/promises";
import path from "node:path";
import { FormatError, LineageError, messageOf } from "./errors.js";
import { formatBytes } from "./memory.js";
import { codeOf, storageError } from "./storage-error.js";
import { removeRemains, temporaryName } from "./temporary.js";

export { storageError };

// ---- Writing ------------------------------------------------------------------------------------------------------

export type Chunk = string | Uint8Array;

/** Folders in which what killed processes left unfinished has been looked for. */
const searched = new Set<string>();

/**
 * Writes a file so that it is there whole or not at all: to a temporary name beside it, to the disk, then renamed. What
 * was there before stays until then, and stays when anything fails. Several files that belong together are replaced as one
 * by `replaceFiles`.
 */
export async function writeAtomically(
  file: string,
  chunks: Iterable<Chunk> | AsyncIterable<Chunk>,
): Promise<void> {
  const folder = path.dirname(path.resolve(file));
  const temporary = path.join(folder, temporaryName("tmp"));
  let handle: FileHandle | undefined;
  try {
    if (!searched.has(folder)) {
      await removeRemains(folder);
      searched.add(folder);
    }
    handle = await open(temporary, "wx");
    for await (const chunk of chunks)
      await writeAll(handle, typeof chunk === "string" ? Buffer.from(chunk) : chunk);
    await handle.sync();
    await handle.close();
    handle = undefined;
    await rename(temporary, file);
    await syncFolder(folder);
  } catch (error) {
    await handle?.close();
    await rm(temporary, { force: true });
    throw error instanceof LineageError ? error : storageError("write", file, error);
  }
}

async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let offset = 0; offset < bytes.byteLength;) {
    const { bytesWritten } = await handle.write(bytes, offset, Math.min(bytes.byteLength - offset, 2 ** 26));
    offset += bytesWritten;
  }
}

/** Brings to the disk which names a folder has. */
export async function syncFolder(folder: string): Promise<void> {
  // Windows opens no folder, and keeps their names by itself.
  if (process.platform === "win32") return;
  const handle = await open(folder, "r");
  try {
    await handle.sync();
  } catch (error) {
    // Some network disks have nothing to bring.
    if (codeOf(error) !== "EINVAL" && codeOf(error) !== "ENOTSUP") throw error;
  } finally {
    await handle.close();
  }
}

// ---- Reading ------------------------------------------------------------------------------------------------------

// A named pipe without a writer would otherwise wait for one for ever.
const forReading = constants.O_RDONLY | (constants.O_NONBLOCK ?? 0);

/** What stands in the way of reading something that is no ordinary file; undefined where nothing does. */
const objection = (stat: ReturnType<typeof fstatSync>): string | undefined =>
  stat.isFile()
    ? undefined
    : stat.isDirectory()
      ? "it is a folder"
      : `it is a ${stat.isFIFO() ? "pipe" : stat.isSocket() ? "socket" : "device"}, not a file; write what it gives to a file first`;

const notAFile = (file: string, reason: string): LineageError =>
  new LineageError("storage", `cannot read ${file}: ${reason}`);

/** An ordinary file, open for reading, and its size. Throws LineageError `storage` for a folder, a pipe or a device, too. */
export async function openFile(file: string): Promise<{ handle: FileHandle; size: number }> {
  const handle = await open(file, forReading).catch((error: unknown) => {
    throw storageError("read", file, error);
  });
  const stat = await handle.stat();
  const reason = objection(stat);
  if (reason === undefined) return { handle, size: stat.size };
  await handle.close();
  throw notAFile(file, reason);
}

/** As `openFile`, at once: a file descriptor. */
function openFileSync(file: string): { fd: number; size: number } {
  let fd: number;
  try {
    fd = openSync(file, forReading);
  } catch (error) {
    throw storageError("read", file, error);
  }
  const stat = fstatSync(fd);
  const reason = objection(stat);
  if (reason === undefined) return { fd, size: stat.size };
  closeSync(fd);
  throw notAFile(file, reason);
}

/** Fills `target` from byte `from` of a file. Throws FormatError where the file ends before. */
export async function readFully(
  handle: FileHandle,
  file: string,
  target: Uint8Array,
  from: number,
): Promise<void> {
  for (let done = 0; done < target.byteLength;) {
    const length = Math.min(target.byteLength - done, 2 ** 26);
    const { bytesRead } = await handle.read(target, done, length, from + done).catch((error: unknown) => {
      throw storageError("read", file, error);
    });
    if (bytesRead === 0) throw new FormatError(file, "the file ended while it was read: it is cut short");
    done += bytesRead;
  }
}

/**
 * The bytes of a file that is read as a whole. Throws LineageError `storage` where it cannot be read or is no ordinary
 * file, FormatError where it has more than `limit` bytes.
 */
export async function readBytes(file: string, limit = 2 ** 31): Promise<Uint8Array<ArrayBuffer>> {
  const { handle, size } = await openFile(file);
  try {
    if (size > limit)
      throw new FormatError(
        file,
        `it has ${formatBytes(size)}, more than such a file can have (${formatBytes(limit)})`,
      );
    const bytes = new Uint8Array(size);
    await readFully(handle, file, bytes, 0);
    return bytes;
  } finally {
    await handle.close();
  }
}

/** Bytes of the longest text that becomes one string. */
const longestText = 2 ** 29 - 24;

/** A file's text. Throws LineageError `storage` where it cannot be read, FormatError where it is not UTF-8. */
export async function readText(file: string, limit = longestText): Promise<string> {
  const bytes = await readBytes(file, limit);
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: false }).decode(bytes);
  } catch (error) {
    throw new FormatError(file, "the text is not UTF-8; convert it first", { cause: error });
  }
}

/**
 * A file's text in parts of about `bytes` bytes, never more of it in memory. Throws as `readText` does, at the part where
 * the text stops being UTF-8.
 */
export function* readTextParts(file: string, bytes = 2 ** 18): Generator<string> {
  const { fd } = openFileSync(file);
  try {
    const decoder = new TextDecoder("utf-8", { fatal: true });
    const buffer = Buffer.alloc(bytes);
    for (let offset = 0, last = false; !last;) {
      let length: number;
      try {
        length = readSync(fd, buffer, 0, bytes, offset);
      } catch (error) {
        throw storageError("read", file, error);
      }
      last = length === 0;
      let text: string;
      try {
        text = decoder.decode(buffer.subarray(0, length), { stream: !last });
      } catch (error) {
        throw new FormatError(
          file,
          `the text is not UTF-8 (between bytes ${offset} and ${offset + length}); convert it first`,
          { cause: error },
        );
      }
      offset += length;
      if (text !== "") yield text;
    }
  } finally {
    closeSync(fd);
  }
}

/** A JSON file's value, which nothing has checked yet. */
export async function readJson(file: string): Promise<unknown> {
  const text = await readText(file);
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw new FormatError(file, `this is not JSON: ${messageOf(error)}`, { cause: error });
  }
}

export const writeJson = (file: string, value: unknown): Promise<void> =>
  writeAtomically(file, [`${JSON.stringify(value, null, 2)}\n`]);
