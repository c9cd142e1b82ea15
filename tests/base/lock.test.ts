import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, readdir, rm, utimes, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { LockFile } from "../../src/base/lock.js";

let folder: string;
let file: string;
beforeEach(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lock-"));
  file = path.join(folder, ".lock");
});
afterEach(() => rm(folder, { recursive: true, force: true }));

/** A lock as a process writes it that took it. */
async function written(change: Readonly<Record<string, unknown>>): Promise<void> {
  const lock = await LockFile.take(file);
  if (!(lock instanceof LockFile)) throw new Error("held");
  const text = await readFile(file, "utf8");
  await lock.release();
  await writeFile(file, JSON.stringify({ ...(JSON.parse(text) as object), ...change }));
}

async function takes(): Promise<boolean> {
  const lock = await LockFile.take(file);
  if (!(lock instanceof LockFile)) return false;
  await lock.release();
  return true;
}

/** A process of its own that takes the lock, says so, and stays. */
async function holder(): Promise<ChildProcess> {
  const source = new URL("../../dist/src/base/lock.js", import.meta.url).href;
  const script = `import { LockFile } from ${JSON.stringify(source)};
    const lock = await LockFile.take(${JSON.stringify(file)});
    console.log(lock instanceof LockFile ? "taken" : "held");
    setInterval(() => undefined, 1000);`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [said] = (await once(child.stdout!, "data")) as [Buffer];
  expect(String(said).trim()).toBe("taken");
  return child;
}

describe("a lock", () => {
  it("binds while its process lives, and no longer once that was killed", async () => {
    const child = await holder();
    expect(await LockFile.take(file)).toMatchObject({ heldBy: { pid: child.pid, host: os.hostname() } });
    child.kill("SIGKILL");
    await once(child, "exit");
    expect(await takes()).toBe(true);
    expect(await readdir(folder)).toEqual([]);
  });

  it("does not bind by a process number that the system has given again", async () => {
    await written({ started: "another boot 1" });
    expect(await takes()).toBe(process.platform === "linux");
  });

  it("of another machine binds until it has been silent for a minute", async () => {
    await written({ host: "elsewhere", pid: 1 });
    expect(await LockFile.take(file)).toMatchObject({ heldBy: { pid: 1, host: "elsewhere" } });
    const past = new Date(Date.now() - 61_000);
    await utimes(file, past, past);
    expect(await takes()).toBe(true);
  });

  it("that cannot be read binds for a minute too", async () => {
    await writeFile(file, "half of");
    expect(await LockFile.take(file)).toEqual({ heldBy: undefined });
    const past = new Date(Date.now() - 61_000);
    await utimes(file, past, past);
    expect(await takes()).toBe(true);
  });

  it("of a dead process goes to one of those who want it", async () => {
    await written({ pid: 2 ** 22 + 1 });
    const locks = await Promise.all(Array.from({ length: 20 }, () => LockFile.take(file)));
    const taken = locks.filter((lock) => lock instanceof LockFile && !lock.lost);
    expect(taken).toHaveLength(1);
    for (const lock of locks) if (lock instanceof LockFile) await lock.release();
    expect(await readdir(folder)).toEqual([]);
  });

  it("knows when another has taken it", async () => {
    const lock = await LockFile.take(file);
    if (!(lock instanceof LockFile)) throw new Error("held");
    expect(lock.lost).toBe(false);
    await written({}).catch(() => writeFile(file, "another's"));
    expect(lock.lost).toBe(true);
    await lock.release();
    expect(await readFile(file, "utf8")).toBe("another's");
  });

  it("that cannot be written is an error", async () => {
    await expect(LockFile.take(path.join(folder, "none", ".lock"))).rejects.toMatchObject({
      code: "storage",
    });
  });
});
