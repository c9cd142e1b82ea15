import { appendFileSync, existsSync, mkdirSync } from "node:fs";
import { chmod } from "node:fs/promises";
import path from "node:path";
import type { Interface } from "node:readline";
import type { LineageError } from "../base/errors.js";
import { readText, writeAtomically } from "../base/files.js";
import { storageError } from "../base/storage-error.js";
import { cacheFolder } from "../library/source.js";

/** Lines of the history that a session starts with. */
export const historySize = 1000;

/** Where typed lines are kept between sessions, the oldest first. */
export const historyFile = (): string => path.join(cacheFolder(), "chat-history");

/** The lines of earlier sessions, the newest first, as readline takes them. Throws `storage` for a file that cannot be read. */
export async function readHistory(file: string): Promise<string[]> {
  if (!existsSync(file)) return [];
  const lines = (await readText(file)).split("\n").filter((line) => line !== "");
  if (lines.length > 2 * historySize) {
    await writeAtomically(file, [`${lines.slice(-historySize).join("\n")}\n`]);
    await chmod(file, 0o600);
  }
  return lines.slice(-historySize).reverse();
}

/**
 * Appends each line that is typed to the history file, which only its owner may read.
 * @param onFailure told once why the file cannot be written; the session goes on without it
 */
export function keepHistory(lines: Interface, file: string, onFailure: (error: LineageError) => void): void {
  let newest: string | undefined;
  let failed = false;
  lines.on("history", ([line]: string[]) => {
    if (line === undefined || line === newest || failed) return;
    newest = line;
    try {
      mkdirSync(path.dirname(file), { recursive: true });
      appendFileSync(file, `${line}\n`, { mode: 0o600 });
    } catch (error) {
      failed = true;
      onFailure(storageError("write", file, error));
    }
  });
}
