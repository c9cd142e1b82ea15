import { LineageError, messageOf } from "./errors.js";

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
  ENAMETOOLONG: "the name is too long",
  ELOOP: "its links form a loop",
  ENXIO: "it is a device or a socket, not a file",
};

/** The system's name of what went wrong: `ENOSPC`. */
export const codeOf = (error: unknown): string | undefined =>
  (error as NodeJS.ErrnoException | undefined)?.code;

/** A file-system error as a sentence. */
export function storageError(action: string, file: string, error: unknown): LineageError {
  const reason = reasons[codeOf(error) ?? ""] ?? messageOf(error);
  return new LineageError("storage", `cannot ${action} ${file}: ${reason}`, { cause: error });
}
