import { existsSync } from "node:fs";
import { lstat, mkdir, open, readdir, rename, rm } from "node:fs/promises";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { z } from "zod";
import { FormatError, LineageError } from "./errors.js";
import { readJson, syncFolder, writeJson } from "./files.js";
import { LockFile } from "./lock.js";
import { codeOf, storageError } from "./storage-error.js";
import { removeRemains, temporaryName } from "./temporary.js";

// Files that belong together, such as a model's, change places in two stages. They are written into a hidden folder among
// the old ones and brought to the disk; then a record of what is to move is written, and they move. Killed before the
// record is there, the old files are; killed after it, whoever opens the folder next finishes the moves. The folder itself
// stays the same one: it may be someone's working directory, a mount or a link, and hold other files.

const recordName = ".lineage-replacing.json";
const lockName = ".lineage-replacing.lock";

const recordSchema = z.object({
  /** Where the new files lie. */
  staging: z.string().regex(/^\.lineage-[0-9a-z.-]+$/),
  moved: z.array(z.string()),
  removed: z.array(z.string()),
});
type ReplacementRecord = z.infer<typeof recordSchema>;

export interface ReplaceOptions {
  /**
   * Names in the folder that are parts of what is replaced: those of them that are not written again go. All other files
   * stay. Default: none.
   */
  readonly part?: (name: string) => boolean;
  /** Name of a folder in which new files that are whole wait for the next try when this one fails. Default: they go. */
  readonly resume?: `.lineage-${string}`;
}

/** Replacements under way in this process, by folder: one at a time. */
const queues = new Map<string, Promise<void>>();

/**
 * Replaces files of a folder as a whole: after it, also when the process is killed or the disk is full, either all of the
 * new ones are there or all of the old ones. The folder is made where there is none.
 * @param write writes the new files into the folder that it is given; folders within it are merged into those there are
 */
export async function replaceFiles(
  folder: string,
  write: (staging: string) => void | Promise<void>,
  options: ReplaceOptions = {},
): Promise<void> {
  const key = path.resolve(folder);
  const before = queues.get(key) ?? Promise.resolve();
  const turn = before.then(() => replaceNow(folder, write, options));
  const settled = turn.catch(() => undefined);
  queues.set(key, settled);
  try {
    await turn;
  } finally {
    if (queues.get(key) === settled) queues.delete(key);
  }
}

async function replaceNow(
  folder: string,
  write: (staging: string) => void | Promise<void>,
  { part = () => false, resume }: ReplaceOptions,
): Promise<void> {
  const staging = resume ?? temporaryName("new");
  const place = path.join(folder, staging);
  try {
    await mkdir(folder, { recursive: true });
    await settleFolder(folder);
    await removeRemains(folder);
    await mkdir(place, { recursive: resume !== undefined });
    await write(place);
    await moveIn(folder, staging, part);
  } catch (error) {
    throw error instanceof LineageError ? error : storageError("write into", folder, error);
  } finally {
    // Where the moves have begun and cannot go on, it is needed to finish them.
    if (resume === undefined && existsSync(place) && !existsSync(path.join(folder, recordName)))
      await rm(place, { recursive: true, force: true });
  }
}

/** Puts the files of the folder `staging` within `folder` in the places of those with their names, all of them or none. */
async function moveIn(folder: string, staging: string, part: (name: string) => boolean): Promise<void> {
  const place = path.join(folder, staging);
  const { files, folders } = await contents(place);
  for (const name of folders) await mkdir(path.join(folder, name), { recursive: true });
  for (const name of files) {
    const entry = await lstat(path.join(folder, name)).catch(() => undefined);
    if (entry?.isDirectory())
      throw new LineageError("storage", `cannot write ${path.join(folder, name)}: it is a folder`);
    await syncFile(path.join(place, name));
  }
  for (const name of ["", ...folders]) await syncFolder(path.join(place, name));
  await alone(folder, async () => {
    const replaced = new Set(files);
    const present = await readdir(folder, { withFileTypes: true });
    const record: ReplacementRecord = {
      staging,
      moved: files,
      removed: present
        .filter((entry) => !entry.isDirectory() && part(entry.name) && !replaced.has(entry.name))
        .map(({ name }) => name),
    };
    // From here on the new files are the ones that count.
    await writeJson(path.join(folder, recordName), record);
    await finish(folder, record);
  });
}

/** Names of all files and folders in a folder, by their paths in it; an outer folder comes before those in it. */
async function contents(folder: string): Promise<{ files: string[]; folders: string[] }> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const names = (wanted: boolean) =>
    entries
      .filter((entry) => entry.isDirectory() === wanted)
      .map((entry) => path.relative(folder, path.join(entry.parentPath, entry.name)))
      .sort();
  return { files: names(false), folders: names(true) };
}

async function syncFile(file: string): Promise<void> {
  const handle = await open(file, "r+");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Moves what a record names and has not moved yet. */
async function finish(folder: string, { staging, moved, removed }: ReplacementRecord): Promise<void> {
  for (const name of removed) await rm(path.join(folder, name), { force: true });
  for (const name of moved) {
    await rename(path.join(folder, staging, name), path.join(folder, name)).catch((error: unknown) => {
      if (codeOf(error) !== "ENOENT" || !existsSync(path.join(folder, name))) throw error;
    });
  }
  for (const name of new Set([".", ...moved.map((file) => path.dirname(file))]))
    await syncFolder(path.join(folder, name));
  await rm(path.join(folder, recordName), { force: true });
  await rm(path.join(folder, staging), { recursive: true, force: true });
}

/**
 * Finishes a replacement of files in `folder` that was cut off, or waits for one that is under way; whoever reads files that
 * belong together calls this first. Throws `storage` where it may not write there, FormatError for a record of someone else's.
 */
export async function settleFolder(folder: string): Promise<void> {
  if (!existsSync(path.join(folder, recordName))) return;
  try {
    await alone(folder, () => undefined);
  } catch (error) {
    if (error instanceof FormatError) throw error;
    throw storageError("finish the replacement of files that was cut off in", folder, error);
  }
}

/** Milliseconds for which another process may move files, which takes it a few. */
const patience = 30_000;

/** Does `work` while no other process moves files in `folder`, and after moves that a killed one began. */
async function alone(folder: string, work: () => void | Promise<void>): Promise<void> {
  const lock = await takeLock(folder);
  try {
    const record = await readRecord(path.join(folder, recordName));
    if (record) await finish(folder, record);
    await work();
  } finally {
    await lock.release();
  }
}

async function takeLock(folder: string): Promise<LockFile> {
  for (const started = Date.now(); ; await delay(5)) {
    const lock = await LockFile.take(path.join(folder, lockName));
    if (lock instanceof LockFile) return lock;
    if (Date.now() - started > patience)
      throw new LineageError(
        "locked",
        `process ${lock.heldBy?.pid ?? ""} has been replacing files in ${folder} for ${patience / 1000} seconds`,
      );
  }
}

async function readRecord(file: string): Promise<ReplacementRecord | undefined> {
  if (!existsSync(file)) return undefined;
  const parsed = recordSchema.safeParse(await readJson(file));
  const inside = (name: string) =>
    name !== "" &&
    !path.isAbsolute(name) &&
    !name.split(/[\\/]/).some((step) => step === ".." || step === ".");
  if (parsed.success && [...parsed.data.moved, ...parsed.data.removed].every(inside)) return parsed.data;
  throw new FormatError(
    file,
    "this is not a record that lineage wrote; remove it if the other files are whole",
  );
}
