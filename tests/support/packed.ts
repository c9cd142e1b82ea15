import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, readFile, readdir, symlink, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));

/**
 * A project of its own with the packed library installed, as a user has it: the tarball that `npm pack` makes, unpacked
 * into `node_modules`, and beside it what it depends on. Its path has a space and other letters. The caller removes it.
 */
export async function installPacked(): Promise<string> {
  const folder = await mkdtemp(path.join(os.tmpdir(), "projet à essayer "));
  // npm writes a lint of its settings to stderr; only the tarball's name matters.
  const [packed] = execFileSync("npm", ["pack", "--silent", "--pack-destination", folder], {
    cwd: root,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
  })
    .trim()
    .split("\n")
    .slice(-1);
  const modules = path.join(folder, "node_modules");
  await mkdir(path.join(modules, "lineage"), { recursive: true });
  execFileSync("tar", [
    "-xzf",
    path.join(folder, packed!),
    "-C",
    path.join(modules, "lineage"),
    "--strip",
    "1",
  ]);
  const manifest = JSON.parse(await readFile(path.join(root, "package.json"), "utf8")) as {
    dependencies: Record<string, string>;
  };
  for (const name of Object.keys(manifest.dependencies)) {
    await mkdir(path.dirname(path.join(modules, name)), { recursive: true });
    await symlink(path.join(root, "node_modules", name), path.join(modules, name));
  }
  await writeFile(path.join(folder, "package.json"), '{ "name": "user", "private": true }\n');
  return folder;
}

/** All files under a folder, by path from it. */
export async function filesUnder(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(folder, path.join(entry.parentPath, entry.name)));
}
