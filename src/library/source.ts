import { existsSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { LineageError } from "../base/errors.js";
import { pullModel } from "../formats/hub.js";

/** Where pulled models and prepared weights are kept. */
export const cacheFolder = (): string =>
  process.env["LINEAGE_CACHE"] ?? path.join(os.homedir(), ".cache", "lineage");

export interface SourceOptions {
  /** Where models of the hub are kept. Default: LINEAGE_CACHE, else `.cache/lineage` in the home folder. */
  readonly cache?: string;
  /** Branch, tag or commit of a model of the hub. Default `main`. */
  readonly revision?: string;
  /** Takes a model of the hub only from the cache. */
  readonly offline?: boolean;
  readonly signal?: AbortSignal;
}

const hubName = /^[A-Za-z0-9_][A-Za-z0-9._-]*\/[A-Za-z0-9_][A-Za-z0-9._-]*$/;

/**
 * The folder or file of a model: one that is here, or ORG/NAME of the hub, which is brought into the cache first. Throws
 * `storage` where there is neither.
 */
export async function modelPlace(
  source: string,
  { cache = cacheFolder(), ...options }: SourceOptions = {},
): Promise<string> {
  if (existsSync(source)) return source;
  if (!hubName.test(source) || source.endsWith(".gguf"))
    throw new LineageError(
      "storage",
      `there is no ${source}; a model is a folder, a .gguf file, or ORG/NAME on the hub`,
    );
  const { folder } = await pullModel(source, {
    ...options,
    cache,
    hubUrl: process.env["HF_ENDPOINT"],
    accessToken: process.env["HF_TOKEN"],
  });
  return folder;
}
