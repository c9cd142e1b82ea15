import { spawnSync } from "node:child_process";
import { mkdtemp, readdir, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** The environment without what npm tells the scripts that it runs, such as these tests: a user's npm does not have it. */
const environment = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !name.toLowerCase().startsWith("npm_")),
);

/** Runs npm; gives what it says besides its result. Throws where it fails. */
export function npm(folder: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync("npm", args, {
    cwd: folder,
    encoding: "utf8",
    env: environment,
  });
  if (status !== 0) throw new Error(`npm ${args.join(" ")} ended with ${status}:\n${stdout}${stderr}`);
  return stderr;
}

/**
 * A project of its own with the packed library installed, as a user has it: `npm pack`, and `npm install` of the tarball
 * without a setting. Its path has a space and other letters. The caller removes it.
 */
export async function installPacked(): Promise<{ folder: string; said: string }> {
  const folder = await mkdtemp(path.join(os.tmpdir(), "projet à essayer "));
  npm(root, "pack", "--silent", "--pack-destination", folder);
  await writeFile(path.join(folder, "package.json"), '{ "name": "user", "private": true }\n');
  const tarball = (await readdir(folder)).find((name) => name.endsWith(".tgz"))!;
  return { folder, said: npm(folder, "install", `./${tarball}`) };
}

/** All files under a folder, by path from it. */
export async function filesUnder(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(folder, path.join(entry.parentPath, entry.name)));
}
