import { existsSync, readdirSync } from "node:fs";
import path from "node:path";
import { nearest } from "../base/check.js";
import { LineageError } from "../base/errors.js";
import { formatBytes } from "../base/memory.js";
import { type PullOptions, pullFolder, pullModel } from "../formats/hub.js";
import { placeOf } from "../formats/place.js";
import { cacheFolder } from "../library/source.js";
import { interruptible } from "./progress.js";
import { Reporter } from "./terminal.js";

/** Where the hub is and who asks, by the environment. Throws `argument` for an HF_TOKEN that cannot be one, without showing it. */
export function hubAccess(): Pick<PullOptions, "hubUrl" | "accessToken"> {
  const accessToken = process.env["HF_TOKEN"]?.trim();
  if (accessToken !== undefined && !/^[\x21-\x7e]*$/.test(accessToken))
    throw new LineageError(
      "argument",
      "HF_TOKEN holds a space, a line break or another character that no token has; set it again",
    );
  return { hubUrl: process.env["HF_ENDPOINT"], accessToken: accessToken === "" ? undefined : accessToken };
}

/**
 * The file or folder of a model that a person named: a path, or a hub's ORG/NAME, which is pulled where it is not there yet.
 * Throws `checkpoint` for what is neither, with what would be.
 * @param foldersOnly what is to be done with it that a GGUF file does not allow, after "cannot be": "fine-tuned"
 */
export async function modelFor(place: string, foldersOnly?: string): Promise<string> {
  switch (await placeOf(place)) {
    case "folder":
      checkFolder(place, foldersOnly === undefined);
      return place;
    case "gguf":
      if (foldersOnly === undefined) return place;
      throw new LineageError(
        "checkpoint",
        `${place} is a GGUF file, which cannot be ${foldersOnly}; give a folder with config.json and model.safetensors`,
      );
    case "safetensors":
      throw new LineageError(
        "checkpoint",
        `${place} holds only weights; give its folder, which must hold config.json too`,
      );
    case "other":
      throw new LineageError("checkpoint", `${place} is not a model: it is neither a folder nor a GGUF file`);
    case "name":
      // What lies in a folder that is there is a path with a mistake in it.
      if (!existsSync(path.dirname(place))) return pulled(place);
      throw missing(place);
    case "missing":
      throw missing(place);
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

/** The folder of a hub's model: as it was pulled before, or pulled now with progress on standard error. */
async function pulled(name: string): Promise<string> {
  const cache = cacheFolder();
  const folder = pullFolder(name, cache);
  // It is written last: where it is, the model is whole.
  if (existsSync(path.join(folder, ".lineage-pull.json"))) return folder;
  const access = hubAccess();
  const report = await Reporter.create(false);
  report.say(`${name} is not on this machine: pulling it from the hub`);
  try {
    return await interruptible(async (signal) => {
      const onProgress = (file: string, done: number, total: number): void => {
        report.progress(`${file}  ${formatBytes(done)} of ${formatBytes(total)}`, {}, done / total);
      };
      return (await pullModel(name, { cache, ...access, signal, onProgress })).folder;
    });
  } finally {
    report.done();
  }
}
