import { createHash } from "node:crypto";
import { readdir, rm, stat } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { readHolder, startOf } from "./lock.js";

const short = (text: string, length: number): string =>
  createHash("sha256").update(text).digest("hex").slice(0, length);

/** Process numbers mean nothing on another machine, and are given again to other processes on this one. */
const host = short(os.hostname(), 6);
const tokenOf = (pid: number): string => short(startOf(pid) ?? "", 8);
const own = tokenOf(process.pid);

const pattern = /^\.lineage-([0-9a-f]{6})-(\d+)-([0-9a-f]{8})-\d+\.(?:tmp|new)$/;
/** What taking a lock writes for a moment. */
const lockRemains = /^\.lineage-[a-z]+\.lock\.[0-9a-f-]{36}(\.old)?$/;
let written = 0;

/** A name, unlike any other, for a file (`tmp`) or a folder (`new`) that is not whole yet; hidden where it lies. */
export const temporaryName = (kind: "tmp" | "new"): string =>
  `.lineage-${host}-${process.pid}-${own}-${++written}.${kind}`;

/** Milliseconds after which what another machine left unfinished counts as left behind. */
const abandoned = 86_400_000;

/** Removes unfinished files and folders from `folder` whose process has ended. */
export async function removeRemains(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (lockRemains.test(name) && (await readHolder(path.join(folder, name)))?.alive === false)
      await rm(path.join(folder, name), { force: true });
    const [, madeOn, pid, token] = pattern.exec(name) ?? [];
    if (madeOn === undefined) continue;
    const place = path.join(folder, name);
    if (madeOn === host ? isRunning(Number(pid), token!) : await isRecent(place)) continue;
    await rm(place, { recursive: true, force: true });
  }
}

function isRunning(pid: number, token: string): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return false;
  }
  return tokenOf(pid) === token;
}

const isRecent = (place: string): Promise<boolean> =>
  stat(place).then(
    ({ mtimeMs }) => mtimeMs > Date.now() - abandoned,
    () => false,
  );
