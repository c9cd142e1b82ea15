import { existsSync, readdirSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { nearest } from "../base/check.js";
import { LineageError } from "../base/errors.js";
import { type PullOptions, hubAccess, isPulled, pullFolder, pullModel } from "../formats/hub.js";
import { placeOf } from "../formats/place.js";

/** Where pulled models and prepared weights are kept. */
export const cacheFolder = (): string =>
  process.env["LINEAGE_CACHE"] ?? path.join(os.homedir(), ".cache", "lineage");

export interface SourceOptions extends Pick<PullOptions, "offline" | "onProgress" | "signal"> {
  /** Where models of the hub are kept. Default: LINEAGE_CACHE, else `.cache/lineage` in the home folder. */
  readonly cache?: string;
  /** Branch, tag or commit of a model of the hub. Default: what was pulled before, else `main`. */
  readonly revision?: string;
  /** What is to be done with the model that a GGUF file does not allow, after "cannot be": "fine-tuned". */
  readonly foldersOnly?: string | undefined;
}

/**
 * The folder or file of a model: a path, or ORG/NAME of the hub, which is pulled where it is not there yet. Throws
 * `checkpoint` for what is neither, with what would be right.
 */
export async function modelPlace(source: string, options: SourceOptions = {}): Promise<string> {
  const here = await placeHere(source, options);
  if (here !== undefined) return here;
  const { cache = cacheFolder(), ...more } = options;
  return (await pullModel(source, { ...more, ...hubAccess(), cache })).folder;
}

/** A model's place as far as it is on this machine; undefined for a hub's model that has to be pulled. Throws as `modelPlace`. */
export async function placeHere(
  source: string,
  { cache = cacheFolder(), revision, foldersOnly }: SourceOptions = {},
): Promise<string | undefined> {
  switch (await placeOf(source)) {
    case "folder":
      checkFolder(source, foldersOnly === undefined);
      return source;
    case "gguf":
      if (foldersOnly === undefined) return source;
      throw new LineageError(
        "checkpoint",
        `${source} is a GGUF file, which cannot be ${foldersOnly}; give a folder with config.json and model.safetensors, such as lineage convert makes of it`,
      );
    case "safetensors":
      throw new LineageError(
        "checkpoint",
        `${source} holds only weights; give its folder, which must hold config.json too`,
      );
    case "other":
      throw new LineageError(
        "checkpoint",
        `${source} is not a model: it is neither a folder nor a GGUF file`,
      );
    case "name":
      // What lies in a folder that is there is a path with a mistake in it.
      if (existsSync(path.dirname(source))) throw missing(source);
      return revision === undefined && isPulled(source, cache) ? pullFolder(source, cache) : undefined;
    case "missing":
      throw missing(source);
  }
}

function missing(place: string): LineageError {
  const parent = path.dirname(place);
  const meant = existsSync(parent) ? nearest(path.basename(place), readdirSync(parent)) : undefined;
  const hint =
    meant === undefined
      ? "a model is a folder (what train wrote, or one of Hugging Face), a .gguf file, or ORG/NAME on the hub"
      : `did you mean ${path.join(parent, meant)}?`;
  return new LineageError("checkpoint", `there is no ${place}; ${hint}`);
}

function checkFolder(place: string, ggufAllowed: boolean): void {
  if (existsSync(path.join(place, "config.json"))) return;
  const inside = readdirSync(place);
  const meant =
    (ggufAllowed ? inside.find((name) => name.toLowerCase().endsWith(".gguf")) : undefined) ??
    inside.find((name) => existsSync(path.join(place, name, "config.json")));
  throw new LineageError(
    "checkpoint",
    `${place} is not a model: it has no config.json${meant === undefined ? "" : `; did you mean ${path.join(place, meant)}?`}`,
  );
}
