import { closeSync, openSync, readSync } from "node:fs";
import { type FileHandle, open, readFile, rename, rm } from "node:fs/promises";
import path from "node:path";
import { FormatError, LineageError, messageOf } from "./errors.js";

const reasons: Readonly<Record<string, string>> = {
  ENOSPC: "the disk is full",
  EFBIG: "the file would be larger than the system allows",
  EDQUOT: "the disk quota is used up",
  EACCES: "permission is denied",
  EPERM: "permission is denied",
  EROFS: "the disk is read-only",
  ENOENT: "there is no such file or folder",
  EISDIR: "it is a folder",
  ENOTDIR: "a part of the path is not a folder",
};

/** A file-system error as a sentence. */
export function storageError(action: string, file: string, error: unknown): LineageError {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  return new LineageError("storage", `cannot ${action} ${file}: ${reasons[code ?? ""] ?? messageOf(error)}`, {
    cause: error,
  });
}

export type Chunk = string | Uint8Array;

/**
 * Writes a file so that it is there whole or not at all: to a temporary name beside it, to the disk, then renamed. What
 * was there before stays until then, and stays when anything fails.
 */
export async function writeAtomically(
  file: string,
  chunks: Iterable<Chunk> | AsyncIterable<Chunk>,
): Promise<void> {
  const temporary = path.join(path.dirname(file), `.${path.basename(file)}.${process.pid}.tmp`);
  let handle: FileHandle | undefined;
  try {
    handle = await open(temporary, "w");
    for await (const chunk of chunks)
      await writeAll(handle, typeof chunk === "string" ? Buffer.from(chunk) : chunk);
    await handle.sync();
    await handle.close();
    handle = undefined;
    await rename(temporary, file);
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

/** A file's text. Throws LineageError `storage` where it cannot be read, FormatError where it is not UTF-8. */
export async function readText(file: string): Promise<string> {
  let bytes: Buffer;
  try {
    bytes = await readFile(file);
  } catch (error) {
    throw storageError("read", file, error);
  }
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
  let fd: number;
  try {
    fd = openSync(file, "r");
  } catch (error) {
    throw storageError("read", file, error);
  }
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
