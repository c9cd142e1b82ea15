import path from "node:path";
import { LineageError, messageOf } from "./errors.js";

/**
 * The file that this code runs from, where a bundler has put it into a module of the old kind: such a bundle has no
 * `import.meta.url`, or that of the source. (Evaluated code sees a `__filename` too, which names no file.)
 */
export const bundleFile =
  typeof __filename === "string" && path.isAbsolute(__filename) ? __filename : undefined;

/**
 * Resolves packages from where this code lies. Bundlers put something else in the place of an imported `createRequire`, so
 * it is not imported.
 */
export const requireHere = process
  .getBuiltinModule("node:module")
  .createRequire(bundleFile ?? import.meta.url);

/**
 * The main file of a package that only some need. Throws `unsupported`, with what to install, where it is missing.
 * @param purpose what needs it, as the subject of a sentence: "reading Parquet"
 */
export function resolvePackage(name: string, purpose: string): string {
  try {
    return requireHere.resolve(name);
  } catch (error) {
    throw missing(name, purpose, error);
  }
}

function missing(name: string, purpose: string, error: unknown): unknown {
  const { code } = error as NodeJS.ErrnoException;
  if (code !== "ERR_MODULE_NOT_FOUND" && code !== "MODULE_NOT_FOUND") return error;
  return new LineageError(
    "unsupported",
    `${purpose} needs a package that is not installed: npm install ${name} (${messageOf(error).split("\n")[0]})`,
    { cause: error },
  );
}
