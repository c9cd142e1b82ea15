import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { copyFile, constants, link, readFile, rename, rm, stat, utimes, writeFile } from "node:fs/promises";
import os from "node:os";
import { z } from "zod";
import { codeOf, storageError } from "./storage-error.js";

/** Whose lock a file is. */
const holderSchema = z.object({
  pid: z.int().positive(),
  /** When the process started, in whatever the system counts; a number given again to another process has another start. */
  started: z.string().nullable(),
  host: z.string(),
  id: z.string(),
});
export type LockHolder = z.infer<typeof holderSchema>;

/** A holder on this machine is looked up; one elsewhere shows that it lives by touching the file this often. */
const beatMilliseconds = 10_000;
const silentMilliseconds = 60_000;

/** A file that says that one process, and which, uses what lies beside it. It outlives a kill, but does not bind after it. */
export class LockFile {
  private readonly beat: NodeJS.Timeout;

  private constructor(
    readonly path: string,
    private readonly text: string,
  ) {
    this.beat = setInterval(() => {
      const now = new Date();
      utimes(path, now, now).catch(() => undefined); // `lost` tells of a file that is gone.
    }, beatMilliseconds).unref();
  }

  /** Takes the lock. The holder, where it is a process that lives. Throws `storage` where no file can be written. */
  static async take(file: string): Promise<LockFile | { readonly heldBy: LockHolder | undefined }> {
    const holder: LockHolder = {
      pid: process.pid,
      started: startOf(process.pid),
      host: os.hostname(),
      id: randomUUID(),
    };
    const text = JSON.stringify(holder);
    const own = `${file}.${holder.id}`;
    try {
      await writeFile(own, text);
      for (;;) {
        if (await placed(own, file)) return new LockFile(file, text);
        const found = await readHolder(file);
        if (found === undefined) continue;
        if (found.alive) return { heldBy: found.holder };
        await discard(file, found.text, own);
      }
    } catch (error) {
      throw storageError("lock", file, error);
    } finally {
      await rm(own, { force: true });
    }
  }

  /** Whether another process has taken the file, as it may when this one was suspended on another machine. */
  get lost(): boolean {
    try {
      return readFileSync(this.path, "utf8") !== this.text;
    } catch {
      return true; // It is gone, with the folder perhaps.
    }
  }

  async release(): Promise<void> {
    clearInterval(this.beat);
    if (!this.lost) await rm(this.path, { force: true });
  }
}

/** Gives `own` the name `file` too unless there is one: the lock appears with its content or not at all. */
async function placed(own: string, file: string): Promise<boolean> {
  try {
    await link(own, file);
    return true;
  } catch (error) {
    if (codeOf(error) === "EEXIST") return false;
    if (codeOf(error) === "ENOENT") throw error;
  }
  // A file system without hard links.
  try {
    await copyFile(own, file, constants.COPYFILE_EXCL);
    return true;
  } catch (error) {
    if (codeOf(error) === "EEXIST") return false;
    throw error;
  }
}

interface Found {
  readonly text: string;
  readonly holder: LockHolder | undefined;
  readonly alive: boolean;
}

/** Undefined where the file is gone meanwhile. */
export async function readHolder(file: string): Promise<Found | undefined> {
  try {
    const [text, { mtimeMs }] = [await readFile(file, "utf8"), await stat(file)];
    const holder = parseHolder(text);
    const silent = Date.now() - mtimeMs > silentMilliseconds;
    const alive = holder?.host === os.hostname() ? isAlive(holder) : !silent;
    return { text, holder, alive };
  } catch (error) {
    if (codeOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

function parseHolder(text: string): LockHolder | undefined {
  try {
    return holderSchema.safeParse(JSON.parse(text)).data;
  } catch {
    return undefined;
  }
}

function isAlive({ pid, started }: LockHolder): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (codeOf(error) === "ESRCH") return false;
  }
  const now = startOf(pid);
  return started === null || now === null || now === started;
}

/** When a process started: its ticks since the boot, and which boot. Null where the system does not say. */
export function startOf(pid: number): string | null {
  try {
    // The name, the second field, may hold spaces and brackets.
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").replace(/^.*\)/s, "").trim().split(" ");
    const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    // A killed process that nobody has waited for is still listed.
    return fields[0] === "Z" ? "ended" : `${boot} ${fields[19]}`;
  } catch {
    return null;
  }
}

/** Removes a lock whose holder is dead, and puts back one that another process has set meanwhile. */
async function discard(file: string, text: string, own: string): Promise<void> {
  const aside = `${own}.old`;
  try {
    await rename(file, aside);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return;
    throw error;
  }
  if ((await readFile(aside, "utf8")) !== text) await placed(aside, file);
  await rm(aside, { force: true });
}
