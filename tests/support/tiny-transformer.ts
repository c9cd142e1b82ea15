import { cp, mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { writeTokenizer } from "../../src/formats/index.js";
import { characterTokenizer } from "../../src/tokenizers/index.js";
import { Reference } from "./reference.js";

/** A character for each of the 61 ids of the reference models: a space for 0, `!` for 1, and so on. */
const characters = Array.from({ length: 61 }, (_, id) => String.fromCodePoint(32 + id)).join("");
export const tokenizer = characterTokenizer(characters);

/** Writes the folder of a random encoder-decoder of transformers, with a token for every character. */
export async function writeTinyTransformer(
  folder: string,
  name: string,
  generation: Record<string, unknown> = {},
): Promise<void> {
  const reference = new Reference(name);
  await mkdir(folder, { recursive: true });
  for (const file of ["config.json", "model.safetensors"])
    await cp(reference.path(file), path.join(folder, file));
  const { eos_token_id: end } = reference.json("config.json") as { eos_token_id: number };
  await writeFile(
    path.join(folder, "generation_config.json"),
    JSON.stringify({ eos_token_id: end, ...generation }),
  );
  await writeTokenizer(tokenizer, folder);
}
