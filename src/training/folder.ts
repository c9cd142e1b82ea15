import { existsSync } from "node:fs";
import { mkdir, readdir, rm } from "node:fs/promises";
import path from "node:path";
import lockfile from "proper-lockfile";
import type { z } from "zod";
import { LineageError } from "../base/errors.js";
import { readJson, storageError, writeJson } from "../base/files.js";
import { trainingFile } from "./checkpoint.js";

const optionsFile = (folder: string): string => path.join(folder, "run.json");

/** Whether another process has taken what this one had locked. */
interface Lock {
  lost?: Error;
}

/** The folder of one training run, kept from every other process until `close`. */
export class RunFolder<Options = unknown> {
  private constructor(
    readonly path: string,
    /** What decides the run. */
    readonly options: Options,
    /** Whether the folder holds the state of a run that goes on. */
    readonly resuming: boolean,
    private readonly lock: Lock,
    private readonly unlock: () => Promise<void>,
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
    const lock: Lock = {};
    const unlock = await lockFolder(folder, (error) => {
      lock.lost = error;
    });
    try {
      const options = await readOptions(folder, schema, { resume, given });
      await removeRemains(folder);
      return new RunFolder(folder, options, resume, lock, unlock);
    } catch (error) {
      await unlock();
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
        { cause: this.lock.lost },
      );
  }

  async close(): Promise<void> {
    if (!this.lock.lost) await this.unlock();
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
      `${folder} already holds a training run; continue it with --resume, or choose another folder with --out`,
    );
  return parseOptions(schema, resume ? await readJson(optionsFile(folder)) : given);
}

/** What a run is told, with what it leaves open filled in. Throws `argument` for options that do not fit. */
export function parseOptions<Options>(schema: z.ZodType<Options>, given: unknown): Options {
  const parsed = schema.safeParse(given);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map(({ path: place, message }) => `${place.join(".")}: ${message}`);
  throw new LineageError("argument", `the options do not fit: ${problems.join("; ")}`);
}

/** Half-written files of a process that was killed; `writeAtomically` gives them these names. */
async function removeRemains(folder: string): Promise<void> {
  for (const name of await readdir(folder))
    if (/^\..+\.\d+\.tmp$/.test(name)) await rm(path.join(folder, name), { force: true });
}

const leaveToTheWrite = (): void => undefined;

/**
 * Makes the folder and keeps every other process out of it until the returned function is called. Throws `locked` when
 * another process is in it.
 */
export async function lockFolder(
  folder: string,
  onLost: (error: Error) => void = () => undefined,
): Promise<() => Promise<void>> {
  try {
    await mkdir(folder, { recursive: true });
  } catch (error) {
    throw storageError("make the folder", folder, error);
  }
  try {
    const unlock = await lockfile.lock(folder, { stale: 15_000, onCompromised: onLost });
    // The lock's package would end the process at this signal, which otherwise leaves the write to fail with a reason.
    process.on("SIGXFSZ", leaveToTheWrite);
    return async () => {
      process.removeListener("SIGXFSZ", leaveToTheWrite);
      await unlock();
    };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ELOCKED") {
      throw new LineageError(
        "locked",
        `another process is training in ${folder}; wait for it, or choose another folder with --out`,
        { cause: error },
      );
    }
    throw storageError("lock", folder, error);
  }
}
