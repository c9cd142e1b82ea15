import { createRequire } from "node:module";
import { LineageError, messageOf } from "./errors.js";

/**
 * Resolves packages from where this code lies. A bundle in the old form of modules has no `import.meta.url`, but a file
 * name of its own.
 */
export const requireHere = createRequire(typeof __filename === "string" ? __filename : import.meta.url);

/**
 * Loads a package that only some need. Throws `unsupported`, with what to install, where it is missing.
 * @param purpose what needs it, as the subject of a sentence: "reading Parquet"
 */
export async function optionalPackage<T>(name: string, purpose: string, load: () => Promise<T>): Promise<T> {
  try {
    return await load();
  } catch (error) {
    throw missing(name, purpose, error);
  }
}

/** The main file of a package that only some need; throws as `optionalPackage` does. */
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
