// Makes dist/ what `npm pack` puts into the package: outputs whose source is gone are removed, and the engine's shared
// libraries are put beside the code. They come from onnxruntime-node, which is no dependency: its install script asks
// another host for CUDA libraries and fails behind a firewall, and its package holds much that is not used here.
import { existsSync } from "node:fs";
import { copyFile, link, mkdir, readFile, readdir, rename, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));
const source = path.dirname(createRequire(import.meta.url).resolve("onnxruntime-node/package.json"));
const target = path.join(root, "dist/engine");

/** Of each platform the engine itself, and what its WebGPU device compiles shaders with on Windows. */
const wanted =
  /^(libonnxruntime\.so\.1|libonnxruntime\.1\.dylib|onnxruntime\.dll|dxcompiler\.dll|dxil\.dll)$/;

for (const file of await filesUnder(path.join(root, "dist/src"))) {
  const name = file.slice(0, -path.extname(file).length).replace(/\.d$/, "");
  if (!file.endsWith(".map") && existsSync(`${name.replace(`${path.sep}dist${path.sep}`, path.sep)}.ts`))
    continue;
  await rm(file);
}

for (const file of await filesUnder(path.join(source, "bin")))
  if (wanted.test(path.basename(file))) await place(file, path.join(target, path.relative(source, file)));

const { name, version, license, repository } = JSON.parse(
  await readFile(path.join(source, "package.json"), "utf8"),
) as Record<string, unknown>;
await write("package.json", `${JSON.stringify({ name, version, license, repository }, null, 2)}\n`);
await write("LICENSE", await readFile(path.join(root, "scripts/onnxruntime-license.txt"), "utf8"));

async function filesUnder(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map((entry) => path.join(entry.parentPath, entry.name));
}

/** A link where the file system has them: two packages may be made at once, so nothing is ever half there. */
async function place(from: string, to: string): Promise<void> {
  await mkdir(path.dirname(to), { recursive: true });
  const temporary = `${to}.${process.pid}.tmp`;
  await link(from, temporary).catch(() => copyFile(from, temporary));
  await rename(temporary, to);
  await rm(temporary, { force: true });
}

async function write(file: string, text: string): Promise<void> {
  const temporary = path.join(target, `${file}.${process.pid}.tmp`);
  await writeFile(temporary, text);
  await rename(temporary, path.join(target, file));
}
