import { type LoadOptions, loadForInference, loadModel, readConfig } from "../checkpoints/index.js";
import { modelForm } from "../formats/index.js";
import { systemOf } from "../models/index.js";
import type { Runtime } from "../runtime/types.js";
import { Looker } from "./looker.js";

/** Opens a folder or a GGUF of any system to look into it. */
export async function openLooker(
  runtime: Runtime,
  place: string,
  options: LoadOptions = {},
): Promise<Looker> {
  const checkpoint = await opened(runtime, place, options);
  return new Looker(checkpoint, checkpoint.weights);
}

async function opened(runtime: Runtime, place: string, options: LoadOptions) {
  if ((await modelForm(place)) === "gguf") return loadForInference(runtime, place, options);
  const { kind } = systemOf(await readConfig(place), options.systems);
  return kind === "encoder"
    ? loadModel(runtime, place, { ...options, kind })
    : loadForInference(runtime, place, { ...options, kind });
}
