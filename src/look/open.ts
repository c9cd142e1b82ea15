import { type LoadOptions, kindIn, loadForInference, loadModel } from "../checkpoints/index.js";
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
  const kind = await kindIn(place, options);
  return kind === "encoder"
    ? loadModel(runtime, place, { ...options, kind })
    : loadForInference(runtime, place, { ...options, kind });
}
