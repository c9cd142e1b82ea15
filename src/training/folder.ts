import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import type { z } from "zod";
import { validated } from "../base/check.js";
import { LineageError } from "../base/errors.js";
import { readJson, storageError, writeJson } from "../base/files.js";
import { settleFolder } from "../base/folders.js";
import { LockFile } from "../base/lock.js";
import { removeRemains } from "../base/temporary.js";
import { trainingFile } from "./checkpoint.js";

const optionsFile = (folder: string): string => path.join(folder, "run.json");

/** The folder of one training run, kept from every other process until `close`. */
export class RunFolder<Options = unknown> {
  private constructor(
    readonly path: string,
    /** What decides the run. */
    readonly options: Options,
    /** Whether the folder holds the state of a run that goes on. */
    readonly resuming: boolean,
    private readonly lock: FolderLock,
  ) {}

  /**
   * Opens a folder to start a run with the options `given`, or to go on with the run in it by the options that it was
   * started with. Throws `checkpoint` where there is a run to keep or none to resume, `locked` where another process
   * trains in it, `argument` for options that do not fit.
   */
  static async open<Options>(
    folder: string,
    schema: z.ZodType<Options>,
    { resume, given }: { readonly resume: boolean; readonly given?: unknown },
  ): Promise<RunFolder<Options>> {
    if (resume && !existsSync(trainingFile(folder)))
      throw new LineageError(
        "checkpoint",
        `there is nothing to resume in ${folder}: it has no ${path.basename(trainingFile(folder))}`,
      );
    const lock = await lockFolder(folder);
    try {
      const options = await readOptions(folder, schema, { resume, given });
      await settleFolder(folder);
      await removeRemains(folder);
      return new RunFolder(folder, options, resume, lock);
    } catch (error) {
      await lock.release();
      throw error;
    }
  }

  file(name: string): string {
    return path.join(this.path, name);
  }

  /** Keeps the options, so that resuming needs nothing else. */
  writeOptions(): Promise<void> {
    return writeJson(optionsFile(this.path), this.options);
  }

  /** Throws `locked` when another process has taken the folder, which happens to one that was suspended. */
  check(): void {
    if (this.lock.lost)
      throw new LineageError(
        "locked",
        `another process took ${this.path} while this one was suspended; this one has stopped and left it alone`,
      );
  }

  async close(): Promise<void> {
    await this.lock.release();
  }
}

async function readOptions<Options>(
  folder: string,
  schema: z.ZodType<Options>,
  { resume, given }: { readonly resume: boolean; readonly given?: unknown },
): Promise<Options> {
  if (!resume && existsSync(trainingFile(folder)))
    throw new LineageError(
      "checkpoint",
      `${folder} already holds a training run; continue it with --resume, or choose another --out`,
    );
  return parseOptions(schema, resume ? await readJson(optionsFile(folder)) : given);
}

/** What a run is told, with what it leaves open filled in. Throws `argument` for options that do not fit. */
export const parseOptions = <Options>(schema: z.ZodType<Options>, given: unknown): Options =>
  validated(schema, given, (problem) => new LineageError("argument", `wrong options: ${problem}`));

/** A folder that no other process may use until it is released. */
export interface FolderLock {
  /** Whether another process has taken it all the same. */
  readonly lost: boolean;
  release(): Promise<void>;
}

/** Makes the folder and locks it. Throws `locked` when another process is in it; one that was killed is not. */
export async function lockFolder(folder: string): Promise<FolderLock> {
  try {
    await mkdir(folder, { recursive: true });
  } catch (error) {
    throw storageError("make the folder", folder, error);
  }
  const lock = await LockFile.take(path.join(folder, ".lock"));
  if (lock instanceof LockFile) return lock;
  const { heldBy } = lock;
  const place = heldBy && heldBy.host !== os.hostname() ? ` on ${heldBy.host}` : "";
  const who = heldBy ? ` (number ${heldBy.pid}${place})` : "";
  throw new LineageError(
    "locked",
    `another process${who} is training in ${folder}; wait for it, or choose another --out`,
  );
}
