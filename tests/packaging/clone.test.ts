import { readFile } from "node:fs/promises";
import { expect, it } from "vitest";

const read = async (name: string): Promise<unknown> =>
  JSON.parse(await readFile(new URL(`../../${name}`, import.meta.url), "utf8"));
const lock = (await read("package-lock.json")) as {
  packages: Record<string, { version: string; hasInstallScript?: boolean; dev?: boolean }>;
};
const manifest = (await read("package.json")) as {
  devDependencies: Record<string, string>;
  optionalDependencies: Record<string, string>;
};

it("npm ci asks no other host: no package of the lock file has an install script to run (CONTRIBUTING.md)", () => {
  const scripted = Object.entries(lock.packages).filter(([, { hasInstallScript }]) => hasInstallScript);
  expect(scripted.map(([name]) => name)).toEqual([]);
});

it("the libraries of koffi that are loaded are those that its types describe", () => {
  const libraries = Object.entries(manifest.optionalDependencies).filter(([name]) =>
    name.startsWith("@koromix/"),
  );
  expect(libraries).toHaveLength(5);
  for (const [, version] of libraries) expect(version).toBe(manifest.devDependencies["koffi"]);
});
