import { existsSync } from "node:fs";
import { readdir, rm, stat } from "node:fs/promises";
import path from "node:path";
import { Command } from "commander";
import { nearest } from "../base/check.js";
import { LineageError } from "../base/errors.js";
import { readJson } from "../base/files.js";
import { formatBytes } from "../base/memory.js";
import { manifestName, pullFolder } from "../formats/hub.js";
import { cacheOption, examples } from "./options.js";
import { print } from "./terminal.js";

interface PulledModel {
  readonly name: string;
  readonly folder: string;
  readonly bytes: number;
  /** Whether every file was pulled. */
  readonly whole: boolean;
}

/** The models that were pulled into a cache, by name. */
async function pulledModels(cache: string): Promise<PulledModel[]> {
  if (!existsSync(cache)) return [];
  const models: PulledModel[] = [];
  for (const entry of await readdir(cache, { withFileTypes: true })) {
    const folder = path.join(cache, entry.name);
    if (!entry.isDirectory()) continue;
    const files = (await readdir(folder, { recursive: true, withFileTypes: true })).filter((file) =>
      file.isFile(),
    );
    const whole = files.some(({ name }) => name === manifestName);
    // Prepared weights lie in the cache too.
    if (!whole && !entry.name.includes("--")) continue;
    const sizes = await Promise.all(files.map((file) => stat(path.join(file.parentPath, file.name))));
    const manifest = whole ? await readJson(path.join(folder, manifestName)) : undefined;
    const named = (manifest as { readonly name?: unknown } | undefined)?.name;
    models.push({
      name: typeof named === "string" ? named : entry.name.replace("--", "/"),
      folder,
      bytes: sizes.reduce((sum, { size }) => sum + size, 0),
      whole,
    });
  }
  return models.sort((a, b) => (a.name < b.name ? -1 : 1));
}

interface CacheCommand {
  readonly cache: string;
  readonly json?: boolean;
}

async function listModels({ cache, json }: CacheCommand): Promise<void> {
  const models = await pulledModels(cache);
  if (json) {
    for (const model of models) print(`${JSON.stringify(model)}\n`);
    return;
  }
  if (models.length === 0)
    print(`no model has been pulled into ${cache} yet; lineage pull ORG/NAME pulls one\n`);
  const width = Math.max(...models.map(({ name }) => name.length));
  for (const { name, bytes, whole, folder } of models)
    print(
      `${name.padEnd(width)}  ${formatBytes(bytes).padStart(8)}  ${folder}${whole ? "" : "  (incomplete: pull it again)"}\n`,
    );
}

async function removeModels(names: readonly string[], { cache, json }: CacheCommand): Promise<void> {
  const known = await pulledModels(cache);
  // All are looked at before one is removed.
  const found = names.map((name) => {
    const folder = pullFolder(name, cache);
    const model = known.find((one) => one.folder === folder);
    if (model) return model;
    const meant = nearest(
      name,
      known.map((one) => one.name),
    );
    throw new LineageError(
      "argument",
      `${name} is not in ${cache}${meant === undefined ? "; lineage list shows the models that are" : `; did you mean ${meant}?`}`,
    );
  });
  for (const { name, folder, bytes } of found) {
    await rm(folder, { recursive: true });
    print(
      json ? `${JSON.stringify({ name, folder, bytes })}\n` : `removed ${name} (${formatBytes(bytes)})\n`,
    );
  }
}

export const listCommand = new Command("list")
  .description("list the models pulled from the hub")
  .addOption(cacheOption())
  .option("--json", "one JSON object a line")
  .addHelpText("after", examples(["lineage list", "names, sizes and folders"]))
  .action(listModels);

export const rmCommand = new Command("rm")
  .description("delete models pulled from the hub")
  .argument("<names...>", "ORG/NAME of each model")
  .addOption(cacheOption())
  .option("--json", "one JSON object a line")
  .addHelpText("after", examples(["lineage rm HuggingFaceTB/SmolLM2-135M-Instruct", "free its disk space"]))
  .action(removeModels);
