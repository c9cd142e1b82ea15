import { mkdir } from "node:fs/promises";
import path from "node:path";
import { LineageError } from "../base/errors.js";
import { writeJson } from "../base/files.js";
import { type TensorToSave, writeSafetensors, writeTokenizer } from "../formats/index.js";
import type { Weights } from "../nn/index.js";
import type { PretrainedNetwork } from "../objectives/index.js";
import { replaceModel } from "./folder.js";
import type { Tokenizer } from "../tokenizers/index.js";

/** Writes the networks that pretraining leaves: what `loadModel` and Hugging Face transformers read. */
export async function savePretrained(
  folder: string,
  networks: readonly PretrainedNetwork[],
  tokenizer: Tokenizer,
  weights: Weights,
): Promise<void> {
  await replaceModel(folder, async (staging) => {
    for (const { folder: place, config, parameters } of networks) {
      const target = path.join(staging, place);
      await mkdir(target, { recursive: true });
      await writeJson(path.join(target, "config.json"), config);
      await writeTokenizer(tokenizer, target);
      const tensors = [...parameters].map(([name, parts]) => sumOf(name, parts, weights));
      await writeSafetensors(path.join(target, "model.safetensors"), tensors);
    }
  });
}

/** A tensor under its name in the file: the sum of one parameter or more of one shape. */
function sumOf(name: string, parts: readonly string[], weights: Weights): TensorToSave {
  const [first, ...others] = parts.map((part) => weights.get(part));
  if (!first) throw new LineageError("internal", `nothing is written as ${name}`);
  let values = first.contents() as Float32Array;
  for (const other of others) {
    const added = other.contents();
    values = values.map((value, index) => value + Number(added[index]!));
  }
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return { name, dtype: "float32", shape: first.shape, bytes };
}
