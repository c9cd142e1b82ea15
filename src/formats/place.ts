import { stat } from "node:fs/promises";
import { LineageError } from "../base/errors.js";
import { codeOf, storageError } from "../base/storage-error.js";
import { openFile, readFully } from "../base/files.js";

/** What a path leads to, by what is there and not by its ending. */
export type PathKind =
  | "folder"
  | "gguf"
  | "safetensors"
  /** Nothing is there, but it reads like a model's name on the hub: ORG/NAME. */
  | "name"
  | "missing"
  | "other";

const hubName = /^[A-Za-z0-9_][A-Za-z0-9._-]*\/[A-Za-z0-9_][A-Za-z0-9._-]*(?<!\.gguf)$/;

/** Throws LineageError `storage` for a file that cannot be read, or that is a pipe or a device. */
export async function placeOf(place: string): Promise<PathKind> {
  try {
    if ((await stat(place)).isDirectory()) return "folder";
  } catch (error) {
    if (codeOf(error) !== "ENOENT" && codeOf(error) !== "ENOTDIR") throw storageError("read", place, error);
    return hubName.test(place) ? "name" : "missing";
  }
  const { handle, size } = await openFile(place);
  try {
    const head = new Uint8Array(Math.min(size, 9));
    await readFully(handle, place, head, 0);
    const text = Buffer.from(head).toString("latin1");
    if (text.startsWith("GGUF")) return "gguf";
    // Eight bytes of length, of which the upper ones are 0, and the beginning of a JSON object.
    return /^.{5}\0{3}\{$/s.test(text) ? "safetensors" : "other";
  } finally {
    await handle.close();
  }
}

/**
 * Whether a model lies in a folder or in a GGUF file. Throws `storage` where there is nothing, `checkpoint` for a file of
 * another kind; both say what would be right.
 */
export async function modelForm(place: string): Promise<"folder" | "gguf"> {
  const found = await placeOf(place);
  switch (found) {
    case "folder":
    case "gguf":
      return found;
    case "name":
      throw new LineageError(
        "storage",
        `cannot read ${place}: there is no such file or folder; if it is a model on the hub, pull it first: lineage pull ${place}`,
      );
    case "missing":
      throw new LineageError("storage", `cannot read ${place}: there is no such file or folder`);
    case "safetensors":
      throw new LineageError(
        "checkpoint",
        `${place} holds only weights; give its folder, which must hold config.json too`,
      );
    case "other":
      throw new LineageError("checkpoint", `${place} is not a model: it is neither a folder nor a GGUF file`);
  }
}
